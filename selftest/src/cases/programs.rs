//! Programs: runs the probes of `/bin/probe`, and checks the exit status and that all resources are released.

use super::hostile_programs::wait_for_line;
use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test, Verdict, device, faults};
use crate::{check, pass, skip};
use abi::Errno;
use abi::file::OpenFlags;
use abi::signal::Signal;
use addr::{PAGE_SIZE, UserVa};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::Attrs;
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::dma::fault;
use kernel::fs::dma_buf::DmaBufFile;
use kernel::fs::{File, OpenFile, root};
use kernel::process::{ENVIRONMENT, Launch, Process, Termination, start};
use kernel::sync::SpinLock;
use kernel::vm::access::UserMemory;
use kernel::{debug, devices, dma, sched};

const PROBE: &str = "/bin/probe";

/// Defines a test from its behaviour, its check and the name of the probe, and appends the tests with their
/// own function.
macro_rules! probes {
    ($($behaviour:literal by $run:ident $name:literal),* $(,)?) => {
        &[
            $(Test { name: concat!("programs.", $behaviour), run: || $run($name) },)*
            SHARED_BUFFER, REPEATED_STARTS, DEAD_PROCESS, DEVICE_BUFFER, SECOND_EDU, QUARANTINE,
            FAULTS_BETWEEN_COPIES, LOST_EVENTS,
            #[cfg(feature = "checking")]
            RUNNING_THREADS,
        ]
    };
}

