//! Hostile programs: killed in the middle of allocations and DMA, or exhausting a resource while another
//! program runs.

use super::programs::RunningProbe;
use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test};
use crate::fixture::{TIMEOUT_NS, run_each, yield_until};
use crate::soak::rng::Rng;
use crate::{audit, check, pass, skip};
use abi::Errno;
use abi::memory::{Advice, Prot};
use abi::signal::Signal;
use addr::{AddrRange, PAGE_SIZE, UserVa};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use kernel::fs::root;
use kernel::process::Termination;
use kernel::sched::{self, time};
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use kernel::{debug, devices, kprintln};
use program::{USER_END, USER_START};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "programs.kill_at_any_time_releases_all_resources",
        run: kill_at_any_time_releases_all_resources,
    },
    Test {
        name: "programs.device_address_of_another_program_is_refused",
        run: device_address_of_another_program_is_refused,
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
    Test { name: "programs.kill_ends_a_long_console_write", run: kill_ends_a_long_console_write },
    Test {
        name: "programs.terminating_thread_ends_long_memory_calls",
        run: terminating_thread_ends_long_memory_calls,
    },
];

/// Kills a program at fixed and random times while its threads allocate and map, with DMA in flight.
fn kill_at_any_time_releases_all_resources() -> Outcome {
    const FIXED: u64 = 16;
    const RANDOM: u64 = 8;
    const LATEST_NS: u64 = 250_000_000;
    let Some(edu) = devices::dma_engines().next() else { skip!("no edu device") };
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let (before, seed) = (ResourceSnapshot::now(), time::now());
    let mut rng = Rng::new(seed);
    // From its first instructions to the middle of a copy, which takes 100 ms.
    let fixed = (0..FIXED).map(|round| round * round * 1_000_000);
    let all = fixed.chain((0..RANDOM).map(|_| rng.below(LATEST_NS)));
    let delays: Vec<u64> = all.step_by((FIXED / debug::scaled(FIXED)) as usize).collect();
    for &delay in &delays {
        let program = RunningProbe::start(&["churn"], Vec::new())?;
        check!(sched::sleep_until(time::now() + delay).is_ok(), "interrupted");
        kill(program).map_err(|seen| format!("after {delay} ns, seed {seed}: {seen}"))?;
        before.settle(&format!("killed after {delay} ns, seed {seed}"))?;
    }
    check!(
        !edu.device().is_quarantined(),
        "the device faulted: its DMA continued after the memory was unmapped"
    );
    pass!("{} programs, killed after 0 to {} ms, seed {seed}", delays.len(), LATEST_NS / 1_000_000)
}

/// A program copies from and to the device address of another program's buffer, which must keep its content.
fn device_address_of_another_program_is_refused() -> Outcome {
    let Some(edu) = devices::dma_engines().next() else { skip!("no edu device") };
    if !edu.reaches_memory() {
        skip!("no IOMMU: the edu does not reach the memory of programs");
    }
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let victim = RunningProbe::start(&["edu-hold"], Vec::new())?;
    let attack = wait_for_line(&victim, |line| line.starts_with("imported at ")).and_then(|()| {
        let line = victim.output.last_line();
        let address = line.trim_start_matches("imported at ");
        let program = RunningProbe::start(&["edu-foreign-address", address], Vec::new())?;
        let ending = program.process.wait();
        check!(ending == Termination::Exited(0), "{ending}; last output: {}", program.output.last_line());
        // The victim checks its buffer every 5 ms, and exits on a difference.
        check!(sched::sleep_until(time::now() + 100_000_000).is_ok(), "interrupted");
        Ok(String::from(address))
    });
    let survived = kill(victim);
    let address = attack?;
    survived.map_err(|seen| format!("the other program: {seen}"))?;
    before.settle("afterwards")?;
    pass!("{address} is refused, and the buffer there keeps its content")
}

fn start_all(probe: &str, count: usize) -> Vec<Result<RunningProbe, String>> {
    (0..count).map(|_| RunningProbe::start(&[probe], Vec::new())).collect()
}

