//! One program, many probes: `probe NAME [ARGUMENT..]` does one thing and says whether it went as it must.
//!
//! The last line is `probe: NAME: PASS`, or `FAIL` with what was seen; the exit status is 0 or 1. A probe of the kind
//! [`End::Killed`] does what no program may: it passes by being ended with that signal, and says `FAIL` if it survives.
//! `probe list` prints all names with their ends, `probe all` runs those that need neither argument nor death.

use std::process::ExitCode;

use crate::outcome::{Outcome, ensure};

mod death;
mod device;
mod exhaust;
mod files;
mod fuzz;
mod hostile;
mod lengths;
mod memory;
mod outcome;
mod pages;
mod raw;
mod rounds;
mod secrets;
mod share;
mod start;
mod steady;
mod threads;
mod time;

/// How a probe ends when all is well.
#[derive(Clone, Copy)]
enum End {
    /// By itself, with status 0.
    Passes,
    /// By itself, with arguments, or from outside: `all` leaves it out.
    Asked,
    /// By this signal.
    Killed(&'static str),
}

/// A name, how it ends, and what it does with its arguments.
type Probe = (&'static str, End, fn(&[String]) -> Outcome);

const PROBES: &[Probe] = &[
    ("hello", End::Passes, start::hello),
    ("args", End::Passes, start::arguments),
    ("exit", End::Asked, start::exit),
    ("files", End::Passes, files::tree),
    ("checksum", End::Asked, files::checksum),
    ("read-only", End::Passes, files::read_only),
    ("descriptors", End::Passes, files::descriptors),
    ("time", End::Passes, time::clocks),
    ("random", End::Passes, time::random),
    ("anonymous", End::Passes, memory::anonymous),
    ("heap-growth", End::Passes, memory::heap_growth),
    ("zeroes", End::Passes, memory::zeroes),
    ("buffer-size", End::Passes, memory::buffer_size),
    ("view-outlives-fd", End::Passes, memory::view_outlives_descriptor),
    ("munmap-parts", End::Passes, pages::unmap_parts),
    ("mremap", End::Passes, pages::remap),
    ("map-at-once", End::Passes, pages::map_at_once),
    ("mprotect", End::Passes, pages::protect),
    ("threads", End::Passes, threads::locks_and_channels),
    ("float", End::Passes, threads::floating_point),
    ("hostile", End::Passes, hostile::bad_pointers),
    ("unknown-calls", End::Passes, hostile::unknown_calls),
    ("fuzz", End::Asked, fuzz::fuzz),
    ("rest", End::Asked, steady::rest),
    ("work", End::Asked, steady::work),
    ("huge-lengths", End::Passes, lengths::huge),
    ("secret-structures", End::Passes, secrets::structures),
    ("secret-registers", End::Passes, secrets::registers),
    ("secret-fresh", End::Passes, secrets::fresh),
    ("secret-find", End::Passes, secrets::find),
    ("edu-copy", End::Passes, device::copy),
    ("edu-pages", End::Passes, device::pages),
    ("edu-hold", End::Passes, device::hold),
    ("edu-refuses", End::Passes, device::refuses),
    ("edu-leave", End::Passes, device::leave),
    ("edu-look", End::Asked, device::look),
    ("edu-quarantine", End::Passes, device::quarantine),
    ("edu-neighbour", End::Passes, device::neighbour),
    ("exhaust-buffers", End::Passes, exhaust::buffers),
    ("exhaust-descriptors", End::Passes, exhaust::descriptors),
    ("exhaust-threads", End::Passes, exhaust::threads),
    ("exhaust-addresses", End::Passes, exhaust::addresses),
    ("exhaust-mappings", End::Passes, exhaust::mappings),
    ("churn", End::Asked, exhaust::churn),
    // Its threads go on until the program ends, so it comes last of those that pass.
    ("loops", End::Passes, threads::endless_loops),
    ("share-write", End::Asked, share::write),
    ("share-read", End::Asked, share::read),
    ("segfault", End::Killed("SIGSEGV"), death::null),
    ("kernel-address", End::Killed("SIGSEGV"), death::kernel_address),
    ("write-code", End::Killed("SIGSEGV"), death::write_code),
    ("execute-data", End::Killed("SIGSEGV"), death::execute_data),
    ("execute-buffer", End::Killed("SIGSEGV"), death::execute_buffer),
    ("beyond-buffer", End::Killed("SIGSEGV"), death::beyond_buffer),
    ("before-buffer", End::Killed("SIGSEGV"), death::before_buffer),
    ("read-only-buffer", End::Killed("SIGSEGV"), death::write_read_only_buffer),
    ("munmap-hole", End::Killed("SIGSEGV"), death::unmapped_hole),
    ("die-in-thread", End::Killed("SIGSEGV"), death::in_a_thread),
    ("undefined", End::Killed("SIGILL"), death::undefined_instruction),
    ("secret-leave", End::Killed("SIGSEGV"), secrets::leave),
    ("die-holding", End::Killed("SIGSEGV"), device::die_holding),
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
            println!("probe NAME [ARGUMENT..]; `probe list` names them");
            ExitCode::FAILURE
        }
    }
}

fn run((name, end, body): &Probe, arguments: &[String]) -> ExitCode {
    let outcome = body(arguments).and_then(|()| match end {
        End::Killed(signal) => ensure(false, || format!("survived what should end it by {signal}")),
        End::Passes | End::Asked => Ok(()),
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
    for (name, end, _) in PROBES {
        match end {
            End::Passes => println!("{name} passes"),
            End::Asked => println!("{name} needs arguments"),
            End::Killed(signal) => println!("{name} is ended by {signal}"),
        }
    }
    ExitCode::SUCCESS
}

fn all() -> ExitCode {
    let wanted = PROBES.iter().filter(|probe| matches!(probe.1, End::Passes));
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

    /// What needs no device must hold on the Linux that builds this, too: the probes are measured, not only the kernel.
    #[test]
    fn linux_passes_what_needs_no_device() {
        let portable: [fn(&[String]) -> Outcome; 12] = [
            start::hello,
            files::tree,
            files::descriptors,
            time::clocks,
            time::random,
            memory::anonymous,
            memory::heap_growth,
            pages::unmap_parts,
            pages::protect,
            threads::locks_and_channels,
            threads::endless_loops,
            threads::floating_point,
        ];
        for (n, probe) in portable.into_iter().enumerate() {
            if let Err(failure) = probe(&[]) {
                panic!("probe {n}: {failure}");
            }
        }
    }
}
