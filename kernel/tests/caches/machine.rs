//! A CPU with caches that do what they like, a walker and a TLB, and RAM that a device reaches past the caches.
//!
//! RAM exists twice: in memory, where the device reads and writes, and as the CPU sees it. A line is *cached* from the
//! first cacheable access on, or whenever a cacheable mapping of it exists and the CPU feels like it; *dirty* when the CPU
//! stored to it. Dirty lines are written back whole at any moment, clean ones dropped at any moment. Addresses are
//! translated by the kernel's own tables, walked here from the manual's bits, and by what a TLB remembers of them.
//! Two mappings of a page with different memory types, and a non-cacheable access to a cached line, are errors.

use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use arch::boot::LINEAR_BASE;
use arch::fake::Event;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Where RAM starts, and how much there is.
pub const RAM: u64 = 0x4000_0000;
pub const RAM_BYTES: u64 = 64 << 20;
pub const LINE: u64 = 64;
const WORD: u64 = 8;

type Word = u64;
/// What is in a line.
pub type Line = [Word; (LINE / WORD) as usize];

/// What the TLB holds; one of them goes when another comes.
const TLB: usize = 48;
/// The windows of a CPU, where doc/memory-map.md has them: a block, then pages.
const WINDOWS: u64 = 0xffff_b000_0000_0000;

/// What a mapping says of memory (the index of MAIR_EL1 that the kernel uses).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    WriteBack,
    NonCacheable,
    Device,
}

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Clean,
    Invalidate,
    CleanInvalidate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    page: u64,
    kind: Kind,
    /// The addresses of the page or block that it is of: an invalidation of any of them takes all.
    leaf: (u64, u64),
}

/// What is altered of the kernel's maintenance.
pub type Mutation = fn(Event) -> Option<Event>;

struct State {
    memory: Vec<Word>,
    /// The CPU's copy when it was last the same as memory.
    settled: Vec<Word>,
    cached: Vec<bool>,
    /// Maintenance that no DSB has completed.
    tasks: Vec<(u64, Task)>,
    tlb: BTreeMap<u64, Entry>,
    /// Frames to which something happens.
    frames: Vec<PhysAddr>,
    /// Addresses at which they may be mapped, besides the linear map and the windows.
    views: Vec<KernelVa>,
    seed: u64,
}

pub struct Machine {
    /// What the CPU sees; the kernel has pointers into it.
    cpu: *mut Word,
    root: Cell<Option<PhysAddr>>,
    pub mutation: Cell<Option<Mutation>>,
    /// Whether zeroes could still be seen later than what is stored next.
    zeroes_late: Cell<bool>,
    state: RefCell<State>,
}

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

/// Which word of RAM `at` is.
fn index(at: u64) -> usize {
    ((at - RAM) / WORD) as usize
}

/// The addresses of a line's words.
fn words(line: u64) -> impl Iterator<Item = u64> {
    (line..line + LINE).step_by(WORD as usize)
}

fn installed() -> Rc<Machine> {
    MACHINE.with_borrow(Clone::clone).expect("this thread has a machine")
}

impl Machine {
    /// This thread's machine, with zeroes in RAM.
    pub fn install() -> Rc<Self> {
        let words = || vec![0; (RAM_BYTES / WORD) as usize];
        // Aligned as RAM is, for tables.
        let cpu = Vec::leak(vec![0; ((RAM_BYTES + PAGE_SIZE) / WORD) as usize]).as_mut_ptr();
        let cpu = cpu.wrapping_add(cpu.align_offset(PAGE_SIZE as usize));
        cpu.expose_provenance();
        let state = State {
            memory: words(),
            settled: words(),
            cached: vec![false; (RAM_BYTES / LINE) as usize],
            tasks: Vec::new(),
            tlb: BTreeMap::new(),
            frames: Vec::new(),
            views: Vec::new(),
            seed: 1,
        };
        let machine = Rc::new(Self {
            cpu,
            root: Cell::new(None),
            mutation: Cell::new(None),
            zeroes_late: Cell::new(false),
            state: RefCell::new(state),
        });
        MACHINE.set(Some(machine.clone()));
        arch::fake::map_memory(|va| installed().address_of(va));
        machine
    }

