//! The stream table (IHI 0070, 3.3.1 and 5.1): which stream may do what. A stream that was never attached aborts: in a
//! linear table by an entry that says so, in a two-level table also for want of a second level.

use super::coherency::Coherency;
use super::command_queue::{self, CommandError, CommandQueue};
use super::domain::PagingDomain;
use super::probe::Features;
use super::registers::{CommandRegisters, bits};
use crate::iommu::{Iommu, Shared};
use crate::region::{Region, RegionSource};
use addr::{PAGE_SIZE, StreamId};
use alloc::vec::Vec;
use smmu_spec::field::{address, extract, field};
use smmu_spec::{Command, L1Descriptor, Ste, Step, StreamConfig, TlbTag, update};
use tock_registers::interfaces::Writeable;

/// Streams in each second-level table, log2: 64 entries fill one page. A legal SPLIT.
const SPLIT: u8 = 6;
/// The most streams of a linear table, log2: 64 Ki entries are 4 MiB.
const MAX_LINEAR_LOG2: u8 = 16;
/// The most streams of a two-level table, log2: its first level is 1 MiB then.
const MAX_TWO_LEVEL_LOG2: u8 = 17 + SPLIT;
/// 64-bit words of an entry.
const STE_WORDS: usize = Ste::BYTES as usize / 8;

/// Why a stream was not attached or detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamError {
    /// The table does not reach this stream.
    OutOfRange(StreamId),
    /// It uses a domain already.
    AlreadyAttached(StreamId),
    /// It uses another domain, or none.
    NotAttached(StreamId),
    /// No memory for a second-level table.
    OutOfMemory(StreamId),
    /// The SMMU did not say that it knows the new entry. The stream counts as attached: detach it before its domain goes.
    Command(CommandError),
}

impl From<CommandError> for StreamError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

enum Format {
    Linear(Region),
    TwoLevel {
        first: Region,
        /// The tables that descriptors lead to, sorted by the descriptor's index.
        second: Vec<(usize, Region)>,
    },
}

/// The table. Entries change by the steps of [`update()`], each made known to the SMMU before the next.
pub struct StreamTable {
    format: Format,
    log2: u8,
    coherency: Coherency,
    /// Who is attached, and the tag of what; in the order of streams.
    attached: Vec<(StreamId, TlbTag)>,
}

impl StreamTable {
    /// A table in which every stream aborts; `None` without memory.
    pub(super) fn new(
        features: &Features,
        coherency: Coherency,
        memory: &mut impl RegionSource,
    ) -> Option<Self> {
        let two_level = features.two_level_streams && features.stream_bits > SPLIT;
        let most = if two_level { MAX_TWO_LEVEL_LOG2 } else { MAX_LINEAR_LOG2 };
        let log2 = features.stream_bits.min(most);
        let bytes = if two_level { 8 << (log2 - SPLIT) } else { Ste::BYTES << log2 };
        let region = memory.allocate(bytes.max(PAGE_SIZE))?;
        let format = if two_level {
            // Zeroes are descriptors without a second level.
            coherency.written(region.words());
            Format::TwoLevel { first: region, second: Vec::new() }
        } else {
            fill_with_abort(&region, coherency);
            Format::Linear(region)
        };
        Some(Self { format, log2, coherency, attached: Vec::new() })
    }

    /// Tells the SMMU where the table is. SMMUEN is 0.
    pub(super) fn install(&self, registers: &CommandRegisters) {
        let (table, format) = match &self.format {
            Format::Linear(table) => (table, field(17, 16, 0b00)),
            Format::TwoLevel { first, .. } => (first, field(17, 16, 0b01) | field(10, 6, SPLIT.into())),
        };
        let base = address(55, 6, table.start().raw()) | bits::BASE_ALLOCATE;
        registers.strtab_base.set(base);
        registers.strtab_base_cfg.set((format | field(5, 0, self.log2.into())) as u32);
    }

    /// Gives the memory back. The SMMU never learned of it, or was disabled since.
    pub(super) fn release(self, memory: &mut impl RegionSource) {
        match self.format {
            Format::Linear(table) => memory.release(table),
            Format::TwoLevel { first, second } => {
                second.into_iter().for_each(|(_, table)| memory.release(table));
                memory.release(first);
            }
        }
    }

    /// Streams the table has room for, log2. All others abort.
    pub fn stream_bits(&self) -> u8 {
        self.log2
    }

    /// Second-level tables so far.
    pub fn second_level_tables(&self) -> usize {
        match &self.format {
            Format::Linear(_) => 0,
            Format::TwoLevel { second, .. } => second.len(),
        }
    }

    /// The entry of `stream` as the SMMU reads it, or `None` where there is no second level.
    pub fn entry(&self, stream: StreamId) -> Option<Ste> {
        let (table, first) = self.place(stream)?;
        Some(Ste(table.load(first)))
    }

