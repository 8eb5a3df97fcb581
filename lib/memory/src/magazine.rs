//! The per-CPU cache of free chunks.

use crate::owned::OwnedChunk;
use crate::source::Reach;
use addr::{Chunk, Order};

/// The cached orders, up to 2 MiB. Larger chunks are rarely merged, and caching them would fragment memory.
const ORDERS: usize = Order::BLOCK_2M.log2() as usize + 1;
/// The capacity of each order.
const DEPTH: [u8; ORDERS] = [32, 8, 8, 8, 8, 2, 2, 2, 2, 2];
/// The start of each order's stack, followed by the end of the last one.
const START: [usize; ORDERS + 1] = {
    let mut start = [0; ORDERS + 1];
    let mut order = 0;
    while order < ORDERS {
        start[order + 1] = start[order] + DEPTH[order] as usize;
        order += 1;
    }
    start
};

/// A magazine: one small LIFO stack of free chunks per order, in front of the shared zones.
///
/// Freeing a chunk and allocating another would make the zones merge it up to the largest chunk and split
/// that again; with a magazine it costs a few instructions and no shared lock. Cached chunks are free memory:
/// an allocation that finds no memory in the zones empties the magazines before it fails.
pub struct Magazine {
    chunks: [Chunk; START[ORDERS]],
    lens: [u8; ORDERS],
    /// The number of frames in all chunks.
    frames: u64,
}

impl Magazine {
    /// The capacity in chunks, all orders together.
    pub const CAPACITY: usize = START[ORDERS];
    /// The capacity in frames: 8.8 MiB.
    pub const MAX_FRAMES: u64 = {
        let mut most = 0;
        let mut order = 0;
        while order < ORDERS {
            most += (DEPTH[order] as u64) << order;
            order += 1;
        }
        most
    };
    /// The number of single frames to allocate when the magazine is empty, and to free when it is full.
    pub const BATCH: u32 = DEPTH[0] as u32 / 2;

    /// An empty magazine.
    pub const fn new() -> Self {
        Self { chunks: [Chunk::page(addr::Pfn::new(0)); START[ORDERS]], lens: [0; ORDERS], frames: 0 }
    }

    /// The number of frames in it.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Caches the chunk; returns it if the stack of its order is full.
    #[inline]
    pub fn push(&mut self, chunk: OwnedChunk) -> Result<(), OwnedChunk> {
        let order = usize::from(chunk.chunk().order().log2());
        let Some(len) = self.lens.get_mut(order) else { return Err(chunk) };
        if *len == DEPTH[order] {
            return Err(chunk);
        }
        self.frames += chunk.chunk().frames();
        self.chunks[START[order] + usize::from(*len)] = chunk.release();
        *len += 1;
        Ok(())
    }

    /// Takes the last chunk of this order, if its addresses are within `reach`.
    #[inline]
    pub fn pop(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
        let order = usize::from(order.log2());
        let len = self.lens.get_mut(order)?;
        let below = len.checked_sub(1)?;
        let chunk = self.chunks[START[order] + usize::from(below)];
        if !reach.covers(chunk) {
            return None;
        }
        *len = below;
        self.frames -= chunk.frames();
        Some(OwnedChunk::from_list(chunk))
    }

    /// The cached chunks.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let stacks = self.lens.iter().zip(START);
        stacks.flat_map(|(&len, start)| self.chunks[start..start + usize::from(len)].iter().copied())
    }

    /// Takes a chunk of any order; `None` if the magazine is empty.
    pub fn pop_any(&mut self) -> Option<OwnedChunk> {
        let order = self.lens.iter().rposition(|&len| len > 0)?;
        self.pop(Order::new(order as u8).ok()?, Reach::ANYWHERE)
    }
}

impl Default for Magazine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{AddrRange, Pfn, PhysAddr};
    use proptest::prelude::*;

    const ANY: Reach<'_> = Reach::ANYWHERE;

    fn page(number: u64) -> OwnedChunk {
        OwnedChunk::from_list(Chunk::page(Pfn::new(number)))
    }

    #[test]
    fn magazine_is_lifo_and_rejects_chunks_above_its_capacity() {
        let mut magazine = Magazine::new();
        (0..32).for_each(|n| magazine.push(page(n)).unwrap());
        assert_eq!(magazine.push(page(32)), Err(page(32)));
        assert_eq!((magazine.pop(Order::CONTIGUOUS, ANY), magazine.frames()), (None, 32));
        let all: Vec<_> = core::iter::from_fn(|| magazine.pop(Order::PAGE, ANY)).collect();
        assert!(all.into_iter().eq((0..32).rev().map(page)));
        assert_eq!(magazine.frames(), 0);
    }

    #[test]
    fn limit_applies_to_every_byte() {
        let mut magazine = Magazine::new();
        magazine.push(page(1)).unwrap();
        let mut pop = |start, end| {
            let range = AddrRange::new(PhysAddr::new(start), PhysAddr::new(end));
            magazine.pop(Order::PAGE, ANY.within(&range))
        };
        assert_eq!((pop(0x1001, 0x3000), pop(0, 0x1fff)), (None, None));
        assert_eq!(pop(0x1000, 0x2000), Some(page(1)));
    }

    #[test]
    fn large_chunks_are_not_cached() {
        let order = Order::new(10).unwrap();
        let large = || OwnedChunk::from_list(Chunk::new(Pfn::new(1024), order).unwrap());
        let mut magazine = Magazine::new();
        assert_eq!(magazine.push(large()), Err(large()));
        assert_eq!((magazine.pop(order, ANY), magazine.pop_any()), (None, None));
    }

    proptest! {
        /// Compares with a list per order: each cached chunk is returned once, last in first out, within the
        /// capacity.
        #[test]
        fn magazine_agrees_with_the_model(steps in prop::collection::vec((any::<bool>(), 0u8..12), 1..300)) {
            let mut magazine = Magazine::new();
            let mut model: Vec<Vec<u64>> = vec![Vec::new(); 12];
            for (number, (push, log2)) in steps.into_iter().enumerate() {
                let order = Order::new(log2).unwrap();
                let stack = &mut model[usize::from(log2)];
                let first = (number as u64) << 12;
                if push {
                    let kept = magazine.push(OwnedChunk::from_list(Chunk::new(Pfn::new(first), order).unwrap()));
                    let room = DEPTH.get(usize::from(log2)).is_some_and(|&depth| stack.len() < usize::from(depth));
                    prop_assert_eq!(kept.is_ok(), room);
                    if room { stack.push(first) }
                } else {
                    let popped = magazine.pop(order, ANY).map(|chunk| chunk.release());
                    prop_assert_eq!(popped.map(|chunk| (chunk.first().raw(), chunk.order())), stack.pop().map(|first| (first, order)));
                }
                let held: u64 = (0..12).map(|log2| (model[log2].len() as u64) << log2).sum();
                prop_assert_eq!(magazine.frames(), held);
                prop_assert!(held <= Magazine::MAX_FRAMES);
            }
            let left = core::iter::from_fn(|| magazine.pop_any()).count();
            prop_assert_eq!((left, magazine.frames()), (model.iter().map(Vec::len).sum(), 0));
            prop_assert!(left <= Magazine::CAPACITY);
        }
    }
}
