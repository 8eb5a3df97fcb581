//! Pages of pinned tables, mapped and unmapped by their owners without access to the domain.

use super::super::test_machine::fixture::pages_at;
use super::super::test_machine::{LAST, TestMachine, TestMemory};
use super::executor::{DriverPhase, Executor, HeldChunks, SharedState, UnmappedBuffer, mapping};
use super::frames::ChunkLease;
use super::program::DOMAINS;
use addr::{AddrRange, Iova, PAGE_SHIFT};
use drivers::smmu::PinnedTable;
use pagetable::MapError;
use std::rc::Rc;

/// First page of each domain's pinned table: next to other mappings, so that they share the upper tables.
pub const FIRST: u64 = 0x600;
/// Number of pages of a table.
const PAGES: u64 = PinnedTable::BYTES >> PAGE_SHIFT;

/// A run mapped by one call in a pinned table.
pub struct PinnedRun {
    pub domain: usize,
    table: PinnedTable,
    range: AddrRange<Iova>,
    held: HeldChunks,
}

/// The pinned table of each domain, if any.
pub type PinnedTables = [Option<PinnedTable>; DOMAINS];

impl PinnedRun {
    fn pages(&self) -> Vec<u64> {
        (self.range.start().raw() >> PAGE_SHIFT..self.range.end().raw() >> PAGE_SHIFT).collect()
    }
}

/// Unmaps a run. Needs no lock: another CPU may do so in any state of the domain.
pub fn unmap(machine: &Rc<TestMachine>, shared: &SharedState, run: PinnedRun, step: u64) -> UnmappedBuffer {
    let (domain, pages) = (run.domain, run.pages());
    let mut oracle = shared.oracle.borrow_mut();
    pages.iter().for_each(|&page| oracle.is_going(domain, page, step));
    drop(oracle);
    let before = shared.phase.replace(DriverPhase::UnmapPinned);
    let stale = run.table.unmap(&TestMemory(machine.clone()), run.range, run.held);
    shared.phase.set(before);
    UnmappedBuffer::new(step, domain, pages, stale)
}

impl Executor {
    /// Whether a page may only be mapped through the domain's pinned table.
    pub fn is_pinned(&self, domain: usize, page: u64) -> bool {
        self.pinned[domain].is_some() && (FIRST..FIRST + PAGES).contains(&page)
    }

    /// The domain's pinned table, created if needed. `None` where pages are mapped or not yet invalidated.
    fn pin(&mut self, domain: usize) -> Option<PinnedTable> {
        if self.pinned[domain].is_some() {
            return self.pinned[domain];
        }
        let oracle = self.shared.oracle.borrow();
        let mut region = FIRST..FIRST + PAGES;
        if region.clone().any(|page| !oracle.is_free(domain, page) && !oracle.is_live(domain, page)) {
            return None;
        }
        let taken = region.any(|page| oracle.is_live(domain, page));
        drop(oracle);
        let mut oracle = self.shared.oracle.borrow_mut();
        (FIRST..FIRST + PAGES).step_by(32).for_each(|page| oracle.note(domain, page));
        drop(oracle);
        let at = Iova::new(FIRST << PAGE_SHIFT);
        let pinned = self.in_phase(DriverPhase::Pin, domain, |fixture, it| {
            // SAFETY: the domain is destroyed at the end, after the last use of its pinned table.
            unsafe { it.pin(&mut fixture.memory, &fixture.commands, at, LAST) }
        });
        match pinned {
            Ok(table) if !taken => self.pinned[domain] = Some(table),
            Err(MapError::AlreadyMapped(of)) if taken => assert_eq!(of, at),
            other => panic!("{other:?} where something is mapped: {taken}"),
        }
        self.pinned[domain]
    }

    /// Maps chunks in the domain's pinned table from `page` on, as far as they fit.
    pub fn map_pinned(&mut self, domain: usize, page: u64, order: u8, count: u8, writable: bool) {
        let Some(table) = self.pin(domain) else { return };
        let order = order.min(4);
        // Usually aligned, as the slot allocator does.
        let is_aligned = !self.shared.random.borrow_mut().once_in(3);
        let page = if is_aligned { page & !((1 << order) - 1) } else { page };
        let count = u64::from(count).min((PAGES - page) >> order) as u8;
        let leases = self.leases(order, count);
        let targets = Self::targets(&leases, FIRST + page, writable);
        let mut oracle = self.shared.oracle.borrow_mut();
        if targets.is_empty() || targets.iter().any(|&(page, _)| !oracle.is_free(domain, page)) {
            return;
        }
        let step = self.step;
        targets.iter().for_each(|&(page, target)| oracle.may_lead(domain, page, step, target));
        drop(oracle);
        let range = self.write_pinned(&table, page as usize, &leases, writable);
        assert_eq!(range, pages_at((FIRST + page) << PAGE_SHIFT, targets.len() as u64));
        let mut oracle = self.shared.oracle.borrow_mut();
        targets.iter().for_each(|&(page, _)| oracle.leads(domain, page, step));
        drop(oracle);
        self.shared.runs.borrow_mut().push(PinnedRun { domain, table, range, held: leases });
    }

    fn write_pinned(
        &self,
        table: &PinnedTable,
        page: usize,
        leases: &[Rc<ChunkLease>],
        writable: bool,
    ) -> AddrRange<Iova> {
        self.shared.phase.set(DriverPhase::MapPinned);
        let (memory, mapping) = (TestMemory(self.machine.clone()), mapping(writable));
        let mapped = match leases {
            [lease] => {
                // SAFETY: the device is the model, whose memory is the test's RAM.
                let map_run = |bits| unsafe { table.map_run(&memory, page, &lease.chunk, bits) };
                table.bits(mapping).map(map_run)
            }
            // SAFETY: as above.
            _ => unsafe { table.map(&memory, page, leases.iter().map(|lease| lease.chunk), mapping) },
        };
        self.shared.phase.set(DriverPhase::Idle);
        mapped.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Unmaps a run from its pinned table.
    pub fn unmap_pinned(&mut self, attachment: usize) {
        let index = attachment.checked_rem(self.shared.runs.borrow().len());
        let Some(index) = index else { return };
        let run = self.shared.runs.borrow_mut().swap_remove(index);
        let pending = unmap(&self.machine, &self.shared, run, self.step);
        self.shared.pending.borrow_mut().push(pending);
    }

    /// Removes all runs of a domain that is about to be destroyed.
    pub fn take_runs(&mut self, domain: usize) -> Vec<PinnedRun> {
        self.pinned[domain] = None;
        self.shared.runs.borrow_mut().extract_if(.., |run| run.domain == domain).collect()
    }
}
