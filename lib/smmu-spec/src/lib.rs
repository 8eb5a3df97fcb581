//! SMMUv3 formats and arithmetic (IHI 0070): encoding of structures, commands and event records, and the
//! order in which live structures are updated. No waiting, no MMIO.
//!
//! All bit manipulation for the SMMU is in this crate; the driver builds values ([`Ste`], [`Command`], ...)
//! and stores their words.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "model")]
extern crate alloc;

pub mod cd;
pub mod coherency;
pub mod command;
pub mod cursor;
pub mod errata;
pub mod event;
pub mod field;
#[cfg(feature = "model")]
pub mod model;
pub mod range;
pub mod ste;
pub mod update;

pub use cd::{ContextDescriptor, Stage1Config};
pub use coherency::WalkCoherency;
pub use command::{Command, Extent, Scope};
pub use cursor::Cursor;
pub use errata::{Erratum, Workaround};
pub use event::{AccessKind, EventKind, EventRecord, FaultClass, FaultLocation, Transaction};
pub use range::{Invalidation, RangeInvalidation};
pub use ste::{L1Descriptor, STAGE1_VMID, Stage2Config, Ste, StreamConfig, TlbTag};
pub use update::{Step, Steps, update};
