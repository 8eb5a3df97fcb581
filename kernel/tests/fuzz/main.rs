//! Fuzz tests of all parsers of untrusted input: an error is a valid outcome, a panic or a hang is a failure.
//! Each target runs for a second in `cargo test` and for a minute in `make fuzz`.

mod fuzzer;
#[path = "../host_memory/mod.rs"]
mod host_memory;
mod syscall_seeds;
mod syscalls;
mod targets;

use fuzzer::{FuzzTarget, fuzz};
use kernel::fs;
use std::time::Duration;

fn run(name: &str, target: FuzzTarget, mut seeds: Vec<Vec<u8>>) {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: must be a number")),
        Err(_) => default,
    };
    let (seconds, seed) = (number("FUZZ_SECONDS", 1), number("FUZZ_SEED", 0x7e55e7a));
    seeds.extend(regression_seeds(name));
    let statistics = fuzz(target, seeds, seed, Duration::from_secs(seconds));
    println!("{name}: {statistics:?}");
    assert!(statistics.inputs > 0 && statistics.outcomes > 1, "{statistics:?}");
}

/// Stored inputs that failed in the past.
fn regression_seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let of_target = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")))
    };
    files.filter(of_target).map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn device_tree_parser_never_panics() {
    run("device_tree", targets::device_tree, targets::device_trees());
}

#[test]
fn initramfs_parser_never_panics() {
    run("archive", targets::archive, targets::archives());
}

#[test]
fn elf_parser_never_panics() {
    run("executable", targets::executable, targets::executables());
}

#[test]
fn event_record_decoder_never_panics() {
    run("event_records", targets::event_records, targets::records());
}

#[test]
fn pci_enumeration_never_panics() {
    run("configuration", targets::configuration, targets::configurations());
}

#[test]
fn system_calls_never_panic_or_leak_frames() {
    host_memory::boot();
    fs::init();
    kernel::proc::init("");
    kernel::sysfs::init();
    syscalls::mount_files();
    syscall_seeds::seeds().iter().for_each(|seed| syscalls::check_seed(seed));
    run("syscalls", syscalls::syscalls, syscall_seeds::seeds());
}

#[test]
fn boot_argument_parser_never_panics() {
    run("arguments", targets::arguments, targets::command_lines());
}

#[test]
fn glob_matcher_never_panics() {
    run("patterns", targets::patterns, targets::pattern_seeds());
}
