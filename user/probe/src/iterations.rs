//! How often what is repeated is repeated.

/// Of `all` rounds a tenth where whoever started this program says `ROUNDS=few`: it runs it again and again itself.
pub fn iterations(all: u64) -> u64 {
    let few = std::env::var_os("ROUNDS").is_some_and(|word| word == "few");
    if few { all.div_ceil(10) } else { all }
}
