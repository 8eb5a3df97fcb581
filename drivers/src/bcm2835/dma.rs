//! A channel of the DMA engine (BCM2835 ARM Peripherals, 4). It copies from memory to memory as described by
//! a chain of control blocks, so it supports scatter-gather lists.
//!
//! The buffer of the [`DmaEngine`] is memory that this driver allocates. The buffer and the control blocks
//! are coherent memory, since the engine does not snoop caches. The engine uses bus addresses, which the
//! [`DmaSpace`] supplies.
//!
//! Addresses and lengths must be multiples of a word, the unit of the engine's transfers. An emulator exists
//! that never finishes an unaligned transfer.

use crate::dma_engine::{
    BUFFER_LEN, CopyError, DmaEngine, Gone, NotStopped, Notify, Transfer, TransferDirection,
};
use crate::mmio::{Mmio, ReadOnly};
use crate::poll::poll_until;
use addr::Iova;
use arch::timer::Deadline;
use core::fmt;
use core::mem::offset_of;
use dma_api::{Attrs, DmaBuffer, DmaError, DmaMask, DmaSpace};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::ReadWrite;
use zerocopy::{Immutable, IntoBytes};

/// Distance between the registers of two channels.
pub const CHANNEL_STRIDE: u64 = 0x100;
/// First of the lite channels: no two-dimensional transfers, 16-bit lengths. Not used here.
pub const FIRST_LITE: u32 = 7;
/// Addresses and lengths are multiples of this.
pub const WORD: u64 = 4;
/// The engine has 32-bit addresses; the bus determines the memory behind them.
pub const MASK: DmaMask = DmaMask::BITS_32;

/// 4.2.1.2.
#[repr(C)]
pub struct ChannelRegisters {
    cs: ReadWrite<u32>,
    conblk_ad: ReadWrite<u32>,
    loaded: [ReadOnly<u32>; 6],
    debug: ReadWrite<u32>,
}
const _: () = assert!(offset_of!(ChannelRegisters, debug) == 0x20);

const ACTIVE: u32 = 1 << 0;
const END: u32 = 1 << 1;
const INT: u32 = 1 << 2;
/// Writes are not acknowledged yet.
const WRITES_OUTSTANDING: u32 = 1 << 6;
const ERROR: u32 = 1 << 8;
/// The priorities that Linux uses: 8 of 15, panic priority 15 (bits 19:16 and 23:20).
const PRIORITY: u32 = 8 << 16 | 15 << 20;
/// END is set when the writes are complete, not when they are sent.
const WAIT_FOR_WRITES: u32 = 1 << 28;
const RESET: u32 = 1 << 31;
/// The time limit for outstanding writes, and for a reset. A write takes less than a microsecond; the wait is
/// with interrupts masked.
const STOP_NS: u64 = 100_000;
/// DEBUG: error bits, cleared by writing ones.
const ERRORS: u32 = 0b111;

const TI_INTERRUPT: u32 = 1 << 0;
/// Each write is acknowledged before the next one.
const TI_WAIT_RESPONSE: u32 = 1 << 3;
const TI_DESTINATION_INCREMENT: u32 = 1 << 4;
const TI_SOURCE_INCREMENT: u32 = 1 << 8;

/// 4.2.1.1; aligned to its size.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
struct ControlBlock {
    ti: u32,
    source: u32,
    destination: u32,
    length: u32,
    stride: u32,
    next: u32,
    reserved: [u32; 2],
}
const BLOCK_LEN: usize = size_of::<ControlBlock>();
const _: () = assert!(BLOCK_LEN == 32);

/// Control blocks in a page.
const MOST_BLOCKS: usize = 4096 / BLOCK_LEN;

/// A channel, its control blocks and its buffer.
pub struct DmaChannel {
    registers: Mmio<ChannelRegisters>,
    blocks: DmaBuffer,
    buffer: DmaBuffer,
}

/// The channel is unusable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelError {
    /// No memory for the control blocks or the buffer.
    Memory(DmaError),
    /// A job of an earlier boot stage is not stopped by a reset.
    NotStopped,
}

impl From<DmaError> for ChannelError {
    fn from(error: DmaError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::NotStopped => write!(f, "a reset does not stop the job of an earlier boot stage"),
        }
    }
}