    fn check_range(&self, stream: StreamId) -> Result<(), StreamError> {
        if u64::from(stream.raw()) < 1 << self.log2 { Ok(()) } else { Err(StreamError::OutOfRange(stream)) }
    }

    /// The table with the stream's entry and the entry's first word in it.
    fn place(&self, stream: StreamId) -> Option<(&Region, usize)> {
        self.check_range(stream).ok()?;
        match &self.format {
            Format::Linear(table) => Some((table, stream.raw() as usize * STE_WORDS)),
            Format::TwoLevel { second, .. } => {
                let (above, below) = split(stream);
                let at = second.binary_search_by_key(&above, |(index, _)| *index).ok()?;
                Some((&second[at].1, below * STE_WORDS))
            }
        }
    }

    /// Makes sure that the stream has an entry. The descriptor that led nowhere may be cached: whoever changes the entry
    /// makes the SMMU forget both (Leaf = 0), and until then the stream aborts either way.
    fn grow(&mut self, memory: &mut impl RegionSource, stream: StreamId) -> Result<(), StreamError> {
        let coherency = self.coherency;
        let Format::TwoLevel { first, second } = &mut self.format else { return Ok(()) };
        let (above, _) = split(stream);
        let Err(at) = second.binary_search_by_key(&above, |(index, _)| *index) else { return Ok(()) };
        second.try_reserve(1).map_err(|_| StreamError::OutOfMemory(stream))?;
        let table = memory.allocate(Ste::BYTES << SPLIT).ok_or(StreamError::OutOfMemory(stream))?;
        fill_with_abort(&table, coherency);
        // The entries before the descriptor that leads to them.
        coherency.publish();
        first.store(above, &[L1Descriptor::new(table.start(), SPLIT).0]);
        coherency.written(&first.words()[above..=above]);
        second.insert(at, (above, table));
        Ok(())
    }

    /// Turns the stream's entry into the one for `config`.
    fn set(
        &self,
        commands: &impl Shared<CommandQueue>,
        stream: StreamId,
        config: StreamConfig,
    ) -> Result<(), StreamError> {
        let (table, first) = self.place(stream).ok_or(StreamError::OutOfRange(stream))?;
        let steps = update(Ste(table.load(first)), Ste::new(config));
        for step in steps.iter() {
            match step {
                Step::Write { word, value } => {
                    table.store(first + word, &[value]);
                    self.coherency.written(&table.words()[first + word..=first + word]);
                }
                // Even an entry that was not valid may be cached.
                Step::Sync => command_queue::run(commands, [Command::CfgiSte { stream, leaf: false }])?,
            }
        }
        Ok(())
    }

    /// Where the stream is among the attached ones, or would be.
    fn find(&self, stream: StreamId) -> Result<usize, usize> {
        self.attached.binary_search_by_key(&stream, |(attached, _)| *attached)
    }
}

impl Iommu for StreamTable {
    type Domain = PagingDomain;
    type Error = StreamError;

    fn attach(
        &mut self,
        commands: &impl Shared<CommandQueue>,
        memory: &mut impl RegionSource,
        stream: StreamId,
        domain: &mut PagingDomain,
    ) -> Result<(), StreamError> {
        self.check_range(stream)?;
        let Err(at) = self.find(stream) else { return Err(StreamError::AlreadyAttached(stream)) };
        self.attached.try_reserve(1).map_err(|_| StreamError::OutOfMemory(stream))?;
        self.grow(memory, stream)?;
        self.attached.insert(at, (stream, domain.tag()));
        domain.streams += 1;
        self.set(commands, stream, domain.stream_config())
    }

    fn detach(
        &mut self,
        commands: &impl Shared<CommandQueue>,
        stream: StreamId,
        domain: &mut PagingDomain,
    ) -> Result<(), StreamError> {
        let found = self.find(stream).ok().filter(|&at| self.attached[at].1 == domain.tag());
        let at = found.ok_or(StreamError::NotAttached(stream))?;
        self.set(commands, stream, StreamConfig::Abort)?;
        self.attached.remove(at);
        domain.streams -= 1;
        Ok(())
    }
}

/// The index of a stream's first-level descriptor, and of its entry in the second level.
fn split(stream: StreamId) -> (usize, usize) {
    let stream = u64::from(stream.raw());
    let above = extract(31, SPLIT.into(), stream);
    let below = extract(u32::from(SPLIT) - 1, 0, stream);
    (above as usize, below as usize)
}

fn fill_with_abort(table: &Region, coherency: Coherency) {
    let abort = Ste::new(StreamConfig::Abort).0;
    for first in (0..table.words().len()).step_by(STE_WORDS) {
        table.store(first, &abort);
    }
    coherency.written(table.words());
}
