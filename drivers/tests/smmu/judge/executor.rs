//! Executes a program. The driver does the work, the oracle is notified of each request, and devices, SMMU
//! and caches act at every barrier, at every cache maintenance operation, and while the driver waits.

use super::super::qemu::Qemu;
use super::super::test_machine::fixture::{Fixture, READ, WRITE, pages_at};
use super::super::test_machine::random::Random;
use super::super::test_machine::{TestMachine, TestMemory};
use super::concurrent_cpus::ConcurrentCpus;
use super::frames::{ChunkLease, FramePool};
use super::oracle::{AccessOracle, Target};
use super::pinned::{PinnedRun, PinnedTables};
use super::program::{CLIENTS, DOMAINS, ProgramOp, TestProgram};
use addr::{Chunk, Iova, MemoryType, PAGE_SHIFT, PAGE_SIZE, StreamId};
use drivers::iommu::Stale;
use drivers::smmu::{DomainMapError, EventReport, PagingDomain};
use pagetable::{Access, MapError as TableError, Mapping};
use smmu_spec::model::TransactionResult;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The request that the driver is executing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverPhase {
    Start,
    Create,
    Attach,
    Detach,
    Map,
    Unmap,
    Pin,
    MapPinned,
    UnmapPinned,
    Free,
    Destroy,
    Idle,
}

/// State shared with the interleaved actors.
pub struct SharedState {
    pub oracle: RefCell<AccessOracle>,
    pub random: RefCell<Random>,
    pub phase: Cell<DriverPhase>,
    /// Whether the SMMU was stopped since the previous kernel ran. Accesses before that are not the
    /// responsibility of the driver.
    pub is_ours: Cell<bool>,
    /// Remaining steps in which reads of the queue succeed.
    cooldown: Cell<u32>,
    /// Skips accesses with several legal outcomes.
    pub certain_only: bool,
    /// Unmapped buffers, not yet invalidated.
    pub pending: RefCell<Vec<UnmappedBuffer>>,
    /// Runs that are mapped in pinned tables.
    pub runs: RefCell<Vec<PinnedRun>>,
    /// Events read by the driver.
    pub events: RefCell<Vec<String>>,
}

/// Chunks that were unmapped together.
pub type HeldChunks = Vec<Rc<ChunkLease>>;

/// A buffer in a domain: the chunk behind each page that is still mapped.
struct MappedBuffer {
    domain: usize,
    pages: BTreeMap<u64, Rc<ChunkLease>>,
    /// Whether no part was unmapped.
    is_whole: bool,
}

/// An unmapped buffer, not yet invalidated.
pub struct UnmappedBuffer {
    step: u64,
    domain: usize,
    pages: Vec<u64>,
    stale: Stale<HeldChunks>,
}

pub struct Executor {
    pub machine: Rc<TestMachine>,
    fixture: Fixture,
    pub shared: Rc<SharedState>,
    frames: Rc<FramePool>,
    domains: Vec<Option<PagingDomain>>,
    pub pinned: PinnedTables,
    attached: [Option<usize>; CLIENTS],
    attachments: Vec<MappedBuffer>,
    pub step: u64,
}

/// Totals of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct RunTotals {
    pub steps: u64,
    pub accesses: u64,
    pub reached: u64,
    pub commands: u64,
    pub syncs: u64,
}

impl std::ops::AddAssign for RunTotals {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.accesses += other.accesses;
        self.reached += other.reached;
        self.commands += other.commands;
        self.syncs += other.syncs;
    }
}

/// Executes `program` after `prepare` has changed the machine. Panics on any violation.
pub fn run(program: &TestProgram, prepare: impl FnOnce(&TestMachine, &Rc<SharedState>)) -> RunTotals {
    let kind = program.kind;
    let machine = TestMachine::with_order(kind.ids(), kind.walks, kind.order);
    let shared = SharedState::new(program, false);
    prepare(&machine, &shared);
    warm_up_caches(&machine, StreamId::new(program.streams[0]));
    shared.is_ours.set(false);
    let inside = shared.clone();
    *machine.interleave.borrow_mut() = Some(Rc::new(move |machine| interleave(machine, &inside)));
    Executor::start(program, machine, shared).run(program)
}

