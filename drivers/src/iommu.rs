//! Types that keep memory out of use until the IOMMU has dropped its translations.
//!
//! ```text
//! map(at, chunks)            the device may access the chunks
//! unmap(range, held)         table entries are cleared -> Stale<T>: the IOTLB may still translate
//! invalidate(Stale<T>)       the IOTLB entries are gone -> Freed<T>; a timeout returns the Stale<T>
//! Freed<T>::take()           T: frames and addresses may be reused
//! ```
//!
//! `T` is the memory behind the mapping: frames and the `Iova` range, or the pins of a program's pages. No
//! other API returns it, so it cannot be reused too early.
//!
//! Locks belong to the kernel. Each domain has its own; the command queue, which several domains share, is
//! passed as a [`Shared`] and locked only where needed.

use addr::{AddrRange, Iova};
use core::cell::RefCell;
use core::mem::ManuallyDrop;
use pagetable::{StaleTables, TableMemory, UnmapError};
use smmu_spec::Invalidation;

/// A value behind a lock of the caller.
pub trait Shared<T> {
    /// Calls `action` with the value locked.
    fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Shared<T> for RefCell<T> {
    fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R {
        action(&mut self.borrow_mut())
    }
}

/// Unmapped memory that a device may still access through the IOMMU's caches.
///
/// Dropping it leaks its contents: without an invalidation, the memory must stay out of use permanently.
#[derive(Debug)]
#[must_use = "its contents are leaked unless invalidated"]
pub struct Stale<T> {
    held: ManuallyDrop<T>,
    tables: StaleTables,
    range: AddrRange<Iova>,
    invalidation: Invalidation,
}

impl<T> Stale<T> {
    pub(crate) fn new(
        held: T,
        range: AddrRange<Iova>,
        tables: StaleTables,
        invalidation: Invalidation,
    ) -> Self {
        Self { held: ManuallyDrop::new(held), tables, range, invalidation }
    }

    /// The addresses through which the device may still access it.
    pub fn range(&self) -> AddrRange<Iova> {
        self.range
    }

    /// The required invalidation.
    pub(crate) fn invalidation(&self) -> Invalidation {
        self.invalidation
    }

    /// The caller must have observed the completion of [`Stale::invalidation`].
    #[inline(always)] // A move of it costs as much as the rest.
    pub(crate) fn freed(self) -> Freed<T> {
        Freed { held: ManuallyDrop::into_inner(self.held), tables: self.tables }
    }
}

/// Unmapped memory that no device can access any more.
#[derive(Debug)]
#[must_use = "its contents are dropped and its page tables leaked unless taken"]
pub struct Freed<T> {
    held: T,
    tables: StaleTables,
}

impl<T> Freed<T> {
    /// Releases the page-table pages that the unmap detached to `memory`, and returns the held value.
    #[inline]
    pub fn take<M: TableMemory>(self, memory: &mut M) -> T {
        if !self.tables.is_empty() {
            self.tables.release(memory);
        }
        self.held
    }
}

/// The invalidation did not complete. The memory held by `stale` must stay out of use; the invalidation may
/// be retried.
#[derive(Debug)]
pub struct NotInvalidated<T, E> {
    /// Error of the IOMMU.
    pub error: E,
    /// The memory that the device may still access.
    pub stale: Stale<T>,
}

/// The unmap failed; `held` is still mapped.
#[derive(Debug)]
pub struct NotUnmapped<T> {
    /// Error of the page table.
    pub error: UnmapError<Iova>,
    /// The value passed to the unmap.
    pub held: T,
}
