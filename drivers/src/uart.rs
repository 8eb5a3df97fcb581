//! Consoles: UARTs, from early boot on. Output is polled; a [`UartReceiver`] can use the interrupt.
//!
//! The firmware sets clock and baud rate; a driver only enables transmitter and receiver.

use crate::mmio::{Mmio, ReadOnly};
use core::mem::offset_of;
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_bitfields;
use tock_registers::registers::ReadWrite;

/// Polls of a full UART before a byte is dropped: more than 0.1 s on any machine, while a byte takes 0.1 ms
/// at 115200 baud.
const MAX_POLLS: u32 = 1_000_000;

/// A byte-oriented console.
pub trait Console: Send {
    /// Sends the bytes unchanged. A byte that the device does not accept in time is dropped.
    fn write(&mut self, bytes: &[u8]);
    /// Waits, within a time limit, until all bytes are transmitted: needed before power off.
    fn flush(&mut self);
    /// Enables the receiver, and its interrupt if `interrupt`. It must be the only one, and not outlive the
    /// mapping of the registers.
    fn receiver(&mut self, interrupt: bool) -> UartReceiver;
}

/// The receiver of a UART. It uses other registers than the output, so that it needs no lock in common with
/// it: an interrupt handler does not wait for a line of output.
pub enum UartReceiver {
    /// Of a PL011.
    Pl011(Mmio<Pl011Registers>),
    /// Of a mini UART.
    MiniUart(Mmio<MiniUartRegisters>),
}

impl UartReceiver {
    /// Returns the oldest received byte that was not read yet, if any. The interrupt, which is
    /// level-triggered, ends when all are read (DDI 0183, 2.8).
    pub fn read(&mut self) -> Option<u8> {
        match self {
            Self::Pl011(registers) => (!registers.fr.is_set(Flags::RXFE)).then(|| registers.dr.get() as u8),
            Self::MiniUart(registers) => {
                registers.lsr.is_set(LineStatus::RX_READY).then(|| registers.io.get() as u8)
            }
        }
    }
}

/// Polls until `done` returns true, at most [`MAX_POLLS`] times. Returns whether it did. No
/// [`poll_until`](crate::poll::poll_until): a console works without a timer, in a panic too.
fn poll(done: impl Fn() -> bool) -> bool {
    (0..MAX_POLLS).any(|_| {
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
    ],
    Interrupts [
        /// The receive FIFO has reached its level.
        RX 4,
        /// The receive FIFO is not empty, and no byte was received for 32 bit periods.
        RT 6
    ]
];

/// PL011 (DDI 0183, 3.2).
#[repr(C)]
pub struct Pl011Registers {
    /// A read pops the receive FIFO; errors are above bit 7.
    dr: ReadWrite<u32>,
    after_dr: [u32; 5],
    fr: ReadOnly<u32, Flags::Register>,
    after_fr: [u32; 4],
    lcr_h: ReadWrite<u32, LineControl::Register>,
    cr: ReadWrite<u32, Control::Register>,
    ifls: ReadWrite<u32>,
    imsc: ReadWrite<u32, Interrupts::Register>,
}
const _: () = assert!(offset_of!(Pl011Registers, fr) == 0x18 && offset_of!(Pl011Registers, cr) == 0x30);
const _: () = assert!(offset_of!(Pl011Registers, imsc) == 0x38);

/// Arm's PL011.
pub struct Pl011(Mmio<Pl011Registers>);

impl Pl011 {
    /// Whether the identification registers, read by `word` at their offsets, are those of a PL011: part
    /// number and designer (DDI 0183, 3.3.14), and the PrimeCell identification (3.3.15).
    pub fn is_present(word: impl Fn(u64) -> Option<u32>) -> bool {
        const IDS: [(u64, u32); 6] =
            [(0xfe0, 0x11), (0xfe4, 0x10), (0xff0, 0x0d), (0xff4, 0xf0), (0xff8, 0x05), (0xffc, 0xb1)];
        IDS.iter().all(|&(offset, id)| word(offset).is_some_and(|word| word & 0xff == id))
    }

    /// The UART with these registers, enabled if the firmware has not enabled it. Its interrupts are masked.
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
            if poll(|| !self.0.fr.is_set(Flags::TXFF)) {
                self.0.dr.set(u32::from(byte));
            }
        }
    }

    fn flush(&mut self) {
        poll(|| !self.0.fr.is_set(Flags::BUSY));
    }

    fn receiver(&mut self, interrupt: bool) -> UartReceiver {
        self.0.cr.modify(Control::RXE::SET);
        if interrupt {
            self.0.imsc.write(Interrupts::RX::SET + Interrupts::RT::SET);
        }
        // SAFETY: mapped as `self.0` is. Only the receiver reads DR, and only the output writes it: these are
        // two FIFOs. Reads of FR have no effect.
        UartReceiver::Pl011(unsafe { Mmio::new(self.0.address()) })
    }
}

