//! The configuration space that a user-space driver sees: the function's own registers, except those that
//! decide about addresses, interrupts, power and isolation. Those are virtual: the kernel sets the hardware.

use super::address::Bdf;
use super::capabilities::{Capabilities, Capability, ExtendedCapability, extended};
use super::config::{CONFIG_BYTES, ConfigSpace, Width};
use super::function::{COMMAND, Function, INTX_OFF, LinkType, MASTER, MEMORY};
use super::{Bar, BarKind};
use alloc::vec::Vec;

const BARS: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const INTERRUPT_LINE: u16 = 0x3c;
const INTERRUPT_PIN: u16 = 0x3d;
const IO: u16 = 1;
const PARITY: u16 = 1 << 6;
const SERR: u16 = 1 << 8;
/// Device control register: function level reset.
const FUNCTION_RESET: u16 = 1 << 15;

/// No memory for the copy of the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfConfigMemory;

/// A write of the user's driver that the kernel carries out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConfigWrite {
    /// The value to write to the register, if the write reaches the hardware.
    pub register: Option<u32>,
    /// The command register's memory space enable, if it has changed.
    pub memory: Option<bool>,
    /// A function level reset is requested.
    pub reset: bool,
}

/// The registers of one function.
#[derive(Debug)]
pub struct UserConfig {
    bytes: Vec<ConfigByte>,
    /// Offset of the device control register.
    device_control: Option<u16>,
    /// The end of configuration space: that of a conventional function has 256 bytes.
    end: u16,
}

/// Eight bits of configuration space.
#[derive(Clone, Copy, Debug, Default)]
struct ConfigByte {
    /// The values of the virtual bits.
    value: u8,
    /// The bits that the user's driver reads from `value`, not from the hardware.
    is_virtual: u8,
    /// The bits that it can write.
    writable: u8,
}

