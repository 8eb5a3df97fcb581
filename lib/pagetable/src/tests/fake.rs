//! Tables in boxes, judged by what a walker may see.

use crate::{Descriptor, Entries, Format, TableFrame, TableMemory};
use addr::PhysAddr;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// Where the fake's tables lie; no test maps anything there.
const BASE: u64 = 0x7000_0000_0000;

/// What the page table asked for, in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableEvent {
    Allocate,
    Release,
    /// This many neighbouring entries.
    Written(usize),
    Barrier,
    Invalidate(u64, u64),
}

/// What is known of a table beside its entries.
#[derive(Clone, Debug)]
struct TableState {
    allocated: bool,
    /// What the walker sees: the entries as last handed to `entries_written`.
    seen: Vec<u64>,
    /// Whether something was written since the last `order_before_link`.
    unpublished: bool,
    /// Level and first input offset, once a walker can reach it.
    reachable: Option<(u8, u64)>,
    /// The same, after it was unlinked and before an invalidation.
    held: Option<(u8, u64)>,
}

#[derive(Default)]
struct WalkerState {
    log: Vec<TableEvent>,
    known: Vec<TableState>,
    by_address: BTreeMap<usize, usize>,
    /// Offsets (first, end) that TLBs may still translate as they were.
    tainted: Vec<(u64, u64)>,
}

/// A [`TableMemory`] that panics on what would be wrong on a machine: valid entries swapped without
/// break-before-make, tables linked before their contents are seen, released while a walker may hold them.
pub struct FakeTableMemory {
    tables: Vec<Box<Entries>>,
    live: Vec<AtomicU16>,
    free: Vec<usize>,
    state: RefCell<WalkerState>,
    rights: u64,
    first_address: u64,
    /// How many more allocations succeed.
    pub budget: usize,
    /// Tables that are never empty, whatever is mapped in them.
    pub pinned: Vec<PhysAddr>,
}

fn span(level: u8) -> u64 {
    1 << (39 - 9 * u32::from(level))
}

fn number(table: PhysAddr) -> usize {
    ((table.raw() - BASE) >> 12) as usize
}

impl FakeTableMemory {
    /// For tables of one format; input offsets count from `first_address`.
    pub fn new<F: Format>(first_address: u64) -> Self {
        Self {
            tables: Vec::new(),
            live: Vec::new(),
            free: Vec::new(),
            state: RefCell::default(),
            rights: F::RIGHTS,
            first_address,
            budget: usize::MAX,
            pinned: Vec::new(),
        }
    }
    /// The root that a walker now starts from.
    pub fn install(&mut self, root: PhysAddr, level: u8) {
        self.state.get_mut().mark_reachable(number(root), level, 0);
    }
    /// The walkers no longer start from the root, and everything was invalidated.
    pub fn uninstall(&mut self) {
        let state = self.state.get_mut();
        state.tainted.clear();
        for known in &mut state.known {
            (known.reachable, known.held) = (None, None);
        }
    }
    pub fn take_log(&mut self) -> Vec<TableEvent> {
        core::mem::take(&mut self.state.get_mut().log)
    }
    pub fn allocated(&self) -> usize {
        self.state.borrow().known.iter().filter(|known| known.allocated).count()
    }
    /// Checks that the counters are right, every entry was handed over, and TLBs hold nothing that is gone.
    pub fn check_quiet(&self) {
        let state = self.state.borrow();
        assert!(state.tainted.is_empty(), "not invalidated: {:x?}", state.tainted);
        for (n, known) in state.known.iter().enumerate().filter(|(_, known)| known.allocated) {
            let now: Vec<_> = self.tables[n].iter().map(|entry| entry.load(Relaxed)).collect();
            assert!(now == known.seen, "table {n}: stores without `entries_written`");
            let live = now.iter().filter(|bits| **bits & 1 != 0).count();
            if self.pinned.iter().all(|&pinned| number(pinned) != n) {
                assert_eq!(live, usize::from(self.live[n].load(Relaxed)), "table {n}");
            }
            assert!(known.reachable.is_some(), "table {n} is lost");
        }
    }
}

impl WalkerState {
    /// The table in a valid entry, if it is one of ours.
    fn child(&self, bits: u64) -> Option<usize> {
        let entry = Descriptor::from_bits(bits);
        (entry.is_valid() && entry.output().raw() >> 32 == BASE >> 32).then(|| number(entry.output()))
    }

    fn mark_reachable(&mut self, n: usize, level: u8, start: u64) {
        assert!(self.known[n].allocated, "link to a released table");
        assert!(!self.known[n].unpublished, "linked before its contents were published");
        self.known[n].reachable = Some((level, start));
        for (slot, bits) in self.known[n].seen.clone().into_iter().enumerate() {
            if let Some(child) = self.child(bits) {
                self.mark_reachable(child, level + 1, start + slot as u64 * span(level));
            }
        }
    }

    /// A valid entry is gone: TLBs may keep the leaf, or the leaves and tables under it.
    fn lose(&mut self, level: u8, start: u64, bits: u64) {
        let Some(child) = self.child(bits) else {
            if bits & 1 != 0 {
                self.tainted.push((start, start + span(level)));
            }
            return;
        };
        let place = (level + 1, start);
        assert_eq!(self.known[child].reachable.take(), Some(place));
        self.known[child].held = Some(place);
        for (slot, bits) in self.known[child].seen.clone().into_iter().enumerate() {
            self.lose(level + 1, start + slot as u64 * span(level + 1), bits);
        }
    }

