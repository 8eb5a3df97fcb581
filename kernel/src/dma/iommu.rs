//! The SMMU behind its locks, and the memory it gets from the kernel.
//!
//! Lock order: domain, stream table, commands. Events are taken alone, by the interrupt handler too.

use super::counters;
use super::domain::Domain;
use super::loudest::Loudest;
use super::notices::Notices;
use super::quarantine;
use crate::debug::{self, FailPoint, LastOwner, StreamKey};
use crate::irq::{self, Handler};
use crate::memory::vmalloc::{self, MapRegistersError};
use crate::memory::{linear, table_frames, window, zones};
use crate::sync::SpinLock;
use crate::{board, kprintln, perf_counters};
use addr::{Chunk, Order, PAGE_SIZE, Pfn, PhysAddr, StreamId};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;
use core::slice;
use core::sync::atomic::{
    AtomicBool, AtomicU16, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use dma_api::DmaError;
use drivers::iommu::Shared;
use drivers::mmio::Mmio;
use drivers::pcie::Phandle;
use drivers::region::{Region, RegionSource};
use drivers::smmu::{
    self, Clock, CommandQueue, DestroyError, DomainError, Dropped, EventQueue, EventReport, Features,
    FirmwareState, Registers, StartError, StreamError, StreamTable, TlbTagAllocator, Unsupported,
};
use memory::{OwnedChunk, Reach};
use pagetable::{Entries, TableFrame, TableMemory};
use smmu_spec::{EventRecord, WalkCoherency};
use spin::Once;

/// Events that a device leaves before anybody can read one: under QEMU, a page that is nowhere, four bytes at a time. A full
/// queue may lose the first event of a stream.
pub const EVENTS_AT_ONCE: u64 = 1024;
/// The least and the most events that the queue is given room for by itself: 64 KiB and 2 MiB.
const EVENT_ROOM: RangeInclusive<u64> = 1 << 11..=1 << 16;

/// Events kept for those who ask ([`Smmu::take_events`]).
const KEPT: usize = 16;

/// A running SMMU.
pub struct Smmu {
    /// What the device tree calls it.
    phandle: Option<Phandle>,
    features: Features,
    pub(super) commands: Commands,
    streams: SpinLock<StreamTable>,
    tags: SpinLock<TlbTagAllocator>,
    events: SpinLock<Events>,
}

/// The command queue. Its lock is held to write commands and to look at registers, never while the SMMU works.
pub struct Commands {
    queue: SpinLock<CommandQueue>,
    /// An interrupt wanted the queue while somebody had it.
    wanted: AtomicBool,
    /// Events were lost, and nobody has asked yet whose left no room.
    lost_events: AtomicBool,
    /// Taken last.
    notices: SpinLock<Notices>,
}

struct Events {
    queue: EventQueue,
    recent: [Option<EventRecord>; KEPT],
    /// All events ever.
    count: usize,
    /// Whose most of them were when the queue was last found half full or more.
    loudest: Loudest,
}

static SMMUS: Once<Vec<&'static Smmu>> = Once::new();

/// Why an SMMU is not used.
#[derive(Debug)]
enum OpenError {
    /// Its registers cannot be mapped.
    Map(MapRegistersError),
    /// It cannot do what is needed.
    Unsupported(Unsupported),
    /// It did not start.
    Start(StartError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Unsupported(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
        }
    }
}

/// Makes the machine's SMMUs abort everything, whatever an earlier stage left running, and says what they did before. To be
/// called before any memory is given to anybody, while the early tables are in use.
pub fn close(descriptions: &[board::SmmuDescription]) {
    for description in descriptions {
        let at = description.registers.start();
        let registers = arch::boot::map_early_device(at);
        if arch::probe::read_u32(registers).is_none() {
            log::warn!("smmu at {at}: nothing answers there");
            continue;
        }
        // SAFETY: mapped as Device memory for longer than this value lives, by the device tree's word an SMMU's registers, of
        // which only page 0 is used: 64 KiB, aligned, so in the 2 MiB that are mapped; nothing else uses them yet.
        let registers = unsafe { Mmio::<Registers>::new(registers) };
        match smmu::abort_all(&registers, Clock::system()) {
            Ok(FirmwareState::Bypassed) => log::info!("smmu at {at}: aborts what it let pass before"),
            Ok(FirmwareState::Translated) => {
                log::warn!("smmu at {at}: aborts what it translated for an earlier stage")
            }
            Ok(FirmwareState::Aborted) => {}
            Err(error) => log::warn!("smmu at {at}: it may let pass what it should not: {error}"),
        }
    }
}

/// Starts the machine's SMMUs: nothing passes them until a device is attached. One that cannot be used is left out with
/// a warning, and so are the devices behind it. `devices` says how many there are; their events have room in the queue,
/// unless `most` is less.
pub fn init(descriptions: &[board::SmmuDescription], devices: impl Fn(Phandle) -> u64, most: Option<u64>) {
    let start = |description: &board::SmmuDescription| {
        let devices = description.phandle.map_or(0, &devices);
        start(description, most.unwrap_or(u64::MAX).min(event_room(devices)))
    };
    SMMUS.call_once(|| descriptions.iter().filter_map(start).collect());
}

/// Events that there should be room for: a power of two.
fn event_room(devices: u64) -> u64 {
    (devices * EVENTS_AT_ONCE).clamp(*EVENT_ROOM.start(), *EVENT_ROOM.end()).next_power_of_two()
}

fn start(description: &board::SmmuDescription, events: u64) -> Option<&'static Smmu> {
    let at = description.registers.start();
    let smmu: &Smmu = match open(description, events) {
        Ok(smmu) => Box::leak(Box::new(smmu)),
        Err(error) => {
            log::warn!("smmu at {at}: {error}");
            return None;
        }
    };
    let interrupts = [description.event_queue, description.global_error, description.combined];
    for interrupt in interrupts.into_iter().flatten() {
        if let Err(error) = irq::register(interrupt, smmu) {
            log::warn!("smmu at {at}: {error}; its events are seen late");
        }
    }
    log::info!("smmu at {at}: {} bits of device addresses", smmu.features.input_bits());
    Some(smmu)
}

