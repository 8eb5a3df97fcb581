//! A model of an ITS and of the redistributors, which panics if the driver breaks a rule of IHI 0069.
//!
//! It executes commands late, keeps the configuration of LPIs cached as long as possible, and performs the
//! effects of a command on a redistributor at the next SYNC for it, or at random before.

use crate::machine::ItsRam;
use crate::random::Random;
use drivers::gic::its::FIRST_LPI;
use drivers::mmio::RegisterAccess;
use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Properties of the modelled implementation.
#[derive(Clone, Copy, Debug)]
pub struct ItsKind {
    pub coherent: bool,
    /// Whether the device table may have two levels.
    pub indirect: bool,
    /// GITS_BASERn.Page_Size, fixed; `None` if all sizes can be chosen.
    pub page_size: Option<u64>,
    pub targets_by_address: bool,
    pub device_bits: u8,
    pub iidr: u32,
    /// Collections that the ITS holds itself; without others if not 0.
    pub own_collections: u64,
}

pub const KIND: ItsKind = ItsKind {
    coherent: true,
    indirect: true,
    page_size: None,
    targets_by_address: false,
    device_bits: 16,
    iidr: 0x43b,
    own_collections: 0,
};

pub const CPUS: u16 = 3;
const SHAREABILITY: u64 = 3 << 10;
const QUEUE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const BASER_FIXED: u64 = 7 << 56 | 0x1f << 48;
/// Bytes of an entry of the device table and of the collection table.
const ENTRY: u64 = 8;
pub const ITT_ENTRY: u64 = 12;

/// The address of a CPU's redistributor.
pub fn redistributor_address(cpu: u16) -> u64 {
    0x80a_0000 + u64::from(cpu) * 0x2_0000
}

#[derive(Default)]
struct Redistributor {
    control: u32,
    config_base: u64,
    pending_base: u64,
    /// Configuration bytes that were read from memory.
    cached: BTreeMap<u32, u8>,
    pending: BTreeSet<u32>,
    /// Effects that the next SYNC completes.
    deferred: Vec<DeferredEffect>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DeferredEffect {
    Reread(u32),
    RereadAll,
    Clear(u32),
}

struct MappedDevice {
    event_bits: u64,
    itt: u64,
    events: BTreeMap<u32, (u32, u16)>,
}

/// The state of the machine.
pub struct ItsModel {
    kind: ItsKind,
    ram: Rc<ItsRam>,
    random: Random,
    control: u32,
    /// Reads of GITS_CTLR until it is quiescent.
    pub busy: u32,
    queue_base: u64,
    write: u64,
    read: u64,
    stalled: bool,
    bases: [u64; 8],
    collections: BTreeMap<u16, u16>,
    devices: BTreeMap<u32, MappedDevice>,
    redistributors: Vec<Redistributor>,
    /// ITTs and events that were unmapped without a SYNC since.
    unsynced_itts: Vec<u64>,
    unsynced_events: BTreeSet<(u32, u32)>,
    /// Commands until one stalls the queue.
    pub until_stall: Option<u32>,
    /// The command that stalled it.
    refused: Option<[u64; 4]>,
    /// Whether commands are not processed.
    pub frozen: bool,
    /// Number of wraps of the queue.
    pub wraps: u64,
    /// Number of commands that stalled it.
    pub stalls: u64,
}

/// The registers of the ITS, as the driver sees them.
#[derive(Clone)]
pub struct Registers(pub Rc<RefCell<ItsModel>>);

/// The registers of a redistributor.
pub struct RedistributorRegisters(pub Rc<RefCell<ItsModel>>, pub u16);

impl Registers {
    pub fn new(kind: ItsKind, ram: &Rc<ItsRam>, seed: u64) -> Self {
        let mut bases = [0; 8];
        bases[0] = 1 << 56 | (ENTRY - 1) << 48;
        // A table for virtual CPUs that firmware left.
        bases[1] = 2 << 56 | (ENTRY - 1) << 48 | 1 << 63;
        if kind.own_collections == 0 {
            bases[2] = 4 << 56 | (ENTRY - 1) << 48;
        }
        let model = ItsModel {
            kind,
            ram: ram.clone(),
            random: Random::new(seed),
            // An earlier stage has left it enabled.
            control: 1,
            busy: 3,
            queue_base: 0,
            write: 0,
            read: 0,
            stalled: false,
            bases,
            collections: BTreeMap::new(),
            devices: BTreeMap::new(),
            redistributors: (0..CPUS).map(|_| Redistributor::default()).collect(),
            unsynced_itts: Vec::new(),
            unsynced_events: BTreeSet::new(),
            until_stall: None,
            refused: None,
            frozen: false,
            wraps: 0,
            stalls: 0,
        };
        let registers = Self(Rc::new(RefCell::new(model)));
        let model = Rc::downgrade(&registers.0);
        *ram.on_release.borrow_mut() = Some(Box::new(move |start| {
            if let Some(model) = model.upgrade() {
                model.borrow().check_unused(start);
            }
        }));
        registers
    }

