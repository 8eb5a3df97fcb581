//! Timing an operation and the one that takes it back.

use crate::dma::counters::{self, Counters};
use ::alloc::vec::Vec;
use arch::timer;

/// Rounds before the first that counts, at most: they fill pools and caches.
const WARM: usize = 8;

/// How long each half took, and what it cost besides.
pub struct Measured {
    up: Vec<u64>,
    down: Vec<u64>,
    before: Counters,
    after: Counters,
}

/// Per round of both halves.
pub struct Costs {
    /// Commands to the IOMMU.
    pub commands: u64,
    /// Of these, waits for completion.
    pub syncs: u64,
}

impl Measured {
    /// Does `up` and `down` in turn, some rounds for warming up and then `rounds` that count.
    ///
    /// # Errors
    /// The first of `up`'s.
    pub fn new<T, E>(
        rounds: usize,
        mut up: impl FnMut() -> Result<T, E>,
        mut down: impl FnMut(T),
    ) -> Result<Self, E> {
        for _ in 0..rounds.min(WARM) {
            up().map(&mut down)?;
        }
        let before = counters::read();
        let (mut ups, mut downs) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for _ in 0..rounds {
            let start = timer::now();
            let made = up()?;
            ups.push(timer::now() - start);
            let start = timer::now();
            down(made);
            downs.push(timer::now() - start);
        }
        Ok(Self { up: ups, down: downs, before, after: counters::read() })
    }

    /// The median ticks of `up` and of `down`.
    pub fn medians(&mut self) -> (u64, u64) {
        (median(&mut self.up), median(&mut self.down))
    }

    /// How many rounds were measured.
    pub fn rounds(&self) -> usize {
        self.up.len()
    }

    /// What a round cost the IOMMU, rounded up.
    pub fn costs(&self) -> Costs {
        let per_round = |before: u64, after: u64| (after - before).div_ceil(self.up.len() as u64);
        Costs {
            commands: per_round(self.before.commands, self.after.commands),
            syncs: per_round(self.before.syncs, self.after.syncs),
        }
    }
}

/// The upper one of two medians; 0 of nothing.
fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [9, 1, 5]), 5);
        assert_eq!(median(&mut [4, 3, 2, 1]), 3);
        assert_eq!(median(&mut []), 0);
    }
}
