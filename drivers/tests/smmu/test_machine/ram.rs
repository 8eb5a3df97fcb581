//! RAM with separate views of the CPU and the SMMU.
//!
//! - *Strong* and coherent: both views are the same.
//! - *Weak* and coherent: a store reaches the SMMU at the next store barrier, or at any time before it
//!   ([`Ram::propagate_stores`]), each word independently.
//! - Non-coherent: a store reaches the SMMU when its line is cleaned and a DSB completes the clean; if weak,
//!   also at any time with its whole line. The CPU observes the SMMU's stores only after it has invalidated
//!   the line.

use super::StoreOrder;
use addr::{AddrRange, KernelVa, PAGE_SIZE};
use arch::fake::Instruction;
use smmu_spec::WalkCoherency;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Number of pages of RAM.
pub const PAGES: usize = 640;
/// Number of words in a page.
pub const PAGE_WORDS: usize = PAGE_SIZE as usize / 8;
const LINE_WORDS: usize = 8;

type Words = &'static [AtomicU64];

/// The RAM.
pub struct Ram {
    walks: WalkCoherency,
    order: StoreOrder,
    cpu: Words,
    device: Words,
    /// The CPU's stores that have propagated: a word that differs is dirty.
    settled: Words,
    /// Cleaned lines and their contents, until the next DSB.
    cleaning: RefCell<Vec<(usize, [u64; LINE_WORDS])>>,
    /// Pages that the SMMU writes and the CPU does not.
    written_by_device: Vec<Cell<bool>>,
    /// Whether another machine may reuse it.
    spare: bool,
}

thread_local! {
    static SPARE: RefCell<Vec<Words>> = const { RefCell::new(Vec::new()) };
}

/// Zeroed RAM. The driver holds it as `'static`, so it is not freed but reused by the thread's next machine.
fn words() -> Words {
    if let Some(words) = SPARE.with_borrow_mut(Vec::pop) {
        clear(words);
        return words;
    }
    let words = Box::new_zeroed_slice((PAGES + 1) * PAGE_WORDS);
    // SAFETY: zero is a valid `AtomicU64`.
    let words: Words = Box::leak(unsafe { words.assume_init() });
    // Host addresses and physical addresses must agree in their offsets within a cache line.
    let skip = (words.as_ptr().addr() % PAGE_SIZE as usize).wrapping_neg() % PAGE_SIZE as usize / 8;
    &words[skip..skip + PAGES * PAGE_WORDS]
}

/// Zeroes all words at once, which under Miri takes no longer than a single store.
fn clear(words: Words) {
    let start = words.as_ptr().cast_mut();
    // SAFETY: atomics may be written through a shared reference; the slice is in bounds of itself; no other
    // code accesses the words at this time.
    unsafe { start.write_bytes(0, words.len()) };
}

impl Drop for Ram {
    fn drop(&mut self) {
        let mut all = if self.spare { vec![self.cpu, self.device, self.settled] } else { Vec::new() };
        all.dedup_by_key(|words| words.as_ptr());
        let _ = SPARE.try_with(|spare| spare.borrow_mut().append(&mut all));
    }
}

impl Ram {
    pub fn new(walks: WalkCoherency, order: StoreOrder) -> Self {
        let cpu = words();
        let one = walks == WalkCoherency::Coherent && order == StoreOrder::Strong;
        let (device, settled) = if one { (cpu, cpu) } else { (words(), words()) };
        let written_by_device = vec![Cell::new(false); PAGES];
        let (cleaning, spare) = (RefCell::default(), true);
        Self { walks, order, cpu, device, settled, cleaning, written_by_device, spare }
    }

    /// RAM whose other users share the CPU's view.
    pub fn shared(words: Words) -> Self {
        let (walks, order) = (WalkCoherency::Coherent, StoreOrder::Strong);
        let words = &words[..PAGES * PAGE_WORDS];
        clear(words);
        let written_by_device = vec![Cell::new(false); PAGES];
        let cleaning = RefCell::default();
        let spare = false;
        Self { walks, order, cpu: words, device: words, settled: words, cleaning, written_by_device, spare }
    }

    /// The CPU's view.
    pub fn cpu(&self) -> Words {
        self.cpu
    }

    pub fn device_read(&self, word: usize) -> u64 {
        self.device[word].load(Relaxed)
    }