    pub fn model(&self) -> RefMut<'_, ItsModel> {
        self.0.borrow_mut()
    }

    fn state(&self) -> Ref<'_, ItsModel> {
        self.0.borrow()
    }
}

impl RegisterAccess for Registers {
    fn read32(&self, offset: u64) -> u32 {
        let mut model = self.model();
        match offset {
            0 => {
                model.busy = if model.control & 1 == 0 { model.busy.saturating_sub(1) } else { model.busy };
                let quiescent = model.control & 1 == 0 && model.busy == 0;
                model.control | u32::from(quiescent) << 31
            }
            4 => model.kind.iidr,
            _ => panic!("read of 32 bits at {offset:#x}"),
        }
    }

    fn read64(&self, offset: u64) -> u64 {
        match offset {
            0x8 => {
                let kind = self.state().kind;
                let by_address = u64::from(kind.targets_by_address) << 19;
                let bits = u64::from(kind.device_bits - 1) << 13 | 15 << 8;
                1 | (ITT_ENTRY - 1) << 4 | bits | by_address | kind.own_collections << 24
            }
            0x80 => self.state().queue_base,
            0x90 => {
                let mut model = self.model();
                model.advance();
                model.read | u64::from(model.stalled)
            }
            0x100..0x140 => self.state().bases[(offset as usize - 0x100) / 8],
            _ => panic!("read of 64 bits at {offset:#x}"),
        }
    }

    fn write32(&mut self, offset: u64, value: u32) {
        assert_eq!(offset, 0, "write of 32 bits");
        let mut model = self.model();
        if value & 1 != 0 {
            model.check_enable();
        } else if model.control & 1 != 0 {
            model.busy = 3;
        }
        model.control = value & 1;
    }

    fn write64(&mut self, offset: u64, value: u64) {
        let mut model = self.model();
        match offset {
            0x80 => {
                model.check_quiescent("GITS_CBASER");
                model.queue_base = model.attributes(value, 59);
                (model.read, model.stalled) = (0, false);
            }
            0x88 => {
                assert!(value & 0x1f <= 1 && value < 0x10_0000, "GITS_CWRITER = {value:#x}");
                model.wraps += u64::from(value & !0x1f < model.write);
                model.write = value & !0x1f;
                if value & 1 != 0 {
                    assert!(model.stalled, "a retry of a queue that is not stalled");
                    model.stalled = false;
                }
            }
            0x100..0x140 => {
                model.check_quiescent("GITS_BASERn");
                let index = (offset as usize - 0x100) / 8;
                let fixed = model.bases[index] & BASER_FIXED;
                let mut value = model.attributes(value & !BASER_FIXED, 59);
                if !model.kind.indirect {
                    value &= !(1 << 62);
                }
                if let Some(size) = model.kind.page_size {
                    value = value & !(3 << 8) | size << 8;
                }
                model.bases[index] = value | fixed;
            }
            _ => panic!("write of 64 bits at {offset:#x}"),
        }
    }
}

impl RegisterAccess for RedistributorRegisters {
    fn read32(&self, offset: u64) -> u32 {
        assert_eq!(offset, 0, "read of 32 bits");
        self.0.borrow().redistributors[usize::from(self.1)].control
    }

    fn read64(&self, offset: u64) -> u64 {
        let model = self.0.borrow();
        let redistributor = &model.redistributors[usize::from(self.1)];
        match offset {
            0x8 => u64::from(self.1) << 8 | 1,
            0x70 => redistributor.config_base,
            0x78 => redistributor.pending_base,
            _ => panic!("read of 64 bits at {offset:#x}"),
        }
    }

