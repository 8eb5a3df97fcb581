//! A per-CPU cache of small heap blocks.
//!
//! On a free, the buddy heap searches the free list of the block's size for the buddy, in time proportional
//! to the list's length. Most blocks are soon allocated again in the same size, so a few are cached unmerged.

use core::ptr::NonNull;

/// Cached sizes: powers of two from 8 to 4096 bytes.
const SMALLEST: u32 = 3;
const SIZES: usize = 10;
/// The maximum number of cached bytes per size.
const LIMIT: usize = 16 << 10;

/// The contents of a cached block: the link to the next one.
struct Link {
    next: Option<NonNull<Link>>,
}

/// A LIFO free list for each size, linked through the blocks; 160 KiB at most. Unlike a magazine, which is an
/// array of chunks, it needs no memory of its own.
pub struct HeapCache {
    stacks: [Option<NonNull<Link>>; SIZES],
    lens: [u32; SIZES],
}

// SAFETY: the cache owns the blocks, which are not tied to a CPU.
unsafe impl Send for HeapCache {}

impl HeapCache {
    pub const fn new() -> Self {
        Self { stacks: [None; SIZES], lens: [0; SIZES] }
    }

    /// The bytes of all cached blocks.
    pub fn bytes(&self) -> usize {
        self.lens.iter().enumerate().map(|(index, &len)| (len as usize) << (index as u32 + SMALLEST)).sum()
    }

    /// Removes a block of `size` bytes (a power of two), which is aligned to its size.
    pub fn pop(&mut self, size: usize) -> Option<NonNull<u8>> {
        let index = index(size)?;
        let block = self.stacks[index]?;
        // SAFETY: `push` wrote the link, and the cache has owned the block since.
        self.stacks[index] = unsafe { block.read() }.next;
        self.lens[index] -= 1;
        Some(block.cast())
    }

    /// Removes any block. Returns it and its size.
    pub fn pop_any(&mut self) -> Option<(NonNull<u8>, usize)> {
        let size = 1 << (self.stacks.iter().position(Option::is_some)? as u32 + SMALLEST);
        Some((self.pop(size)?, size))
    }

    /// Caches a block of `size` bytes. Returns `false`, without taking it, if this size is not cached or its
    /// list is full.
    ///
    /// # Safety
    /// The block has `size` bytes (a power of two, 8 or more), is aligned to its size and writable. The
    /// caller owns it, and hands it over if this returns `true`.
    pub unsafe fn push(&mut self, block: NonNull<u8>, size: usize) -> bool {
        let Some(index) = index(size) else { return false };
        if self.lens[index] as usize >= LIMIT / size {
            return false;
        }
        let link = block.cast::<Link>();
        // SAFETY: the caller promises that the block is owned, writable, and large enough and aligned for a
        // pointer.
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
    struct BlockMemory([u8; 4 * LIMIT]);

    fn blocks(memory: &mut BlockMemory, size: usize) -> Vec<NonNull<u8>> {
        memory.0.chunks_mut(size).map(|block| NonNull::from(block).cast()).collect()
    }

    #[test]
    fn blocks_are_reused_in_lifo_order_in_their_own_size() {
        let mut memory = std::boxed::Box::new(BlockMemory([0; 4 * LIMIT]));
        let blocks = blocks(&mut memory, 64);
        let mut cache = HeapCache::new();
        for block in &blocks[..3] {
            // SAFETY: an aligned block of 64 bytes, not used otherwise.
            assert!(unsafe { cache.push(*block, 64) });
        }
        assert_eq!((cache.bytes(), cache.pop(32), cache.pop(128)), (192, None, None));
        let out: Vec<_> = core::iter::from_fn(|| cache.pop(64)).collect();
        assert_eq!(out, [blocks[2], blocks[1], blocks[0]]);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn each_size_has_a_limit() {
        let mut memory = std::boxed::Box::new(BlockMemory([0; 4 * LIMIT]));
        let mut cache = HeapCache::new();
        for size in [8, 256, 4096] {
            let blocks = blocks(&mut memory, size);
            // SAFETY: aligned blocks, not used otherwise: blocks of another size were removed before.
            let cached = blocks.iter().filter(|block| unsafe { cache.push(**block, size) }).count();
            assert_eq!(cached, LIMIT / size, "{size}");
            assert_eq!(
                (cache.pop_any(), cache.bytes()),
                (Some((blocks[LIMIT / size - 1], size)), LIMIT - size)
            );
            while cache.pop(size).is_some() {}
            assert_eq!(cache.pop_any(), None);
        }
    }

    #[test]
    fn other_sizes_are_not_cached() {
        let mut memory = std::boxed::Box::new(BlockMemory([0; 4 * LIMIT]));
        let mut cache = HeapCache::new();
        for size in [1, 4, 8192] {
            let block = NonNull::from(&mut memory.0).cast();
            // SAFETY: the memory is not used otherwise.
            assert!(!unsafe { cache.push(block, size) }, "{size}");
            assert_eq!(cache.pop(size), None);
        }
    }
}
