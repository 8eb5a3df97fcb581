//! What the books of an allocator can cost on the heap.
//!
//! The standard library's B-trees keep 5 to 11 entries in a node. An insertion splits at most one node a level, and
//! may add a root; nothing else allocates.

const NODE_ENTRIES: usize = 11;
const CHILDREN_AT_LEAST: u32 = 6;
/// Parent pointer, index and length of a node.
const NODE_HEADER: usize = 16;

/// Bytes of the larger kind of node, when the heap rounds it up to a power of two.
pub(crate) const fn node(entry_bytes: usize) -> usize {
    let inner = NODE_HEADER + NODE_ENTRIES * entry_bytes + (NODE_ENTRIES + 1) * size_of::<usize>();
    inner.next_power_of_two()
}

/// Bytes that one insertion into a tree of `entries` entries of `entry_bytes` can allocate at most, when the heap
/// rounds every node up to a power of two.
pub(crate) const fn insertion(entries: u64, entry_bytes: usize) -> usize {
    let leaf = NODE_HEADER + NODE_ENTRIES * entry_bytes;
    let levels = match entries.checked_ilog(CHILDREN_AT_LEAST as u64) {
        Some(levels) => levels as usize + 1,
        None => 1,
    };
    leaf.next_power_of_two() + levels * node(entry_bytes)
}
