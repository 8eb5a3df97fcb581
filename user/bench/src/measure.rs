//! Timing an operation and the one that takes it back.

use std::io;

use crate::counter;

/// Rounds before the first that counts, at most.
const WARM: usize = 4;

/// Median ticks of each half.
pub struct Medians {
    /// Of the operation.
    pub up: u64,
    /// Of what takes it back.
    pub down: u64,
}

impl Medians {
    /// Of both halves.
    pub fn both(self) -> (u64, u64) {
        (self.up, self.down)
    }
}

/// Does `up` and `down` in turn, some rounds for warming up and then `rounds` that count.
pub fn measure<T>(
    rounds: usize,
    mut up: impl FnMut() -> io::Result<T>,
    mut down: impl FnMut(T),
) -> io::Result<Medians> {
    for _ in 0..rounds.min(WARM) {
        up().map(&mut down)?;
    }
    let (mut ups, mut downs) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for _ in 0..rounds {
        let start = counter::now();
        let made = up()?;
        ups.push(counter::now() - start);
        let start = counter::now();
        down(made);
        downs.push(counter::now() - start);
    }
    Ok(Medians { up: median(&mut ups), down: median(&mut downs) })
}

fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}
