//! From whatever firmware left to an SMMU that translates (IHI 0070, 6.3.9 and 3.11): every enable is written, then
//! waited for in its ACK register. Transactions abort from the first step on, and an enabled SMMU keeps
//! translating as before until it is disabled.

use super::clock::{Clock, TimedOut};
use super::coherency::Coherency;
use super::command_queue::{self, CommandError, CommandQueue};
use super::event_queue::EventQueue;
use super::probe::Features;
use super::registers::{ControlRegisters, Registers, bits, split};
use super::stream_table::StreamTable;
use super::tlb_tags::TlbTagAllocator;
use crate::mmio::Mmio;
use crate::region::{Region, RegionSource};
use addr::{PAGE_SIZE, PhysAddr};
use core::fmt;
use smmu_spec::field::{address, field};
use smmu_spec::{Command, EventRecord};
use tock_registers::interfaces::{Readable, Writeable};

/// Why the SMMU does not translate. Transactions abort, as far as the SMMU listened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// A register did not become what it has to be.
    TimedOut {
        /// Its name.
        register: &'static str,
        /// What it read last.
        value: u32,
        /// What was waited for.
        wanted: u32,
    },
    /// No memory for queues or the stream table.
    OutOfMemory,
    /// The first commands did not get through.
    Command(CommandError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { register, value, wanted } => {
                write!(f, "{register} stays {value:#x}, not {wanted:#x}")
            }
            Self::OutOfMemory => f.write_str("no memory for queues and the stream table"),
            Self::Command(error) => write!(f, "commands: {error}"),
        }
    }
}

/// A running SMMU in the parts that have their own locks.
pub struct SmmuV3 {
    /// What it can do.
    pub features: Features,
    /// What all domains share.
    pub commands: CommandQueue,
    /// The interrupt handler's.
    pub events: EventQueue,
    /// Which stream may do what.
    pub streams: StreamTable,
    /// TlbTagAllocator for new domains.
    pub tags: TlbTagAllocator,
}

/// Memory for the SMMU, before it runs.
struct Memory {
    commands: Region,
    command_log2: u8,
    events: Region,
    event_log2: u8,
    streams: StreamTable,
}

/// Stops the SMMU, gives it empty queues and a stream table that aborts everything, and starts it.
///
/// After an error no memory of the source is in use, except if the SMMU did not even confirm that it is disabled.
pub fn start(
    registers: Mmio<Registers>,
    features: Features,
    source: &mut impl RegionSource,
    clock: Clock,
) -> Result<SmmuV3, StartError> {
    abort_all(&registers, clock)?;
    let memory = Memory::allocate(&features, source).ok_or(StartError::OutOfMemory)?;
    memory.program(&registers, &features);

    let (control, commands, events) = split(registers);
    let Memory { commands: slots, command_log2, events: records, event_log2, streams } = memory;
    let coherency = Coherency(features.coherency);
    let mut commands = CommandQueue::new(control, commands, slots, command_log2, coherency, clock);
    let events = EventQueue::new(events, records, event_log2, coherency, clock);
    if let Err(error) = enable(&mut commands) {
        if commands.control().disable().is_ok() {
            source.release(commands.into_memory());
            source.release(events.into_memory());
            streams.release(source);
        }
        return Err(error);
    }
    Ok(SmmuV3 { features, commands, events, streams, tags: TlbTagAllocator::new(&features) })
}

/// What an SMMU did with transactions before [`abort_all`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirmwareState {
    /// It let them all pass.
    Bypassed,
    /// It translated them by somebody else's tables.
    Translated,
    /// It aborted them all.
    Aborted,
}

/// Makes an SMMU abort all transactions, whatever firmware left to it. Needs no memory and no commands: the first thing to
/// do, long before [`start`].
///
/// # Errors
/// [`StartError::TimedOut`]
pub fn abort_all(registers: &Registers, clock: Clock) -> Result<FirmwareState, StartError> {
    let control = Control { registers: &registers.control, clock };
    let before = control.before();
    control.abort_while_disabled()?;
    control.disable()?;
    Ok(before)
}

impl Memory {
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

    /// Writes where everything is, both queues empty. Nothing is enabled.
    fn program(&self, registers: &Registers, features: &Features) {
        registers.control.cr1.set(access_attributes(features));
        registers.control.cr2.set(bits::CR2_RECINVSID | bits::CR2_PTM);
        let commands = &registers.commands;
        commands.cmdq_base.set(base(self.commands.start(), self.command_log2));
        commands.cmdq_prod.set(0);
        commands.cmdq_cons.set(0);
        registers.eventq_base.set(base(self.events.start(), self.event_log2));
        registers.events.eventq_prod.set(0);
        registers.events.eventq_cons.set(0);
        self.streams.install(commands);
        if features.msi {
            commands.gerror_irq_cfg0.set(0);
            registers.eventq_irq_cfg0.set(0);
        }
        // Whatever went wrong before is not ours.
        commands.gerrorn.set(commands.gerror.get());
    }
}

