//! The same programs and driver on the model and on QEMU's SMMU: outcomes of accesses, commands and events
//! must be equal. A difference is a bug in one of the two.

mod machine;

pub use machine::{Qemu, STREAMS};

use super::judge::{MachineKind, ProgramOp, RunTrace, TestProgram, run_undisturbed, some_programs};
use super::test_machine::StoreOrder;
use smmu_spec::WalkCoherency;
use std::rc::Rc;

/// QEMU's trace name of a command.
fn name(opcode: u8) -> &'static str {
    match opcode {
        0x03 => "SMMU_CMD_CFGI_STE",
        0x04 => "SMMU_CMD_CFGI_STE_RANGE",
        0x10 => "SMMU_CMD_TLBI_NH_ALL",
        0x11 => "SMMU_CMD_TLBI_NH_ASID",
        0x12 => "SMMU_CMD_TLBI_NH_VA",
        0x28 => "SMMU_CMD_TLBI_S12_VMALL",
        0x2a => "SMMU_CMD_TLBI_S2_IPA",
        0x30 => "SMMU_CMD_TLBI_NSNH_ALL",
        0x46 => "SMMU_CMD_SYNC",
        other => panic!("command {other:#x}"),
    }
}

/// QEMU's SMMU always responds in time.
fn on_time(op: ProgramOp) -> ProgramOp {
    match op {
        ProgramOp::FreeLate { stale } => ProgramOp::Free { stale },
        op => op,
    }
}

/// The stage 2 only kind of machine (`MachineKind::smmu`).
const STAGE2_ONLY: usize = 2;

/// The events that both sides must record. With stage 2 alone QEMU 10.0 omits the F_PERMISSION record of some
/// writes to read-only pages, which it aborts all the same.
fn comparable(kind: &MachineKind, events: &[String]) -> Vec<String> {
    let is_optional = |event: &&String| kind.smmu == STAGE2_ONLY && event.contains("F_PERMISSION");
    events.iter().filter(|event| !is_optional(event)).cloned().collect()
}

fn compare(program: &TestProgram) -> RunTrace {
    let expected = run_undisturbed(program, None);
    let qemu = Rc::new(Qemu::start(program.kind.smmu));
    *qemu.expected.borrow_mut() = expected.outcomes.iter().copied().collect();
    let seen = run_undisturbed(program, Some(qemu.clone()));
    assert_eq!(
        comparable(&program.kind, &seen.events),
        comparable(&program.kind, &expected.events),
        "events"
    );
    assert!(qemu.expected.borrow().is_empty());
    let commands = qemu.commands();
    let names: Vec<_> = expected.opcodes.iter().map(|opcode| name(*opcode)).collect();
    assert_eq!(commands, names, "commands");
    expected
}

#[test]
#[ignore = "asks QEMU: `cargo xtask test` does, where there is one"]
fn qemu_smmu_matches_the_model() {
    for (index, program) in some_programs(12, 400).into_iter().enumerate() {
        let kind = MachineKind { smmu: index % 3, walks: WalkCoherency::Coherent, order: StoreOrder::Strong };
        let ops = program.ops.into_iter().map(on_time).collect();
        let program = TestProgram { kind, streams: STREAMS, frames_apart: 1 << 24, seed: program.seed, ops };
        let trace = compare(&program);
        println!(
            "{} accesses, {} events, {} commands alike",
            trace.outcomes.len(),
            trace.events.len(),
            trace.opcodes.len()
        );
    }
}
