//! The SMMU driver against the SMMU model.

mod commands;
mod events;
mod failures;
mod invalidation;
mod judge;
#[cfg(feature = "loom")]
mod loom;
mod qemu;
mod reset;
mod streams;
mod test_machine;
mod translation;

use addr::{Iova, MemoryType, PAGE_SIZE, PhysAddr, StreamId};
use drivers::iommu::Shared;
use drivers::smmu::{
    self, CommandError, CommandQueue, DestroyError, DomainError, DomainMapError, EventReport, Features,
    PagingDomain, PinnedTable, QueueFull, RegisterTimeout, StartError, StreamError, TIMEOUT_US,
};
use pagetable::{MapError, Mapping};
use smmu_spec::model::{IdRegisters, TransactionResult};
use smmu_spec::{Command, EventKind, Ste, StreamConfig, TlbTag, WalkCoherency};
use std::cell::RefCell;
use std::rc::Rc;
use test_machine::fixture::{Fixture, READ, RW, STREAM, WRITE, chunk, fixture, kinds, pages_at};
use test_machine::{LAST, StoreOrder, TestMachine, TestMemory};
