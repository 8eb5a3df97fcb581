//! Memory fragmented on purpose, for as long as a value lives.

use crate::memory::zones;
use addr::{Chunk, Order};
use alloc::vec::Vec;
use memory::{FrameSource, Frames, OwnedChunk, Reach};

/// All free memory within a reach is taken, and of some of it every second frame given back: what is free then are
/// single frames that are no neighbours. Dropped, everything is free again.
pub struct Fragmented {
    rest: Frames,
    kept: Frames,
}

impl Fragmented {
    /// Leaves `free` single frames within `reach`.
    pub fn new(reach: Reach, free: u64) -> Self {
        let rest = take_all(reach);
        let mut this = Self { rest, kept: Frames::new() };
        this.scatter(2 * free);
        this
    }

    /// Gives back every second frame of `frames` frames of what was taken.
    fn scatter(&mut self, frames: u64) {
        let mut left = frames;
        for chunk in self.rest.drain().collect::<Vec<_>>() {
            if left == 0 {
                keep(&mut self.rest, chunk);
                continue;
            }
            let chunk = chunk.release();
            for (index, page) in pages(chunk).enumerate() {
                if index % 2 == 1 && left > 0 {
                    zones::give(page);
                } else {
                    keep(&mut self.kept, page);
                }
                left = left.saturating_sub(1);
            }
        }
    }
}

impl Drop for Fragmented {
    fn drop(&mut self) {
        zones::give_all(core::mem::take(&mut self.rest));
        zones::give_all(core::mem::take(&mut self.kept));
    }
}

/// All free memory within `reach`, largest chunks first.
fn take_all(reach: Reach) -> Frames {
    let mut all = Frames::new();
    let mut order = Some(Order::MAX);
    while let Some(now) = order {
        match zones::with(|zones| zones.take(now, reach)) {
            Some(chunk) => keep(&mut all, chunk),
            None => order = now.smaller(),
        }
    }
    all
}

fn keep(list: &mut Frames, chunk: OwnedChunk) {
    list.push(chunk).unwrap_or_else(|(chunk, _)| zones::give(chunk));
}

/// The frames of a chunk, each on its own.
fn pages(chunk: Chunk) -> impl Iterator<Item = OwnedChunk> {
    (0..chunk.frames()).map(move |offset| OwnedChunk::adopt(Chunk::page(chunk.first().offset(offset))))
}
