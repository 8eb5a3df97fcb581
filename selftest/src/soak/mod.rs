//! `soak=MINUTES[:SEED]`: the soak test, a random workload on all CPUs for a given time, in rounds. After
//! each round all resources are released; then the resource snapshot must equal that after the first round,
//! and the audit must be clean. At the end the heap, the tables and the time of a fixed workload must not
//! have grown. Every fourth round runs under memory pressure.
//!
//! The seed determines the operations of each thread, but not the interleaving of the threads, which differs
//! in each run.

mod copies;
mod memory_hog;
mod programs;
pub(crate) mod rng;
mod round;
mod sample;
mod work;

use crate::audit;
use crate::cases::resource_snapshot::ResourceSnapshot;
use crate::fixture::run_each;
use ::alloc::format;
use ::alloc::string::String;
use kernel::board::Soak;
use kernel::sched::time;
use kernel::{kprintln, percpu};
use round::{RoundKind, Tally};
use sample::{History, Sample};

const ROUND_NS: u64 = 12_000_000_000;
const MINUTE_NS: u64 = 60_000_000_000;

/// Runs the soak test and prints the verdict.
pub fn run(settings: Soak) {
    kprintln!("soak: {} minutes, seed {}, {} CPUs", settings.minutes, settings.seed, percpu::online());
    match rounds(settings) {
        Ok(tally) => kprintln!("soak: passed: no leak, no drift, no slow-down; {tally}"),
        Err(reason) => kprintln!("soak: FAILED: {reason}"),
    }
}

fn rounds(settings: Soak) -> Result<Tally, String> {
    let start = time::now();
    let (mut snapshot, mut all, mut history) = (None, Tally::default(), History::default());
    let mut seed = settings.seed;
    while time::now() - start < settings.minutes * MINUTE_NS || history.rounds() < sample::MIN_ROUNDS {
        let seconds = (time::now() - start) / 1_000_000_000;
        let tally = round(seed, RoundKind::of(history.rounds()))
            .map_err(|reason| format!("at {seconds} s, round seed {seed}: {reason}"))?;
        // After the first round, which allocates some memory permanently: tables of streams, stacks.
        snapshot
            .get_or_insert_with(ResourceSnapshot::now)
            .settle(&format!("at {seconds} s, round seed {seed}"))?;
        audit::check().map_err(|finding| format!("at {seconds} s, round seed {seed}: {finding}"))?;
        all = all + tally;
        let sample = Sample::now()?;
        kprintln!("soak: {} s: {tally}; {sample}", (time::now() - start) / 1_000_000_000);
        history.push(sample);
        seed += 1;
    }
    history.check_growth()?;
    if all.operations == 0 || all.programs == 0 {
        return Err(format!("no device or no programs: {all}"));
    }
    Ok(all)
}

/// Runs all jobs of a round. Each releases its resources before it returns.
fn round(seed: u64, kind: RoundKind) -> Result<Tally, String> {
    let (cpus, end) = (percpu::online(), time::now() + ROUND_NS);
    let tallies = run_each(round::jobs(cpus, kind).len(), move |thread| {
        let rng = rng::Rng::new(seed << 8 | thread as u64);
        round::jobs(cpus, kind)[thread].run(rng, end)
    })?;
    tallies.into_iter().try_fold(Tally::default(), |sum, tally| tally.map(|tally| sum + tally))
}
