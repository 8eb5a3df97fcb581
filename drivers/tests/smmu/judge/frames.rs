//! The memory that programs map. It contains no tables, and its contents are not accessed.

use super::super::test_machine::random::Random;
use addr::Chunk;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Number of chunks of each order; small, so that they are soon reused.
const COUNTS: [u64; 10] = [48, 4, 4, 2, 5, 1, 1, 0, 0, 3];

/// Address of the chunks of order 0; the other orders follow at a distance chosen by the program.
const FIRST: u64 = 0x5000_0000;

/// The free chunks by order.
pub struct FramePool(RefCell<[Vec<Chunk>; 10]>);

/// An allocated chunk; freed when dropped.
pub struct ChunkLease {
    pub chunk: Chunk,
    pool: Rc<FramePool>,
}

impl FramePool {
    pub fn new(apart: u64) -> Rc<Self> {
        Rc::new(Self(RefCell::new(std::array::from_fn(|order| {
            let base = FIRST + order as u64 * apart;
            let bytes = 0x1000 << order;
            (0..COUNTS[order]).map(|index| super::chunk(base + index * bytes, order as u8)).collect()
        }))))
    }

    /// Allocates a chunk of this order.
    pub fn take(self: &Rc<Self>, order: u8, random: &mut Random) -> Option<Rc<ChunkLease>> {
        let free = &mut self.0.borrow_mut()[usize::from(order)];
        let last = free.len().checked_sub(1)? as u64;
        // Usually the chunk freed last; sometimes another one, so that neighbours are combined.
        let index = if random.once_in(4) { random.below(last + 1) } else { last };
        Some(Rc::new(ChunkLease { chunk: free.remove(index as usize), pool: self.clone() }))
    }

    /// Number of free chunks.
    pub fn free(&self) -> usize {
        self.0.borrow().iter().map(Vec::len).sum()
    }

    /// Number of all chunks.
    pub fn all() -> usize {
        COUNTS.iter().sum::<u64>() as usize
    }
}

impl fmt::Debug for ChunkLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chunk.fmt(f)
    }
}

impl Drop for ChunkLease {
    fn drop(&mut self) {
        self.pool.0.borrow_mut()[usize::from(self.chunk.order().log2())].push(self.chunk);
    }
}
