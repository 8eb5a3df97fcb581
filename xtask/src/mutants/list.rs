//! The mistakes.

use super::judge::Judge;

/// A mistake: some text of a file that is replaced by other text.
pub struct Mutant {
    pub name: &'static str,
    pub file: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub judge: Judge,
}

/// All of them. `doc/testing.md` has the same list.
pub const MUTANTS: [Mutant; 21] = [
    Mutant {
        name: "a stream table entry written in one go",
        file: "lib/smmu-spec/src/update.rs",
        from: "    let prepared = prepare(live, target);\n    match",
        to: "    let prepared = target.words();\n    let _ = prepare(live, target);\n    match",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a block cut without breaking it first",
        file: "lib/pagetable/src/cut.rs",
        from: "        self.break_slots(m, table, level, slots.clone(), at);\n",
        to: "        if false {\n            self.break_slots(m, table, level, slots.clone(), at);\n        }\n",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "what is left of a block not published",
        file: "lib/pagetable/src/cut.rs",
        from: "        m.publish();\n        Ok(())",
        to: "        Ok(())",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "the contiguous hint on every leaf of a run",
        file: "lib/pagetable/src/fill.rs",
        from: "    if step.contiguous {",
        to: "    if step.contiguous || step.leaves > 1 {",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a table linked before its entries are seen",
        file: "lib/pagetable/src/map.rs",
        from: "        m.publish();\n        write_link(m, found.table",
        to: "        write_link(m, found.table",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a table replaced while the old one may be cached",
        file: "drivers/src/smmu/domain.rs",
        from: "let forgotten = !tables.is_empty() &&",
        to: "let forgotten = tables.is_empty() && false &&",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a second-level stream table linked before its entries are seen",
        file: "drivers/src/smmu/stream_table.rs",
        from: "        coherency.publish();\n        first.store(above",
        to: "        first.store(above",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a tag used again while the SMMU knows it",
        file: "drivers/src/smmu/domain.rs",
        from: "Invalidation::of_tag(self.params.tag)",
        to: "Invalidation::EMPTY",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a frame that becomes non-cacheable keeps its alias",
        file: "kernel/src/dma/buffer.rs",
        from: "is_low(chunk)).for_each(linear::remove);",
        to: "is_low(chunk)).for_each(|chunk| drop((linear::remove as fn(Chunk), chunk)));",
        judge: Judge::Caches,
    },
    Mutant {
        name: "a non-cacheable buffer not zeroed",
        file: "kernel/src/memory/kmap.rs",
        from: "        unsafe { arch::cache::zero(range) };\n        arch::barrier::dsb_sy();",
        to: "        arch::barrier::dsb_sy();",
        judge: Judge::Caches,
    },
    Mutant {
        name: "a line shared with a stream that the device writes",
        file: "kernel/src/dma/stream.rs",
        from: "!(offset | (offset + bytes)).is_multiple_of(LINE)",
        to: "!(offset | (offset + bytes)).is_multiple_of(LINE) && false",
        judge: Judge::Caches,
    },
    Mutant {
        name: "what leaves a pinned table not invalidated",
        file: "drivers/src/smmu/pinned_table.rs",
        from: "StaleTables::new(), self.params.forget(range, true)",
        to: "StaleTables::new(), smmu_spec::Invalidation::EMPTY",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a pinned table linked before its entries are seen",
        file: "lib/pagetable/src/pinned.rs",
        from: "            m.publish();\n            write_link",
        to: "            write_link",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a pinned table that goes when it is empty",
        file: "lib/pagetable/src/pinned.rs",
        from: "        add_live(m, table, 1);\n",
        to: "        let _ = add_live::<M>;\n",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "a group in a pinned table that does not begin where groups do",
        file: "lib/pagetable/src/pinned.rs",
        from: "slot.is_multiple_of(GROUP_LEN) && to",
        to: "to",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "leaves alone invalidated where tables were unlinked",
        file: "drivers/src/smmu/domain.rs",
        from: "self.params.forget(range, tables.is_empty())",
        to: "self.params.forget(range, true)",
        judge: Judge::Smmu,
    },
    Mutant {
        name: "slots given back before their owner is done",
        file: "lib/memory/src/slots.rs",
        from: "fetch_or(run, Ordering::Release)",
        to: "fetch_or(run, Ordering::Relaxed)",
        judge: Judge::Slots,
    },
    Mutant {
        name: "slots taken before their last owner is seen to be done",
        file: "lib/memory/src/slots.rs",
        from: "Ordering::Acquire, Ordering::Relaxed",
        to: "Ordering::Relaxed, Ordering::Relaxed",
        judge: Judge::Slots,
    },
    Mutant {
        name: "a quarantine that does not see what its driver left",
        file: "kernel/src/dma/quarantine.rs",
        from: "compare_exchange(from, to, AcqRel, Relaxed)",
        to: "compare_exchange(from, to, Release, Relaxed)",
        judge: Judge::Quarantine,
    },
    Mutant {
        name: "a batch that is done with its first command",
        file: "drivers/src/smmu/command_queue.rs",
        from: "batch.whole && self.consumed >= batch.end",
        to: "batch.whole && self.consumed > batch.first",
        judge: Judge::Queue,
    },
    Mutant {
        name: "a queue that begins anew and keeps what the SMMU has cached",
        file: "drivers/src/smmu/recovery.rs",
        from: "[Command::CfgiAll, Command::TlbiNsnhAll, Command::Sync]",
        to: "[Command::CfgiAll, Command::CfgiAll, Command::Sync]",
        judge: Judge::Smmu,
    },
];
