//! Who does what in a round.

use super::rng::Rng;
use super::{copies, memory_hog, programs, work};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What a round did.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Buffers made, memory lent, devices attached.
    pub operations: u64,
    /// Of these, refused for want of something.
    pub refused: u64,
    pub programs: u64,
    /// Pages through a device, compared.
    pub copies: u64,
    pub faults: u64,
    pub quarantines: u64,
}

impl Tally {
    pub fn and(self, other: Self) -> Self {
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

/// What a thread does until the round ends.
#[derive(Clone, Copy)]
pub enum Job {
    /// Buffers and mappings.
    Work,
    /// Programs that need no device.
    Programs,
    /// Programs that need the first device, one after the other: its own memory is in nobody's hands.
    DevicePrograms,
    /// The second device, good and bad.
    Copies,
    /// All memory, again and again.
    MemoryHog,
    /// Programs that get no memory now and then.
    Starving,
}

/// What kind of round it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is enough of everything, so that nothing may be refused to a program.
    Ample,
    /// Frames run out all the time.
    Tight,
}

impl Kind {
    /// The kind of round number `number`.
    pub fn of(number: usize) -> Self {
        const TIGHT: usize = 4;
        if number % TIGHT == TIGHT - 1 { Self::Tight } else { Self::Ample }
    }
}

/// One worker on each CPU, and the others.
pub fn jobs(cpus: usize, kind: Kind) -> Vec<Job> {
    let others: &[Job] = match kind {
        Kind::Ample => &[Job::Programs, Job::DevicePrograms, Job::Copies],
        Kind::Tight => &[Job::Starving, Job::Copies, Job::MemoryHog],
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
