//! Initialization of an SMMU in any state that firmware left (IHI 0070, 6.3.9 and 3.11). Transactions abort
//! from the first step on; an SMMU that is enabled keeps translating as before until it is disabled.

use super::clock::Clock;
use super::coherency::Coherency;
use super::command_queue::{self, CommandError, CommandQueue};
use super::control::{Control, FirmwareState, RegisterTimeout};
use super::event_queue::EventQueue;
use super::probe::Features;
use super::registers::{Registers, bits, queue_base, split};
use super::stream_table::StreamTable;
use super::tlb_tags::TlbTagAllocator;
use crate::mmio::Mmio;
use crate::region::{Region, RegionSource};
use addr::{PAGE_SIZE, PhysAddr};
use core::fmt;
use smmu_spec::field::field;
use smmu_spec::{Command, EventRecord};
use tock_registers::interfaces::{Readable, Writeable};

/// The SMMU was not started. Transactions abort, as far as the SMMU responded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The SMMU did not respond.
    Register(RegisterTimeout),
    /// No memory for queues or the stream table.
    OutOfMemory,
    /// Tables and queues may be above the SMMU's physical addresses.
    Unreachable {
        /// The last byte of their memory.
        last: PhysAddr,
        /// Bits of address (IDR5.OAS).
        bits: u8,
    },
    /// The first commands failed.
    Command(CommandError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(timeout) => timeout.fmt(f),
            Self::OutOfMemory => f.write_str("no memory for queues and the stream table"),
            Self::Unreachable { last, bits } => {
                write!(f, "tables may be at {last}, above its {bits}-bit addresses (IDR5.OAS)")
            }
            Self::Command(error) => write!(f, "commands: {error}"),
        }
    }
}

impl From<RegisterTimeout> for StartError {
    fn from(timeout: RegisterTimeout) -> Self {
        Self::Register(timeout)
    }
}

/// A running SMMU, in the parts that have locks of their own.
pub struct SmmuV3 {
    /// Its capabilities.
    pub features: Features,
    /// The command queue, shared by all domains.
    pub commands: CommandQueue,
    /// The event queue, drained by the interrupt handler.
    pub events: EventQueue,
    /// The stream table.
    pub streams: StreamTable,
    /// ASIDs or VMIDs for new domains.
    pub tags: TlbTagAllocator,
}

/// Memory of the queues and the stream table, before the SMMU is enabled.
struct QueueMemory {
    commands: Region,
    command_log2: u8,
    events: Region,
    event_log2: u8,
    streams: StreamTable,
}

/// Disables the SMMU, installs empty queues and a stream table that aborts all streams, and enables it.
/// `last` is the last byte of the memory that `source` and the page tables of its domains come from.
///
/// # Errors
/// [`StartError`]. All memory is back in `source`, unless the SMMU did not acknowledge that it is disabled.
pub fn start(
    registers: Mmio<Registers>,
    features: Features,
    last: PhysAddr,
    source: &mut impl RegionSource,
    clock: Clock,
) -> Result<SmmuV3, StartError> {
    abort_all(&registers, clock)?;
    if last > features.output().highest() {
        return Err(StartError::Unreachable { last, bits: features.output_bits });
    }
    let memory = QueueMemory::allocate(&features, source).ok_or(StartError::OutOfMemory)?;
    memory.program(&registers, &features);

    let (control, commands, events) = split(registers);
    let QueueMemory { commands: slots, command_log2, events: records, event_log2, streams } = memory;
    let coherency = Coherency(features.coherency);
    let mut commands =
        CommandQueue::new(control, commands, slots, command_log2, features.erratum, coherency, clock);
    let events = EventQueue::new(events, records, event_log2, coherency, clock);
    if let Err(error) = enable(&mut commands, &features) {
        if commands.control().disable().is_ok() {
            source.release(commands.into_memory());
            source.release(events.into_memory());
            streams.release(source);
        }
        return Err(error);
    }
    Ok(SmmuV3 { features, commands, events, streams, tags: TlbTagAllocator::new(&features) })
}

