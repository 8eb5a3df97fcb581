//! A channel of the DMA engine (BCM2835 ARM Peripherals, 4). It copies from memory to memory as a chain of control
//! blocks tells it, so memory in several pieces costs it nothing.
//!
//! As a [`DmaEngine`] it has a buffer like all memory, which this driver asks for. Both this buffer and the control blocks
//! are coherent memory: the engine sees no caches. It knows memory by bus addresses, which the [`DmaSpace`] knows.
//!
//! Addresses and lengths are whole words here: that is what the engine moves at a time, and an emulator exists that
//! never ends otherwise.

use crate::dma_engine::{BUFFER_LEN, CopyError, DmaEngine, Notify, Transfer, TransferDirection};
use crate::mmio::{Mmio, ReadOnly};
use addr::Iova;
use core::mem::offset_of;
use dma_api::{Attrs, DmaBuffer, DmaError, DmaMask, DmaSpace};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::ReadWrite;
use zerocopy::{Immutable, IntoBytes};

/// The distance from one channel's registers to the next one's.
pub const CHANNEL_STRIDE: u64 = 0x100;
/// Channels from here on are smaller: no two-dimensional transfers, lengths of 16 bits. Not used here.
pub const FIRST_LITE: u32 = 7;
/// Addresses and lengths are multiples of this.
pub const WORD: u64 = 4;
/// The engine's addresses have 32 bits; what memory that reaches is the bus's matter.
pub const MASK: DmaMask = DmaMask::BITS_32;

/// 4.2.1.2.
#[repr(C)]
pub struct Channel {
    cs: ReadWrite<u32>,
    conblk_ad: ReadWrite<u32>,
    loaded: [ReadOnly<u32>; 6],
    debug: ReadWrite<u32>,
}
const _: () = assert!(offset_of!(Channel, debug) == 0x20);

const ACTIVE: u32 = 1 << 0;
const END: u32 = 1 << 1;
const INT: u32 = 1 << 2;
const ERROR: u32 = 1 << 8;
/// The priorities that Linux uses: 8 of 15, 15 in need (bits 19:16 and 23:20).
const PRIORITY: u32 = 8 << 16 | 15 << 20;
/// END comes when the writes are done, not when they were sent.
const WAIT_FOR_WRITES: u32 = 1 << 28;
const RESET: u32 = 1 << 31;
/// DEBUG: which error it was, cleared by writing ones.
const ERRORS: u32 = 0b111;

const TI_INTERRUPT: u32 = 1 << 0;
/// Each write is answered before the next.
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

/// A page of them.
const MOST_BLOCKS: usize = 4096 / BLOCK_LEN;

/// A channel, its control blocks and its buffer.
pub struct DmaChannel {
    registers: Mmio<Channel>,
    blocks: DmaBuffer,
    buffer: DmaBuffer,
}

impl DmaChannel {
    /// The channel with these registers, reset, which reaches memory through `space`.
    ///
    /// # Errors
    /// What the space says when it is asked for two pages; [`DmaError::OutOfVmalloc`] if it cannot show the control
    /// blocks.
    pub fn new(registers: Mmio<Channel>, space: &dyn DmaSpace) -> Result<Self, DmaError> {
        space.set_mask(MASK)?;
        let blocks = space.alloc(MOST_BLOCKS * BLOCK_LEN, Attrs::empty())?;
        if blocks.kernel_view().is_none() {
            return Err(DmaError::OutOfVmalloc { len: blocks.len() as u64 });
        }
        // Nobody but the engine ever looks into it.
        let buffer = space.alloc(BUFFER_LEN as usize, Attrs::NO_KERNEL_MAPPING)?;
        registers.cs.set(RESET);
        registers.cs.set(END | INT);
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
                return Err(CopyError::Ragged { value, word: WORD });
            }
        }
        if self.is_done() { Ok(()) } else { Err(CopyError::Busy) }
    }

    /// The block for a transfer; `next` is the bus address of the one after it, 0 after the last.
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

/// An address below [`MASK`], which was checked.
fn low(address: Iova) -> u32 {
    address.raw() as u32
}

impl DmaEngine for DmaChannel {
    fn most_transfers(&self) -> usize {
        MOST_BLOCKS
    }

    fn start(&mut self, transfers: &[Transfer], notify: Notify) -> Result<(), CopyError> {
        self.check(transfers)?;
        let Some(view) = self.blocks.kernel_view() else { unreachable!("`new` has seen it") };
        let first = low(self.blocks.iova());
        for (index, transfer) in transfers.iter().enumerate() {
            let following = index + 1;
            let is_last = following == transfers.len();
            let next = if is_last { 0 } else { first + (following * BLOCK_LEN) as u32 };
            view.write(index * BLOCK_LEN, self.block(transfer, next, notify));
        }
        // The blocks, and what they copy, are in memory before the engine is told to look.
        arch::barrier::dsb_sy();
        self.registers.conblk_ad.set(first);
        self.registers.cs.set(WAIT_FOR_WRITES | PRIORITY | END | INT | ACTIVE);
        Ok(())
    }

    fn is_done(&self) -> bool {
        let done = self.registers.cs.get() & ACTIVE == 0;
        arch::barrier::dsb_sy();
        done
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
            // All else as it is: writing ACTIVE as 0 would pause a job.
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
        /// The words of the control block that the engine would load from `at`, as it sees memory.
        fn block(&self, at: u32) -> [u32; 8] {
            let mut bytes = [0; BLOCK_LEN];
            self.space.device_read(Iova::new(at.into()), &mut bytes).unwrap();
            core::array::from_fn(|word| u32::from_le_bytes(bytes[word * 4..word * 4 + 4].try_into().unwrap()))
        }
    }

    #[test]
    fn pieces_become_a_chain_of_control_blocks() {
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
    fn the_other_way_swaps_source_and_destination() {
        let mut fixture = fixture();
        let own = low(fixture.channel.buffer.iova());
        fixture.channel.start(&[transfer(TransferDirection::ToMemory, 0x1000, 8, 4)], Notify::Poll).unwrap();
        let [ti, source, destination, ..] = fixture.block(fixture.fake.get32(4));
        assert_eq!((ti, source, destination), (0x118, own + 8, 0x1000));
    }

    #[test]
    fn what_the_engine_cannot_copy_never_reaches_it() {
        let mut fixture = fixture();
        let ragged = |value| CopyError::Ragged { value, word: 4 };
        for (memory, offset, len, error) in [
            (0x1000, 0, 6, ragged(6)),
            (0x1002, 0, 4, ragged(0x1002)),
            (0x1000, 1, 4, ragged(1)),
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
    fn one_job_runs_at_a_time() {
        let mut fixture = fixture();
        let job = [transfer(TransferDirection::FromMemory, 0, 0, 4)];
        fixture.channel.start(&job, Notify::Poll).unwrap();
        assert_eq!(fixture.channel.start(&job, Notify::Poll), Err(CopyError::Busy));
        fixture.fake.set32(0, END);
        assert!(fixture.channel.is_done());
        assert_eq!(fixture.channel.start(&job, Notify::Poll), Ok(()));
    }

    #[test]
    fn an_interrupt_is_taken_back_and_an_error_told() {
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
    fn without_memory_there_is_no_channel() {
        let space = FakeSpace::new();
        space.fail_after(1, DmaError::OutOfFrames { wanted: 1, had: 0 });
        let error = DmaChannel::new(FakeRegisters::new(0x100).mmio(), &space).err();
        assert_eq!(error, Some(DmaError::OutOfFrames { wanted: 1, had: 0 }));
        assert_eq!(space.mapping_count(), 0);
    }
}
