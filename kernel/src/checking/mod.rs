//! What only the checking build does (feature `checking`): make things fail that never fail by themselves, and look for
//! writes where nobody should write.
//!
//! The rest of the kernel asks [`fails`] where something can fail, says who gives frames back ([`Last`]) and what a buffer
//! is ([`Tag`]). In a product all that is nothing: no load, no branch, no byte.

#[cfg(feature = "checking")]
pub mod guards;
#[cfg(feature = "checking")]
pub mod inject;
#[cfg(not(feature = "checking"))]
mod nothing;
#[cfg(feature = "checking")]
pub mod poison;
#[cfg(feature = "checking")]
pub mod ways;

use addr::Chunk;
use core::fmt;
#[cfg(feature = "checking")]
pub use guards::{Tag, detached};
#[cfg(not(feature = "checking"))]
pub use nothing::{Tag, detached};

/// Bytes behind each range of device addresses that are never mapped.
pub const GUARD: u64 = if cfg!(feature = "checking") { addr::PAGE_SIZE } else { 0 };

/// What can fail, counted each for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Taking frames.
    Frames,
    /// Taking a frame for a page table.
    Tables,
    /// Writing a mapping into a page table.
    Maps,
    /// Taking a range of device addresses.
    Iova,
    /// Taking a range of kernel addresses.
    Vmalloc,
    /// Asking whether the heap has room, or for room in a list.
    Heap,
    /// An IOMMU that says in time that it is done.
    Syncs,
    /// An IOMMU that takes a command.
    Commands,
    /// An interrupt of a device that arrives.
    Interrupts,
}

/// Whether this time it is to fail.
#[inline(always)]
pub fn fails(_class: Class) -> bool {
    #[cfg(feature = "checking")]
    return inject::fails(_class);
    #[cfg(not(feature = "checking"))]
    false
}

/// Whether some time soon one of these is to fail: then what usually cannot fail takes the way that can.
#[inline(always)]
pub fn is_armed(_class: Class) -> bool {
    #[cfg(feature = "checking")]
    return inject::is_armed(_class);
    #[cfg(not(feature = "checking"))]
    false
}

/// How often something is repeated, or how many there may be, where it is `all` elsewhere: a tenth while things are made to
/// fail, since one is like the other and each failure is a run of its own.
#[inline(always)]
pub fn rounds(all: u64) -> u64 {
    #[cfg(feature = "checking")]
    if inject::is_busy() {
        return all.div_ceil(10);
    }
    all
}

/// Who gives frames back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Last {
    /// One of many.
    #[default]
    Somebody = 1,
    /// A buffer for devices.
    Buffer,
    /// Memory of the kernel's that was lent.
    Lent,
    /// A program, memory of its own.
    Program,
    /// A page table.
    Table,
    /// The stack of a thread.
    Stack,
    /// An IOMMU's tables and queues.
    Iommu,
    /// Who took much and used none of it.
    Untouched,
}

impl Last {
    #[cfg(feature = "checking")]
    fn from_number(number: u8) -> Option<Self> {
        use Last::*;
        let all = [Somebody, Buffer, Lent, Program, Table, Stack, Iommu, Untouched];
        all.into_iter().find(|last| *last as u8 == number)
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Somebody | Self::Untouched => "somebody",
            Self::Buffer => "a buffer",
            Self::Lent => "lent memory",
            Self::Program => "a program",
            Self::Table => "a page table",
            Self::Stack => "a stack",
            Self::Iommu => "an IOMMU",
        })
    }
}

/// `last` is about to give `chunk` back. No lock is held.
#[inline(always)]
pub fn given(_chunk: Chunk, _last: Last) {
    #[cfg(feature = "checking")]
    poison::given(_chunk, _last);
}

/// `chunk` has an owner now. No lock is held.
#[inline(always)]
pub fn taken(_chunk: Chunk) {
    #[cfg(feature = "checking")]
    poison::taken(_chunk);
}
