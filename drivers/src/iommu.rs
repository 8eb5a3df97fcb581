//! What the kernel asks of an IOMMU, whichever it is, and the types that keep memory away from everyone until the
//! IOMMU has forgotten it.
//!
//! ```text
//! map(at, chunks)            the device may use them
//! unmap(range, held)         the tables are cleared -> Stale<T>: the device may still reach what T holds
//! invalidate(Stale<T>)       the IOMMU has forgotten -> Freed<T>; on a time-out the Stale<T> comes back
//! Freed<T>::take()           T: frames and addresses may be used again
//! ```
//!
//! `T` is whatever has to stay as it is meanwhile: the frames and the `Iova` range, or the pins of a program's pages.
//! There is no other way to get it out, so nothing can be reused too early.
//!
//! Locks are the kernel's: a domain has its own, and what several domains share (a command queue) is passed as a
//! [`Shared`], which is locked only where it is needed. `map` touches it only to take back its part of a failed
//! mapping, `unmap` only when the range cuts a block or empties a table.

use crate::region::RegionSource;
use addr::{AddrRange, FrameRun, Iova, PhysAddr, StreamId};
use core::cell::RefCell;
use core::fmt::Debug;
use core::mem::ManuallyDrop;
use pagetable::{Mapping, StaleTables, TableMemory};
use smmu_spec::Invalidation;

/// A value behind somebody's lock.
pub trait Shared<T> {
    /// Calls `action` with the value, locked.
    fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Shared<T> for RefCell<T> {
    fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R {
        action(&mut self.borrow_mut())
    }
}

/// What a device may still reach: its mapping is gone from the tables, but not from the IOMMU's caches.
///
/// Dropping it does not drop what it holds: that stays out of use for good, which is all that can be done with it when the
/// IOMMU never answers.
#[derive(Debug)]
#[must_use = "what it holds is lost unless invalidated"]
pub struct Stale<T> {
    held: ManuallyDrop<T>,
    tables: StaleTables,
    range: AddrRange<Iova>,
    forget: Invalidation,
}

impl<T> Stale<T> {
    pub(crate) fn new(held: T, range: AddrRange<Iova>, tables: StaleTables, forget: Invalidation) -> Self {
        Self { held: ManuallyDrop::new(held), tables, range, forget }
    }

    /// The addresses under which the device may still reach it.
    pub fn range(&self) -> AddrRange<Iova> {
        self.range
    }

    /// What the IOMMU has to be told; nothing for one without caches.
    pub(crate) fn forget(&self) -> Invalidation {
        self.forget
    }

    /// The caller has seen the completion of [`Stale::forget`].
    #[inline(always)] // A move of it costs as much as the rest.
    pub(crate) fn freed(self) -> Freed<T> {
        Freed { held: ManuallyDrop::into_inner(self.held), tables: self.tables }
    }
}

/// What no device can reach any more.
#[derive(Debug)]
#[must_use = "what it holds is lost unless taken"]
pub struct Freed<T> {
    held: T,
    tables: StaleTables,
}

impl<T> Freed<T> {
    /// Gives the tables back to `memory` that went with the mapping, and what was held to the caller.
    #[inline]
    pub fn take<M: TableMemory>(self, memory: &mut M) -> T {
        if !self.tables.is_empty() {
            self.tables.release(memory);
        }
        self.held
    }
}

/// The IOMMU did not say that it has forgotten. What `stale` holds must stay out of use; invalidating it may be tried
/// again.
#[derive(Debug)]
pub struct Unfinished<T, E> {
    /// Why.
    pub error: E,
    /// What the device may still reach.
    pub stale: Stale<T>,
}

/// `held` is mapped as before.
#[derive(Debug)]
pub struct NotUnmapped<T> {
    /// Why.
    pub error: pagetable::UnmapError<Iova>,
    /// What was to be unmapped.
    pub held: T,
}

/// Who chooses the address of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// The caller, anywhere in the domain's input range.
    Anywhere,
    /// The fabric: memory has this address for the device, and no other.
    At(Iova),
}

/// Why chunks cannot be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError<E> {
    /// As the page table says; nothing is mapped, and nothing is in the IOMMU's caches.
    Table(pagetable::MapError<Iova>),
    /// Mapping failed half-way, and then the IOMMU did not say that it has forgotten that half. Nothing is mapped, but
    /// neither the chunks nor the addresses may be used again.
    NotForgotten {
        /// Why mapping failed.
        cause: pagetable::MapError<Iova>,
        /// What the IOMMU said.
        error: E,
    },
    /// Without translation, a chunk is not behind the one before it.
    NotContiguous(PhysAddr),
    /// Without translation, the device has no address for this memory, or one past its mask.
    Unreachable(PhysAddr),
    /// Without translation, the memory is at another address than was asked for.
    NotAt {
        /// The address asked for.
        asked: Iova,
        /// The address it has.
        is: Iova,
    },
    /// There are no chunks.
    Empty,
}

/// The addresses of a device, or of several that share them.
pub trait Domain {
    /// What all domains of the IOMMU share to make it forget.
    type Commands;
    /// Why the IOMMU did not finish.
    type Error: Copy + Debug;

    /// Bits of address that the domain translates.
    fn input_bits(&self) -> u8;

    /// Where `chunks` may be mapped.
    fn placement(
        &self,
        chunks: impl IntoIterator<Item: FrameRun>,
    ) -> Result<Placement, MapError<Self::Error>>;

    /// Maps `chunks`, or other runs of frames, one after the other, from `at` on. The device sees the mapping before anything that is written
    /// after this returns, a doorbell or memory. After an error nothing is mapped.
    fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<Self::Commands>,
        at: Iova,
        chunks: impl IntoIterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<(), MapError<Self::Error>>;

    /// Takes `range` out of the tables. `held` is what must not be reused before the IOMMU has forgotten.
    fn unmap<T, M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<Self::Commands>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>>;

    /// [`Domain::unmap`] of what some calls of [`Domain::map`] have mapped, all of it: there are no holes in `range`, and
    /// it cuts no block. That takes less.
    fn unmap_whole<T, M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<Self::Commands>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        self.unmap(memory, commands, range, held)
    }

    /// Makes the IOMMU forget, and waits until it has (bounded). Needs no lock of the domain.
    fn invalidate<T>(
        commands: &impl Shared<Self::Commands>,
        stale: Stale<T>,
    ) -> Result<Freed<T>, Unfinished<T, Self::Error>>;
}

/// Who may use which domain.
pub trait Iommu {
    /// Its domains.
    type Domain: Domain;
    /// Why a stream was not attached or detached.
    type Error: Debug;

    /// Lets `stream` use `domain`. Only then may its device become a bus master.
    fn attach(
        &mut self,
        commands: &impl Shared<<Self::Domain as Domain>::Commands>,
        memory: &mut impl RegionSource,
        stream: StreamId,
        domain: &mut Self::Domain,
    ) -> Result<(), Self::Error>;

    /// Aborts whatever `stream` does from now on; nothing of it is under way when this returns. After an error the
    /// stream may still use the domain; detaching may be tried again.
    fn detach(
        &mut self,
        commands: &impl Shared<<Self::Domain as Domain>::Commands>,
        stream: StreamId,
        domain: &mut Self::Domain,
    ) -> Result<(), Self::Error>;
}
