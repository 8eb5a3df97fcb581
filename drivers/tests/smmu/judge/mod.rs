//! Random programs of attach, map, unmap, free, reuse and DMA, on a machine where everything happens at the worst moment,
//! judged access by access.

mod frames;
mod machine;
mod oracle;
mod program;

use super::world::rig::chunk;
use machine::{Tally, run};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::cell::Cell;

/// Where random programs start from, unless `JUDGE_SEED` says otherwise.
const SEED: u64 = 0x7e55e7a;

fn seed() -> u64 {
    std::env::var("JUDGE_SEED").map_or(SEED, |text| text.parse().expect("JUDGE_SEED is a number"))
}

/// Runs so many programs of at most so many steps, and says what they did.
fn run_programs(cases: u32, steps: usize) -> Tally {
    let config = Config {
        cases,
        max_shrink_iters: 20_000,
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..Config::default()
    };
    let total = Cell::new(Tally::default());
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
fn no_access_reaches_what_is_not_the_attachments() {
    let tally = run_programs(60, 300);
    println!("{tally:?}");
    assert!(tally.reached * 20 > tally.accesses, "hardly anything was reached: {tally:?}");
}

#[test]
#[ignore = "a million steps: with the profile `judge`"]
fn a_million_steps() {
    let tally = run_programs(2600, 800);
    println!("{tally:?}");
    assert!(tally.steps >= 1_000_000, "{tally:?}");
}
