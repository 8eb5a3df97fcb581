//! QEMU's educational device: a DMA engine with a buffer of 4 KiB that copies to and from memory.
//!
//! The device reports that a transfer has finished, but not whether it succeeded: a faulted read stores
//! zeroes in the buffer, a faulted write is dropped. The device accepts any offset and length, so the driver
//! checks that transfers are inside the buffer.

use crate::dma_engine::{CopyError, DmaEngine, Gone, NotStopped, Notify, Transfer, TransferDirection};
use crate::mmio::{Mmio, ReadOnly};
use crate::poll::poll_until;
use arch::timer::Deadline;
use core::fmt;
use core::mem::offset_of;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadWrite, WriteOnly};

/// The PCI vendor and device id.
pub const PCI_ID: (u16, u16) = (0x1234, 0x11e8);
/// The highest address on the bus, unless configured otherwise in QEMU: 28 bits. Higher address bits are
/// lost.
pub const DMA_MASK: u64 = (1 << 28) - 1;
/// Address of the buffer in the device's address space.
const BUFFER: u64 = 0x4_0000;
/// The identification; the bits above are the major and minor revision.
const ID: u32 = 0xed;
const ID_MASK: u32 = 0xffff;
const RUN: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
/// Interrupt status: a transfer has finished.
const DMA_DONE: u32 = 0x100;
/// The time limit for a transfer that an earlier boot stage started. A transfer takes 100 ms.
const EARLIER_TRANSFER_NS: u64 = 1_000_000_000;

/// BAR 0. Registers from `source` on have 64 bits, those before it 32 bits.
#[repr(C)]
pub struct Registers {
    id: ReadOnly<u32>,
    liveness: ReadWrite<u32>,
    after_liveness: [u32; 7],
    interrupt_status: ReadOnly<u32>,
    after_interrupt_status: [u32; 14],
    interrupt_raise: WriteOnly<u32>,
    interrupt_acknowledge: WriteOnly<u32>,
    after_interrupt_acknowledge: [u32; 6],
    source: ReadWrite<u64>,
    destination: ReadWrite<u64>,
    count: ReadWrite<u64>,
    command: ReadWrite<u64>,
}
const _: () = assert!(offset_of!(Registers, interrupt_status) == 0x24);
const _: () =
    assert!(offset_of!(Registers, interrupt_raise) == 0x60 && offset_of!(Registers, source) == 0x80);
const _: () = assert!(offset_of!(Registers, command) == 0x98);

/// The device is unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EduError {
    /// The identification register has another value.
    NotEdu(u32),
    /// The liveness register does not return the inverse of the written value.
    NotAlive {
        /// Written value.
        wrote: u32,
        /// Value read back.
        read: u32,
    },
    /// A transfer that an earlier boot stage started does not end. The device has no reset.
    Busy,
    /// The device was removed.
    Gone,
}

impl From<Gone> for EduError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl fmt::Display for EduError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEdu(id) => write!(f, "not an edu device: its id is {id:#x}"),
            Self::NotAlive { wrote, read } => {
                write!(f, "edu liveness check failed: wrote {wrote:#x}, read {read:#x}")
            }
            Self::Busy => write!(
                f,
                "a transfer of an earlier boot stage is still running after {} ms",
                EARLIER_TRANSFER_NS / 1_000_000
            ),
            Self::Gone => write!(f, "the device was removed"),
        }
    }
}

impl core::error::Error for EduError {}

/// An edu device.
pub struct EduEngine {
    registers: Mmio<Registers>,
    mask: u64,
}

impl EduEngine {
    /// The device with these registers (BAR 0) and this highest address ([`DMA_MASK`] unless configured
    /// otherwise in QEMU). Checks identification and liveness, and waits for the end of a transfer that an
    /// earlier boot stage started.
    pub fn new(registers: Mmio<Registers>, mask: u64) -> Result<Self, EduError> {
        let id = registers.id.get();
        if id & ID_MASK != ID {
            return Err(EduError::NotEdu(id));
        }
        let edu = Self { registers, mask };
        edu.check_liveness(0x1357_9bdf)?;
        let deadline = Deadline::in_ns(EARLIER_TRANSFER_NS);
        edu.wait_until_idle(|| deadline.passed())?;
        Ok(edu)
    }

