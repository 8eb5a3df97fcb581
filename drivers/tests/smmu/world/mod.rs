//! A machine in a test: RAM, an SMMU model, the registers between it and the driver, and a clock.
//!
//! Nothing runs by itself. The model does a little whenever the driver waits ([`Clock::relax`]), and time passes whenever
//! somebody looks at it.
//!
//! RAM exists twice: as the CPU sees it and as the device does. In a coherent world the two are one; otherwise a store
//! reaches the device only when its cache line is cleaned and a DSB completes that, and the CPU sees what the device
//! wrote only after dropping the line.

pub mod rig;

use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use arch::fake::Event;
use drivers::fake::FakeRegisters;
use drivers::mmio::Mmio;
use drivers::region::{Region, RegionSource};
use drivers::smmu::{Clock, Registers};
use pagetable::{Entries, TableMemory};
use smmu_spec::Walks;
use smmu_spec::model::{Ids, Memory, Model, RegisterFile};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// Where RAM starts and how much there is.
const RAM: u64 = 0x4000_0000;
const PAGES: usize = 640;
const PAGE_WORDS: usize = PAGE_SIZE as usize / 8;
const LINE_WORDS: usize = 8;

/// The SMMU model of a test.
pub type Smmu = Model<FakeFile, Bus>;

/// Somebody who is told of barriers and cache maintenance.
pub type Watcher = fn(&World, Event);

/// All of it. Tests hold it through [`World::new`]'s `Rc`; the clock and the cache find it by thread.
pub struct World {
    cpu: &'static [AtomicU64],
    device: &'static [AtomicU64],
    /// Lines that were cleaned, with what they held, until a DSB.
    cleaning: RefCell<Vec<(usize, [u64; LINE_WORDS])>>,
    /// Pages in use, and for tables their counters.
    used: RefCell<BTreeMap<usize, u64>>,
    live: Vec<AtomicU16>,
    /// Allocations that still succeed.
    pub allowance: Cell<u64>,
    /// Reads by the SMMU that still abort.
    pub bad_reads: Rc<Cell<u32>>,
    pub model: RefCell<Smmu>,
    /// Called after each step of the model.
    pub after_step: Cell<Option<fn(&World)>>,
    /// The events of the architecture layer, when they are wanted.
    pub watch: Cell<Option<Watcher>>,
    time: Cell<u64>,
    file: Rc<FakeRegisters>,
}

thread_local! {
    static SPARE: RefCell<Vec<&'static [AtomicU64]>> = const { RefCell::new(Vec::new()) };
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

fn with(action: impl FnOnce(&World)) {
    let world = WORLD.with_borrow(Clone::clone);
    if let Some(world) = world {
        action(&world);
    }
}

/// RAM full of zeroes. It is never freed, as the driver holds it as `'static`, but used again by the thread's next world.
fn ram() -> &'static [AtomicU64] {
    if let Some(words) = SPARE.with_borrow_mut(Vec::pop) {
        words.iter().for_each(|word| word.store(0, Relaxed));
        return words;
    }
    let pages = (PAGES + 1) * PAGE_WORDS;
    let words: &'static [AtomicU64] = Box::leak((0..pages).map(|_| AtomicU64::new(0)).collect());
    // Cache lines of the host's addresses and of physical ones have to agree.
    let skip = (words.as_ptr().addr() % PAGE_SIZE as usize).wrapping_neg() % PAGE_SIZE as usize / 8;
    &words[skip..skip + PAGES * PAGE_WORDS]
}

impl Drop for World {
    fn drop(&mut self) {
        let same = std::ptr::eq(self.cpu, self.device);
        let _ = SPARE.try_with(|spare| {
            spare.borrow_mut().push(self.cpu);
            spare.borrow_mut().extend((!same).then_some(self.device));
        });
    }
}