pub(super) const TESTS: &[Test] = probes! {
    "std_program_starts_and_prints" by passes "hello",
    "arguments_environment_and_auxv_are_passed" by passes "args",
    "initramfs_files_are_readable" by passes "files",
    "initramfs_files_are_read_only" by passes "read-only",
    "proc_describes_the_own_process" by passes "proc-own-process",
    "proc_lists_threads_while_they_exist" by passes "proc-threads",
    "proc_descriptors_are_opened_again" by passes "proc-descriptors",
    "proc_maps_name_their_objects" by passes "proc-maps",
    "proc_texts_are_read_in_pieces" by passes "proc-texts",
    "proc_files_of_an_exited_process_are_empty_then_gone" by passes "proc-exited-process",
    "proc_is_read_while_processes_start_and_exit" by passes "proc-churn",
    "proc_and_sys_agree_with_system_calls" by passes "proc-machine",
    "sys_devices_have_classes_and_registers" by passes "sys-devices",
    "tmpfs_files_keep_their_bytes" by passes "tmpfs-content",
    "tmpfs_transfers_end_at_unmapped_pages" by passes "tmpfs-faults",
    "tmpfs_names_are_linked_moved_and_removed" by passes "tmpfs-names",
    "tmpfs_links_are_followed" by passes "tmpfs-links",
    "tmpfs_directory_is_listed_while_it_changes" by passes "tmpfs-listing",
    "tmpfs_files_keep_their_attributes" by passes "tmpfs-attributes",
    "current_directory_can_be_renamed_and_removed" by passes "tmpfs-directory",
    "memory_files_are_sealed" by passes "memory-files",
    "memory_files_are_mapped_shared_and_private" by passes "tmpfs-mappings",
    "sealed_memory_has_no_writable_mapping" by passes "tmpfs-sealed-mappings",
    "duplicated_descriptors_share_the_file_offset" by passes "descriptors",
    "paths_and_descriptors_have_the_same_attributes" by passes "file-attributes",
    "buffers_have_inode_numbers_of_their_own" by passes "buffer-attributes",
    "heap_ioctl_accepts_structures_of_other_sizes" by passes "heap-ioctl-sizes",
    "buffer_names_have_up_to_31_bytes" by passes "buffer-names",
    "terminal_keeps_modes_and_checks_arguments" by passes "terminal-modes",
    "sync_files_of_idle_buffers_are_signalled" by passes "sync-files",
    "clocks_advance_and_sleeps_end" by passes "time",
    "cpu_clocks_stop_while_a_program_sleeps" by passes "cpu-time",
    "clock_ids_have_linux_meaning_and_errors" by passes "clock-ids",
    "getrandom_returns_different_bytes" by passes "random",
    "anonymous_memory_is_zeroed_and_retained" by passes "anonymous",
    "heap_grows" by passes "heap-growth",
    "buffers_and_anonymous_memory_are_zeroed" by passes "zeroed-buffers",
    "memory_set_restarts_after_option_mismatch" by passes "memory-set",
    "buffer_size_is_rounded_up_to_pages" by passes "buffer-size",
    "buffer_mapping_outlives_its_descriptor" by passes "view-outlives-fd",
    "parts_of_blocks_can_be_unmapped_protected_and_moved" by passes "blocks",
    "blocks_are_copied_on_write_after_fork" by passes "blocks-forked",
    "threads_use_a_block_while_it_is_split" by passes "blocks-threads",
    "huge_pages_are_reserved_and_mapped_as_a_whole" by passes "huge-pages",
    "arguments_of_huge_pages_are_checked" by passes "huge-page-arguments",
    "mappings_can_be_unmapped_in_parts" by passes "munmap-parts",
    "munmap_removes_all_mappings_of_a_range" by passes "munmap-range",
    "discarded_memory_reads_as_zero" by passes "discard",
    "advice_keeps_shared_memory_and_reports_holes" by passes "advice",
    "mprotect_changes_the_pages_before_a_hole" by passes "mprotect-hole",
    "mremap_grows_and_shrinks_in_place" by passes "mremap",
    "mremap_moves_pages_without_a_copy" by passes "mremap-moves",
    "private_file_mapping_is_a_copy" by passes "map-file",
    "lock_with_priority_inheritance_names_its_owner" by passes "pi-futex-owners",
    "lock_of_an_exited_owner_is_passed_on" by passes "pi-futex-exits",
    "lock_with_priority_inheritance_has_timeouts" by passes "pi-futex-arguments",
    "waiters_of_a_condition_are_moved_to_a_lock" by passes "pi-futex-requeue",
    "unlock_by_the_kernel_clears_the_pending_entry" by passes "robust-unlock",
    "scheduling_policy_is_recorded" by passes "scheduling-policies",
    "stopped_child_continues_after_sigcont" by passes "child-stops",
    "pidfd_has_the_ids_of_its_process" by passes "pidfd-information",
    "locked_memory_is_resident" by passes "memory-locks",
    "future_mappings_are_locked" by passes "memory-locks-all",
    "residency_of_pages_is_reported" by passes "memory-residency",
    "file_mapping_ends_with_the_file" by passes "map-file-end",
    "threads_map_and_unmap_concurrently" by passes "concurrent-mmap",
    "mprotect_changes_permissions" by passes "mprotect",
    "threads_lock_wait_and_join" by passes "threads",
    "futex_wait_checks_the_word_and_times_out" by passes "futex-wait",
    "futex_wake_wakes_the_requested_number" by passes "futex-wake",
    "futex_requeue_wakes_and_moves_waiters" by passes "futex-requeue",
    "locks_of_an_exited_thread_have_a_dead_owner" by passes "futex-owner-died",
    "futex_words_are_checked" by passes "futex-bad-words",
    "ignored_signals_have_no_effect" by passes "signals-ignored",
    "handlers_are_called_and_registers_restored" by passes "handler",
    "faulting_instruction_is_repeated_after_its_handler" by passes "handler-of-fault",
    "blocked_signals_stay_pending" by passes "handler-masks",
    "handlers_run_on_the_alternate_stack" by passes "handler-stack",
    "signals_end_or_restart_waits" by passes "handler-interrupts",
    "awaited_signals_call_no_handler" by passes "signals-awaited",
    "signal_arguments_are_checked" by passes "signal-arguments",
    "eventfd_counts_and_blocks" by passes "eventfd",
    "poll_wakes_for_each_file_and_times_out" by passes "poll",
    "select_reports_the_files_of_each_set" by passes "select",
    "epoll_reports_levels_edges_and_one_shots" by passes "epoll-triggers",
    "epoll_errors_match_linux" by passes "epoll-errors",
    "epoll_events_pass_nested_instances" by passes "epoll-nesting",
    "epoll_interests_end_with_their_file" by passes "epoll-close",
    "epoll_exclusive_events_are_not_lost" by passes "epoll-exclusive",
    "pipe_keeps_the_order_of_bytes" by passes "pipe-bytes",
    "pipe_capacity_limits_writes" by passes "pipe-capacity",
    "pipe_blocks_and_keeps_short_writes_whole" by passes "pipe-blocking",
    "pipe_close_wakes_the_other_end" by passes "pipe-close",
    "pidfd_is_readable_after_the_exit" by passes "pidfd-exits",
    "pidfd_errors_match_linux" by passes "pidfd-errors",
    "pidfd_of_a_clone_is_that_of_the_child" by passes "pidfd-of-clone",
    "zero_full_and_random_devices_match_linux" by passes "memory-devices",
    "files_have_no_extended_attributes" by passes "no-attributes",
    "sockets_send_bytes_in_both_directions" by passes "socket-bytes",
    "socket_halves_end_alone" by passes "socket-halves",
    "socket_close_wakes_the_peer" by passes "socket-blocking",
    "timerfd_counts_expirations" by passes "timer-expirations",
    "timerfd_wakes_waiting_threads" by passes "timer-waits",
    "timerfd_errors_match_linux" by passes "timer-errors",
    "timers_of_cpu_time_expire_with_the_time_of_threads" by passes "cpu-time-timers",
    "ignored_signal_of_a_timer_is_sent_later" by passes "ignored-timers",
    "interval_timer_sends_signals" by passes "interval-timers",
    "posix_timers_send_signals_and_count_overruns" by passes "posix-timers",
    "posix_timer_errors_match_linux" by passes "posix-timer-errors",
    "signal_files_read_pending_signals" by passes "signal-files",
    "vdso_times_agree_with_system_calls" by passes "vdso",
    "limits_are_enforced_or_refused" by passes "limits",
    "thread_names_are_kept_and_inherited" by passes "thread-names",
    "auxiliary_vector_is_copied_by_prctl" by passes "auxiliary-vector",
    "system_and_cpu_time_are_reported" by passes "system-information",
    "affinity_includes_all_cpus" by passes "affinity",
    "alternate_stack_in_use_is_not_changed" by passes "signal-stack-in-use",
    "fork_copies_private_memory_and_shares_the_rest" by passes "fork-memory",
    "mprotect_after_a_fork_keeps_the_other_copy" by passes "fork-protection",
    "waits_report_exits_of_children" by passes "child-exits",
    "sigchld_describes_the_exit_of_a_child" by passes "child-signal",
    "orphans_are_adopted_by_the_root" by passes "orphans",
    "process_groups_receive_signals" by passes "process-groups",
    "exec_passes_arguments_and_closes_descriptors" by passes "exec",
    "exec_from_a_thread_ends_the_others" by passes "exec-thread",
    "process_exhaustion_is_recoverable" by passes "exhaust-processes",
    "fp_registers_survive_context_switches" by passes "float",
    "invalid_pointers_return_efault" by passes "bad-pointers",
    "user_copies_cross_page_borders" by passes "copies-across-pages",
    "strings_end_at_page_borders" by passes "strings-across-pages",
    "unknown_syscalls_return_enosys" by passes "unknown-syscalls",
    "huge_lengths_return_errors" by passes "huge-lengths",
    "syscall_structures_leak_no_kernel_data" by passes "infoleak-structures",
    "registers_leak_no_kernel_data" by passes "infoleak-registers",
    "freed_memory_is_zeroed_on_reuse" by passes "infoleak-reuse",
    "endless_loops_are_preempted" by passes "preemption",
    "edu_copies_between_buffers" by passes_with_edu "edu-copy",
    "edu_copies_pinned_user_pages" by passes_with_edu "edu-user-pages",
    "imported_buffer_outlives_its_cpu_mapping" by passes_with_edu "edu-buffer-lifetime",
    "edu_refuses_invalid_arguments" by passes_with_edu "edu-bad-arguments",
    "release_waits_for_the_copy_of_the_buffer" by passes_with_edu "edu-release-during-copy",
    "fences_are_pending_until_the_copy_ends" by passes_with_edu "edu-fences",
    "edu_imports_ranges_of_a_buffer" by passes_with_edu "edu-import-ranges",
    "import_is_whole_below_the_dma_mask" by passes_with_iommu "edu-import-whole",
    "frame_exhaustion_is_recoverable" by passes "exhaust-buffers",
    "descriptor_exhaustion_is_recoverable" by passes "exhaust-descriptors",
    "thread_exhaustion_is_recoverable" by passes "exhaust-threads",
    "mapping_exhaustion_is_recoverable" by passes "exhaust-mappings",
    "iova_exhaustion_is_recoverable" by passes_with_iommu "exhaust-iova",
    "null_pointer_access_raises_sigsegv" by is_killed "segfault",
    "kernel_address_access_raises_sigsegv" by is_killed "kernel-address",
    "write_after_mprotect_raises_sigsegv" by is_killed "write-after-mprotect",
    "write_to_code_raises_sigsegv" by is_killed "write-code",
    "execution_of_data_raises_sigsegv" by is_killed "execute-data",
    "execution_of_a_buffer_raises_sigsegv" by is_killed "execute-buffer",
    "access_past_a_buffer_raises_sigsegv" by is_killed "beyond-buffer",
    "access_before_a_buffer_raises_sigsegv" by is_killed "before-buffer",
    "write_to_a_read_only_view_raises_sigsegv" by is_killed "read-only-buffer",
    "access_to_an_unmapped_part_raises_sigsegv" by is_killed "munmap-hole",
    "fault_in_one_thread_kills_the_process" by is_killed "fault-in-thread",
    "access_above_the_end_of_a_file_raises_sigbus" by is_killed_by_sigbus "beyond-file",
    "undefined_instruction_raises_sigill" by is_killed_by_sigill "undefined-instruction",
    "write_without_a_reader_raises_sigpipe" by is_killed_by_sigpipe "sigpipe",
    "killed_process_releases_imported_buffers" by is_killed_with_edu "fault-with-import",
};

