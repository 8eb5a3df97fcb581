//! `soak=MINUTES[:SEED]`: random work of all kinds on all CPUs for a given time, in rounds. After each round everything is
//! given back, and then what is held, the audit, the heap and the pace have to be as they were. In every fourth round frames
//! run out all the time.
//!
//! The seed decides what each thread does, not how the threads meet: that differs from run to run, which is the point.

mod copies;
mod memory_hog;
mod programs;
pub(crate) mod rng;
mod round;
mod state;
mod work;

use crate::audit;
use crate::cases::resource_snapshot::ResourceSnapshot;
use crate::fixture::run_each;
use ::alloc::format;
use ::alloc::string::String;
use kernel::board::Soak;
use kernel::sched::time;
use kernel::{kprintln, percpu};
use round::{Kind, Tally};
use state::{History, State};

const ROUND_NS: u64 = 12_000_000_000;
const MINUTE_NS: u64 = 60_000_000_000;

/// Works for as long as asked and prints the verdict.
pub fn run(wish: Soak) {
    kprintln!("soak: {} minutes, seed {}, {} CPUs", wish.minutes, wish.seed, percpu::online());
    match rounds(wish) {
        Ok(tally) => kprintln!("soak: passed: no leak, no drift, no slow-down; {tally}"),
        Err(what) => kprintln!("soak: FAILED: {what}"),
    }
}

fn rounds(wish: Soak) -> Result<Tally, String> {
    let start = time::now();
    let (mut held, mut all, mut history) = (None, Tally::default(), History::default());
    let mut seed = wish.seed;
    while time::now() - start < wish.minutes * MINUTE_NS || history.rounds() < state::FEWEST {
        let seconds = (time::now() - start) / 1_000_000_000;
        let tally = round(seed, Kind::of(history.rounds()))
            .map_err(|what| format!("at {seconds} s, round seed {seed}: {what}"))?;
        // The first round is the first use of much that stays: tables of streams, stacks.
        held.get_or_insert_with(ResourceSnapshot::now)
            .settle(&format!("at {seconds} s, round seed {seed}"))?;
        audit::check().map_err(|finding| format!("at {seconds} s, round seed {seed}: {finding}"))?;
        all = all.and(tally);
        let state = State::now()?;
        kprintln!("soak: {} s: {tally}; {state}", (time::now() - start) / 1_000_000_000);
        history.push(state);
        seed += 1;
    }
    history.judge()?;
    if all.operations == 0 || all.programs == 0 {
        return Err(format!("a machine without a device or without programs: {all}"));
    }
    Ok(all)
}

/// Everybody works until the round is over, and gives back what they have.
fn round(seed: u64, kind: Kind) -> Result<Tally, String> {
    let (cpus, end) = (percpu::online(), time::now() + ROUND_NS);
    let tallies = run_each(round::jobs(cpus, kind).len(), move |thread| {
        let rng = rng::Rng::new(seed << 8 | thread as u64);
        round::jobs(cpus, kind)[thread].run(rng, end)
    })?;
    tallies.into_iter().try_fold(Tally::default(), |sum, tally| tally.map(|tally| sum.and(tally)))
}
