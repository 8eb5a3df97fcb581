//! The interrupt controllers of a Raspberry Pi 3: the local one of the cores (BCM2836, "QA7": timers,
//! mailboxes between cores) and, as one of its inputs, that of the peripherals (BCM2835, section 7).
//!
//! There are no priorities and no end of interrupt: an interrupt is a level that the device deasserts when it
//! is served. Mailbox 0 of each core carries the IPIs, one bit each. All interrupts of the peripherals go to
//! the first core.

use crate::mmio::{Mmio, MmioWindow, ReadOnly, TooShort};
use core::fmt;
use core::mem::offset_of;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadWrite, WriteOnly};

const CORES: usize = 4;

/// QA7, section 4. Arrays are indexed by core.
#[repr(C)]
struct LocalRegisters {
    control: ReadWrite<u32>,
    after_control: [u32; 2],
    /// Target core of the peripherals' interrupts (bits 1:0).
    gpu_routing: ReadWrite<u32>,
    after_gpu_routing: [u32; 12],
    /// Bit n enables the interrupt of timer n (0 secure, 1 non-secure, 2 hypervisor, 3 virtual).
    timer_control: [ReadWrite<u32>; CORES],
    /// Bit n enables the interrupt of mailbox n.
    mailbox_control: [ReadWrite<u32>; CORES],
    /// Bcm2836Pending interrupts: bits 0 to 3 timers, 4 to 7 mailboxes, 8 the peripherals.
    irq_source: [ReadOnly<u32>; CORES],
    fiq_source: [ReadOnly<u32>; CORES],
    /// Four mailboxes per core: writing ones sets bits.
    mailbox_set: [[WriteOnly<u32>; 4]; CORES],
    /// The same mailboxes: readable, writing ones clears bits.
    mailbox_clear: [[ReadWrite<u32>; 4]; CORES],
}
const _: () = assert!(offset_of!(LocalRegisters, timer_control) == 0x40);
const _: () =
    assert!(offset_of!(LocalRegisters, mailbox_set) == 0x80 && size_of::<LocalRegisters>() == 0x100);

/// BCM2835 ARM Peripherals, 7.5. Bank 0 is the "basic" bank.
#[repr(C)]
struct PeripheralRegisters {
    pending: [ReadOnly<u32>; 3],
    fiq_control: ReadWrite<u32>,
    /// Banks 1, 2 and 0, in this order.
    enable: [ReadWrite<u32>; 3],
    /// Banks 1, 2 and 0, in this order.
    disable: [ReadWrite<u32>; 3],
}
const _: () = assert!(offset_of!(PeripheralRegisters, enable) == 0x10);
const _: () = assert!(size_of::<PeripheralRegisters>() == 0x28);

const TIMERS: u32 = 4;
const MAILBOX_0: u32 = 1 << 4;
const PERIPHERALS: u32 = 1 << 8;
/// Bank 0 has eight interrupts; its other bits summarize banks 1 and 2.
const BANK_0: u32 = 0xff;

/// An interrupt of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptSource {
    /// An input of the local controller, banked per core: 0 to 3 are the timers.
    Local(u32),
    /// An input of the peripherals' controller.
    Peripheral {
        /// 0, 1 or 2.
        bank: u32,
        /// Its bit in the bank.
        number: u32,
    },
}

/// The controllers refused a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bcm2836Error {
    /// A register window is too short.
    TooShort(TooShort),
    /// No core has this affinity.
    NoSuchCore(u64),
    /// The interrupt does not exist or belongs to no device.
    NoSuchSource(InterruptSource),
}

impl fmt::Display for Bcm2836Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(error) => error.fmt(f),
            Self::NoSuchCore(affinity) => write!(f, "no core has the affinity {affinity:#x}"),
            Self::NoSuchSource(source) => write!(f, "no device raises {source:?}"),
        }
    }
}

impl core::error::Error for Bcm2836Error {}

impl From<TooShort> for Bcm2836Error {
    fn from(error: TooShort) -> Self {
        Self::TooShort(error)
    }
}

/// One of the four cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Core(usize);

impl Core {
    fn of(affinity: u64) -> Result<Self, Bcm2836Error> {
        let core = usize::try_from(affinity).ok().filter(|&core| core < CORES);
        core.map(Self).ok_or(Bcm2836Error::NoSuchCore(affinity))
    }
}

/// The shared part of the controllers.
pub struct Bcm2836 {
    local: Mmio<LocalRegisters>,
    peripherals: Mmio<PeripheralRegisters>,
}

/// The part for concurrent use by all cores.
pub struct Bcm2836Interface {
    local: Mmio<LocalRegisters>,
    peripherals: Mmio<PeripheralRegisters>,
}

// SAFETY: a core reads its own pending register and clears its own mailbox; setting a bit of a mailbox is a
// complete request. The pending registers of the peripherals are only read.
unsafe impl Sync for Bcm2836Interface {}

