//! A domain: one set of tables, one tag, and at stage 1 one context descriptor (IHI 0070, 3.3.2 and 5.4).

use super::coherency::Coherency;
use super::command_queue::{self, CommandError, CommandQueue};
use super::pinned_table::PinnedTable;
use super::probe::Features;
use super::table_memory::{RunCommands, SmmuTableMemory, TranslationParams};
use super::tlb_tags::TlbTagAllocator;
use crate::iommu::{self, Freed, MapError, NotUnmapped, Placement, Shared, Stale, Unfinished};
use crate::region::{Region, RegionSource};
use addr::{AddrRange, Iova, PAGE_SIZE, PhysAddr};
use pagetable::{Leaf, Mapping, PageTable, Stage1, StaleTables, TableMemory, UnmapError};
use smmu_spec::{
    ContextDescriptor, Invalidation, Stage1Config, Stage2Config, Step, StreamConfig, TlbTag, update,
};

/// Why there is no domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainError {
    /// As many input bits as the SMMU does not translate (or fewer than 25).
    InputBits(u8),
    /// All tags are in use.
    OutOfTags,
    /// No memory for the context descriptor or the first table.
    OutOfMemory,
}

/// Why a domain was not taken apart. It is as before.
#[derive(Debug)]
pub enum DestroyError {
    /// So many streams are attached.
    InUse(PagingDomain),
    /// The SMMU did not say that it has forgotten.
    Command(CommandError, PagingDomain),
}

/// The tables, by stage. The stage is the SMMU's, so all its domains have the same.
#[derive(Debug)]
enum Tables {
    Stage1 { tables: PageTable<Stage1, Iova>, context: Region },
    Stage2(PageTable<pagetable::Stage2, Iova>),
}

/// An address space for the devices of the streams attached to it.
#[derive(Debug)]
pub struct PagingDomain {
    tables: Tables,
    params: TranslationParams,
    output_size: u64,
    /// How many streams are attached.
    pub(super) streams: u32,
}

