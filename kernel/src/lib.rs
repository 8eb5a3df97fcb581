//! Policy: who gets which memory, and the order of things.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod board;
