//! Programs that exit, fault, or are killed.

use super::rng::Rng;
use super::round::Tally;
use crate::cases::programs::RunningProbe;
use abi::signal::Signal;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kernel::fs::root;
use kernel::process::Termination;
use kernel::sched::{self, time};

/// A subcommand of `probe`, and its behaviour.
#[derive(Clone, Copy)]
pub struct Program {
    probe: &'static str,
    behaviour: Behaviour,
}

#[derive(Clone, Copy)]
enum Behaviour {
    Passes,
    /// Dies of SIGSEGV.
    Faults,
    /// Makes random system calls; takes their number and a seed as arguments.
    Fuzzes,
    /// Runs until it is killed.
    Endless,
}

const fn passes(probe: &'static str) -> Program {
    Program { probe, behaviour: Behaviour::Passes }
}

/// Programs that use no device.
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
    Program { probe: "segfault", behaviour: Behaviour::Faults },
    Program { probe: "fault-in-thread", behaviour: Behaviour::Faults },
    Program { probe: "munmap-hole", behaviour: Behaviour::Faults },
];

/// Programs that use the first device.
pub const WITH_DEVICE: &[Program] = &[
    passes("edu-copy"),
    passes("edu-user-pages"),
    passes("edu-buffer-lifetime"),
    passes("edu-bad-arguments"),
    passes("edu-release-during-copy"),
    Program { probe: "fault-with-import", behaviour: Behaviour::Faults },
    Program { probe: "churn", behaviour: Behaviour::Endless },
    Program { probe: "churn", behaviour: Behaviour::Endless },
    Program { probe: "fuzz", behaviour: Behaviour::Fuzzes },
    Program { probe: "fuzz", behaviour: Behaviour::Fuzzes },
];

/// The longest run time of a program that is killed.
const MAX_RUN_MS: u64 = 300;

/// Runs random ones of `programs` until `end`; returns immediately without an initramfs.
pub fn run(mut rng: Rng, end: u64, programs: &[Program]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    while root::is_mounted() && time::now() < end {
        run_one(rng.pick(programs), &mut rng)?;
        tally.programs += 1;
    }
    Ok(tally)
}

/// Runs programs until `end` under memory pressure: each may end in any way.
pub fn run_starving(mut rng: Rng, end: u64) -> Result<Tally, String> {
    let mut tally = Tally::default();
    while root::is_mounted() && time::now() < end {
        match RunningProbe::start(&[rng.pick(PLAIN).probe], Vec::new()) {
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

fn run_one(program: Program, rng: &mut Rng) -> Result<(), String> {
    let seed = rng.below(1 << 40).to_string();
    let mut words = Vec::from([program.probe]);
    if let Behaviour::Fuzzes = program.behaviour {
        words.extend(["3000", &seed]);
    }
    let running = RunningProbe::start(&words, Vec::new())?;
    if let Behaviour::Endless = program.behaviour {
        // Kernel threads are never interrupted.
        _ = sched::sleep_until(time::now() + rng.below(MAX_RUN_MS) * 1_000_000);
        running.process.terminate(Termination::Killed(Signal::SIGKILL));
    }
    let ending = running.process.wait();
    if ending == program.behaviour.expected_termination() {
        return Ok(());
    }
    Err(format!("{} {seed}: {ending}; last output: {}", program.probe, running.output.last_line()))
}

impl Behaviour {
    fn expected_termination(self) -> Termination {
        match self {
            Self::Passes | Self::Fuzzes => Termination::Exited(0),
            Self::Faults => Termination::Killed(Signal::SIGSEGV),
            Self::Endless => Termination::Killed(Signal::SIGKILL),
        }
    }
}