impl core::error::Error for ChannelError {}

/// Stops the channel: pauses it, waits for its outstanding writes, and resets it. An abort is not used: the
/// channel would continue with the next control block.
fn reset(registers: &ChannelRegisters) -> Result<(), NotStopped> {
    let wait_for = |stopped: &dyn Fn() -> bool| {
        let deadline = Deadline::in_ns(STOP_NS);
        poll_until(|| deadline.passed(), || stopped().then_some(())).map_err(|_| NotStopped)
    };
    registers.cs.set(0);
    // After a reset, writes that are still on the bus would no longer be visible here.
    let writes = wait_for(&|| registers.cs.get() & WRITES_OUTSTANDING == 0);
    registers.cs.set(RESET);
    registers.cs.set(END | INT);
    wait_for(&|| registers.cs.get() & ACTIVE == 0 && registers.conblk_ad.get() == 0)?;
    writes
}

impl DmaChannel {
    /// Stops the channel with these registers, whose memory comes from `space`.
    ///
    /// # Errors
    /// [`ChannelError::NotStopped`], errors of the allocation of two pages; [`DmaError::OutOfVmalloc`]
    /// without a kernel mapping of the control blocks.
    pub fn new(registers: Mmio<ChannelRegisters>, space: &dyn DmaSpace) -> Result<Self, ChannelError> {
        reset(&registers).map_err(|NotStopped| ChannelError::NotStopped)?;
        space.set_mask(MASK)?;
        let blocks = space.alloc(MOST_BLOCKS * BLOCK_LEN, Attrs::empty())?;
        if blocks.kernel_view().is_none() {
            return Err(DmaError::OutOfVmalloc { len: blocks.len() as u64 }.into());
        }
        // Only the engine accesses the buffer.
        let buffer = space.alloc(BUFFER_LEN as usize, Attrs::NO_KERNEL_MAPPING)?;
        Ok(Self { registers, blocks, buffer })
    }

    fn check(&self, transfers: &[Transfer]) -> Result<(), CopyError> {
        if transfers.is_empty() {
            return Err(CopyError::OutsideBuffer { offset: 0, len: 0 });
        }
        if transfers.len() > MOST_BLOCKS {
            return Err(CopyError::TooMany { transfers: transfers.len(), most: MOST_BLOCKS });
        }
        for transfer in transfers {
            transfer.check(MASK.highest().raw())?;
            let words = [transfer.memory.raw(), transfer.offset, transfer.len];
            if let Some(&value) = words.iter().find(|value| !value.is_multiple_of(WORD)) {
                return Err(CopyError::Unaligned { value, word: WORD });
            }
        }
        if self.is_done()? { Ok(()) } else { Err(CopyError::Busy) }
    }

    /// The control block of a transfer; `next` is the bus address of the following block, 0 for the last one.
    fn block(&self, transfer: &Transfer, next: u32, notify: Notify) -> ControlBlock {
        let own = low(self.buffer.iova()) + transfer.offset as u32;
        let memory = low(transfer.memory);
        let (source, destination) = match transfer.direction {
            TransferDirection::FromMemory => (memory, own),
            TransferDirection::ToMemory => (own, memory),
        };
        let last = next == 0 && notify == Notify::Interrupt;
        let interrupt = if last { TI_INTERRUPT } else { 0 };
        ControlBlock {
            ti: TI_WAIT_RESPONSE | TI_DESTINATION_INCREMENT | TI_SOURCE_INCREMENT | interrupt,
            source,
            destination,
            length: transfer.len as u32,
            stride: 0,
            next,
            reserved: [0; 2],
        }
    }
}

/// The low 32 bits of an address that was checked against [`MASK`].
fn low(address: Iova) -> u32 {
    address.raw() as u32
}

impl DmaEngine for DmaChannel {
    fn max_transfers(&self) -> usize {
        MOST_BLOCKS
    }