    fn wait_until_idle(&self, expired: impl FnMut() -> bool) -> Result<(), EduError> {
        let idle = || match self.is_done() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(gone) => Some(Err(gone.into())),
        };
        poll_until(expired, idle).unwrap_or(Err(EduError::Busy))
    }

    /// The highest address that the device puts on the bus.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    fn check_liveness(&self, wrote: u32) -> Result<(), EduError> {
        self.registers.liveness.set(wrote);
        let read = self.registers.liveness.get();
        if read == !wrote { Ok(()) } else { Err(EduError::NotAlive { wrote, read }) }
    }
}

impl DmaEngine for EduEngine {
    fn max_transfers(&self) -> usize {
        1
    }

    fn start(&mut self, transfers: &[Transfer], notify: Notify) -> Result<(), CopyError> {
        let &[transfer] = transfers else {
            return Err(CopyError::TooMany { transfers: transfers.len(), most: 1 });
        };
        transfer.check(self.mask)?;
        if !self.is_done()? {
            return Err(CopyError::Busy);
        }
        let Transfer { direction, memory, offset, len } = transfer;
        let buffer = BUFFER + offset;
        let (source, destination, way) = match direction {
            TransferDirection::FromMemory => (memory.raw(), buffer, 0),
            TransferDirection::ToMemory => (buffer, memory.raw(), TO_MEMORY),
        };
        self.registers.source.set(source);
        self.registers.destination.set(destination);
        self.registers.count.set(len);
        let notify = if notify == Notify::Interrupt { INTERRUPT } else { 0 };
        // The memory's contents are seen before the command that makes the device read it.
        arch::barrier::dmb_oshst();
        self.registers.command.set(RUN | way | notify);
        Ok(())
    }

    fn is_done(&self) -> Result<bool, Gone> {
        let command = self.registers.command.get();
        arch::barrier::dmb_oshld();
        if command == u64::MAX { Err(Gone) } else { Ok(command & RUN == 0) }
    }

    /// The device ignores writes during a transfer, and has no reset: it stops at the end of the transfer
    /// only.
    fn stop(&mut self) -> Result<(), NotStopped> {
        if self.is_done() == Ok(true) { Ok(()) } else { Err(NotStopped) }
    }

    /// Always `Ok`: the device reports no result.
    fn outcome(&mut self) -> Result<(), CopyError> {
        Ok(())
    }