/// Record of a run, in order.
pub struct RunTrace {
    pub outcomes: Vec<TransactionResult>,
    /// Events read by the driver.
    pub events: Vec<String>,
    /// Commands consumed by the model.
    pub opcodes: Vec<u8>,
}

/// Executes `program` without interleaved actors, on the model or on QEMU.
pub fn run_undisturbed(program: &TestProgram, qemu: Option<Rc<Qemu>>) -> RunTrace {
    let kind = program.kind;
    let machine = match qemu {
        Some(qemu) => TestMachine::with_qemu(kind.ids(), qemu),
        None => TestMachine::with_order(kind.ids(), kind.walks, kind.order),
    };
    let shared = SharedState::new(program, true);
    Executor::start(program, machine.clone(), shared.clone()).run(program);
    TestMachine::forget();
    let opcodes = machine.model.borrow().opcodes.clone();
    RunTrace { outcomes: machine.outcomes.take(), events: shared.events.take(), opcodes }
}

impl UnmappedBuffer {
    /// `pages` of a domain, unmapped by `step`.
    pub fn new(step: u64, domain: usize, pages: Vec<u64>, stale: Stale<HeldChunks>) -> Self {
        Self { step, domain, pages, stale }
    }

    /// The stale buffer, and its domain, pages and step for the notification of the oracle.
    pub fn into_parts(self) -> (Stale<HeldChunks>, usize, Vec<u64>, u64) {
        (self.stale, self.domain, self.pages, self.step)
    }
}

impl SharedState {
    fn new(program: &TestProgram, certain_only: bool) -> Rc<Self> {
        Rc::new(Self {
            oracle: RefCell::new(AccessOracle::new(DOMAINS, &program.streams.map(StreamId::new))),
            random: RefCell::new(Random::new(program.seed)),
            phase: Cell::new(DriverPhase::Start),
            is_ours: Cell::new(true),
            cooldown: Cell::new(0),
            certain_only,
            pending: RefCell::default(),
            runs: RefCell::default(),
            events: RefCell::default(),
        })
    }
}

/// Fills the SMMU's caches as an earlier kernel would: an attached stream and translations with the TLB tags
/// that the next kernel uses first.
fn warm_up_caches(machine: &Rc<TestMachine>, stream: StreamId) {
    let mut before = Fixture::start(machine.clone()).unwrap();
    let mut domain = before.attached(stream);
    for page in (0..40).chain(0x200..0x210) {
        let at = page << PAGE_SHIFT;
        before.map(&mut domain, at, &[super::chunk(0x77_0000_0000 + 2 * at, 0)]).unwrap();
        before.access(stream, at, WRITE);
    }
    before.access(StreamId::new(stream.raw() + 1), 0, READ);
}

/// The interleaved actors: stores become visible, the SMMU executes commands, caches evict entries, devices
/// access memory.
fn interleave(machine: &TestMachine, shared: &SharedState) {
    if !machine.model.borrow().is_translating() {
        shared.is_ours.set(true);
    }
    let mut random = shared.random.borrow_mut();
    fail_command_reads(machine, shared, &mut random);
    if random.once_in(2) {
        let pages = machine.pages();
        for _ in 0..2 {
            let page = pages[random.below(pages.len() as u64) as usize];
            machine.ram.propagate_stores(page, || random.once_in(2));
        }
    }
    if random.once_in(8) {
        // Many at once, after evictions: half-written structures are observed.
        machine.pages().into_iter().for_each(|page| machine.ram.propagate_stores(page, || random.once_in(2)));
        machine.model.borrow_mut().evict(|| random.once_in(2));
        (0..8).for_each(|_| access(machine, shared, &mut random));
    }
    let mut model = machine.model.borrow_mut();
    model.commands_per_step = random.below(5) as u32;
    if random.once_in(4) {
        model.step();
    }
    if random.once_in(16) {
        model.evict(|| random.once_in(8));
    }
    drop(model);
    fetch_ahead(machine, shared, &mut random);
    for _ in 0..random.below(3) {
        access(machine, shared, &mut random);
    }
}