    fn start(&mut self, transfers: &[Transfer], notify: Notify) -> Result<(), CopyError> {
        self.check(transfers)?;
        let Some(view) = self.blocks.kernel_view() else { unreachable!("checked by `new`") };
        let first = low(self.blocks.iova());
        for (index, transfer) in transfers.iter().enumerate() {
            let following = index + 1;
            let is_last = following == transfers.len();
            let next = if is_last { 0 } else { first + (following * BLOCK_LEN) as u32 };
            view.write(index * BLOCK_LEN, self.block(transfer, next, notify));
        }
        // The blocks and their source data must be in memory before the engine starts.
        arch::barrier::dsb_sy();
        self.registers.conblk_ad.set(first);
        self.registers.cs.set(WAIT_FOR_WRITES | PRIORITY | END | INT | ACTIVE);
        Ok(())
    }

    fn is_done(&self) -> Result<bool, Gone> {
        let status = self.registers.cs.get();
        arch::barrier::dsb_sy();
        if status == u32::MAX { Err(Gone) } else { Ok(status & ACTIVE == 0) }
    }

    fn stop(&mut self) -> Result<(), NotStopped> {
        reset(&self.registers)
    }

    fn outcome(&mut self) -> Result<(), CopyError> {
        if self.registers.cs.get() & ERROR == 0 {
            return Ok(());
        }
        let errors = self.registers.debug.get() & ERRORS;
        self.registers.debug.set(errors);
        Err(CopyError::Failed(errors))
    }

