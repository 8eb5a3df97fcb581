//! The real SMMU driver against the model: what the driver says it did is what the model does.

mod world;

use addr::{AddrRange, Chunk, Iova, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr, StreamId};
use drivers::iommu::{self, Iommu, MapError, Shared, Stale};
use drivers::smmu::{
    self, CommandError, CommandQueue, DestroyError, Domain, DomainError, EventQueue, Features, PATIENCE,
    Report, StartError, StreamError, StreamTable, Tags,
};
use pagetable::Mapping;
use smmu_spec::model::{Ids, Outcome};
use smmu_spec::{Command, Direction, EventKind, Tag, Walks};
use std::cell::RefCell;
use std::rc::Rc;
use world::{Source, World};

const READ: Direction = Direction::Read;
const WRITE: Direction = Direction::Write;
const RW: Mapping = Mapping::read_write(MemoryType::WriteBack);
const STREAM: StreamId = StreamId::new(8);

/// Every kind of SMMU, snooping and not.
fn kinds() -> Vec<(Ids, Walks)> {
    let ids = [Ids::NESTED, Ids::STAGE1, Ids::STAGE2, Ids::SMALL];
    ids.into_iter().flat_map(|ids| [(ids, Walks::Coherent), (ids, Walks::NonCoherent)]).collect()
}

/// A started SMMU and what a kernel would have beside it.
struct Rig {
    world: Rc<World>,
    source: Source,
    features: Features,
    commands: RefCell<CommandQueue>,
    events: EventQueue,
    streams: StreamTable,
    tags: Tags,
}

fn rig(ids: Ids, walks: Walks) -> Rig {
    Rig::start(World::new(ids, walks)).unwrap()
}

impl Rig {
    fn start(world: Rc<World>) -> Result<Self, StartError> {
        let registers = world.registers();
        let features = Features::probe(&registers).unwrap();
        let mut source = Source(world.clone());
        let smmu = smmu::start(registers, features, &mut source, World::clock())?;
        let (events, streams, tags) = (smmu.events, smmu.streams, smmu.tags);
        Ok(Self { world, source, features, commands: RefCell::new(smmu.commands), events, streams, tags })
    }

    fn domain(&mut self) -> Result<Domain, DomainError> {
        let bits = self.features.input_bits();
        Domain::new(&self.features, &mut self.tags, &mut Source(self.world.clone()), &mut self.source, bits)
    }

    fn attach(&mut self, stream: StreamId, domain: &mut Domain) -> Result<(), StreamError> {
        self.streams.attach(&self.commands, &mut self.source, stream, domain)
    }

    fn detach(&mut self, stream: StreamId, domain: &mut Domain) -> Result<(), StreamError> {
        self.streams.detach(&self.commands, stream, domain)
    }

    fn attached(&mut self, stream: StreamId) -> Domain {
        let mut domain = self.domain().unwrap();
        self.attach(stream, &mut domain).unwrap();
        domain
    }

    fn map(&mut self, domain: &mut Domain, at: u64, chunks: &[Chunk]) -> Result<(), MapError<CommandError>> {
        let chunks = chunks.iter().copied();
        iommu::Domain::map(domain, &mut self.source, &self.commands, Iova::new(at), chunks, RW)
    }

    fn unmap<T>(&mut self, domain: &mut Domain, at: u64, pages: u64, held: T) -> Stale<T> {
        let range = pages_at(at, pages);
        let unmapped = iommu::Domain::unmap(domain, &mut self.source, &self.commands, range, held);
        unmapped.unwrap_or_else(|refused| panic!("{:?}", refused.error))
    }

    fn free<T>(&mut self, stale: Stale<T>) -> T {
        let freed = <Domain as iommu::Domain>::invalidate(&self.commands, stale);
        freed.unwrap_or_else(|unfinished| panic!("{:?}", unfinished.error)).take(&mut self.source)
    }

    fn destroy(&mut self, domain: Domain) -> Result<(), DestroyError> {
        let regions = &mut Source(self.world.clone());
        domain.destroy(&self.commands, &mut self.tags, regions, &mut self.source)
    }

    fn access(&self, stream: StreamId, at: u64, direction: Direction) -> Outcome {
        self.world.model.borrow_mut().access(stream, at, direction)
    }

    /// Where an access of [`STREAM`] ends up, if it is translated.
    fn reach(&self, at: u64) -> Option<u64> {
        match self.access(STREAM, at, WRITE) {
            Outcome::Translated { to, .. } => Some(to),
            Outcome::Bypassed => panic!("{at:#x} is not translated"),
            Outcome::Aborted(_) => None,
        }
    }

    fn reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        while self.events.drain(|report| reports.push(report)) {}
        reports
    }
}

fn pages_at(at: u64, pages: u64) -> AddrRange<Iova> {
    AddrRange::from_len(Iova::new(at), pages * PAGE_SIZE).unwrap()
}

