//! The interrupt translation service (ITS) of a GICv3 (IHI 0069, 5): it turns the messages of devices into
//! LPIs.
//!
//! ```text
//! Lpis::new          the configuration table, once for all CPUs
//! Lpis::enable       the pending table of a CPU, GICR_CTLR.EnableLPIs
//! Its::start         tables and command queue, GITS_CTLR.Enabled
//! Its::add_cpu       a collection for the CPU, numbered like it
//! Its::allocate      events of a device and their LPIs, masked
//! Its::set_enabled   unmasks or masks an event
//! Its::retarget      moves an event to another CPU
//! Its::free          removes events
//! ```
//!
//! An operation returns after the ITS has executed its commands and a SYNC. An event, an LPI or an interrupt
//! translation table is reused only after that: if a command fails, it is leaked.

mod command;
mod errata;
mod lpi;
mod memory;
mod queue;
mod registers;
mod slots;
mod tables;

use crate::mmio::RegisterAccess;
use crate::poll::poll_until;
use crate::region::{Region, RegionSource};
use addr::{PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use arch::timer::Deadline;
use core::fmt;
use memory::ItsCoherency;
use queue::ItsQueue;
use registers::{ENABLED, GITS_CTLR, QUIESCENT};
use slots::NumberSlots;
use tables::ItsTables;

pub use command::{ItsCommand, RdBase};
pub use errata::ItsErratum;
pub use lpi::{EnabledTables, FIRST_LPI, LpiError, Lpis, MAX_LPIS, tables_in_use};
pub use registers::{GITS_TRANSLATER, ITS_BYTES, ItsFeatures};

/// The time limit for GITS_CTLR.Quiescent.
const QUIESCENT_TIMEOUT_NS: u64 = 1_000_000_000;

/// Deviations of a machine that the registers do not show.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ItsIntegration {
    /// Accesses of the ITS and of the redistributors never snoop.
    pub non_coherent: bool,
    /// They reach the first 4 GiB only.
    pub below_4_gib: bool,
}

impl ItsIntegration {
    fn forced(self) -> Option<ItsCoherency> {
        self.non_coherent.then_some(ItsCoherency::NonCoherent)
    }

    /// Allocates memory that the ITS reaches.
    fn allocate(self, memory: &mut impl RegionSource, bytes: u64) -> Option<Region> {
        let region = memory.allocate(bytes.max(PAGE_SIZE))?;
        if self.below_4_gib && (region.start().raw() + region.bytes()) >> 32 != 0 {
            memory.release(region);
            return None;
        }
        Some(region)
    }
}

/// The ITS cannot be used, or an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItsError {
    /// GITS_TYPER.Physical is 0.
    NoPhysicalLpis,
    /// The implementation has an erratum without a workaround.
    Erratum(&'static str),
    /// GITS_CTLR.Quiescent stays 0.
    NotQuiescent,
    /// No GITS_BASERn is for a device table.
    NoDeviceTable,
    /// A GITS_BASERn does not keep the value.
    TableRefused {
        /// Written value, without attributes.
        written: u64,
        /// Value read back.
        read: u64,
    },
    /// No memory for a table.
    OutOfMemory,
    /// The ITS has no collection for this CPU.
    NoCollection(u16),
    /// The device table cannot have this DeviceID.
    DeviceOutOfRange(u32),
    /// The device has too few free events.
    OutOfEvents {
        /// DeviceID.
        device: u32,
        /// Number of requested events.
        count: u32,
    },
    /// An earlier command of the device has failed, so that its table may still be in use.
    DeviceLost(u32),
    /// No LPI is free.
    OutOfLpis,
    /// A command stalled the queue.
    Refused {
        /// Its number.
        command: u8,
    },
    /// The ITS does not process its commands.
    TimedOut,
}

impl fmt::Display for ItsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPhysicalLpis => write!(f, "no physical LPIs"),
            Self::Erratum(name) => write!(f, "not usable: {name}"),
            Self::NotQuiescent => write!(f, "GITS_CTLR.Quiescent stays 0"),
            Self::NoDeviceTable => write!(f, "no device table"),
            Self::TableRefused { written, read } => {
                write!(f, "GITS_BASERn is {read:#x}, not {written:#x}")
            }
            Self::OutOfMemory => write!(f, "no memory for a table"),
            Self::NoCollection(cpu) => write!(f, "no collection for CPU {cpu}"),
            Self::DeviceOutOfRange(device) => write!(f, "DeviceID {device:#x} is too large"),
            Self::OutOfEvents { device, count } => {
                write!(f, "DeviceID {device:#x} has less than {count} free events")
            }
            Self::DeviceLost(device) => write!(f, "an earlier command for DeviceID {device:#x} failed"),
            Self::OutOfLpis => write!(f, "no free LPI"),
            Self::Refused { command } => write!(f, "command {command:#04x} was refused"),
            Self::TimedOut => write!(f, "commands are not processed"),
        }
    }
}