const SHARED_BUFFER: Test =
    Test { name: "programs.two_processes_share_one_buffer", run: two_processes_share_one_buffer };
const REPEATED_STARTS: Test = Test {
    name: "programs.repeated_starts_and_exits_leak_nothing",
    run: repeated_starts_and_exits_leak_nothing,
};

const DEAD_PROCESS: Test = Test {
    name: "programs.memory_of_a_dead_process_is_not_disclosed",
    run: memory_of_a_dead_process_is_not_disclosed,
};

const DEVICE_BUFFER: Test = Test {
    name: "programs.device_buffer_is_cleared_between_processes",
    run: device_buffer_is_cleared_between_processes,
};

const SECOND_EDU: Test =
    Test { name: "device.second_edu_is_reachable_by_its_node", run: second_edu_is_reachable_by_its_node };

const QUARANTINE: Test =
    Test { name: "programs.quarantined_device_returns_eio", run: quarantined_device_returns_eio };

const FAULTS_BETWEEN_COPIES: Test = Test {
    name: "programs.faults_of_others_do_not_fail_a_transfer",
    run: faults_of_others_do_not_fail_a_transfer,
};

const LOST_EVENTS: Test = Test {
    name: "programs.only_lost_events_quarantine_a_device_below_its_limit",
    run: only_lost_events_quarantine_a_device_below_its_limit,
};

