//! RAM with separate views of the CPU and of the ITS, and the allocator of regions.
//!
//! A store of the CPU reaches the ITS at the next DSB, or earlier. Without coherency it does so when its line
//! is cleaned and a DSB completes the clean.

use addr::{AddrRange, KernelVa, PhysAddr};
use arch::fake::Instruction;
use drivers::region::{Region, RegionSource};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Physical address of the RAM.
pub const RAM: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 2 << 20;
/// Contents of memory that the CPU has not written.
const POISON: u64 = 0xbad0_bad0_bad0_bad0;

type OnRelease = Box<dyn Fn(u64)>;

/// The RAM.
pub struct ItsRam {
    coherent: bool,
    cpu: &'static [AtomicU64],
    device: RefCell<Vec<u64>>,
    cleaning: RefCell<Vec<usize>>,
    /// Allocated regions: start and bytes.
    allocated: RefCell<Vec<(u64, u64)>>,
    free: RefCell<Vec<(u64, u64)>>,
    /// Starts of regions that were written back since their allocation.
    zeroed: RefCell<BTreeSet<u64>>,
    /// The number of allocations until one fails.
    pub until_failure: Cell<Option<u32>>,
    /// Called with the start of each region that the driver releases.
    pub on_release: RefCell<Option<OnRelease>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<ItsRam>>> = const { RefCell::new(None) };
    static ARENA: &'static [AtomicU64] = arena();
}

fn arena() -> &'static [AtomicU64] {
    let words = (RAM_BYTES / 8) as usize;
    let all: Vec<AtomicU64> = (0..words + 8).map(|_| AtomicU64::new(0)).collect();
    let all = Vec::leak(all);
    let skip = (all.as_ptr().addr() % 64).wrapping_neg() % 64 / 8;
    &all[skip..skip + words]
}

impl ItsRam {
    /// New RAM, used by this thread until the next one.
    pub fn new(coherent: bool) -> Rc<Self> {
        let cpu = ARENA.with(|arena| *arena);
        cpu.iter().for_each(|word| word.store(POISON, Relaxed));
        let ram = Rc::new(Self {
            coherent,
            cpu,
            device: RefCell::new(vec![POISON; cpu.len()]),
            cleaning: RefCell::default(),
            allocated: RefCell::default(),
            free: RefCell::new(vec![(RAM, RAM_BYTES)]),
            zeroed: RefCell::default(),
            until_failure: Cell::new(None),
            on_release: RefCell::default(),
        });
        CURRENT.set(Some(ram.clone()));
        arch::fake::watch(|event| {
            // Not while the RAM itself is in use.
            CURRENT.with_borrow(|ram| ram.as_ref().expect("a machine").maintain(event));
        });
        ram
    }

    fn word(at: u64) -> usize {
        assert!((RAM..RAM + RAM_BYTES).contains(&at) && at.is_multiple_of(8), "{at:#x} is not RAM");
        ((at - RAM) / 8) as usize
    }

    /// The word at a physical address, as the ITS reads it.
    pub fn read(&self, at: u64) -> u64 {
        self.device.borrow()[Self::word(at)]
    }

    /// Whether the ITS reads zeroes everywhere in this range.
    pub fn is_zero(&self, start: u64, bytes: u64) -> bool {
        let first = Self::word(start);
        self.device.borrow()[first..first + (bytes / 8) as usize].iter().all(|&word| word == 0)
    }

    /// Whether the whole range is in one allocated region.
    pub fn is_allocated(&self, start: u64, bytes: u64) -> bool {
        let allocated = self.allocated.borrow();
        allocated.iter().any(|&(at, len)| at <= start && start + bytes <= at + len)
    }

    /// The number of allocated bytes.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.borrow().iter().map(|(_, bytes)| bytes).sum()
    }

    fn copy(&self, words: std::ops::Range<usize>) {
        let mut device = self.device.borrow_mut();
        words.for_each(|word| device[word] = self.cpu[word].load(Relaxed));
    }

    fn maintain(&self, event: Instruction) {
        match event {
            Instruction::Clean(range) => self.cleaning.borrow_mut().extend(self.lines(range)),
            Instruction::Barrier("dsb_sy" | "dsb_ishst" | "dsb_ish") if self.coherent => {
                for &(start, bytes) in self.allocated.borrow().iter() {
                    // Larger ones are only zeroed.
                    let first = self.zeroed.borrow_mut().insert(start);
                    let bytes = if bytes > 8192 && !first { 512 } else { bytes };
                    self.copy(Self::word(start)..Self::word(start) + (bytes / 8) as usize);
                }
            }
            Instruction::Barrier("dsb_sy" | "dsb_ish") => {
                self.cleaning.take().into_iter().for_each(|line| self.copy(line..line + 8));
            }
            _ => {}
        }
    }

    fn lines(&self, range: AddrRange<KernelVa>) -> impl Iterator<Item = usize> + use<> {
        let base = self.cpu.as_ptr().addr() as u64;
        let lines = (range.start().raw() - base) / 64..(range.end().raw() - base).div_ceil(64);
        lines.map(|line| line as usize * 8)
    }

    /// Prepares a region with contents that an earlier boot stage left, in both views.
    pub fn inherited(&self, bytes: u64, value: u64) -> Region {
        let region = Source(self).allocate(bytes).expect("RAM");
        region.words().iter().for_each(|word| word.store(value, Relaxed));
        let first = Self::word(region.start().raw());
        self.copy(first..first + region.words().len());
        region
    }
}

/// The RAM as the driver's memory.
pub struct Source<'a>(pub &'a ItsRam);

impl RegionSource for Source<'_> {
    fn allocate(&mut self, bytes: u64) -> Option<Region> {
        assert!(bytes.is_power_of_two() && bytes >= 4096, "{bytes:#x}");
        if let Some(left) = self.0.until_failure.get() {
            self.0.until_failure.set(left.checked_sub(1));
            if left == 0 {
                return None;
            }
        }
        let mut free = self.0.free.borrow_mut();
        // The last freed region of this size, or the start of a larger one.
        let fits = |&(start, len): &(u64, u64)| start.next_multiple_of(bytes) + bytes <= start + len;
        let index =
            free.iter().rposition(|part| part.1 == bytes && fits(part)).or(free.iter().position(fits))?;
        let (start, len) = free.swap_remove(index);
        let at = start.next_multiple_of(bytes);
        let rest = [(start, at - start), (at + bytes, start + len - at - bytes)];
        free.extend(rest.into_iter().filter(|part| part.1 != 0));
        self.0.allocated.borrow_mut().push((at, bytes));
        let first = ItsRam::word(at);
        let words = &self.0.cpu[first..first + (bytes / 8) as usize];
        words.iter().for_each(|word| word.store(0, Relaxed));
        // The ITS still reads the data of the last owner.
        self.0.device.borrow_mut()[first..first + words.len()].fill(POISON);
        // SAFETY: the arena is leaked; the allocator returns disjoint parts.
        Some(unsafe { Region::new(PhysAddr::new(at), words) })
    }

    fn release(&mut self, region: Region) {
        let part = (region.start().raw(), region.bytes());
        let mut allocated = self.0.allocated.borrow_mut();
        let index = allocated.iter().position(|&known| known == part).expect("an allocated region");
        allocated.swap_remove(index);
        self.0.free.borrow_mut().push(part);
        self.0.zeroed.borrow_mut().remove(&part.0);
        if let Some(check) = &*self.0.on_release.borrow() {
            check(part.0);
        }
    }
}
