//! An SMMU: its paging domains, streams and queues, each behind its lock.

use super::commands::Commands;
use super::events::{self, EventDispatcher};
use super::leak;
use super::table_memory::{Regions, Tables};
use crate::debug::{self, FailPoint, StreamKey};
use crate::irq::Handler;
use crate::kprintln;
use crate::memory;
use crate::percpu;
use crate::sched::Mutex;
use crate::sync::SpinLock;
use addr::{PAGE_SIZE, PhysAddr, StreamId};
use alloc::vec::Vec;
use dma_api::DmaError;
use drivers::iommu::Shared as _;
use drivers::mmio::Mmio;
use drivers::pcie::Phandle;
use drivers::smmu::{
    self, Clock, DestroyError, DomainError, EventQueue, Features, PagingDomain, Registers, SmmuV3,
    StartError, StreamError, StreamTable, TlbTagAllocator,
};
use spin::Once;

/// An enabled SMMU.
pub struct Smmu {
    /// The phandle of its device tree node.
    phandle: Option<Phandle>,
    features: Features,
    commands: Commands,
    /// Locked while the SMMU completes an attach or a detach, up to seconds, so not a spin lock.
    streams: Mutex<StreamTable>,
    /// Locked while the SMMU completes the last invalidation of a domain.
    tags: Mutex<TlbTagAllocator>,
    events: SpinLock<EventDispatcher>,
}

static SMMUS: Once<Vec<&'static Smmu>> = Once::new();

/// Registers the SMMUs in use. Called once.
pub(super) fn register_all(smmus: Vec<&'static Smmu>) {
    SMMUS.call_once(|| smmus);
}

/// Returns the SMMUs in use.
pub fn all() -> &'static [&'static Smmu] {
    SMMUS.get().map_or(&[], Vec::as_slice)
}

/// Returns the SMMU with this phandle, if it is in use.
pub fn find(phandle: Phandle) -> Option<&'static Smmu> {
    all().iter().copied().find(|smmu| smmu.phandle == Some(phandle))
}

/// Returns the commands, the CMD_SYNCs among them, and the register writes of all SMMUs since boot.
pub fn command_counts() -> (u64, u64, u64) {
    let counters = all().iter().map(|smmu| smmu.commands.with(|queue| queue.counters()));
    counters
        .fold((0, 0, 0), |sum, one| (sum.0 + one.commands, sum.1 + one.syncs, sum.2 + one.register_writes))
}

impl Smmu {
    /// Resets and enables an SMMU. Every stream aborts until it is attached.
    ///
    /// # Errors
    /// As [`smmu::start`].
    pub fn start(
        phandle: Option<Phandle>,
        registers: Mmio<Registers>,
        features: Features,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let last = PhysAddr::new(memory::layout().low_end.raw() - 1);
        let started = smmu::start(registers, features, last, &mut Regions, clock)?;
        let SmmuV3 { features, commands, events, streams, tags } = started;
        let entries = features.event_queue_entries();
        Ok(Self {
            phandle,
            features,
            commands: Commands::new(commands),
            streams: Mutex::new(streams),
            tags: Mutex::new(tags),
            events: SpinLock::new(EventDispatcher::new(events, entries)),
        })
    }

    pub fn features(&self) -> &Features {
        &self.features
    }

    pub fn command_queue(&self) -> &Commands {
        &self.commands
    }

    /// The key of a stream in hooks of the checking build.
    pub fn stream_key(&self, stream: StreamId) -> StreamKey {
        StreamKey { smmu: core::ptr::from_ref(self).addr(), stream }
    }

    /// Waits for the completion of all earlier commands.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`].
    pub fn sync(&self) -> Result<(), DmaError> {
        smmu::sync(&self.commands).map_err(|_| DmaError::IommuTimeout)
    }

