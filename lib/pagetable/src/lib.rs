//! Page tables in the format that Arm CPUs and SMMUs share: TTBR1 (the kernel), TTBR0 (programs), SMMU stage 1 and
//! stage 2. The 4 KiB granule, 48 bits at most, blocks of 1 GiB and 2 MiB, the contiguous hint at levels 2 and 3.
//!
//! The crate holds no memory, no lock and no instruction: [`TableMemory`] lends it tables, barriers and
//! invalidations. Section numbers are those of DDI 0487 (K.a).
//!
//! # Who does what, in which order
//!
//! - [`PageTable::map`] only turns invalid entries into valid ones. The caller then makes them seen (DSB ISHST, and
//!   ISB on a CPU that uses the address at once); no invalidation is needed, since invalid entries are never cached.
//! - [`PageTable::unmap`] clears entries. **The frames behind them and the [`StaleTables`] it returns stay in use**
//!   until the caller has invalidated the range everywhere; with stale tables, by a form that also drops cached
//!   table entries (not `TLBI VALE1IS`, not `Leaf=1`).
//! - [`PageTable::protect`] rewrites entries; the caller invalidates the range before it counts on the new rights.
//! - What needs break-before-make (D8.16.1) in the middle of a call - splitting a block, a contiguous group, a new
//!   memory type, taking back a failed map - goes through [`TableMemory::invalidate`] by itself. While an entry is
//!   broken, an access through it faults: a CPU has to retry it, a device must not be using it.

//!
//! # What it costs
//!
//! Every entry is written once, tables are walked once for each table touched, and a range that covers a table's
//! whole reach goes by one store at its parent. `tests/cost.rs` says it in stores, barriers and tables.

#![cfg_attr(not(test), no_std)]
// Not `forbid`: one constructor is an `unsafe fn`, as its caller has to prove ownership. No code here is unsafe.
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

pub use change::EntryChange;
pub use descriptor::{Descriptor, Format, Stage1, Stage2};
pub use map::MapError;
pub use mapping::{Access, Mapping, MappingError};
pub use memory::{Entries, TableFrame, TableMemory};
pub use pinned::{LeafAttributes, PINNED_BYTES, PinnedEntries, pinned_page};
pub use protect::ProtectError;
pub use root::{FixedRoot, PerCpuRoot};
pub use space::InputAddress;
pub use stale::StaleTables;
pub use table::{OutOfTables, PageTable};
pub use unmap::UnmapError;
pub use visit::Leaf;
pub use window::MapWindow;
