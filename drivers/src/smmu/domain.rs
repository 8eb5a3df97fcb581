//! A paging domain: page tables, a TLB tag, and at stage 1 a context descriptor (IHI 0070, 3.3.2 and 5.4).

use super::coherency::Coherency;
use super::command_queue::{self, CommandError, CommandQueue};
use super::pinned_table::PinnedTable;
use super::probe::Features;
use super::table_memory::{RunCommands, SmmuTableMemory, TranslationParams};
use super::tlb_tags::TlbTagAllocator;
use crate::iommu::{Freed, NotInvalidated, NotUnmapped, Shared, Stale};
use crate::region::{Region, RegionSource};
use addr::{AddrRange, FrameRun, Iova, PAGE_SIZE, PhysAddr};
use core::ops::ControlFlow;
use pagetable::{Leaf, MapError, Mapping, PageTable, Stage1, StaleTables, TableMemory, UnmapError};
use smmu_spec::{
    ContextDescriptor, Invalidation, Stage1Config, Stage2Config, Step, StreamConfig, TlbTag, update,
};

/// The domain was not created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainError {
    /// The SMMU does not translate this number of input bits, or it is below 25.
    InputBits(u8),
    /// All TLB tags are in use.
    OutOfTags,
    /// No memory for the context descriptor or the first table.
    OutOfMemory,
}

/// The domain was not destroyed, and is unchanged.
#[derive(Debug)]
pub enum DestroyError {
    /// Streams are attached.
    InUse(PagingDomain),
    /// The invalidation did not complete.
    Command(CommandError, PagingDomain),
}

/// Nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainMapError {
    /// Error of the page table. The IOTLB has no entries of the range.
    Table(MapError<Iova>),
    /// The mapping failed halfway, and then the invalidation of its first part failed. Neither the chunks nor
    /// the IOVAs may be reused.
    NotInvalidated {
        /// Why the mapping failed.
        cause: MapError<Iova>,
        /// Why the invalidation failed.
        error: CommandError,
    },
}

/// The page table. The SMMU determines the stage, which is the same for all of its domains.
#[derive(Debug)]
enum StageTables {
    Stage1 { tables: PageTable<Stage1, Iova>, context: Region },
    Stage2(PageTable<pagetable::Stage2, Iova>),
}

/// Evaluates an expression for the page table of either stage.
macro_rules! either_stage {
    ($stage:expr, $tables:ident => $result:expr) => {
        match $stage {
            StageTables::Stage1 { tables: $tables, .. } => $result,
            StageTables::Stage2($tables) => $result,
        }
    };
}

/// An IOVA space for the devices of the attached streams.
///
/// Locking: the caller has exclusive access to the domain. The command queue is [`Shared`] by all domains and
/// locked only where commands are needed: by `map` to undo a failed mapping, by `unmap` if the range splits a
/// block or empties a table.
#[derive(Debug)]
pub struct PagingDomain {
    tables: StageTables,
    params: TranslationParams,
    output_size: u64,
    /// Number of attached streams.
    streams: u32,
    /// Whether the faults of the streams are recorded.
    records_faults: bool,
}

impl PagingDomain {
    /// An empty domain of `input_bits` bits of address, from 25 to [`Features::input_bits`], without streams.
    ///
    /// # Errors
    /// [`DomainError`].
    pub fn new<M: TableMemory>(
        features: &Features,
        tags: &mut TlbTagAllocator,
        regions: &mut impl RegionSource,
        memory: &mut M,
        input_bits: u8,
    ) -> Result<Self, DomainError> {
        if !(25..=features.input_bits()).contains(&input_bits) {
            return Err(DomainError::InputBits(input_bits));
        }
        let tag = tags.allocate().ok_or(DomainError::OutOfTags)?;
        let params = TranslationParams {
            tag,
            ranges: features.range_invalidation,
            coherency: Coherency(features.coherency),
        };
        let Some(tables) = new_tables(features, params, regions, memory, input_bits) else {
            tags.release(tag);
            return Err(DomainError::OutOfMemory);
        };
        Ok(Self { tables, params, output_size: features.output_size(), streams: 0, records_faults: true })
    }

    /// Destroys the domain and its remaining mappings. All streams must be detached.
    ///
    /// # Errors
    /// [`DestroyError`].
    pub fn destroy<M: TableMemory>(
        self,
        commands: &impl Shared<CommandQueue>,
        tags: &mut TlbTagAllocator,
        regions: &mut impl RegionSource,
        memory: &mut M,
    ) -> Result<(), DestroyError> {
        if self.streams != 0 {
            return Err(DestroyError::InUse(self));
        }
        if let Err(error) = command_queue::run(commands, Invalidation::of_tag(self.params.tag)) {
            return Err(DestroyError::Command(error, self));
        }
        match self.tables {
            StageTables::Stage1 { tables, context } => {
                tables.destroy(memory);
                regions.release(context);
            }
            StageTables::Stage2(tables) => tables.destroy(memory),
        }
        tags.release(self.params.tag);
        Ok(())
    }

