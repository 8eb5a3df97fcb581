//! Tests of the model against the manual, without a driver: caching, illegal commands, events.

use super::registers::{cr0, offset};
use super::{IdRegisters, PhysicalMemory, RegisterFile, SmmuModel, TransactionResult};
use crate::cd::{ContextDescriptor, Stage1Config};
use crate::coherency::WalkCoherency;
use crate::command::{Command, Extent, Scope};
use crate::event::{AccessKind, EventKind};
use crate::ste::{L1Descriptor, Ste, StreamConfig};
use addr::{Asid, Iova, PhysAddr, StreamId, Vmid};
use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Default)]
struct TestRegisters(RefCell<BTreeMap<usize, u32>>);

impl RegisterFile for TestRegisters {
    fn get(&self, offset: usize) -> u32 {
        self.0.borrow().get(&offset).copied().unwrap_or(0)
    }
    fn set(&self, offset: usize, value: u32) {
        self.0.borrow_mut().insert(offset, value);
    }
}

/// 16 MiB of zeroes; accesses above abort.
#[derive(Default)]
struct ModelMemory(BTreeMap<u64, u64>);

impl PhysicalMemory for ModelMemory {
    fn read(&self, at: u64) -> Option<u64> {
        (at < 1 << 24).then(|| self.0.get(&at).copied().unwrap_or(0))
    }
    fn write(&mut self, at: u64, value: u64) -> bool {
        self.0.insert(at, value);
        at < 1 << 24
    }
}

const STREAM: StreamId = StreamId::new(0x45);
const STREAMS: u64 = 0x1_0000;
const SECOND: u64 = 0x1_2000;
const COMMANDS: u64 = 0x2_0000;
const EVENTS: u64 = 0x3_0000;
const CONTEXT: u64 = 0x4_0000;
/// Four tables, one per level.
const TABLES: u64 = 0x5_0000;
const ENTRY: u64 = SECOND + 64 * 5;
/// Page: valid, AF, nG, inner shareable, AP[1].
const LEAF: u64 = 0b11 | 1 << 6 | 0b11 << 8 | 1 << 10 | 1 << 11;

type TestSmmu = SmmuModel<TestRegisters, ModelMemory>;

/// An enabled SMMU with a two-level stream table, an entry for [`STREAM`], and one page mapped at address 0.
fn smmu(ids: IdRegisters) -> TestSmmu {
    let mut smmu = SmmuModel::new(TestRegisters::default(), ModelMemory::default(), ids);
    for (at, value) in [
        (offset::STRTAB_BASE, STREAMS as u32),
        (offset::STRTAB_BASE_CFG, 1 << 16 | 6 << 6 | 8),
        (offset::CMDQ_BASE, COMMANDS as u32 | 6),
        (offset::EVENTQ_BASE, EVENTS as u32 | 2),
        (offset::CMDQ_PROD, 0),
        (offset::CMDQ_CONS, 0),
        (offset::EVENTQ_PROD, 0),
        (offset::EVENTQ_CONS, 0),
        (offset::CR2, 2),
        (offset::CR0, cr0::SMMUEN | cr0::CMDQEN | cr0::EVENTQEN),
    ] {
        smmu.registers.set(at, value);
    }
    smmu.step();
    smmu.memory.write(STREAMS + 8, L1Descriptor::new(PhysAddr::new(SECOND), 6).0);
    attach(&mut smmu, Asid::new(7));
    for level in 0..3 {
        smmu.memory.write(TABLES + 0x1000 * level, (TABLES + 0x1000 * (level + 1)) | 0b11);
    }
    smmu.memory.write(TABLES + 0x3000, 0x8000 | LEAF);
    smmu
}

fn attach(smmu: &mut TestSmmu, asid: Asid) {
    let context = PhysAddr::new(CONTEXT);
    store(smmu, ENTRY, Ste::new(StreamConfig::Stage1 { context, coherency: WalkCoherency::Coherent }).0);
    let space = Stage1Config {
        tables: PhysAddr::new(TABLES),
        input_bits: 48,
        output_size: 4,
        asid,
        coherency: WalkCoherency::Coherent,
    };
    store(smmu, CONTEXT, ContextDescriptor::new(space).0);
}

