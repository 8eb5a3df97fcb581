//! Programs: `/bin/probe` does one thing each time, and is watched from outside: how it ends, what it says, and that
//! nothing of it is left.

use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test, Verdict};
use crate::{check, pass, skip};
use abi::Errno;
use abi::file::{OpenFlags, Stat, device_number};
use abi::signal::Signal;
use addr::UserVa;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::Attrs;
use kernel::fs::dma_buf::DmaBufFile;
use kernel::fs::{File, OpenFile, root, stat_device};
use kernel::process::{ENVIRONMENT, Ending, Launch, Process, start};
use kernel::sync::SpinLock;
use kernel::vm::access::UserMemory;
use kernel::{debug, devices, dma, sched};

const PROBE: &str = "/bin/probe";

/// Defines the tests from what holds and the name of the probe that shows it.
macro_rules! probes {
    ($($holds:literal by $run:ident $name:literal),* $(,)?) => {
        &[$(Test { name: concat!("program.", $holds), run: || $run($name) }),*, SHARE, LEAK, SECRETS, LEFTOVERS, SECOND]
    };
}

pub(super) const TESTS: &[Test] = probes! {
    "std_starts_and_says_hello" by passes "hello",
    "arguments_environment_and_auxiliary_vector_arrive" by passes "args",
    "files_of_the_initramfs_are_there" by passes "files",
    "files_cannot_be_written" by passes "read-only",
    "descriptors_are_counted" by passes "descriptors",
    "clocks_run_and_sleepers_wake" by passes "time",
    "random_bytes_differ" by passes "random",
    "anonymous_memory_is_its_own" by passes "anonymous",
    "the_heap_grows" by passes "heap-growth",
    "buffers_and_memory_read_as_zero" by passes "zeroed-buffers",
    "memory_set_of_the_other_option_restarts" by passes "memory-set",
    "a_buffer_has_the_size_asked_for" by passes "buffer-size",
    "a_view_outlives_its_descriptor" by passes "view-outlives-fd",
    "parts_can_be_unmapped" by passes "munmap-parts",
    "memory_grows_and_shrinks_in_place" by passes "mremap",
    "threads_map_and_unmap_at_once" by passes "concurrent-mmap",
    "access_can_be_changed" by passes "mprotect",
    "threads_lock_wait_and_join" by passes "threads",
    "floating_point_survives_switches" by passes "float",
    "bad_pointers_get_an_error" by passes "bad-pointers",
    "unknown_calls_get_an_error" by passes "unknown-syscalls",
    "huge_lengths_get_an_error" by passes "huge-lengths",
    "structures_carry_nothing_of_the_kernels" by passes "infoleak-structures",
    "registers_carry_nothing_of_the_kernels" by passes "infoleak-registers",
    "memory_given_back_is_zero_the_next_time" by passes "infoleak-reuse",
    "endless_loops_do_not_stop_the_others" by passes "preemption",
    "edu_copies_between_buffers" by passes_with_edu "edu-copy",
    "edu_copies_own_pages" by passes_with_edu "edu-user-pages",
    "a_buffer_unmapped_under_a_device_stays" by passes_with_edu "edu-buffer-lifetime",
    "edu_refuses_what_makes_no_sense" by passes_with_edu "edu-bad-arguments",
    "who_uses_a_blocked_device_is_told" by passes_with_iommu "edu-quarantine",
    "another_threads_faults_are_no_error" by passes_with_iommu "edu-concurrent-faults",
    "frames_run_out_and_come_back" by passes "exhaust-buffers",
    "descriptors_run_out_and_come_back" by passes "exhaust-descriptors",
    "threads_run_out_and_come_back" by passes "exhaust-threads",
    "mappings_run_out_and_come_back" by passes "exhaust-mappings",
    "device_addresses_run_out_and_come_back" by passes_with_iommu "exhaust-iova",
    "a_null_pointer_ends_it" by dies "segfault",
    "the_kernels_addresses_end_it" by dies "kernel-address",
    "code_cannot_be_written" by dies "write-code",
    "data_cannot_be_executed" by dies "execute-data",
    "a_buffer_cannot_be_executed" by dies "execute-buffer",
    "nothing_is_behind_a_buffer" by dies "beyond-buffer",
    "nothing_is_before_a_buffer" by dies "before-buffer",
    "a_read_only_view_cannot_be_written" by dies "read-only-buffer",
    "an_unmapped_part_is_gone" by dies "munmap-hole",
    "a_fault_in_one_thread_ends_all" by dies "fault-in-thread",
    "an_undefined_instruction_ends_it" by dies_undefined "undefined-instruction",
    "what_a_dying_program_held_is_released" by dies_with_edu "fault-with-import",
};