    /// From now on the kernel's tables translate, and caches are caches.
    pub fn start(&self, root: PhysAddr) {
        self.root.set(Some(root));
        arch::fake::watch(|event| installed().happens(event));
    }

    pub fn reseed(&self, seed: u64) {
        self.state.borrow_mut().seed = seed ^ 0x9e37_79b9_7f4a_7c15;
    }

    /// One of `0..end`.
    pub fn below(&self, end: u64) -> u64 {
        let seed = &mut self.state.borrow_mut().seed;
        *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (*seed >> 33) % end
    }

    /// Something will happen to these frames.
    pub fn look_at(&self, frames: impl Iterator<Item = PhysAddr>, view: Option<AddrRange<KernelVa>>) {
        let state = &mut *self.state.borrow_mut();
        state.frames.extend(frames);
        let surplus = state.frames.len().saturating_sub(64);
        state.frames.drain(..surplus);
        state.views.extend(view.into_iter().flat_map(|view| {
            let pages = view.len() / PAGE_SIZE;
            [0, pages / 2, pages - 1].map(|page| view.start() + page * PAGE_SIZE)
        }));
        let surplus = state.views.len().saturating_sub(16);
        state.views.drain(..surplus);
    }

    fn address_of(&self, va: KernelVa) -> u64 {
        let at = match self.root.get() {
            Some(_) => self.translate(va).map(|(at, _)| at).unwrap_or_else(|| panic!("fault at {va}")),
            None => va.raw() - LINEAR_BASE.raw(),
        };
        self.cpu.expose_provenance() as u64 + (at - RAM)
    }

    fn cpu(&self, at: u64) -> *mut Word {
        assert!((RAM..RAM + RAM_BYTES).contains(&at), "no RAM at {at:#x}");
        self.cpu.wrapping_add(index(at))
    }

    fn cpu_load(&self, at: u64) -> Word {
        // SAFETY: inside the leaked allocation (`cpu`); the kernel and the test take turns on one thread.
        unsafe { self.cpu(at).read() }
    }

    fn cpu_store(&self, at: u64, value: Word) {
        // SAFETY: as in `cpu_load`.
        unsafe { self.cpu(at).write(value) }
    }

    /// Where `va` is, as the TLB remembers it or as the tables say (DDI 0487, D8.3).
    fn translate(&self, va: KernelVa) -> Option<(u64, Kind)> {
        let entry = self.look_up_page(va.raw() & !(PAGE_SIZE - 1))?;
        Some((entry.page + va.raw() % PAGE_SIZE, entry.kind))
    }

    fn look_up_page(&self, page: u64) -> Option<Entry> {
        let remembered = self.state.borrow().tlb.get(&page).copied();
        remembered.or_else(|| self.walk(page))
    }

    fn walk(&self, page: u64) -> Option<Entry> {
        let mut table = self.root.get()?.raw();
        for level in 0..4 {
            let shift = 39 - 9 * level;
            let slot = table + 8 * (page >> shift & 0x1ff);
            let entry = self.cpu_load(slot);
            let output = entry & 0xffff_ffff_f000;
            match (entry & 0b11, level) {
                (0b11, 0..3) => table = output,
                (0b01, 1 | 2) | (0b11, 3) => {
                    let (inside, start) = (page & ((1 << shift) - 1), page >> shift << shift);
                    let kinds = [Kind::WriteBack, Kind::NonCacheable, Kind::Device];
                    let kind = kinds[(entry >> 2 & 0b111) as usize];
                    return Some(Entry { page: output + inside, kind, leaf: (start, start + (1 << shift)) });
                }
                _ => return None,
            }
        }
        None
    }