impl core::error::Error for ItsError {}

/// A device with events.
struct ItsDevice {
    id: u32,
    itt: Region,
    events: NumberSlots,
    /// The ITS has not confirmed that it started or stopped using the table: neither is used again.
    lost: bool,
}

/// An event of a device and its LPI.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "its event and LPI are leaked unless freed"]
pub struct ItsVector {
    device: u32,
    event: u32,
    lpi: u32,
    collection: u16,
}

impl ItsVector {
    /// The DeviceID.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// The EventID: the data of the message.
    pub fn event(&self) -> u32 {
        self.event
    }

    /// The INTID.
    pub fn lpi(&self) -> u32 {
        self.lpi
    }

    /// The number of the CPU that receives it.
    pub fn cpu(&self) -> u16 {
        self.collection
    }
}

/// An enabled ITS.
pub struct Its<R> {
    registers: R,
    features: ItsFeatures,
    integration: ItsIntegration,
    queue: ItsQueue,
    tables: ItsTables,
    /// The CPUs by their collection.
    targets: Vec<Option<RdBase>>,
    devices: Vec<ItsDevice>,
}

impl<R: RegisterAccess> Its<R> {
    /// Resets and enables the ITS for CPUs with numbers below `cpus`. LPIs are enabled on at least one CPU.
    ///
    /// # Errors
    /// [`ItsError`]; the ITS is disabled.
    pub fn start(
        mut registers: R,
        cpus: u32,
        integration: ItsIntegration,
        memory: &mut impl RegionSource,
    ) -> Result<Self, ItsError> {
        disable(&mut registers)?;
        let features = ItsFeatures::read(&registers)?;
        let mut targets = Vec::new();
        targets.try_reserve_exact(cpus as usize).map_err(|_| ItsError::OutOfMemory)?;
        targets.resize(cpus as usize, None);
        let region = integration.allocate(memory, queue::QUEUE_BYTES).ok_or(ItsError::OutOfMemory)?;
        let tables = match ItsTables::start(&mut registers, &features, cpus, integration, memory) {
            Ok(tables) => tables,
            Err(error) => {
                memory.release(region);
                return Err(error);
            }
        };
        let queue = ItsQueue::start(&mut registers, region, integration.forced());
        registers.write32(GITS_CTLR, ENABLED);
        Ok(Self { registers, features, integration, queue, tables, targets, devices: Vec::new() })
    }

    /// The features.
    pub fn features(&self) -> &ItsFeatures {
        &self.features
    }

    /// Whether the ITS snoops the CPU caches in all its accesses.
    pub fn is_coherent(&self) -> bool {
        self.queue.coherency().and(self.tables.coherency()) == ItsCoherency::Coherent
    }

    /// Connects the collection `cpu` to a CPU whose LPIs are enabled: its redistributor is at `address` and
    /// has this GICR_TYPER.Processor_Number. The CPU rereads the configuration of all LPIs.
    ///
    /// # Errors
    /// [`ItsError::NoCollection`], [`ItsError::Refused`], [`ItsError::TimedOut`].
    pub fn add_cpu(&mut self, cpu: u16, address: PhysAddr, number: u16) -> Result<(), ItsError> {
        let in_memory = match &self.tables.collections {
            Some(table) => table.entries().min(1 << self.features.collection_bits),
            None => 0,
        };
        if usize::from(cpu) >= self.targets.len()
            || u64::from(cpu) >= u64::from(self.features.own_collections) + in_memory
        {
            return Err(ItsError::NoCollection(cpu));
        }
        let by_address = self.features.targets_by_address;
        let target = RdBase(if by_address { address.raw() >> 16 } else { number.into() });
        let commands = [
            ItsCommand::MapCollection { collection: cpu, target },
            ItsCommand::InvalidateAll { collection: cpu },
            ItsCommand::Sync { target },
        ];
        self.run(commands, target)?;
        self.targets[usize::from(cpu)] = Some(target);
        Ok(())
    }

