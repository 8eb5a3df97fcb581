//! Programs: some that end by themselves, some that are ended.

use super::rng::Rng;
use super::round::Tally;
use crate::cases::programs::Running;
use abi::signal::Signal;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kernel::fs::root;
use kernel::process::Ending;
use kernel::sched::{self, time};

/// A probe, and how it ends.
#[derive(Clone, Copy)]
pub struct Program {
    probe: &'static str,
    ending: How,
}

#[derive(Clone, Copy)]
enum How {
    Passes,
    Dies,
    /// With a number of calls and a seed.
    Fuzzes,
    /// From outside.
    IsEnded,
}

const fn passes(probe: &'static str) -> Program {
    Program { probe, ending: How::Passes }
}

/// Without a device.
pub const PLAIN: &[Program] = &[
    passes("hello"),
    passes("files"),
    passes("anonymous"),
    passes("heap-growth"),
    passes("zeroed-buffers"),
    passes("view-outlives-fd"),
    passes("munmap-parts"),
    passes("mremap"),
    passes("concurrent-mmap"),
    passes("mprotect"),
    passes("threads"),
    passes("float"),
    passes("bad-pointers"),
    passes("infoleak-structures"),
    passes("infoleak-reuse"),
    Program { probe: "segfault", ending: How::Dies },
    Program { probe: "fault-in-thread", ending: How::Dies },
    Program { probe: "munmap-hole", ending: How::Dies },
];

/// With the first device.
pub const WITH_DEVICE: &[Program] = &[
    passes("edu-copy"),
    passes("edu-user-pages"),
    passes("edu-buffer-lifetime"),
    passes("edu-bad-arguments"),
    passes("edu-quarantine"),
    Program { probe: "fault-with-import", ending: How::Dies },
    Program { probe: "churn", ending: How::IsEnded },
    Program { probe: "churn", ending: How::IsEnded },
    Program { probe: "fuzz", ending: How::Fuzzes },
    Program { probe: "fuzz", ending: How::Fuzzes },
];

/// What a program may be late by: the machine has other things to do.
const MOST_MS: u64 = 300;

/// Runs some of `programs` until `end`; nothing without an initramfs.
pub fn run(mut rng: Rng, end: u64, programs: &[Program]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    while root::tree().is_some() && time::now() < end {
        one(rng.pick(programs), &mut rng)?;
        tally.programs += 1;
    }
    Ok(tally)
}

/// Runs programs until `end` that may get no memory at any time: they end somehow.
pub fn run_starving(mut rng: Rng, end: u64) -> Result<Tally, String> {
    let mut tally = Tally::default();
    while root::tree().is_some() && time::now() < end {
        match Running::start(&[rng.pick(PLAIN).probe], Vec::new()) {
            Ok(running) => drop(running.process.wait()),
            Err(_) => {
                tally.refused += 1;
                sched::yield_now();
            }
        }
        tally.programs += 1;
    }
    Ok(tally)
}

fn one(program: Program, rng: &mut Rng) -> Result<(), String> {
    let seed = rng.below(1 << 40).to_string();
    let mut words = Vec::from([program.probe]);
    if let How::Fuzzes = program.ending {
        words.extend(["3000", &seed]);
    }
    let running = Running::start(&words, Vec::new())?;
    if let How::IsEnded = program.ending {
        // An interruption is this thread's only, and it has none.
        _ = sched::sleep_until(time::now() + rng.below(MOST_MS) * 1_000_000);
        running.process.end(Ending::Killed(Signal::SIGKILL));
    }
    let ending = running.process.wait();
    if ending == program.ending.expected() {
        return Ok(());
    }
    Err(format!("{} {seed}: {ending}; it said: {}", program.probe, running.output.last_line()))
}

impl How {
    fn expected(self) -> Ending {
        match self {
            Self::Passes | Self::Fuzzes => Ending::Exited(0),
            Self::Dies => Ending::Killed(Signal::SIGSEGV),
            Self::IsEnded => Ending::Killed(Signal::SIGKILL),
        }
    }
}