register_bitfields![u32,
    LineStatus [
        /// A byte was received.
        RX_READY 0,
        /// The transmit FIFO accepts a byte.
        TX_READY 5,
        /// The transmitter is idle.
        TX_IDLE 6
    ],
    InterruptEnable [
        /// A byte was received. (The manual exchanges this bit and bit 1; an 8250 has it here.)
        RX 0
    ]
];

/// The mini UART (BCM2835 ARM Peripherals, 2.2), from AUX_MU_IO_REG on.
#[repr(C)]
pub struct MiniUartRegisters {
    io: ReadWrite<u32>,
    ier: ReadWrite<u32, InterruptEnable::Register>,
    after_ier: [u32; 3],
    lsr: ReadOnly<u32, LineStatus::Register>,
}
const _: () = assert!(offset_of!(MiniUartRegisters, lsr) == 0x14);

/// The 8250-like second UART of a BCM2835.
pub struct MiniUart(Mmio<MiniUartRegisters>);

impl MiniUart {
    /// The UART with these registers, configured by the firmware.
    pub fn new(registers: Mmio<MiniUartRegisters>) -> Self {
        Self(registers)
    }
}

impl Console for MiniUart {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if poll(|| self.0.lsr.is_set(LineStatus::TX_READY)) {
                self.0.io.set(u32::from(byte));
            }
        }
    }

    fn flush(&mut self) {
        poll(|| self.0.lsr.is_set(LineStatus::TX_IDLE));
    }

    fn receiver(&mut self, interrupt: bool) -> UartReceiver {
        if interrupt {
            self.0.ier.write(InterruptEnable::RX::SET);
        }
        // SAFETY: as for the PL011, with IO for DR and LSR for FR; a read of LSR clears only the overrun
        // flag, which is not used.
        UartReceiver::MiniUart(unsafe { Mmio::new(self.0.address()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    #[test]
    fn disabled_pl011_is_enabled() {
        let fake = FakeRegisters::new(0x40);
        fake.set32(0x38, 0x7ff);
        let mut uart = Pl011::new(fake.mmio());
        assert_eq!((fake.get32(0x2c), fake.get32(0x30), fake.get32(0x38)), (0x70, 0x301, 0));
        uart.write(b"ab");
        uart.flush();
        assert_eq!(fake.get32(0), u32::from(b'b'));
    }

    #[test]
    fn enabled_pl011_keeps_its_settings() {
        let fake = FakeRegisters::new(0x40);
        fake.set32(0x2c, 0x60);
        fake.set32(0x30, 0xc101);
        Pl011::new(fake.mmio());
        assert_eq!((fake.get32(0x2c), fake.get32(0x30)), (0x60, 0xc101));
    }

    #[test]
    fn receiver_enables_its_interrupts_on_request() {
        for (interrupt, mask) in [(false, 0), (true, 0x50)] {
            let fake = FakeRegisters::new(0x40);
            fake.set32(0x30, 0x101);
            let mut uart = Pl011::new(fake.mmio());
            let mut receiver = uart.receiver(interrupt);
            assert_eq!((fake.get32(0x30), fake.get32(0x38)), (0x301, mask));
            fake.set32(0, 0xf00 | u32::from(b'x'));
            assert_eq!(receiver.read(), Some(b'x'));
            fake.set32(0x18, 1 << 4);
            assert_eq!(receiver.read(), None);
        }
        let fake = FakeRegisters::new(0x18);
        let mut receiver = MiniUart::new(fake.mmio()).receiver(true);
        assert_eq!((receiver.read(), fake.get32(4)), (None, 1));
        fake.set32(0x14, 1);
        fake.set32(0, u32::from(b'y'));
        assert_eq!(receiver.read(), Some(b'y'));
    }

    #[test]
    fn pl011_is_detected_by_identification() {
        let ids = |offset| match offset {
            0xfe0 => Some(0x11),
            0xfe4 => Some(0x10),
            0xfe8 => Some(0x34),
            0xff0..0x1000 => Some([0x0d, 0xf0, 0x05, 0xb1][(offset as usize - 0xff0) / 4]),
            _ => Some(0),
        };
        assert!(Pl011::is_present(ids));
        assert!(
            !Pl011::is_present(|offset| ids(offset).filter(|_| offset != 0xff8)),
            "an unreadable register"
        );
        assert!(
            !Pl011::is_present(|offset| Some(if offset == 0xfe0 { 0x31 } else { ids(offset)? })),
            "a PL031"
        );
        assert!(!Pl011::is_present(|_| Some(0)) && !Pl011::is_present(|_| None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million polls")]
    fn full_uart_drops_bytes_instead_of_blocking() {
        let fake = FakeRegisters::new(0x40);
        fake.set32(0x18, 1 << 5 | 1 << 3);
        let mut uart = Pl011::new(fake.mmio());
        uart.write(b"x");
        uart.flush();
        assert_eq!(fake.get32(0), 0, "the byte was dropped");
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million polls")]
    fn mini_uart_drops_bytes_when_full() {
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
