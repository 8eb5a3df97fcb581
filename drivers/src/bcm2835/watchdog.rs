//! The power manager of a Raspberry Pi, of which this is the watchdog alone: it resets the machine, and what the boot
//! ROM finds in the reset status decides whether it comes up again.

use crate::mmio::Mmio;
use core::mem::offset_of;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::ReadWrite;

/// The first of the power manager's registers, as far as they matter here.
#[repr(C)]
pub struct Registers {
    before_rstc: [u32; 7],
    rstc: ReadWrite<u32>,
    rsts: ReadWrite<u32>,
    wdog: ReadWrite<u32>,
}
const _: () = assert!(offset_of!(Registers, rstc) == 0x1c && offset_of!(Registers, wdog) == 0x24);

/// Every write is ignored unless it carries this.
const PASSWORD: u32 = 0x5a00_0000;
/// RSTC: what the watchdog does when it runs out (bits 5:4), and "reset everything".
const ACTION: u32 = 0b11 << 4;
const FULL_RESET: u32 = 0b10 << 4;
/// RSTS: the boot partition, spread over the even bits 0 to 10. Partition 63 means: stay off.
const PARTITION: u32 = 0x555;
/// About 150 microseconds, in the watchdog's ticks of 1/65536 s.
const SOON: u32 = 10;

/// The watchdog.
pub struct Watchdog(Mmio<Registers>);

impl Watchdog {
    /// The watchdog of these registers.
    pub fn new(registers: Mmio<Registers>) -> Self {
        Self(registers)
    }

    /// Resets the machine into the state in which it stays off, some microseconds from now.
    pub fn power_off(&mut self) {
        let registers = &self.0;
        registers.rsts.set(PASSWORD | registers.rsts.get() & 0xff_ffff | PARTITION);
        registers.wdog.set(PASSWORD | SOON);
        registers.rstc.set(PASSWORD | registers.rstc.get() & 0xff_ffff & !ACTION | FULL_RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    #[test]
    fn off_is_a_reset_into_partition_63() {
        let fake = FakeRegisters::new(0x114);
        fake.set32(0x1c, 0x132);
        fake.set32(0x20, 0x1000);
        Watchdog::new(fake.mmio()).power_off();
        assert_eq!(fake.get32(0x20), 0x5a00_1555);
        assert_eq!(fake.get32(0x24), 0x5a00_000a);
        assert_eq!(fake.get32(0x1c), 0x5a00_0122);
    }
}
