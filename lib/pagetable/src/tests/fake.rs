//! A fake [`TableMemory`] on the heap, with an oracle for the stores that walkers observe.

use crate::{Descriptor, Entries, Format, TableFrame, TableMemory, TableRef};
use addr::PhysAddr;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// The address of the fake's tables; no test maps memory there.
const BASE: u64 = 0x7000_0000_0000;

/// A call of a [`TableMemory`] hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableEvent {
    Allocate,
    Release,
    /// The number of adjacent entries.
    Written(usize),
    Barrier,
    Invalidate(u64, u64),
}

/// The state of a table.
#[derive(Clone, Debug)]
struct TableState {
    allocated: bool,
    /// The entries as a walker observes them: as last passed to `entries_written`.
    seen: Vec<u64>,
    /// Whether entries were written since the last `order_before_link`.
    unordered: bool,
    /// Level and first input offset, once a walker can reach it.
    reachable: Option<(u8, u64)>,
    /// The same, for an unlinked table before the invalidation.
    held: Option<(u8, u64)>,
}

#[derive(Default)]
struct WalkerState {
    log: Vec<TableEvent>,
    known: Vec<TableState>,
    by_address: BTreeMap<usize, usize>,
    /// Offsets (first, end) with stale translations that TLBs may still hold.
    tainted: Vec<(u64, u64)>,
}

/// A [`TableMemory`] that panics on violations of the architecture: valid entries replaced without
/// break-before-make, tables linked before their contents are observable, or released while a walker may hold
/// them.
pub struct FakeTableMemory {
    tables: Vec<Box<Entries>>,
    live: Vec<AtomicU16>,
    free: Vec<usize>,
    state: RefCell<WalkerState>,
    rights: u64,
    first_address: u64,
    /// The number of further allocations that succeed.
    pub budget: usize,
    /// Pinned tables, whose counter is one more than their valid entries.
    pub pinned: Vec<PhysAddr>,
}

fn span(level: u8) -> u64 {
    1 << (39 - 9 * u32::from(level))
}

fn number(table: PhysAddr) -> usize {
    ((table.raw() - BASE) >> 12) as usize
}

impl FakeTableMemory {
    /// A fake for tables of one format; input offsets are relative to `first_address`.
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
    /// Makes walkers start at `root`.
    pub fn install(&mut self, root: PhysAddr, level: u8) {
        self.state.get_mut().mark_reachable(number(root), level, 0);
    }
    /// Removes the root from all walkers, and invalidates everything.
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
    /// Checks that the counters are right, all stores were reported, and TLBs hold no stale translations.
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
    /// The fake's table that a valid entry points to.
    fn child(&self, bits: u64) -> Option<usize> {
        let entry = Descriptor::from_bits(bits);
        (entry.is_valid() && entry.output().raw() >> 32 == BASE >> 32).then(|| number(entry.output()))
    }

    fn mark_reachable(&mut self, n: usize, level: u8, start: u64) {
        assert!(self.known[n].allocated, "link to a released table");
        assert!(!self.known[n].unordered, "linked before its contents were ordered");
        self.known[n].reachable = Some((level, start));
        for (slot, bits) in self.known[n].seen.clone().into_iter().enumerate() {
            if let Some(child) = self.child(bits) {
                self.mark_reachable(child, level + 1, start + slot as u64 * span(level));
            }
        }
    }

    /// Handles a cleared entry: TLBs may keep the leaf, or the leaves and tables below it.
    fn mark_stale(&mut self, level: u8, start: u64, bits: u64) {
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
            self.mark_stale(level + 1, start + slot as u64 * span(level + 1), bits);
        }
    }

    /// Whether a TLB may still hold a leaf in the range, or the table of `level` at its start.
    fn may_be_cached(&self, level: u8, (start, end): (u64, u64)) -> bool {
        self.tainted.iter().any(|(first, last)| *first < end && start < *last)
            || self.known.iter().any(|known| known.held == Some((level, start)))
    }

    /// Checks the change of one entry of a reachable table.
    fn check_change(&mut self, level: u8, start: u64, (old, new): (u64, u64), rights: u64) {
        let (was, is) = (Descriptor::from_bits(old), Descriptor::from_bits(new));
        let range = (start, start + span(level));
        if old == new {
            return;
        }
        if was.is_valid() && is.is_valid() {
            assert_eq!((old ^ new) & !rights, 0, "{was:?} -> {is:?} at {start:#x} without break-before-make");
            assert!(!was.is_contiguous(), "one entry of a live group: {was:?} -> {is:?} at {start:#x}");
        } else if was.is_valid() {
            self.mark_stale(level, start, old);
        } else if is.is_valid() {
            assert!(
                !self.may_be_cached(level + 1, range),
                "{is:?} at {start:#x} while the old one is in TLBs"
            );
            if let Some(child) = self.child(new) {
                self.mark_reachable(child, level + 1, start);
            }
        }
    }
}

// SAFETY: no memory has an owner that the mappings concern.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl TableMemory for FakeTableMemory {
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
                unordered: false,
                reachable: None,
                held: None,
            });
            n
        });
        self.tables[n].iter().for_each(|entry| entry.store(0, Relaxed));
        assert_eq!(self.live[n].load(Relaxed), 0, "released with live entries");
        let known = &mut state.known[n];
        *known =
            TableState { allocated: true, seen: vec![0; 512], unordered: false, reachable: None, held: None };
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
        // Poison, for walks through dangling links.
        self.tables[n].iter().for_each(|entry| entry.store(0xdead_dead_dead_dead, Relaxed));
        self.free.push(n);
        state.log.push(TableEvent::Release);
    }

    fn entries<'a>(&'a self, table: TableRef<'a>) -> &'a Entries {
        let table = table.address();
        assert!(self.state.borrow().known[number(table)].allocated, "a released table is read");
        &self.tables[number(table)]
    }

    fn valid_entries<'a>(&'a self, table: TableRef<'a>) -> &'a AtomicU16 {
        let table = table.address();
        assert!(self.state.borrow().known[number(table)].allocated, "a released table is counted");
        &self.live[number(table)]
    }

    fn entries_written(&self, entries: &[AtomicU64]) {
        let state = &mut *self.state.borrow_mut();
        state.log.push(TableEvent::Written(entries.len()));
        let at = entries.as_ptr().addr();
        let (&table, &n) = state.by_address.range(..=at).next_back().expect("entries of a table");
        let first = (at - table) / 8;
        state.known[n].unordered = true;
        for (slot, entry) in (first..).zip(entries) {
            let new = entry.load(Relaxed);
            let old = core::mem::replace(&mut state.known[n].seen[slot], new);
            if let Some((level, start)) = state.known[n].reachable {
                state.check_change(level, start + slot as u64 * span(level), (old, new), self.rights);
            }
        }
    }

    fn order_before_link(&self) {
        let state = &mut *self.state.borrow_mut();
        state.log.push(TableEvent::Barrier);
        state.known.iter_mut().for_each(|known| known.unordered = false);
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
            // A table of `level` translates the range of one entry of the level above.
            if known.held.is_some_and(|(level, start)| first < start + span(level - 1) && start < end) {
                known.held = None;
            }
        }
    }
}