/// A chunk of frames that no table of the world lives in.
fn chunk(at: u64, log2: u8) -> Chunk {
    Chunk::new(Pfn::containing(PhysAddr::new(at)), Order::new(log2).unwrap()).unwrap()
}

#[test]
fn what_is_mapped_is_where_the_model_goes() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        // Scattered pages, a block, a contiguous group.
        let chunks =
            [chunk(0x1_0000_5000, 0), chunk(0x2_0000_0000, 9), chunk(0x3000_0000, 4), chunk(0x9000, 0)];
        rig.map(&mut domain, 0x1f_f000, &chunks).unwrap();
        let cases = [
            (0x1f_f123, 0x1_0000_5123),
            (0x20_0000, 0x2_0000_0000),
            (0x3f_ffff, 0x2_001f_ffff),
            (0x40_0000, 0x3000_0000),
            (0x40_fabc, 0x3000_fabc),
            (0x41_0fff, 0x9fff),
        ];
        for (at, to) in cases {
            assert_eq!(rig.reach(at), Some(to), "{at:#x} with {ids:x?} {walks:?}");
        }
        assert_eq!((rig.reach(0x1f_efff), rig.reach(0x41_1000)), (None, None));
    }
}

#[test]
fn memory_types_are_the_ones_asked_for() {
    // Stage 1: the MAIR byte; stage 2: MemAttr. Both by DDI 0487.
    let types = [
        (MemoryType::WriteBack, 0xff, 0b1111),
        (MemoryType::NonCacheable, 0x44, 0b0101),
        (MemoryType::Device, 0x04, 0b0001),
    ];
    for ids in [Ids::STAGE1, Ids::STAGE2] {
        let mut rig = rig(ids, Walks::Coherent);
        let mut domain = rig.attached(STREAM);
        for (index, (memory, stage1, stage2)) in types.into_iter().enumerate() {
            let at = Iova::new(0x1000 * index as u64);
            let mapping = Mapping::read_write(memory);
            iommu::Domain::map(&mut domain, &mut rig.source, &rig.commands, at, [chunk(0x9000, 0)], mapping)
                .unwrap();
            let Outcome::Translated { attributes, .. } = rig.access(STREAM, at.raw(), READ) else {
                panic!("{memory:?}")
            };
            let expected = if ids.idr[0] & 2 != 0 { stage1 } else { stage2 };
            assert_eq!(attributes.memory, expected, "{memory:?}");
        }
    }
}

#[test]
fn rights_are_enforced_and_recorded() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    let mapping = Mapping::read_only(MemoryType::WriteBack);
    let at = Iova::new(0x4000);
    iommu::Domain::map(&mut domain, &mut rig.source, &rig.commands, at, [chunk(0x9000, 0)], mapping).unwrap();
    assert!(matches!(rig.access(STREAM, 0x4000, READ), Outcome::Translated { to: 0x9000, .. }));
    assert_eq!(rig.access(STREAM, 0x4008, WRITE), Outcome::Aborted(Some(EventKind::Permission)));
    let [Report::Event(event)] = rig.reports()[..] else { panic!() };
    assert_eq!(event.to_string(), "smmu: event F_PERMISSION sid=0x8 iova=0x4008 write stage=1 class=IN");
    assert_eq!(rig.world.model.borrow().event_interrupts, 1);
}

#[test]
fn unmapped_memory_stays_reachable_until_invalidated() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0), chunk(0x5000, 0)]).unwrap();
        assert_eq!((rig.reach(0x1000), rig.reach(0x2000)), (Some(0x8000), Some(0x5000)));
        let stale = rig.unmap(&mut domain, 0x1000, 2, "frames");
        assert_eq!(rig.reach(0x1000), Some(0x8000), "the model kept nothing");
        assert_eq!(rig.free(stale), "frames");
        assert_eq!((rig.reach(0x1000), rig.reach(0x2000)), (None, None), "{ids:x?} {walks:?}");
    }
}

#[test]
fn a_table_page_is_not_walked_after_it_was_given_back() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        // Two last-level tables: one may stay as a spare, the other goes.
        rig.map(&mut domain, 0x0, &[chunk(0x8000, 0)]).unwrap();
        rig.map(&mut domain, 0x20_0000, &[chunk(0x9000, 0)]).unwrap();
        let tables = domain.table_frames();
        assert_eq!((rig.reach(0), rig.reach(0x20_0000)), (Some(0x8000), Some(0x9000)));
        for at in [0, 0x20_0000] {
            let stale = rig.unmap(&mut domain, at, 1, ());
            rig.free(stale);
        }
        assert!(domain.table_frames() < tables);
        // A cached pointer would lead into the released frame, which is full of valid-looking descriptors.
        assert_eq!((rig.reach(0x1000), rig.reach(0x20_1000)), (None, None));
        rig.map(&mut domain, 0x20_0000, &[chunk(0x7000, 0)]).unwrap();
        assert_eq!(rig.reach(0x20_0000), Some(0x7000));
    }
}

