//! Timing of an operation and of its inverse, such as allocating and freeing.

#[cfg(feature = "counters")]
use super::events::{self, EventCounts};
use ::alloc::vec::Vec;
use arch::timer;
use kernel::dma::counters::{self, Counters};

/// The most rounds before the measurement, which fill pools and caches.
const WARM_UP_ROUNDS: usize = 8;

/// The times of both operations, and the IOMMU's counters around them.
pub struct Timings {
    pub operation: Samples,
    pub inverse: Samples,
    before: Counters,
    after: Counters,
}

/// The samples of one operation, one for each round.
pub struct Samples {
    ticks: Vec<u64>,
    #[cfg(feature = "counters")]
    events: Vec<EventCounts>,
}

/// IOMMU commands per round: one operation and its inverse.
pub struct IommuCosts {
    /// Commands, `CMD_SYNC` included.
    pub commands: u64,
    /// `CMD_SYNC` alone.
    pub syncs: u64,
}

impl Timings {
    /// Runs `operation` and `inverse` in turn, first for some warm-up rounds and then for `rounds` measured
    /// ones.
    ///
    /// # Errors
    /// The first error of `operation`.
    pub fn measure<T, E>(
        rounds: usize,
        mut operation: impl FnMut() -> Result<T, E>,
        mut inverse: impl FnMut(T),
    ) -> Result<Self, E> {
        for _ in 0..rounds.min(WARM_UP_ROUNDS) {
            operation().map(&mut inverse)?;
        }
        let before = counters::read();
        let (mut operations, mut inverses) = (Samples::with_capacity(rounds), Samples::with_capacity(rounds));
        for _ in 0..rounds {
            let result = operations.time(&mut operation)?;
            inverses.time(|| inverse(result));
        }
        Ok(Self { operation: operations, inverse: inverses, before, after: counters::read() })
    }

    /// Returns the number of measured rounds.
    pub fn rounds(&self) -> usize {
        self.operation.ticks.len()
    }

    /// Returns the IOMMU commands per round, rounded up.
    pub fn costs(&self) -> IommuCosts {
        let per_round = |before: u64, after: u64| (after - before).div_ceil(self.rounds() as u64);
        IommuCosts {
            commands: per_round(self.before.commands, self.after.commands),
            syncs: per_round(self.before.syncs, self.after.syncs),
        }
    }
}

impl Samples {
    fn with_capacity(rounds: usize) -> Self {
        Self {
            ticks: Vec::with_capacity(rounds),
            #[cfg(feature = "counters")]
            events: Vec::with_capacity(rounds),
        }
    }

    /// Runs `action` and records a sample.
    #[cfg(not(feature = "counters"))]
    #[inline(always)]
    fn time<R>(&mut self, action: impl FnOnce() -> R) -> R {
        let start = timer::now();
        let result = action();
        self.ticks.push(timer::now() - start);
        result
    }

    /// Runs `action` and records a sample. The ticks include the cost of counting events.
    #[cfg(feature = "counters")]
    fn time<R>(&mut self, action: impl FnOnce() -> R) -> R {
        let start = timer::now();
        let before = events::read();
        let result = action();
        self.events.push(events::read().since(before));
        self.ticks.push(timer::now() - start);
        result
    }

    /// Returns the median of the ticks.
    pub fn median(&mut self) -> u64 {
        median(&mut self.ticks)
    }

    /// Returns the mean of the ticks. It includes rare work, which the median hides.
    pub fn mean(&self) -> u64 {
        self.ticks.iter().sum::<u64>() / self.ticks.len().max(1) as u64
    }

    /// Returns the median of each event count.
    #[cfg(feature = "counters")]
    pub fn events(&self) -> EventCounts {
        EventCounts(core::array::from_fn(|n| {
            let mut samples: Vec<u64> = self.events.iter().map(|events| events.0[n]).collect();
            median(&mut samples)
        }))
    }
}

/// Returns the median, the upper one of an even number of samples; 0 for none.
fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_upper_middle_sample() {
        assert_eq!(median(&mut [9, 1, 5]), 5);
        assert_eq!(median(&mut [4, 3, 2, 1]), 3);
        assert_eq!(median(&mut []), 0);
    }
}
