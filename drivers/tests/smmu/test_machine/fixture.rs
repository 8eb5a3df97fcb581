//! A started SMMU with the state that a kernel keeps, and common test steps.

use super::{TestMachine, TestMemory};
use addr::{AddrRange, Chunk, Iova, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr, StreamId};
use drivers::iommu::Stale;
use drivers::smmu::{
    self, CommandQueue, DestroyError, DomainError, DomainMapError, EventQueue, EventReport, Features,
    PagingDomain, StartError, StreamError, StreamTable, TlbTagAllocator,
};
use pagetable::Mapping;
use smmu_spec::model::{IdRegisters, TransactionResult};
use smmu_spec::{AccessKind, WalkCoherency};
use std::cell::RefCell;
use std::rc::Rc;

pub const READ: AccessKind = AccessKind::Read;
pub const WRITE: AccessKind = AccessKind::Write;
pub const RW: Mapping = Mapping::read_write(MemoryType::WriteBack);
pub const STREAM: StreamId = StreamId::new(8);

/// All types of SMMU, coherent and not; two under Miri, which checks the driver's memory accesses, not the
/// SMMU.
pub fn kinds() -> Vec<(IdRegisters, WalkCoherency)> {
    if cfg!(miri) {
        return vec![
            (IdRegisters::NESTED, WalkCoherency::NonCoherent),
            (IdRegisters::STAGE2, WalkCoherency::Coherent),
        ];
    }
    let ids = [IdRegisters::NESTED, IdRegisters::STAGE1, IdRegisters::STAGE2, IdRegisters::SMALL];
    ids.into_iter()
        .flat_map(|ids| [(ids, WalkCoherency::Coherent), (ids, WalkCoherency::NonCoherent)])
        .collect()
}

/// A started SMMU with the state that a kernel keeps.
pub struct Fixture {
    pub machine: Rc<TestMachine>,
    pub memory: TestMemory,
    pub features: Features,
    pub commands: RefCell<CommandQueue>,
    pub events: EventQueue,
    pub streams: StreamTable,
    pub tags: TlbTagAllocator,
}

pub fn fixture(ids: IdRegisters, walks: WalkCoherency) -> Fixture {
    Fixture::start(TestMachine::new(ids, walks)).unwrap()
}

impl Fixture {
    pub fn start(machine: Rc<TestMachine>) -> Result<Self, StartError> {
        let registers = machine.registers();
        let features = Features::probe(&registers).unwrap();
        let mut memory = TestMemory(machine.clone());
        let smmu = smmu::start(registers, features, super::LAST, &mut memory, TestMachine::clock())?;
        let (events, streams, tags) = (smmu.events, smmu.streams, smmu.tags);
        Ok(Self { machine, memory, features, commands: RefCell::new(smmu.commands), events, streams, tags })
    }

    pub fn domain(&mut self) -> Result<PagingDomain, DomainError> {
        let bits = self.features.input_bits();
        PagingDomain::new(
            &self.features,
            &mut self.tags,
            &mut TestMemory(self.machine.clone()),
            &mut self.memory,
            bits,
        )
    }

    pub fn attach(&mut self, stream: StreamId, domain: &mut PagingDomain) -> Result<(), StreamError> {
        self.streams.attach(&self.commands, &mut self.memory, stream, domain)
    }

    pub fn detach(&mut self, stream: StreamId, domain: &mut PagingDomain) -> Result<(), StreamError> {
        self.streams.detach(&self.commands, stream, domain)
    }

    pub fn set_recording(&mut self, domain: &mut PagingDomain, records: bool) -> Result<(), StreamError> {
        self.streams.set_recording(&self.commands, domain, records)
    }

    pub fn attached(&mut self, stream: StreamId) -> PagingDomain {
        let mut domain = self.domain().unwrap();
        self.attach(stream, &mut domain).unwrap();
        domain
    }

    pub fn map(
        &mut self,
        domain: &mut PagingDomain,
        at: u64,
        chunks: &[Chunk],
    ) -> Result<(), DomainMapError> {
        let chunks = chunks.iter().copied();
        // SAFETY: the device is the model, whose memory is the test's RAM.
        unsafe { domain.map(&mut self.memory, &self.commands, Iova::new(at), chunks, RW) }
    }

    pub fn unmap<T>(&mut self, domain: &mut PagingDomain, at: u64, pages: u64, held: T) -> Stale<T> {
        let range = pages_at(at, pages);
        let unmapped = domain.unmap(&mut self.memory, &self.commands, range, held);
        unmapped.unwrap_or_else(|refused| panic!("{:?}", refused.error))
    }

    pub fn free<T>(&mut self, stale: Stale<T>) -> T {
        let freed = PagingDomain::invalidate(&self.commands, stale);
        freed.unwrap_or_else(|unfinished| panic!("{:?}", unfinished.error)).take(&mut self.memory)
    }

    pub fn destroy(&mut self, domain: PagingDomain) -> Result<(), DestroyError> {
        let regions = &mut TestMemory(self.machine.clone());
        domain.destroy(&self.commands, &mut self.tags, regions, &mut self.memory)
    }

    pub fn access(&self, stream: StreamId, at: u64, direction: AccessKind) -> TransactionResult {
        self.machine.access(stream, at, direction)
    }

    /// The translation of an access of [`STREAM`], if there is one.
    pub fn reach(&self, at: u64) -> Option<u64> {
        match self.access(STREAM, at, WRITE) {
            TransactionResult::Translated { to, .. } => Some(to),
            TransactionResult::Bypassed => panic!("{at:#x} is not translated"),
            TransactionResult::Aborted(_) => None,
        }
    }

    pub fn reports(&mut self) -> Vec<EventReport> {
        let mut reports = Vec::new();
        while self.events.drain(|report| reports.push(report)) {}
        reports
    }
}

pub fn pages_at(at: u64, pages: u64) -> AddrRange<Iova> {
    AddrRange::from_len(Iova::new(at), pages * PAGE_SIZE).unwrap()
}

/// A chunk outside of the machine's table memory.
pub fn chunk(at: u64, log2: u8) -> Chunk {
    Chunk::new(Pfn::containing(PhysAddr::new(at)), Order::new(log2).unwrap()).unwrap()
}
