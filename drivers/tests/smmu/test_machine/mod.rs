//! A test machine: RAM, an SMMU model, its registers, and a clock.
//!
//! The machine is single-threaded. The model advances whenever the driver waits ([`Clock::relax`]), and time
//! advances whenever the clock is read. Other actors can be interleaved at every barrier, every cache
//! maintenance operation and each step of the model ([`TestMachine::interleave`]).

pub mod bus;
pub mod fixture;
pub mod ram;
pub mod random;

use super::qemu::Qemu;
use addr::{PAGE_SIZE, PhysAddr, StreamId};
use arch::fake::Instruction;
use bus::{Bus, CommandMutation, FakeFile};
use drivers::fake::FakeRegisters;
use drivers::mmio::Mmio;
use drivers::region::{Region, RegionSource};
use drivers::smmu::{Clock, Registers, TIMEOUT_US};
use pagetable::{Entries, TableFrame, TableMemory, TableRef};
use ram::{PAGE_WORDS, PAGES, Ram};
use smmu_spec::model::{IdRegisters, SmmuModel, TransactionResult};
use smmu_spec::{AccessKind, WalkCoherency};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicU64};

/// Microseconds between two reads of the clock; determines the number of model steps before a timeout.
const TICK: u64 = if cfg!(miri) { TIMEOUT_US / 50 } else { 100 };

/// Start of RAM.
const RAM: u64 = 0x4000_0000;
/// The last byte of RAM.
pub const LAST: PhysAddr = PhysAddr::new(RAM + PAGES as u64 * PAGE_SIZE - 1);

/// The SMMU model of a test.
pub type MachineSmmu = SmmuModel<FakeFile, Bus>;

/// Observer of barriers and cache maintenance.
pub type EventHook = fn(&TestMachine, Instruction);

/// Actors interleaved before each event takes effect.
pub type Interleaving = Rc<dyn Fn(&TestMachine)>;

/// Selects barriers and maintenance without effect.
pub type Ignored = Box<dyn Fn(&TestMachine, &Instruction) -> bool>;

/// The order in which the SMMU observes the CPU's stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreOrder {
    /// Program order.
    Strong,
    /// Any order between two barriers.
    Weak,
}

/// The machine. Tests own it by an `Rc`; the clock and the cache hooks find it by thread.
pub struct TestMachine {
    pub ram: Rc<Ram>,
    /// Allocated pages: first page and count.
    used: RefCell<BTreeMap<usize, u64>>,
    live: Vec<AtomicU16>,
    /// Remaining successful allocations.
    pub allowance: Cell<u64>,
    /// Remaining reads by the SMMU that abort.
    pub bad_reads: Rc<Cell<u32>>,
    /// The same for reads of commands only, two for each command.
    pub bad_commands: Rc<Cell<u32>>,
    pub model: RefCell<MachineSmmu>,
    /// Called after each step of the model.
    pub after_step: Cell<Option<fn(&TestMachine)>>,
    /// Observer of the architecture layer's events, if any.
    pub watch: Cell<Option<EventHook>>,
    pub interleave: RefCell<Option<Interleaving>>,
    /// Barriers and maintenance without effect.
    pub ignored: RefCell<Option<Ignored>>,
    pub mutation: CommandMutation,
    /// The SMMU, if it is not the model.
    qemu: Option<Rc<Qemu>>,
    /// Outcomes of all accesses.
    pub outcomes: RefCell<Vec<TransactionResult>>,
    time: Cell<u64>,
    file: Rc<FakeRegisters>,
}

thread_local! {
    static SPARE: RefCell<Vec<Rc<FakeRegisters>>> = const { RefCell::new(Vec::new()) };
    static MACHINE: RefCell<Option<Rc<TestMachine>>> = const { RefCell::new(None) };
}

/// Zeroed registers, reused from a dropped machine if possible, since they are never freed.
fn registers() -> Rc<FakeRegisters> {
    let registers = SPARE.with_borrow_mut(Vec::pop);
    match registers {
        Some(registers) => {
            registers.clear();
            registers
        }
        None => Rc::new(FakeRegisters::new(Registers::BYTES as usize)),
    }
}

impl Drop for TestMachine {
    fn drop(&mut self) {
        let _ = SPARE.try_with(|spare| spare.borrow_mut().push(self.file.clone()));
    }
}

fn with(action: impl FnOnce(&TestMachine)) {
    let machine = MACHINE.with_borrow(Clone::clone);
    if let Some(machine) = machine {
        action(&machine);
    }
}

impl TestMachine {
    /// A machine with this SMMU, whose walks are coherent or not.
    pub fn new(ids: IdRegisters, walks: WalkCoherency) -> Rc<Self> {
        Self::with_order(ids, walks, StoreOrder::Strong)
    }

    /// The same with a store order.
    pub fn with_order(ids: IdRegisters, walks: WalkCoherency, order: StoreOrder) -> Rc<Self> {
        Self::with_ram(ids, walks, Ram::new(walks, order), None)
    }

    /// A machine with the RAM and the SMMU of QEMU.
    pub fn with_qemu(ids: IdRegisters, qemu: Rc<Qemu>) -> Rc<Self> {
        let machine = Self::with_ram(ids, WalkCoherency::Coherent, Ram::shared(qemu.ram()), Some(qemu));
        machine.qemu.iter().for_each(|qemu| qemu.reset(&machine.file));
        machine
    }

