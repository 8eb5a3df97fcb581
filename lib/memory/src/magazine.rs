//! Free chunks that one CPU keeps for itself.

use crate::owned::OwnedChunk;
use addr::{Chunk, Order, PhysAddr};

/// Orders that are kept: up to 2 MiB. Merging larger ones is rare, and holding them back would tear large holes.
const ORDERS: usize = Order::BLOCK_2M.log2() as usize + 1;
/// Chunks kept of each order, at most.
const DEPTH: [u8; ORDERS] = [32, 8, 8, 8, 8, 2, 2, 2, 2, 2];
/// Where the stack of each order starts, and, behind them, where the last one ends.
const START: [usize; ORDERS + 1] = {
    let mut start = [0; ORDERS + 1];
    let mut order = 0;
    while order < ORDERS {
        start[order + 1] = start[order] + DEPTH[order] as usize;
        order += 1;
    }
    start
};

/// Small stacks of free chunks, one for each order, in front of all zones that others use too.
///
/// Whoever frees a chunk and takes another would make the allocator merge it up to the largest chunk and split that down
/// again; here it costs a few instructions, and no lock that another CPU wants. What is kept is free memory like any
/// other: whoever finds none elsewhere empties the magazines first.
pub struct Magazine {
    chunks: [Chunk; START[ORDERS]],
    lens: [u8; ORDERS],
    /// Frames of all chunks.
    frames: u64,
}

impl Magazine {
    /// Chunks of all orders that it holds at most.
    pub const CAPACITY: usize = START[ORDERS];
    /// Frames that it holds at most: 8.8 MiB.
    pub const MOST_FRAMES: u64 = {
        let mut most = 0;
        let mut order = 0;
        while order < ORDERS {
            most += (DEPTH[order] as u64) << order;
            order += 1;
        }
        most
    };
    /// Single frames that are worth taking when there is none, and giving away when there are too many.
    pub const BATCH: u32 = DEPTH[0] as u32 / 2;

    /// Without any chunk.
    pub const fn new() -> Self {
        Self { chunks: [Chunk::page(addr::Pfn::new(0)); START[ORDERS]], lens: [0; ORDERS], frames: 0 }
    }

    /// The number of frames in it.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Keeps the chunk, unless there are enough of its order.
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

    /// The last chunk of this order, if it has no byte above `highest`.
    #[inline]
    pub fn pop(&mut self, order: Order, highest: PhysAddr) -> Option<OwnedChunk> {
        let order = usize::from(order.log2());
        let len = self.lens.get_mut(order)?;
        let below = len.checked_sub(1)?;
        let chunk = self.chunks[START[order] + usize::from(below)];
        if chunk.start().raw() + (chunk.bytes() - 1) > highest.raw() {
            return None;
        }
        *len = below;
        self.frames -= chunk.frames();
        Some(OwnedChunk::from_list(chunk))
    }

    /// What is in it.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let stacks = self.lens.iter().zip(START);
        stacks.flat_map(|(&len, start)| self.chunks[start..start + usize::from(len)].iter().copied())
    }

    /// Any chunk, as long as there is one.
    pub fn pop_any(&mut self) -> Option<OwnedChunk> {
        let order = self.lens.iter().rposition(|&len| len > 0)?;
        self.pop(Order::new(order as u8).ok()?, PhysAddr::new(u64::MAX))
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
    use addr::Pfn;
    use proptest::prelude::*;

    const ANY: PhysAddr = PhysAddr::new(u64::MAX);

    fn page(number: u64) -> OwnedChunk {
        OwnedChunk::from_list(Chunk::page(Pfn::new(number)))
    }

    #[test]
    fn the_last_comes_first_and_one_too_many_is_refused() {
        let mut magazine = Magazine::new();
        (0..32).for_each(|n| magazine.push(page(n)).unwrap());
        assert_eq!(magazine.push(page(32)), Err(page(32)));
        assert_eq!((magazine.pop(Order::CONTIGUOUS, ANY), magazine.frames()), (None, 32));
        let all: Vec<_> = core::iter::from_fn(|| magazine.pop(Order::PAGE, ANY)).collect();
        assert!(all.into_iter().eq((0..32).rev().map(page)));
        assert_eq!(magazine.frames(), 0);
    }

    #[test]
    fn a_limit_counts_the_last_byte() {
        let mut magazine = Magazine::new();
        magazine.push(page(1)).unwrap();
        assert_eq!(magazine.pop(Order::PAGE, PhysAddr::new(0x1ffe)), None);
        assert_eq!(magazine.pop(Order::PAGE, PhysAddr::new(0x1fff)), Some(page(1)));
    }

    #[test]
    fn large_chunks_are_not_kept() {
        let order = Order::new(10).unwrap();
        let large = || OwnedChunk::from_list(Chunk::new(Pfn::new(1024), order).unwrap());
        let mut magazine = Magazine::new();
        assert_eq!(magazine.push(large()), Err(large()));
        assert_eq!((magazine.pop(order, ANY), magazine.pop_any()), (None, None));
    }

    proptest! {
        /// Against a list for each order: what is kept comes out once, in its order, and no more than is allowed.
        #[test]
        fn chunks_are_kept_once(steps in prop::collection::vec((any::<bool>(), 0u8..12), 1..300)) {
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
                prop_assert!(held <= Magazine::MOST_FRAMES);
            }
            let left = core::iter::from_fn(|| magazine.pop_any()).count();
            prop_assert_eq!((left, magazine.frames()), (model.iter().map(Vec::len).sum(), 0));
            prop_assert!(left <= Magazine::CAPACITY);
        }
    }
}
