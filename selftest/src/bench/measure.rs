//! Timing an operation and the one that takes it back.

#[cfg(feature = "counters")]
use super::events::{self, Events};
use ::alloc::vec::Vec;
use arch::timer;
use kernel::dma::counters::{self, Counters};

/// Rounds before the first that counts, at most: they fill pools and caches.
const WARM: usize = 8;

/// How long each half took, and what it cost besides.
pub struct Measured {
    /// The operation.
    pub up: Half,
    /// What takes it back.
    pub down: Half,
    before: Counters,
    after: Counters,
}

/// One half, round by round.
pub struct Half {
    ticks: Vec<u64>,
    #[cfg(feature = "counters")]
    events: Vec<Events>,
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
        let (mut ups, mut downs) = (Half::with_capacity(rounds), Half::with_capacity(rounds));
        for _ in 0..rounds {
            let made = ups.time(&mut up)?;
            downs.time(|| down(made));
        }
        Ok(Self { up: ups, down: downs, before, after: counters::read() })
    }

    /// How many rounds were measured.
    pub fn rounds(&self) -> usize {
        self.up.ticks.len()
    }

    /// What a round cost the IOMMU, rounded up.
    pub fn costs(&self) -> Costs {
        let per_round = |before: u64, after: u64| (after - before).div_ceil(self.rounds() as u64);
        Costs {
            commands: per_round(self.before.commands, self.after.commands),
            syncs: per_round(self.before.syncs, self.after.syncs),
        }
    }
}

impl Half {
    fn with_capacity(rounds: usize) -> Self {
        Self {
            ticks: Vec::with_capacity(rounds),
            #[cfg(feature = "counters")]
            events: Vec::with_capacity(rounds),
        }
    }

    /// Runs `action` for one more sample.
    #[cfg(not(feature = "counters"))]
    #[inline(always)]
    fn time<R>(&mut self, action: impl FnOnce() -> R) -> R {
        let start = timer::now();
        let result = action();
        self.ticks.push(timer::now() - start);
        result
    }

    /// Runs `action` for one more sample. The ticks are those of a build that counts.
    #[cfg(feature = "counters")]
    fn time<R>(&mut self, action: impl FnOnce() -> R) -> R {
        let start = timer::now();
        let before = events::read();
        let result = action();
        self.events.push(events::read().since(before));
        self.ticks.push(timer::now() - start);
        result
    }

    /// The median ticks.
    pub fn median(&mut self) -> u64 {
        median(&mut self.ticks)
    }

    /// The mean ticks: it holds the rare work that the median hides.
    pub fn mean(&self) -> u64 {
        self.ticks.iter().sum::<u64>() / self.ticks.len().max(1) as u64
    }

    /// The median of each event.
    #[cfg(feature = "counters")]
    pub fn events(&self) -> Events {
        Events(core::array::from_fn(|n| {
            let mut samples: Vec<u64> = self.events.iter().map(|events| events.0[n]).collect();
            median(&mut samples)
        }))
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
