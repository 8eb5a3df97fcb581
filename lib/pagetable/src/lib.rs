//! Page tables in the format that Arm CPUs and SMMUs share: TTBR1 (the kernel), TTBR0 (programs), SMMU stage
//! 1 and stage 2. The 4 KiB granule, 48 bits at most, blocks of 1 GiB and 2 MiB, the contiguous hint at
//! levels 2 and 3.
//!
//! The crate has no memory, no lock and no instructions: [`TableMemory`] provides tables, barriers and
//! invalidations. Section numbers are those of DDI 0487 (K.a).
//!
//! # Contract with the caller
//!
//! - [`PageTable::map`] only turns invalid entries into valid ones. The caller then makes them visible to the
//!   walker (DSB ISHST, and ISB on a CPU that uses the address immediately). No invalidation is needed, since
//!   TLBs never cache invalid entries.
//! - [`PageTable::unmap`] clears entries. **The mapped frames and the returned [`StaleTables`] stay in use**
//!   until the caller has invalidated the range in all TLBs; with stale tables, by a form that also drops
//!   cached table entries (not `TLBI VALE1IS`, not `Leaf=1`), **and before the next [`PageTable::map`]**: it
//!   may link another table in place of an unlinked one, which is break-before-make. So the lock of the tree
//!   is held until that invalidation is complete.
//! - [`PageTable::protect`] rewrites entries. The new rights are guaranteed once the caller has invalidated
//!   the range.
//! - Break-before-make (D8.16.1) within a call - splitting a block or a contiguous group, changing a memory
//!   type, replacing the frames of a leaf, undoing a failed map - uses [`TableMemory::invalidate`]. An access
//!   through a broken entry faults: a CPU has to retry it; a device must not be using the range.
//!
//! # Safety
//!
//! Mapping is safe, since it only writes descriptors: the CPU or a device accesses memory through them once a
//! TTBR or a context descriptor has the root. The component that installs the root guarantees, as long as it
//! is installed, for each [`PageTable::map`], [`PageTable::replace_leaf`] and [`MapWindow::map`] that the
//! frames may be accessed with these rights until the mapping is invalidated. So it offers these operations
//! as unsafe functions.
//!
//! # Cost
//!
//! Every entry is written once, each table is walked to once, and a range that covers all of a table is
//! unmapped by one store in its parent. `tests/cost.rs` counts stores, barriers and tables.

#![cfg_attr(not(test), no_std)]
// Not `forbid`: one constructor is an `unsafe fn`, since its caller has to prove ownership, and one trait is
// unsafe to implement. There is no unsafe block.
#![deny(unsafe_code)]

mod change;
mod descriptor;
mod fill;
mod geometry;
mod map;
mod mapping;
mod memory;
mod pinned;
mod protect;
mod replace;
mod root;
mod space;
mod split;
mod stale;
mod steps;
mod table;
mod unmap;
mod visit;
mod window;

#[cfg(test)]
mod tests;

pub use descriptor::{Descriptor, Format, Stage1, Stage2};
pub use geometry::OutputSize;
pub use map::MapError;
pub use mapping::{Access, LeafSize, Mapping, MappingError};
pub use memory::{Entries, TableFrame, TableMemory, TableRef};
pub use pinned::{LeafAttributes, PINNED_BYTES, PinnedEntries, pinned_page};
pub use protect::ProtectError;
pub use root::{FixedRoot, PerCpuRoot};
pub use space::InputAddress;
pub use stale::StaleTables;
pub use table::{OutOfTables, PageTable};
pub use unmap::UnmapError;
pub use visit::{Leaf, MappedRun};
pub use window::MapWindow;
