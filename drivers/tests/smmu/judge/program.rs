//! Random programs, generated and shrunk by proptest.

use super::super::test_machine::StoreOrder;
use proptest::prelude::*;
use smmu_spec::WalkCoherency;
use smmu_spec::model::IdRegisters;

/// Number of domains of a program.
pub const DOMAINS: usize = 3;
/// Number of streams of a program.
pub const CLIENTS: usize = 4;

/// One operation. Indices are taken modulo the number of candidates, so that a shrunk program remains valid.
#[derive(Clone, Copy, Debug)]
pub enum ProgramOp {
    /// Maps `count` chunks of `2^order` frames at a page; `order` 0 to 9.
    Map {
        domain: usize,
        page: u64,
        order: u8,
        count: u8,
        writable: bool,
    },
    /// The same with a limited number of successful allocations.
    MapWith {
        allowance: u8,
        domain: usize,
        page: u64,
        count: u8,
    },
    /// Maps pages in the pinned table, which is created if needed.
    MapPinned {
        domain: usize,
        page: u64,
        order: u8,
        count: u8,
        writable: bool,
    },
    /// Unmaps an attachment.
    Unmap {
        attachment: usize,
    },
    /// The same, by `unmap_whole` if no part was unmapped before.
    UnmapWhole {
        attachment: usize,
    },
    /// Unmaps a run from its pinned table.
    UnmapPinned {
        attachment: usize,
    },
    /// Unmaps a part of an attachment.
    UnmapPart {
        attachment: usize,
        skip: u8,
        pages: u8,
    },
    /// The same without memory for tables.
    UnmapPartWithoutMemory {
        attachment: usize,
        skip: u8,
        pages: u8,
    },
    /// Invalidates and frees an unmapped buffer.
    Free {
        stale: usize,
    },
    /// The same, with an SMMU that does not respond at first.
    FreeLate {
        stale: usize,
    },
    Attach {
        client: usize,
        domain: usize,
    },
    Detach {
        client: usize,
    },
    /// Destroys a domain with its mappings and creates a new one.
    Renew {
        domain: usize,
    },
    /// Accesses, usually near recent changes.
    Dma {
        times: u8,
    },
    /// Reads the event queue.
    Events,
}

/// A machine and the operations executed on it.
#[derive(Clone, Debug)]
pub struct TestProgram {
    pub kind: MachineKind,
    /// Seed of the machine's choices.
    pub seed: u64,
    /// Streams that send transactions.
    pub streams: [u32; CLIENTS],
    /// Distance between the chunks of two orders in bytes.
    pub frames_apart: u64,
    pub ops: Vec<ProgramOp>,
}

/// Type of a machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineKind {
    pub smmu: usize,
    pub walks: WalkCoherency,
    pub order: StoreOrder,
}

impl MachineKind {
    pub const ALL: usize = 16;

    /// The type with this number.
    pub fn new(number: usize) -> Self {
        let walks = if number & 4 == 0 { WalkCoherency::Coherent } else { WalkCoherency::NonCoherent };
        let order = if number & 8 == 0 { StoreOrder::Weak } else { StoreOrder::Strong };
        Self { smmu: number & 3, walks, order }
    }

    pub fn ids(self) -> IdRegisters {
        [IdRegisters::NESTED, IdRegisters::STAGE1, IdRegisters::STAGE2, IdRegisters::SMALL][self.smmu]
    }

    /// Streams of a program: in the same second-level table and in others, if the SMMU has several.
    fn streams(self) -> [u32; CLIENTS] {
        if self.smmu == 3 { [1, 8, 9, 14] } else { [1, 8, 0x47, 0x1234] }
    }
}

/// Pages around the boundaries of tables of every level; few, so that they collide.
fn page() -> impl Strategy<Value = u64> {
    let regions = prop_oneof![
        4 => Just(0),
        4 => Just(0x200),
        1 => Just(super::pinned::FIRST),
        4 => Just(0x4_0000),
        4 => Just(0x800_0000),
    ];
    (regions, prop_oneof![0..40u64, Just(508), Just(511)]).prop_map(|(region, page)| region + page)
}

fn order() -> impl Strategy<Value = u8> {
    prop_oneof![10 => Just(0), 2 => 1..4u8, 3 => Just(4), 1 => 5..7u8, 3 => Just(9)]
}

/// Pages of a pinned table at and around contiguous groups.
fn pinned_page() -> impl Strategy<Value = u64> {
    prop_oneof![0..40u64, Just(495), Just(496), Just(511)]
}

fn op() -> impl Strategy<Value = ProgramOp> {
    let any = 0..1000usize;
    let map = (0..DOMAINS, page(), order(), 1..6u8, prop::bool::weighted(0.8)).prop_map(
        |(domain, page, order, count, writable)| ProgramOp::Map { domain, page, order, count, writable },
    );
    let map_pinned = (0..DOMAINS, pinned_page(), order(), 1..4u8, prop::bool::weighted(0.8)).prop_map(
        |(domain, page, order, count, writable)| ProgramOp::MapPinned {
            domain,
            page,
            order,
            count,
            writable,
        },
    );
    let part = (any.clone(), 0..24u8, 1..20u8);
    prop_oneof![
        24 => map,
        7 => map_pinned,
        3 => (0..5u8, 0..DOMAINS, page(), 1..6u8)
            .prop_map(|(allowance, domain, page, count)| ProgramOp::MapWith { allowance, domain, page, count }),
        9 => any.clone().prop_map(|attachment| ProgramOp::Unmap { attachment }),
        9 => any.clone().prop_map(|attachment| ProgramOp::UnmapWhole { attachment }),
        5 => any.clone().prop_map(|attachment| ProgramOp::UnmapPinned { attachment }),
        6 => part.clone().prop_map(|(attachment, skip, pages)| ProgramOp::UnmapPart { attachment, skip, pages }),
        1 => part.prop_map(|(attachment, skip, pages)| ProgramOp::UnmapPartWithoutMemory { attachment, skip, pages }),
        18 => any.clone().prop_map(|stale| ProgramOp::Free { stale }),
        1 => any.prop_map(|stale| ProgramOp::FreeLate { stale }),
        8 => (0..CLIENTS, 0..DOMAINS).prop_map(|(client, domain)| ProgramOp::Attach { client, domain }),
        3 => (0..CLIENTS).prop_map(|client| ProgramOp::Detach { client }),
        1 => (0..DOMAINS).prop_map(|domain| ProgramOp::Renew { domain }),
        12 => (1..12u8).prop_map(|times| ProgramOp::Dma { times }),
        2 => Just(ProgramOp::Events),
    ]
}

/// Programs of at most `steps` steps.
pub fn programs(steps: usize) -> impl Strategy<Value = TestProgram> {
    let parts = (0..MachineKind::ALL, any::<u64>(), prop::collection::vec(op(), 1..=steps));
    parts.prop_map(|(kind, seed, ops)| {
        let kind = MachineKind::new(kind);
        TestProgram { kind, seed, streams: kind.streams(), frames_apart: 1 << 32, ops }
    })
}