    /// Whether a TLB may still hold a leaf in the range, or the table of `level` that begins with it.
    fn remembers(&self, level: u8, (start, end): (u64, u64)) -> bool {
        self.tainted.iter().any(|(first, last)| *first < end && start < *last)
            || self.known.iter().any(|known| known.held == Some((level, start)))
    }

    /// The walker sees that one entry of a reachable table changed.
    fn judge(&mut self, level: u8, start: u64, (old, new): (u64, u64), rights: u64) {
        let (was, is) = (Descriptor::from_bits(old), Descriptor::from_bits(new));
        let range = (start, start + span(level));
        if old == new {
            return;
        }
        if was.is_valid() && is.is_valid() {
            assert_eq!((old ^ new) & !rights, 0, "{was:?} -> {is:?} at {start:#x} without break-before-make");
            assert!(!was.is_contiguous(), "one entry of a live group: {was:?} -> {is:?} at {start:#x}");
        } else if was.is_valid() {
            self.lose(level, start, old);
        } else if is.is_valid() {
            assert!(!self.remembers(level + 1, range), "{is:?} at {start:#x} while the old one is in TLBs");
            if let Some(child) = self.child(new) {
                self.mark_reachable(child, level + 1, start);
            }
        }
    }
}

impl TableMemory for FakeTableMemory {
    fn allocate(&mut self) -> Option<TableFrame> {
        self.budget = self.budget.checked_sub(1)?;
        let state = self.state.get_mut();
        let n = self.free.pop().unwrap_or_else(|| {
            self.tables.push(Box::new([const { AtomicU64::new(0) }; 512]));
            self.live.push(AtomicU16::new(0));
            let n = self.tables.len() - 1;
            state.by_address.insert(self.tables[n].as_ptr().addr(), n);
            let seen = Vec::new();
            state.known.push(TableState {
                allocated: false,
                seen,
                unpublished: false,
                reachable: None,
                held: None,
            });
            n
        });
        self.tables[n].iter().for_each(|entry| entry.store(0, Relaxed));
        assert_eq!(self.live[n].load(Relaxed), 0, "released with live entries");
        let known = &mut state.known[n];
        *known = TableState {
            allocated: true,
            seen: vec![0; 512],
            unpublished: false,
            reachable: None,
            held: None,
        };
        state.log.push(TableEvent::Allocate);
        Some(TableFrame::unlinked(PhysAddr::new(BASE + ((n as u64) << 12))))
    }

    fn release(&mut self, table: TableFrame) {
        let n = number(table.release());
        let state = self.state.get_mut();
        let known = &mut state.known[n];
        assert!(known.allocated, "released twice");
        assert_eq!((known.reachable, known.held), (None, None), "a walker may hold it");
        known.allocated = false;
        // What follows a dangling link finds this.
        self.tables[n].iter().for_each(|entry| entry.store(0xdead_dead_dead_dead, Relaxed));
        self.free.push(n);
        state.log.push(TableEvent::Release);
    }

    fn entries(&self, table: PhysAddr) -> &Entries {
        assert!(self.state.borrow().known[number(table)].allocated, "a released table is read");
        &self.tables[number(table)]
    }

    fn valid_entries(&self, table: PhysAddr) -> &AtomicU16 {
        assert!(self.state.borrow().known[number(table)].allocated, "a released table is counted");
        &self.live[number(table)]
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        let state = &mut *self.state.borrow_mut();
        state.log.push(TableEvent::Written(entries.len()));
        let at = entries.as_ptr().addr();
        let (&table, &n) = state.by_address.range(..=at).next_back().expect("entries of a table");
        let first = (at - table) / 8;
        state.known[n].unpublished = true;
        for (slot, entry) in (first..).zip(entries) {
            let new = entry.load(Relaxed);
            let old = core::mem::replace(&mut state.known[n].seen[slot], new);
            if let Some((level, start)) = state.known[n].reachable {
                state.judge(level, start + slot as u64 * span(level), (old, new), self.rights);
            }
        }
    }

    fn order_before_link(&self) {
        let state = &mut *self.state.borrow_mut();
        state.log.push(TableEvent::Barrier);
        state.known.iter_mut().for_each(|known| known.unpublished = false);
    }

    fn invalidate(&mut self, at: u64, len: u64) {
        let first = at.wrapping_sub(self.first_address);
        let end = first + len;
        let state = self.state.get_mut();
        state.log.push(TableEvent::Invalidate(at, len));
        let old = core::mem::take(&mut state.tainted);
        state.tainted = old
            .into_iter()
            .flat_map(|(a, b)| [(a, b.min(first)), (a.max(end), b)])
            .filter(|(a, b)| a < b)
            .collect();
        for known in &mut state.known {
            // A table at `level` translates as much as one entry of the level above.
            if known.held.is_some_and(|(level, start)| first < start + span(level - 1) && start < end) {
                known.held = None;
            }
        }
    }
}
