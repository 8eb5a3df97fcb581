//! The input address spaces, and what they say about the entries that translate them.

use addr::{Address, Iova, KernelVa, UserVa};

/// An address that a table tree can translate.
pub trait InputAddress: Address {
    /// Whether the space ends at the top of the 64 bits (TTBR1) instead of beginning at zero.
    const UPPER: bool;
    /// Whether entries apply under every ASID (nG clear).
    const GLOBAL: bool;
    /// Whether every mapping is for privileged accesses alone.
    const PRIVILEGED: bool;
}

impl InputAddress for KernelVa {
    const UPPER: bool = true;
    const GLOBAL: bool = true;
    const PRIVILEGED: bool = true;
}

impl InputAddress for UserVa {
    const UPPER: bool = false;
    const GLOBAL: bool = false;
    const PRIVILEGED: bool = false;
}

impl InputAddress for Iova {
    const UPPER: bool = false;
    const GLOBAL: bool = false;
    const PRIVILEGED: bool = false;
}