    /// Maps `chunks`, or other runs of frames, in order from `at` on. The device observes the mapping before
    /// any store that follows this call, to a doorbell or to memory.
    ///
    /// # Errors
    /// [`DomainMapError`]; nothing is mapped.
    ///
    /// # Safety
    /// Devices write to the frames until [`PagingDomain::invalidate`] has returned the result of
    /// [`PagingDomain::unmap`]: until then any content of them is valid at any time, and the caller owns
    /// them. After [`DomainMapError::NotInvalidated`] that holds permanently.
    pub unsafe fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        at: Iova,
        chunks: impl IntoIterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<(), DomainMapError> {
        let mut memory = smmu_memory(memory, commands, self.params);
        let mapped = either_stage!(&mut self.tables, tables => tables.map(&mut memory, at, chunks, mapping));
        // Invalid entries are not cached, so the new ones only have to be visible.
        self.params.coherency.publish();
        mapped.map_err(|cause| match memory.failure {
            None => DomainMapError::Table(cause),
            Some(error) => DomainMapError::NotInvalidated { cause, error },
        })
    }

    /// Clears the entries of `range`. `held` is returned by [`PagingDomain::invalidate`] and must not be
    /// reused before.
    ///
    /// # Errors
    /// [`NotUnmapped`]; `held` is still mapped.
    pub fn unmap<T, M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        let mut memory = smmu_memory(memory, commands, self.params);
        // Splitting a block is break-before-make. If the SMMU does not confirm the break, the device may use
        // the old or the new entries until `invalidate` succeeds.
        let unmapped = either_stage!(&mut self.tables, tables => tables.unmap(&mut memory, range));
        self.stale(commands, range, unmapped, held)
    }

    /// [`PagingDomain::unmap`] of a range that whole calls of [`PagingDomain::map`] have mapped, without
    /// holes: it splits no block, which saves 1 691 of 3 019 instructions of the free of a buffer of 256
    /// pages.
    ///
    /// # Errors
    /// As [`PagingDomain::unmap`].
    pub fn unmap_whole<T, M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        let memory = smmu_memory(memory, commands, self.params);
        let unmapped = either_stage!(&mut self.tables, tables => tables.unmap_whole(&memory, range));
        self.stale(commands, range, unmapped, held)
    }

    /// The result of an unmap. If it unlinked tables, they are invalidated now.
    #[inline]
    fn stale<T>(
        &self,
        commands: &impl Shared<CommandQueue>,
        range: AddrRange<Iova>,
        unmapped: Result<StaleTables, UnmapError<Iova>>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        let tables = match unmapped {
            Ok(tables) => tables,
            Err(error) => return Err(NotUnmapped { error, held }),
        };
        let invalidation = self.params.invalidation(range, tables.is_empty());
        // The next mapping may link another table in place of an unlinked one, which is break-before-make:
        // the SMMU must drop the old one before the lock of the domain is released (DDI 0487, D8.16.1). If
        // that fails, `invalidate` retries it.
        let invalidated = !tables.is_empty() && command_queue::run(commands, invalidation).is_ok();
        let invalidation = if invalidated { Invalidation::EMPTY } else { invalidation };
        Ok(Stale::new(held, range, tables, invalidation))
    }

    /// Invalidates the IOTLB entries of `stale`, and waits for the completion within a time limit. Needs no
    /// access to the domain.
    ///
    /// # Errors
    /// [`NotInvalidated`].
    #[inline(always)] // The result is large, and most callers take it apart immediately.
    pub fn invalidate<T>(
        commands: &impl Shared<CommandQueue>,
        stale: Stale<T>,
    ) -> Result<Freed<T>, NotInvalidated<T, CommandError>> {
        if stale.invalidation().is_empty() {
            return Ok(stale.freed());
        }
        match command_queue::run(commands, stale.invalidation()) {
            Ok(()) => Ok(stale.freed()),
            Err(error) => Err(NotInvalidated { error, stale }),
        }
    }

    /// Pins the table of the [`PinnedTable::BYTES`] from `at` on. `at` must be a multiple of that size, and
    /// nothing may be mapped there; from then on the range is mapped and unmapped through the result only.
    /// `highest` is the last byte of the memory that may be mapped there.
    ///
    /// # Errors
    /// [`MapError`]; nothing is changed. [`MapError::OutputTooLarge`] if the SMMU does not reach `highest`.
    ///
    /// # Safety
    /// The result is not used after the domain is destroyed.
    pub unsafe fn pin<M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        at: Iova,
        highest: PhysAddr,
    ) -> Result<PinnedTable, MapError<Iova>> {
        let mut memory = smmu_memory(memory, commands, self.params);
        let table = either_stage!(&mut self.tables, tables => {
            // SAFETY: passed on to the caller.
            unsafe { tables.pin(&mut memory, at, highest) }
        })?;
        self.params.coherency.publish();
        Ok(PinnedTable::new(table, at, self.params))
    }

    /// The tag of its TLB entries.
    pub fn tag(&self) -> TlbTag {
        self.params.tag
    }

    /// Number of attached streams.
    pub fn streams(&self) -> u32 {
        self.streams
    }

    /// Counts a stream whose entry is about to lead here.
    pub(super) fn add_stream(&mut self) {
        self.streams += 1;
    }

    /// Counts a stream whose entry no longer leads here.
    pub(super) fn remove_stream(&mut self) {
        self.streams -= 1;
    }

    /// Frames of its page table.
    pub fn table_frames(&self) -> u32 {
        either_stage!(&self.tables, tables => tables.tables())
    }

    /// The translation of `at`.
    pub fn translate<M: TableMemory>(&self, memory: &M, at: Iova) -> Option<Leaf<Iova>> {
        either_stage!(&self.tables, tables => tables.translate(memory, at))
    }

    /// Calls `visit` for each page or block in `range`, in ascending order, until it breaks.
    pub fn leaves_until<M: TableMemory>(
        &self,
        memory: &M,
        range: AddrRange<Iova>,
        visit: impl FnMut(Leaf<Iova>) -> ControlFlow<()>,
    ) {
        either_stage!(&self.tables, tables => tables.leaves_until(memory, range, visit))
    }

    /// Calls `visit` for each table that the SMMU can walk, top level first.
    pub fn each_table<M: TableMemory>(&self, memory: &M, visit: impl FnMut(PhysAddr)) {
        either_stage!(&self.tables, tables => tables.each_table(memory, visit))
    }

    /// The configuration in the stream table entry of an attached stream.
    /// Records the faults of the streams, or aborts their transactions without events. The configuration of
    /// each stream must be updated and invalidated.
    pub(super) fn set_recording(&mut self, records: bool) {
        self.records_faults = records;
        let StageTables::Stage1 { context, .. } = &self.tables else { return };
        let coherency = self.params.coherency;
        let old = ContextDescriptor(context.load(0));
        let word = ContextDescriptor::RECORD_WORD;
        // One flag: a single store of its word is an update from one valid configuration to another.
        context.store(word, &[old.recording(records).0[word]]);
        coherency.clean(&context.words()[word..=word]);
        coherency.publish();
    }

    /// Whether the page tables are those of stage 1, with a context descriptor.
    pub(super) fn has_context(&self) -> bool {
        matches!(self.tables, StageTables::Stage1 { .. })
    }

    pub(super) fn stream_config(&self) -> StreamConfig {
        let coherency = self.params.coherency.0;
        match (&self.tables, self.params.tag) {
            (StageTables::Stage1 { context, .. }, _) => {
                StreamConfig::Stage1 { context: context.start(), coherency }
            }
            (StageTables::Stage2(tables), TlbTag::Stage2(vmid)) => StreamConfig::Stage2(Stage2Config {
                vmid,
                tables: tables.root(),
                input_bits: tables.input_bits(),
                output_size: self.output_size,
                coherency,
                records_faults: self.records_faults,
            }),
            (StageTables::Stage2(_), TlbTag::Stage1(asid)) => unreachable!("{asid:?} with stage 2 tables"),
        }
    }
}