/// At long intervals, one or two reads of the queue fail.
fn fail_command_reads(machine: &TestMachine, shared: &SharedState, random: &mut Random) {
    let cooldown = shared.cooldown.get().saturating_sub(1);
    shared.cooldown.set(cooldown);
    if cooldown == 0 && shared.is_ours.get() && random.once_in(500) {
        shared.cooldown.set(2000);
        machine.bad_commands.set(2 + 2 * random.below(2) as u32);
    }
}

/// The SMMU prefetches a translation.
fn fetch_ahead(machine: &TestMachine, shared: &SharedState, random: &mut Random) {
    let oracle = shared.oracle.borrow();
    if let Some((Some(client), page)) = oracle.recent(random) {
        machine.model.borrow_mut().prefetch(oracle.stream(client), page << PAGE_SHIFT);
    }
}

/// One access of a random stream, usually near a recent change.
fn access(machine: &TestMachine, shared: &SharedState, random: &mut Random) {
    if !shared.is_ours.get() {
        return;
    }
    let mut oracle = shared.oracle.borrow_mut();
    let (client, page) = match oracle.recent(random) {
        Some(recent) if !random.once_in(8) => recent,
        _ => (None, random.below(1 << 11)),
    };
    let any = random.below(CLIENTS as u64) as usize;
    let client = client.filter(|_| !random.once_in(4)).unwrap_or(any);
    let at = (page << PAGE_SHIFT) + 8 * random.below(512);
    let direction = if random.once_in(2) { WRITE } else { READ };
    if shared.certain_only && !oracle.is_certain(client, page) {
        return;
    }
    let outcome = machine.access(oracle.stream(client), at, direction);
    machine.outcomes.borrow_mut().push(outcome);
    oracle.judge(client, at, direction, outcome);
}

impl Executor {
    fn start(program: &TestProgram, machine: Rc<TestMachine>, shared: Rc<SharedState>) -> Self {
        let fixture = Fixture::start(machine.clone()).unwrap();
        Self::new(machine, fixture, shared, FramePool::new(program.frames_apart))
    }

    fn run(mut self, program: &TestProgram) -> RunTotals {
        self.check_idle();
        for op in &program.ops {
            self.step += 1;
            self.shared.phase.set(DriverPhase::Idle);
            self.execute(*op);
            arch::fake::take();
        }
        self.end()
    }

    fn new(
        machine: Rc<TestMachine>,
        mut fixture: Fixture,
        shared: Rc<SharedState>,
        frames: Rc<FramePool>,
    ) -> Self {
        shared.phase.set(DriverPhase::Create);
        let domains = (0..DOMAINS).map(|_| Some(fixture.domain().unwrap())).collect();
        Self {
            machine,
            fixture,
            shared,
            frames,
            domains,
            pinned: PinnedTables::default(),
            attached: [None; CLIENTS],
            attachments: Vec::new(),
            step: 0,
        }
    }

    /// Nothing is attached: all accesses must abort.
    fn check_idle(&mut self) {
        self.shared.phase.set(DriverPhase::Idle);
        self.dma(8);
    }

    fn execute(&mut self, op: ProgramOp) {
        match op {
            ProgramOp::Map { domain, page, order, count, writable } => {
                self.map(domain, page, order, count, writable);
            }
            ProgramOp::MapWith { allowance, domain, page, count } => {
                self.with_allowance(allowance.into(), |machine| machine.map(domain, page, 0, count, true));
            }
            ProgramOp::MapPinned { domain, page, order, count, writable } => {
                self.map_pinned(domain, page, order, count, writable);
            }
            ProgramOp::Unmap { attachment } => {
                if let Some((index, pages)) = self.part(attachment, 0, usize::MAX) {
                    self.unmap(index, &pages, false);
                }
            }
            ProgramOp::UnmapWhole { attachment } => {
                if let Some((index, pages)) = self.part(attachment, 0, usize::MAX) {
                    self.unmap(index, &pages, self.attachments[index].is_whole);
                }
            }
            ProgramOp::UnmapPinned { attachment } => self.unmap_pinned(attachment),
            ProgramOp::UnmapPart { attachment, skip, pages } => self.unmap_part(attachment, skip, pages),
            ProgramOp::UnmapPartWithoutMemory { attachment, skip, pages } => {
                self.with_allowance(0, |machine| machine.unmap_part(attachment, skip, pages));
            }
            ProgramOp::Free { stale } => self.free(stale, false),
            ProgramOp::FreeLate { stale } => self.free(stale, true),
            ProgramOp::Attach { client, domain } => self.attach(client, domain),
            ProgramOp::Detach { client } => self.detach(client),
            ProgramOp::Renew { domain } => self.renew(domain),
            ProgramOp::Dma { times } => self.dma(times),
            ProgramOp::Events => self.read_events(),
        }
    }