const SHARE: Test = Test { name: "program.two_share_one_buffer", run: two_share_one_buffer };
const LEAK: Test = Test { name: "program.a_hundred_leave_nothing_behind", run: a_hundred_leave_nothing };

const SECRETS: Test = Test { name: "program.what_a_dead_one_knew_nobody_finds", run: what_a_dead_one_knew };

const LEFTOVERS: Test =
    Test { name: "program.what_a_device_keeps_of_one_no_other_gets", run: what_a_device_keeps };

const SECOND: Test =
    Test { name: "device.second_edu_is_reachable_by_its_node", run: second_edu_is_reachable_by_its_node };

fn passes(probe: &str) -> Outcome {
    expect(probe, Ending::Exited(0))
}

fn dies(probe: &str) -> Outcome {
    expect(probe, Ending::Killed(Signal::SIGSEGV))
}

fn dies_undefined(probe: &str) -> Outcome {
    expect(probe, Ending::Killed(Signal::SIGILL))
}

fn passes_with_edu(probe: &str) -> Outcome {
    expect_with_edu(probe, Ending::Exited(0))
}

fn dies_with_edu(probe: &str) -> Outcome {
    expect_with_edu(probe, Ending::Killed(Signal::SIGSEGV))
}

fn passes_with_iommu(probe: &str) -> Outcome {
    match devices::dma_engines().next() {
        Some(edu) if edu.device().domain().is_translated() => passes(probe),
        _ => skip!("no device behind an IOMMU"),
    }
}

fn expect_with_edu(probe: &str, expected: Ending) -> Outcome {
    match devices::dma_engines().next() {
        None => skip!("no edu device"),
        Some(edu) if !edu.reaches_memory() => skip!("without IOMMU edu does not reach programs' memory"),
        Some(_) => expect(probe, expected),
    }
}

fn expect(probe: &str, expected: Ending) -> Outcome {
    expect_of(&[probe], expected)
}

fn expect_of(arguments: &[&str], expected: Ending) -> Outcome {
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let program = Running::start(arguments, Vec::new())?;
    let ending = program.process.wait();
    check!(ending == expected, "{ending} instead of {expected}; it said: {}", program.output.last_line());
    drop(program);
    before.settle("afterwards")?;
    pass!("{ending}, nothing left")
}

/// Copies through the second device while the IOMMU aborts the DMA of the first.
fn second_edu_is_reachable_by_its_node() -> Outcome {
    let mut engines = devices::dma_engines();
    let (Some(first), Some(second)) = (engines.next(), engines.next()) else { skip!("only one edu device") };
    if !second.device().domain().is_translated() {
        skip!("no IOMMU: the first device cannot be blocked");
    }
    first.device().block().map_err(|error| format!("{error}"))?;
    let by_first = expect_of(&["edu-copy", "0"], Ending::Exited(1));
    let by_second = expect_of(&["edu-copy", "1"], Ending::Exited(0));
    first.device().unblock().map_err(|error| format!("{error}"))?;
    by_first.and(by_second)
}

fn two_share_one_buffer() -> Outcome {
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    const BYTES: u64 = 6 << 20;
    let before = ResourceSnapshot::now();
    let buffer =
        dma::alloc_unattached(BYTES, Attrs::NO_KERNEL_MAPPING).map_err(|error| format!("{error}"))?;
    let file = Arc::new(OpenFile::new(DmaBufFile::new(buffer), OpenFlags::READ_WRITE));
    let reader = Running::start(&["share-read", "3"], Vec::from([file.clone()]))?;
    let writer = Running::start(&["share-write", "3"], Vec::from([file])).inspect_err(|_| {
        // It would wait for the writer for ever.
        reader.process.end(Ending::Killed(Signal::SIGKILL));
        reader.process.wait();
    })?;
    for (ending, said) in wait_together(&[writer, reader]) {
        check!(ending == Ending::Exited(0), "{ending}; it said: {said}");
    }
    before.settle("afterwards")?;
    pass!("{BYTES:#x} bytes went from one to the other")
}