/// `memory` during a change of tables that the SMMU walks.
fn smmu_memory<'a, M>(
    memory: &'a mut M,
    commands: &'a impl Shared<CommandQueue>,
    params: TranslationParams,
) -> SmmuTableMemory<'a, M, impl RunCommands> {
    let run = |invalidation| command_queue::run(commands, invalidation);
    SmmuTableMemory { memory, run, params, failure: None }
}

fn new_tables<M: TableMemory>(
    features: &Features,
    params: TranslationParams,
    regions: &mut impl RegionSource,
    memory: &mut M,
    input_bits: u8,
) -> Option<StageTables> {
    // The SMMU does not walk these tables yet, so nothing needs invalidation.
    let mut memory = SmmuTableMemory { memory, run: |_| Ok(()), params, failure: None };
    let (output, output_size) = (features.output(), features.output_size());
    let TlbTag::Stage1(asid) = params.tag else {
        let tables = PageTable::new(&mut memory, input_bits).ok()?;
        return Some(StageTables::Stage2(tables.with_spare_table().with_output_size(output)));
    };
    let context = regions.allocate(PAGE_SIZE)?;
    let Ok(tables) = PageTable::new(&mut memory, input_bits) else {
        regions.release(context);
        return None;
    };
    let coherency = params.coherency.0;
    let space = Stage1Config { tables: tables.root(), input_bits, output_size, asid, coherency };
    write_context(&context, space, params.coherency);
    let tables = tables.with_spare_table().with_output_size(output);
    Some(StageTables::Stage1 { tables, context })
}

/// Writes a context descriptor. No stream table entry leads to it yet, so no step needs a synchronization.
fn write_context(context: &Region, space: Stage1Config, coherency: Coherency) {
    for step in update(ContextDescriptor::INVALID, ContextDescriptor::new(space)).iter() {
        if let Step::Write { word, value } = step {
            context.store(word, &[value]);
        }
    }
    coherency.clean(context.words());
    coherency.publish();
}
