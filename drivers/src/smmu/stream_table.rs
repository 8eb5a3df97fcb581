//! The stream table (IHI 0070, 3.3.1 and 5.1). Streams without a domain abort: in a linear table by their
//! entry, in a two-level table also because their second-level table is missing.

use super::coherency::Coherency;
use super::command_queue::{self, CommandError, CommandQueue};
use super::domain::PagingDomain;
use super::probe::Features;
use super::registers::{CommandRegisters, bits};
use crate::iommu::Shared;
use crate::region::{Region, RegionSource};
use addr::{PAGE_SIZE, StreamId};
use alloc::vec::Vec;
use smmu_spec::field::{address, extract, field};
use smmu_spec::{Command, L1Descriptor, Ste, Step, StreamConfig, TlbTag, update};
use tock_registers::interfaces::Writeable;

/// Streams in each second-level table, log2: 64 entries fill one page. A valid SPLIT.
const SPLIT: u8 = 6;
/// Largest linear table in streams, log2: 64 Ki entries are 4 MiB.
const MAX_LINEAR_LOG2: u8 = 16;
/// Largest two-level table in streams, log2: its first level is 1 MiB.
const MAX_TWO_LEVEL_LOG2: u8 = 17 + SPLIT;
/// 64-bit words of an entry.
const STE_WORDS: usize = Ste::BYTES as usize / 8;

/// The stream was not attached or detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamError {
    /// The table has no entry for the stream.
    OutOfRange(StreamId),
    /// The stream is attached to a domain.
    AlreadyAttached(StreamId),
    /// The stream is attached to another domain, or to none.
    NotAttached(StreamId),
    /// No memory for a second-level table.
    OutOfMemory(StreamId),
    /// The invalidation of the entry did not complete. The stream counts as attached: it must be detached
    /// before its domain is destroyed.
    Command(CommandError),
}

impl From<CommandError> for StreamError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

enum TableFormat {
    Linear(Region),
    TwoLevel {
        first: Region,
        /// The second-level tables, sorted by the index of their first-level descriptors.
        second: Vec<(usize, Region)>,
    },
}

/// The stream table. Entries are changed by the steps of [`update()`]; the SMMU observes each step before the
/// next.
pub struct StreamTable {
    format: TableFormat,
    log2: u8,
    coherency: Coherency,
    /// The attached streams, sorted, with the tags of their domains.
    attached: Vec<(StreamId, TlbTag)>,
}

