//! arch.
#![no_std]
