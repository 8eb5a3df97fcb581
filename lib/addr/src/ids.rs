//! The SMMU's and the MMU's names for who is asking.

use core::fmt;

/// A StreamID (IHI 0070, 3.2): which device a transaction comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(u32);

impl StreamId {
    /// The stream with this number. Whether the SMMU has that many is the stream table's question.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An address space identifier: the tag on stage 1 translations in the TLBs of a CPU or an SMMU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Asid(u16);

impl Asid {
    /// The ASID with this number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// The number.
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// A virtual machine identifier: the tag on translations in the TLBs where stage 2 exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vmid(u16);

impl Vmid {
    /// The VMID with this number.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }
    /// The number.
    pub const fn raw(self) -> u16 {
        self.0
    }
}
