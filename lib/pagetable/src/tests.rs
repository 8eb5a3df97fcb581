//! The whole crate over a memory that watches like a walker.

mod fake;
mod mapping;