    fn write32(&mut self, offset: u64, value: u32) {
        assert_eq!(offset, 0, "write of 32 bits");
        let mut model = self.0.borrow_mut();
        let ram = model.ram.clone();
        let redistributor = &mut model.redistributors[usize::from(self.1)];
        assert_eq!(redistributor.control & 1, 0, "a second write of GICR_CTLR");
        let pending = redistributor.pending_base & 0x000f_ffff_ffff_0000;
        assert!(ram.is_allocated(pending, 0x1_0000), "pending table {pending:#x}");
        assert!(ram.is_zero(pending, 64), "the pending table is not zero in memory");
        redistributor.control = value;
    }

    fn write64(&mut self, offset: u64, value: u64) {
        let mut model = self.0.borrow_mut();
        let value = model.attributes(value, 7);
        let redistributor = &mut model.redistributors[usize::from(self.1)];
        assert_eq!(redistributor.control & 1, 0, "a table changes while LPIs are enabled");
        match offset {
            0x70 => redistributor.config_base = value,
            0x78 => redistributor.pending_base = value & !(1 << 62),
            _ => panic!("write of 64 bits at {offset:#x}"),
        }
    }
}

impl ItsModel {
    /// The attributes that the implementation keeps. Without coherency the shareability is fixed at 0.
    fn attributes(&self, value: u64, inner_cache: u32) -> u64 {
        if self.kind.coherent {
            return value;
        }
        let shareable = value & SHAREABILITY != 0;
        assert!(
            shareable || value >> inner_cache & 7 <= 1,
            "cacheable accesses that do not snoop: {value:#x}"
        );
        value & !SHAREABILITY
    }

    fn check_quiescent(&self, register: &str) {
        assert!(self.control & 1 == 0 && self.busy == 0, "{register} changes while the ITS is not quiescent");
    }

    fn check_enable(&self) {
        self.check_quiescent("GITS_CTLR");
        assert_eq!((self.queue_base >> 63, self.write, self.read), (1, 0, 0), "the queue");
        for base in self.bases.iter().filter(|base| *base >> 63 != 0) {
            let (start, bytes) = table(*base);
            assert!(self.ram.is_allocated(start, bytes) && start.is_multiple_of(page_bytes(*base)));
            assert!(self.ram.is_zero(start, bytes), "a table is not zero in memory");
        }
        assert!(self.bases[0] >> 63 == 1 && self.bases[1] >> 63 == 0, "tables in use");
    }

    /// Panics if the ITS may access the region at `start`.
    fn check_unused(&self, start: u64) {
        assert!(self.devices.values().all(|device| device.itt != start), "a table in use is released");
        assert!(!self.unsynced_itts.contains(&start), "a table is released before a SYNC");
        let enabled = self.control & 1 != 0;
        let used = self.bases.iter().any(|&base| base >> 63 != 0 && table(base).0 == start);
        assert!(!enabled || !used && self.queue_base & QUEUE_ADDRESS != start, "a table in use is released");
    }

    /// Executes some commands.
    pub fn advance(&mut self) {
        if self.frozen || self.stalled {
            arch::fake::advance(arch::timer::ns_to_ticks(20_000_000));
            return;
        }
        for _ in 0..self.random.below(4) {
            if self.stalled || self.read == self.write || self.control & 1 == 0 {
                return;
            }
            let size = ((self.queue_base & 0xff) + 1) * 0x1000;
            let at = (self.queue_base & QUEUE_ADDRESS) + self.read;
            let words = [0, 8, 16, 24].map(|word| self.ram.read(at + word));
            // A SYNC is executed at its second try.
            let is_refused_again = self.refused == Some(words) && words[0] & 0xff != 0x05;
            if self.until_stall == Some(0) || is_refused_again {
                self.until_stall = None;
                self.refused = Some(words);
                self.stalled = true;
                self.stalls += 1;
                return;
            }
            self.refused = None;
            self.until_stall = self.until_stall.map(|left| left - 1);
            // After a command that failed, later ones may name events that do not exist.
            if !self.is_executable(words) {
                assert_ne!(self.stalls, 0, "an event that is not mapped: {words:x?}");
                self.stalled = true;
                self.stalls += 1;
                return;
            }
            self.execute(words);
            self.read = (self.read + 32) % size;
            if self.random.once_in(4) {
                let cpu = self.random.below(CPUS.into()) as usize;
                self.complete_effects(cpu);
            }
        }
    }

    /// Whether the event of a DISCARD, INV or MOVI is mapped.
    fn is_executable(&self, [first, second, ..]: [u64; 4]) -> bool {
        let (device, event) = ((first >> 32) as u32, second as u32);
        let is_mapped = || self.devices.get(&device).is_some_and(|device| device.events.contains_key(&event));
        !matches!(first & 0xff, 0x01 | 0x0c | 0x0f) || is_mapped()
    }

