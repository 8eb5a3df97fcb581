//! The kernel's memory and DMA core on a machine with caches, for a device that does not snoop them.

mod machine;
mod misuse;
mod mutants;
mod program;

use addr::{AddrRange, PhysAddr};
use arch::boot::BootInfo;
use kernel::memory::{self, Sizes};
use machine::{Machine, RAM, RAM_BYTES};
use mutants::{MUTANTS, Mutant};
use program::Program;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::rc::Rc;

/// Sets up a kernel's memory in a new machine: once in a process.
fn boot() -> Rc<Machine> {
    let machine = Machine::install();
    memory::heap::init();
    let at = |offset| PhysAddr::new(RAM + offset);
    let ram = AddrRange::new(at(0), at(RAM_BYTES));
    let image = AddrRange::new(at(2 << 20), at(3 << 20));
    let boot = BootInfo { dtb: at(0), image, entry_el: 1 };
    let reserved = [kernel::board::Reservation { range: image, no_map: false }];
    let sizes = Sizes { lowmem: Some(RAM_BYTES / 2), vmalloc: Some(256 << 20) };
    memory::init(&boot, &[ram], &reserved, sizes).unwrap();
    machine.start(memory::init_cpu(0).unwrap().address());
    machine
}

/// Programs that the kernel has to pass, and in which a mutant has to fail.
const PROGRAMS: u64 = if cfg!(miri) { 1 } else { 12 };
/// Steps of a program.
const STEPS: u64 = if cfg!(miri) { 8 } else { 40 };
/// Names a mutant to a process of this test that has to fail.
const MUTANT: &str = "CACHES_MUTANT";

/// A process has one kernel, so this is one test.
#[test]
fn a_device_that_does_not_snoop_and_the_cpu_see_each_others_data() {
    let machine = boot();
    if let Ok(name) = std::env::var(MUTANT) {
        let mutant = MUTANTS.iter().find(|mutant| mutant.name == name).unwrap();
        machine.mutation.set(Some(mutant.mutation));
    }
    for seed in 0..PROGRAMS {
        let program = Program::new(&machine, seed);
        catch_unwind(AssertUnwindSafe(|| program.run(STEPS))).unwrap_or_else(|_| panic!("seed {seed}"));
    }
    misuse::each_has_a_name();
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn every_mutant_is_caught() {
    let missed: Vec<_> =
        MUTANTS.iter().filter(|mutant| !is_caught(mutant)).map(|mutant| mutant.name).collect();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

/// Whether the other test fails with it, in a process of its own.
fn is_caught(mutant: &Mutant) -> bool {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "a_device_that_does_not_snoop_and_the_cpu_see_each_others_data", "--nocapture"]);
    let output = test.env(MUTANT, mutant.name).env("RUST_BACKTRACE", "0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let how = said.lines().find(|line| {
        line.contains(" sees ")
            || line.contains("old data")
            || line.contains("cached")
            || line.contains("mismatched")
    });
    println!("{}: {}", mutant.name, how.unwrap_or("passes"));
    how.is_some() && !output.status.success()
}

#[test]
fn the_documentation_lists_the_mutants() {
    let text = include_str!("../../../doc/testing.md");
    let (_, section) = text.split_once("### Mutants of the cache maintenance").unwrap();
    let section = section.split("\n#").next().unwrap();
    let listed: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" | caught |")).collect();
    let there: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(listed, there);
}