impl UserConfig {
    /// The registers of `function` after a reset: memory and I/O decoding are enabled.
    ///
    /// # Errors
    /// [`OutOfConfigMemory`]
    pub fn new(config: &impl ConfigSpace, function: &Function) -> Result<Self, OutOfConfigMemory> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(CONFIG_BYTES.into()).map_err(|_| OutOfConfigMemory)?;
        bytes.resize(CONFIG_BYTES.into(), ConfigByte::default());
        let end = if function.link == LinkType::Conventional { 0x100 } else { CONFIG_BYTES };
        let mut this = Self { bytes, device_control: None, end };
        this.add_header(config, function);
        this.add_capabilities(config, function.bdf);
        if end > 0x100 {
            this.hide_extended(config, function.bdf);
        }
        Ok(this)
    }

    /// The number of bytes of configuration space.
    pub fn size(&self) -> u16 {
        self.end
    }

    /// Whether memory space is enabled for the user's driver.
    pub fn decodes_memory(&self) -> bool {
        self.value(COMMAND, Width::Half) as u16 & MEMORY != 0
    }

    fn add_header(&mut self, config: &impl ConfigSpace, function: &Function) {
        let kinds = || function.bars.iter().flatten().map(|bar| bar.kind);
        let io = if kinds().any(|kind| kind == BarKind::Io) { IO } else { 0 };
        let memory = if kinds().any(|kind| kind != BarKind::Io) { MEMORY } else { 0 };
        self.set(COMMAND, Width::Half, io | memory, IO | MEMORY | INTX_OFF);
        self.allow(COMMAND, Width::Half, IO | MEMORY | MASTER | PARITY | SERR | INTX_OFF);
        for (index, bar) in function.bars.iter().enumerate() {
            let register = BARS + 4 * index as u16;
            self.set(register, Width::Word, 0u32, u32::MAX);
            if let Some(bar) = bar {
                self.add_bar(config.read32(function.bdf, register), register, bar);
            }
        }
        // The expansion ROM and, on a conventional function, CardBus are not passed on.
        self.set(0x30, Width::Word, 0u32, u32::MAX);
        self.set(INTERRUPT_LINE, Width::Byte, 0u8, u8::MAX);
        self.allow(INTERRUPT_LINE, Width::Byte, u8::MAX);
        let pin = if function.intx.is_some() { config.read8(function.bdf, INTERRUPT_PIN) } else { 0 };
        self.set(INTERRUPT_PIN, Width::Byte, pin, u8::MAX);
    }

    /// A BAR that can be sized and moved, without effect.
    fn add_bar(&mut self, value: u32, register: u16, bar: &Bar) {
        let (flags, mask) = match bar.kind {
            BarKind::Io => (3, 3),
            BarKind::Memory { .. } => (value & 0xf, 0xf),
        };
        let addresses = !(bar.size - 1) & !u64::from(mask);
        self.set(register, Width::Word, value & !mask | flags & value, u32::MAX);
        self.allow(register, Width::Word, addresses as u32);
        if matches!(bar.kind, BarKind::Memory { is_64bit: true, .. }) {
            self.allow(register + 4, Width::Word, (addresses >> 32) as u32);
        }
    }

    /// Leaves the capabilities with known rules in the list.
    fn add_capabilities(&mut self, config: &impl ConfigSpace, at: Bdf) {
        let mut link = CAPABILITIES;
        self.set(link, Width::Byte, 0u8, u8::MAX);
        for found in Capabilities::of(config, at) {
            let offset = found.offset;
            let is_known = match found.id {
                Capability::MSI => self.add_msi(config, at, offset),
                Capability::MSI_X | Capability::VENDOR => true,
                Capability::EXPRESS => self.add_express(config, at, offset),
                Capability::POWER => self.add_power(config, at, offset),
                _ => false,
            };
            if is_known {
                self.set(link, Width::Byte, offset as u8, u8::MAX);
                link = offset + 1;
                self.set(link, Width::Byte, 0u8, u8::MAX);
            }
        }
    }

    /// The interrupts of the hardware are those that the kernel has set up. The pending bits are its own.
    fn add_msi(&mut self, config: &impl ConfigSpace, at: Bdf, offset: u16) -> bool {
        let control = config.read16(at, offset + 2);
        self.set(offset + 2, Width::Half, control & !0x71, u16::MAX);
        self.allow(offset + 2, Width::Half, 0x71u16);
        let words = match (control & 1 << 7 != 0, control & 1 << 8 != 0) {
            (true, true) => 4,
            (true, false) | (false, true) => 3,
            (false, false) => 2,
        };
        for word in 1..=words {
            let register = offset + 4 * word;
            if register + 4 > 0x100 {
                return false;
            }
            self.set(register, Width::Word, 0u32, u32::MAX);
            self.allow(register, Width::Word, u32::MAX);
        }
        true
    }

    fn add_express(&mut self, config: &impl ConfigSpace, at: Bdf, offset: u16) -> bool {
        let control = offset + 8;
        if control + 2 > 0x100 {
            return false;
        }
        self.device_control = Some(control);
        self.set(control, Width::Half, config.read16(at, control) & !FUNCTION_RESET, u16::MAX);
        self.allow(control, Width::Half, u16::MAX);
        true
    }

    /// The function stays in D0: the state is read-only, as that of a function without power management.
    fn add_power(&mut self, config: &impl ConfigSpace, at: Bdf, offset: u16) -> bool {
        // No auxiliary current, no PME, no D1 and D2.
        self.set(offset + 2, Width::Half, config.read16(at, offset + 2) & 7, u16::MAX);
        // `No_Soft_Reset`
        self.set(offset + 4, Width::Half, 1u16 << 3, u16::MAX);
        true
    }

    /// Hides the extended capabilities that decide about isolation.
    fn hide_extended(&mut self, config: &impl ConfigSpace, at: Bdf) {
        let mut before = None;
        for found in extended(config, at) {
            let next = config.read32(at, found.offset) & 0xfff0_0000;
            let is_hidden = matches!(
                found.id,
                ExtendedCapability::ATS
                    | ExtendedCapability::PRI
                    | ExtendedCapability::PASID
                    | ExtendedCapability::SRIOV
            );
            match before {
                _ if !is_hidden => before = Some(found.offset),
                // The first is at a fixed offset: a capability without an id.
                None => {
                    self.set(found.offset, Width::Word, next, u32::MAX);
                    before = Some(found.offset);
                }
                Some(before) => {
                    let head = self.read(config, at, before, Width::Word);
                    self.set(before, Width::Word, head & 0xf_ffff | next, u32::MAX);
                }
            }
        }
    }

    /// Makes the bits of `mask` virtual, with this value.
    fn set(&mut self, offset: u16, width: Width, value: impl Into<u32>, mask: impl Into<u32>) {
        let (value, mask) = (value.into().to_le_bytes(), mask.into().to_le_bytes());
        for ((byte, value), mask) in self.bytes_mut(offset, width).iter_mut().zip(value).zip(mask) {
            byte.is_virtual |= mask;
            byte.value = byte.value & !mask | value & mask;
        }
    }

    /// Makes the bits of `mask` writable.
    fn allow(&mut self, offset: u16, width: Width, mask: impl Into<u32>) {
        for (byte, mask) in self.bytes_mut(offset, width).iter_mut().zip(mask.into().to_le_bytes()) {
            byte.writable |= mask;
        }
    }

    fn bytes_mut(&mut self, offset: u16, width: Width) -> &mut [ConfigByte] {
        &mut self.bytes[usize::from(offset)..][..width as usize]
    }

    fn bytes(&self, offset: u16, width: Width) -> &[ConfigByte] {
        &self.bytes[usize::from(offset)..][..width as usize]
    }

    /// The virtual bits.
    fn value(&self, offset: u16, width: Width) -> u32 {
        fold(self.bytes(offset, width).iter().map(|byte| byte.value & byte.is_virtual))
    }

    /// Reads an aligned register below [`size`](Self::size).
    pub fn read(&self, config: &impl ConfigSpace, at: Bdf, offset: u16, width: Width) -> u32 {
        let hidden = fold(self.bytes(offset, width).iter().map(|byte| byte.is_virtual));
        self.value(offset, width) | config.read(at, offset, width) & !hidden
    }

    /// Writes an aligned register below [`size`](Self::size): changes the virtual bits, and returns the rest.
    pub fn write(
        &mut self,
        config: &impl ConfigSpace,
        at: Bdf,
        offset: u16,
        width: Width,
        value: u32,
    ) -> ConfigWrite {
        let decoded = self.decodes_memory();
        let real = fold(self.bytes(offset, width).iter().map(|byte| byte.writable & !byte.is_virtual));
        for (byte, value) in self.bytes_mut(offset, width).iter_mut().zip(value.to_le_bytes()) {
            let mask = byte.writable & byte.is_virtual;
            byte.value = byte.value & !mask | value & mask;
        }
        let reset = self.take_reset(offset, width);
        // The status register, whose bits are cleared by writing them, is in the same word as the command.
        let status = if offset == COMMAND && matches!(width, Width::Word) { 0xffff_0000 } else { 0 };
        let old = || config.read(at, offset, width) & !status;
        ConfigWrite {
            register: (real != 0).then(|| old() & !real | value & real),
            memory: Some(self.decodes_memory()).filter(|&decodes| decodes != decoded),
            reset,
        }
    }

    /// Returns whether a write has set the bit that requests a reset, which reads as 0.
    fn take_reset(&mut self, offset: u16, width: Width) -> bool {
        let Some(control) = self.device_control else { return false };
        let high = control + 1;
        if !(offset..offset + width as u16).contains(&high) {
            return false;
        }
        let byte = &mut self.bytes[usize::from(high)];
        let bit = (FUNCTION_RESET >> 8) as u8;
        let is_set = byte.value & bit != 0;
        byte.value &= !bit;
        is_set
    }
}

