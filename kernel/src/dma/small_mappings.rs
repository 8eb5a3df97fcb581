//! SmallMappings mappings of a domain: pages of tables that stay, found, written and given back without the domain's lock.
//!
//! They have the domain's addresses from 4 GiB down, table by table: each table's addresses are kept from everybody else,
//! and the table is pinned, when all before it are in use. It stays until the domain ends, so there are never more than the
//! most small mappings at one time needed.

use crate::debug::{self, FailPoint};
use crate::iommu::Tables;
use addr::{AddrRange, FrameRun, Iova, MemoryType, PAGE_SHIFT, PAGE_SIZE};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use dma_api::DmaError;
use drivers::smmu::PinnedTable;
use memory::Slots;
use pagetable::{LeafAttributes, MapError, Mapping};
use spin::Once;

/// The most tables: 1 GiB of addresses, and 2 MiB for the tables themselves.
const TABLES: usize = 512;
/// Tables that are looked at for several pages in a row, before another one is made.
const MAX_SEARCHED_TABLES: usize = 8;

/// The addresses for small mappings and who has which of them.
pub(super) struct SmallMappings {
    /// 8 KiB, which no stack has room for: they are made where they stay.
    tables: Box<[Once<Box<PinnedSlots>>; TABLES]>,
    /// How many there are; [`TABLES`] when there will be no more.
    table_count: AtomicUsize,
    /// Where there was room last; [`TABLES`] when nowhere.
    current: AtomicUsize,
    /// Tables without a single free page, a bit for each, and those that there will never be; one that has just got room
    /// may still be among them.
    full: [AtomicU64; TABLES / 64],
}

/// A table and its pages' owners.
pub(super) struct PinnedSlots {
    pinned: PinnedTable,
    slots: Slots,
    /// For streaming mappings that the device may only read, and for those that it may write too.
    streaming_attributes: [LeafAttributes; 2],
}

const _: () = assert!(Slots::COUNT as u64 * PAGE_SIZE == PinnedTable::BYTES);

/// A place for a mapping: the number of its first page, counted over all tables.
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
    /// The longest mapping that is small.
    pub const MAX_BYTES: u64 = 16 * PAGE_SIZE;

    /// The highest of its addresses: whoever has 32 bits can use them, and they are in nobody's way.
    pub const HIGHEST_IOVA: Iova = Iova::new((1 << 32) - 1);

    /// No table yet.
    pub fn new() -> Self {
        Self {
            tables: no_tables(),
            table_count: AtomicUsize::new(0),
            current: AtomicUsize::new(0),
            full: [const { AtomicU64::new(0) }; TABLES / 64],
        }
    }

    /// Room for `len` bytes (whole pages), aligned to the power of two at or above it, if there is a table with some.
    #[inline]
    pub fn alloc(&self, len: u64) -> Option<SmallSlot> {
        let (pages, cpu) = (slots(len), arch::cpu::index());
        let table = self.current.load(Relaxed);
        match self.tables.get(table).and_then(Once::get).and_then(|table| table.slots.take(pages, cpu)) {
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
            if let Some(page) = this.slots.take(pages, cpu) {
                self.current.store(table, Relaxed);
                return Some(SmallSlot::new(table, page));
            }
            if this.slots.free() == 0 {
                self.set_full(table);
            }
        }
        if table_count == TABLES && self.not_full().next().is_none() {
            self.current.store(TABLES, Relaxed);
        }
        None
    }

    /// The tables that are not full, whether made or not.
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

    /// Whether there is no room until some is given back, and there are no more tables.
    pub fn is_exhausted(&self) -> bool {
        self.current.load(Relaxed) == TABLES
    }

    /// Adds a table, which `pin` makes for the addresses from the given one on, unless there are all. Where `pin` finds the
    /// addresses taken, there will be no more tables. The caller has the domain's lock.
    ///
    /// # Errors
    /// `pin`'s.
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

    /// The first address of a table.
    fn start_of(index: usize) -> Iova {
        Iova::new(Self::HIGHEST_IOVA.raw() + 1 - (index as u64 + 1) * PinnedTable::BYTES)
    }

    /// Maps `chunks`, `len` bytes, at a place that was taken for them; on failure it is free again.
    ///
    /// # Errors
    /// [`DmaError::TooLong`] for memory that no entry can name.
    #[inline]
    pub fn map(
        &self,
        slot: SmallSlot,
        chunks: impl Iterator<Item: FrameRun> + Clone,
        len: u64,
        mapping: Mapping,
    ) -> Result<AddrRange<Iova>, DmaError> {
        let Some(table) = self.tables[slot.table()].get() else { unreachable!("a slot in no table") };
        match table.pinned.map(&Tables, slot.page(), chunks, mapping) {
            Ok(range) => Ok(range),
            Err(MapError::OutputTooLarge(_)) => {
                table.slots.give(slot.page(), slots(len));
                Err(DmaError::TooLong { len })
            }
            Err(error) => panic!("map of {len:#x} bytes at page {}: {error:?}", slot.page()),
        }
    }

    /// Maps `run`, write-back memory of at most [`SmallMappings::MAX_BYTES`], where there was room last; `None` if it does not go
    /// there.
    #[inline]
    pub fn map_run(&self, run: &impl FrameRun, is_written: bool) -> Option<AddrRange<Iova>> {
        // The one that is to fail is left to who says so.
        if debug::is_armed(FailPoint::Iova) {
            return None;
        }
        let pages = slots(run.end().raw() - run.start().raw());
        let table = self.tables.get(self.current.load(Relaxed))?.get()?;
        let page = table.slots.take(pages, arch::cpu::index())?;
        match table.pinned.map_run(&Tables, page, run, table.streaming_attributes[usize::from(is_written)]) {
            Ok(range) => Some(range),
            Err(_) => {
                table.slots.give(page, pages);
                None
            }
        }
    }

    /// The table that `range` was mapped in, if it is one of these.
    #[inline]
    pub fn table_of(&self, range: AddrRange<Iova>) -> Option<(usize, &PinnedSlots)> {
        let index =
            (Self::HIGHEST_IOVA.raw().wrapping_sub(range.start().raw()) / PinnedTable::BYTES) as usize;
        Some((index, self.tables.get(index)?.get()?))
    }

    /// Whether somebody has the page at `at`; `None` if it is in none of these tables.
    pub fn is_allocated(&self, at: Iova) -> Option<bool> {
        let (_, table) = self.table_of(AddrRange::new(at, at + PAGE_SIZE))?;
        Some(table.slots.is_taken(pagetable::pinned_page(at)))
    }

    /// Ends the use of addresses in table `index` that the SMMU has forgotten.
    #[inline]
    pub fn free(&self, (index, table): (usize, &PinnedSlots), range: AddrRange<Iova>) {
        table.slots.give(pagetable::pinned_page(range.start()), slots(range.len()));
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

/// Pages that a mapping of `len` bytes has to itself.
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
                .unwrap_or_else(|error| unreachable!("every stage says {mapping:?}: {error:?}"))
        });
        Self { pinned, slots: Slots::new(), streaming_attributes }
    }

    /// See [`PinnedTable`].
    pub fn pinned(&self) -> &PinnedTable {
        &self.pinned
    }
}
