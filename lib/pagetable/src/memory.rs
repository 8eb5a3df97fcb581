//! The interface through which page tables get frames, barriers and invalidations.

use addr::PhysAddr;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU16, AtomicU64};

/// One table: 512 entries, 4 KiB.
pub type Entries = [AtomicU64; 512];

/// Ownership of the frame of one table. It cannot be copied, so a table is released once. A linked table is
/// owned by the entry that points to it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping a table frame leaks it"]
pub struct TableFrame(PhysAddr);

impl TableFrame {
    /// Takes ownership of the frame at `address`, for [`TableMemory::allocate`].
    ///
    /// # Safety
    /// The frame has no other owner, and `address` is its first byte.
    #[expect(
        unsafe_code,
        reason = "a second owner of a frame is undefined behaviour in the code that uses it"
    )]
    pub const unsafe fn adopt(address: PhysAddr) -> Self {
        Self(address)
    }
    /// The address of the table.
    pub const fn address(&self) -> PhysAddr {
        self.0
    }
    /// The table, while the frame is not released.
    pub const fn table(&self) -> TableRef<'_> {
        TableRef::new(self.0)
    }
    /// Releases the frame: the caller tracks its ownership in another form.
    pub const fn release(self) -> PhysAddr {
        self.0
    }
    /// Takes ownership of a table from the entry that pointed to it, which has been cleared.
    pub(crate) const fn unlinked(table: PhysAddr) -> Self {
        Self(table)
    }
}

/// A table that came from [`TableMemory::allocate`] and is not released during `'a`.
///
/// Only this crate makes one, from a [`TableFrame`] or from an entry that links the table, so a caller cannot
/// turn an address into the entries of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableRef<'a>(PhysAddr, PhantomData<&'a TableFrame>);

impl TableRef<'_> {
    /// The table at `address`, which this crate has from a frame or a link.
    #[inline]
    pub(crate) const fn new(address: PhysAddr) -> Self {
        Self(address, PhantomData)
    }
    /// The address of the table.
    #[inline]
    pub const fn address(self) -> PhysAddr {
        self.0
    }
}

/// The provider of table frames, and of the maintenance for one kind of walker.
///
/// One value serves one tree at a time, since it knows the address space that [`TableMemory::invalidate`]
/// applies to. All functions are called with the tree's lock held; walkers read at any time.
///
/// # Safety
/// The owner of an unmapped frame, and that of a released table, rely on these answers:
/// 1. `entries` and `valid_entries` return the entries and the counter of exactly this table, from `allocate`
///    to `release` the same in each call, and nothing else writes to them.
/// 2. `allocate` returns zeroed entries, and the walker observes the zeroes.
/// 3. `entries_written`, `order_before_link` and `invalidate` return only after they have the documented
///    effect on every walker of the tree. An `invalidate` without that confirmation leads to the leaks that
///    it documents.
#[expect(unsafe_code, reason = "a walker that uses a stale entry accesses the memory of another owner")]
pub unsafe trait TableMemory {
    /// Allocates a frame for a table: zero-filled, the zeroes visible to the walker, its
    /// [`TableMemory::valid_entries`] zero.
    fn allocate(&mut self) -> Option<TableFrame>;

    /// Frees a frame that no walker can reach any more. Its contents are arbitrary, its `valid_entries` is
    /// zero.
    fn release(&mut self, table: TableFrame);

    /// The entries of `table`.
    fn entries<'a>(&'a self, table: TableRef<'a>) -> &'a Entries;

    /// The counter of the table's valid entries, which is not stored in its frame. Only this crate changes it
    /// while the table is allocated; an empty table is detected with one load.
    fn valid_entries<'a>(&'a self, table: TableRef<'a>) -> &'a AtomicU16;

    /// Notes that the entries were written. For a walker that does not snoop, the implementor cleans them to
    /// the point of coherency. No barrier. Called once for each run of adjacent entries, after the last store
    /// to it.
    fn entries_written(&self, entries: &[AtomicU64]);

    /// Orders a table's contents before the entry that links it: every walker observes the stores before this
    /// call (which were passed to `entries_written`) before the stores after it.
    ///
    /// The reads of a walk are not ordered with stores otherwise (D8.2, B2.3): without this a walker may
    /// follow the new entry into a frame whose zeroes and entries it does not observe yet. DSB ISHST is
    /// sufficient, and completes the cleaning for a walker that does not snoop; for walkers that do, DMB
    /// ISHST is sufficient.
    fn order_before_link(&self);

    /// Invalidates the `len` bytes from input address `at` on in all TLBs and walk caches, and returns when
    /// that is complete. Earlier stores are made visible first (DSB ISHST; TLBI; DSB ISH; or the SMMU's
    /// commands and CMD_SYNC). Must use forms that also drop cached table entries. Called for
    /// break-before-make, and when a `map` fails.
    ///
    /// An implementor that cannot confirm completion (an SMMU that does not respond) records that, leaks
    /// every table passed to [`TableMemory::release`] from then on, and makes its caller keep the mapped
    /// frames.
    fn invalidate(&mut self, at: u64, len: u64);
}