    fn with_allowance(&mut self, allowance: u64, action: impl FnOnce(&mut Self)) {
        self.machine.allowance.set(allowance);
        action(self);
        self.machine.allowance.set(u64::MAX);
    }

    /// Calls `action` with the domain taken out, since the oracle is accessed meanwhile.
    pub fn in_phase<R>(
        &mut self,
        phase: DriverPhase,
        domain: usize,
        action: impl FnOnce(&mut Fixture, &mut PagingDomain) -> R,
    ) -> R {
        let mut taken = self.domains[domain].take().expect("every domain is there between two steps");
        self.shared.phase.set(phase);
        let result = action(&mut self.fixture, &mut taken);
        self.shared.phase.set(DriverPhase::Idle);
        self.domains[domain] = Some(taken);
        result
    }

    fn map(&mut self, domain: usize, page: u64, order: u8, count: u8, writable: bool) {
        // Usually aligned for blocks and contiguous groups.
        let page = page & !((1 << order) - 1);
        let leases = self.leases(order, count);
        let targets = Self::targets(&leases, page, writable);
        let mut oracle = self.shared.oracle.borrow_mut();
        let unfit = |&(page, _): &(u64, Target)| {
            self.is_pinned(domain, page) || !oracle.is_free(domain, page) && !oracle.is_live(domain, page)
        };
        if targets.is_empty() || targets.iter().any(unfit) {
            // An IOVA allocator would not return this range.
            return;
        }
        let taken = targets.iter().map(|&(page, _)| page).find(|&page| oracle.is_live(domain, page));
        let step = self.step;
        targets.iter().for_each(|&(page, target)| oracle.may_lead(domain, page, step, target));
        drop(oracle);
        let chunks: Vec<Chunk> = leases.iter().map(|lease| lease.chunk).collect();
        let mapped = self.in_phase(DriverPhase::Map, domain, |fixture, taken| {
            map(fixture, taken, page, &chunks, writable)
        });
        self.check_mapped(mapped, taken);
        let mut oracle = self.shared.oracle.borrow_mut();
        for &(page, _) in &targets {
            match mapped {
                Ok(()) => oracle.leads(domain, page, step),
                Err(_) => oracle.is_gone(domain, page, step),
            }
        }
        drop(oracle);
        if mapped.is_ok() {
            let of_each = leases.iter().flat_map(|lease| (0..lease.chunk.frames()).map(|_| lease.clone()));
            let pages = (page..).zip(of_each).collect();
            self.attachments.push(MappedBuffer { domain, pages, is_whole: true });
        }
    }

    /// Up to `count` free chunks of an order.
    pub fn leases(&self, order: u8, count: u8) -> HeldChunks {
        let mut random = self.shared.random.borrow_mut();
        (0..count).map_while(|_| self.frames.take(order, &mut random)).collect()
    }

    /// The pages from `page` on and their targets.
    pub fn targets(leases: &[Rc<ChunkLease>], page: u64, writable: bool) -> Vec<(u64, Target)> {
        let frames = leases.iter().flat_map(|lease| {
            (0..lease.chunk.frames()).map(|frame| lease.chunk.start().raw() + frame * PAGE_SIZE)
        });
        (page..).zip(frames.map(|frame| Target { frame, writable })).collect()
    }

