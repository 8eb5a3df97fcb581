//! The DMA mask.

use addr::Iova;
use core::fmt;

/// A DMA mask: the highest address that a device can put on the bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmaMask(u64);

impl DmaMask {
    /// 32 bits: the default until the driver sets a mask.
    pub const BITS_32: Self = Self::bits(32);
    /// No limit.
    pub const BITS_64: Self = Self(u64::MAX);

    /// A mask of `bits` address bits, 1 to 64. Panics otherwise: drivers use constants.
    pub const fn bits(bits: u32) -> Self {
        assert!(bits >= 1 && bits <= 64);
        Self(u64::MAX >> (64 - bits))
    }
    /// A mask with the highest usable address `highest`.
    pub const fn up_to(highest: u64) -> Self {
        Self(highest)
    }
    /// The highest usable address.
    pub const fn highest(self) -> Iova {
        Iova::new(self.0)
    }
    /// Whether `len` bytes fit below the mask.
    pub const fn holds(self, len: u64) -> bool {
        len > 0 && len - 1 <= self.0
    }
    /// Whether the device can address all `len` bytes from `at` on.
    pub fn reaches(self, at: Iova, len: u64) -> bool {
        len > 0 && at.raw().checked_add(len - 1).is_some_and(|last| last <= self.0)
    }
}

impl fmt::Display for DmaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for DmaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMask({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_includes_its_highest_address() {
        let mask = DmaMask::bits(28);
        assert_eq!(mask.highest(), Iova::new(0x0fff_ffff));
        assert!(mask.holds(0x1000_0000) && !mask.holds(0x1000_0001) && !mask.holds(0));
        assert!(mask.reaches(Iova::new(0x0fff_f000), 0x1000));
        assert!(!mask.reaches(Iova::new(0x0fff_f000), 0x1001));
        assert!(!DmaMask::BITS_64.reaches(Iova::new(u64::MAX), 2));
        assert!(DmaMask::BITS_64.reaches(Iova::new(u64::MAX), 1));
        assert_eq!(DmaMask::bits(64), DmaMask::BITS_64);
    }
}