    fn execute(&mut self, [first, second, third, _]: [u64; 4]) {
        let (device, event) = ((first >> 32) as u32, second as u32);
        let collection = third as u16;
        match first & 0xff {
            0x08 if third >> 63 != 0 => self.map_device(device, (second & 0x1f) + 1, third),
            0x08 => {
                let unmapped = self.devices.remove(&device).expect("MAPD of a device that is not mapped");
                assert!(unmapped.events.is_empty(), "MAPD before the events are discarded");
                self.unsynced_itts.push(unmapped.itt);
            }
            0x09 => {
                let cpu = self.cpu(third);
                assert_eq!(self.redistributors[cpu].control & 1, 1, "MAPC before EnableLPIs");
                self.collections.insert(collection, cpu as u16);
            }
            0x0a => self.map_event(device, event, (second >> 32) as u32, collection),
            0x01 => {
                assert!(self.collections.contains_key(&collection), "MOVI to an unmapped collection");
                let mapped = self.event(device, event);
                let (lpi, old) = *mapped;
                mapped.1 = collection;
                let [from, to] = [old, collection].map(|id| usize::from(self.collections[&id]));
                if self.redistributors[from].pending.remove(&lpi) {
                    self.redistributors[to].pending.insert(lpi);
                }
                // The new redistributor may have an old configuration.
            }
            0x0f => {
                let (lpi, collection) = *self.event(device, event);
                self.devices.get_mut(&device).expect("a device").events.remove(&event);
                self.unsynced_events.insert((device, event));
                self.defer(collection, DeferredEffect::Clear(lpi));
            }
            0x0c => {
                let (lpi, collection) = *self.event(device, event);
                self.defer(collection, DeferredEffect::Reread(lpi));
            }
            0x0d => self.defer(collection, DeferredEffect::RereadAll),
            0x05 => {
                let cpu = self.cpu(third);
                self.complete_effects(cpu);
                self.unsynced_itts.clear();
                let redistributors = &self.redistributors;
                // Only if no effect of the DISCARD is left anywhere.
                if redistributors.iter().all(|one| one.deferred.is_empty()) {
                    self.unsynced_events.clear();
                }
            }
            other => panic!("command {other:#x}: {first:#x} {second:#x} {third:#x}"),
        }
    }

    fn map_device(&mut self, device: u32, event_bits: u64, third: u64) {
        let itt = third & 0x000f_ffff_ffff_ff00;
        let bytes = ((ITT_ENTRY << event_bits) + 255) & !255;
        assert!(self.ram.is_allocated(itt, bytes), "ITT {itt:#x}");
        assert!(self.ram.is_zero(itt, bytes & !7), "the ITT is not zero in memory");
        let base = self.bases[0];
        let (start, table_bytes) = table(base);
        let entry = if base >> 62 & 1 == 0 {
            u64::from(device) * ENTRY
        } else {
            let per_page = page_bytes(base) / ENTRY;
            let level_1 = start + u64::from(device) / per_page * 8;
            let page = self.ram.read(level_1);
            assert!(page >> 63 != 0, "no page of the second level for {device:#x}");
            let page = page & 0x000f_ffff_ffff_f000;
            assert!(self.ram.is_allocated(page, page_bytes(base)), "page {page:#x}");
            assert!(self.ram.is_zero(page, page_bytes(base)), "a page is not zero in memory");
            0
        };
        assert!(entry < table_bytes, "{device:#x} is outside of the device table");
        let mapped = MappedDevice { event_bits, itt, events: BTreeMap::new() };
        assert!(self.devices.insert(device, mapped).is_none(), "{device:#x} is mapped already");
    }

    fn map_event(&mut self, device: u32, event: u32, lpi: u32, collection: u16) {
        assert!(self.collections.contains_key(&collection), "MAPTI to an unmapped collection");
        assert!((FIRST_LPI..2 * FIRST_LPI).contains(&lpi), "LPI {lpi}");
        let in_use =
            self.devices.values().flat_map(|device| device.events.values()).any(|mapped| mapped.0 == lpi);
        assert!(!in_use, "LPI {lpi} has two events");
        let cleared = |one: &Redistributor| !one.deferred.contains(&DeferredEffect::Clear(lpi));
        assert!(self.redistributors.iter().all(cleared), "LPI {lpi} is reused before a SYNC");
        assert!(!self.unsynced_events.contains(&(device, event)), "event {event} is reused before a SYNC");
        let mapped = self.devices.get_mut(&device).expect("MAPTI of a device that is not mapped");
        assert!(u64::from(event) < 1 << mapped.event_bits, "event {event} is outside of the ITT");
        let free = mapped.events.insert(event, (lpi, collection)).is_none();
        assert!(free, "event {event} is mapped already");
        let cpu = usize::from(self.collections[&collection]);
        if self.random.once_in(2) {
            self.config(cpu, lpi);
        }
    }