#[cfg(feature = "checking")]
const RUNNING_THREADS: Test = Test {
    name: "programs.signal_and_exit_interrupt_threads_in_user_space",
    run: signal_and_exit_interrupt_threads_in_user_space,
};

fn passes(probe: &str) -> Outcome {
    expect(probe, Termination::Exited(0))
}

fn is_killed(probe: &str) -> Outcome {
    expect(probe, Termination::Killed(Signal::SIGSEGV))
}

fn is_killed_by_sigill(probe: &str) -> Outcome {
    expect(probe, Termination::Killed(Signal::SIGILL))
}

fn is_killed_by_sigpipe(probe: &str) -> Outcome {
    expect(probe, Termination::Killed(Signal::SIGPIPE))
}

fn is_killed_by_sigbus(probe: &str) -> Outcome {
    expect(probe, Termination::Killed(Signal::SIGBUS))
}

fn passes_with_edu(probe: &str) -> Outcome {
    expect_with_edu(probe, Termination::Exited(0))
}

fn is_killed_with_edu(probe: &str) -> Outcome {
    expect_with_edu(probe, Termination::Killed(Signal::SIGSEGV))
}

fn passes_with_iommu(probe: &str) -> Outcome {
    match devices::dma_engines().next() {
        Some(edu) if edu.device().domain().is_translated() => passes(probe),
        _ => skip!("no device behind an IOMMU"),
    }
}

fn expect_with_edu(probe: &str, expected: Termination) -> Outcome {
    match devices::dma_engines().next() {
        None => skip!("no edu device"),
        Some(edu) if !edu.reaches_memory() => {
            skip!("no IOMMU: the edu does not reach the memory of programs")
        }
        Some(_) => expect(probe, expected),
    }
}

fn expect(probe: &str, expected: Termination) -> Outcome {
    expect_arguments(&[probe], expected)
}

fn expect_arguments(arguments: &[&str], expected: Termination) -> Outcome {
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let program = RunningProbe::start(arguments, Vec::new())?;
    let ending = program.process.wait();
    check!(ending == expected, "{ending} instead of {expected}; last output: {}", program.output.last_line());
    drop(program);
    before.settle("afterwards")?;
    pass!("{ending}, no leak")
}

