//! Tests of the system call interface: `probe NAME [ARGUMENT..]` runs one probe.
//!
//! The last line is `probe: NAME: PASS`, or `FAIL` with a description; the exit status is 0 or 1. A probe
//! with [`Expectation::KilledBy`] performs an invalid access: it passes if it is killed by that signal, and
//! prints `FAIL` if it survives. `probe list` prints all names and expectations, `probe all` runs those with
//! [`Expectation::Pass`].

use std::process::ExitCode;

use crate::result::{ProbeResult, ensure};

mod background;
mod bad_pointers;
mod blocks;
mod borders;
mod device;
mod epolls;
mod exhaust;
mod fatal;
mod file_maps;
mod files;
mod futexes;
mod fuzz;
mod handlers;
mod huge_lengths;
mod import_range;
mod infoleak;
mod iterations;
mod memory;
mod memory_devices;
mod memory_locks;
mod memory_set;
mod pages;
mod pi_futexes;
mod pidfds;
mod pipes;
mod pointer_authentication;
mod proc;
mod processes;
mod raw;
mod result;
mod share;
mod signal_timers;
mod signals;
mod sockets;
mod start;
mod sync_files;
mod system;
mod terminal;
mod threads;
mod time;
mod timers;
mod tmpfs;
mod vdso;