    fn event(&mut self, device: u32, event: u32) -> &mut (u32, u16) {
        let found = self.devices.get_mut(&device).and_then(|device| device.events.get_mut(&event));
        found.unwrap_or_else(|| panic!("{device:#x} has no event {event}"))
    }

    /// The CPU in a command.
    fn cpu(&self, third: u64) -> usize {
        let target = third >> 16 & 0xf_ffff_ffff;
        let is = |cpu: &u16| match self.kind.targets_by_address {
            true => redistributor_address(*cpu) >> 16 == target,
            false => u64::from(*cpu) == target,
        };
        (0..CPUS).find(is).unwrap_or_else(|| panic!("no redistributor {target:#x}")).into()
    }

    fn defer(&mut self, collection: u16, effect: DeferredEffect) {
        let cpu = self.collections[&collection];
        self.redistributors[usize::from(cpu)].deferred.push(effect);
    }

    fn complete_effects(&mut self, cpu: usize) {
        let redistributor = &mut self.redistributors[cpu];
        for effect in core::mem::take(&mut redistributor.deferred) {
            match effect {
                DeferredEffect::Reread(lpi) => drop(redistributor.cached.remove(&lpi)),
                DeferredEffect::RereadAll => redistributor.cached.clear(),
                DeferredEffect::Clear(lpi) => drop(redistributor.pending.remove(&lpi)),
            }
        }
    }

    /// The configuration of an LPI at a CPU, read from memory unless it is cached.
    fn config(&mut self, cpu: usize, lpi: u32) -> u8 {
        let redistributor = &mut self.redistributors[cpu];
        let base = redistributor.config_base & 0x000f_ffff_ffff_f000;
        let index = u64::from(lpi - FIRST_LPI);
        let word = self.ram.read(base + index / 8 * 8).to_le_bytes();
        *redistributor.cached.entry(lpi).or_insert(word[index as usize % 8])
    }

    /// A message of a device. Returns the LPI, if there is a translation.
    pub fn signal(&mut self, device: u32, event: u32) -> Option<u32> {
        let &(lpi, collection) = self.devices.get(&device)?.events.get(&event)?;
        let cpu = usize::from(self.collections[&collection]);
        self.redistributors[cpu].pending.insert(lpi);
        Some(lpi)
    }

    /// Acknowledges the pending and enabled LPIs of a CPU.
    pub fn take(&mut self, cpu: u16) -> Vec<u32> {
        let cpu = usize::from(cpu);
        let pending = core::mem::take(&mut self.redistributors[cpu].pending);
        let (taken, left): (Vec<u32>, Vec<u32>) =
            pending.into_iter().partition(|&lpi| self.config(cpu, lpi) & 1 != 0);
        self.redistributors[cpu].pending = left.into_iter().collect();
        taken
    }

    /// The priority and the reserved bit of the configuration.
    pub fn config_byte(&mut self, cpu: u16, lpi: u32) -> u8 {
        self.config(cpu.into(), lpi)
    }

    /// Makes an earlier boot stage's tables those of a redistributor.
    pub fn inherit(&mut self, cpu: u16, config: u64, pending: u64) {
        let redistributor = &mut self.redistributors[usize::from(cpu)];
        redistributor.control = 1;
        let attributes = if self.kind.coherent { 1 << 10 | 7 << 7 } else { 1 << 7 };
        redistributor.config_base = config | attributes | 13;
        redistributor.pending_base = pending;
    }

    pub fn mapped_devices(&self) -> usize {
        self.devices.len()
    }
}

fn page_bytes(base: u64) -> u64 {
    [0x1000, 0x4000, 0x1_0000, 0][(base >> 8 & 3) as usize]
}

/// Start and length of a table.
fn table(base: u64) -> (u64, u64) {
    let start = match page_bytes(base) {
        0x1_0000 => base & 0xffff_ffff_0000 | (base >> 12 & 0xf) << 48,
        _ => base & 0xffff_ffff_f000,
    };
    (start, ((base & 0xff) + 1) * page_bytes(base))
}