/// An acknowledged interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bcm2836Pending {
    /// An IPI, whose mailbox bit is cleared.
    Software(u32),
    /// A device's interrupt, which the device deasserts when it is served.
    Device(InterruptSource),
}

/// The controllers with these registers. All interrupts are disabled, those of the peripherals go to core 0.
///
/// # Errors
/// [`Bcm2836Error::TooShort`].
pub fn open(local: MmioWindow, peripherals: MmioWindow) -> Result<(Bcm2836, Bcm2836Interface), Bcm2836Error> {
    local.at_least(size_of::<LocalRegisters>() as u64)?;
    peripherals.at_least(size_of::<PeripheralRegisters>() as u64)?;
    let (local, peripherals) = (local.address(), peripherals.address());
    // SAFETY: both structs contain register fields only; the windows, whose lengths were checked, guarantee
    // the mapping and are owned by this function.
    let controller = unsafe { Bcm2836 { local: Mmio::new(local), peripherals: Mmio::new(peripherals) } };
    // SAFETY: as above; the second pair shares the registers as `Sync for Bcm2836Interface` explains.
    let interface =
        unsafe { Bcm2836Interface { local: Mmio::new(local), peripherals: Mmio::new(peripherals) } };
    controller.init();
    Ok((controller, interface))
}

impl Bcm2836 {
    fn init(&self) {
        self.peripherals.fiq_control.set(0);
        self.peripherals.disable.iter().for_each(|bank| bank.set(u32::MAX));
        self.local.gpu_routing.set(0);
    }

    /// Initializes the calling core: timer interrupts are disabled, IPIs enabled.
    ///
    /// # Errors
    /// [`Bcm2836Error::NoSuchCore`].
    pub fn init_cpu(&mut self, affinity: u64) -> Result<Core, Bcm2836Error> {
        let core = Core::of(affinity)?;
        self.local.timer_control[core.0].set(0);
        self.local.mailbox_clear[core.0].iter().for_each(|mailbox| mailbox.set(u32::MAX));
        self.local.mailbox_control[core.0].set(1);
        Ok(core)
    }

    /// Enables `source`; a timer on `core`, which must be the caller.
    ///
    /// # Errors
    /// [`Bcm2836Error::NoSuchSource`].
    pub fn enable(&mut self, source: InterruptSource, core: Core) -> Result<(), Bcm2836Error> {
        match source {
            InterruptSource::Local(timer @ 0..TIMERS) => {
                let control = &self.local.timer_control[core.0];
                control.set(control.get() | 1 << timer);
            }
            InterruptSource::Peripheral { bank: 0, number: number @ 0..8 } => {
                self.peripherals.enable[2].set(1 << number);
            }
            InterruptSource::Peripheral { bank: bank @ 1..=2, number: number @ 0..32 } => {
                self.peripherals.enable[bank as usize - 1].set(1 << number);
            }
            _ => return Err(Bcm2836Error::NoSuchSource(source)),
        }
        Ok(())
    }
}

impl Bcm2836Interface {
    /// Acknowledges a pending interrupt of this core. Later reads are not performed before the
    /// acknowledgement.
    pub fn acknowledge(&self) -> Option<Bcm2836Pending> {
        let core = Core::of(arch::cpu::affinity()).ok()?;
        let waiting = self.local.irq_source[core.0].get();
        let pending = if waiting & MAILBOX_0 != 0 {
            self.take_software(core)
        } else if waiting & ((1 << TIMERS) - 1) != 0 {
            Some(Bcm2836Pending::Device(InterruptSource::Local(waiting.trailing_zeros())))
        } else if waiting & PERIPHERALS != 0 {
            self.peripheral().map(Bcm2836Pending::Device)
        } else {
            None
        };
        arch::barrier::dsb_sy();
        pending
    }

    fn take_software(&self, core: Core) -> Option<Bcm2836Pending> {
        let mailbox = &self.local.mailbox_clear[core.0][0];
        let number = mailbox.get().trailing_zeros();
        (number < 32).then(|| {
            mailbox.set(1 << number);
            Bcm2836Pending::Software(number)
        })
    }

    /// The first pending interrupt; the registers show enabled ones only.
    fn peripheral(&self) -> Option<InterruptSource> {
        let masks = [BANK_0, u32::MAX, u32::MAX];
        let banks = self.peripherals.pending.iter().zip(masks).enumerate();
        banks
            .map(|(bank, (pending, mask))| (bank as u32, pending.get() & mask))
            .find(|&(_, waiting)| waiting != 0)
            .map(|(bank, waiting)| InterruptSource::Peripheral { bank, number: waiting.trailing_zeros() })
    }

    /// Sends IPI `number`, below 32. The handler observes all earlier stores.
    pub fn send(&self, number: u32, core: Core) {
        arch::barrier::dsb_ishst();
        self.local.mailbox_set[core.0][0].set(1 << number);
    }