    fn with_ram(mut ids: IdRegisters, walks: WalkCoherency, ram: Ram, qemu: Option<Rc<Qemu>>) -> Rc<Self> {
        const COHACC: u32 = 1 << 4;
        ids.idr[0] = ids.idr[0] & !COHACC | if walks == WalkCoherency::Coherent { COHACC } else { 0 };
        let ram = Rc::new(ram);
        let file = registers();
        let (bad_reads, bad_commands) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let mutation = CommandMutation::default();
        let (registers, mutation_too) = (file.clone(), mutation.clone());
        let bus = Bus {
            ram: ram.clone(),
            bad_reads: bad_reads.clone(),
            bad_commands: bad_commands.clone(),
            registers,
            mutation: mutation_too,
        };
        let registers =
            FakeFile { registers: file.clone(), mutation: mutation.clone(), consumed: Cell::new(None) };
        let machine = Rc::new(Self {
            ram,
            used: RefCell::default(),
            live: (0..PAGES).map(|_| AtomicU16::new(0)).collect(),
            allowance: Cell::new(u64::MAX),
            bad_reads,
            bad_commands,
            model: RefCell::new(SmmuModel::new(registers, bus, ids)),
            after_step: Cell::new(None),
            watch: Cell::new(None),
            interleave: RefCell::default(),
            ignored: RefCell::default(),
            mutation,
            qemu,
            outcomes: RefCell::default(),
            time: Cell::new(0),
            file,
        });
        MACHINE.set(Some(machine.clone()));
        arch::fake::watch(|event| with(|machine| machine.maintain(event)));
        machine
    }

    /// Drops this thread's reference to its machine.
    pub fn forget() {
        MACHINE.set(None);
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

    /// A clock that advances the model while the driver waits.
    pub fn clock() -> Clock {
        fn now() -> u64 {
            let mut time = 0;
            with(|machine| {
                machine.time.set(machine.time.get() + TICK);
                time = machine.time.get();
            });
            time
        }
        Clock { now, relax: || with(TestMachine::step) }
    }

    pub fn pass_microseconds(&self, time: u64) {
        self.time.set(self.time.get() + time);
    }

    pub fn step(&self) {
        if self.model.borrow().hung {
            // Shortens the wait for the timeout.
            self.pass_microseconds(TIMEOUT_US / 4);
        }
        self.run_interleaving();
        #[cfg(feature = "loom")]
        ::loom::thread::yield_now();
        match &self.qemu {
            Some(qemu) => qemu.exchange(&self.file),
            None => self.model.borrow_mut().step(),
        }
        if let Some(after_step) = self.after_step.get() {
            after_step(self);
        }
    }

    /// An access of a device.
    pub fn access(&self, stream: StreamId, at: u64, direction: AccessKind) -> TransactionResult {
        match &self.qemu {
            Some(qemu) => qemu.access(stream, at, direction),
            None => self.model.borrow_mut().access(stream, at, direction),
        }
    }

    /// Number of allocated pages.
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
        self.ram.zero(first * PAGE_WORDS..(first + pages as usize) * PAGE_WORDS);
        Some(first)
    }

    fn give(&self, first: usize) {
        let pages = self.used.borrow_mut().remove(&first).expect("released twice");
        self.ram.poison(first * PAGE_WORDS..(first + pages as usize) * PAGE_WORDS);
    }

    fn run_interleaving(&self) {
        let interleaving = self.interleave.borrow().clone();
        if let Some(interleaving) = interleaving {
            interleaving(self);
        }
    }

    fn maintain(&self, event: Instruction) {
        if let Some(watch) = self.watch.get() {
            watch(self, event);
        }
        self.run_interleaving();
        let ignored = self.ignored.borrow().as_ref().is_some_and(|ignored| ignored(self, &event));
        if !ignored {
            self.ram.maintain(event, self.pages().into_iter());
        }
    }

    /// The allocated pages.
    pub fn pages(&self) -> Vec<usize> {
        self.used.borrow().iter().flat_map(|(&first, &pages)| first..first + pages as usize).collect()
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

/// The page allocator, as used by the driver and the page table.
pub struct TestMemory(pub Rc<TestMachine>);

impl RegionSource for TestMemory {
    fn allocate(&mut self, bytes: u64) -> Option<Region> {
        assert!(bytes.is_power_of_two() && bytes >= PAGE_SIZE, "{bytes:#x}");
        let first = self.0.take(bytes / PAGE_SIZE)?;
        let words = first * PAGE_WORDS..first * PAGE_WORDS + bytes as usize / 8;
        // SAFETY: `take` returns pages without other owner, and these are their words.
        Some(unsafe { Region::new(address_of(first), &self.0.ram.cpu()[words]) })
    }

    fn release(&mut self, region: Region) {
        self.0.give(page_of(region.start()));
    }
}

// SAFETY: the frames are the test's own RAM; the model's walkers observe each store immediately.
unsafe impl TableMemory for TestMemory {
    fn allocate(&mut self) -> Option<TableFrame> {
        // SAFETY: `take` returns a page without other owner.
        self.0.take(1).map(|page| unsafe { TableFrame::adopt(address_of(page)) })
    }

    fn release(&mut self, table: TableFrame) {
        self.0.give(page_of(table.release()));
    }

    fn entries<'a>(&'a self, table: TableRef<'a>) -> &'a Entries {
        let first = page_of(table.address()) * PAGE_WORDS;
        self.0.ram.cpu()[first..first + PAGE_WORDS].try_into().unwrap()
    }

    fn valid_entries<'a>(&'a self, table: TableRef<'a>) -> &'a AtomicU16 {
        &self.0.live[page_of(table.address())]
    }

    /// Notification only: the SMMU driver maintains its tables itself.
    fn entries_written(&self, _: &[AtomicU64]) {}

    fn order_before_link(&self) {
        panic!("the SMMU driver maintains its tables itself");
    }

    fn invalidate(&mut self, _: u64, _: u64) {
        panic!("the SMMU driver invalidates by itself");
    }
}