/// Copies through the second device while the IOMMU aborts the DMA of the first.
fn second_edu_is_reachable_by_its_node() -> Outcome {
    let mut engines = devices::dma_engines();
    let (Some(first), Some(second)) = (engines.next(), engines.next()) else { skip!("only one edu device") };
    if !second.device().domain().is_translated() {
        skip!("no IOMMU: the first device cannot be blocked");
    }
    first.device().block().map_err(|error| format!("{error}"))?;
    let by_first = expect_arguments(&["edu-copy", "0"], Termination::Exited(1));
    let by_second = expect_arguments(&["edu-copy", "1"], Termination::Exited(0));
    first.device().unblock().map_err(|error| format!("{error}"))?;
    by_first.and(by_second)
}

/// Runs the probe, and `fault` while it uses the device.
fn passes_while_the_device_faults(
    probe: &str,
    fault: impl FnOnce(&DmaEngineDevice, &RunningProbe) -> Result<(), String>,
) -> Outcome {
    let edu = devices::dma_engines().next().filter(|edu| edu.device().domain().is_translated());
    let Some(edu) = edu else { skip!("no device behind an IOMMU") };
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let program = RunningProbe::start(&[probe], Vec::new())?;
    let faulted = wait_for_line(&program, |line| line == "imported").and_then(|()| fault(edu, &program));
    let ending = program.process.wait();
    faulted?;
    let expected = Termination::Exited(0);
    check!(ending == expected, "{ending} instead of {expected}; last output: {}", program.output.last_line());
    drop(program);
    before.settle("afterwards")?;
    pass!("{ending}, no leak")
}

/// The only fault is that of a single word: the program rearms the device as soon as it sees the quarantine,
/// and further faults would quarantine it again.
fn quarantined_device_returns_eio() -> Outcome {
    passes_while_the_device_faults("edu-quarantine", |edu, _| {
        edu.device().set_fault_limit(1);
        let written = device::write_out(edu, faults::UNMAPPED, 4);
        edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
        written
    })
}

/// The faults are those of single words, so that the device is not quarantined.
fn faults_of_others_do_not_fail_a_transfer() -> Outcome {
    passes_while_the_device_faults("edu-concurrent-faults", |edu, program| {
        while !program.process.is_terminating() {
            device::write_out(edu, faults::UNMAPPED, 4)?;
        }
        Ok(())
    })
}

/// The faults of a page are below the limit. If they overflow the event queue, their number is unknown: the
/// device is quarantined, and the copies of the program return `EIO` until it opens the device again.
fn only_lost_events_quarantine_a_device_below_its_limit() -> Outcome {
    /// Those of a page in pieces of four bytes.
    const FAULTS: u64 = PAGE_SIZE / 4;
    let smmu = devices::dma_engines().next().and_then(|edu| edu.device().smmu());
    let overflows = smmu.is_some_and(|smmu| smmu.features().event_queue_entries() < FAULTS);
    let probe = if overflows { "edu-quarantine" } else { "edu-concurrent-faults" };
    passes_while_the_device_faults(probe, |edu, _| device::write_out(edu, faults::UNMAPPED, PAGE_SIZE))
}

/// The time slices are so long that only an IPI makes the threads enter the kernel. Neither this thread nor
/// the program sleeps with a deadline, whose timer would be such an interrupt.
#[cfg(feature = "checking")]
fn signal_and_exit_interrupt_threads_in_user_space() -> Outcome {
    use crate::debug::LEAST_TIME_SLICE;
    use core::sync::atomic::Ordering;
    const TIME_SLICE_NS: u64 = 60_000_000_000;
    if sched::running_cpus().count_ones() < 2 {
        skip!("one CPU: the threads would wait for each other's time slices");
    }
    let started = sched::time::now();
    LEAST_TIME_SLICE.store(TIME_SLICE_NS, Ordering::Relaxed);
    let outcome = expect_arguments(&["handler-of-running-thread", "exit"], Termination::Exited(0));
    LEAST_TIME_SLICE.store(0, Ordering::Relaxed);
    let time = sched::time::now() - started;
    check!(time < TIME_SLICE_NS, "a thread ran to the end of its time slice: {time} ns");
    outcome
}

