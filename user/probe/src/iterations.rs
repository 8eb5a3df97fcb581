//! Iteration counts.

/// `all` iterations, or a tenth of them with `ROUNDS=few` in the environment, set by tests that repeat the
/// whole program.
pub fn iterations(all: u64) -> u64 {
    let few = std::env::var_os("ROUNDS").is_some_and(|word| word == "few");
    if few { all.div_ceil(10) } else { all }
}
