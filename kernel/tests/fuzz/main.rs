//! Inputs that nobody made on purpose, for everything that reads input from outside: an error is fine, a panic or a hang
//! is not. A second each in `cargo test`; `make fuzz` takes a minute each.

mod host;
mod mutate;
mod programs;
mod syscalls;
mod targets;

use mutate::{Target, fuzz};
use std::time::Duration;

fn run(name: &str, target: Target, mut seeds: Vec<Vec<u8>>) {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    };
    let (seconds, seed) = (number("FUZZ_SECONDS", 1), number("FUZZ_SEED", 0x7e55e7a));
    seeds.extend(kept(name));
    let tally = fuzz(target, seeds, seed, Duration::from_secs(seconds));
    println!("{name}: {tally:?}");
    assert!(tally.inputs > 0 && tally.outcomes > 1, "{tally:?}");
}

/// The inputs that were trouble once.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let of_target = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")))
    };
    files.filter(of_target).map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn device_trees() {
    run("device_tree", targets::device_tree, targets::device_trees());
}

#[test]
fn archives() {
    run("archive", targets::archive, targets::archives());
}

#[test]
fn executables() {
    run("executable", targets::executable, targets::executables());
}

#[test]
fn event_records() {
    run("event_records", targets::event_records, targets::records());
}

#[test]
fn configuration_spaces() {
    run("configuration", targets::configuration, targets::configurations());
}

#[test]
fn system_calls() {
    host::boot(targets::archives().remove(0).leak());
    programs::seeds().iter().for_each(|seed| syscalls::check_seed(seed));
    run("syscalls", syscalls::syscalls, programs::seeds());
}

#[test]
fn boot_arguments() {
    run("arguments", targets::arguments, targets::command_lines());
}

#[test]
fn glob_patterns() {
    run("patterns", targets::patterns, targets::pattern_seeds());
}