fn open(description: &board::SmmuDescription, events: u64) -> Result<Smmu, OpenError> {
    let registers = vmalloc::map_registers(description.registers).map_err(OpenError::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word an SMMU's registers (both pages, which the
    // binding requires), and used here alone.
    let registers = unsafe { Mmio::<Registers>::new(registers.start()) };
    let mut features = Features::probe(&registers).map_err(OpenError::Unsupported)?;
    // The tree knows the interconnect, which IDR0.COHACC may not.
    features.coherency =
        if description.coherent { WalkCoherency::Coherent } else { WalkCoherency::NonCoherent };
    features.event_room_log2 = events.ilog2() as u8;
    let smmu::SmmuV3 { features, commands, events, streams, tags } =
        smmu::start(registers, features, &mut Regions, Clock::system()).map_err(OpenError::Start)?;
    Ok(Smmu {
        phandle: description.phandle,
        features,
        commands: Commands {
            queue: SpinLock::new(commands),
            wanted: AtomicBool::new(false),
            lost_events: AtomicBool::new(false),
            notices: SpinLock::new(Notices::new()),
        },
        streams: SpinLock::new(streams),
        tags: SpinLock::new(tags),
        events: SpinLock::new(Events {
            queue: events,
            recent: [None; KEPT],
            count: 0,
            loudest: Loudest::default(),
        }),
    })
}

/// The SMMUs in use.
pub fn all() -> &'static [&'static Smmu] {
    SMMUS.get().map_or(&[], Vec::as_slice)
}

/// The SMMU that the device tree calls `phandle`, if it is in use.
pub fn find(phandle: Phandle) -> Option<&'static Smmu> {
    all().iter().copied().find(|smmu| smmu.phandle == Some(phandle))
}

/// What went to all SMMUs so far: commands, waits for completion among them, and writes to registers.
pub(super) fn commands() -> (u64, u64, u64) {
    let counters = all().iter().map(|smmu| smmu.commands.queue.lock().counters());
    counters
        .fold((0, 0, 0), |sum, one| (sum.0 + one.commands, sum.1 + one.syncs, sum.2 + one.register_writes))
}

impl Smmu {
    /// What it can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The command queue, for self-tests and fault injection.
    pub fn command_queue(&self) -> &Commands {
        &self.commands
    }

    /// The name of a stream in hooks of the checking build.
    pub(super) fn stream_key(&self, stream: StreamId) -> StreamKey {
        StreamKey { smmu: core::ptr::from_ref(self).addr(), stream }
    }

    /// Waits until it has done all that it was told before.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`].
    pub fn sync(&self) -> Result<(), DmaError> {
        smmu::sync(&self.commands).map_err(|_| DmaError::IommuTimeout)
    }

