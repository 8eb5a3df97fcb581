//! Random programs, and how proptest makes and shrinks them.

use super::super::test_machine::StoreOrder;
use proptest::prelude::*;
use smmu_spec::WalkCoherency;
use smmu_spec::model::IdRegisters;

/// Domains of a program.
pub const DOMAINS: usize = 3;
/// Streams of a program.
pub const CLIENTS: usize = 4;

/// One thing to do. Random choose among what there is, whatever it is, so that a shrunk program still means something.
#[derive(Clone, Copy, Debug)]
pub enum ProgramOp {
    /// Maps chunks of `2^order` frames at a page, `count` of them; `order` 0 to 9.
    Map {
        domain: usize,
        page: u64,
        order: u8,
        count: u8,
        writable: bool,
    },
    /// The same, but only so many allocations succeed.
    MapWith {
        allowance: u8,
        domain: usize,
        page: u64,
        count: u8,
    },
    /// Maps pages of the table that is pinned for such; pins it before, if it is not.
    MapPinned {
        domain: usize,
        page: u64,
        order: u8,
        count: u8,
        writable: bool,
    },
    /// Takes an attachment out of the tables.
    Unmap {
        attachment: usize,
    },
    /// The same, and if nobody has taken a part of it before, the driver is told so.
    UnmapWhole {
        attachment: usize,
    },
    /// Takes what was mapped at once out of its pinned table.
    UnmapPinned {
        attachment: usize,
    },
    /// Takes a part of it out.
    UnmapPart {
        attachment: usize,
        skip: u8,
        pages: u8,
    },
    /// The same with no memory for tables.
    UnmapPartWithoutMemory {
        attachment: usize,
        skip: u8,
        pages: u8,
    },
    /// Makes the SMMU forget something that was unmapped.
    Free {
        stale: usize,
    },
    /// The same, but at first the SMMU does not answer.
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
    /// Takes a domain apart, with whatever is mapped in it, and makes a new one.
    Renew {
        domain: usize,
    },
    /// Accesses, most of them where something happened lately.
    Dma {
        times: u8,
    },
    /// Reads the event queue.
    Events,
}

/// A machine and what is done on it.
#[derive(Clone, Debug)]
pub struct Program {
    pub kind: MachineKind,
    /// Of everything that the machine chooses.
    pub seed: u64,
    /// Who sends transactions.
    pub streams: [u32; CLIENTS],
    /// Bytes between frames of one order and of the next.
    pub frames_apart: u64,
    pub ops: Vec<ProgramOp>,
}

/// A kind of machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineKind {
    pub smmu: usize,
    pub walks: WalkCoherency,
    pub order: StoreOrder,
}

impl MachineKind {
    pub const ALL: usize = 16;

    /// The kind with this number.
    pub fn new(number: usize) -> Self {
        let walks = if number & 4 == 0 { WalkCoherency::Coherent } else { WalkCoherency::NonCoherent };
        let order = if number & 8 == 0 { StoreOrder::Weak } else { StoreOrder::Strong };
        Self { smmu: number & 3, walks, order }
    }

    pub fn ids(self) -> IdRegisters {
        [IdRegisters::NESTED, IdRegisters::STAGE1, IdRegisters::STAGE2, IdRegisters::SMALL][self.smmu]
    }

    /// The streams that a program attaches: in the same second-level table and in others, where there are such.
    fn streams(self) -> [u32; CLIENTS] {
        if self.smmu == 3 { [1, 8, 9, 14] } else { [1, 8, 0x47, 0x1234] }
    }
}

/// Pages that tables of every level begin and end around: few, so that they meet.
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

/// Pages of a pinned table, where groups start and around them.
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

/// Programs of at most so many steps.
pub fn programs(steps: usize) -> impl Strategy<Value = Program> {
    let parts = (0..MachineKind::ALL, any::<u64>(), prop::collection::vec(op(), 1..=steps));
    parts.prop_map(|(kind, seed, ops)| {
        let kind = MachineKind::new(kind);
        Program { kind, seed, streams: kind.streams(), frames_apart: 1 << 32, ops }
    })
}