    /// The CPU uses `page`, or thinks that it might.
    fn touch(&self, page: u64) -> Option<Entry> {
        let entry = self.look_up_page(page)?;
        let victim = self.below(TLB as u64) as usize;
        let state = &mut *self.state.borrow_mut();
        if state.tlb.len() >= TLB {
            let victim = state.tlb.keys().nth(victim).copied();
            state.tlb.retain(|page, _| Some(*page) != victim);
        }
        state.tlb.insert(page, entry);
        for (other, known) in &state.tlb {
            assert!(
                known.page != entry.page || known.kind == entry.kind,
                "mismatched aliases of {:#x}: {:?} at {page:#x}, {:?} at {other:#x}",
                entry.page,
                entry.kind,
                known.kind
            );
        }
        Some(entry)
    }

    fn is_dirty(&self, line: u64) -> bool {
        let state = self.state.borrow();
        words(line).any(|at| self.cpu_load(at) != state.settled[index(at)])
    }

    fn is_cached(&self, line: u64) -> bool {
        self.state.borrow().cached[((line - RAM) / LINE) as usize] || self.is_dirty(line)
    }

    fn set_cached(&self, line: u64, cached: bool) {
        self.state.borrow_mut().cached[((line - RAM) / LINE) as usize] = cached;
    }

    fn write_back(&self, line: u64) {
        if self.is_dirty(line) {
            let state = &mut *self.state.borrow_mut();
            for at in words(line) {
                let value = self.cpu_load(at);
                state.memory[index(at)] = value;
                state.settled[index(at)] = value;
            }
        }
    }

    fn drop_line(&self, line: u64) {
        let state = &mut *self.state.borrow_mut();
        for at in words(line) {
            let value = state.memory[index(at)];
            self.cpu_store(at, value);
            state.settled[index(at)] = value;
        }
        state.cached[((line - RAM) / LINE) as usize] = false;
    }

    fn perform(&self, line: u64, task: Task) {
        if task != Task::Invalidate {
            self.write_back(line);
        }
        if task != Task::Clean {
            self.drop_line(line);
        }
    }

    fn complete(&self) {
        let tasks = std::mem::take(&mut self.state.borrow_mut().tasks);
        tasks.into_iter().for_each(|(line, task)| self.perform(line, task));
    }

    fn begin(&self, range: AddrRange<KernelVa>, task: Task) {
        let first = range.start().raw() & !(LINE - 1);
        for va in (first..range.end().raw()).step_by(LINE as usize) {
            let at =
                self.translate(KernelVa::new(va)).unwrap_or_else(|| panic!("maintenance of {va:#x}: fault"));
            self.state.borrow_mut().tasks.push((at.0, task));
        }
    }

    /// Zeroes are seen by whoever is shown them from now on.
    pub fn assert_zeroes_first(&self) {
        assert!(
            !self.zeroes_late.get(),
            "old data could be seen: nothing orders zeroes before the entry that shows them"
        );
    }

    /// Something that the kernel asks for.
    fn happens(&self, event: Event) {
        self.meddle();
        let altered = match self.mutation.get() {
            Some(mutation) => mutation(event),
            None => Some(event),
        };
        match altered {
            Some(Event::Clean(range)) => self.begin(range, Task::Clean),
            Some(Event::Invalidate(range)) => self.begin(range, Task::Invalidate),
            Some(Event::CleanInvalidate(range)) => self.begin(range, Task::CleanInvalidate),
            Some(Event::Barrier("dmb_oshst")) => self.zeroes_late.set(false),
            Some(Event::Barrier("dsb_sy")) => {
                self.zeroes_late.set(false);
                self.complete();
            }
            Some(Event::Barrier("dsb_ish")) => self.complete(),
            Some(Event::Zero(range)) => self.zero(range),
            Some(Event::TlbKernel(range, _) | Event::TlbOwn(range)) => {
                let gone = |(start, end): (u64, u64)| end > range.start().raw() && start < range.end().raw();
                self.state.borrow_mut().tlb.retain(|_, entry| !gone(entry.leaf));
            }
            _ => {}
        }
    }

    /// The stores follow, to what the CPU sees.
    fn zero(&self, range: AddrRange<KernelVa>) {
        self.zeroes_late.set(true);
        for page in (range.start().raw()..range.end().raw()).step_by(PAGE_SIZE as usize) {
            let (first, kind) = self.access(KernelVa::new(page));
            for line in (first..first + PAGE_SIZE).step_by(LINE as usize) {
                self.look_up(line, kind);
                self.store(line, kind, Line::default());
            }
        }
    }

