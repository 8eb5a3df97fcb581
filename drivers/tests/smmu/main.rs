//! The real SMMU driver against the model: what the driver says it did is what the model does.

mod commands;
mod events;
mod failures;
mod forgetting;
mod judge;
#[cfg(feature = "loom")]
mod loom;
mod qemu;
mod starting;
mod streams;
mod translation;
mod world;

use addr::{Iova, MemoryType, PAGE_SIZE, StreamId};
use drivers::iommu::{self, MapError, Shared};
use drivers::smmu::{
    self, CommandError, CommandQueue, DestroyError, Domain, DomainError, PATIENCE, Report, StartError,
    StreamError,
};
use pagetable::Mapping;
use smmu_spec::model::{Ids, Outcome};
use smmu_spec::{Command, EventKind, Tag, Walks};
use std::cell::RefCell;
use std::rc::Rc;
use world::rig::{READ, RW, Rig, STREAM, WRITE, chunk, kinds, pages_at, rig};
use world::{Order, Source, World};