impl PagingDomain {
    /// An empty domain that translates `input_bits` bits of address, 25 to [`Features::input_bits`]: nothing is mapped,
    /// no stream attached.
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
        let output_size = features.output_size();
        let Some(tables) = new_tables(params, output_size, regions, memory, input_bits) else {
            tags.release(tag);
            return Err(DomainError::OutOfMemory);
        };
        Ok(Self { tables, params, output_size, streams: 0 })
    }

    /// Takes the domain apart, whatever is still mapped in it. All its streams are detached.
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
            Tables::Stage1 { tables, context } => {
                tables.destroy(memory);
                regions.release(context);
            }
            Tables::Stage2(tables) => tables.destroy(memory),
        }
        tags.release(self.params.tag);
        Ok(())
    }

    /// Gives back the one empty table that the domain keeps for its next mapping.
    pub fn trim<M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
    ) -> Result<(), Unfinished<(), CommandError>> {
        let Some((range, tables)) = self.unlink_spare(&walked(memory, commands, self.params)) else {
            return Ok(());
        };
        let stale = Stale::new((), range, tables, self.params.forget(range, false));
        <Self as iommu::Domain>::invalidate(commands, stale).map(|freed| freed.take(memory))
    }

    /// What is stale after `range` was unmapped and tables were unlinked, or why it was not.
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
        let forget = self.params.forget(range, tables.is_empty());
        // The next mapping may put another table where one was unlinked, which is break-before-make: the old one is
        // forgotten before anybody else gets at the domain (DDI 0487, D8.16.1). If that fails, `invalidate` tries again.
        let forgotten = !tables.is_empty() && command_queue::run(commands, forget).is_ok();
        let forget = if forgotten { Invalidation::EMPTY } else { forget };
        Ok(Stale::new(held, range, tables, forget))
    }

    fn unlink_spare<M: TableMemory>(&mut self, walked: &M) -> Option<(AddrRange<Iova>, StaleTables)> {
        match &mut self.tables {
            Tables::Stage1 { tables, .. } => tables.trim(walked),
            Tables::Stage2(tables) => tables.trim(walked),
        }
    }

    /// Pins the table for the [`PinnedTable::BYTES`] from `at` on, a multiple of them, where nothing is mapped. From then on
    /// what is there is mapped and unmapped through the result alone.
    ///
    /// # Errors
    /// As the page table says; everything is as before.
    pub fn pin<M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        at: Iova,
    ) -> Result<PinnedTable, pagetable::MapError<Iova>> {
        let mut walked = walked(memory, commands, self.params);
        let table = match &mut self.tables {
            Tables::Stage1 { tables, .. } => tables.pin(&mut walked, at),
            Tables::Stage2(tables) => tables.pin(&mut walked, at),
        }?;
        self.params.coherency.publish();
        Ok(PinnedTable::new(table, at, self.params))
    }

    /// What its translations are tagged with.
    pub fn tag(&self) -> TlbTag {
        self.params.tag
    }

    /// Streams attached to it.
    pub fn streams(&self) -> u32 {
        self.streams
    }

    /// Frames in its page table.
    pub fn table_frames(&self) -> u32 {
        match &self.tables {
            Tables::Stage1 { tables, .. } => tables.tables(),
            Tables::Stage2(tables) => tables.tables(),
        }
    }

    /// What `at` is translated to.
    pub fn translate<M: TableMemory>(&self, memory: &M, at: Iova) -> Option<Leaf<Iova>> {
        match &self.tables {
            Tables::Stage1 { tables, .. } => tables.translate(memory, at),
            Tables::Stage2(tables) => tables.translate(memory, at),
        }
    }

    /// Calls `visit` for each page or block in `range`, from the lowest up.
    pub fn leaves<M: TableMemory>(&self, memory: &M, range: AddrRange<Iova>, visit: impl FnMut(Leaf<Iova>)) {
        match &self.tables {
            Tables::Stage1 { tables, .. } => tables.leaves(memory, range, visit),
            Tables::Stage2(tables) => tables.leaves(memory, range, visit),
        }
    }

    /// Shows every table that the SMMU's walks can come to, the first ones first.
    pub fn each_table<M: TableMemory>(&self, memory: &M, show: impl FnMut(PhysAddr)) {
        match &self.tables {
            Tables::Stage1 { tables, .. } => tables.each_table(memory, show),
            Tables::Stage2(tables) => tables.each_table(memory, show),
        }
    }

    /// What the stream table entry of an attached stream says.
    pub(super) fn stream_config(&self) -> StreamConfig {
        match &self.tables {
            Tables::Stage1 { context, .. } => {
                StreamConfig::Stage1 { context: context.start(), coherency: self.params.coherency.0 }
            }
            Tables::Stage2(tables) => StreamConfig::Stage2(Stage2Config {
                vmid: match self.params.tag {
                    TlbTag::Stage2(vmid) => vmid,
                    TlbTag::Stage1(asid) => unreachable!("{asid:?} with stage 2 tables"),
                },
                tables: tables.root(),
                input_bits: tables.input_bits(),
                output_size: self.output_size,
                coherency: self.params.coherency.0,
            }),
        }
    }
}

/// `memory` while tables change that the SMMU walks.
fn walked<'a, M>(
    memory: &'a mut M,
    commands: &'a impl Shared<CommandQueue>,
    params: TranslationParams,
) -> SmmuTableMemory<'a, M, impl RunCommands> {
    let run = |invalidation| command_queue::run(commands, invalidation);
    SmmuTableMemory { memory, run, params, failure: None }
}

impl iommu::Domain for PagingDomain {
    type Commands = CommandQueue;
    type Error = CommandError;

    fn input_bits(&self) -> u8 {
        match &self.tables {
            Tables::Stage1 { tables, .. } => tables.input_bits(),
            Tables::Stage2(tables) => tables.input_bits(),
        }
    }

