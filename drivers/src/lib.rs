//! drivers.
#![no_std]
