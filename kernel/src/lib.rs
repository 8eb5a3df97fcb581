//! Policy: who gets which memory, and the order of things.

#![no_std]