    fn placement(
        &self,
        _: impl IntoIterator<Item: addr::FrameRun>,
    ) -> Result<Placement, MapError<CommandError>> {
        Ok(Placement::Anywhere)
    }

    fn map<M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        at: Iova,
        chunks: impl IntoIterator<Item: addr::FrameRun>,
        mapping: Mapping,
    ) -> Result<(), MapError<CommandError>> {
        let mut walked = walked(memory, commands, self.params);
        let mapped = match &mut self.tables {
            Tables::Stage1 { tables, .. } => tables.map(&mut walked, at, chunks, mapping),
            Tables::Stage2(tables) => tables.map(&mut walked, at, chunks, mapping),
        };
        // Entries that were invalid are not cached, so being seen is all it takes.
        self.params.coherency.publish();
        mapped.map_err(|cause| match walked.failure {
            None => MapError::Table(cause),
            Some(error) => MapError::NotForgotten { cause, error },
        })
    }

    fn unmap<T, M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        let mut walked = walked(memory, commands, self.params);
        // A block that is cut is broken before it is made anew. If the SMMU does not confirm that, the device may see
        // either until it does, and `invalidate` says so.
        let unmapped = match &mut self.tables {
            Tables::Stage1 { tables, .. } => tables.unmap(&mut walked, range),
            Tables::Stage2(tables) => tables.unmap(&mut walked, range),
        };
        self.stale(commands, range, unmapped, held)
    }

    fn unmap_whole<T, M: TableMemory>(
        &mut self,
        memory: &mut M,
        commands: &impl Shared<CommandQueue>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        let walked = walked(memory, commands, self.params);
        let unmapped = match &mut self.tables {
            Tables::Stage1 { tables, .. } => tables.unmap_whole(&walked, range),
            Tables::Stage2(tables) => tables.unmap_whole(&walked, range),
        };
        self.stale(commands, range, unmapped, held)
    }

    #[inline(always)] // Its result is large, and mostly taken apart at once.
    fn invalidate<T>(
        commands: &impl Shared<CommandQueue>,
        stale: Stale<T>,
    ) -> Result<Freed<T>, Unfinished<T, CommandError>> {
        if stale.forget().is_empty() {
            return Ok(stale.freed());
        }
        match command_queue::run(commands, stale.forget()) {
            Ok(()) => Ok(stale.freed()),
            Err(error) => Err(Unfinished { error, stale }),
        }
    }
}

fn new_tables<M: TableMemory>(
    params: TranslationParams,
    output_size: u64,
    regions: &mut impl RegionSource,
    memory: &mut M,
    input_bits: u8,
) -> Option<Tables> {
    // Nobody walks these tables yet, so there is nothing to invalidate while they are made.
    let mut walked = SmmuTableMemory { memory, run: |_| Ok(()), params, failure: None };
    let TlbTag::Stage1(asid) = params.tag else {
        let tables = PageTable::new(&mut walked, input_bits).ok()?;
        return Some(Tables::Stage2(tables.with_spare_table()));
    };
    let context = regions.allocate(PAGE_SIZE)?;
    let Ok(tables) = PageTable::new(&mut walked, input_bits) else {
        regions.release(context);
        return None;
    };
    let coherency = params.coherency.0;
    let space = Stage1Config { tables: tables.root(), input_bits, output_size, asid, coherency };
    write_context(&context, space, params.coherency);
    Some(Tables::Stage1 { tables: tables.with_spare_table(), context })
}

/// Writes a descriptor that no entry leads to yet, so that no step has to be synchronised.
fn write_context(context: &Region, space: Stage1Config, coherency: Coherency) {
    for step in update(ContextDescriptor::INVALID, ContextDescriptor::new(space)).iter() {
        if let Step::Write { word, value } = step {
            context.store(word, &[value]);
        }
    }
    coherency.written(context.words());
    coherency.publish();
}