    /// `taken` is the first page that was already mapped.
    fn check_mapped(&self, mapped: Result<(), DomainMapError>, taken: Option<u64>) {
        match (mapped, taken) {
            (Ok(()), None) => {}
            (Err(DomainMapError::Table(TableError::AlreadyMapped(at))), Some(page)) => {
                assert_eq!(at, Iova::new(page << PAGE_SHIFT), "the first page that was there before");
            }
            (Err(DomainMapError::Table(TableError::OutOfTables)), _) => {
                assert_eq!(self.machine.allowance.get(), 0, "out of tables");
            }
            other => panic!("{other:x?}"),
        }
    }

    /// A part of an attachment, and its index.
    fn part(&self, attachment: usize, skip: usize, most: usize) -> Option<(usize, Vec<u64>)> {
        let index = attachment.checked_rem(self.attachments.len())?;
        let pages = &self.attachments[index].pages;
        let run: Vec<u64> = pages.keys().copied().skip(skip % pages.len()).take(most).collect();
        // Earlier partial unmaps leave holes.
        let together = run.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count() + 1;
        Some((index, run[..together].to_vec()))
    }

    fn unmap_part(&mut self, attachment: usize, skip: u8, pages: u8) {
        if let Some((index, pages)) = self.part(attachment, skip.into(), pages.into()) {
            self.unmap(index, &pages, false);
        }
    }

    /// With `whole`, calls `unmap_whole`.
    fn unmap(&mut self, index: usize, pages: &[u64], whole: bool) {
        let (step, domain) = (self.step, self.attachments[index].domain);
        let held: HeldChunks = pages.iter().map(|page| self.attachments[index].pages[page].clone()).collect();
        let mut oracle = self.shared.oracle.borrow_mut();
        pages.iter().for_each(|&page| oracle.is_going(domain, page, step));
        oracle.set_unsure(Some(domain));
        drop(oracle);
        let range = pages_at(pages[0] << PAGE_SHIFT, pages.len() as u64);
        let shared = self.shared.clone();
        let unmapped = self.in_phase(DriverPhase::Unmap, domain, |fixture, taken| {
            let concurrent_cpus = ConcurrentCpus::new(&fixture.commands, &fixture.machine, &shared, step);
            match whole {
                true => taken.unmap_whole(&mut fixture.memory, &concurrent_cpus, range, held),
                false => taken.unmap(&mut fixture.memory, &concurrent_cpus, range, held),
            }
        });
        let mut oracle = self.shared.oracle.borrow_mut();
        oracle.set_unsure(None);
        match unmapped {
            Ok(stale) => {
                drop(oracle);
                self.attachments[index].is_whole = false;
                self.attachments[index].pages.retain(|page, _| !pages.contains(page));
                if self.attachments[index].pages.is_empty() {
                    self.attachments.swap_remove(index);
                }
                self.shared.pending.borrow_mut().push(UnmappedBuffer {
                    step,
                    domain,
                    pages: pages.to_vec(),
                    stale,
                });
            }
            Err(refused) => {
                assert_eq!(self.machine.allowance.get(), 0, "{:?}", refused.error);
                pages.iter().for_each(|&page| oracle.leads(domain, page, step));
                drop(oracle);
            }
        }
        self.dma(2);
    }

    fn free(&mut self, stale: usize, late: bool) {
        let index = stale.checked_rem(self.shared.pending.borrow().len());
        let Some(index) = index else { return };
        let pending = self.shared.pending.borrow_mut().swap_remove(index);
        self.shared.phase.set(DriverPhase::Free);
        self.machine.model.borrow_mut().hung = late;
        self.concurrent_cpus().free(pending, late);
        self.shared.phase.set(DriverPhase::Idle);
        self.dma(2);
    }