/// The expected end of a probe.
#[derive(Clone, Copy)]
enum Expectation {
    /// Exit status 0.
    Pass,
    /// Needs arguments or must be killed; not run by `probe all`.
    Manual,
    /// Killed by this signal.
    KilledBy(&'static str),
}

/// Name, expected end, and function.
type Probe = (&'static str, Expectation, fn(&[String]) -> ProbeResult);

const PROBES: &[Probe] = &[
    ("hello", Expectation::Pass, start::hello),
    ("args", Expectation::Pass, start::arguments),
    ("exit", Expectation::Manual, start::exit),
    ("files", Expectation::Pass, files::tree),
    ("checksum", Expectation::Manual, files::checksum),
    ("read-only", Expectation::Pass, files::read_only),
    ("proc-own-process", Expectation::Pass, proc::own_process),
    ("proc-threads", Expectation::Pass, proc::threads),
    ("proc-descriptors", Expectation::Pass, proc::descriptors),
    ("proc-maps", Expectation::Pass, proc::maps),
    ("proc-texts", Expectation::Pass, proc::texts),
    ("proc-exited-process", Expectation::Pass, proc::exited_process),
    ("proc-churn", Expectation::Pass, proc::churn),
    ("proc-machine", Expectation::Pass, proc::machine),
    ("sys-devices", Expectation::Pass, proc::devices),
    ("tmpfs-content", Expectation::Pass, tmpfs::content),
    ("tmpfs-faults", Expectation::Pass, tmpfs::faults),
    ("tmpfs-names", Expectation::Pass, tmpfs::names),
    ("tmpfs-links", Expectation::Pass, tmpfs::links),
    ("tmpfs-listing", Expectation::Pass, tmpfs::listing),
    ("tmpfs-attributes", Expectation::Pass, tmpfs::attributes),
    ("tmpfs-directory", Expectation::Pass, tmpfs::current_directory),
    ("memory-files", Expectation::Pass, tmpfs::memory_files),
    ("tmpfs-mappings", Expectation::Pass, tmpfs::mappings),
    ("tmpfs-sealed-mappings", Expectation::Pass, tmpfs::sealed_mappings),
    ("descriptors", Expectation::Pass, files::descriptors),
    ("file-attributes", Expectation::Pass, files::attributes),
    ("buffer-attributes", Expectation::Pass, files::buffer_attributes),
    ("heap-ioctl-sizes", Expectation::Pass, files::heap_ioctl_sizes),
    ("buffer-names", Expectation::Pass, sync_files::names),
    ("terminal-modes", Expectation::Pass, terminal::modes),
    ("terminal-input", Expectation::Manual, terminal::input),
    ("sync-files", Expectation::Pass, sync_files::idle),
    ("time", Expectation::Pass, time::clocks),
    ("cpu-time", Expectation::Pass, time::cpu_time),
    ("clock-ids", Expectation::Pass, time::clock_ids),
    ("random", Expectation::Pass, time::random),
    ("anonymous", Expectation::Pass, memory::anonymous),
    ("heap-growth", Expectation::Pass, memory::heap_growth),
    ("zeroed-buffers", Expectation::Pass, memory::zeroed_buffers),
    ("memory-set", Expectation::Pass, memory_set::restarts),
    ("buffer-size", Expectation::Pass, memory::buffer_size),
    ("view-outlives-fd", Expectation::Pass, memory::view_outlives_descriptor),
    ("blocks", Expectation::Pass, blocks::parts),
    ("blocks-forked", Expectation::Pass, blocks::forked),
    ("blocks-threads", Expectation::Pass, blocks::threads),
    ("huge-pages", Expectation::Pass, blocks::huge),
    ("huge-page-arguments", Expectation::Pass, blocks::huge_arguments),
    ("munmap-parts", Expectation::Pass, pages::unmap_parts),
    ("munmap-range", Expectation::Pass, pages::unmap_range),
    ("discard", Expectation::Pass, pages::discard),
    ("advice", Expectation::Pass, pages::advice),
    ("memory-locks", Expectation::Pass, memory_locks::locks),
    ("memory-locks-all", Expectation::Pass, memory_locks::all),
    ("memory-residency", Expectation::Pass, memory_locks::residency),
    ("mprotect-hole", Expectation::Pass, pages::protect_hole),
    ("mremap", Expectation::Pass, pages::remap),
    ("mremap-moves", Expectation::Pass, file_maps::moves),
    ("map-file", Expectation::Pass, file_maps::private),
    ("map-file-end", Expectation::Pass, file_maps::end_of_file),
    ("concurrent-mmap", Expectation::Pass, pages::concurrent_mmap),
    ("mprotect", Expectation::Pass, pages::protect),
    ("threads", Expectation::Pass, threads::locks_and_channels),
    ("futex-wait", Expectation::Pass, futexes::waits),
    ("futex-wake", Expectation::Pass, futexes::wakes),
    ("futex-requeue", Expectation::Pass, futexes::requeues),
    ("futex-owner-died", Expectation::Pass, futexes::owner_died),
    ("futex-bad-words", Expectation::Pass, futexes::bad_words),
    ("pi-futex-owners", Expectation::Pass, pi_futexes::owners),
    ("pi-futex-exits", Expectation::Pass, pi_futexes::exited_owner),
    ("pi-futex-arguments", Expectation::Pass, pi_futexes::arguments),
    ("pi-futex-requeue", Expectation::Pass, pi_futexes::requeues),
    ("robust-unlock", Expectation::Pass, pi_futexes::robust_unlock),
    ("scheduling-policies", Expectation::Pass, system::scheduling),
    ("signals-ignored", Expectation::Pass, signals::ignored),
    ("handler", Expectation::Pass, handlers::called),
    ("handler-of-fault", Expectation::Pass, handlers::fault),
    ("handler-of-running-thread", Expectation::Pass, handlers::running),
    ("handler-masks", Expectation::Pass, handlers::masks),
    ("handler-stack", Expectation::Pass, handlers::alternate_stack),
    ("handler-interrupts", Expectation::Pass, handlers::interrupted),
    ("signals-awaited", Expectation::Pass, handlers::awaited),
    ("signal-arguments", Expectation::Pass, signals::arguments),
    ("eventfd", Expectation::Pass, epolls::eventfds),
    ("poll", Expectation::Pass, epolls::polls),
    ("select", Expectation::Pass, epolls::selects),
    ("epoll-triggers", Expectation::Pass, epolls::epoll_triggers),
    ("epoll-errors", Expectation::Pass, epolls::epoll_errors),
    ("epoll-nesting", Expectation::Pass, epolls::epoll_nesting),
    ("epoll-close", Expectation::Pass, epolls::epoll_close),
    ("epoll-exclusive", Expectation::Pass, epolls::epoll_exclusive),
    ("pipe-bytes", Expectation::Pass, pipes::bytes),
    ("pipe-capacity", Expectation::Pass, pipes::capacity),
    ("pipe-blocking", Expectation::Pass, pipes::blocking),
    ("pipe-close", Expectation::Pass, pipes::closed_ends),
    ("pidfd-exits", Expectation::Pass, pidfds::exits),
    ("pidfd-information", Expectation::Pass, pidfds::information),
    ("pidfd-errors", Expectation::Pass, pidfds::errors),
    ("pidfd-of-clone", Expectation::Pass, pidfds::of_clone),
    ("memory-devices", Expectation::Pass, memory_devices::devices),
    ("no-attributes", Expectation::Pass, memory_devices::nothing),
    ("socket-bytes", Expectation::Pass, sockets::bytes),
    ("socket-halves", Expectation::Pass, sockets::halves),
    ("socket-blocking", Expectation::Pass, sockets::blocking),
    ("timer-expirations", Expectation::Pass, timers::expirations),
    ("timer-waits", Expectation::Pass, timers::waits),
    ("timer-errors", Expectation::Pass, timers::errors),
    ("interval-timers", Expectation::Pass, signal_timers::interval),
    ("posix-timers", Expectation::Pass, signal_timers::posix),
    ("cpu-time-timers", Expectation::Pass, signal_timers::cpu_time),
    ("ignored-timers", Expectation::Pass, signal_timers::ignored),
    ("posix-timer-errors", Expectation::Pass, signal_timers::errors),
    ("signal-files", Expectation::Pass, signal_timers::signal_files),
    ("vdso", Expectation::Pass, vdso::times),
    ("limits", Expectation::Pass, system::limits),
    ("thread-names", Expectation::Pass, system::names),
    ("auxiliary-vector", Expectation::Pass, system::auxiliary_vector),
    ("system-information", Expectation::Pass, system::information),
    ("affinity", Expectation::Pass, system::affinity),
    ("signal-stack-in-use", Expectation::Pass, handlers::stack_in_use),
    ("float", Expectation::Pass, threads::floating_point),
    ("bad-pointers", Expectation::Pass, bad_pointers::bad_pointers),
    ("copies-across-pages", Expectation::Pass, borders::copies),
    ("strings-across-pages", Expectation::Pass, borders::strings),
    ("unknown-syscalls", Expectation::Pass, bad_pointers::unknown_syscalls),
    ("fuzz", Expectation::Manual, fuzz::fuzz),
    ("idle", Expectation::Manual, background::idle),
    ("busy", Expectation::Manual, background::busy),
    ("console-write", Expectation::Manual, background::console_write),
    ("console-vector", Expectation::Manual, background::console_vector),
    ("pacga", Expectation::Manual, pointer_authentication::generic_code),
    ("huge-lengths", Expectation::Pass, huge_lengths::huge_lengths),
    ("infoleak-structures", Expectation::Pass, infoleak::structures),
    ("infoleak-registers", Expectation::Pass, infoleak::registers),
    ("infoleak-reuse", Expectation::Pass, infoleak::reuse),
    ("infoleak-scan", Expectation::Pass, infoleak::scan),
    ("edu-copy", Expectation::Pass, device::copy),
    ("edu-user-pages", Expectation::Pass, device::user_pages),
    ("edu-buffer-lifetime", Expectation::Pass, device::buffer_lifetime),
    ("edu-bad-arguments", Expectation::Pass, device::bad_arguments),
    ("edu-import-ranges", Expectation::Pass, import_range::ranges),
    ("edu-import-whole", Expectation::Pass, import_range::whole),
    ("edu-fill-buffer", Expectation::Pass, device::fill_buffer),
    ("edu-scan-buffer", Expectation::Manual, device::scan_buffer),
    ("edu-fences", Expectation::Pass, sync_files::pending),
    ("edu-hold", Expectation::Manual, device::hold),
    ("edu-foreign-address", Expectation::Manual, device::foreign_address),
    ("edu-release-during-copy", Expectation::Pass, device::release_during_copy),
    ("edu-quarantine", Expectation::Manual, device::quarantine),
    ("edu-concurrent-faults", Expectation::Pass, device::concurrent_faults),
    ("exhaust-buffers", Expectation::Pass, exhaust::buffers),
    ("exhaust-descriptors", Expectation::Pass, exhaust::descriptors),
    ("exhaust-threads", Expectation::Pass, exhaust::threads),
    ("exhaust-iova", Expectation::Pass, exhaust::iova),
    ("exhaust-mappings", Expectation::Pass, exhaust::mappings),
    ("churn", Expectation::Manual, exhaust::churn),
    ("fork-memory", Expectation::Pass, processes::memory),
    ("fork-protection", Expectation::Pass, processes::protection),
    ("child-exits", Expectation::Pass, processes::exits),
    ("child-stops", Expectation::Pass, processes::stops),
    ("child-signal", Expectation::Pass, processes::child_signal),
    ("orphans", Expectation::Pass, processes::orphans),
    ("process-groups", Expectation::Pass, processes::groups),
    ("print-start", Expectation::Manual, processes::print_start),
    ("exec", Expectation::Pass, processes::exec),
    ("exec-thread", Expectation::Pass, processes::exec_from_a_thread),
    ("exhaust-processes", Expectation::Manual, processes::exhaust),
    // Last of the passing probes, since its threads run until the program exits.
    ("preemption", Expectation::Pass, threads::preemption),
    ("share-write", Expectation::Manual, share::write),
    ("share-read", Expectation::Manual, share::read),
    ("segfault", Expectation::KilledBy("SIGSEGV"), fatal::null),
    ("kernel-address", Expectation::KilledBy("SIGSEGV"), fatal::kernel_address),
    ("write-after-mprotect", Expectation::KilledBy("SIGSEGV"), fatal::write_after_mprotect),
    ("write-code", Expectation::KilledBy("SIGSEGV"), fatal::write_code),
    ("execute-data", Expectation::KilledBy("SIGSEGV"), fatal::execute_data),
    ("execute-buffer", Expectation::KilledBy("SIGSEGV"), fatal::execute_buffer),
    ("beyond-buffer", Expectation::KilledBy("SIGSEGV"), fatal::beyond_buffer),
    ("before-buffer", Expectation::KilledBy("SIGSEGV"), fatal::before_buffer),
    ("read-only-buffer", Expectation::KilledBy("SIGSEGV"), fatal::write_read_only_buffer),
    ("munmap-hole", Expectation::KilledBy("SIGSEGV"), fatal::unmapped_hole),
    ("fault-in-thread", Expectation::KilledBy("SIGSEGV"), fatal::in_thread),
    ("beyond-file", Expectation::KilledBy("SIGBUS"), file_maps::beyond_file),
    ("undefined-instruction", Expectation::KilledBy("SIGILL"), fatal::undefined_instruction),
    ("sigpipe", Expectation::KilledBy("SIGPIPE"), pipes::sigpipe),
    ("infoleak-fill", Expectation::KilledBy("SIGSEGV"), infoleak::fill),
    ("fault-with-import", Expectation::KilledBy("SIGSEGV"), device::fault_with_import),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((name, _)) if name == "list" => list(),
        Some((name, _)) if name == "all" => all(),
        Some((name, rest)) => match PROBES.iter().find(|probe| probe.0 == name.as_str()) {
            Some(probe) => run(probe, rest),
            None => {
                println!("probe: {name}: FAIL no such probe");
                ExitCode::FAILURE
            }
        },
        None => {
            println!("usage: probe NAME [ARGUMENT..]; `probe list` prints all names");
            ExitCode::FAILURE
        }
    }
}

fn run((name, expectation, body): &Probe, arguments: &[String]) -> ExitCode {
    let outcome = body(arguments).and_then(|()| match expectation {
        Expectation::KilledBy(signal) => ensure(false, || format!("not killed by {signal}")),
        Expectation::Pass | Expectation::Manual => Ok(()),
    });
    match outcome {
        Ok(()) => {
            println!("probe: {name}: PASS");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("probe: {name}: FAIL {failure}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> ExitCode {
    for (name, expectation, _) in PROBES {
        match expectation {
            Expectation::Pass => println!("{name} passes"),
            Expectation::Manual => println!("{name} is started manually"),
            Expectation::KilledBy(signal) => println!("{name} is killed by {signal}"),
        }
    }
    ExitCode::SUCCESS
}

fn all() -> ExitCode {
    let wanted = PROBES.iter().filter(|probe| matches!(probe.1, Expectation::Pass));
    let failed = wanted.filter(|probe| run(probe, &[]) != ExitCode::SUCCESS).count();
    println!("probe: all: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = PROBES.iter().map(|probe| probe.0).collect();
        assert_eq!(names.len(), PROBES.len());
    }

    /// Probes without a device also pass on the Linux build host, which validates the probes themselves.
    #[test]
    fn portable_probes_pass_on_linux() {
        let portable: [fn(&[String]) -> ProbeResult; 116] = [
            processes::memory,
            processes::protection,
            processes::exits,
            processes::child_signal,
            processes::stops,
            processes::orphans,
            processes::groups,
            start::hello,
            files::tree,
            proc::own_process,
            proc::threads,
            proc::descriptors,
            proc::maps,
            proc::texts,
            proc::exited_process,
            proc::churn,
            proc::machine,
            proc::devices,
            tmpfs::content,
            tmpfs::faults,
            tmpfs::names,
            tmpfs::links,
            tmpfs::listing,
            tmpfs::attributes,
            tmpfs::current_directory,
            tmpfs::memory_files,
            tmpfs::mappings,
            tmpfs::sealed_mappings,
            files::descriptors,
            files::attributes,
            terminal::modes,
            time::clocks,
            time::random,
            time::cpu_time,
            time::clock_ids,
            memory::anonymous,
            memory::heap_growth,
            blocks::parts,
            blocks::forked,
            blocks::threads,
            blocks::huge,
            blocks::huge_arguments,
            pages::unmap_parts,
            pages::unmap_range,
            pages::discard,
            pages::advice,
            pages::protect_hole,
            memory_locks::locks,
            memory_locks::all,
            memory_locks::residency,
            pages::protect,
            borders::copies,
            borders::strings,
            futexes::waits,
            futexes::wakes,
            futexes::requeues,
            futexes::owner_died,
            futexes::bad_words,
            pi_futexes::owners,
            pi_futexes::exited_owner,
            pi_futexes::arguments,
            pi_futexes::requeues,
            pi_futexes::robust_unlock,
            system::scheduling,
            signals::ignored,
            signals::arguments,
            handlers::called,
            handlers::fault,
            handlers::running,
            handlers::masks,
            handlers::alternate_stack,
            handlers::interrupted,
            handlers::awaited,
            epolls::eventfds,
            epolls::polls,
            epolls::selects,
            epolls::epoll_triggers,
            epolls::epoll_errors,
            epolls::epoll_nesting,
            epolls::epoll_close,
            epolls::epoll_exclusive,
            pipes::bytes,
            pipes::capacity,
            pipes::blocking,
            pipes::closed_ends,
            pidfds::exits,
            pidfds::errors,
            pidfds::information,
            pidfds::of_clone,
            memory_devices::devices,
            memory_devices::nothing,
            sockets::bytes,
            sockets::halves,
            sockets::blocking,
            file_maps::moves,
            file_maps::private,
            file_maps::end_of_file,
            timers::expirations,
            timers::waits,
            timers::errors,
            signal_timers::interval,
            signal_timers::posix,
            signal_timers::errors,
            signal_timers::cpu_time,
            signal_timers::ignored,
            signal_timers::signal_files,
            vdso::times,
            system::limits,
            system::names,
            system::auxiliary_vector,
            system::information,
            system::affinity,
            handlers::stack_in_use,
            threads::locks_and_channels,
            threads::preemption,
            threads::floating_point,
        ];
        for (n, probe) in portable.into_iter().enumerate() {
            if let Err(failure) = probe(&[]) {
                panic!("probe {n}: {failure}");
            }
        }
    }
}
