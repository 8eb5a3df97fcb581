//! Cache model: a CPU with adversarial caches, a page-table walker and a TLB, and RAM that a non-coherent
//! device accesses directly.
//!
//! RAM exists twice: memory, which the device reads and writes, and the CPU's view of it. A line is *cached*
//! from the first cacheable access, or at any moment while a cacheable mapping of it exists (speculation); it
//! is *dirty* after a CPU store. A dirty line may be written back, whole, at any moment; a clean line may be
//! discarded at any moment. Addresses are translated through the kernel's own tables, walked here
//! independently from the bits in the manual, and through cached TLB entries. Two mappings of a page with
//! different memory types, and a non-cacheable access to a cached line, are errors.

use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use arch::boot::LINEAR_BASE;
use arch::fake::Instruction;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The start and size of RAM.
pub const RAM: u64 = 0x4000_0000;
pub const RAM_BYTES: u64 = 64 << 20;
pub const LINE: u64 = 64;
const WORD: u64 = 8;

type CacheWord = u64;
/// The contents of a cache line.
pub type CacheLine = [CacheWord; (LINE / WORD) as usize];

/// The number of TLB entries; a new entry evicts a random one.
const TLB_ENTRIES: usize = 48;
/// The temporary mapping windows of a CPU (doc/memory-map.md): a block, then pages.
const WINDOWS: u64 = 0xffff_b000_0000_0000;

/// The memory type of a mapping, in the order of the kernel's MAIR_EL1 indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MairIndex {
    WriteBack,
    NonCacheable,
    Device,
}

/// A cache maintenance operation on a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Maintenance {
    Clean,
    Invalidate,
    CleanInvalidate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TlbEntry {
    page: u64,
    memory_type: MairIndex,
    /// The start and end of the page or block: invalidating any address in it removes the entry.
    leaf: (u64, u64),
}

/// Alters or drops a logged operation of the kernel.
pub type Mutation = fn(Instruction) -> Option<Instruction>;

struct ModelState {
    memory: Vec<CacheWord>,
    /// The CPU's view when the line was last equal to memory.
    last_written_back: Vec<CacheWord>,
    cached: Vec<bool>,
    /// Maintenance operations that no DSB has completed yet.
    pending: Vec<(u64, Maintenance)>,
    tlb: BTreeMap<u64, TlbEntry>,
    /// Recently used frames, the targets of speculation.
    frames: Vec<PhysAddr>,
    /// Addresses at which the frames may be mapped, besides the linear map and the windows.
    views: Vec<KernelVa>,
    seed: u64,
}

pub struct CacheModel {
    /// The CPU's view; the kernel holds pointers into it.
    cpu: *mut CacheWord,
    root: Cell<Option<PhysAddr>>,
    pub mutation: Cell<Option<Mutation>>,
    /// Called after each operation that the kernel logs.
    pub on_event: Cell<Option<fn()>>,
    /// Whether zeroes were stored without a barrier that orders them before later stores.
    zeroes_unordered: Cell<bool>,
    state: RefCell<ModelState>,
}

thread_local! {
    static MODEL: RefCell<Option<Rc<CacheModel>>> = const { RefCell::new(None) };
}

/// The index of the word at `at` in RAM.
fn index(at: u64) -> usize {
    ((at - RAM) / WORD) as usize
}

/// The addresses of a line's words.
fn words(line: u64) -> impl Iterator<Item = u64> {
    (line..line + LINE).step_by(WORD as usize)
}

fn installed() -> Rc<CacheModel> {
    MODEL.with_borrow(Clone::clone).expect("a model is installed on this thread")
}

impl CacheModel {
    /// Installs the model of this thread, with zeroed RAM.
    pub fn install() -> Rc<Self> {
        let words = || vec![0; (RAM_BYTES / WORD) as usize];
        // Page-aligned like RAM, for page tables.
        let cpu = Vec::leak(vec![0; ((RAM_BYTES + PAGE_SIZE) / WORD) as usize]).as_mut_ptr();
        let cpu = cpu.wrapping_add(cpu.align_offset(PAGE_SIZE as usize));
        cpu.expose_provenance();
        let state = ModelState {
            memory: words(),
            last_written_back: words(),
            cached: vec![false; (RAM_BYTES / LINE) as usize],
            pending: Vec::new(),
            tlb: BTreeMap::new(),
            frames: Vec::new(),
            views: Vec::new(),
            seed: 1,
        };
        let model = Rc::new(Self {
            cpu,
            root: Cell::new(None),
            mutation: Cell::new(None),
            on_event: Cell::new(None),
            zeroes_unordered: Cell::new(false),
            state: RefCell::new(state),
        });
        MODEL.set(Some(model.clone()));
        arch::fake::map_memory(|va| installed().address_of(va));
        model
    }

    /// Enables translation through the kernel's tables, and the caches.
    pub fn start(&self, root: PhysAddr) {
        self.root.set(Some(root));
        arch::fake::watch(|event| installed().handle(event));
    }

    pub fn reseed(&self, seed: u64) {
        self.state.borrow_mut().seed = seed ^ 0x9e37_79b9_7f4a_7c15;
    }