    /// The command queue, shared with the interleaved CPUs.
    fn concurrent_cpus(&self) -> ConcurrentCpus<'_> {
        ConcurrentCpus::new(&self.fixture.commands, &self.machine, &self.shared, self.step)
    }

    fn attach(&mut self, client: usize, domain: usize) {
        if self.attached[client].is_some() {
            return;
        }
        let stream = self.shared.oracle.borrow().stream(client);
        self.shared.oracle.borrow_mut().may_use(client, domain);
        self.in_phase(DriverPhase::Attach, domain, |fixture, taken| fixture.attach(stream, taken)).unwrap();
        self.shared.oracle.borrow_mut().uses(client, Some(domain));
        self.attached[client] = Some(domain);
        self.dma(2);
    }

    fn detach(&mut self, client: usize) {
        let Some(domain) = self.attached[client].take() else { return };
        let stream = self.shared.oracle.borrow().stream(client);
        self.shared.oracle.borrow_mut().is_leaving(client);
        self.in_phase(DriverPhase::Detach, domain, |fixture, taken| fixture.detach(stream, taken)).unwrap();
        self.shared.oracle.borrow_mut().uses(client, None);
        self.dma(2);
    }

    fn renew(&mut self, domain: usize) {
        self.destroy(domain);
        self.shared.phase.set(DriverPhase::Create);
        self.domains[domain] = Some(self.fixture.domain().unwrap());
        self.shared.phase.set(DriverPhase::Idle);
    }

    fn destroy(&mut self, domain: usize) {
        let clients = (0..CLIENTS).filter(|&client| self.attached[client] == Some(domain));
        clients.collect::<Vec<_>>().into_iter().for_each(|client| self.detach(client));
        // Some are freed explicitly; the others are destroyed with the domain.
        let of_domain = |pending: &UnmappedBuffer| pending.domain == domain;
        loop {
            let index = self.shared.pending.borrow().iter().position(of_domain);
            let Some(index) = index else { break };
            self.free(index, false);
        }
        let runs = self.take_runs(domain);
        let taken = self.domains[domain].take().expect("every domain is there between two steps");
        self.shared.phase.set(DriverPhase::Destroy);
        self.fixture.destroy(taken).unwrap_or_else(|error| panic!("{error:?}"));
        self.shared.phase.set(DriverPhase::Idle);
        self.shared.oracle.borrow_mut().forget_domain(domain);
        drop(runs);
        self.attachments.retain(|attachment| attachment.domain != domain);
    }

    /// Every event must have a stream of the program and a kind that its accesses can cause.
    fn read_events(&mut self) {
        // The step copies the SMMU's producer index to the registers.
        self.machine.step();
        for report in self.fixture.reports() {
            let (EventReport::Event(event) | EventReport::RateLimited(event)) = report else { continue };
            self.shared.oracle.borrow().judge_event(&event);
            self.shared.events.borrow_mut().push(event.to_string());
        }
    }

    fn dma(&mut self, times: u8) {
        let mut random = self.shared.random.borrow_mut();
        (0..times).for_each(|_| access(&self.machine, &self.shared, &mut random));
    }

    /// Destroys all domains; nothing may remain.
    fn end(mut self) -> RunTotals {
        self.step += 1;
        (0..DOMAINS).for_each(|domain| self.destroy(domain));
        self.dma(8);
        assert_eq!(self.frames.free(), FramePool::all(), "frames are missing");
        *self.machine.interleave.borrow_mut() = None;
        let left = self.machine.model.borrow().cached_translations();
        assert_eq!(left, 0, "translations are left");
        let oracle = self.shared.oracle.borrow();
        let counters = self.fixture.commands.borrow().counters();
        RunTotals {
            steps: self.step,
            accesses: oracle.accesses,
            reached: oracle.reached,
            commands: counters.commands,
            syncs: counters.syncs,
        }
    }
}

fn map(
    fixture: &mut Fixture,
    domain: &mut PagingDomain,
    page: u64,
    chunks: &[Chunk],
    writable: bool,
) -> Result<(), DomainMapError> {
    let at = Iova::new(page << PAGE_SHIFT);
    let memory: &mut TestMemory = &mut fixture.memory;
    // SAFETY: the device is the model, whose memory is the test's RAM.
    unsafe { domain.map(memory, &fixture.commands, at, chunks.iter().copied(), mapping(writable)) }
}

pub fn mapping(writable: bool) -> Mapping {
    let access = if writable { Access::READ | Access::WRITE } else { Access::READ };
    Mapping::new(MemoryType::WriteBack, access).unwrap()
}