#[test]
fn one_buffer_costs_one_command_and_one_sync() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    let before = rig.commands.borrow().counters();
    let chunks: Vec<_> = (0..512).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).collect();
    rig.map(&mut domain, 0x20_0000, &chunks).unwrap();
    let mapped = rig.commands.borrow().counters();
    assert_eq!(mapped, before, "a new mapping needs no command");
    let stale = rig.unmap(&mut domain, 0x20_0000, 512, ());
    rig.free(stale);
    let after = rig.commands.borrow().counters();
    assert_eq!((after.commands - before.commands, after.syncs - before.syncs), (2, 1));
    assert_eq!(after.register_writes - before.register_writes, 1);
}

#[test]
fn cutting_a_block_breaks_it_before_it_is_made_anew() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x20_0000, &[chunk(0x4000_0000, 9)]).unwrap();
        assert_eq!(rig.reach(0x20_1000), Some(0x4000_1000));
        // The model panics if the pages are cached beside the block.
        let stale = rig.unmap(&mut domain, 0x20_3000, 1, ());
        rig.free(stale);
        assert_eq!((rig.reach(0x20_2fff), rig.reach(0x20_3000)), (Some(0x4000_2fff), None));
        assert_eq!(rig.reach(0x20_4000), Some(0x4000_4000));
    }
}

#[test]
fn before_and_while_starting_nothing_passes() {
    for (ids, walks) in kinds() {
        let world = World::new(ids, walks);
        assert_eq!(
            world.model.borrow_mut().access(STREAM, 0x1000, WRITE),
            Outcome::Bypassed,
            "as after reset"
        );
        world.after_step.set(Some(|world| {
            let outcome = world.model.borrow_mut().access(STREAM, 0x1000, WRITE);
            assert!(matches!(outcome, Outcome::Aborted(_)), "{outcome:?}");
        }));
        let rig = Rig::start(world).unwrap();
        assert!(matches!(rig.access(STREAM, 0x1000, WRITE), Outcome::Aborted(_)));
    }
}

#[test]
fn an_smmu_that_firmware_left_on_is_taken_over() {
    let world = World::new(Ids::NESTED, Walks::Coherent);
    const CR0: usize = 0x20;
    const CR0ACK: usize = 0x24;
    const GERROR: usize = 0x60;
    world.set_register(CR0, 0xd);
    world.set_register(CR0ACK, 0xd);
    world.set_register(GERROR, 0x185);
    let mut rig = Rig::start(world).unwrap();
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    assert_eq!(rig.reach(0), Some(0x8000));
    assert!(rig.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn starting_forgets_what_was_cached_before() {
    for (ids, walks) in kinds() {
        let world = World::new(ids, walks);
        let mut before = Rig::start(world.clone()).unwrap();
        let mut domain = before.attached(STREAM);
        before.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert_eq!(before.reach(0x1000), Some(0x8000));
        // A kernel that starts after another one: same tags, other tables.
        let mut after = Rig::start(world).unwrap();
        assert_eq!(after.reach(0x1000), None);
        let mut domain = after.attached(STREAM);
        after.map(&mut domain, 0x1000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!(after.reach(0x1000), Some(0x9000), "{ids:x?} {walks:?}");
    }
}

#[test]
fn streams_nobody_attached_abort() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let _domain = rig.attached(STREAM);
        // In the same table as an attached stream, in another, and outside of all.
        for stream in [StreamId::new(9), StreamId::new(0x4321), StreamId::new(u32::MAX)] {
            assert!(matches!(rig.access(stream, 0, READ), Outcome::Aborted(_)), "{stream:?}");
        }
    }
    let rig = rig(Ids::NESTED, Walks::Coherent);
    let beyond = rig.access(StreamId::new(0x1_0000), 0, READ);
    assert_eq!(beyond, Outcome::Aborted(Some(EventKind::BadStreamId)));
}

#[test]
fn an_attached_stream_was_aborted_before_and_is_after_detaching() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.domain().unwrap();
        rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        // The model keeps the aborting entry, and a first-level descriptor without a table.
        assert_eq!(rig.reach(0x1000), None);
        rig.attach(STREAM, &mut domain).unwrap();
        assert_eq!(rig.reach(0x1000), Some(0x8000), "{ids:x?} {walks:?}");
        rig.detach(STREAM, &mut domain).unwrap();
        assert_eq!(rig.access(STREAM, 0x1000, WRITE), Outcome::Aborted(None));
        assert_eq!(rig.destroy(domain).map_err(|error| format!("{error:?}")), Ok(()));
        assert_eq!(rig.world.model.borrow().cached_translations(), 0);
    }
}