    /// A random number in `0..end`.
    pub fn below(&self, end: u64) -> u64 {
        let seed = &mut self.state.borrow_mut().seed;
        *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (*seed >> 33) % end
    }

    /// Makes these frames, and their mapping `view`, targets of speculation.
    pub fn watch(&self, frames: impl Iterator<Item = PhysAddr>, view: Option<AddrRange<KernelVa>>) {
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

    fn cpu(&self, at: u64) -> *mut CacheWord {
        assert!((RAM..RAM + RAM_BYTES).contains(&at), "no RAM at {at:#x}");
        self.cpu.wrapping_add(index(at))
    }

    fn cpu_load(&self, at: u64) -> CacheWord {
        // SAFETY: inside the leaked allocation (`cpu`); the kernel and the test run on one thread.
        unsafe { self.cpu(at).read() }
    }

    fn cpu_store(&self, at: u64, value: CacheWord) {
        // SAFETY: as in `cpu_load`.
        unsafe { self.cpu(at).write(value) }
    }

    /// Translates `va` through the TLB or the page tables (DDI 0487, D8.3).
    fn translate(&self, va: KernelVa) -> Option<(u64, MairIndex)> {
        let entry = self.lookup(va.raw() & !(PAGE_SIZE - 1))?;
        Some((entry.page + va.raw() % PAGE_SIZE, entry.memory_type))
    }

    fn lookup(&self, page: u64) -> Option<TlbEntry> {
        let cached = self.state.borrow().tlb.get(&page).copied();
        cached.or_else(|| self.walk(page))
    }

    fn walk(&self, page: u64) -> Option<TlbEntry> {
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
                    let memory_types = [MairIndex::WriteBack, MairIndex::NonCacheable, MairIndex::Device];
                    let memory_type = memory_types[(entry >> 2 & 0b111) as usize];
                    return Some(TlbEntry {
                        page: output + inside,
                        memory_type,
                        leaf: (start, start + (1 << shift)),
                    });
                }
                _ => return None,
            }
        }
        None
    }

    /// Translates `page` for an architectural or speculative access, and caches the entry in the TLB.
    fn load_tlb(&self, page: u64) -> Option<TlbEntry> {
        let entry = self.lookup(page)?;
        let victim = self.below(TLB_ENTRIES as u64) as usize;
        let state = &mut *self.state.borrow_mut();
        if state.tlb.len() >= TLB_ENTRIES {
            let victim = state.tlb.keys().nth(victim).copied();
            state.tlb.retain(|page, _| Some(*page) != victim);
        }
        state.tlb.insert(page, entry);
        for (other, cached) in &state.tlb {
            assert!(
                cached.page != entry.page || cached.memory_type == entry.memory_type,
                "mismatched aliases of {:#x}: {:?} at {page:#x}, {:?} at {other:#x}",
                entry.page,
                entry.memory_type,
                cached.memory_type
            );
        }
        Some(entry)
    }

    fn is_dirty(&self, line: u64) -> bool {
        let state = self.state.borrow();
        words(line).any(|at| self.cpu_load(at) != state.last_written_back[index(at)])
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
                state.last_written_back[index(at)] = value;
            }
        }
    }

    fn discard_line(&self, line: u64) {
        let state = &mut *self.state.borrow_mut();
        for at in words(line) {
            let value = state.memory[index(at)];
            self.cpu_store(at, value);
            state.last_written_back[index(at)] = value;
        }
        state.cached[((line - RAM) / LINE) as usize] = false;
    }

    fn apply(&self, line: u64, maintenance: Maintenance) {
        if maintenance != Maintenance::Invalidate {
            self.write_back(line);
        }
        if maintenance != Maintenance::Clean {
            self.discard_line(line);
        }
    }

    fn complete_maintenance(&self) {
        let pending = std::mem::take(&mut self.state.borrow_mut().pending);
        pending.into_iter().for_each(|(line, maintenance)| self.apply(line, maintenance));
    }

    fn start_maintenance(&self, range: AddrRange<KernelVa>, maintenance: Maintenance) {
        let first = range.start().raw() & !(LINE - 1);
        for va in (first..range.end().raw()).step_by(LINE as usize) {
            let at =
                self.translate(KernelVa::new(va)).unwrap_or_else(|| panic!("maintenance of {va:#x}: fault"));
            self.state.borrow_mut().pending.push((at.0, maintenance));
        }
    }

    /// Asserts that zeroed memory is ordered before the page-table entry that makes it visible.
    pub fn assert_zeroes_ordered(&self) {
        assert!(
            !self.zeroes_unordered.get(),
            "old data may be visible: no barrier orders the zeroes before the entry that maps them"
        );
    }

    /// Handles an operation that the kernel logs.
    fn handle(&self, event: Instruction) {
        self.speculate();
        let altered = match self.mutation.get() {
            Some(mutation) => mutation(event),
            None => Some(event),
        };
        match altered {
            Some(Instruction::Clean(range)) => self.start_maintenance(range, Maintenance::Clean),
            Some(Instruction::Invalidate(range)) => self.start_maintenance(range, Maintenance::Invalidate),
            Some(Instruction::CleanInvalidate(range)) => {
                self.start_maintenance(range, Maintenance::CleanInvalidate)
            }
            Some(Instruction::Barrier("dmb_oshst")) => self.zeroes_unordered.set(false),
            Some(Instruction::Barrier("dsb_sy")) => {
                self.zeroes_unordered.set(false);
                self.complete_maintenance();
            }
            Some(Instruction::Barrier("dsb_ish")) => self.complete_maintenance(),
            Some(Instruction::Zero(range)) => self.zero(range),
            Some(Instruction::TlbKernel(range, _) | Instruction::TlbLocal(range)) => {
                let gone = |(start, end): (u64, u64)| end > range.start().raw() && start < range.end().raw();
                self.state.borrow_mut().tlb.retain(|_, entry| !gone(entry.leaf));
            }
            _ => {}
        }
        if let Some(on_event) = self.on_event.get() {
            on_event();
        }
    }

    /// The kernel stores the zeroes to the CPU's view after this event.
    fn zero(&self, range: AddrRange<KernelVa>) {
        self.zeroes_unordered.set(true);
        for page in (range.start().raw()..range.end().raw()).step_by(PAGE_SIZE as usize) {
            let (first, memory_type) = self.access(KernelVa::new(page));
            for line in (first..first + PAGE_SIZE).step_by(LINE as usize) {
                self.access_line(line, memory_type);
                self.store(line, memory_type, CacheLine::default());
            }
        }
    }

    /// Speculative behaviour: the CPU caches translations, and fetches, writes back and discards lines.
    pub fn speculate(&self) {
        for _ in 0..3 {
            if let Some(page) = self.random_address() {
                let line = LINE * self.below(PAGE_SIZE / LINE);
                match self.load_tlb(page) {
                    Some(TlbEntry { page, memory_type: MairIndex::WriteBack, .. }) => {
                        self.set_cached(page + line, true)
                    }
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
                self.apply(line, Maintenance::CleanInvalidate);
            }
        }
        if self.below(8) == 0 {
            let maintenance = self.state.borrow_mut().pending.pop();
            maintenance.into_iter().for_each(|(line, maintenance)| self.apply(line, maintenance));
        }
    }

    /// A random address that may be mapped.
    fn random_address(&self) -> Option<u64> {
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
    pub fn store_line(&self, va: KernelVa, value: CacheLine) {
        let (line, memory_type) = self.access(va);
        self.store(line, memory_type, value);
    }

    fn store(&self, line: u64, memory_type: MairIndex, value: CacheLine) {
        let state = &mut *self.state.borrow_mut();
        for (at, value) in words(line).zip(value) {
            self.cpu_store(at, value);
            if memory_type == MairIndex::WriteBack {
                // Dirty even if the value is unchanged.
                state.last_written_back[index(at)] = !value;
            } else {
                state.memory[index(at)] = value;
                state.last_written_back[index(at)] = value;
            }
        }
    }

    /// The CPU loads a line at `va`.
    pub fn load_line(&self, va: KernelVa) -> CacheLine {
        let (line, _) = self.access(va);
        std::array::from_fn(|word| self.cpu_load(line + WORD * word as u64))
    }

    /// The physical address and memory type of the line at `va`, for a CPU access.
    fn access(&self, va: KernelVa) -> (u64, MairIndex) {
        self.speculate();
        let page = va.raw() & !(PAGE_SIZE - 1);
        let entry = self.load_tlb(page).unwrap_or_else(|| panic!("fault at {va}"));
        let line = entry.page + va.raw() % PAGE_SIZE;
        self.access_line(line, entry.memory_type);
        (line, entry.memory_type)
    }

    fn access_line(&self, line: u64, memory_type: MairIndex) {
        match memory_type {
            MairIndex::WriteBack => self.set_cached(line, true),
            memory_type => {
                assert!(!self.is_cached(line), "{memory_type:?} access to {line:#x}, which is cached")
            }
        }
    }

    /// A bus master that snoops the caches reads a word.
    pub fn snoop(&self, at: u64) -> CacheWord {
        self.cpu_load(at)
    }

    /// A bus master that snoops the caches writes a word.
    pub fn snooping_store(&self, at: u64, value: CacheWord) {
        self.cpu_store(at, value);
        let state = &mut *self.state.borrow_mut();
        (state.memory[index(at)], state.last_written_back[index(at)]) = (value, value);
    }

    /// The device reads a line.
    pub fn device_load(&self, line: PhysAddr) -> CacheLine {
        self.speculate();
        let state = self.state.borrow();
        std::array::from_fn(|word| state.memory[index(line.raw()) + word])
    }

    /// The device writes a line. The CPU sees the data if the line is not cached.
    pub fn device_store(&self, line: PhysAddr, value: CacheLine) {
        self.speculate();
        let cached = self.is_cached(line.raw());
        let first = index(line.raw());
        self.state.borrow_mut().memory[first..first + value.len()].copy_from_slice(&value);
        if !cached {
            self.discard_line(line.raw());
        }
    }
}
