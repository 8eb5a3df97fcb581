//! The capability list (PCI 3.0, 6.7), which is not trusted.

use super::address::Bdf;
use super::config::{CONFIG_BYTES, ConfigSpace};

const STATUS: u16 = 0x06;
const STATUS_LIST: u16 = 1 << 4;
const POINTER: u16 = 0x34;
/// Capabilities follow the header and have at least 4 bytes.
const FIRST: u8 = 0x40;
const MAX_CAPABILITIES: usize = (256 - FIRST as usize) / 4;

/// A capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Its ID.
    pub id: u8,
    /// Offset of its first register.
    pub offset: u16,
}

impl Capability {
    /// The ID of power management.
    pub const POWER: u8 = 1;
    /// The ID of MSI.
    pub const MSI: u8 = 5;
    /// The ID of a capability that the vendor defines.
    pub const VENDOR: u8 = 9;
    /// The ID of the advanced features of conventional PCI.
    pub const ADVANCED_FEATURES: u8 = 0x13;
    /// The ID of PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// The ID of MSI-X.
    pub const MSI_X: u8 = 0x11;
}

/// Iterator over the capabilities of a function. Stops at a loop or at a pointer into the header.
pub struct Capabilities<'c, C> {
    config: &'c C,
    at: Bdf,
    next: u8,
    left: usize,
}

impl<'c, C: ConfigSpace> Capabilities<'c, C> {
    /// The capabilities of the function at `at`.
    pub fn of(config: &'c C, at: Bdf) -> Self {
        let listed = config.read16(at, STATUS) & STATUS_LIST != 0;
        let next = if listed { config.read8(at, POINTER) } else { 0 };
        Self { config, at, next, left: MAX_CAPABILITIES }
    }
}

impl<C: ConfigSpace> Iterator for Capabilities<'_, C> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        self.left = self.left.checked_sub(1)?;
        // The lower two bits are reserved.
        let offset = self.next & !3;
        if offset < FIRST {
            self.left = 0;
            return None;
        }
        let header = self.config.read16(self.at, offset.into());
        self.next = (header >> 8) as u8;
        Some(Capability { id: header as u8, offset: offset.into() })
    }
}

/// An extended capability (PCIe 5.0, 7.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ExtendedCapability {
    pub id: u16,
    /// Offset of its header.
    pub offset: u16,
}

impl ExtendedCapability {
    pub const ACS: u16 = 0x0d;
    pub const ATS: u16 = 0x0f;
    pub const PRI: u16 = 0x13;
    pub const PASID: u16 = 0x1b;
    pub const SRIOV: u16 = 0x10;
}

const FIRST_EXTENDED: u16 = 0x100;
const MAX_EXTENDED: usize = (CONFIG_BYTES - FIRST_EXTENDED) as usize / 4;

/// The extended capabilities of a PCI Express function. Stops at a loop, or at a pointer into the first 256
/// bytes.
pub(super) fn extended(config: &impl ConfigSpace, at: Bdf) -> impl Iterator<Item = ExtendedCapability> {
    let mut next = FIRST_EXTENDED;
    core::iter::from_fn(move || {
        // The lower two bits are reserved.
        let offset = next & !3;
        if offset < FIRST_EXTENDED {
            return None;
        }
        // 0 without extended capabilities, all ones without a function.
        let header = config.read32(at, offset);
        next = (header >> 20) as u16;
        (header != 0 && header != u32::MAX).then_some(ExtendedCapability { id: header as u16, offset })
    })
    .take(MAX_EXTENDED)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeBus, FakeFunction};
    use super::*;

    fn list(entries: &[(u8, u8, u8)], pointer: u8) -> Vec<(u8, u16)> {
        let mut function = FakeFunction::endpoint(1, 2);
        function.set8(0x06, 1 << 4);
        function.set8(0x34, pointer);
        for &(offset, id, next) in entries {
            function.set8(offset.into(), id);
            function.set8(u16::from(offset) + 1, next);
        }
        let bus = FakeBus::new([function]);
        Capabilities::of(&bus, Bdf::new(0, 0, 0)).map(|found| (found.id, found.offset)).collect()
    }

    #[test]
    fn extended_capability_list_ends_at_a_loop_or_a_bad_pointer() {
        let found = |function: FakeFunction| {
            let bus = FakeBus::new([function]);
            extended(&bus, Bdf::new(0, 0, 0)).map(|found| (found.id, found.offset)).collect::<Vec<_>>()
        };
        let function = || FakeFunction::endpoint(1, 2);
        assert_eq!(found(function()), []);
        let two = function().extended(0x100, 0xf, 0x200, [0; 2]).extended(0x200, 0x1b, 0, [0; 2]);
        assert_eq!(found(two), [(0xf, 0x100), (0x1b, 0x200)]);
        assert_eq!(found(function().extended(0x100, 0xf, 0x40, [0; 2])), [(0xf, 0x100)]);
        assert_eq!(found(function().extended(0x100, 0xf, 0x100, [0; 2])).len(), MAX_EXTENDED);
        let bus = FakeBus::new([function()]);
        assert_eq!(extended(&bus, Bdf::new(0, 1, 0)).count(), 0, "no function");
    }

    #[test]
    fn capability_list_is_walked_to_its_end() {
        assert_eq!(list(&[(0x40, 5, 0x52), (0x50, 0x10, 0)], 0x41), [(5, 0x40), (0x10, 0x50)]);
        assert_eq!(list(&[], 0), []);
    }

    #[test]
    fn looping_or_invalid_capability_list_terminates() {
        assert_eq!(list(&[(0x40, 5, 0x44), (0x44, 6, 0x40)], 0x40).len(), MAX_CAPABILITIES);
        assert_eq!(list(&[(0x40, 5, 0x40)], 0x40).len(), MAX_CAPABILITIES);
        assert_eq!(list(&[(0xfc, 9, 0x3c)], 0xff), [(9, 0xfc)]);
    }
}