fn fold(bytes: impl DoubleEndedIterator<Item = u8>) -> u32 {
    bytes.rev().fold(0, |word, byte| word << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::super::enumerate;
    use super::super::fake::{FakeBus, FakeFunction};
    use super::*;

    const AT: Bdf = Bdf::new(0, 0, 0);

    /// A network controller with MSI, MSI-X, VPD, SR-IOV and ATS.
    fn controller() -> FakeFunction {
        let mut function = FakeFunction::endpoint(0x8086, 0x10c9).bar(0, 0, 0x2_0000).bar(2, 1, 0x20).pin(1);
        function = function.bar(4, 4, 0x4000).writable32(0x88, u32::MAX);
        function.set8(0x06, 1 << 4);
        function.set8(0x34, 0x40);
        for (offset, id, next) in
            [(0x40, 1, 0x50), (0x50, 5, 0x80), (0x80, 0x10, 0xa0), (0xa0, 3, 0xb0), (0xb0, 0x11, 0)]
        {
            function.set8(offset, id);
            function.set8(offset + 1, next);
        }
        function.set32(0x42, 0xfffb);
        function.set32(0x50, 0x0180_8005);
        function.set32(0xb0, 0x8009_0011);
        function
            .extended(0x100, 1, 0x140, [7; 2])
            .extended(0x140, 0xe, 0x160, [7; 2])
            .extended(0x160, 0x10, 0x1a0, [7; 2])
            .extended(0x1a0, 0xf, 0, [7; 2])
    }

    fn setup(function: FakeFunction) -> (FakeBus, UserConfig) {
        let mut bus = FakeBus::new([function]);
        let found = enumerate::enumerate(&mut bus, 0..=0);
        let config = UserConfig::new(&bus, &found.functions[0]).unwrap();
        (bus, config)
    }

    /// Writes as the kernel does.
    fn write(
        bus: &mut FakeBus,
        config: &mut UserConfig,
        offset: u16,
        width: Width,
        value: u32,
    ) -> ConfigWrite {
        let write = config.write(bus, AT, offset, width, value);
        if let Some(value) = write.register {
            bus.write(AT, offset, width, value);
        }
        write
    }

    #[test]
    fn capabilities_that_decide_about_isolation_are_hidden() {
        let (bus, config) = setup(controller());
        let read8 = |offset| config.read(&bus, AT, offset, Width::Byte);
        let mut list = Vec::new();
        let mut next = read8(CAPABILITIES);
        while next != 0 {
            list.push(read8(next as u16));
            next = read8(next as u16 + 1);
        }
        assert_eq!(list, [1, 5, 0x10, 0x11], "without VPD");
        let (mut list, mut next) = (Vec::new(), 0x100);
        while next != 0 {
            let head = config.read(&bus, AT, next as u16, Width::Word);
            list.push(head & 0xffff);
            next = head >> 20;
        }
        assert_eq!(list, [1, 0xe], "without SR-IOV and ATS");
    }

    #[test]
    fn hidden_first_extended_capability_keeps_the_list() {
        let function = controller().extended(0x100, 0xf, 0x140, [7; 2]);
        let (bus, config) = setup(function);
        assert_eq!(config.read(&bus, AT, 0x100, Width::Word), 0x1400_0000, "no id");
        assert_eq!(config.read(&bus, AT, 0x140, Width::Word) & 0xffff, 0xe);
    }

    #[test]
    fn bus_mastering_reaches_the_hardware_and_decoding_does_not() {
        let (mut bus, mut config) = setup(controller());
        bus.write16(AT, COMMAND, MEMORY | INTX_OFF);
        assert_eq!(config.read(&bus, AT, COMMAND, Width::Half), u32::from(IO | MEMORY));
        let write1 = write(&mut bus, &mut config, COMMAND, Width::Half, u32::from(IO | MEMORY | MASTER));
        assert_eq!((write1.memory, write1.reset), (None, false));
        assert_eq!(bus.read16(AT, COMMAND), MEMORY | INTX_OFF | MASTER);
        assert_eq!(config.read(&bus, AT, COMMAND, Width::Half), u32::from(IO | MEMORY | MASTER));
        assert_eq!(write(&mut bus, &mut config, COMMAND, Width::Half, 0).memory, Some(false));
        assert_eq!(bus.read16(AT, COMMAND), MEMORY | INTX_OFF);
        assert_eq!(config.read(&bus, AT, COMMAND, Width::Half), 0);
        assert!(!config.decodes_memory());
        assert_eq!(write(&mut bus, &mut config, COMMAND, Width::Byte, 2).memory, Some(true));
    }

    #[test]
    fn bars_can_be_sized_without_an_effect() {
        let (mut bus, mut config) = setup(controller());
        bus.write32(AT, BARS, 0x1000_0000);
        let before: Vec<_> = (0..6).map(|index| bus.read32(AT, BARS + 4 * index)).collect();
        for (index, size) in [(0, 0xfffe_0000u32), (1, 0), (2, 0xffff_ffe1), (4, 0xffff_c004), (5, u32::MAX)]
        {
            write(&mut bus, &mut config, BARS + 4 * index, Width::Word, u32::MAX);
            assert_eq!(config.read(&bus, AT, BARS + 4 * index, Width::Word), size, "BAR {index}");
        }
        let after: Vec<_> = (0..6).map(|index| bus.read32(AT, BARS + 4 * index)).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn interrupt_capabilities_do_not_reach_the_hardware() {
        let (mut bus, mut config) = setup(controller());
        for (offset, value) in [(0x50, u32::MAX), (0x54, 0xfee0_0000), (0x58, 7), (0x5c, 9), (0xb0, u32::MAX)]
        {
            assert_eq!(write(&mut bus, &mut config, offset, Width::Word, value), ConfigWrite::default());
        }
        assert_eq!(config.read(&bus, AT, 0x54, Width::Word), 0xfee0_0000);
        assert_eq!(config.read(&bus, AT, 0x52, Width::Half), 0x01f1, "enable and the number of vectors");
        assert_eq!(config.read(&bus, AT, 0xb2, Width::Half), 0x8009, "MSI-X is read-only");
    }

    #[test]
    fn reset_bit_is_a_request_and_reads_as_zero() {
        let (mut bus, mut config) = setup(controller());
        assert!(!write(&mut bus, &mut config, 0x88, Width::Half, 0x2810).reset);
        assert!(write(&mut bus, &mut config, 0x88, Width::Half, 0xa810).reset);
        assert_eq!(config.read(&bus, AT, 0x88, Width::Half), 0x2810);
        assert!(write(&mut bus, &mut config, 0x89, Width::Byte, 0x80).reset);
        assert!(!write(&mut bus, &mut config, 0x88, Width::Byte, 0x80).reset);
        assert_eq!(bus.read16(AT, 0x88), 0, "the hardware's register is the kernel's");
    }

    #[test]
    fn other_registers_are_read_only() {
        let (mut bus, mut config) = setup(controller());
        for offset in (0..0x1000).step_by(4).filter(|offset| ![0x04, 0x3c, 0x88].contains(offset)) {
            let written = write(&mut bus, &mut config, offset, Width::Word, u32::MAX);
            assert_eq!(written.register, None, "{offset:#x}");
        }
    }

    #[test]
    fn conventional_function_has_256_bytes() {
        let (_, config) = setup(FakeFunction::endpoint(0x1234, 0x11e8));
        assert_eq!((config.size(), setup(controller()).1.size()), (0x100, 0x1000));
    }
}