/// Makes an SMMU abort all transactions, in any state that firmware left, and returns that state. Needs no
/// memory and no commands, so the kernel calls it first, long before [`start`].
///
/// # Errors
/// [`RegisterTimeout`].
pub fn abort_all(registers: &Registers, clock: Clock) -> Result<FirmwareState, RegisterTimeout> {
    let control = Control { registers: &registers.control, clock };
    let before = control.firmware_state();
    control.abort_while_disabled()?;
    control.disable()?;
    Ok(before)
}

impl QueueMemory {
    fn allocate(features: &Features, source: &mut impl RegionSource) -> Option<Self> {
        let coherency = Coherency(features.coherency);
        let command_log2 = features.command_log2.min(command_queue::MAX_LOG2);
        let event_log2 = features.event_queue_log2();
        let commands = queue(source, coherency, command_log2 + Command::LOG2_BYTES)?;
        let Some(events) = queue(source, coherency, event_log2 + EventRecord::LOG2_BYTES) else {
            source.release(commands);
            return None;
        };
        let Some(streams) = StreamTable::new(features, coherency, source) else {
            source.release(commands);
            source.release(events);
            return None;
        };
        Some(Self { commands, command_log2, events, event_log2, streams })
    }

    /// Writes the base registers, both queues empty. Enables nothing.
    fn program(&self, registers: &Registers, features: &Features) {
        registers.control.cr1.set(access_attributes(features));
        registers.control.cr2.set(bits::CR2_RECINVSID | bits::CR2_PTM);
        let commands = &registers.commands;
        commands.cmdq_base.set(queue_base(self.commands.start(), self.command_log2));
        commands.cmdq_prod.set(0);
        commands.cmdq_cons.set(0);
        registers.eventq_base.set(queue_base(self.events.start(), self.event_log2));
        registers.events.eventq_prod.set(0);
        registers.events.eventq_cons.set(0);
        self.streams.install(commands);
        if features.msi {
            commands.gerror_irq_cfg0.set(0);
            registers.eventq_irq_cfg0.set(0);
        }
        // Acknowledge errors of an earlier boot stage.
        commands.gerrorn.set(commands.gerror.get());
    }
}

/// CR1: the SMMU reads queues and tables with the CPU's memory attributes.
fn access_attributes(features: &Features) -> u32 {
    let (cacheability, shareability) = (features.coherency.cacheability(), features.coherency.shareability());
    let queues = field(1, 0, cacheability) | field(3, 2, cacheability) | field(5, 4, shareability);
    let tables = field(7, 6, cacheability) | field(9, 8, cacheability) | field(11, 10, shareability);
    (queues | tables) as u32
}

/// Zeroed memory for a queue of `2^log2` bytes, visible to the SMMU.
fn queue(source: &mut impl RegionSource, coherency: Coherency, log2: u8) -> Option<Region> {
    let region = source.allocate(field(log2.into(), log2.into(), 1).max(PAGE_SIZE))?;
    coherency.clean(region.words());
    Some(region)
}

/// Enables the command queue first, to invalidate all caches, and translation last, since transactions
/// follow.
fn enable(commands: &mut CommandQueue, features: &Features) -> Result<(), StartError> {
    commands.control().set_enables(bits::CR0_CMDQEN)?;
    // Two batches, since commands of two kinds must not follow each other (`Workaround::SyncBetweenKinds`).
    commands.run([Command::CfgiAll]).map_err(StartError::Command)?;
    commands.run([Command::TlbiNsnhAll]).map_err(StartError::Command)?;
    let control = commands.control();
    // Without ATSCHK, ATS Translated transactions pass without any check, also those of a stream that aborts
    // (IHI 0070, 6.3.9). With it, STE.EATS = 0 forbids them.
    let ats_check = if features.ats { bits::CR0_ATSCHK } else { 0 };
    let queues = bits::CR0_CMDQEN | bits::CR0_EVENTQEN | ats_check;
    control.set_enables(queues)?;
    control.set_interrupts(bits::IRQ_EVENTQ | bits::IRQ_GERROR)?;
    Ok(control.set_enables(queues | bits::CR0_SMMUEN)?)
}
