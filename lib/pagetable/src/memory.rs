//! What a page table asks of the world around it.

use addr::PhysAddr;
use core::sync::atomic::{AtomicU16, AtomicU64};

/// One table: 512 entries, 4 KiB.
pub type Entries = [AtomicU64; 512];

/// Ownership of the frame of one table: it cannot be copied, so a table is released once. A table that is linked is owned
/// by the entry that leads to it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping a table frame leaks it"]
pub struct TableFrame(PhysAddr);

impl TableFrame {
    /// Takes ownership of the frame at `address`, for a [`TableMemory`] to hand out.
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
    /// Ends the ownership in this form: the caller keeps it in another one.
    pub const fn release(self) -> PhysAddr {
        self.0
    }
    /// Takes ownership of a table from the entry that led to it, which has been cleared.
    pub(crate) const fn unlinked(table: PhysAddr) -> Self {
        Self(table)
    }
}

/// Where tables come from, and what a walker has to be told.
///
/// One value serves one table tree at a time (it knows whose entries [`TableMemory::invalidate`] is about). All
/// functions are called with the owner's lock held; the walker reads at any time.
pub trait TableMemory {
    /// A frame for a table: zero-filled, the zeroes seen by the walker, its [`TableMemory::valid_entries`] zero.
    fn allocate(&mut self) -> Option<TableFrame>;

    /// Takes a frame back that nothing can walk any more. Its contents are arbitrary, its `valid_entries` is zero.
    fn release(&mut self, table: TableFrame);

    /// The entries of a table that came from [`TableMemory::allocate`].
    fn entries(&self, table: PhysAddr) -> &Entries;

    /// How many entries of the table are valid: a counter kept beside the frame, not in it. It belongs to this
    /// crate while the table is allocated, and makes "is this table empty?" one load.
    fn valid_entries(&self, table: PhysAddr) -> &AtomicU16;

    /// The entries were written. For a walker that does not snoop: clean them to the point of coherency. No
    /// barrier. Called once for each run of neighbours, after the last store to it.
    fn entries_written(&self, entries: &[AtomicU64]);

    /// Orders a table's contents before the entry that makes it reachable: whatever was stored, and handed to
    /// `entries_written`, before this call is observed by every walker before anything that is stored after it.
    ///
    /// A walk is made of reads that nothing else orders with our stores (D8.2, B2.3): without this a walker may
    /// follow the new entry into a frame whose zeroes and entries it does not see yet. DSB ISHST does it, and
    /// completes the cleaning for a walker that does not snoop; for walkers that do, DMB ISHST is enough.
    fn order_before_link(&self);

    /// Forgets the `len` bytes from input address `at` on, in every TLB and walk cache, and returns when that is
    /// complete. First makes earlier stores seen (DSB ISHST; TLBI; DSB ISH; or the SMMU's commands and CMD_SYNC).
    /// Must use forms that drop cached table entries too. Called for break-before-make, and by a `map` that fails.
    ///
    /// What cannot confirm completion (an SMMU that does not answer) notes it, keeps every table that
    /// [`TableMemory::release`] brings from then on, and has its caller keep the frames.
    fn invalidate(&mut self, at: u64, len: u64);
}