    /// An empty domain.
    pub(super) fn new_domain(&'static self) -> Result<Arc<Domain>, DmaError> {
        let bits = self.features.input_bits();
        let domain =
            smmu::PagingDomain::new(&self.features, &mut self.tags.lock(), &mut Regions, &mut Tables, bits);
        match domain {
            Ok(domain) => Ok(Domain::translated(self, domain, bits)),
            Err(DomainError::OutOfMemory) => Err(DmaError::OutOfTables),
            Err(DomainError::OutOfTags | DomainError::InputBits(_)) => Err(DmaError::IommuRefused),
        }
    }

    /// Takes a domain apart that no device uses any more.
    pub(super) fn destroy(&self, domain: smmu::PagingDomain) {
        let destroyed = domain.destroy(&self.commands, &mut self.tags.lock(), &mut Regions, &mut Tables);
        match destroyed {
            Ok(()) => {}
            // The value has no `drop`: its tables and its tag stay out of use, since the SMMU may still walk them.
            Err(DestroyError::InUse(domain)) => {
                counters::LOST_BYTES.add(bytes_of(&domain));
                log::error!("IOMMU: a domain is lost: {} streams are attached", domain.streams());
            }
            Err(DestroyError::Command(error, domain)) => {
                counters::LOST_BYTES.add(bytes_of(&domain));
                log::error!("IOMMU: a domain is lost: {error}");
            }
        }
    }

    pub(super) fn attach(&self, stream: StreamId, domain: &Domain) -> Result<(), DmaError> {
        let attach =
            |domain: &mut _| self.streams.lock().attach(&self.commands, &mut Regions, stream, domain);
        match domain.with_smmu(attach) {
            Some(Ok(())) | None => Ok(()),
            Some(Err(error)) => {
                log::error!("IOMMU: stream {stream}: {error:?}");
                if let StreamError::Command(_) = error {
                    // It counts as attached. If this fails too, destroying the domain does, and it is never used again.
                    _ = self.detach(stream, domain);
                }
                Err(refusal(error))
            }
        }
    }

    /// Makes the SMMU abort whatever `stream`, attached to `domain`, does. An SMMU that does not say so in time is asked
    /// once more: the entry in memory aborts by then, while the stream counts as attached, and nobody can use it.
    pub(super) fn detach(&self, stream: StreamId, domain: &Domain) -> Result<(), DmaError> {
        let detach = |domain: &mut _| self.streams.lock().detach(&self.commands, stream, domain);
        let result = match domain.with_smmu(detach) {
            Some(Err(StreamError::Command(_))) => domain.with_smmu(detach),
            result => result,
        };
        result.unwrap_or(Ok(())).map_err(refusal)
    }

    /// Prints and keeps what the event queue has, and acknowledges errors. For the SMMU's interrupts, and for those who
    /// cannot wait for them.
    pub fn service(&self) {
        let loudest = self.read_events();
        self.commands.service();
        if self.commands.lost_events.swap(false, Relaxed)
            && let Some(stream) = loudest.stream()
        {
            quarantine::hold(self, stream);
        }
    }

    /// Prints and keeps what the event queue has. Whose most of it was when there last was much.
    fn read_events(&self) -> Loudest {
        let mut events = self.events.lock();
        let Events { queue, recent, count, loudest } = &mut *events;
        let mut now = Loudest::default();
        // A device that faults faster than this reads gets its next turn with its next interrupt.
        for _ in 0..2 {
            let more = queue.drain(|report| match report {
                EventReport::Event(event) => {
                    kprintln!("{event}");
                    debug::translation_fault(self.stream_key(event.stream), &event);
                    now.add(event.stream);
                    self.keep(recent, count, event);
                }
                EventReport::Quiet(event) => {
                    quarantine::tell_later();
                    now.add(event.stream);
                    self.keep(recent, count, event);
                }
                EventReport::Dropped(Dropped { stream: Some(stream), count }) => {
                    kprintln!("smmu: sid={stream} {count} more events");
                }
                EventReport::Dropped(Dropped { stream: None, count }) => {
                    kprintln!("smmu: {count} more events of many streams");
                }
                EventReport::Overflow => self.commands.say_lost(),
            });
            if !more {
                break;
            }
        }
        if 2 * now.events() >= self.features.event_room() {
            *loudest = now;
        }
        *loudest
    }

    fn keep(&self, recent: &mut [Option<EventRecord>; KEPT], count: &mut usize, event: EventRecord) {
        quarantine::note(self, event);
        recent[*count % KEPT] = Some(event);
        *count += 1;
    }