    fn acknowledge(&mut self) -> bool {
        let status = self.registers.cs.get();
        let raised = status & INT != 0;
        if raised {
            // Keeps the other bits: writing 0 to ACTIVE pauses a job.
            self.registers.cs.set(status & (ACTIVE | WAIT_FOR_WRITES) | PRIORITY | END | INT);
        }
        raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use dma_api::FakeSpace;

    struct Fixture {
        fake: FakeRegisters,
        space: FakeSpace,
        channel: DmaChannel,
    }

    fn fixture() -> Fixture {
        let (fake, space) = (FakeRegisters::new(0x100), FakeSpace::new());
        let channel = DmaChannel::new(fake.mmio(), &space).unwrap();
        fake.set32(0, 0);
        fake.set32(0x20, 0);
        Fixture { fake, space, channel }
    }

    fn transfer(direction: TransferDirection, memory: u64, offset: u64, len: u64) -> Transfer {
        Transfer { direction, memory: Iova::new(memory), offset, len }
    }

    impl Fixture {
        /// The words of the control block at `at`, read from memory as by the engine.
        fn block(&self, at: u32) -> [u32; 8] {
            let mut bytes = [0; BLOCK_LEN];
            self.space.device_read(Iova::new(at.into()), &mut bytes).unwrap();
            core::array::from_fn(|word| u32::from_le_bytes(bytes[word * 4..word * 4 + 4].try_into().unwrap()))
        }
    }

    #[test]
    fn scatter_gather_list_becomes_a_chain_of_control_blocks() {
        let mut fixture = fixture();
        let own = low(fixture.channel.buffer.iova());
        let pieces = [
            transfer(TransferDirection::FromMemory, 0xc012_3ff0, 0, 16),
            transfer(TransferDirection::FromMemory, 0xc800_0000, 16, 4080),
        ];
        fixture.channel.start(&pieces, Notify::Interrupt).unwrap();
        let first = fixture.fake.get32(4);
        assert_eq!((first % 32, fixture.fake.get32(0)), (0, 0x10f8_0007));
        let [ti, source, destination, length, stride, next, ..] = fixture.block(first);
        assert_eq!((ti, source, destination, length, stride), (0x118, 0xc012_3ff0, own, 16, 0));
        assert_eq!(next, first + 32);
        let [ti, source, destination, length, _, next, ..] = fixture.block(next);
        assert_eq!((ti, source, destination, length), (0x119, 0xc800_0000, own + 16, 4080));
        assert_eq!(next, 0, "the end of the chain");
    }

    #[test]
    fn transfer_to_memory_swaps_source_and_destination() {
        let mut fixture = fixture();
        let own = low(fixture.channel.buffer.iova());
        fixture.channel.start(&[transfer(TransferDirection::ToMemory, 0x1000, 8, 4)], Notify::Poll).unwrap();
        let [ti, source, destination, ..] = fixture.block(fixture.fake.get32(4));
        assert_eq!((ti, source, destination), (0x118, own + 8, 0x1000));
    }

    #[test]
    fn invalid_transfer_is_rejected_before_the_hardware() {
        let mut fixture = fixture();
        let unaligned = |value| CopyError::Unaligned { value, word: 4 };
        for (memory, offset, len, error) in [
            (0x1000, 0, 6, unaligned(6)),
            (0x1002, 0, 4, unaligned(0x1002)),
            (0x1000, 1, 4, unaligned(1)),
            (0x1000, 0, 0, CopyError::OutsideBuffer { offset: 0, len: 0 }),
            (0x1000, 4092, 8, CopyError::OutsideBuffer { offset: 4092, len: 8 }),
            (
                0xffff_fffc,
                0,
                8,
                CopyError::PastMask { memory: Iova::new(0xffff_fffc), len: 8, mask: 0xffff_ffff },
            ),
        ] {
            let job = [transfer(TransferDirection::FromMemory, memory, offset, len)];
            assert_eq!(fixture.channel.start(&job, Notify::Poll), Err(error));
        }
        let many = vec![transfer(TransferDirection::FromMemory, 0, 0, 4); 129];
        let error = CopyError::TooMany { transfers: 129, most: 128 };
        assert_eq!(fixture.channel.start(&many, Notify::Poll), Err(error));
        assert_eq!((fixture.fake.get32(0), fixture.fake.get32(4)), (0, 0));
    }

    #[test]
    fn start_while_busy_is_rejected() {
        let mut fixture = fixture();
        let job = [transfer(TransferDirection::FromMemory, 0, 0, 4)];
        fixture.channel.start(&job, Notify::Poll).unwrap();
        assert_eq!(fixture.channel.start(&job, Notify::Poll), Err(CopyError::Busy));
        fixture.fake.set32(0, END);
        assert_eq!(fixture.channel.is_done(), Ok(true));
        assert_eq!(fixture.channel.start(&job, Notify::Poll), Ok(()));
    }

    #[test]
    fn stop_resets_the_channel_and_verifies_that_it_stopped() {
        let Fixture { fake, mut channel, .. } = fixture();
        channel.start(&[transfer(TransferDirection::ToMemory, 0x1000, 0, 4)], Notify::Poll).unwrap();
        assert_ne!(fake.get32(4), 0);
        assert_eq!(channel.stop(), Err(NotStopped), "the control block address is still set");
        fake.set32(4, 0);
        assert_eq!(channel.stop(), Ok(()));
        assert_eq!(channel.is_done(), Ok(true));
    }

    #[test]
    fn removed_channel_is_gone_and_not_busy() {
        let Fixture { fake, mut channel, .. } = fixture();
        fake.set32(0, u32::MAX);
        assert_eq!(channel.is_done(), Err(Gone));
        let job = [transfer(TransferDirection::ToMemory, 0x1000, 0, 4)];
        assert_eq!(channel.start(&job, Notify::Poll), Err(CopyError::Gone));
    }

    #[test]
    fn channel_that_does_not_stop_is_rejected() {
        let (fake, space) = (FakeRegisters::new(0x100), FakeSpace::new());
        fake.set32(4, 0x1000);
        assert_eq!(DmaChannel::new(fake.mmio(), &space).err(), Some(ChannelError::NotStopped));
        assert_eq!(space.mapping_count(), 0);
    }

    #[test]
    fn acknowledge_clears_the_interrupt_and_outcome_reports_errors() {
        let Fixture { fake, mut channel, .. } = fixture();
        assert!(!channel.acknowledge());
        fake.set32(0, END | INT);
        assert!(channel.acknowledge());
        assert_eq!(fake.get32(0), PRIORITY | END | INT, "ones clear, and nothing is started");
        fake.set32(0, 0);
        assert_eq!(channel.outcome(), Ok(()));
        fake.set32(0, ERROR);
        fake.set32(0x20, 0b100);
        assert_eq!(channel.outcome(), Err(CopyError::Failed(0b100)));
    }

    #[test]
    fn failed_allocation_releases_all_memory() {
        let space = FakeSpace::new();
        space.fail_after(1, DmaError::OutOfFrames { wanted: 1, had: 0 });
        let error = DmaChannel::new(FakeRegisters::new(0x100).mmio(), &space).err();
        assert_eq!(error, Some(ChannelError::Memory(DmaError::OutOfFrames { wanted: 1, had: 0 })));
        assert_eq!(space.mapping_count(), 0);
    }
}
