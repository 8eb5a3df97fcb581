//! Test support: device trees built in memory.

pub mod fixture;
mod mutated_trees;
