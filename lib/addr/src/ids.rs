//! Identifiers of translations: StreamID, ASID and VMID.

use core::fmt;

/// A StreamID (IHI 0070, 3.2): identifies the device that issued a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(u32);

impl StreamId {
    /// The stream with this number. The stream table checks it against the SMMU's limit.
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

/// An address space identifier: tags stage 1 translations in the TLBs of a CPU or an SMMU.
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

/// A virtual machine identifier: tags translations that use stage 2 in the TLBs.
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
