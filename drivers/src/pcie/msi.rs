//! Message-signalled interrupts (PCI 3.0, 6.8): the MSI capability. MSI-X is only disabled.

use super::address::Bdf;
use super::capabilities::{Capabilities, Capability};
use super::config::ConfigSpace;
use core::fmt;

/// Offset of the message control register, of MSI and MSI-X.
const CONTROL: u16 = 2;
/// Message control of MSI.
const MSI_ENABLE: u16 = 1;
const MULTIPLE_MESSAGE_ENABLE: u16 = 7 << 4;
const ADDRESS_64: u16 = 1 << 7;
/// Message control of MSI-X.
const MSI_X_ENABLE: u16 = 1 << 15;
const ADDRESS: u16 = 4;
/// The longest capability: the registers after `offset` are inside of the 256 bytes.
const LONGEST: u16 = 0x18;

/// A message: the memory write that a function sends as an interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The address on the bus: that of a doorbell.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// The function cannot send the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsiCapabilityError {
    /// It has no MSI capability.
    NotSupported(Bdf),
    /// Its messages have 32-bit addresses or 16-bit data.
    OutOfReach(Message),
}

impl fmt::Display for MsiCapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSupported(at) => write!(f, "{at} has no MSI capability"),
            Self::OutOfReach(Message { address, data }) => {
                write!(f, "a message to {address:#x} with data {data:#x} is too large")
            }
        }
    }
}

impl core::error::Error for MsiCapabilityError {}

/// The offset of the MSI capability.
pub(super) fn capability(config: &impl ConfigSpace, at: Bdf) -> Option<u16> {
    let found = Capabilities::of(config, at).find(|found| found.id == Capability::MSI)?;
    (found.offset <= 0x100 - LONGEST).then_some(found.offset)
}

/// Makes the function send `message`, its only one.
///
/// # Errors
/// [`MsiCapabilityError`]; nothing is changed.
pub(super) fn enable(
    config: &mut impl ConfigSpace,
    at: Bdf,
    message: Message,
) -> Result<(), MsiCapabilityError> {
    let offset = capability(config, at).ok_or(MsiCapabilityError::NotSupported(at))?;
    let control = config.read16(at, offset + CONTROL);
    let is_64bit = control & ADDRESS_64 != 0;
    let in_reach = is_64bit || message.address >> 32 == 0;
    let (Ok(data), true) = (u16::try_from(message.data), in_reach) else {
        return Err(MsiCapabilityError::OutOfReach(message));
    };
    // A function may send a message at any time: not with half of an address.
    let disabled = control & !(MSI_ENABLE | MULTIPLE_MESSAGE_ENABLE);
    config.write16(at, offset + CONTROL, disabled);
    config.write32(at, offset + ADDRESS, message.address as u32);
    if is_64bit {
        config.write32(at, offset + ADDRESS + 4, (message.address >> 32) as u32);
    }
    config.write16(at, offset + if is_64bit { 0xc } else { 8 }, data);
    config.write16(at, offset + CONTROL, disabled | MSI_ENABLE);
    Ok(())
}

/// Disables the messages of MSI and MSI-X.
pub(super) fn disable_all(config: &mut impl ConfigSpace, at: Bdf) {
    for (id, enable) in [(Capability::MSI, MSI_ENABLE), (Capability::MSI_X, MSI_X_ENABLE)] {
        let Some(found) = Capabilities::of(config, at).find(|found| found.id == id) else { continue };
        let Some(register) = found.offset.checked_add(CONTROL).filter(|&register| register < 0x100) else {
            continue;
        };
        let control = config.read16(at, register);
        if control & enable != 0 {
            config.write16(at, register, control & !enable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeBus, FakeFunction};
    use super::*;
    use std::vec::Vec;

    const AT: Bdf = Bdf::new(0, 0, 0);

    /// A function with an MSI capability at 0x50 with this control, and MSI-X at 0x70.
    fn function(control: u16) -> FakeFunction {
        let mut function = FakeFunction::endpoint(1, 2)
            .writable32(0x50, 0xffff_0000)
            .writable32(0x54, u32::MAX)
            .writable32(0x58, u32::MAX)
            .writable32(0x5c, u32::MAX)
            .writable32(0x70, 0xffff_0000);
        function.set8(0x06, 1 << 4);
        function.set8(0x34, 0x50);
        function.set32(0x50, u32::from(control) << 16 | 0x7005);
        function.set32(0x70, 0x8003_0011);
        function
    }

    fn words(bus: &FakeBus) -> Vec<u32> {
        [0x50, 0x54, 0x58, 0x5c].map(|at| bus.read32(AT, at)).into()
    }

    #[test]
    fn message_is_written_before_it_is_enabled() {
        let message = Message { address: 0x1_ffe0_0040, data: 5 };
        let mut bus = FakeBus::new([function(0x00b1)]);
        assert_eq!(enable(&mut bus, AT, message), Ok(()));
        assert_eq!(words(&bus), [0x0081_7005, 0xffe0_0040, 1, 5], "one message");
        let mut bus = FakeBus::new([function(0)]);
        assert_eq!(enable(&mut bus, AT, message), Err(MsiCapabilityError::OutOfReach(message)));
        let message = Message { address: 0xffe0_0040, ..message };
        assert_eq!(enable(&mut bus, AT, message), Ok(()));
        assert_eq!(words(&bus), [0x0001_7005, 0xffe0_0040, 5, 0]);
        let message = Message { data: 0x1_0000, ..message };
        assert_eq!(enable(&mut bus, AT, message), Err(MsiCapabilityError::OutOfReach(message)));
    }

    #[test]
    fn function_without_the_capability_is_refused() {
        let mut bus = FakeBus::new([FakeFunction::endpoint(1, 2)]);
        let message = Message { address: 0, data: 0 };
        assert_eq!(enable(&mut bus, AT, message), Err(MsiCapabilityError::NotSupported(AT)));
    }

    #[test]
    fn messages_that_firmware_enabled_are_disabled() {
        let mut bus = FakeBus::new([function(1)]);
        disable_all(&mut bus, AT);
        assert_eq!((bus.read16(AT, 0x52), bus.read16(AT, 0x72)), (0, 3));
    }
}
