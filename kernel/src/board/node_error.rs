//! Reasons for which a node is ignored.

use addr::PhysAddr;
use core::fmt;
use drivers::pcie::Phandle;

/// The start of a string from the device tree, stored without a heap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    bytes: [u8; Self::LEN],
    len: u8,
}

impl Excerpt {
    const LEN: usize = 39;

    /// At most the first 39 bytes of `text`, in whole characters.
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

/// The reason for which a node is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeError {
    /// A required property is missing.
    Missing(&'static str),
    /// The property has an invalid length or value.
    Malformed(&'static str),
    /// The property is longer than the kernel accepts, in bytes.
    TooLong {
        property: &'static str,
        /// Its length.
        len: usize,
        limit: usize,
    },
    /// The `dma-ranges` of the parent buses have no common window that is not empty.
    NoDmaWindow,
    /// No `ranges` of a parent bus translates this address to the CPU's address space.
    Unreachable(u64),
    /// The address range exceeds the address space.
    AddressOverflow {
        /// The start address.
        start: u64,
        /// The length in bytes.
        len: u64,
    },
    /// The registers at this address are not aligned to 8 bytes.
    Misaligned(PhysAddr),
    /// No node has this phandle.
    DanglingPhandle(Phandle),
    /// The interrupt parent is not a supported interrupt controller.
    UnsupportedController,
    /// The interrupt specifier (the first three cells) is invalid for its controller.
    InvalidInterrupt([u32; 3]),
    /// The property has an unsupported value.
    UnsupportedValue { property: &'static str, value: Excerpt },
    /// The range is outside of memory or overlaps an allocated range.
    NotInFreeMemory {
        /// The start address.
        start: u64,
        /// The length in bytes.
        len: u64,
    },
    /// The memory range overlaps a device's registers.
    OverlapsRegisters(PhysAddr),
    /// The memory range ends above the CPU's physical addresses (ID_AA64MMFR0_EL1.PARange).
    AboveAddressSize {
        /// Its last byte.
        last: PhysAddr,
        /// Bits of physical address.
        bits: u32,
    },
    /// A read of this address in the memory range is not answered.
    NoResponse(PhysAddr),
    /// The number of such nodes exceeds this limit.
    TooMany(usize),
    /// Another node of this kind is in use already; only one is supported.
    Duplicate,
    /// A reservation without an address, to be placed by the kernel, is not supported.
    DynamicReservation,
    /// The configuration space is too small for the bus range.
    EcamTooSmall {
        /// The length of the configuration space in bytes.
        len: u64,
        /// The number of buses in `bus-range`.
        buses: u32,
    },
}

impl NodeError {
    pub(super) fn unsupported(property: &'static str, value: &str) -> Self {
        Self::UnsupportedValue { property, value: Excerpt::of(value) }
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(property) => write!(f, "missing {property}"),
            Self::Malformed(property) => write!(f, "malformed {property}"),
            Self::TooLong { property, len, limit } => {
                write!(f, "{property} of {len} bytes exceeds the limit of {limit}")
            }
            Self::NoDmaWindow => write!(f, "no memory is reachable through dma-ranges"),
            Self::Unreachable(address) => write!(f, "no ranges property translates address {address:#x}"),
            Self::AddressOverflow { start, len } => {
                write!(f, "{len:#x} bytes at {start:#x} exceed the address space")
            }
            Self::Misaligned(at) => write!(f, "registers at {at} are not aligned to 8 bytes"),
            Self::DanglingPhandle(Phandle(phandle)) => write!(f, "no node has phandle {phandle:#x}"),
            Self::UnsupportedController => write!(f, "unsupported interrupt controller"),
            Self::InvalidInterrupt([kind, number, flags]) => {
                write!(f, "invalid interrupt specifier <{kind} {number} {flags}>")
            }
            Self::UnsupportedValue { property, value } => write!(f, "unsupported {property} \"{value}\""),
            Self::NotInFreeMemory { start, len } => {
                write!(f, "{len:#x} bytes at {start:#x} are not entirely in free memory")
            }
            Self::OverlapsRegisters(at) => write!(f, "overlaps device registers at {at}"),
            Self::AboveAddressSize { last, bits } => {
                write!(f, "{last} exceeds the CPU's {bits}-bit physical addresses")
            }
            Self::NoResponse(at) => write!(f, "no response at {at}"),
            Self::TooMany(limit) => write!(f, "more than {limit} of this kind"),
            Self::Duplicate => write!(f, "only one is supported"),
            Self::DynamicReservation => write!(f, "dynamic reservations are not supported"),
            Self::EcamTooSmall { len, buses } => {
                write!(f, "ECAM region of {len:#x} bytes is too small for {buses} buses")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_ends_at_a_character_boundary() {
        assert_eq!(Excerpt::of("spin").to_string(), "spin");
        let long = "é".repeat(30);
        assert_eq!(Excerpt::of(&long).to_string(), "é".repeat(19));
        let error = NodeError::unsupported("method", "magic");
        assert_eq!(error.to_string(), "unsupported method \"magic\"");
    }
}