/// Kills a program, and checks that it did not end before.
fn kill(program: RunningProbe) -> Result<(), String> {
    program.process.terminate(Termination::Killed(Signal::SIGKILL));
    let ending = program.process.wait();
    check!(
        ending == Termination::Killed(Signal::SIGKILL),
        "{ending}; last output: {}",
        program.output.last_line()
    );
    Ok(())
}

/// Waits until the last line of the program's output satisfies `matches`. Not `yield_until`: the end of the
/// program ends the wait too.
pub(super) fn wait_for_line(program: &RunningProbe, matches: impl Fn(&str) -> bool) -> Result<(), String> {
    let deadline = time::now() + TIMEOUT_NS;
    while !matches(&program.output.last_line()) {
        check!(time::now() < deadline, "timeout; last output: {}", program.output.last_line());
        check!(
            !program.process.is_terminating(),
            "the program ended; last output: {}",
            program.output.last_line()
        );
        check!(sched::sleep_until(time::now() + 1_000_000).is_ok(), "interrupted");
    }
    Ok(())
}

/// Runs the audit while two programs have all kinds of memory.
fn audit_passes_with_running_programs() -> Outcome {
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let baseline = audit::check().map_err(|finding| format!("{finding}"))?;
    let programs = start_all("idle", 2);
    let idle = programs.iter().try_for_each(|program| match program {
        Ok(program) => wait_for_line(program, |line| line.ends_with("idle")),
        Err(error) => Err(error.clone()),
    });
    let seen =
        idle.and_then(|()| audit::check().map_err(|finding| format!("with running programs: {finding}")));
    // All programs are killed, also after a finding.
    let ends: Vec<_> = programs.into_iter().flatten().map(kill).collect();
    let seen = seen?;
    ends.into_iter().collect::<Result<(), _>>()?;
    before.settle("afterwards")?;
    check!(seen.leaves > baseline.leaves, "{} leaves, {} without programs", seen.leaves, baseline.leaves);
    pass!("{} pages and blocks, {} of them of the programs", seen.leaves, seen.leaves - baseline.leaves)
}

/// Programs that exhaust a resource, while another one must continue to work.
fn resource_hog_does_not_stall_other_processes() -> Outcome {
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let worker = RunningProbe::start(&["busy"], Vec::new())?;
    let done = wait_for_line(&worker, |line| iterations(line) > 0).and_then(|()| {
        ["exhaust-buffers", "exhaust-threads", "exhaust-mappings", "exhaust-descriptors"]
            .into_iter()
            .try_for_each(|probe| exhaust_beside(probe, &worker))
    });
    let iterations = iterations(&worker.output.last_line());
    kill(worker)?;
    done?;
    before.settle("afterwards")?;
    pass!("frames, threads, mappings, descriptors: {iterations} iterations of the other program")
}

/// Runs the probe, and checks that the worker makes progress.
fn exhaust_beside(probe: &str, worker: &RunningProbe) -> Result<(), String> {
    let before = iterations(&worker.output.last_line());
    let program = RunningProbe::start(&[probe], Vec::new())?;
    let ending = program.process.wait();
    check!(
        ending == Termination::Exited(0),
        "{probe}: {ending}; last output: {}",
        program.output.last_line()
    );
    wait_for_line(worker, |line| iterations(line) > before).map_err(|seen| format!("beside {probe}: {seen}"))
}

