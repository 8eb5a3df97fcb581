//! Small mappings of a domain: pages of pinned tables, allocated, mapped and freed without the domain's lock.
//!
//! They use the IOVAs below the MSI doorbells, from 4 GiB - 2 MiB downwards. When all tables are in use, the
//! address range of another table is allocated from the domain and its table is pinned. It stays until the
//! domain is destroyed, so the number of tables follows the peak number of concurrent small mappings.

use super::iova_space::MSI_DOORBELLS;
use crate::debug::{self, FailPoint};
use crate::iommu::Tables;
use addr::{AddrRange, FrameRun, Iova, MemoryType, PAGE_SHIFT, PAGE_SIZE};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use drivers::smmu::PinnedTable;
use memory::Slots;
use pagetable::{LeafAttributes, Mapping};
use spin::Once;

/// The maximum number of tables: 1 GiB of IOVAs, and 2 MiB for the tables themselves.
const TABLES: usize = 512;
/// The number of tables searched for several contiguous pages before another table is added.
const MAX_SEARCHED_TABLES: usize = 8;

/// The pinned tables of a domain and the allocation state of their pages.
pub(super) struct SmallMappings {
    /// 8 KiB, too large for a kernel stack: created on the heap.
    tables: Box<[Once<Box<PinnedSlots>>; TABLES]>,
    /// The number of tables; [`TABLES`] if no more can be added.
    table_count: AtomicUsize,
    /// The table of the last successful search; [`TABLES`] while the tables are exhausted.
    current: AtomicUsize,
    /// A bit per table: set for tables without a free page and for tables that cannot be added. The bit of a
    /// table with a just freed page may still be set.
    full: [AtomicU64; TABLES / 64],
}

/// A pinned table and the allocation state of its pages.
pub(super) struct PinnedSlots {
    pinned: PinnedTable,
    slots: Slots,
    /// The attributes of read-only and of read-write streaming mappings.
    streaming_attributes: [LeafAttributes; 2],
}

const _: () = assert!(Slots::COUNT as u64 * PAGE_SIZE == PinnedTable::BYTES);

/// The slot of a mapping: the index of its first page over all tables.
#[derive(Clone, Copy)]
pub(super) struct SmallSlot(u32);

impl SmallSlot {
    #[inline]
    fn new(table: usize, page: usize) -> Self {
        Self((table * Slots::COUNT + page) as u32)
    }
    #[inline]
    fn table(self) -> usize {
        self.0 as usize / Slots::COUNT
    }
    #[inline]
    fn page(self) -> usize {
        self.0 as usize % Slots::COUNT
    }
}

impl SmallMappings {
    /// The maximum length of a small mapping.
    pub const MAX_BYTES: u64 = 16 * PAGE_SIZE;

    /// The highest IOVA of small mappings: within every 32-bit mask, and far from the bottom-up allocator's
    /// ranges.
    pub const HIGHEST_IOVA: Iova = Iova::new(MSI_DOORBELLS[0].raw() - 1);

    /// Returns small mappings without a table.
    pub fn new() -> Self {
        Self {
            tables: no_tables(),
            table_count: AtomicUsize::new(0),
            current: AtomicUsize::new(0),
            full: [const { AtomicU64::new(0) }; TABLES / 64],
        }
    }

    /// Allocates a slot of `len` bytes (whole pages), aligned to the next power of two; `None` without a free
    /// slot.
    #[inline]
    pub fn alloc(&self, len: u64) -> Option<SmallSlot> {
        let (pages, cpu) = (slots(len), arch::cpu::index());
        let table = self.current.load(Relaxed);
        match self.tables.get(table).and_then(Once::get).and_then(|table| table.slots.alloc(pages, cpu)) {
            Some(page) => Some(SmallSlot::new(table, page)),
            None => self.alloc_slow_path(pages, cpu),
        }
    }

    #[cold]
    fn alloc_slow_path(&self, pages: u32, cpu: usize) -> Option<SmallSlot> {
        if self.is_exhausted() {
            return None;
        }
        let tries = if pages == slots(PAGE_SIZE) { TABLES } else { MAX_SEARCHED_TABLES };
        let table_count = self.table_count.load(Relaxed);
        for (table, this) in self.not_full().filter_map(|at| Some((at, self.tables[at].get()?))).take(tries) {
            if let Some(page) = this.slots.alloc(pages, cpu) {
                self.current.store(table, Relaxed);
                return Some(SmallSlot::new(table, page));
            }
            if this.slots.free_count() == 0 {
                self.set_full(table);
            }
        }
        if table_count == TABLES && self.not_full().next().is_none() {
            self.current.store(TABLES, Relaxed);
        }
        None
    }

