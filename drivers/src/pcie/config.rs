//! Configuration space: 4 KiB of registers per function, accessed through ECAM (PCIe 5.0, 7.2.2).

use super::Bdf;
use crate::mmio::MmioWindow;
use core::fmt;
use core::ops::RangeInclusive;

/// The size of a function's configuration space.
pub(super) const CONFIG_BYTES: u16 = 0x1000;

/// The width of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Half = 2,
    /// 32 bits.
    Word = 4,
}

/// Configuration space of all functions. Offsets are in bytes, multiples of the width and below 4096.
pub trait ConfigSpace {
    /// Reads a register; all ones without a function.
    fn read(&self, at: Bdf, offset: u16, width: Width) -> u32;
    /// Writes a register, and waits until the function has the value; no effect without a function.
    fn write(&mut self, at: Bdf, offset: u16, width: Width, value: u32);

    /// Reads 8 bits.
    fn read8(&self, at: Bdf, offset: u16) -> u8 {
        self.read(at, offset, Width::Byte) as u8
    }
    /// Reads 16 bits.
    fn read16(&self, at: Bdf, offset: u16) -> u16 {
        self.read(at, offset, Width::Half) as u16
    }
    /// Reads 32 bits.
    fn read32(&self, at: Bdf, offset: u16) -> u32 {
        self.read(at, offset, Width::Word)
    }
    /// Writes 16 bits.
    fn write16(&mut self, at: Bdf, offset: u16, value: u16) {
        self.write(at, offset, Width::Half, value.into());
    }
    /// Writes 32 bits.
    fn write32(&mut self, at: Bdf, offset: u16, value: u32) {
        self.write(at, offset, Width::Word, value);
    }
}

/// The window is too short for the buses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcamError {
    /// The window's length in bytes.
    pub len: u64,
    /// The required length in bytes.
    pub wanted: u64,
}

impl fmt::Display for EcamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ECAM of {:#x} bytes, {:#x} wanted", self.len, self.wanted)
    }
}

impl core::error::Error for EcamError {}

/// Memory-mapped configuration space, 1 MiB per bus.
pub struct Ecam {
    window: MmioWindow,
    buses: RangeInclusive<u8>,
}

impl Ecam {
    /// The configuration space of `buses` in `window`, which starts at the first bus and is Device-nGnRnE
    /// memory.
    pub fn new(window: MmioWindow, buses: RangeInclusive<u8>) -> Result<Self, EcamError> {
        let (len, wanted) = (window.len(), (buses.len() as u64) << 20);
        if len < wanted { Err(EcamError { len, wanted }) } else { Ok(Self { window, buses }) }
    }

    /// Offset of a register in the window, if it contains the bus. Panics if `offset` exceeds the function's
    /// 4 KiB.
    fn offset(&self, at: Bdf, offset: u16) -> Option<u64> {
        assert!(offset < CONFIG_BYTES, "configuration register {offset:#x}");
        if !self.buses.contains(&at.bus()) {
            return None;
        }
        let function = u64::from(at.requester()) - (u64::from(*self.buses.start()) << 8);
        Some(function << 12 | u64::from(offset))
    }
}

impl ConfigSpace for Ecam {
    fn read(&self, at: Bdf, offset: u16, width: Width) -> u32 {
        let Some(offset) = self.offset(at, offset) else { return u32::MAX };
        match width {
            Width::Byte => self.window.read8(offset).into(),
            Width::Half => self.window.read16(offset).into(),
            Width::Word => self.window.read32(offset),
        }
    }

    fn write(&mut self, at: Bdf, offset: u16, width: Width, value: u32) {
        let Some(offset) = self.offset(at, offset) else { return };
        match width {
            Width::Byte => self.window.write8(offset, value as u8),
            Width::Half => self.window.write16(offset, value as u16),
            Width::Word => self.window.write32(offset, value),
        }
        // A non-posted write: the barrier waits for the function's acknowledgement, so that bus mastering is
        // off, and BARs decode, before the next access to anything else (PCIe 5.0, 7.2.2).
        arch::barrier::dsb_sy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use arch::fake::Instruction;

    #[test]
    fn ecam_offset_is_relative_to_the_first_bus() {
        let fake = FakeRegisters::new(2 << 20);
        let mut ecam = Ecam::new(fake.window(), 4..=5).unwrap();
        let at = Bdf::new(5, 3, 2);
        ecam.write32(at, 0x10, 0x1234_5678);
        ecam.write16(at, 0x14, 0x9abc);
        let base = 1 << 20 | 3 << 15 | 2 << 12;
        assert_eq!((fake.get32(base + 0x10), fake.get32(base + 0x14)), (0x1234_5678, 0x9abc));
        assert_eq!(
            (ecam.read8(at, 0x11), ecam.read16(at, 0x12), ecam.read32(at, 0x10)),
            (0x56, 0x1234, 0x1234_5678)
        );
    }

    #[test]
    fn write_is_complete_on_return() {
        let fake = FakeRegisters::new(1 << 20);
        let mut ecam = Ecam::new(fake.window(), 0..=0).unwrap();
        ecam.write16(Bdf::new(0, 1, 0), 4, 6);
        assert_eq!(arch::fake::take(), [Instruction::Barrier("dsb_sy")]);
    }

    #[test]
    fn buses_outside_the_window_are_empty() {
        let fake = FakeRegisters::new(1 << 20);
        let mut ecam = Ecam::new(fake.window(), 4..=4).unwrap();
        for bus in [0, 3, 5, 255] {
            ecam.write32(Bdf::new(bus, 0, 0), 0, 0);
            assert_eq!(ecam.read32(Bdf::new(bus, 0, 0), 0), u32::MAX);
        }
        let step = if cfg!(miri) { 1021 } else { 1 };
        assert_eq!((0..1 << 18).step_by(step).map(|word| fake.get32(word * 4)).max(), Some(0));
    }

    #[test]
    fn short_window_is_rejected() {
        let error = Ecam::new(FakeRegisters::new(1 << 20).window(), 0..=1).err();
        assert_eq!(error, Some(EcamError { len: 1 << 20, wanted: 2 << 20 }));
    }
}