    /// Sends IPI `number` to every core except this one.
    pub fn send_to_others(&self, number: u32) {
        let own = arch::cpu::affinity();
        (0..CORES).filter(|&core| core as u64 != own).for_each(|core| self.send(number, Core(core)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    struct Fixture {
        local: FakeRegisters,
        peripherals: FakeRegisters,
        controller: Bcm2836,
        interface: Bcm2836Interface,
    }

    fn fixture() -> Fixture {
        let (local, peripherals) = (FakeRegisters::new(0x100), FakeRegisters::new(0x200));
        let (controller, interface) = open(local.window(), peripherals.window()).unwrap();
        Fixture { local, peripherals, controller, interface }
    }

    #[test]
    fn init_enables_only_the_ipi_mailbox() {
        let Fixture { local, peripherals, mut controller, .. } = fixture();
        assert_eq!([0x1c, 0x20, 0x24].map(|at| peripherals.get32(at)), [u32::MAX; 3]);
        local.set32(0x48, 0xf);
        assert_eq!(controller.init_cpu(2), Ok(Core(2)));
        assert_eq!((local.get32(0x48), local.get32(0x58), local.get32(0xe0)), (0, 1, u32::MAX));
        assert_eq!(controller.init_cpu(4), Err(Bcm2836Error::NoSuchCore(4)));
        assert_eq!(controller.init_cpu(0x100), Err(Bcm2836Error::NoSuchCore(0x100)));
    }

    #[test]
    fn enable_sets_the_bit_of_the_source() {
        let Fixture { local, peripherals, mut controller, .. } = fixture();
        let core = controller.init_cpu(1).unwrap();
        controller.enable(InterruptSource::Local(1), core).unwrap();
        controller.enable(InterruptSource::Local(3), core).unwrap();
        assert_eq!((local.get32(0x40), local.get32(0x44)), (0, 0b1010));
        for (bank, number, at) in [(0, 7, 0x18), (1, 29, 0x10), (2, 31, 0x14)] {
            controller.enable(InterruptSource::Peripheral { bank, number }, core).unwrap();
            assert_eq!(peripherals.get32(at), 1 << number, "bank {bank}");
        }
        for source in [
            InterruptSource::Local(4),
            InterruptSource::Local(8),
            InterruptSource::Peripheral { bank: 0, number: 8 },
            InterruptSource::Peripheral { bank: 1, number: 32 },
            InterruptSource::Peripheral { bank: 3, number: 0 },
        ] {
            assert_eq!(controller.enable(source, core), Err(Bcm2836Error::NoSuchSource(source)));
        }
    }

    #[test]
    fn pending_interrupts_are_acknowledged_in_order() {
        let Fixture { local, peripherals, interface, .. } = fixture();
        assert_eq!(interface.acknowledge(), None);
        local.set32(0x60, 1 << 8 | 1 << 4 | 1 << 3);
        local.set32(0xc0, 0b110);
        assert_eq!(interface.acknowledge(), Some(Bcm2836Pending::Software(1)));
        assert_eq!(local.get32(0xc0), 0b10, "the bit is cleared by writing it");
        local.set32(0x60, 1 << 8 | 1 << 3);
        assert_eq!(interface.acknowledge(), Some(Bcm2836Pending::Device(InterruptSource::Local(3))));
        local.set32(0x60, 1 << 8);
        // Bit 9 of bank 0: an interrupt of bank 2 is pending.
        peripherals.set32(0, 1 << 9);
        peripherals.set32(8, 1 << 25);
        let uart = InterruptSource::Peripheral { bank: 2, number: 25 };
        assert_eq!(interface.acknowledge(), Some(Bcm2836Pending::Device(uart)));
        peripherals.set32(0, 1 << 9 | 1);
        let first = InterruptSource::Peripheral { bank: 0, number: 0 };
        assert_eq!(interface.acknowledge(), Some(Bcm2836Pending::Device(first)));
    }

    #[test]
    fn ipi_sets_the_mailbox_of_each_other_core() {
        let Fixture { local, interface, .. } = fixture();
        interface.send(3, Core(2));
        assert_eq!([0x80, 0x90, 0xa0, 0xb0].map(|at| local.get32(at)), [0, 0, 8, 0]);
        interface.send_to_others(1);
        assert_eq!([0x80, 0x90, 0xa0, 0xb0].map(|at| local.get32(at)), [0, 2, 2, 2]);
    }

    #[test]
    fn short_register_window_is_rejected() {
        let open = |local, peripherals| {
            open(FakeRegisters::new(local).window(), FakeRegisters::new(peripherals).window()).err()
        };
        assert_eq!(open(0xfc, 0x200), Some(TooShort { len: 0xfc, wanted: 0x100 }.into()));
        assert_eq!(open(0x100, 0x24), Some(TooShort { len: 0x24, wanted: 0x28 }.into()));
    }
}
