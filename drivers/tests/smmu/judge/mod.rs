//! Random programs of attach, map, unmap, free, reuse and DMA, on a machine with adversarial interleaving. An
//! oracle judges each access.

mod concurrent_cpus;
mod executor;
mod frames;
mod mutants;
mod oracle;
mod pinned;
mod program;

use super::test_machine::fixture::chunk;
pub use executor::{RunTrace, run_undisturbed};
pub use program::{MachineKind, ProgramOp, TestProgram};

use executor::{RunTotals, run};
use mutants::{DriverMutant, MUTANTS};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::cell::Cell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

/// Default seed of the random programs (`JUDGE_SEED`).
const SEED: u64 = 0x7e55e7a;

/// Default limit of shrinking steps of a failed program (`JUDGE_SHRINKS`).
const SHRINKS: u32 = 20_000;

fn number<N: FromStr<Err: Debug>>(name: &str, default: N) -> N {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: must be a number")))
}

fn seed() -> u64 {
    number("JUDGE_SEED", SEED)
}

/// Runs `cases` programs of at most `steps` steps, and returns their totals.
fn run_programs(cases: u32, steps: usize) -> RunTotals {
    let config = Config {
        cases,
        max_shrink_iters: number("JUDGE_SHRINKS", SHRINKS),
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..Config::default()
    };
    let total = Cell::new(RunTotals::default());
    let result = TestRunner::new(config).run(&program::programs(steps), |program| {
        let mut sum = total.get();
        sum += run(&program, |_, _| ());
        total.set(sum);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("seed {}: {error}", seed()));
    total.get()
}

#[test]
fn accesses_reach_only_attached_memory() {
    let (programs, steps) = if cfg!(miri) { (2, 15) } else { (60, 300) };
    let totals = run_programs(number("JUDGE_PROGRAMS", programs), steps);
    println!("{totals:?}");
    assert!(totals.reached * 20 > totals.accesses, "hardly anything was reached: {totals:?}");
}

#[test]
#[ignore = "a million steps: with the profile `judge`"]
fn a_million_steps() {
    let totals = run_programs(2600, 800);
    println!("{totals:?}");
    assert!(totals.steps >= 1_000_000, "{totals:?}");
}

/// The number of programs until `mutant` is detected, and the failure; `None` if `most` programs pass.
fn catch(mutant: &'static DriverMutant, most: u32) -> Option<(u32, String)> {
    let config = Config { rng_seed: RngSeed::Fixed(seed()), ..Config::default() };
    let mut runner = TestRunner::new(config);
    (1..=most).find_map(|count| {
        let program = program::programs(300).new_tree(&mut runner).unwrap().current();
        let run = || run(&program, |machine, shared| mutant.install(machine, shared));
        let caught = catch_unwind(AssertUnwindSafe(run)).err()?;
        let message = caught.downcast_ref::<String>().cloned();
        let message = message.or(caught.downcast_ref::<&str>().map(|text| text.to_string()));
        Some((count, message.unwrap_or_default()))
    })
}

/// `count` programs of at most `steps` steps.
pub fn some_programs(count: usize, steps: usize) -> Vec<TestProgram> {
    let config = Config { rng_seed: RngSeed::Fixed(seed()), ..Config::default() };
    let mut runner = TestRunner::new(config);
    (0..count).map(|_| program::programs(steps).new_tree(&mut runner).unwrap().current()).collect()
}

/// Suppresses the panic messages of mutants.
fn without_output<T>(action: impl FnOnce() -> T) -> T {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            hook(info);
        }
    }));
    QUIET.set(true);
    let result = action();
    QUIET.set(false);
    result
}

#[test]
#[cfg_attr(miri, ignore = "a search through thousands of programs")]
fn every_mutant_is_caught() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        match without_output(|| catch(mutant, 400)) {
            Some((programs, how)) => println!("caught by program {programs:3}: {}: {how}", mutant.name),
            None => missed.push(mutant.name),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn documentation_lists_all_mutants() {
    let text = include_str!("../../../../doc/mutants.md");
    let (_, section) = text.split_once("\n## Mutants of the SMMU driver").unwrap();
    let section = section.split("\n#").next().unwrap();
    let listed: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" | killed |")).collect();
    let there: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(listed, there);
}