#[test]
fn a_stream_has_one_domain() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut first = rig.attached(STREAM);
    let mut second = rig.domain().unwrap();
    assert_ne!(first.tag(), second.tag());
    assert_eq!(rig.attach(STREAM, &mut second), Err(StreamError::AlreadyAttached(STREAM)));
    assert_eq!(rig.detach(STREAM, &mut second), Err(StreamError::NotAttached(STREAM)));
    let far = StreamId::new(1 << 16);
    assert_eq!(rig.attach(far, &mut second), Err(StreamError::OutOfRange(far)));
    let Err(DestroyError::InUse(domain)) = rig.destroy(first) else { panic!() };
    first = domain;
    rig.detach(STREAM, &mut first).unwrap();
    rig.attach(STREAM, &mut second).unwrap();
    assert_eq!((first.streams(), second.streams()), (0, 1));
}

#[test]
fn streams_of_one_domain_share_its_addresses() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    let other = StreamId::new(0x100);
    rig.attach(other, &mut domain).unwrap();
    rig.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    assert!(matches!(rig.access(other, 0, READ), Outcome::Translated { to: 0x8000, .. }));
    rig.detach(other, &mut domain).unwrap();
    assert_eq!(rig.access(other, 0, READ), Outcome::Aborted(None));
    assert_eq!(rig.reach(0), Some(0x8000));
}

#[test]
fn domains_do_not_see_each_other() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let (mut first, other) = (rig.attached(STREAM), StreamId::new(3));
        let mut second = rig.attached(other);
        rig.map(&mut first, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        rig.map(&mut second, 0x1000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!(rig.reach(0x1000), Some(0x8000));
        assert!(matches!(rig.access(other, 0x1000, READ), Outcome::Translated { to: 0x9000, .. }));
        let stale = rig.unmap(&mut first, 0x1000, 1, ());
        rig.free(stale);
        assert!(matches!(rig.access(other, 0x1000, READ), Outcome::Translated { to: 0x9000, .. }));
    }
}

#[test]
fn a_second_level_grows_for_each_span_once() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.domain().unwrap();
    for (stream, tables) in [(0x8, 1), (0x3f, 1), (0x40, 2), (0xffff, 3), (0x9, 3)] {
        assert!(matches!(rig.access(StreamId::new(stream), 0, READ), Outcome::Aborted(_)));
        rig.attach(StreamId::new(stream), &mut domain).unwrap();
        assert_eq!(rig.streams.second_level_tables(), tables, "{stream:#x}");
    }
    rig.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    for stream in [0x8, 0x3f, 0x40, 0xffff, 0x9] {
        assert!(
            matches!(rig.access(StreamId::new(stream), 0, READ), Outcome::Translated { .. }),
            "{stream:#x}"
        );
    }
    // Its neighbours abort without an event: their entries say so.
    assert_eq!(rig.access(StreamId::new(0x41), 0, READ), Outcome::Aborted(None));
}

#[test]
fn a_refused_command_is_replaced_and_the_rest_still_happens() {
    let mut rig = rig(Ids::STAGE1, Walks::NonCoherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(rig.reach(0x1000).is_some());
    let stale = rig.unmap(&mut domain, 0x1000, 1, ());
    // Illegal without stage 2.
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::TlbiNsnhAll];
    let error = rig.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(rig.reach(0x1000), None, "the second command was lost");
    assert_eq!(rig.commands.borrow().counters().illegal, 1);
    let errors = rig.commands.borrow_mut().service_errors();
    assert_eq!(errors.to_string(), "smmu: global error CMDQ_ERR");
    rig.free(stale);
    assert!(rig.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn two_refused_commands_in_a_batch_are_both_replaced() {
    let rig = rig(Ids::STAGE1, Walks::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::CfgiAll, illegal, illegal];
    let error = rig.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(rig.commands.borrow().counters().illegal, 3);
    assert_eq!(rig.commands.borrow_mut().run([]), Ok(()));
}

#[test]
fn a_refusal_that_the_interrupt_handler_met_is_still_the_waiters_error() {
    let rig = rig(Ids::STAGE1, Walks::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let mut commands = rig.commands.borrow_mut();
    commands.push(illegal).unwrap();
    commands.push(Command::Sync).unwrap();
    commands.publish();
    rig.world.step();
    assert_eq!(rig.world.model.borrow().error_interrupts, 1);
    assert!(!commands.service_errors().is_empty());
    rig.world.step();
    assert_eq!(commands.wait(), Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(commands.run([]), Ok(()));
}

/// A queue in which another CPU puts a command before and behind each that somebody else writes.
struct Busy<'a>(&'a RefCell<CommandQueue>, Command);

impl Shared<CommandQueue> for Busy<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        let _ = queue.push(self.1);
        let result = action(queue);
        let _ = queue.push(self.1);
        queue.publish();
        result
    }
}

#[test]
fn nobody_is_told_of_anothers_refused_commands() {
    let mut rig = rig(Ids::STAGE1, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(rig.reach(0x1000).is_some());
    let stale = rig.unmap(&mut domain, 0x1000, 1, ());
    let others = Busy(&rig.commands, Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) });
    let freed = <Domain as iommu::Domain>::invalidate(&others, stale).unwrap();
    freed.take(&mut rig.source);
    assert_eq!(rig.reach(0x1000), None);
    assert!(rig.commands.borrow().counters().illegal >= 1);
}

