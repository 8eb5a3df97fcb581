//! Consoles: UARTs that are written to and read from by polling, early in boot and ever after.
//!
//! The firmware has set clock and speed; a driver here only makes sure that the transmitter is on.

use crate::mmio::{Mmio, ReadOnly};
use core::mem::offset_of;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_bitfields;
use tock_registers::registers::ReadWrite;

/// Reads of a full UART before a byte is given up: more than a tenth of a second on any machine, and a byte takes
/// 0.1 ms at 115200 baud.
const PATIENCE: u32 = 1_000_000;

/// Something that text can be written to.
pub trait Console: Send {
    /// Sends the bytes as they are. A byte that the device does not take within bounded time is dropped.
    fn write(&mut self, bytes: &[u8]);
    /// Waits, within bounds, until everything is on the line: before the power goes.
    fn flush(&mut self);
    /// The oldest byte that has arrived and was not read yet, if any.
    fn read(&mut self) -> Option<u8>;
}

/// Whether `done` came true within the bounds.
fn patiently(done: impl Fn() -> bool) -> bool {
    (0..PATIENCE).any(|_| {
        done() || {
            core::hint::spin_loop();
            false
        }
    })
}

register_bitfields![u32,
    Flags [
        /// The transmitter is sending.
        BUSY 3,
        /// The receive FIFO is empty.
        RXFE 4,
        /// The transmit FIFO is full.
        TXFF 5
    ],
    LineControl [
        /// FIFOs on.
        FEN OFFSET(4) NUMBITS(1) [],
        /// Word length.
        WLEN OFFSET(5) NUMBITS(2) [ Eight = 3 ]
    ],
    Control [
        UARTEN 0,
        /// Transmit enable.
        TXE 8,
        /// Receive enable.
        RXE 9
    ]
];

/// PL011 (DDI 0183, 3.2).
#[repr(C)]
pub struct Pl011Registers {
    /// Reading takes a byte out of the receive FIFO; its errors are above bit 7.
    dr: ReadWrite<u32>,
    after_dr: [u32; 5],
    fr: ReadOnly<u32, Flags::Register>,
    after_fr: [u32; 4],
    lcr_h: ReadWrite<u32, LineControl::Register>,
    cr: ReadWrite<u32, Control::Register>,
    ifls: ReadWrite<u32>,
    imsc: ReadWrite<u32>,
}
const _: () = assert!(offset_of!(Pl011Registers, fr) == 0x18 && offset_of!(Pl011Registers, cr) == 0x30);
const _: () = assert!(offset_of!(Pl011Registers, imsc) == 0x38);

/// Arm's PL011.
pub struct Pl011(Mmio<Pl011Registers>);

impl Pl011 {
    /// Whether the identification registers, read by `word` at their offsets, are those of a PL011: part number and
    /// designer (DDI 0183, 3.3.14), and what every PrimeCell has (3.3.15).
    pub fn answers(word: impl Fn(u64) -> Option<u32>) -> bool {
        const IDS: [(u64, u32); 6] =
            [(0xfe0, 0x11), (0xfe4, 0x10), (0xff0, 0x0d), (0xff4, 0xf0), (0xff8, 0x05), (0xffc, 0xb1)];
        IDS.iter().all(|&(offset, id)| word(offset).is_some_and(|word| word & 0xff == id))
    }

    /// The UART with these registers, switched on if the firmware left it off. Its interrupts are masked.
    pub fn new(registers: Mmio<Pl011Registers>) -> Self {
        registers.imsc.set(0);
        if !registers.cr.matches_all(Control::UARTEN::SET + Control::TXE::SET) {
            registers.lcr_h.write(LineControl::WLEN::Eight + LineControl::FEN::SET);
            registers.cr.write(Control::UARTEN::SET + Control::TXE::SET + Control::RXE::SET);
        }
        Self(registers)
    }
}

impl Console for Pl011 {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if patiently(|| !self.0.fr.is_set(Flags::TXFF)) {
                self.0.dr.set(u32::from(byte));
            }
        }
    }

    fn flush(&mut self) {
        patiently(|| !self.0.fr.is_set(Flags::BUSY));
    }

    fn read(&mut self) -> Option<u8> {
        (!self.0.fr.is_set(Flags::RXFE)).then(|| self.0.dr.get() as u8)
    }
}