fn store(smmu: &mut TestSmmu, at: u64, words: [u64; 8]) {
    for (index, word) in words.into_iter().enumerate() {
        smmu.memory.write(at + 8 * index as u64, word);
    }
}

fn issue(smmu: &mut TestSmmu, words: [u64; 2]) {
    let prod = smmu.registers.get(offset::CMDQ_PROD);
    smmu.memory.write(COMMANDS + 16 * u64::from(prod & 0x3f), words[0]);
    smmu.memory.write(COMMANDS + 16 * u64::from(prod & 0x3f) + 8, words[1]);
    smmu.registers.set(offset::CMDQ_PROD, (prod + 1) & 0x7f);
    smmu.step();
}

fn run(smmu: &mut TestSmmu, commands: &[Command]) {
    commands.iter().for_each(|command| issue(smmu, command.encode()));
}

fn reach(smmu: &mut TestSmmu, at: u64) -> Option<u64> {
    match smmu.access(STREAM, at, AccessKind::Write) {
        TransactionResult::Translated { to, .. } => Some(to),
        _ => None,
    }
}

fn kind(smmu: &mut TestSmmu) -> Option<EventKind> {
    match smmu.access(STREAM, 0, AccessKind::Write) {
        TransactionResult::Aborted(kind) => kind,
        other => panic!("{other:?}"),
    }
}

fn page(extent: Extent, leaf: bool) -> Scope {
    Scope { start: Iova::new(0), extent, leaf }
}

fn by_va(vmid: u16, asid: u16, scope: Scope) -> Command {
    Command::TlbiNhVa { vmid: Vmid::new(vmid), asid: Asid::new(asid), scope }
}

#[test]
fn bypasses_after_reset_and_gbpa_changes_only_with_update() {
    let mut smmu = SmmuModel::new(TestRegisters::default(), ModelMemory::default(), IdRegisters::NESTED);
    assert_eq!(smmu.access(STREAM, 0, AccessKind::Read), TransactionResult::Bypassed);
    smmu.registers.set(offset::GBPA, 1 << 20);
    smmu.step();
    assert_eq!(smmu.access(STREAM, 0, AccessKind::Read), TransactionResult::Bypassed);
    smmu.registers.set(offset::GBPA, 1 << 31 | 1 << 20);
    smmu.step();
    assert_eq!(smmu.access(STREAM, 0, AccessKind::Read), TransactionResult::Aborted(None));
    assert_eq!(smmu.registers.get(offset::GBPA), 1 << 20);
}

#[test]
fn translations_are_cached_until_invalidated_and_synchronised() {
    let mut smmu = smmu(IdRegisters::NESTED);
    assert_eq!(reach(&mut smmu, 0x123), Some(0x8123));
    smmu.memory.write(TABLES + 0x3000, 0);
    let named = by_va(0, 7, page(Extent::Entry, true));
    // Invalidations of another VMID, another ASID and another level have no effect.
    let level2 = Extent::Pages { num: 0, scale: 0, ttl: 2 };
    run(
        &mut smmu,
        &[
            by_va(1, 7, page(Extent::Entry, true)),
            by_va(0, 8, page(Extent::Entry, true)),
            by_va(0, 7, page(level2, true)),
            Command::Sync,
        ],
    );
    assert_eq!(reach(&mut smmu, 0), Some(0x8000));
    run(&mut smmu, &[named]);
    assert_eq!(reach(&mut smmu, 0), Some(0x8000), "before the CMD_SYNC");
    run(&mut smmu, &[Command::Sync]);
    assert_eq!(reach(&mut smmu, 0), None);
}

#[test]
fn walk_cache_entries_are_kept_with_leaf_1() {
    for (leaf, expected) in [(true, Some(0x8000)), (false, Some(0x9000))] {
        let mut smmu = smmu(IdRegisters::NESTED);
        assert_eq!(reach(&mut smmu, 0), Some(0x8000));
        // The level 2 entry now points to another table.
        smmu.memory.write(TABLES + 0x2000, 0x6_0000 | 0b11);
        smmu.memory.write(0x6_0000, 0x9000 | LEAF);
        run(&mut smmu, &[by_va(0, 7, page(Extent::Entry, leaf)), Command::Sync]);
        assert_eq!(reach(&mut smmu, 0), expected);
    }
}