impl World {
    /// A machine with this SMMU, whose walks snoop or do not.
    pub fn new(mut ids: Ids, walks: Walks) -> Rc<Self> {
        const COHACC: u32 = 1 << 4;
        ids.idr[0] = ids.idr[0] & !COHACC | if walks == Walks::Coherent { COHACC } else { 0 };
        let cpu = ram();
        let device = if walks == Walks::Coherent { cpu } else { ram() };
        let file = Rc::new(FakeRegisters::new(Registers::BYTES as usize));
        let bad_reads = Rc::new(Cell::new(0));
        let bus = Bus { ram: device, bad_reads: bad_reads.clone() };
        let world = Rc::new(Self {
            cpu,
            device,
            cleaning: RefCell::default(),
            used: RefCell::default(),
            live: (0..PAGES).map(|_| AtomicU16::new(0)).collect(),
            allowance: Cell::new(u64::MAX),
            bad_reads,
            model: RefCell::new(Model::new(FakeFile(file.clone()), bus, ids)),
            after_step: Cell::new(None),
            watch: Cell::new(None),
            time: Cell::new(0),
            file,
        });
        WORLD.set(Some(world.clone()));
        arch::fake::watch(|event| with(|world| world.maintain(event)));
        world
    }

    /// The registers, for the driver.
    pub fn registers(&self) -> Mmio<Registers> {
        self.file.mmio()
    }

    /// A 32-bit register by offset.
    pub fn register(&self, offset: usize) -> u32 {
        self.file.get32(offset)
    }

    pub fn set_register(&self, offset: usize, value: u32) {
        self.file.set32(offset, value);
    }

    /// Time, and a model that works while the driver waits.
    pub fn clock() -> Clock {
        fn now() -> u64 {
            let mut time = 0;
            with(|world| {
                world.time.set(world.time.get() + 100);
                time = world.time.get();
            });
            time
        }
        Clock { now, relax: || with(World::step) }
    }

    pub fn pass_microseconds(&self, time: u64) {
        self.time.set(self.time.get() + time);
    }

    pub fn step(&self) {
        self.model.borrow_mut().step();
        if let Some(after_step) = self.after_step.get() {
            after_step(self);
        }
    }

    /// Pages that somebody has.
    pub fn pages_in_use(&self) -> u64 {
        self.used.borrow().values().sum()
    }

    fn take(&self, pages: u64) -> Option<usize> {
        let left = self.allowance.get();
        self.allowance.set(left.saturating_sub(1));
        if left == 0 {
            return None;
        }
        let mut used = self.used.borrow_mut();
        let free = |first: &usize| {
            let before = used.range(..=first).next_back();
            let after = used.range(first..).next();
            before.is_none_or(|(start, len)| start + *len as usize <= *first)
                && after.is_none_or(|(start, _)| first + pages as usize <= *start)
        };
        let first = (0..PAGES - pages as usize + 1).step_by(pages as usize).find(free)?;
        used.insert(first, pages);
        let words = first * PAGE_WORDS..(first + pages as usize) * PAGE_WORDS;
        // The CPU's zeroes are in its cache; the device still sees the last owner's.
        self.cpu[words].iter().for_each(|word| word.store(0, Relaxed));
        Some(first)
    }

    fn give(&self, first: usize) {
        let pages = self.used.borrow_mut().remove(&first).expect("released twice");
        // Whoever still reads it sees rubbish, and a walker a valid descriptor that leads out of RAM.
        let words = first * PAGE_WORDS..(first + pages as usize) * PAGE_WORDS;
        for word in self.cpu[words.clone()].iter().chain(&self.device[words]) {
            word.store(0x0bad_b743, Relaxed);
        }
    }

    fn maintain(&self, event: Event) {
        if let Some(watch) = self.watch.get() {
            watch(self, event);
        }
        match event {
            Event::Clean(range) => self.lines(range).for_each(|line| self.clean(line)),
            Event::CleanInvalidate(range) => self.lines(range).for_each(|line| self.drop_line(line)),
            Event::Barrier("dsb_sy" | "dsb_ish") => {
                for (line, values) in self.cleaning.take() {
                    self.store(line, values);
                }
            }
            _ => {}
        }
    }