    fn acknowledge(&mut self) -> bool {
        let status = self.registers.interrupt_status.get();
        // All ones: the device was removed, which ends its job.
        if status != 0 && status != u32::MAX {
            self.registers.interrupt_acknowledge.set(status);
        }
        status & DMA_DONE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use addr::Iova;

    /// Bypasses `EduEngine::new`, since plain memory does not invert written values.
    fn edu() -> (FakeRegisters, EduEngine) {
        let fake = FakeRegisters::new(0x100);
        let edu = EduEngine { registers: fake.mmio(), mask: DMA_MASK };
        (fake, edu)
    }

    fn transfer(direction: TransferDirection, memory: u64, offset: u64, len: u64) -> Transfer {
        Transfer { direction, memory: Iova::new(memory), offset, len }
    }

    #[test]
    fn other_device_is_rejected() {
        let fake = FakeRegisters::new(0x100);
        fake.set32(0, 0x0100_00ee);
        assert_eq!(EduEngine::new(fake.mmio(), DMA_MASK).err(), Some(EduError::NotEdu(0x0100_00ee)));
        fake.set32(0, 0x0100_00ed);
        let dead = EduError::NotAlive { wrote: 0x1357_9bdf, read: 0x1357_9bdf };
        assert_eq!(EduEngine::new(fake.mmio(), DMA_MASK).err(), Some(dead));
    }

    #[test]
    fn transfer_is_written_to_the_registers() {
        let (fake, mut edu) = edu();
        let words = || [0x80, 0x88, 0x90, 0x98].map(|register| fake.get64(register));
        edu.start(&[transfer(TransferDirection::FromMemory, 0xfff_f000, 0, 4096)], Notify::Poll).unwrap();
        assert_eq!(words(), [0xfff_f000, 0x4_0000, 4096, 1]);
        assert_eq!(edu.is_done(), Ok(false));
        fake.set64(0x98, 0);
        edu.start(&[transfer(TransferDirection::ToMemory, 0x1234, 0xff0, 16)], Notify::Interrupt).unwrap();
        assert_eq!(words(), [0x4_0ff0, 0x1234, 16, 7]);
    }

    #[test]
    fn start_while_busy_is_rejected() {
        let (fake, mut edu) = edu();
        let first = transfer(TransferDirection::FromMemory, 0, 0, 1);
        edu.start(&[first], Notify::Poll).unwrap();
        assert_eq!(
            edu.start(&[transfer(TransferDirection::ToMemory, 0, 5, 5)], Notify::Poll),
            Err(CopyError::Busy)
        );
        assert_eq!((fake.get64(0x88), fake.get64(0x90)), (0x4_0000, 1), "nothing was written");
        fake.set64(0x98, 0);
        assert_eq!(edu.start(&[first], Notify::Poll), Ok(()));
    }

    #[test]
    fn transfer_of_an_earlier_boot_stage_is_awaited_within_the_time_limit() {
        let (fake, edu) = edu();
        fake.set64(0x98, RUN);
        let mut polls = 0;
        let ends_late = || {
            polls += 1;
            fake.set64(0x98, if polls < 3 { RUN } else { 0 });
            false
        };
        assert_eq!(edu.wait_until_idle(ends_late), Ok(()));
        fake.set64(0x98, RUN);
        assert_eq!(edu.wait_until_idle(|| true), Err(EduError::Busy), "never ends");
    }

    #[test]
    fn removed_device_is_gone_and_not_busy() {
        let (fake, mut edu) = edu();
        let job = [transfer(TransferDirection::ToMemory, 0, 0, 1)];
        edu.start(&job, Notify::Interrupt).unwrap();
        (0x24..0xa0).step_by(4).for_each(|register| fake.set32(register, u32::MAX));
        assert_eq!((edu.is_done(), edu.stop()), (Err(Gone), Err(NotStopped)));
        assert_eq!(edu.start(&job, Notify::Poll), Err(CopyError::Gone));
        assert_eq!(edu.wait_until_idle(|| unreachable!("waits for a removed device")), Err(EduError::Gone));
        fake.set32(0x64, 0);
        assert!(edu.acknowledge(), "the waiting thread is woken");
        assert_eq!(fake.get32(0x64), 0, "nothing is written");
    }

    #[test]
    fn engine_is_stopped_only_by_the_end_of_its_transfer() {
        let (fake, mut edu) = edu();
        edu.start(&[transfer(TransferDirection::ToMemory, 0, 0, 1)], Notify::Poll).unwrap();
        assert_eq!(edu.stop(), Err(NotStopped));
        fake.set64(0x98, 0);
        assert_eq!(edu.stop(), Ok(()));
    }

    #[test]
    fn transfer_outside_the_buffer_is_rejected() {
        let (fake, mut edu) = edu();
        for (offset, len) in
            [(0, 0), (0, 4097), (1, 4096), (4096, 1), (u64::MAX, 1), (1, u64::MAX), (4096, 0)]
        {
            let outside = CopyError::OutsideBuffer { offset, len };
            assert_eq!(
                edu.start(&[transfer(TransferDirection::ToMemory, 0, offset, len)], Notify::Poll),
                Err(outside)
            );
        }
        assert_eq!((fake.get64(0x88), fake.get64(0x90), fake.get64(0x98)), (0, 0, 0));
    }

    #[test]
    fn memory_above_the_mask_is_rejected() {
        let (_, mut edu) = edu();
        for (memory, len) in [(DMA_MASK, 2), (DMA_MASK + 1, 1), (u64::MAX, 2), (0x4000_0000, 16)] {
            let past = CopyError::PastMask { memory: Iova::new(memory), len, mask: DMA_MASK };
            assert_eq!(
                edu.start(&[transfer(TransferDirection::FromMemory, memory, 0, len)], Notify::Poll),
                Err(past)
            );
        }
        assert_eq!(
            edu.start(&[transfer(TransferDirection::FromMemory, DMA_MASK, 0, 1)], Notify::Poll),
            Ok(())
        );
    }

    #[test]
    fn interrupt_is_acknowledged_with_its_status() {
        let (fake, mut edu) = edu();
        assert!(!edu.acknowledge());
        assert_eq!(fake.get32(0x64), 0);
        fake.set32(0x24, 0x101);
        assert!(edu.acknowledge());
        assert_eq!(fake.get32(0x64), 0x101);
        fake.set32(0x24, 1);
        assert!(!edu.acknowledge());
    }

    #[test]
    fn scatter_gather_job_is_rejected() {
        let (_, mut edu) = edu();
        let one = transfer(TransferDirection::FromMemory, 0, 0, 1);
        let error = Err(CopyError::TooMany { transfers: 2, most: 1 });
        assert_eq!((edu.start(&[one; 2], Notify::Poll), edu.max_transfers()), (error, 1));
    }
}
