//! Arm's real-time clock PL031 (DDI 0224): the seconds since the epoch.

use crate::mmio::{Mmio, ReadOnly};
use core::mem::offset_of;
use tock_registers::interfaces::Readable;
use tock_registers::register_bitfields;

register_bitfields![u32,
    Control [
        /// The clock runs.
        START 0
    ]
];

/// The registers of the PL031 (DDI 0224, 3.2).
#[repr(C)]
pub struct Registers {
    /// The current count of seconds.
    dr: ReadOnly<u32>,
    after_dr: [u32; 2],
    cr: ReadOnly<u32, Control::Register>,
}
const _: () = assert!(offset_of!(Registers, cr) == 0xc);

/// Returns the time in seconds since the epoch; `None` if the clock is stopped, as after a reset without a
/// battery.
pub fn read(registers: &Mmio<Registers>) -> Option<u32> {
    registers.cr.is_set(Control::START).then(|| registers.dr.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    #[test]
    fn stopped_clock_has_no_time() {
        let registers = FakeRegisters::new(0x1000);
        registers.set32(0x0, 1_700_000_000);
        assert_eq!(read(&registers.mmio()), None);
        registers.set32(0xc, 1);
        assert_eq!(read(&registers.mmio()), Some(1_700_000_000));
    }
}