/// Waits for programs that wait for each other: when one fails the others are ended. How they did, and what they said last.
fn wait_together(programs: &[Running]) -> Vec<(Ending, String)> {
    loop {
        let (over, running): (Vec<_>, Vec<_>) =
            programs.iter().partition(|program| program.process.is_ending());
        let failed = over.iter().any(|program| program.process.wait() != Ending::Exited(0));
        if running.is_empty() {
            break;
        }
        if failed {
            running.iter().for_each(|program| _ = program.process.end(Ending::Killed(Signal::SIGKILL)));
        }
        _ = sched::sleep_until(sched::time::now() + 1_000_000);
    }
    programs.iter().map(|program| (program.process.wait(), program.output.last_line())).collect()
}

fn a_hundred_leave_nothing() -> Outcome {
    if root::tree().is_none() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let rounds = debug::scaled(25);
    for round in 0..rounds {
        let started =
            ["hello", "segfault", "threads", "anonymous"].map(|probe| Running::start(&[probe], Vec::new()));
        for program in started {
            let program = program.map_err(|error| format!("round {round}: {error}"))?;
            program.process.wait();
        }
    }
    before.settle("afterwards")?;
    pass!("{} programs, four at a time", 4 * rounds)
}

/// One dies with secrets in all kinds of memory; the next one gets that memory, and looks.
fn what_a_dead_one_knew() -> Outcome {
    for _ in 0..2 {
        if let verdict @ Verdict::Skip(_) = dies("infoleak-fill")? {
            return Ok(verdict);
        }
        passes("infoleak-scan")?;
    }
    pass!("twice, in heaps, on stacks and in buffers")
}

fn what_a_device_keeps() -> Outcome {
    for _ in 0..2 {
        if let verdict @ Verdict::Skip(_) = expect_with_edu("edu-fill-buffer", Ending::Exited(0))? {
            return Ok(verdict);
        }
        passes("edu-scan-buffer")?;
    }
    pass!("the device's buffer is cleared between two programs")
}

/// A program and what it says.
pub(crate) struct Running {
    pub process: Arc<Process>,
    pub output: Arc<Output>,
}

impl Running {
    /// Starts the probe with these arguments, and these files from descriptor 3 on.
    pub fn start(arguments: &[&str], more: Vec<Arc<OpenFile>>) -> Result<Self, String> {
        let output = Arc::new(Output(SpinLock::new(Vec::new())));
        let file = Arc::new(OpenFile::new(OutputFile(output.clone()), OpenFlags::READ_WRITE));
        let mut files = Vec::from([file.clone(), file.clone(), file]);
        files.extend(more);
        let mut environment = Vec::from(ENVIRONMENT);
        environment.extend((debug::scaled(10) < 10).then_some("ROUNDS=few"));
        let launch = Launch { path: PROBE, arguments, environment: &environment, files: &files };
        let process = start(&launch).map_err(|error| format!("{PROBE}: {error}"))?;
        Ok(Self { process, output })
    }
}

/// The end of what a program has written.
pub(crate) struct Output(SpinLock<Vec<u8>>);

impl Output {
    const KEPT: usize = 1024;

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock();
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(Self::KEPT);
        kept.drain(..surplus);
    }

    pub fn last_line(&self) -> String {
        let kept = self.0.lock();
        let text = String::from_utf8_lossy(&kept);
        text.lines().next_back().unwrap_or("nothing").into()
    }
}

/// What a program has as its console.
struct OutputFile(Arc<Output>);

impl File for OutputFile {
    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let mut piece = [0; 256];
        let piece = &mut piece[..len.min(256)];
        memory.read_bytes(from, piece)?;
        self.0.add(piece);
        Ok(piece.len())
    }

    fn stat(&self) -> Stat {
        stat_device(device_number(1, 3))
    }
}
