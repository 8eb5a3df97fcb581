//! One type per address space, defined by one macro.

use core::fmt;
use core::ops::Add;

/// The interface of all address types, for code that is generic over the address space
/// ([`AddrRange`](crate::AddrRange), range allocators).
pub trait Address: Copy + Ord + fmt::Debug + fmt::LowerHex {
    /// The lowest address.
    const ZERO: Self;
    /// The address with this bit pattern.
    fn new(raw: u64) -> Self;
    /// The bit pattern.
    fn raw(self) -> u64;
    /// The address `bytes` above, or `None` past the end of the 64-bit space.
    fn checked_add(self, bytes: u64) -> Option<Self> {
        self.raw().checked_add(bytes).map(Self::new)
    }
    /// The largest multiple of `align` (a power of two) that is not above.
    fn align_down(self, align: u64) -> Self {
        debug_assert!(align.is_power_of_two());
        Self::new(self.raw() & !(align - 1))
    }
    /// The smallest multiple of `align` (a power of two) that is not below, or `None` past the end.
    fn align_up(self, align: u64) -> Option<Self> {
        Some(self.checked_add(align - 1)?.align_down(align))
    }
    /// Whether this is a multiple of `align` (a power of two).
    fn is_aligned(self, align: u64) -> bool {
        debug_assert!(align.is_power_of_two());
        self.raw() & (align - 1) == 0
    }
}

#[cold]
#[inline(never)]
fn panic_on_overflow(name: &str, raw: u64, bytes: u64) -> ! {
    panic!("{name}: {raw:#x} + {bytes:#x} overflows")
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this bit pattern.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The bit pattern.
            pub const fn raw(self) -> u64 {
                self.0
            }
        }

        impl Address for $name {
            const ZERO: Self = Self(0);
            fn new(raw: u64) -> Self {
                Self(raw)
            }
            fn raw(self) -> u64 {
                self.0
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            /// Panics on overflow, which is a broken invariant. Use [`Address::checked_add`] for untrusted
            /// values.
            #[inline]
            fn add(self, bytes: u64) -> Self {
                match self.0.checked_add(bytes) {
                    Some(raw) => Self(raw),
                    None => panic_on_overflow(stringify!($name), self.0, bytes),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A physical address as the CPU sees it.
    PhysAddr
}
address! {
    /// A virtual address in the kernel's half (TTBR1).
    KernelVa
}
address! {
    /// A virtual address in a program's half (TTBR0). The type does not guarantee that the address is mapped:
    /// only the kernel's user-access routines read and write through it.
    UserVa
}
address! {
    /// An I/O virtual address, as a device puts it on the bus: the input of the IOMMU, or without one a bus
    /// address that `dma-ranges` maps to RAM.
    Iova
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_align_down_and_up() {
        let cases = [(0, 0, 0), (1, 0, 0x1000), (0xfff, 0, 0x1000), (0x1000, 0x1000, 0x1000)];
        for (raw, down, up) in cases {
            assert_eq!(PhysAddr::new(raw).align_down(0x1000), PhysAddr::new(down));
            assert_eq!(PhysAddr::new(raw).align_up(0x1000), Some(PhysAddr::new(up)));
            assert_eq!(PhysAddr::new(raw).is_aligned(0x1000), raw == down);
        }
    }

    #[test]
    fn checked_add_and_align_up_return_none_on_overflow() {
        assert_eq!(Iova::new(u64::MAX).checked_add(1), None);
        assert_eq!(Iova::new(u64::MAX).align_up(0x1000), None);
        assert_eq!(Iova::new(u64::MAX - 1).checked_add(1), Some(Iova::new(u64::MAX)));
    }

    #[test]
    #[should_panic(expected = "overflows")]
    fn add_panics_on_overflow() {
        let _ = PhysAddr::new(u64::MAX) + 1;
    }

    #[test]
    fn addresses_print_as_hex() {
        assert_eq!(
            format!("{} {:?} {:#x}", Iova::new(16), UserVa::new(16), KernelVa::new(16)),
            "0x10 UserVa(0x10) 0x10"
        );
    }
}