impl StreamTable {
    /// A table that aborts every stream; `None` without memory.
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
            // Zero is a descriptor without second-level table.
            coherency.clean(region.words());
            TableFormat::TwoLevel { first: region, second: Vec::new() }
        } else {
            fill_with_abort(&region, coherency);
            TableFormat::Linear(region)
        };
        Some(Self { format, log2, coherency, attached: Vec::new() })
    }

    /// Writes the SMMU's base registers. SMMUEN must be 0.
    pub(super) fn install(&self, registers: &CommandRegisters) {
        let (table, format) = match &self.format {
            TableFormat::Linear(table) => (table, field(17, 16, 0b00)),
            TableFormat::TwoLevel { first, .. } => (first, field(17, 16, 0b01) | field(10, 6, SPLIT.into())),
        };
        let base = address(55, 6, table.start().raw()) | bits::BASE_ALLOCATE;
        registers.strtab_base.set(base);
        registers.strtab_base_cfg.set((format | field(5, 0, self.log2.into())) as u32);
    }

    /// Releases the memory. The table must not be installed, or the SMMU must be disabled.
    pub(super) fn release(self, memory: &mut impl RegionSource) {
        match self.format {
            TableFormat::Linear(table) => memory.release(table),
            TableFormat::TwoLevel { first, second } => {
                second.into_iter().for_each(|(_, table)| memory.release(table));
                memory.release(first);
            }
        }
    }

    /// Number of streams with an entry, log2. All others abort.
    pub fn stream_bits(&self) -> u8 {
        self.log2
    }

    /// The entry of `stream`; `None` without a second-level table.
    pub fn entry(&self, stream: StreamId) -> Option<Ste> {
        let (table, first) = self.entry_words(stream)?;
        Some(Ste(table.load(first)))
    }

    fn check_range(&self, stream: StreamId) -> Result<(), StreamError> {
        if u64::from(stream.raw()) < 1 << self.log2 { Ok(()) } else { Err(StreamError::OutOfRange(stream)) }
    }

    /// The table that contains the stream's entry, and the index of the entry's first word.
    fn entry_words(&self, stream: StreamId) -> Option<(&Region, usize)> {
        self.check_range(stream).ok()?;
        match &self.format {
            TableFormat::Linear(table) => Some((table, stream.raw() as usize * STE_WORDS)),
            TableFormat::TwoLevel { second, .. } => {
                let (above, below) = split(stream);
                let at = second.binary_search_by_key(&above, |(index, _)| *index).ok()?;
                Some((&second[at].1, below * STE_WORDS))
            }
        }
    }

    /// Allocates the stream's second-level table, if needed. The invalid first-level descriptor may be
    /// cached: the change of the entry invalidates both levels (Leaf = 0), and until then the stream aborts
    /// in either case.
    fn grow(&mut self, memory: &mut impl RegionSource, stream: StreamId) -> Result<(), StreamError> {
        let coherency = self.coherency;
        let TableFormat::TwoLevel { first, second } = &mut self.format else { return Ok(()) };
        let (above, _) = split(stream);
        let Err(at) = second.binary_search_by_key(&above, |(index, _)| *index) else { return Ok(()) };
        second.try_reserve(1).map_err(|_| StreamError::OutOfMemory(stream))?;
        let table = memory.allocate(Ste::BYTES << SPLIT).ok_or(StreamError::OutOfMemory(stream))?;
        fill_with_abort(&table, coherency);
        // The entries must be visible before the descriptor that leads to them.
        coherency.publish();
        first.store(above, &[L1Descriptor::new(table.start(), SPLIT).0]);
        coherency.clean(&first.words()[above..=above]);
        second.insert(at, (above, table));
        Ok(())
    }

    /// Changes the stream's entry to `config`.
    fn set_entry(
        &self,
        commands: &impl Shared<CommandQueue>,
        stream: StreamId,
        config: StreamConfig,
    ) -> Result<(), StreamError> {
        let (table, first) = self.entry_words(stream).ok_or(StreamError::OutOfRange(stream))?;
        let steps = update(Ste(table.load(first)), Ste::new(config));
        for step in steps.iter() {
            match step {
                Step::Write { word, value } => {
                    table.store(first + word, &[value]);
                    self.coherency.clean(&table.words()[first + word..=first + word]);
                }
                // Invalid entries may be cached, too.
                Step::Sync => command_queue::run(commands, [Command::CfgiSte { stream, leaf: false }])?,
            }
        }
        Ok(())
    }

    /// The index of the stream in `attached`, or the index to insert it at.
    fn find(&self, stream: StreamId) -> Result<usize, usize> {
        self.attached.binary_search_by_key(&stream, |(attached, _)| *attached)
    }

    /// Attaches `stream` to `domain`. The device may become a bus master only after this.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn attach(
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
        domain.add_stream();
        self.set_entry(commands, stream, domain.stream_config())
    }

    /// Records the faults of all streams of `domain`, or aborts their transactions without events, so that
    /// they do not fill the event queue.
    ///
    /// # Errors
    /// [`StreamError`]. Some streams may have the earlier state; the call may be repeated.
    pub fn set_recording(
        &mut self,
        commands: &impl Shared<CommandQueue>,
        domain: &mut PagingDomain,
        records: bool,
    ) -> Result<(), StreamError> {
        domain.set_recording(records);
        let tag = domain.tag();
        let mut streams = self.attached.iter().filter(|(_, of)| *of == tag).map(|&(stream, _)| stream);
        streams.try_for_each(|stream| match domain.has_context() {
            true => {
                let invalidate = Command::CfgiCd { stream, substream: 0, leaf: true };
                command_queue::run(commands, [invalidate]).map_err(StreamError::Command)
            }
            false => self.set_entry(commands, stream, domain.stream_config()),
        })
    }

    /// Aborts all further transactions of `stream`. No earlier one is in flight when this returns.
    ///
    /// # Errors
    /// [`StreamError`]. The stream may still access the domain; the call may be repeated.
    pub fn detach(
        &mut self,
        commands: &impl Shared<CommandQueue>,
        stream: StreamId,
        domain: &mut PagingDomain,
    ) -> Result<(), StreamError> {
        let found = self.find(stream).ok().filter(|&at| self.attached[at].1 == domain.tag());
        let at = found.ok_or(StreamError::NotAttached(stream))?;
        self.set_entry(commands, stream, StreamConfig::Abort)?;
        self.attached.remove(at);
        domain.remove_stream();
        Ok(())
    }
}

/// The indices of a stream's first-level descriptor and of its entry in the second-level table.
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
    coherency.clean(table.words());
}
