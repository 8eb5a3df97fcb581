//! The input address spaces, and the attributes that they imply.

use addr::{Address, Iova, KernelVa, UserVa};

/// An input address of a translation table.
pub trait InputAddress: Address {
    /// Whether the space ends at the top of the 64-bit range (TTBR1) instead of starting at zero.
    const UPPER: bool;
    /// Whether entries are global, valid for every ASID (nG clear).
    const GLOBAL: bool;
    /// Whether all mappings are for privileged accesses only.
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
