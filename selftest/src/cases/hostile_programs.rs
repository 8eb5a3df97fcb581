//! Programs that mean harm, beside others that do not: ended in the middle of what they do, or taking all there is of
//! something.

use super::programs::Running;
use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test};
use crate::fixture::TIMEOUT_NS;
use crate::soak::rng::Rng;
use crate::{audit, check, pass, skip};
use abi::signal::Signal;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kernel::fs::root;
use kernel::process::Termination;
use kernel::sched::{self, time};
use kernel::{debug, devices};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "programs.kill_at_any_time_releases_all_resources",
        run: kill_at_any_time_releases_all_resources,
    },
    Test { name: "programs.audit_passes_with_running_programs", run: audit_passes_with_running_programs },
    Test {
        name: "programs.resource_hog_does_not_stall_other_processes",
        run: resource_hog_does_not_stall_other_processes,
    },
    Test {
        name: "programs.concurrent_thread_exhaustion_leaks_nothing",
        run: concurrent_thread_exhaustion_leaks_nothing,
    },
];

/// Ended from outside while its threads allocate, map, and have DMA in flight.
fn kill_at_any_time_releases_all_resources() -> Outcome {
    const FIXED: u64 = 16;
    const RANDOM: u64 = 8;
    const LATEST_NS: u64 = 250_000_000;
    let Some(edu) = devices::dma_engines().next() else { skip!("no edu device") };
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    let (before, seed) = (ResourceSnapshot::now(), time::now());
    let mut rng = Rng::new(seed);
    // From its first instructions on to the middle of a copy, which takes 100 ms.
    let fixed = (0..FIXED).map(|round| round * round * 1_000_000);
    let all = fixed.chain((0..RANDOM).map(|_| rng.below(LATEST_NS)));
    let moments: Vec<u64> = all.step_by((FIXED / debug::scaled(FIXED)) as usize).collect();
    for &moment in &moments {
        let program = Running::start(&["churn"], Vec::new())?;
        check!(sched::sleep_until(time::now() + moment).is_ok(), "interrupted");
        end(program).map_err(|seen| format!("after {moment} ns, seed {seed}: {seen}"))?;
        before.settle(&format!("ended after {moment} ns, seed {seed}"))?;
    }
    check!(!edu.device().is_quarantined(), "the device faulted: it went on in memory that was gone");
    pass!("{} programs, ended after 0 to {} ms, seed {seed}", moments.len(), LATEST_NS / 1_000_000)
}

fn start_all(probe: &str, count: usize) -> Vec<Result<Running, String>> {
    (0..count).map(|_| Running::start(&[probe], Vec::new())).collect()
}

/// Ends a program that would not end by itself.
fn end(program: Running) -> Result<(), String> {
    program.process.terminate(Termination::Killed(Signal::SIGKILL));
    let ending = program.process.wait();
    check!(
        ending == Termination::Killed(Signal::SIGKILL),
        "{ending}; it said: {}",
        program.output.last_line()
    );
    Ok(())
}

/// Until the last line that the program has said is as wanted.
fn wait_for(program: &Running, is_wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let deadline = time::now() + TIMEOUT_NS;
    while !is_wanted(&program.output.last_line()) {
        check!(time::now() < deadline, "it said: {}", program.output.last_line());
        check!(!program.process.is_terminating(), "it has ended; it said: {}", program.output.last_line());
        check!(sched::sleep_until(time::now() + 1_000_000).is_ok(), "interrupted");
    }
    Ok(())
}

/// Looks at all tables while two programs have memory of every kind.
fn audit_passes_with_running_programs() -> Outcome {
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let alone = audit::check().map_err(|finding| format!("{finding}"))?;
    let programs = start_all("idle", 2);
    let at_rest = programs.iter().try_for_each(|program| match program {
        Ok(program) => wait_for(program, |line| line.ends_with("idle")),
        Err(error) => Err(error.clone()),
    });
    let seen = at_rest.and_then(|()| audit::check().map_err(|finding| format!("meanwhile {finding}")));
    // Each of them, whatever was seen.
    let ends: Vec<_> = programs.into_iter().flatten().map(end).collect();
    let seen = seen?;
    ends.into_iter().collect::<Result<(), _>>()?;
    before.settle("afterwards")?;
    check!(seen.leaves > alone.leaves, "{} leaves, {} without programs", seen.leaves, alone.leaves);
    pass!("{} pages and blocks, {} of them the programs'", seen.leaves, seen.leaves - alone.leaves)
}

/// Programs that take all there is of something, and one beside them that must not mind.
fn resource_hog_does_not_stall_other_processes() -> Outcome {
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let working = Running::start(&["busy"], Vec::new())?;
    let done = wait_for(&working, |line| turns(line) > 0).and_then(|()| {
        ["exhaust-buffers", "exhaust-threads", "exhaust-mappings", "exhaust-descriptors"]
            .into_iter()
            .try_for_each(|probe| takes_everything(probe, &working))
    });
    let turns = turns(&working.output.last_line());
    end(working)?;
    done?;
    before.settle("afterwards")?;
    pass!("frames, threads, mappings, descriptors: {turns} turns of the other one meanwhile")
}

fn takes_everything(probe: &str, working: &Running) -> Result<(), String> {
    let before = turns(&working.output.last_line());
    let program = Running::start(&[probe], Vec::new())?;
    let ending = program.process.wait();
    check!(ending == Termination::Exited(0), "{probe}: {ending}; it said: {}", program.output.last_line());
    wait_for(working, |line| turns(line) > before).map_err(|seen| format!("beside {probe}: {seen}"))
}

/// What a program that works says about how far it is.
fn turns(line: &str) -> u64 {
    line.split_once(" iterations, ").and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

/// As near to a fork bomb as programs come, which start threads but no programs.
fn concurrent_thread_exhaustion_leaks_nothing() -> Outcome {
    const PROGRAMS: usize = 6;
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let started = start_all("exhaust-threads", PROGRAMS);
    // All of them, however the first one ended.
    let ended = started.into_iter().map(|program| program.map(|program| (program.process.wait(), program)));
    let mut ends = (0, 0);
    for ended in ended.collect::<Vec<_>>() {
        match ended? {
            (Termination::Exited(0), _) => ends.0 += 1,
            // No frame was left for what one of its threads touched.
            (Termination::Killed(Signal::SIGKILL), _) => ends.1 += 1,
            (ending, program) => {
                return Err(format!("{ending}; it said: {}", program.output.last_line()));
            }
        }
    }
    before.settle("afterwards")?;
    pass!(
        "{PROGRAMS} at a time: {} got an error and went on, {} were ended for want of memory",
        ends.0,
        ends.1
    )
}