    pub fn device_write(&self, word: usize, value: u64) {
        self.written_by_device[word / PAGE_WORDS].set(true);
        self.device[word].store(value, Relaxed);
        if self.walks == WalkCoherency::Coherent {
            self.cpu[word].store(value, Relaxed);
            self.settled[word].store(value, Relaxed);
        }
    }

    /// Zeroes words in the CPU's cache; the SMMU still observes the values of the last owner.
    pub fn zero(&self, words: std::ops::Range<usize>) {
        words
            .clone()
            .step_by(PAGE_WORDS)
            .for_each(|word| self.written_by_device[word / PAGE_WORDS].set(false));
        self.cpu[words].iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Poisons freed pages with a descriptor that looks valid and leads out of RAM.
    pub fn poison(&self, words: std::ops::Range<usize>) {
        for copy in [self.cpu, self.device, self.settled] {
            copy[words.clone()].iter().for_each(|word| word.store(0x0bad_b743, Relaxed));
        }
    }

    /// Applies a barrier or cache maintenance. `pages` are in use.
    pub fn maintain(&self, event: Instruction, pages: impl Iterator<Item = usize>) {
        match event {
            Instruction::Clean(range) => self.lines(range).for_each(|line| self.clean(line)),
            Instruction::CleanInvalidate(range) => self.lines(range).for_each(|line| {
                self.write_back(line);
                self.fill(line);
            }),
            Instruction::Invalidate(range) => self.lines(range).for_each(|line| self.fill(line)),
            Instruction::Barrier("dsb_sy" | "dsb_ish") if self.walks == WalkCoherency::NonCoherent => {
                for (line, values) in self.cleaning.take() {
                    self.store(line, values);
                }
            }
            Instruction::Barrier("dmb_oshst" | "dsb_sy") if self.order == StoreOrder::Weak => {
                pages.for_each(|page| self.propagate_stores(page, || true));
            }
            _ => {}
        }
    }

    /// Propagates the CPU's stores to `page` that `chosen` selects.
    pub fn propagate_stores(&self, page: usize, mut chosen: impl FnMut() -> bool) {
        if self.order == StoreOrder::Strong || self.written_by_device[page].get() {
            return;
        }
        for line in (page * PAGE_WORDS..(page + 1) * PAGE_WORDS).step_by(LINE_WORDS) {
            match self.walks {
                WalkCoherency::NonCoherent if self.is_dirty(line) && chosen() => self.write_back(line),
                WalkCoherency::NonCoherent => {}
                WalkCoherency::Coherent => {
                    for word in line..line + LINE_WORDS {
                        let value = self.cpu[word].load(Relaxed);
                        if value != self.settled[word].load(Relaxed) && chosen() {
                            self.device[word].store(value, Relaxed);
                            self.settled[word].store(value, Relaxed);
                        }
                    }
                }
            }
        }
    }

    /// The first words of the cache lines that `range` touches.
    fn lines(&self, range: AddrRange<KernelVa>) -> impl Iterator<Item = usize> + use<> {
        let base = self.cpu.as_ptr().addr() as u64;
        let first = (range.start().raw() - base) / 64;
        let end = (range.end().raw() - base).div_ceil(64);
        (first..end).map(|line| line as usize * LINE_WORDS)
    }

    fn is_dirty(&self, line: usize) -> bool {
        (line..line + LINE_WORDS).any(|word| self.cpu[word].load(Relaxed) != self.settled[word].load(Relaxed))
    }

    fn clean(&self, line: usize) {
        let values = std::array::from_fn(|word| self.cpu[line + word].load(Relaxed));
        self.cleaning.borrow_mut().push((line, values));
    }

    /// Writes a dirty line back as a whole, over stores of the SMMU.
    fn write_back(&self, line: usize) {
        if self.is_dirty(line) {
            self.store(line, std::array::from_fn(|word| self.cpu[line + word].load(Relaxed)));
        }
    }

    /// Invalidates the CPU's copy; the next load reads memory.
    fn fill(&self, line: usize) {
        for word in line..line + LINE_WORDS {
            let value = self.device[word].load(Relaxed);
            self.cpu[word].store(value, Relaxed);
            self.settled[word].store(value, Relaxed);
        }
    }

    fn store(&self, line: usize, values: [u64; LINE_WORDS]) {
        for (word, value) in (line..).zip(values) {
            self.device[word].store(value, Relaxed);
            self.settled[word].store(value, Relaxed);
        }
    }
}
