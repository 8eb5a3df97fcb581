//! Timing of an operation and its inverse.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use crate::counter;
use crate::events::{EventSource, Snapshot};

/// The maximum number of warm-up rounds.
const WARM_UP: usize = 4;

/// The cost of both operations; displays as the fields of a `BENCH` line.
pub struct Measurement {
    up: Phase,
    down: Phase,
}

/// The samples of one operation.
struct Phase {
    ticks: Vec<u64>,
    events: Vec<(Snapshot, Snapshot)>,
}

/// Runs `up` and `down` alternately: some warm-up rounds, then `rounds` measured rounds.
pub fn measure<T>(
    rounds: usize,
    mut up: impl FnMut() -> io::Result<T>,
    mut down: impl FnMut(T),
) -> io::Result<Measurement> {
    let mut source = EventSource::open();
    for _ in 0..rounds.min(WARM_UP) {
        up().map(&mut down)?;
    }
    let (mut ups, mut downs) = (Phase::with_capacity(rounds), Phase::with_capacity(rounds));
    for _ in 0..rounds {
        let made = ups.time(&mut source, &mut up)?;
        downs.time(&mut source, || down(made));
    }
    Ok(Measurement { up: ups, down: downs })
}

impl Phase {
    fn with_capacity(rounds: usize) -> Self {
        Self { ticks: Vec::with_capacity(rounds), events: Vec::with_capacity(rounds) }
    }

    #[inline(always)]
    fn time<R>(&mut self, source: &mut EventSource, action: impl FnOnce() -> R) -> R {
        let before = source.read();
        let start = counter::now();
        let result = action();
        self.ticks.push(counter::now() - start);
        self.events.extend(before.zip(source.read()));
        result
    }

    fn median(&self) -> u64 {
        median(self.ticks.iter().copied())
    }

    fn mean(&self) -> u64 {
        self.ticks.iter().sum::<u64>() / self.ticks.len().max(1) as u64
    }

    /// The median of each event, by name.
    fn events(&self) -> BTreeMap<String, u64> {
        let rounds: Vec<_> = self.events.iter().map(|(before, after)| after.since(before)).collect();
        let names = rounds.first().into_iter().flat_map(BTreeMap::keys);
        names.map(|name| (name.clone(), median(rounds.iter().map(|round| round[name])))).collect()
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, down) = (&self.up, &self.down);
        write!(f, "alloc_ticks={} free_ticks={} ", up.median(), down.median())?;
        write!(f, "alloc_mean={} free_mean={} iters={}", up.mean(), down.mean(), up.ticks.len())?;
        for (phase, events) in [("alloc", up.events()), ("free", down.events())] {
            events.iter().try_for_each(|(name, count)| write!(f, " {phase}_{name}={count}"))?;
        }
        Ok(())
    }
}

fn median(samples: impl Iterator<Item = u64>) -> u64 {
    let mut samples: Vec<u64> = samples.collect();
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}