#[test]
fn configuration_is_cached_valid_or_invalid() {
    let mut smmu = smmu(IdRegisters::NESTED);
    store(&mut smmu, ENTRY, [0; 8]);
    assert_eq!(kind(&mut smmu), Some(EventKind::BadSte));
    attach(&mut smmu, Asid::new(7));
    assert_eq!(kind(&mut smmu), Some(EventKind::BadSte), "invalid entries are cached too");
    let invalidate = Command::CfgiSte { stream: STREAM, leaf: true };
    run(&mut smmu, &[invalidate, Command::Sync]);
    assert_eq!(reach(&mut smmu, 0), Some(0x8000));
    // CMD_CFGI_STE also invalidates the context descriptor cached through the entry.
    attach(&mut smmu, Asid::new(9));
    smmu.memory.write(TABLES + 0x3000, 0x9000 | LEAF);
    assert_eq!(reach(&mut smmu, 0), Some(0x8000), "still under ASID 7");
    run(&mut smmu, &[invalidate, Command::Sync]);
    assert_eq!(reach(&mut smmu, 0), Some(0x9000), "nothing is cached under ASID 9");
}

#[test]
fn first_level_descriptors_are_invalidated_only_with_leaf_0() {
    let mut smmu = smmu(IdRegisters::NESTED);
    smmu.memory.write(STREAMS + 8, 0);
    assert_eq!(kind(&mut smmu), Some(EventKind::BadStreamId));
    smmu.memory.write(STREAMS + 8, L1Descriptor::new(PhysAddr::new(SECOND), 6).0);
    run(&mut smmu, &[Command::CfgiSte { stream: STREAM, leaf: true }, Command::Sync]);
    assert_eq!(kind(&mut smmu), Some(EventKind::BadStreamId));
    run(&mut smmu, &[Command::CfgiSte { stream: STREAM, leaf: false }, Command::Sync]);
    assert_eq!(reach(&mut smmu, 0), Some(0x8000));
}

#[test]
fn malformed_configuration_is_recorded_with_its_event() {
    let cases = [
        // Stream 5 is past the end of a table of 4 entries; a span of 2^7 exceeds SPLIT.
        (STREAMS + 8, SECOND | 3, EventKind::BadStreamId),
        (STREAMS + 8, SECOND | 8, EventKind::BadStreamId),
        (STREAMS + 8, 1 << 30 | 7, EventKind::SteFetch),
        (ENTRY + 8, 1 << 27, EventKind::BadSte),
        (ENTRY, 1 << 30 | 0b1011, EventKind::CdFetch),
        (CONTEXT, 0, EventKind::BadCd),
        (CONTEXT + 8, 1 << 30, EventKind::WalkExternalAbort),
        (TABLES, 0, EventKind::Translation),
        (TABLES + 0x3000, 1 << 44 | LEAF, EventKind::AddressSize),
        (TABLES + 0x3000, LEAF & !(1 << 10), EventKind::AccessFlag),
    ];
    for (at, value, expected) in cases {
        let mut smmu = smmu(IdRegisters::NESTED);
        smmu.memory.write(at, value);
        assert_eq!(kind(&mut smmu), Some(expected), "{value:#x} at {at:#x}");
        let record = smmu.memory.read(EVENTS).unwrap();
        assert_eq!((record as u8, record >> 32), (expected.number(), 0x45));
    }
}

#[test]
fn permissions_combine_all_table_levels() {
    for (bit, direction) in [(1 << 6, AccessKind::Read), (1 << 7, AccessKind::Write)] {
        let mut smmu = smmu(IdRegisters::NESTED);
        smmu.memory.write(TABLES + 0x3000, (0x8000 | LEAF) ^ bit);
        let denied = TransactionResult::Aborted(Some(EventKind::Permission));
        assert_eq!(smmu.access(STREAM, 0, direction), denied);
    }
    // APTable[1] at level 1 denies writes below, also through the walk cache.
    let mut smmu = smmu(IdRegisters::NESTED);
    smmu.memory.write(TABLES + 0x1000, (TABLES + 0x2000) | 0b11 | 1 << 62);
    smmu.memory.write(TABLES + 0x3008, 0x9000 | LEAF);
    assert!(matches!(smmu.access(STREAM, 0, AccessKind::Read), TransactionResult::Translated { .. }));
    assert_eq!(reach(&mut smmu, 0x1000), None);
}