    /// What the CPU does by speculation: it looks at mappings, fetches lines, writes lines back and drops lines.
    pub fn meddle(&self) {
        for _ in 0..3 {
            if let Some(page) = self.some_address() {
                let line = LINE * self.below(PAGE_SIZE / LINE);
                match self.touch(page) {
                    Some(Entry { page, kind: Kind::WriteBack, .. }) => self.set_cached(page + line, true),
                    _ => continue,
                }
            }
        }
        let frames = self.state.borrow().frames.len() as u64;
        if frames > 0 && self.below(2) == 0 {
            let index = self.below(frames) as usize;
            let frame = self.state.borrow().frames[index].raw();
            let line = frame + LINE * self.below(PAGE_SIZE / LINE);
            if self.is_cached(line) {
                self.perform(line, Task::CleanInvalidate);
            }
        }
        if self.below(8) == 0 {
            let task = self.state.borrow_mut().tasks.pop();
            task.into_iter().for_each(|(line, task)| self.perform(line, task));
        }
    }

    /// An address at which something may be mapped.
    fn some_address(&self) -> Option<u64> {
        let choice = self.below(8);
        let (first, second) = (self.below(1 << 20), self.below(512));
        let state = self.state.borrow();
        match choice {
            0 => Some(WINDOWS + second * PAGE_SIZE),
            1 | 2 => Some(WINDOWS + (2 << 20) + second % 8 * PAGE_SIZE),
            3 | 4 if !state.views.is_empty() => Some(state.views[first as usize % state.views.len()].raw()),
            _ if state.frames.is_empty() => None,
            _ => Some(LINEAR_BASE.raw() + state.frames[first as usize % state.frames.len()].raw()),
        }
    }

    /// The CPU stores a line at `va`.
    pub fn store_line(&self, va: KernelVa, value: Line) {
        let (line, kind) = self.access(va);
        self.store(line, kind, value);
    }

    fn store(&self, line: u64, kind: Kind, value: Line) {
        let state = &mut *self.state.borrow_mut();
        for (at, value) in words(line).zip(value) {
            self.cpu_store(at, value);
            if kind == Kind::WriteBack {
                // Dirty, even if it was the same before.
                state.settled[index(at)] = !value;
            } else {
                state.memory[index(at)] = value;
                state.settled[index(at)] = value;
            }
        }
    }

    /// The CPU loads a line at `va`.
    pub fn load_line(&self, va: KernelVa) -> Line {
        let (line, _) = self.access(va);
        std::array::from_fn(|word| self.cpu_load(line + WORD * word as u64))
    }

    /// Where the line at `va` is, for an access of the CPU.
    fn access(&self, va: KernelVa) -> (u64, Kind) {
        self.meddle();
        let page = va.raw() & !(PAGE_SIZE - 1);
        let entry = self.touch(page).unwrap_or_else(|| panic!("fault at {va}"));
        let line = entry.page + va.raw() % PAGE_SIZE;
        self.look_up(line, entry.kind);
        (line, entry.kind)
    }

    fn look_up(&self, line: u64, kind: Kind) {
        match kind {
            Kind::WriteBack => self.set_cached(line, true),
            kind => assert!(!self.is_cached(line), "{kind:?} access to {line:#x}, which is cached"),
        }
    }

    /// The device reads a line.
    pub fn device_load(&self, line: PhysAddr) -> Line {
        self.meddle();
        let state = self.state.borrow();
        std::array::from_fn(|word| state.memory[index(line.raw()) + word])
    }

    /// The device writes a line. A CPU that does not have it will see it.
    pub fn device_store(&self, line: PhysAddr, value: Line) {
        self.meddle();
        let cached = self.is_cached(line.raw());
        let first = index(line.raw());
        self.state.borrow_mut().memory[first..first + value.len()].copy_from_slice(&value);
        if !cached {
            self.drop_line(line.raw());
        }
    }
}
