//! The host tool behind the Makefile: builds the image and the initramfs, boots them in QEMU, and checks the
//! console.
//!
//! `cargo xtask VERB` ([`verbs`]), with the parameters of [`knobs::Knobs`] in the environment.

use std::process::ExitCode;

mod apt;
mod artifacts;
mod bench;
mod boards;
mod check;
mod command;
mod counts;
mod disk;
mod dma_left_running;
#[cfg(test)]
mod documents;
mod dtb;
mod el3_wrapper;
mod elf_file;
mod error;
mod expectation;
mod flash;
mod foreign;
mod glob;
mod host;
mod image;
mod initramfs;
mod inject;
mod irqsoff;
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
mod verbs;
mod workspace;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match verbs::run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
