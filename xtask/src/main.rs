//! The host tool behind the Makefile.
fn main() {}
