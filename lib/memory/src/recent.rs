//! Chunks that came back a moment ago.

use addr::{Chunk, Order, PhysAddr};

/// Orders that are kept: up to 2 MiB. Merging larger ones is rare, and holding them back would tear large holes.
const ORDERS: usize = Order::BLOCK_2M.log2() as usize + 1;
/// Chunks kept of each order.
const DEPTH: usize = 8;
/// Chunks kept at most.
pub(crate) const CAPACITY: usize = ORDERS * DEPTH;

/// Small stacks of free chunks, one for each order, in front of a buddy allocator.
///
/// Whoever frees a page and takes another would make the allocator merge it up to the largest chunk and split that down
/// again; here it costs a few instructions. What is kept is free memory like any other, and goes to the allocator for
/// merging as soon as that has nothing else to give.
pub(crate) struct Recent {
    stacks: [Stack; ORDERS],
    /// A bit for each order that has chunks.
    some: u32,
}

#[derive(Clone, Copy)]
struct Stack {
    chunks: [Chunk; DEPTH],
    len: u8,
}

impl Recent {
    pub(crate) const fn new() -> Self {
        let nothing = Chunk::page(addr::Pfn::new(0));
        Self { stacks: [Stack { chunks: [nothing; DEPTH], len: 0 }; ORDERS], some: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.some == 0
    }

    /// Keeps the chunk, unless there are enough of its order.
    pub(crate) fn push(&mut self, chunk: Chunk) -> Result<(), Chunk> {
        let order = usize::from(chunk.order().log2());
        let Some(stack) = self.stacks.get_mut(order) else { return Err(chunk) };
        let Some(slot) = stack.chunks.get_mut(usize::from(stack.len)) else { return Err(chunk) };
        *slot = chunk;
        stack.len += 1;
        self.some |= 1 << order;
        Ok(())
    }

    /// The last chunk of this order, if it has no byte above `highest`.
    pub(crate) fn pop(&mut self, order: Order, highest: PhysAddr) -> Option<Chunk> {
        let order = usize::from(order.log2());
        let stack = self.stacks.get_mut(order)?;
        let chunk = stack.chunks[usize::from(stack.len.checked_sub(1)?)];
        if chunk.start().raw() + (chunk.bytes() - 1) > highest.raw() {
            return None;
        }
        stack.len -= 1;
        if stack.len == 0 {
            self.some &= !(1 << order);
        }
        Some(chunk)
    }

    /// Any chunk.
    pub(crate) fn pop_any(&mut self) -> Option<Chunk> {
        let order = Order::new(self.some.checked_ilog2()? as u8).ok()?;
        self.pop(order, PhysAddr::new(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::Pfn;

    const ANY: PhysAddr = PhysAddr::new(u64::MAX);

    fn page(number: u64) -> Chunk {
        Chunk::page(Pfn::new(number))
    }

    #[test]
    fn the_last_comes_first_and_the_ninth_is_refused() {
        let mut recent = Recent::new();
        (0..8).for_each(|n| recent.push(page(n)).unwrap());
        assert_eq!(recent.push(page(8)), Err(page(8)));
        assert_eq!(recent.pop(Order::CONTIGUOUS, ANY), None);
        let all: Vec<_> = core::iter::from_fn(|| recent.pop(Order::PAGE, ANY)).collect();
        assert!(all.into_iter().eq((0..8).rev().map(page)));
        assert!(recent.is_empty());
    }

    #[test]
    fn a_limit_counts_the_last_byte() {
        let mut recent = Recent::new();
        recent.push(page(1)).unwrap();
        assert_eq!(recent.pop(Order::PAGE, PhysAddr::new(0x1ffe)), None);
        assert_eq!(recent.pop(Order::PAGE, PhysAddr::new(0x1fff)), Some(page(1)));
    }

    #[test]
    fn large_chunks_are_not_kept() {
        let order = Order::new(10).unwrap();
        let large = Chunk::new(Pfn::new(1024), order).unwrap();
        let mut recent = Recent::new();
        assert_eq!(recent.push(large), Err(large));
        assert_eq!(recent.pop(order, ANY), None);
        assert_eq!(recent.pop_any(), None);
    }
}