    /// Returns an empty paging domain with [`Features::input_bits`] bits of IOVA.
    ///
    /// # Errors
    /// [`DmaError::OutOfTables`], [`DmaError::IommuRefused`] without a free ASID or VMID.
    pub fn new_domain(&self) -> Result<PagingDomain, DmaError> {
        let bits = self.features.input_bits();
        let domain =
            PagingDomain::new(&self.features, &mut self.tags.lock(), &mut Regions, &mut Tables, bits);
        domain.map_err(|error| match error {
            DomainError::OutOfMemory => DmaError::OutOfTables,
            DomainError::OutOfTags | DomainError::InputBits(_) => DmaError::IommuRefused,
        })
    }

    /// Frees a paging domain without attached streams. On an error the domain is leaked: its tables and its
    /// ASID or VMID are not reused, since the SMMU may still walk them.
    pub fn destroy(&self, domain: PagingDomain) {
        let destroyed = domain.destroy(&self.commands, &mut self.tags.lock(), &mut Regions, &mut Tables);
        match destroyed {
            Ok(()) => {}
            Err(DestroyError::InUse(domain)) => {
                let (bytes, streams) = (table_bytes(&domain), domain.streams());
                leak(domain, bytes, format_args!("{streams} streams are attached to their domain"));
            }
            Err(DestroyError::Command(error, domain)) => {
                let bytes = table_bytes(&domain);
                leak(domain, bytes, format_args!("tables of a domain: {error}"));
            }
        }
    }

    /// Attaches `stream` to `domain`, whose lock the caller holds. Called in a thread, or during boot.
    ///
    /// # Errors
    /// After [`StreamError::Command`] the stream counts as attached.
    pub fn attach(&self, stream: StreamId, domain: &mut PagingDomain) -> Result<(), StreamError> {
        self.streams.lock().attach(&self.commands, &mut Regions, stream, domain)
    }

    /// Makes the SMMU abort all transactions of `stream`, which is attached to `domain`, whose lock the
    /// caller holds. Called in a thread, or during boot.
    ///
    /// # Errors
    /// After [`StreamError::Command`] the STE in memory aborts, and the stream still counts as attached.
    pub fn detach(&self, stream: StreamId, domain: &mut PagingDomain) -> Result<(), StreamError> {
        self.streams.lock().detach(&self.commands, stream, domain)
    }

    /// Records the faults of the streams of `domain`, or aborts their transactions without events.
    ///
    /// # Errors
    /// See [`StreamTable::set_recording`](drivers::smmu::StreamTable::set_recording).
    pub fn set_recording(&self, domain: &mut PagingDomain, records: bool) -> Result<(), StreamError> {
        self.streams.lock().set_recording(&self.commands, domain, records)
    }

    /// Drains the event queue and acknowledges global errors. Called by the SMMU's interrupts, and where a
    /// caller needs the events before the next interrupt. Prints the events in a thread only.
    pub fn service(&self) {
        // An interrupt handler drains one batch and leaves the rest to a thread, which releases the lock
        // after each batch; twice the queue, since events may arrive meanwhile.
        let queue = self.features.event_queue_entries().div_ceil(EventQueue::BATCH.into());
        let batches = if percpu::in_interrupt() { 1 } else { 2 * queue };
        // First: QEMU reports an overflow as a global error only.
        self.commands.service();
        if self.commands.take_failure() {
            events::report_failure(self);
        }
        events::repeat_while_left(batches, || self.events.lock().drain(self));
        if !percpu::in_interrupt() {
            self.print_events();
        }
    }

    /// Prints the queued lines of the event log, unless the event queue is locked: the CPU that drains it
    /// requests the next drain. So a panic can call this too.
    pub fn print_events(&self) {
        let next_line = || self.events.try_lock()?.next_line();
        while let Some(line) = next_line() {
            kprintln!("{line}");
        }
    }
}

impl Handler for Smmu {
    fn handle(&self) {
        // After a lost interrupt the events stay in the queue until the next drain.
        if debug::fail_point(FailPoint::Interrupts) {
            return;
        }
        self.service();
    }
}

/// Bytes of the page tables of a domain and of its context descriptor.
fn table_bytes(domain: &PagingDomain) -> u64 {
    (u64::from(domain.table_frames()) + 1) * PAGE_SIZE
}