    /// Allocates `count` consecutive events of `device`, whose messages are delivered to `cpu`; the first one
    /// is a multiple of the next power of two. They are masked. The messages are pending until unmasked.
    ///
    /// # Errors
    /// [`ItsError`]. After [`ItsError::TimedOut`] the events and LPIs are leaked.
    pub fn allocate(
        &mut self,
        lpis: &mut Lpis,
        memory: &mut impl RegionSource,
        device: u32,
        count: u32,
        cpu: u16,
    ) -> Result<Vec<ItsVector>, ItsError> {
        let target = self.target(cpu)?;
        match count {
            0 => return Ok(Vec::new()),
            1..=MAX_LPIS => {}
            _ => return Err(ItsError::OutOfLpis),
        }
        let mut vectors = Vec::new();
        vectors.try_reserve_exact(count as usize).map_err(|_| ItsError::OutOfMemory)?;
        let index = self.device(memory, device, count, target)?;
        let events = &mut self.devices[index].events;
        let Some(first) = events.allocate(count) else {
            return Err(ItsError::OutOfEvents { device, count });
        };
        for event in first..first + count {
            let Some(lpi) = lpis.allocate() else {
                vectors.into_iter().for_each(|vector: ItsVector| lpis.release(vector.lpi));
                self.devices[index].events.free(first, count);
                self.remove_if_unused(memory, index, target)?;
                return Err(ItsError::OutOfLpis);
            };
            lpis.set_enabled(lpi, false);
            vectors.push(ItsVector { device, event, lpi, collection: cpu });
        }
        let map = |vector: &ItsVector| {
            let &ItsVector { device, event, lpi, collection } = vector;
            // The LPI may be cached from its last use.
            [
                ItsCommand::MapEvent { device, event, lpi, collection },
                ItsCommand::Invalidate { device, event },
            ]
        };
        let commands = vectors.iter().flat_map(map).chain([ItsCommand::Sync { target }]);
        match self.queue.run(&mut self.registers, commands, ItsCommand::Sync { target }) {
            Ok(()) => Ok(vectors),
            Err(error @ ItsError::Refused { .. }) => {
                // Some may be mapped. The error of the removal is the less interesting one.
                let _ = self.free(lpis, memory, vectors);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes `vectors`, of one device: its messages with their events are ignored from now on.
    ///
    /// # Errors
    /// [`ItsError::Refused`], [`ItsError::TimedOut`]: the events and LPIs are leaked.
    pub fn free(
        &mut self,
        lpis: &mut Lpis,
        memory: &mut impl RegionSource,
        vectors: Vec<ItsVector>,
    ) -> Result<(), ItsError> {
        let Some(&ItsVector { device, collection, .. }) = vectors.first() else { return Ok(()) };
        vectors.iter().for_each(|vector| lpis.set_enabled(vector.lpi, false));
        let target = self.target(collection)?;
        let discards =
            vectors.iter().map(|vector| ItsCommand::Discard { device: vector.device, event: vector.event });
        // All CPUs: after a move that timed out, the CPU of a vector is not known.
        let syncs = self.targets.iter().flatten().map(|&target| ItsCommand::Sync { target });
        self.queue.run(&mut self.registers, discards.chain(syncs), ItsCommand::Sync { target })?;
        let Some(index) = self.devices.iter().position(|known| known.id == device) else { return Ok(()) };
        for vector in vectors {
            lpis.release(vector.lpi);
            self.devices[index].events.free(vector.event, 1);
        }
        self.remove_if_unused(memory, index, target)
    }

    /// Moves a vector to another CPU. A pending interrupt moves with it; one that `cpu` before has
    /// acknowledged may still be handled there.
    ///
    /// # Errors
    /// [`ItsError::NoCollection`], [`ItsError::Refused`]: the vector is not moved. [`ItsError::TimedOut`]:
    /// it is moved when the ITS continues.
    pub fn retarget(&mut self, vector: &mut ItsVector, cpu: u16) -> Result<(), ItsError> {
        let (from, to) = (self.target(vector.collection)?, self.target(cpu)?);
        let &mut ItsVector { device, event, .. } = vector;
        let commands = [
            ItsCommand::MoveEvent { device, event, collection: cpu },
            ItsCommand::Sync { target: from },
            // The new CPU may have cached the configuration at an earlier time.
            ItsCommand::Invalidate { device, event },
            ItsCommand::Sync { target: to },
        ];
        let result = self.run(commands, from);
        if !matches!(result, Err(ItsError::Refused { .. })) {
            vector.collection = cpu;
        }
        result
    }

    /// Unmasks or masks a vector. A message to a masked vector stays pending.
    ///
    /// # Errors
    /// [`ItsError::Refused`], [`ItsError::TimedOut`]: the redistributor may use the earlier configuration.
    pub fn set_enabled(
        &mut self,
        lpis: &mut Lpis,
        vector: &ItsVector,
        enabled: bool,
    ) -> Result<(), ItsError> {
        let target = self.target(vector.collection)?;
        lpis.set_enabled(vector.lpi, enabled);
        let &ItsVector { device, event, .. } = vector;
        self.run([ItsCommand::Invalidate { device, event }, ItsCommand::Sync { target }], target)
    }

    fn run<const N: usize>(&mut self, commands: [ItsCommand; N], target: RdBase) -> Result<(), ItsError> {
        self.queue.run(&mut self.registers, commands, ItsCommand::Sync { target })
    }

    fn target(&self, cpu: u16) -> Result<RdBase, ItsError> {
        self.targets.get(usize::from(cpu)).copied().flatten().ok_or(ItsError::NoCollection(cpu))
    }

    /// The index of `device`, whose table is allocated for at least `count` events with its first one.
    fn device(
        &mut self,
        memory: &mut impl RegionSource,
        device: u32,
        count: u32,
        target: RdBase,
    ) -> Result<usize, ItsError> {
        if let Some(index) = self.devices.iter().position(|known| known.id == device) {
            let lost = self.devices[index].lost;
            return if lost { Err(ItsError::DeviceLost(device)) } else { Ok(index) };
        }
        let ItsFeatures { event_bits, itt_entry, .. } = self.features;
        // As many events as a page has room for, since a device may need more later.
        let wanted = u64::from(count.next_power_of_two()).max(1 << (PAGE_SIZE / itt_entry).ilog2());
        let events = wanted.min(1 << event_bits).max(2);
        if u64::from(count) > events {
            return Err(ItsError::OutOfEvents { device, count });
        }
        self.tables.devices.reserve(device, self.integration, memory)?;
        self.devices.try_reserve(1).map_err(|_| ItsError::OutOfMemory)?;
        let slots = NumberSlots::new(events as u32).ok_or(ItsError::OutOfMemory)?;
        let bytes = (events * itt_entry).next_power_of_two();
        let itt = self.integration.allocate(memory, bytes).ok_or(ItsError::OutOfMemory)?;
        self.queue.coherency().and(self.tables.coherency()).publish_all(&itt);
        let event_bits = events.ilog2() as u8;
        let command = ItsCommand::MapDevice { device, event_bits, itt: itt.start() };
        let result = self.run([command, ItsCommand::Sync { target }], target);
        self.devices.push(ItsDevice { id: device, itt, events: slots, lost: result.is_err() });
        result.map(|()| self.devices.len() - 1)
    }

    /// Unmaps the device, and frees its table, if it has no events.
    fn remove_if_unused(
        &mut self,
        memory: &mut impl RegionSource,
        index: usize,
        target: RdBase,
    ) -> Result<(), ItsError> {
        if self.devices[index].events.used() != 0 {
            return Ok(());
        }
        let unmap = ItsCommand::UnmapDevice { device: self.devices[index].id };
        if let Err(error) = self.run([unmap, ItsCommand::Sync { target }], target) {
            self.devices[index].lost = true;
            return Err(error);
        }
        memory.release(self.devices.swap_remove(index).itt);
        Ok(())
    }

    /// The number of devices with events.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }
}

/// Disables the ITS, and waits until it has completed its accesses to tables and queue, which must not change
/// before (IHI 0069, 12.19.4).
fn disable(registers: &mut impl RegisterAccess) -> Result<(), ItsError> {
    if registers.read32(GITS_CTLR) & ENABLED != 0 {
        registers.write32(GITS_CTLR, 0);
    }
    let deadline = Deadline::in_ns(QUIESCENT_TIMEOUT_NS);
    let quiescent = || (registers.read32(GITS_CTLR) & QUIESCENT != 0).then_some(());
    poll_until(|| deadline.passed(), quiescent).map_err(|_| ItsError::NotQuiescent)
}