#[test]
fn illegal_command_stops_the_queue_until_replaced_and_acknowledged() {
    let va = |extent| by_va(0, 7, page(extent, true)).encode();
    let small = Extent::Pages { num: 3, scale: 0, ttl: 0 };
    let cases = [
        (IdRegisters::NESTED, va(Extent::Pages { num: 0, scale: 0, ttl: 0 })),
        (IdRegisters::SMALL, va(small)),
        (IdRegisters::STAGE1, Command::TlbiS12Vmall { vmid: Vmid::new(0) }.encode()),
        (IdRegisters::STAGE2, Command::TlbiNhAsid { vmid: Vmid::new(0), asid: Asid::new(7) }.encode()),
        (IdRegisters::STAGE2, Command::CfgiCdAll { stream: STREAM }.encode()),
        (IdRegisters::NESTED, [Command::CfgiAll.encode()[0] | 1 << 10, 31]),
        (IdRegisters::NESTED, [0x46 | 0b11 << 12, 0]),
        (IdRegisters::NESTED, [0xff, 0]),
    ];
    for (ids, words) in cases {
        let mut smmu = SmmuModel::new(TestRegisters::default(), ModelMemory::default(), ids);
        let queue = [
            (offset::CMDQ_BASE, COMMANDS as u32 | 4),
            (offset::CMDQ_PROD, 0),
            (offset::CMDQ_CONS, 0),
            (offset::CR0, cr0::CMDQEN),
        ];
        queue.into_iter().for_each(|(at, value)| smmu.registers.set(at, value));
        smmu.step();
        issue(&mut smmu, words);
        assert_eq!(smmu.registers.get(offset::CMDQ_CONS), 1 << 24, "{words:x?}");
        assert_eq!(smmu.active_errors(), 1);
        issue(&mut smmu, Command::Sync.encode());
        assert_eq!(smmu.syncs, 0, "the queue has stopped");
        smmu.memory.write(COMMANDS, Command::Sync.encode()[0]);
        smmu.registers.set(offset::GERRORN, 1);
        smmu.step();
        assert_eq!((smmu.syncs, smmu.registers.get(offset::CMDQ_CONS) & 0xffff), (2, 2));
    }
}

#[test]
#[should_panic(expected = "contiguous group")]
fn non_uniform_contiguous_group_panics() {
    let mut smmu = smmu(IdRegisters::NESTED);
    smmu.memory.write(TABLES + 0x3000, 0x1_0000 | LEAF | 1 << 52);
    // An entry may be invalid, as in a partly written group, but must not map another output.
    smmu.memory.write(TABLES + 0x3008, 0x9_1000 | LEAF | 1 << 52);
    reach(&mut smmu, 0);
}

#[test]
#[should_panic(expected = "without break-before-make")]
fn missing_break_before_make_panics() {
    let mut smmu = smmu(IdRegisters::NESTED);
    assert_eq!(reach(&mut smmu, 0), Some(0x8000));
    smmu.memory.write(TABLES + 0x2000, LEAF & !0b11 | 0b01);
    // Invalidates the walk cache entry, but only an uncached page of the table.
    let scope = Scope { start: Iova::new(0x5000), ..page(Extent::Entry, false) };
    run(&mut smmu, &[by_va(0, 7, scope), Command::Sync]);
    reach(&mut smmu, 0x5000);
}

#[test]
#[should_panic(expected = "while in use")]
fn changing_strtab_base_while_enabled_panics() {
    let mut smmu = smmu(IdRegisters::NESTED);
    smmu.registers.set(offset::STRTAB_BASE, 0x8_0000);
    smmu.step();
}

#[test]
fn event_queue_overflow_toggles_ovflg() {
    let mut smmu = smmu(IdRegisters::NESTED);
    for _ in 0..6 {
        assert_eq!(reach(&mut smmu, 0x10_0000), None);
    }
    assert_eq!(smmu.registers.get(offset::EVENTQ_PROD), 1 << 31 | 4);
    // With free slots and the overflow acknowledged, the next overflow toggles OVFLG again.
    smmu.registers.set(offset::EVENTQ_CONS, 1 << 31 | 4);
    (0..5).for_each(|_| assert_eq!(reach(&mut smmu, 0x10_0000), None));
    assert_eq!(smmu.registers.get(offset::EVENTQ_PROD), 0);
}