fn two_processes_share_one_buffer() -> Outcome {
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    const BYTES: u64 = 6 << 20;
    let before = ResourceSnapshot::now();
    let buffer =
        dma::alloc_unattached(BYTES, Attrs::NO_KERNEL_MAPPING).map_err(|error| format!("{error}"))?;
    let file =
        DmaBufFile::new(buffer, "system").and_then(|file| OpenFile::try_new(file, OpenFlags::READ_WRITE));
    let file = file.map_err(|error| format!("{error}"))?;
    let reader = RunningProbe::start(&["share-read", "3"], Vec::from([file.clone()]))?;
    let writer = RunningProbe::start(&["share-write", "3"], Vec::from([file])).inspect_err(|_| {
        // Without a writer, the reader does not end.
        reader.process.terminate(Termination::Killed(Signal::SIGKILL));
        reader.process.wait();
    })?;
    for (ending, output) in wait_all(&[writer, reader]) {
        check!(ending == Termination::Exited(0), "{ending}; last output: {output}");
    }
    before.settle("afterwards")?;
    pass!("{BYTES:#x} bytes from one process to the other")
}

/// Waits for programs that wait for each other; if one fails, the others are killed. Returns how each
/// ended, and the last line of its output.
fn wait_all(programs: &[RunningProbe]) -> Vec<(Termination, String)> {
    loop {
        let (ended, running): (Vec<_>, Vec<_>) =
            programs.iter().partition(|program| program.process.is_terminating());
        let failed = ended.iter().any(|program| program.process.wait() != Termination::Exited(0));
        if running.is_empty() {
            break;
        }
        if failed {
            running
                .iter()
                .for_each(|program| _ = program.process.terminate(Termination::Killed(Signal::SIGKILL)));
        }
        _ = sched::sleep_until(sched::time::now() + 1_000_000);
    }
    programs.iter().map(|program| (program.process.wait(), program.output.last_line())).collect()
}

fn repeated_starts_and_exits_leak_nothing() -> Outcome {
    if !root::is_mounted() {
        skip!("no initramfs");
    }
    let before = ResourceSnapshot::now();
    let rounds = debug::scaled(25);
    for round in 0..rounds {
        let started = ["hello", "segfault", "threads", "anonymous"]
            .map(|probe| RunningProbe::start(&[probe], Vec::new()));
        for program in started {
            let program = program.map_err(|error| format!("round {round}: {error}"))?;
            program.process.wait();
        }
    }
    before.settle("afterwards")?;
    pass!("{} programs, four concurrently", 4 * rounds)
}

/// A program fills all kinds of memory and is killed; the next one allocates the same memory and searches it.
fn memory_of_a_dead_process_is_not_disclosed() -> Outcome {
    for _ in 0..2 {
        if let verdict @ Verdict::Skip(_) = is_killed("infoleak-fill")? {
            return Ok(verdict);
        }
        passes("infoleak-scan")?;
    }
    pass!("twice: heaps, stacks and buffers")
}

fn device_buffer_is_cleared_between_processes() -> Outcome {
    for _ in 0..2 {
        if let verdict @ Verdict::Skip(_) = expect_with_edu("edu-fill-buffer", Termination::Exited(0))? {
            return Ok(verdict);
        }
        passes("edu-scan-buffer")?;
    }
    pass!("twice: the device's buffer is zero for the next process")
}

/// A running probe and its output.
pub(crate) struct RunningProbe {
    pub process: Arc<Process>,
    pub output: Arc<OutputTail>,
}

impl RunningProbe {
    /// Starts the probe with these arguments, and with `extra` files as descriptors 3 and up.
    pub fn start(arguments: &[&str], extra: Vec<Arc<OpenFile>>) -> Result<Self, String> {
        let output = Arc::new(OutputTail(SpinLock::new(Vec::new())));
        let file = Arc::new(OpenFile::new(OutputFile(output.clone()), OpenFlags::READ_WRITE));
        let mut files = Vec::from([file.clone(), file.clone(), file]);
        files.extend(extra);
        let mut environment = Vec::from(ENVIRONMENT);
        environment.extend((debug::scaled(10) < 10).then_some("ROUNDS=few"));
        let launch = Launch { path: PROBE, arguments, environment: &environment, files: &files };
        let process = start(&launch).map_err(|error| format!("{PROBE}: {error}"))?;
        Ok(Self { process, output })
    }
}

/// The end of a program's output.
pub(crate) struct OutputTail(SpinLock<Vec<u8>>);

impl OutputTail {
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
        text.lines().next_back().unwrap_or("none").into()
    }
}

/// The standard output and error of a probe.
struct OutputFile(Arc<OutputTail>);

impl File for OutputFile {
    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let mut piece = [0; 256];
        let piece = &mut piece[..len.min(256)];
        memory.read_bytes(from, piece)?;
        self.0.add(piece);
        Ok(piece.len())
    }
}
