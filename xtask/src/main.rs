//! The host tool behind the Makefile: builds the image and the initramfs, boots them in QEMU, and checks the console.
//!
//! `cargo xtask <verb>`, with the knobs of [`knobs::Knobs`] in the environment. Nothing depends on this crate.

use std::process::ExitCode;

use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::knobs::Knobs;

mod apt;
mod artifacts;
mod bench;
mod boards;
mod check;
mod command;
mod counts;
mod disk;
mod dma_left_running;
mod dtb;
mod el3_wrapper;
mod elf_file;
mod error;
mod expectation;
mod flash;
mod host;
mod image;
mod initramfs;
mod inject;
mod knobs;
mod loom;
mod machine;
mod malformed_trees;
mod matrix;
mod miri;
mod modules;
mod mutants;
mod names;
mod prepare;
mod progress;
mod prose;
mod qemu;
mod raspberry_pi;
mod run;
mod same_image;
mod screen;
mod skips;
mod source;
mod suite;
mod tools;
mod trace;
mod workspace;

const USAGE: &str =
    "usage: cargo xtask build | run | image | test [CASE..] | inject [WORD..] | mutants [WORD..] | modules [FROM TO] | names | prose [PATH..] | loom | miri [WORD..] | check | bench [GLOB | --bless | ..] | debug
knobs (environment): BOARD MEM SMP APPEND QEMU_ARGS INITRD";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    match dispatch(&verb, &rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: &str, rest: &[String]) -> Result<ExitCode> {
    let knobs = Knobs::from_environment();
    match verb {
        "build" => artifacts::build().map(|_| ExitCode::SUCCESS),
        "run" => run::interactive(&knobs),
        "debug" => run::debug(&knobs),
        "test" => suite::test(rest).map(conclude),
        "bench" => bench::bench(rest).map(conclude),
        "image" => flash::images(&knobs).map(|()| ExitCode::SUCCESS),
        "inject" => inject::inject(rest).map(conclude),
        "mutants" => mutants::mutants(rest).map(conclude),
        "miri" => miri::test(rest).map(conclude),
        "modules" => modules::check(rest).map(conclude),
        "names" => names::list().map(conclude),
        "prose" => prose::check(rest).map(conclude),
        "loom" => loom::test().map(conclude),
        "check" => check::check().map(conclude),
        _ => Err(Error::Usage(USAGE)),
    }
}

/// Prints the last line of a verb, and returns the matching exit status.
fn conclude(counts: TestCounts) -> ExitCode {
    println!("{counts}");
    if counts.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