/// CR1: queues and tables are read as the CPU writes them.
fn access_attributes(features: &Features) -> u32 {
    let (cacheability, shareability) = (features.coherency.cacheability(), features.coherency.shareability());
    let queues = field(1, 0, cacheability) | field(3, 2, cacheability) | field(5, 4, shareability);
    let tables = field(7, 6, cacheability) | field(9, 8, cacheability) | field(11, 10, shareability);
    (queues | tables) as u32
}

/// CMDQ_BASE, EVENTQ_BASE.
pub(super) fn base(queue: PhysAddr, log2: u8) -> u64 {
    address(55, 5, queue.raw()) | field(4, 0, log2.into()) | bits::BASE_ALLOCATE
}

/// Zeroed memory for a queue of `2^log2` bytes, seen by the SMMU.
fn queue(source: &mut impl RegionSource, coherency: Coherency, log2: u8) -> Option<Region> {
    let region = source.allocate(field(log2.into(), log2.into(), 1).max(PAGE_SIZE))?;
    coherency.written(region.words());
    Some(region)
}

/// Command queue first, since it makes the SMMU forget what it knows; translation last, since transactions follow.
fn enable(commands: &mut CommandQueue) -> Result<(), StartError> {
    commands.control().set_enables(bits::CR0_CMDQEN)?;
    commands.run([Command::CfgiAll, Command::TlbiNsnhAll]).map_err(StartError::Command)?;
    let control = commands.control();
    control.set_enables(bits::CR0_CMDQEN | bits::CR0_EVENTQEN)?;
    control.set_interrupts(bits::IRQ_EVENTQ | bits::IRQ_GERROR)?;
    control.set_enables(bits::CR0_CMDQEN | bits::CR0_EVENTQEN | bits::CR0_SMMUEN)
}

/// The enables, and what they do to transactions.
pub(super) struct Control<'a> {
    pub registers: &'a ControlRegisters,
    pub clock: Clock,
}

impl Control<'_> {
    fn before(&self) -> FirmwareState {
        if self.registers.cr0.get() & bits::CR0_SMMUEN != 0 {
            FirmwareState::Translated
        } else if self.registers.gbpa.get() & bits::GBPA_ABORT != 0 {
            FirmwareState::Aborted
        } else {
            FirmwareState::Bypassed
        }
    }

    /// GBPA.ABORT: transactions abort while SMMUEN is 0. The register takes a value with UPDATE set, and clears UPDATE when
    /// it has it (IHI 0070, 6.3.15).
    fn abort_while_disabled(&self) -> Result<(), StartError> {
        self.wait("GBPA", &self.registers.gbpa, bits::GBPA_UPDATE, 0)?;
        let gbpa = self.registers.gbpa.get();
        self.registers.gbpa.set(gbpa | bits::GBPA_ABORT | bits::GBPA_UPDATE);
        self.wait("GBPA", &self.registers.gbpa, bits::GBPA_UPDATE | bits::GBPA_ABORT, bits::GBPA_ABORT)
    }

    fn disable(&self) -> Result<(), StartError> {
        self.set_interrupts(0)?;
        self.set_enables(0)
    }

    /// Enables or disables the command queue, and leaves the rest as it is. A disabled one consumes nothing any more.
    pub fn set_command_queue(&self, enabled: bool) -> Result<(), StartError> {
        let others = self.registers.cr0.get() & !bits::CR0_CMDQEN;
        self.set_enables(if enabled { others | bits::CR0_CMDQEN } else { others })
    }

    fn set_enables(&self, enables: u32) -> Result<(), StartError> {
        // Tables and queues are in memory before the SMMU looks.
        arch::barrier::dsb_sy();
        self.registers.cr0.set(enables);
        self.wait("CR0ACK", &self.registers.cr0ack, ALL, enables)
    }

    fn set_interrupts(&self, enables: u32) -> Result<(), StartError> {
        self.registers.irq_ctrl.set(enables);
        self.wait("IRQ_CTRLACK", &self.registers.irq_ctrl_ack, ALL, enables)
    }

    fn wait(
        &self,
        register: &'static str,
        at: &impl Readable<T = u32>,
        mask: u32,
        wanted: u32,
    ) -> Result<(), StartError> {
        let there = || (at.get() & mask == wanted).then_some(());
        self.clock.wait(there).map_err(|TimedOut| StartError::TimedOut { register, value: at.get(), wanted })
    }
}

/// Every bit of an ACK register.
const ALL: u32 = u32::MAX;
