//! Problems found by enumeration.

use super::address::Bdf;
use core::fmt;

/// A function or bus that enumeration left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// No bus numbers are left for the buses behind this bridge.
    NoBusNumber(Bdf),
    /// The buses behind this bridge were not enumerated: too many bridges are upstream.
    TooDeep(Bdf),
    /// The function's header type is unknown.
    UnknownHeader {
        /// The function.
        at: Bdf,
        /// The header type.
        header: u8,
    },
    /// The writable address bits of a BAR are not a valid size mask.
    BadBar {
        /// The function.
        at: Bdf,
        /// The BAR's number.
        bar: u8,
        /// Its writable address bits.
        writable: u64,
    },
    /// No window has room for a BAR of this function, or for the BARs behind this bridge.
    NoRoom {
        /// The function.
        at: Bdf,
        /// Size in bytes.
        size: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBusNumber(at) => write!(f, "{at}: no bus number left for the buses behind it"),
            Self::TooDeep(at) => write!(f, "{at}: behind too many bridges"),
            Self::UnknownHeader { at, header } => write!(f, "{at}: unknown header type {header:#x}"),
            Self::BadBar { at, bar, writable } => {
                write!(f, "{at}: BAR {bar} has the address bits {writable:#x}")
            }
            Self::NoRoom { at, size } => write!(f, "{at}: no window has {size:#x} bytes left"),
        }
    }
}