#[test]
fn who_was_passed_by_a_full_turn_of_the_queue_sees_its_end() {
    let mut rig = rig(Ids::SMALL, Walks::NonCoherent);
    let mut domain = rig.attached(STREAM);
    for page in 0..3000u64 {
        rig.map(&mut domain, 0x1000 + page % 7 * 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = rig.unmap(&mut domain, 0x1000 + page % 7 * 0x1000, 1, ());
        let others = Busy(&rig.commands, Command::TlbiNsnhAll);
        let freed = <Domain as iommu::Domain>::invalidate(&others, stale).unwrap();
        freed.take(&mut rig.source);
    }
}

#[test]
fn a_queue_that_aborts_once_is_read_again() {
    let rig = rig(Ids::NESTED, Walks::Coherent);
    rig.world.bad_reads.set(1);
    assert_eq!(rig.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
    rig.world.bad_reads.set(u32::MAX);
    let error = rig.commands.borrow_mut().run([Command::CfgiAll]);
    assert_eq!(error, Err(CommandError::Stopped { code: 2 }));
    rig.world.bad_reads.set(0);
    assert_eq!(rig.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
}

#[test]
fn a_time_out_gives_nothing_back_and_can_be_tried_again() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(rig.reach(0x1000).is_some());
    let stale = rig.unmap(&mut domain, 0x1000, 1, "frames");
    rig.world.model.borrow_mut().hung = true;
    let unfinished = <Domain as iommu::Domain>::invalidate(&rig.commands, stale).unwrap_err();
    let CommandError::TimedOut { produced, consumed, opcode } = unfinished.error else {
        panic!("{:?}", unfinished.error)
    };
    assert_eq!(produced.distance_from(consumed), 2);
    assert_eq!(opcode, 0x12, "CMD_TLBI_NH_VA");
    assert_eq!(rig.commands.borrow().counters().time_outs, 1);
    assert_eq!(rig.reach(0x1000), Some(0x8000));
    rig.world.model.borrow_mut().hung = false;
    assert_eq!(rig.free(unfinished.stale), "frames");
    assert_eq!(rig.reach(0x1000), None);
}

#[test]
fn what_the_smmu_never_forgot_is_never_dropped() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    let frames = Rc::new("frames that go back when dropped");
    for (hung, held_after) in [(true, 2), (false, 2)] {
        rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = rig.unmap(&mut domain, 0x1000, 1, frames.clone());
        rig.world.model.borrow_mut().hung = hung;
        drop(
            <Domain as iommu::Domain>::invalidate(&rig.commands, stale)
                .map(|freed| freed.take(&mut rig.source)),
        );
        assert_eq!(Rc::strong_count(&frames), held_after, "hung: {hung}");
    }
}

#[test]
fn a_consumer_index_outside_of_the_queue_is_an_error() {
    let rig = rig(Ids::NESTED, Walks::Coherent);
    rig.world.model.borrow_mut().hung = true;
    rig.world.after_step.set(Some(|world| world.set_register(0x9c, 0x77)));
    let error = rig.commands.borrow_mut().run([]);
    assert_eq!(error, Err(CommandError::Nonsense { consumed: 0x77 }));
}

#[test]
fn a_failed_map_that_cannot_be_taken_back_says_so() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x20_0000, &[chunk(0x8000, 0)]).unwrap();
    let pages = rig.world.pages_in_use();
    rig.world.model.borrow_mut().hung = true;
    // Its second half meets the page that is there.
    let chunks = [chunk(0x5000, 0), chunk(0x7000, 0)];
    let error = rig.map(&mut domain, 0x1f_f000, &chunks).unwrap_err();
    assert!(matches!(error, MapError::NotForgotten { .. }), "{error:?}");
    assert!(rig.world.pages_in_use() > pages, "the tables of the first half may still be walked");
}

#[test]
fn a_failed_map_leaves_nothing_behind() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x20_0000, &[chunk(0x8000, 0)]).unwrap();
        let (pages, tables) = (rig.world.pages_in_use(), domain.table_frames());
        let chunks = [chunk(0x5000, 0), chunk(0x7000, 0)];
        let error = rig.map(&mut domain, 0x1f_f000, &chunks).unwrap_err();
        let cause = pagetable::MapError::AlreadyMapped(Iova::new(0x20_0000));
        assert_eq!(error, MapError::Table(cause));
        assert_eq!((rig.reach(0x1f_f000), rig.reach(0x20_0000)), (None, Some(0x8000)));
        // One empty table stays for the next mapping, until it is asked back.
        domain.trim(&mut rig.source, &rig.commands).unwrap();
        assert_eq!((rig.world.pages_in_use(), domain.table_frames()), (pages, tables));
        assert_eq!(rig.reach(0x1f_f000), None);
    }
}

