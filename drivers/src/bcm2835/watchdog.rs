//! The watchdog in the power manager of a Raspberry Pi. It resets the machine; the reset status register
//! tells the boot ROM whether to boot again.

use crate::mmio::Mmio;
use core::mem::offset_of;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::ReadWrite;

/// The power manager's registers up to the watchdog's.
#[repr(C)]
pub struct Registers {
    before_rstc: [u32; 7],
    rstc: ReadWrite<u32>,
    rsts: ReadWrite<u32>,
    wdog: ReadWrite<u32>,
}
const _: () = assert!(offset_of!(Registers, rstc) == 0x1c && offset_of!(Registers, wdog) == 0x24);

/// Required in the top byte of every write.
const PASSWORD: u32 = 0x5a00_0000;
/// RSTC: the watchdog's action on expiry (bits 5:4), and its value for a full reset.
const ACTION: u32 = 0b11 << 4;
const FULL_RESET: u32 = 0b10 << 4;
/// RSTS: the boot partition, spread over the even bits 0 to 10. Partition 63 means power off.
const PARTITION: u32 = 0x555;
/// Timeout: about 150 microseconds, in the watchdog's ticks of 1/65536 s.
const TIMEOUT: u32 = 10;

/// The watchdog.
pub struct Watchdog(Mmio<Registers>);

impl Watchdog {
    /// The watchdog with these registers.
    pub fn new(registers: Mmio<Registers>) -> Self {
        Self(registers)
    }

    /// Powers the machine off after about 150 microseconds: resets it with boot partition 63.
    pub fn power_off(&mut self) {
        let registers = &self.0;
        registers.rsts.set(PASSWORD | registers.rsts.get() & 0xff_ffff | PARTITION);
        registers.wdog.set(PASSWORD | TIMEOUT);
        registers.rstc.set(PASSWORD | registers.rstc.get() & 0xff_ffff & !ACTION | FULL_RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    #[test]
    fn power_off_is_a_reset_to_partition_63() {
        let fake = FakeRegisters::new(0x114);
        fake.set32(0x1c, 0x132);
        fake.set32(0x20, 0x1000);
        Watchdog::new(fake.mmio()).power_off();
        assert_eq!(fake.get32(0x20), 0x5a00_1555);
        assert_eq!(fake.get32(0x24), 0x5a00_000a);
        assert_eq!(fake.get32(0x1c), 0x5a00_0122);
    }
}