    /// The first words of the cache lines that touch `range`.
    fn lines(&self, range: AddrRange<KernelVa>) -> impl Iterator<Item = usize> + use<> {
        let base = self.cpu.as_ptr().addr() as u64;
        let first = (range.start().raw() - base) / 64;
        let end = (range.end().raw() - base).div_ceil(64);
        (first..end).map(|line| line as usize * LINE_WORDS)
    }

    fn clean(&self, line: usize) {
        let values = std::array::from_fn(|word| self.cpu[line + word].load(Relaxed));
        self.cleaning.borrow_mut().push((line, values));
    }

    /// The CPU's copy goes, as the driver promises that it is clean; the next load comes from memory.
    fn drop_line(&self, line: usize) {
        for word in line..line + LINE_WORDS {
            self.cpu[word].store(self.device[word].load(Relaxed), Relaxed);
        }
    }

    fn store(&self, line: usize, values: [u64; LINE_WORDS]) {
        for (word, value) in self.device[line..].iter().zip(values) {
            word.store(value, Relaxed);
        }
    }
}

/// The index of the word at a physical address.
fn word(at: u64) -> Option<usize> {
    let index = usize::try_from(at.checked_sub(RAM)? / 8).ok()?;
    (index < PAGES * PAGE_WORDS).then_some(index)
}

fn page_of(at: PhysAddr) -> usize {
    word(at.raw()).unwrap() / PAGE_WORDS
}

fn address_of(page: usize) -> PhysAddr {
    PhysAddr::new(RAM + page as u64 * PAGE_SIZE)
}

/// The allocator, as the driver and the page table see it.
pub struct Source(pub Rc<World>);

impl RegionSource for Source {
    fn allocate(&mut self, bytes: u64) -> Option<Region> {
        assert!(bytes.is_power_of_two() && bytes >= PAGE_SIZE, "{bytes:#x}");
        let first = self.0.take(bytes / PAGE_SIZE)?;
        let words = first * PAGE_WORDS..first * PAGE_WORDS + bytes as usize / 8;
        Some(Region::new(address_of(first), &self.0.cpu[words]))
    }

    fn release(&mut self, region: Region) {
        self.0.give(page_of(region.start()));
    }
}

impl TableMemory for Source {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.0.take(1).map(address_of)
    }

    fn release(&mut self, table: PhysAddr) {
        self.0.give(page_of(table));
    }

    fn entries(&self, table: PhysAddr) -> &Entries {
        let first = page_of(table) * PAGE_WORDS;
        self.0.cpu[first..first + PAGE_WORDS].try_into().unwrap()
    }

    fn live(&self, table: PhysAddr) -> &AtomicU16 {
        &self.0.live[page_of(table)]
    }

    /// Only told: the SMMU driver maintains its tables itself.
    fn written(&self, _: &[AtomicU64]) {}

    fn publish(&self) {
        panic!("the SMMU driver maintains its tables itself");
    }

    fn invalidate(&mut self, _: u64, _: u64) {
        panic!("the SMMU driver invalidates by itself");
    }
}

/// The registers as the model sees them.
pub struct FakeFile(Rc<FakeRegisters>);

impl RegisterFile for FakeFile {
    fn get(&self, offset: usize) -> u32 {
        self.0.get32(offset)
    }

    fn set(&self, offset: usize, value: u32) {
        self.0.set32(offset, value);
    }
}

/// RAM as the model sees it.
pub struct Bus {
    ram: &'static [AtomicU64],
    bad_reads: Rc<Cell<u32>>,
}

impl Memory for Bus {
    fn read(&self, at: u64) -> Option<u64> {
        assert!(at.is_multiple_of(8));
        if let Some(left) = self.bad_reads.get().checked_sub(1) {
            self.bad_reads.set(left);
            return None;
        }
        let index = word(at).unwrap_or_else(|| panic!("the SMMU reads {at:#x}, which is not RAM"));
        Some(self.ram[index].load(Relaxed))
    }

    fn write(&mut self, at: u64, value: u64) -> bool {
        word(at).map(|index| self.ram[index].store(value, Relaxed)).is_some()
    }
}