/// Returns the number of iterations in a line of the `busy` probe.
fn iterations(line: &str) -> u64 {
    line.split_once(" iterations, ").and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

/// The equivalent of a fork bomb with threads.
fn concurrent_thread_exhaustion_leaks_nothing() -> Outcome {
    const PROGRAMS: usize = 6;
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let started = start_all("exhaust-threads", PROGRAMS);
    // All programs are waited for, also after a failure.
    let ended = started.into_iter().map(|program| program.map(|program| (program.process.wait(), program)));
    let mut ends = (0, 0);
    for ended in ended.collect::<Vec<_>>() {
        match ended? {
            (Termination::Exited(0), _) => ends.0 += 1,
            // Out of memory in a page fault of one of its threads.
            (Termination::Killed(Signal::SIGKILL), _) => ends.1 += 1,
            (ending, program) => {
                return Err(format!("{ending}; last output: {}", program.output.last_line()));
            }
        }
    }
    before.settle("afterwards")?;
    pass!("{PROGRAMS} concurrently: {} handled the error, {} were killed for lack of memory", ends.0, ends.1)
}

/// Kills programs that write 2 GiB, or 1024 parts of 1 MiB, to the console by one call: hours at the speed of
/// a UART.
fn kill_ends_a_long_console_write() -> Outcome {
    const LIMIT_NS: u64 = 10_000_000_000;
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    for probe in ["console-write", "console-vector"] {
        let program = RunningProbe::start(&[probe], Vec::new())?;
        let is_writing = wait_for_line(&program, |line| line == "writing");
        check!(sched::sleep_until(time::now() + 2_000_000).is_ok(), "interrupted");
        program.process.terminate(Termination::Killed(Signal::SIGKILL));
        // A process that ends closes its files, which share the output.
        let is_closed = yield_until(LIMIT_NS, || Arc::strong_count(&program.output) == 1);
        if !is_closed {
            // Ends the write by a fault, for the sake of the report.
            let all = AddrRange::new(UserVa::new(USER_START), UserVa::new(USER_END));
            _ = program.process.space().map(|space| space.unmap(all));
            program.process.wait();
        }
        // The program was killed in the middle of a line.
        kprintln!("");
        is_writing?;
        check!(is_closed, "{probe} still writes {} s after it was killed", LIMIT_NS / 1_000_000_000);
        kill(program).map_err(|seen| format!("{probe}: {seen}"))?;
    }
    before.settle("afterwards")?;
    pass!("by one buffer and by a vector")
}

/// The long operations on an address space end early in a thread that must exit, and the rest is released
/// with the address space.
fn terminating_thread_ends_long_memory_calls() -> Outcome {
    let before = ResourceSnapshot::now();
    let results = run_each(1, |_| end_long_memory_calls())?;
    results.into_iter().collect::<Result<(), _>>()?;
    before.settle("afterwards")?;
    pass!("madvise, mprotect, munmap, mmap with MAP_FIXED")
}

fn end_long_memory_calls() -> Result<(), String> {
    const BYTES: u64 = 3 << 30;
    const PAGES: u64 = 2048;
    let error = |errno| format!("{errno}");
    let space = AddressSpace::new().ok_or("no memory or no ASID")?;
    let start = space.map_stack(BYTES, MmapPlacement::Hint(None), Prot::READ | Prot::WRITE).map_err(error)?;
    let range = AddrRange::new(start, start + BYTES);
    let populated = AddrRange::new(start, start + PAGES * PAGE_SIZE);
    space.populate(populated, Prot::WRITE).map_err(error)?;
    let mapped = || {
        let mut pages = 0;
        space.leaves(|_| true, |_| pages += 1);
        pages
    };
    check!(mapped() == PAGES, "{} of {PAGES} pages are populated", mapped());
    sched::interrupt(&sched::current());
    let mut before = PAGES;
    let mut ends_early = |name: &str, unmaps: bool, result: Result<(), Errno>| {
        check!(result == Err(Errno::EINTR), "{name} is not ended: {result:?}");
        let left = mapped();
        let expected = if unmaps { 1..before } else { before..before + 1 };
        check!(expected.contains(&left), "{name}: {left} of {before} pages are left");
        before = left;
        Ok(())
    };
    ends_early("mprotect", false, space.protect(range, Prot::READ))?;
    ends_early("mprotect with PROT_EXEC", false, space.protect(range, Prot::READ | Prot::EXEC))?;
    ends_early("madvise", true, space.advise(range, Advice::DontNeed))?;
    let replaced = space.map_anonymous(BYTES, MmapPlacement::Fixed(start), Prot::READ);
    ends_early("mmap", true, replaced.map(|_| ()))?;
    ends_early("munmap", true, space.unmap(range))
}
