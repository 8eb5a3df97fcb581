//! RAM, as the CPU sees it and as the SMMU does.
//!
//! - *Strong* and coherent: the two are one.
//! - *Weak* and coherent: a store reaches the SMMU at the next barrier for stores, or at any moment before it
//!   ([`Ram::propagate_stores`]), each word on its own.
//! - Not coherent: a store reaches the SMMU when its line is cleaned and a DSB completes that, or, if weak, at any moment
//!   together with its whole line. The CPU sees what the SMMU wrote only after it has dropped the line.

use super::StoreOrder;
use addr::{AddrRange, KernelVa, PAGE_SIZE};
use arch::fake::Instruction;
use smmu_spec::WalkCoherency;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Pages of RAM.
pub const PAGES: usize = 640;
/// Words of a page.
pub const PAGE_WORDS: usize = PAGE_SIZE as usize / 8;
const LINE_WORDS: usize = 8;

type Words = &'static [AtomicU64];

/// All of it.
pub struct Ram {
    walks: WalkCoherency,
    order: StoreOrder,
    cpu: Words,
    device: Words,
    /// What of the CPU's stores is on its way no more: a word that is not as here is dirty.
    settled: Words,
    /// Lines that were cleaned, with what they held, until a DSB.
    cleaning: RefCell<Vec<(usize, [u64; LINE_WORDS])>>,
    /// Pages that the SMMU writes and the CPU does not.
    written_by_device: Vec<Cell<bool>>,
    /// Whether it is used again by another machine.
    spare: bool,
}

thread_local! {
    static SPARE: RefCell<Vec<Words>> = const { RefCell::new(Vec::new()) };
}

/// RAM full of zeroes. It is never freed, as the driver holds it as `'static`, but used again by the thread's next machine.
fn words() -> Words {
    if let Some(words) = SPARE.with_borrow_mut(Vec::pop) {
        clear(words);
        return words;
    }
    let words = Box::new_zeroed_slice((PAGES + 1) * PAGE_WORDS);
    // SAFETY: zeroes are an `AtomicU64`.
    let words: Words = Box::leak(unsafe { words.assume_init() });
    // Cache lines of the host's addresses and of physical ones have to agree.
    let skip = (words.as_ptr().addr() % PAGE_SIZE as usize).wrapping_neg() % PAGE_SIZE as usize / 8;
    &words[skip..skip + PAGES * PAGE_WORDS]
}

/// Zeroes in one go, which takes Miri no longer than a single store.
fn clear(words: Words) {
    let start = words.as_ptr().cast_mut();
    // SAFETY: atomics may be written through a shared reference; the slice is in bounds of itself; whoever had the words
    // is gone, or is not yet there.
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

    /// RAM that somebody else sees as the CPU does.
    pub fn shared(words: Words) -> Self {
        let (walks, order) = (WalkCoherency::Coherent, StoreOrder::Strong);
        let words = &words[..PAGES * PAGE_WORDS];
        clear(words);
        let written_by_device = vec![Cell::new(false); PAGES];
        let cleaning = RefCell::default();
        let spare = false;
        Self { walks, order, cpu: words, device: words, settled: words, cleaning, written_by_device, spare }
    }

    /// As the CPU sees it.
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

    /// The CPU's zeroes are in its cache; the SMMU still sees the last owner's.
    pub fn zero(&self, words: std::ops::Range<usize>) {
        words
            .clone()
            .step_by(PAGE_WORDS)
            .for_each(|word| self.written_by_device[word / PAGE_WORDS].set(false));
        self.cpu[words].iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Whoever still reads it sees rubbish, and a walker a valid descriptor that leads out of RAM.
    pub fn poison(&self, words: std::ops::Range<usize>) {
        for copy in [self.cpu, self.device, self.settled] {
            copy[words.clone()].iter().for_each(|word| word.store(0x0bad_b743, Relaxed));
        }
    }

    /// A barrier or cache maintenance. `pages` are in use.
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

    /// Lets some of the CPU's stores to `page` through, those for which `chosen` says so.
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

    /// The first words of the cache lines that touch `range`.
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

    /// A dirty line is written whole, whatever the SMMU wrote to it meanwhile.
    fn write_back(&self, line: usize) {
        if self.is_dirty(line) {
            self.store(line, std::array::from_fn(|word| self.cpu[line + word].load(Relaxed)));
        }
    }

    /// The CPU's copy goes; the next load comes from memory.
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