    /// The last events (at most 16), oldest first, and how many there were in all. Forgets them.
    pub fn take_events(&self) -> (impl Iterator<Item = EventRecord>, usize) {
        self.service();
        let mut events = self.events.lock();
        let (recent, count) = (core::mem::replace(&mut events.recent, [None; KEPT]), events.count);
        ((0..KEPT).filter_map(move |n| recent[(count + n) % KEPT]), count)
    }
}

impl Handler for Smmu {
    fn handle(&self) {
        // One that is lost: what it was for stays in the queue until somebody looks.
        if debug::fail_point(FailPoint::Interrupts) {
            return;
        }
        self.service();
    }
}

/// Bytes of the tables of a domain and of what leads to them.
fn bytes_of(domain: &smmu::PagingDomain) -> u64 {
    (u64::from(domain.table_frames()) + 1) * PAGE_SIZE
}

fn refusal(error: StreamError) -> DmaError {
    match error {
        StreamError::Command(_) => DmaError::IommuTimeout,
        StreamError::OutOfMemory(_) => DmaError::OutOfTables,
        StreamError::OutOfRange(_) | StreamError::AlreadyAttached(_) | StreamError::NotAttached(_) => {
            DmaError::IommuRefused
        }
    }
}

impl Commands {
    /// Acknowledges global errors, and prints them. Whoever has the queue does it if this does not get it.
    fn service(&self) {
        self.notices.lock().catch_up();
        self.wanted.store(true, SeqCst);
        let Some(mut queue) = self.queue.try_lock() else { return };
        self.wanted.store(false, Relaxed);
        let (lost, errors) = queue.service_errors().lost_events();
        drop(queue);
        if lost {
            self.say_lost();
        }
        if !errors.is_empty() {
            self.say(&errors);
        }
    }

    fn say_lost(&self) {
        self.lost_events.store(true, Relaxed);
        self.notices.lock().lose_events();
        // Who reads the queue next looks at both.
        quarantine::tell_later();
    }

    fn say(&self, what: &dyn fmt::Display) {
        if !self.notices.lock().say(what) {
            quarantine::tell_later();
        }
    }
}

impl Shared<CommandQueue> for Commands {
    #[inline]
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let result = action(&mut self.queue.lock());
        // Not Relaxed: either this sees what an interrupt wants, or the interrupt sees that the queue is free. A
        // Load-Acquire is not observed before an earlier Store-Release, here the unlocking (DDI 0487, B2.3.10).
        if self.wanted.load(SeqCst) {
            self.service();
        }
        result
    }
}

/// Frames for devices' page tables. What an SMMU has to be told of them is its driver's business.
pub(super) struct Tables;

impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<TableFrame> {
        let table = table_frames::take()?;
        counters::TABLE_PAGES.add(1);
        Some(table)
    }

    fn release(&mut self, table: TableFrame) {
        counters::TABLE_PAGES.sub(1);
        table_frames::give(table);
    }

    fn entries(&self, table: PhysAddr) -> &Entries {
        table_frames::entries(table)
    }

    fn valid_entries(&self, table: PhysAddr) -> &AtomicU16 {
        table_frames::valid_entries(table)
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        perf_counters::count_descriptor_stores(entries.len());
    }

    fn order_before_link(&self) {
        arch::barrier::dsb_ishst();
    }

    fn invalidate(&mut self, at: u64, len: u64) {
        unreachable!("the driver invalidates {at:#x}+{len:#x} itself")
    }
}

/// Low memory for queues, stream tables and context descriptors.
struct Regions;

impl RegionSource for Regions {
    fn allocate(&mut self, bytes: u64) -> Option<Region> {
        let order = Order::covering(bytes.div_ceil(PAGE_SIZE))?;
        let chunk = zones::take(order, Reach::LOW)?.release();
        window::zero(chunk);
        let words = arch::pointer::to::<AtomicU64>(linear::address_of(chunk.start()));
        // SAFETY: the chunk is ours until `release`, which gets the region back, in the linear map, aligned and zeroed.
        Some(Region::new(chunk.start(), unsafe { slice::from_raw_parts(words, (bytes / 8) as usize) }))
    }

    fn release(&mut self, region: Region) {
        let order = Order::covering(region.bytes().div_ceil(PAGE_SIZE));
        let chunk = order.and_then(|order| Chunk::new(Pfn::containing(region.start()), order));
        match chunk {
            Some(chunk) => {
                // SAFETY: `region` owns the chunk that `allocate` released into it, and ends here.
                let chunk = unsafe { OwnedChunk::adopt(chunk) };
                zones::give_from(chunk, LastOwner::Iommu);
            }
            None => panic!("{region:?} is none of ours"),
        }
    }
}