    /// The indices of the tables that are not full, including those not yet added.
    fn not_full(&self) -> impl Iterator<Item = usize> {
        let words = self.full.iter().zip((0..TABLES).step_by(64));
        words.flat_map(|(full, first)| {
            let mut left = !full.load(Relaxed);
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.checked_sub(1)?;
                Some(first + bit)
            })
        })
    }

    fn set_full(&self, table: usize) {
        self.full[table / 64].fetch_or(1 << (table % 64), Relaxed);
    }

    fn is_full(&self, table: usize) -> bool {
        self.full[table / 64].load(Relaxed) & 1 << (table % 64) != 0
    }

    /// Returns whether all pages are allocated and no table can be added.
    pub fn is_exhausted(&self) -> bool {
        self.current.load(Relaxed) == TABLES
    }

    /// Adds a table unless the maximum is reached. `pin` pins the table at the given address; if it returns
    /// `None`, no more tables are added. The caller holds the domain's lock.
    ///
    /// # Errors
    /// Those of `pin`.
    pub fn grow<E>(&self, pin: impl FnOnce(Iova) -> Result<Option<PinnedTable>, E>) -> Result<(), E> {
        let index = self.table_count.load(Relaxed);
        let Some(table) = self.tables.get(index) else { return Ok(()) };
        match pin(Self::start_of(index))? {
            Some(pinned) => {
                table.call_once(|| Box::new(PinnedSlots::new(pinned)));
                self.table_count.store(index + 1, Relaxed);
                self.current.store(index, Relaxed);
            }
            None => {
                (index..TABLES).for_each(|never| self.set_full(never));
                self.table_count.store(TABLES, Relaxed);
            }
        }
        Ok(())
    }

    /// Returns the first address of a table.
    fn start_of(index: usize) -> Iova {
        Iova::new(Self::HIGHEST_IOVA.raw() + 1 - (index as u64 + 1) * PinnedTable::BYTES)
    }

    /// Maps `chunks` at an allocated slot of their length.
    ///
    /// # Safety
    /// As for [`Domain::map`](super::Domain::map).
    #[inline]
    pub unsafe fn map(
        &self,
        slot: SmallSlot,
        chunks: impl Iterator<Item: FrameRun> + Clone,
        mapping: Mapping,
    ) -> AddrRange<Iova> {
        let Some(table) = self.tables[slot.table()].get() else { unreachable!("a slot in no table") };
        // SAFETY: passed on to the caller; the table was pinned for all of RAM.
        let mapped = unsafe { table.pinned.map(&Tables, slot.page(), chunks, mapping) };
        mapped.unwrap_or_else(|error| panic!("map at page {}: {error:?}", slot.page()))
    }

    /// Maps `run`, write-back memory of at most [`SmallMappings::MAX_BYTES`], in the current table; `None`
    /// without a free slot there.
    ///
    /// # Safety
    /// As for [`Domain::map`](super::Domain::map).
    #[inline]
    pub unsafe fn map_run(&self, run: &impl FrameRun, is_written: bool) -> Option<AddrRange<Iova>> {
        // The slow path has the fail point.
        if debug::is_armed(FailPoint::Iova) {
            return None;
        }
        let pages = slots(run.end().raw() - run.start().raw());
        let table = self.tables.get(self.current.load(Relaxed))?.get()?;
        let page = table.slots.alloc(pages, arch::cpu::index())?;
        let attributes = table.streaming_attributes[usize::from(is_written)];
        // SAFETY: passed on to the caller; the table was pinned for all of RAM.
        Some(unsafe { table.pinned.map_run(&Tables, page, run, attributes) })
    }

    /// Returns the table that `range` was mapped in; `None` if it is not a small mapping.
    #[inline]
    pub fn table_of(&self, range: AddrRange<Iova>) -> Option<(usize, &PinnedSlots)> {
        let index =
            (Self::HIGHEST_IOVA.raw().wrapping_sub(range.start().raw()) / PinnedTable::BYTES) as usize;
        Some((index, self.tables.get(index)?.get()?))
    }

    /// Returns whether the page at `at` is allocated; `None` if it is in none of the tables.
    pub fn is_allocated(&self, at: Iova) -> Option<bool> {
        let (_, table) = self.table_of(AddrRange::new(at, at + PAGE_SIZE))?;
        Some(table.slots.is_allocated(pagetable::pinned_page(at)))
    }

    /// Frees a range in table `index` after its invalidation.
    #[inline]
    pub fn free(&self, (index, table): (usize, &PinnedSlots), range: AddrRange<Iova>) {
        table.slots.free(pagetable::pinned_page(range.start()), slots(range.len()));
        if self.is_full(index) {
            self.full[index / 64].fetch_and(!(1 << (index % 64)), Relaxed);
            self.current.store(index, Relaxed);
        }
    }
}

fn no_tables() -> Box<[Once<Box<PinnedSlots>>; TABLES]> {
    let tables: Box<[_]> = (0..TABLES).map(|_| Once::new()).collect();
    match tables.try_into() {
        Ok(tables) => tables,
        Err(_) => unreachable!("{TABLES} tables were made"),
    }
}

/// Returns the number of pages that a mapping of `len` bytes occupies, with its guard pages.
#[inline]
fn slots(len: u64) -> u32 {
    ((len + debug::GUARD_BYTES) >> PAGE_SHIFT) as u32
}

impl PinnedSlots {
    fn new(pinned: PinnedTable) -> Self {
        let streaming_attributes = [Mapping::read_only, Mapping::read_write].map(|of| {
            let mapping = of(MemoryType::WriteBack);
            pinned
                .bits(mapping)
                .unwrap_or_else(|error| unreachable!("every stage encodes {mapping:?}: {error:?}"))
        });
        Self { pinned, slots: Slots::new(), streaming_attributes }
    }

    pub fn pinned(&self) -> &PinnedTable {
        &self.pinned
    }
}