register_bitfields![u32,
    LineStatus [
        /// A byte has arrived.
        RX_READY 0,
        /// The transmit FIFO takes a byte.
        TX_READY 5,
        /// The transmitter is idle.
        TX_IDLE 6
    ]
];

/// The mini UART (BCM2835 ARM Peripherals, 2.2), from AUX_MU_IO_REG on.
#[repr(C)]
pub struct MiniUartRegisters {
    io: ReadWrite<u32>,
    after_io: [u32; 4],
    lsr: ReadOnly<u32, LineStatus::Register>,
}
const _: () = assert!(offset_of!(MiniUartRegisters, lsr) == 0x14);

/// The 8250-like second UART of a BCM2835.
pub struct MiniUart(Mmio<MiniUartRegisters>);

impl MiniUart {
    /// The UART with these registers, as the firmware left it.
    pub fn new(registers: Mmio<MiniUartRegisters>) -> Self {
        Self(registers)
    }
}

impl Console for MiniUart {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if patiently(|| self.0.lsr.is_set(LineStatus::TX_READY)) {
                self.0.io.set(u32::from(byte));
            }
        }
    }

    fn flush(&mut self) {
        patiently(|| self.0.lsr.is_set(LineStatus::TX_IDLE));
    }

    fn read(&mut self) -> Option<u8> {
        self.0.lsr.is_set(LineStatus::RX_READY).then(|| self.0.io.get() as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    #[test]
    fn a_pl011_that_is_off_is_switched_on() {
        let fake = FakeRegisters::new(0x40);
        fake.set32(0x38, 0x7ff);
        let mut uart = Pl011::new(fake.mmio());
        assert_eq!((fake.get32(0x2c), fake.get32(0x30), fake.get32(0x38)), (0x70, 0x301, 0));
        uart.write(b"ab");
        uart.flush();
        assert_eq!(fake.get32(0), u32::from(b'b'));
    }

    #[test]
    fn a_pl011_that_is_on_keeps_its_settings() {
        let fake = FakeRegisters::new(0x40);
        fake.set32(0x2c, 0x60);
        fake.set32(0x30, 0xc101);
        Pl011::new(fake.mmio());
        assert_eq!((fake.get32(0x2c), fake.get32(0x30)), (0x60, 0xc101));
    }

    #[test]
    fn a_pl011_is_known_by_its_identification() {
        let ids = |offset| match offset {
            0xfe0 => Some(0x11),
            0xfe4 => Some(0x10),
            0xfe8 => Some(0x34),
            0xff0..0x1000 => Some([0x0d, 0xf0, 0x05, 0xb1][(offset as usize - 0xff0) / 4]),
            _ => Some(0),
        };
        assert!(Pl011::answers(ids));
        assert!(
            !Pl011::answers(|offset| ids(offset).filter(|_| offset != 0xff8)),
            "one that does not answer"
        );
        assert!(!Pl011::answers(|offset| Some(if offset == 0xfe0 { 0x31 } else { ids(offset)? })), "a PL031");
        assert!(!Pl011::answers(|_| Some(0)) && !Pl011::answers(|_| None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million looks at a register")]
    fn a_uart_that_never_drains_does_not_hang_the_writer() {
        let fake = FakeRegisters::new(0x40);
        fake.set32(0x18, 1 << 5 | 1 << 3);
        let mut uart = Pl011::new(fake.mmio());
        uart.write(b"x");
        uart.flush();
        assert_eq!(fake.get32(0), 0, "the byte was dropped");
    }

    #[test]
    fn the_mini_uart_waits_for_room() {
        let fake = FakeRegisters::new(0x18);
        let mut uart = MiniUart::new(fake.mmio());
        uart.write(b"x");
        assert_eq!(fake.get32(0), 0, "no room, dropped");
        fake.set32(0x14, 1 << 5 | 1 << 6);
        uart.write(b"y");
        uart.flush();
        assert_eq!(fake.get32(0), u32::from(b'y'));
    }
}