#[test]
fn a_map_that_fails_under_the_devices_eyes_is_forgotten_with_its_tables() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x60_0000, &[chunk(0x8000, 0)]).unwrap();
        let before = rig.world.pages_in_use();
        // Three tables are filled and used by the device before the page that is there already.
        let (world, seen) = (rig.world.clone(), RefCell::new(0));
        let scattered = (0..3 * 512 + 1).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).inspect(|_| {
            for at in [0x0, 0x20_0000, 0x40_0000] {
                let outcome = world.model.borrow_mut().access(STREAM, at, READ);
                *seen.borrow_mut() += usize::from(matches!(outcome, Outcome::Translated { .. }));
            }
        });
        let at = Iova::new(0);
        let failed = iommu::Domain::map(&mut domain, &mut rig.source, &rig.commands, at, scattered, RW);
        assert!(matches!(failed, Err(MapError::Table(_))), "{failed:?}");
        assert!(seen.into_inner() > 0, "the device never saw the first part");
        for at in [0x0, 0x1000, 0x20_0000, 0x20_1000, 0x40_0000, 0x40_1000] {
            assert_eq!(rig.reach(at), None, "{at:#x}");
        }
        domain.trim(&mut rig.source, &rig.commands).unwrap();
        assert_eq!((rig.reach(0x40_2000), rig.world.pages_in_use()), (None, before));
    }
}

#[test]
fn a_full_event_queue_is_counted_and_drained() {
    for global in [false, true] {
        let mut rig = rig(Ids::NESTED, Walks::NonCoherent);
        let _domain = rig.attached(STREAM);
        rig.world.model.borrow_mut().overflow_is_global_error = global;
        for access in 0..1500 {
            assert_eq!(rig.reach(4 * access), None);
        }
        let reports = rig.reports();
        let count = |wanted: fn(&Report) -> bool| reports.iter().filter(|report| wanted(report)).count();
        assert_eq!(count(|report| matches!(report, Report::Event(_))), 8);
        assert_eq!(count(|report| matches!(report, Report::Quiet(_))), 1024 - 8);
        let dropped: Vec<_> = reports.iter().filter(|report| matches!(report, Report::Dropped(_))).collect();
        let expected = Report::Dropped(smmu::Dropped { stream: STREAM, count: 1024 - 8 });
        assert_eq!(dropped, [&expected]);
        let errors = rig.commands.borrow_mut().service_errors();
        assert_eq!(errors.to_string() == "smmu: global error EVENTQ_ABT_ERR", global);
        assert_eq!(count(|report| matches!(report, Report::Overflow)), usize::from(!global));
        assert_eq!(rig.events.counters().overflows, u64::from(!global));
        // Room again, and the overflow was acknowledged: a second one shows.
        assert_eq!((rig.reach(0), rig.reports().len()), (None, 1));
        (0..1500).for_each(|access| assert_eq!(rig.reach(4 * access), None));
        rig.reports();
        let again = rig.commands.borrow_mut().service_errors();
        assert_eq!(
            (rig.events.counters().overflows, !again.is_empty()),
            (if global { 0 } else { 2 }, global)
        );
    }
}

#[test]
fn events_are_read_in_order_around_the_end_of_the_queue() {
    let mut rig = rig(Ids::NESTED, Walks::NonCoherent);
    let mut next = 0;
    for _ in 0..40 {
        let first = next;
        // Streams without a second level: C_BAD_STREAMID each.
        for stream in first..first + 100 {
            assert!(matches!(rig.access(StreamId::new(stream), 0, READ), Outcome::Aborted(Some(_))));
        }
        let seen = rig.reports().into_iter().filter_map(|report| match report {
            Report::Event(event) | Report::Quiet(event) => Some(event.stream.raw()),
            _ => None,
        });
        assert_eq!(seen.collect::<Vec<_>>(), (first..first + 100).collect::<Vec<_>>());
        next += 100;
    }
    assert_eq!(rig.world.model.borrow().event_interrupts, 40);
}

#[test]
fn a_producer_index_outside_of_the_queue_is_not_followed() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    rig.world.set_register(0x1_00a8, 0x601);
    assert_eq!(rig.reports(), []);
    assert_eq!(rig.events.counters().nonsense, 1);
    assert_eq!(rig.world.register(0x1_00ac), 0x601);
}

