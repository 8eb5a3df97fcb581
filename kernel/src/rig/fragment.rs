//! Memory fragmented on purpose, for as long as a value lives.

use crate::checking::Last;
use crate::memory::zones;
use addr::{Chunk, Order};
use alloc::vec::Vec;
use memory::{Frames, OwnedChunk, Reach};

/// All free memory within a reach is taken, and of some of it every second piece given back: what is free then are
/// pieces of one size that are no neighbours. Dropped, everything is free again.
pub struct Fragmented {
    rest: Frames,
    kept: Frames,
}

impl Fragmented {
    /// Leaves `free` single frames within `reach`.
    pub fn new(reach: Reach, free: u64) -> Self {
        Self::in_pieces(reach, free, Order::PAGE)
    }

    /// Leaves `free` frames within `reach`, in pieces of `order`.
    pub fn in_pieces(reach: Reach, free: u64, order: Order) -> Self {
        let rest = take_all(reach);
        let mut this = Self { rest, kept: Frames::new() };
        this.scatter(2 * free, order);
        this
    }

    /// Gives back every second piece of `frames` frames of what was taken.
    fn scatter(&mut self, frames: u64, order: Order) {
        let mut left = frames;
        for chunk in self.rest.drain().collect::<Vec<_>>() {
            if left == 0 || chunk.chunk().order() <= order {
                keep(&mut self.rest, chunk);
                continue;
            }
            let chunk = chunk.release();
            for (index, piece) in pieces(chunk, order).enumerate() {
                if index % 2 == 1 && left > 0 {
                    zones::give_from(piece, Last::Untouched);
                } else {
                    keep(&mut self.kept, piece);
                }
                left = left.saturating_sub(order.frames());
            }
        }
    }
}

impl Drop for Fragmented {
    fn drop(&mut self) {
        let untouched = &mut zones::Source::of(Last::Untouched);
        self.rest.give_back(untouched);
        self.kept.give_back(untouched);
    }
}

/// All free memory within `reach`, largest chunks first.
pub fn take_all(reach: Reach) -> Frames {
    let mut all = Frames::new();
    let mut order = Some(Order::MAX);
    while let Some(now) = order {
        match zones::take(now, reach) {
            Some(chunk) => keep(&mut all, chunk),
            None => order = now.smaller(),
        }
    }
    all
}

fn keep(list: &mut Frames, chunk: OwnedChunk) {
    list.push(chunk).unwrap_or_else(|(chunk, _)| zones::give_from(chunk, Last::Untouched));
}

/// The parts of `order` that a larger chunk has, each on its own.
fn pieces(chunk: Chunk, order: Order) -> impl Iterator<Item = OwnedChunk> {
    let part = move |first| Chunk::new(chunk.first().offset(first), order);
    (0..chunk.frames()).step_by(order.frames() as usize).filter_map(part).map(OwnedChunk::adopt)
}
