//! The jobs of a round, and the counts of their work.

use super::rng::Rng;
use super::{copies, memory_hog, programs, work};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Add;

/// Counts of the work done.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Allocations, mappings and attachments, including failed ones.
    pub operations: u64,
    /// Operations that failed, for example for lack of memory.
    pub refused: u64,
    pub programs: u64,
    /// Copies through a device whose result was compared.
    pub copies: u64,
    pub faults: u64,
    pub quarantines: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            refused: self.refused + other.refused,
            programs: self.programs + other.programs,
            copies: self.copies + other.copies,
            faults: self.faults + other.faults,
            quarantines: self.quarantines + other.quarantines,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, refused, programs, copies, faults, quarantines } = self;
        write!(f, "{operations} operations ({refused} refused), {programs} programs, {copies} copies, ")?;
        write!(f, "{faults} faults, {quarantines} quarantines")
    }
}

/// The task of a thread until the round ends.
#[derive(Clone, Copy)]
pub enum Job {
    /// Buffers and mappings.
    Work,
    /// Programs that need no device.
    Programs,
    /// Programs that use the first device, in sequence, since they share the memory inside of it.
    DevicePrograms,
    /// DMA of the second device, with and without faults.
    Copies,
    /// Allocation of all memory, repeatedly.
    MemoryHog,
    /// Programs under memory pressure.
    Starving,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RoundKind {
    /// Memory suffices, so that no request of a program may fail.
    Ample,
    /// Memory is exhausted repeatedly.
    MemoryPressure,
}

impl RoundKind {
    /// Returns the kind of round `number`, counted from 0.
    pub fn of(number: usize) -> Self {
        const PERIOD: usize = 4;
        if number % PERIOD == PERIOD - 1 { Self::MemoryPressure } else { Self::Ample }
    }
}

/// Returns one worker for each CPU, and the other jobs of the round.
pub fn jobs(cpus: usize, kind: RoundKind) -> Vec<Job> {
    let others: &[Job] = match kind {
        RoundKind::Ample => &[Job::Programs, Job::DevicePrograms, Job::Copies],
        RoundKind::MemoryPressure => &[Job::Starving, Job::Copies, Job::MemoryHog],
    };
    core::iter::repeat_n(Job::Work, cpus).chain(others.iter().copied()).collect()
}

impl Job {
    pub fn run(self, rng: Rng, end: u64) -> Result<Tally, String> {
        match self {
            Self::Work => work::run(rng, end),
            Self::Programs => programs::run(rng, end, programs::PLAIN),
            Self::DevicePrograms => programs::run(rng, end, programs::WITH_DEVICE),
            Self::Copies => copies::run(rng, end),
            Self::MemoryHog => Ok(memory_hog::run(rng, end)),
            Self::Starving => programs::run_starving(rng, end),
        }
    }
}