#[test]
fn what_was_left_out_is_said_again_in_a_later_window() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let _domain = rig.attached(STREAM);
    (0..20).for_each(|access| assert_eq!(rig.reach(access), None));
    rig.reports();
    (0..5).for_each(|access| assert_eq!(rig.reach(access), None));
    assert!(rig.reports().iter().all(|report| matches!(report, Report::Quiet(_))));
    rig.world.pass_microseconds(2_000_000);
    assert_eq!(rig.reach(0), None);
    let dropped = Report::Dropped(smmu::Dropped { stream: STREAM, count: 5 });
    let reports = rig.reports();
    assert_eq!((reports[0], reports.len()), (dropped, 2));
}

#[test]
fn batches_larger_than_the_queue_go_in_parts() {
    let mut rig = rig(Ids::SMALL, Walks::NonCoherent);
    let mut domain = rig.attached(STREAM);
    let chunks: Vec<_> = (0..50).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).collect();
    rig.map(&mut domain, 0x1000, &chunks).unwrap();
    (0..50).for_each(|page| assert!(rig.reach(0x1000 * (page + 1)).is_some()));
    let stale = rig.unmap(&mut domain, 0x1000, 50, ());
    rig.free(stale);
    (0..50).for_each(|page| assert_eq!(rig.reach(0x1000 * (page + 1)), None));
    assert!(rig.commands.borrow().counters().commands >= 50);
}

#[test]
fn commands_are_seen_before_they_are_announced() {
    let rig = rig(Ids::NESTED, Walks::NonCoherent);
    thread_local!(static ANNOUNCED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
    rig.world.watch.set(Some(|world, event| {
        if event == arch::fake::Event::Barrier("dsb_sy") {
            ANNOUNCED.with_borrow_mut(|seen| seen.push(world.register(0x98)));
        }
    }));
    let before = rig.world.register(0x98);
    rig.commands.borrow_mut().run([Command::CfgiAll]).unwrap();
    assert_eq!(ANNOUNCED.take(), [before], "one barrier, and PROD after it");
    assert_eq!(rig.world.register(0x98), before + 2);
}

#[test]
fn records_are_read_between_the_two_indices() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    assert!(matches!(rig.access(STREAM, 0, READ), Outcome::Aborted(Some(_))));
    thread_local!(static CONSUMED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
    rig.world.watch.set(Some(|world, event| {
        if event == arch::fake::Event::Barrier("dmb_oshld") {
            CONSUMED.with_borrow_mut(|seen| seen.push(world.register(0x1_00ac)));
        }
    }));
    rig.events.drain(|_| {});
    assert_eq!(CONSUMED.take(), [0, 0], "a barrier after PROD was read, and one before CONS is written");
    assert_eq!(rig.world.register(0x1_00ac), 1);
}

#[test]
fn a_domain_has_only_the_bits_that_are_there() {
    let mut rig = rig(Ids::STAGE2, Walks::Coherent);
    let mut source = Source(rig.world.clone());
    for bits in [24, 45, 48, 49] {
        let domain = Domain::new(&rig.features, &mut rig.tags, &mut source, &mut rig.source, bits);
        assert_eq!(domain.unwrap_err(), DomainError::InputBits(bits));
    }
    for bits in [25, 30, 31, 39, 40, 44] {
        let mut domain =
            Domain::new(&rig.features, &mut rig.tags, &mut source, &mut rig.source, bits).unwrap();
        let last = (1 << bits) - PAGE_SIZE;
        rig.map(&mut domain, last, &[chunk(0x8000, 0)]).unwrap();
        rig.attach(STREAM, &mut domain).unwrap();
        assert_eq!((rig.reach(last), rig.reach(1 << bits)), (Some(0x8000), None), "{bits}");
        rig.detach(STREAM, &mut domain).unwrap();
    }
}

#[test]
fn eight_bits_of_tag_are_255_domains() {
    let mut rig = rig(Ids::SMALL, Walks::Coherent);
    let mut domains: Vec<_> = (0..255).map(|_| rig.domain().unwrap()).collect();
    let pages = rig.world.pages_in_use();
    assert_eq!(rig.domain().unwrap_err(), DomainError::OutOfTags);
    assert_eq!(rig.world.pages_in_use(), pages);
    let tag: Tag = domains[7].tag();
    rig.destroy(domains.remove(7)).map_err(|error| format!("{error:?}")).unwrap();
    assert_eq!(rig.domain().unwrap().tag(), tag);
}

/// What a kernel does with a device from start to end; `?` at every step that can fail.
fn story(rig: &mut Rig) -> Option<()> {
    let mut domain = rig.domain().ok()?;
    let told = story_of(rig, &mut domain);
    if domain.streams() > 0 {
        rig.detach(STREAM, &mut domain).unwrap();
    }
    rig.destroy(domain).map_err(|error| format!("{error:?}")).unwrap();
    told
}

fn story_of(rig: &mut Rig, domain: &mut Domain) -> Option<()> {
    rig.attach(STREAM, domain).ok()?;
    let chunks = [chunk(0x1_0000_5000, 0), chunk(0x2_0000_0000, 9), chunk(0x9000, 0)];
    rig.map(domain, 0x1f_f000, &chunks).ok()?;
    rig.reach(0x20_0000);
    let stale = rig.unmap(domain, 0x1f_f000, 514, ());
    rig.free(stale);
    Some(())
}

/// Starts an SMMU and tells the story with so many allocations; whether they were enough.
fn story_with(ids: Ids, walks: Walks, allowance: u64) -> bool {
    let world = World::new(ids, walks);
    world.allowance.set(allowance);
    let Ok(mut rig) = Rig::start(world.clone()) else {
        assert_eq!(world.pages_in_use(), 0, "start failed");
        return false;
    };
    let before = world.pages_in_use();
    let told = story(&mut rig).is_some();
    // A second-level table stays for the next stream; nothing else does.
    assert_eq!(world.pages_in_use(), before + rig.streams.second_level_tables() as u64);
    world.allowance.set(u64::MAX);
    assert_eq!(story(&mut rig), Some(()), "the failure left something in the way");
    told
}

#[test]
fn every_allocation_may_fail_once_and_leaves_nothing_behind() {
    for (ids, walks) in kinds() {
        let enough = (0..40).position(|allowance| story_with(ids, walks, allowance));
        assert!(enough.is_some_and(|failures| failures >= 7), "{enough:?}");
    }
}

#[test]
fn a_hung_smmu_is_refused_at_start_with_the_register() {
    let world = World::new(Ids::NESTED, Walks::Coherent);
    world.model.borrow_mut().hung = true;
    let Err(StartError::TimedOut { register: "GBPA", .. }) = Rig::start(world.clone()).map(|_| ()) else {
        panic!()
    };
    assert_eq!(world.pages_in_use(), 0);
    // It hangs later: at the first commands.
    let world = World::new(Ids::NESTED, Walks::Coherent);
    world.after_step.set(Some(|world| {
        let enabled = world.register(0x24) & 8 != 0;
        world.model.borrow_mut().hung = enabled;
    }));
    let Err(StartError::Command(CommandError::TimedOut { .. })) = Rig::start(world.clone()).map(|_| ())
    else {
        panic!()
    };
    assert!(
        world.pages_in_use() > 0,
        "an SMMU that does not confirm being disabled may still use its queues"
    );
    assert_eq!(PATIENCE, 1_000_000);
}

/// A page that random domains pass around: who may reach it at this moment.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Owner {
    Nobody,
    /// Domain and page number.
    Mapped(usize, u64),
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }
}

