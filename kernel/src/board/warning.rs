//! Why a node was left out.

use super::Place;
use addr::PhysAddr;
use alloc::string::{String, ToString};
use core::fmt;
use drivers::pcie::Phandle;

/// The start of a text from the tree, kept without a heap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    bytes: [u8; Self::LEN],
    len: u8,
}

impl Excerpt {
    const LEN: usize = 39;

    /// The first 39 bytes of `text` at most, in whole characters.
    pub fn of(text: &str) -> Self {
        let len = text.floor_char_boundary(Self::LEN);
        let mut bytes = [0; Self::LEN];
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len: len as u8 }
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text(), f)
    }
}

/// What is wrong with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It lacks this property.
    Missing(&'static str),
    /// This property has a length or content that means nothing.
    Malformed(&'static str),
    /// A bus above it gives the CPU no way to this address.
    Unreachable(u64),
    /// An address range passes the end of the address space.
    PastTheEnd {
        /// Where it starts.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// It points at a node that is not there.
    NoSuchNode(Phandle),
    /// Its interrupts arrive at no controller that the kernel drives.
    NoKnownController,
    /// This interrupt (the first three cells) does not exist at its controller.
    BadInterrupt([u32; 3]),
    /// This property has a value that the kernel does not know.
    Unknown {
        /// The property.
        property: &'static str,
        /// Its value.
        value: Excerpt,
    },
    /// It lies outside memory, or on something else.
    Misplaced {
        /// Where it starts.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Memory with this device's registers in it.
    HoldsRegisters(PhysAddr),
    /// Memory where nothing answers at this address.
    NothingAnswers(PhysAddr),
    /// There are more of its kind than this.
    TooMany(usize),
    /// There is one already, and the kernel uses one.
    Second,
    /// It asks for memory to be set aside anywhere, which the kernel does not do.
    DynamicReservation,
    /// The configuration space is too small for this many buses.
    EcamTooSmall {
        /// The configuration space's length in bytes.
        len: u64,
        /// The buses in its `bus-range`.
        buses: u32,
    },
}

impl Reason {
    pub(super) fn unknown(property: &'static str, value: &str) -> Self {
        Self::Unknown { property, value: Excerpt::of(value) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(property) => write!(f, "missing {property}"),
            Self::Malformed(property) => write!(f, "malformed {property}"),
            Self::Unreachable(address) => write!(f, "no ranges property translates address {address:#x}"),
            Self::PastTheEnd { start, len } => {
                write!(f, "{len:#x} bytes at {start:#x} exceed the address space")
            }
            Self::NoSuchNode(Phandle(phandle)) => write!(f, "no node has phandle {phandle:#x}"),
            Self::NoKnownController => write!(f, "unsupported interrupt controller"),
            Self::BadInterrupt([kind, number, flags]) => {
                write!(f, "invalid interrupt specifier <{kind} {number} {flags}>")
            }
            Self::Unknown { property, value } => write!(f, "unknown {property} \"{value}\""),
            Self::Misplaced { start, len } => {
                write!(f, "{len:#x} bytes at {start:#x} are not entirely in free memory")
            }
            Self::HoldsRegisters(at) => write!(f, "overlaps device registers at {at}"),
            Self::NothingAnswers(at) => write!(f, "no response at {at}"),
            Self::TooMany(most) => write!(f, "more than {most} of this kind"),
            Self::Second => write!(f, "only one is supported"),
            Self::DynamicReservation => write!(f, "dynamic reservations are not supported"),
            Self::EcamTooSmall { len, buses } => {
                write!(f, "ECAM region of {len:#x} bytes is too small for {buses} buses")
            }
        }
    }
}

/// A node that was left out, wholly or in part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The node's path.
    pub path: String,
    /// What is wrong with it.
    pub reason: Reason,
}

impl Warning {
    pub(super) fn new(place: &Place<'_>, reason: Reason) -> Self {
        Self { path: place.to_string(), reason }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ignored: {}", self.path, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_ends_between_characters() {
        assert_eq!(Excerpt::of("spin").to_string(), "spin");
        let long = "é".repeat(30);
        assert_eq!(Excerpt::of(&long).to_string(), "é".repeat(19));
        assert_eq!(Reason::unknown("method", "magic").to_string(), "unknown method \"magic\"");
    }
}
