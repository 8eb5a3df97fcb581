//! Small blocks of the heap that a CPU has freed a moment ago.
//!
//! The buddy heap merges what comes back, and looks for the neighbour through all free blocks of the same size: the more
//! is free, the longer that takes. Most blocks are wanted again soon in the same size, so some are kept as they are.

use core::ptr::NonNull;

/// Sizes that are kept: powers of two from 8 to 4096 bytes.
const SMALLEST: u32 = 3;
const SIZES: usize = 10;
/// Bytes kept of each size at most.
const LIMIT: usize = 16 << 10;

/// What a kept block holds: where the next one is.
struct Link {
    next: Option<NonNull<Link>>,
}

/// Stacks of unused blocks, one for each size, linked through the blocks; 160 KiB at most.
pub struct HeapCache {
    stacks: [Option<NonNull<Link>>; SIZES],
    lens: [u32; SIZES],
}

// SAFETY: the blocks belong to this value alone; no CPU has anything of its own about them.
unsafe impl Send for HeapCache {}

impl HeapCache {
    /// None.
    pub const fn new() -> Self {
        Self { stacks: [None; SIZES], lens: [0; SIZES] }
    }

    /// Bytes of all blocks kept.
    pub fn bytes(&self) -> usize {
        self.lens.iter().enumerate().map(|(index, &len)| (len as usize) << (index as u32 + SMALLEST)).sum()
    }

    /// A block of `size` bytes (a power of two), aligned to its size.
    pub fn pop(&mut self, size: usize) -> Option<NonNull<u8>> {
        let index = index(size)?;
        let block = self.stacks[index]?;
        // SAFETY: `push` wrote the link, and the block has been this value's alone since.
        self.stacks[index] = unsafe { block.read() }.next;
        self.lens[index] -= 1;
        Some(block.cast())
    }

    /// Any block, with its size, as long as there is one.
    pub fn pop_any(&mut self) -> Option<(NonNull<u8>, usize)> {
        let size = 1 << (self.stacks.iter().position(Option::is_some)? as u32 + SMALLEST);
        Some((self.pop(size)?, size))
    }

    /// Keeps a block of `size` bytes; `false` when it is not of a size that is kept, or there are enough.
    ///
    /// # Safety
    /// The block has `size` bytes (a power of two, 8 or more), is aligned to its size, writable, and belongs to the
    /// caller, who gives it away if this returns `true`.
    pub unsafe fn push(&mut self, block: NonNull<u8>, size: usize) -> bool {
        let Some(index) = index(size) else { return false };
        if self.lens[index] as usize >= LIMIT / size {
            return false;
        }
        let link = block.cast::<Link>();
        // SAFETY: by the caller's word the block is ours, writable, and large enough and aligned for a pointer.
        unsafe { link.write(Link { next: self.stacks[index] }) };
        self.stacks[index] = Some(link);
        self.lens[index] += 1;
        true
    }
}

fn index(size: usize) -> Option<usize> {
    let index = size.trailing_zeros().checked_sub(SMALLEST)? as usize;
    (index < SIZES).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[repr(C, align(4096))]
    struct Memory([u8; 4 * LIMIT]);

    fn blocks(memory: &mut Memory, size: usize) -> Vec<NonNull<u8>> {
        memory.0.chunks_mut(size).map(|block| NonNull::from(block).cast()).collect()
    }

    #[test]
    fn blocks_come_out_in_reverse_and_only_in_their_size() {
        let mut memory = std::boxed::Box::new(Memory([0; 4 * LIMIT]));
        let blocks = blocks(&mut memory, 64);
        let mut cache = HeapCache::new();
        for block in &blocks[..3] {
            // SAFETY: an aligned block of 64 bytes that nobody else uses.
            assert!(unsafe { cache.push(*block, 64) });
        }
        assert_eq!((cache.bytes(), cache.pop(32), cache.pop(128)), (192, None, None));
        let out: Vec<_> = core::iter::from_fn(|| cache.pop(64)).collect();
        assert_eq!(out, [blocks[2], blocks[1], blocks[0]]);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn there_is_a_limit_for_each_size() {
        let mut memory = std::boxed::Box::new(Memory([0; 4 * LIMIT]));
        let mut cache = HeapCache::new();
        for size in [8, 256, 4096] {
            let blocks = blocks(&mut memory, size);
            // SAFETY: aligned blocks that nobody else uses: those of another size were taken out again.
            let kept = blocks.iter().filter(|block| unsafe { cache.push(**block, size) }).count();
            assert_eq!(kept, LIMIT / size, "{size}");
            assert_eq!(
                (cache.pop_any(), cache.bytes()),
                (Some((blocks[LIMIT / size - 1], size)), LIMIT - size)
            );
            while cache.pop(size).is_some() {}
            assert_eq!(cache.pop_any(), None);
        }
    }

    #[test]
    fn other_sizes_are_not_kept() {
        let mut memory = std::boxed::Box::new(Memory([0; 4 * LIMIT]));
        let mut cache = HeapCache::new();
        for size in [1, 4, 8192] {
            let block = NonNull::from(&mut memory.0).cast();
            // SAFETY: nobody else uses the memory.
            assert!(!unsafe { cache.push(block, size) }, "{size}");
            assert_eq!(cache.pop(size), None);
        }
    }
}