#[test]
fn no_device_ever_reaches_a_page_that_is_free_or_another_domains() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let streams = [StreamId::new(1), StreamId::new(9)];
        let mut domains = streams.map(|stream| rig.attached(stream));
        let frame = |index: usize| 0x1_0000_0000 + index as u64 * PAGE_SIZE;
        let mut owners = [Owner::Nobody; 24];
        let mut numbers = Numbers(u64::from(ids.idr[0]));
        for _ in 0..600 {
            let (which, page) = (numbers.below(2) as usize, numbers.below(40));
            let at = page * 0x8_0000;
            match owners.iter().position(|owner| *owner == Owner::Mapped(which, page)) {
                Some(index) => {
                    let stale = rig.unmap(&mut domains[which], at, 1, index);
                    owners[rig.free(stale)] = Owner::Nobody;
                }
                None => {
                    let free = owners.iter().position(|owner| *owner == Owner::Nobody);
                    let Some(index) = free else { continue };
                    rig.map(&mut domains[which], at, &[chunk(frame(index), 0)]).unwrap();
                    owners[index] = Owner::Mapped(which, page);
                }
            }
            for (which, stream) in streams.into_iter().enumerate() {
                let page = numbers.below(40);
                let expected = owners.iter().position(|owner| *owner == Owner::Mapped(which, page));
                let reached = match rig.access(stream, page * 0x8_0000, WRITE) {
                    Outcome::Translated { to, .. } => Some(to),
                    _ => None,
                };
                assert_eq!(reached, expected.map(frame), "{which} {page} {ids:x?} {walks:?}");
            }
            rig.reports();
        }
    }
}

#[test]
fn a_lock_is_only_taken_where_it_is_needed() {
    struct Locked;
    impl Shared<CommandQueue> for Locked {
        fn with<R>(&self, _: impl FnOnce(&mut CommandQueue) -> R) -> R {
            panic!("the command queue was asked for")
        }
    }
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    let (at, range) = (Iova::new(0), pages_at(0, 513));
    let chunks = [chunk(0x4000_0000, 9), chunk(0x9000, 0)];
    iommu::Domain::map(&mut domain, &mut rig.source, &Locked, at, chunks, RW).unwrap();
    let stale = iommu::Domain::unmap(&mut domain, &mut rig.source, &Locked, range, ()).unwrap();
    rig.free(stale);
}
