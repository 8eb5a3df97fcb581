//! A command queue whose base address has no memory: the SMMU stops with CERROR_ABT, stops again when the
//! driver retries, and the driver reinitializes the queue. Only the checking build can move the base.

use super::commands::{absent_device, command_counters, map_and_allocate, with_concurrent_commands};
use super::{Outcome, Test};
use crate::{check, pass, skip};
use addr::{PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::String;
use drivers::iommu::Shared;
use drivers::smmu::{CommandError, CommandQueue};
use kernel::iommu::{self, Smmu};
use kernel::percpu;

pub const TESTS: &[Test] = &[
    Test {
        name: "smmu.unreadable_command_queue_is_reinitialized",
        run: unreadable_command_queue_is_reinitialized,
    },
    Test {
        name: "smmu.command_queue_reinitialization_fails_no_command",
        run: command_queue_reinitialization_fails_no_command,
    },
    Test {
        name: "smmu.permanently_unreadable_command_queue_returns_errors",
        run: permanently_unreadable_command_queue_returns_errors,
    },
];

/// CERROR_ABT in CMDQ_CONS.ERR: the SMMU could not read the command (IHI 0070, 7.1).
const CERROR_ABT: u8 = 2;

/// The last page of the SMMU's output address range; no machine has memory there.
fn address_without_memory(smmu: &Smmu) -> PhysAddr {
    PhysAddr::new((1 << smmu.features().output_bits) - PAGE_SIZE)
}

/// Moves the base of the command queue to an address without memory; if `permanent`, reinitialization does
/// not restore it.
fn break_queue(smmu: &Smmu, permanent: bool) -> Result<(), String> {
    smmu.command_queue()
        // SAFETY: no component responds at the address.
        .with(|queue| unsafe { queue.break_base(address_without_memory(smmu), permanent) })
        .map_err(|error| format!("{error:?}"))
}

fn unreadable_command_queue_is_reinitialized() -> Outcome {
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = absent_device(smmu)?;
    for round in 1..=4 {
        break_queue(smmu, false)?;
        map_and_allocate(&device, 4)?;
        let reinitialized = command_counters(smmu).reinitialized - before.reinitialized;
        check!(reinitialized == round, "{reinitialized} reinitializations after {round} losses");
    }
    let after = command_counters(smmu);
    check!(after.illegal == before.illegal, "the SMMU rejected commands");
    check!(after.timeouts == before.timeouts, "a wait timed out");
    pass!("CERROR_ABT at {}; 4 reinitializations, 16 streaming mappings", address_without_memory(smmu))
}

/// One thread breaks the queue while all CPUs have commands in it.
fn command_queue_reinitialization_fails_no_command() -> Outcome {
    const ROUNDS: u64 = 64;
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = absent_device(smmu)?;
    with_concurrent_commands(&device, ROUNDS, move |_| break_queue(smmu, false))?;
    smmu.sync().map_err(|error| format!("{error}"))?;
    let after = command_counters(smmu);
    let reinitialized = after.reinitialized - before.reinitialized;
    check!(reinitialized == ROUNDS, "{reinitialized} reinitializations after {ROUNDS} losses");
    check!(after.timeouts == before.timeouts, "a wait timed out");
    pass!("{ROUNDS} losses during {} commands on {} CPUs", after.commands - before.commands, percpu::online())
}

fn permanently_unreadable_command_queue_returns_errors() -> Outcome {
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = absent_device(smmu)?;
    break_queue(smmu, true)?;
    // More commands than the queue has entries.
    let unexpected =
        (0..300).map(|_| drivers::smmu::sync(smmu.command_queue())).find(|result| *result != STOPPED);
    smmu.command_queue().with(CommandQueue::restore_base);
    check!(unexpected.is_none(), "a command returned {unexpected:?}");
    map_and_allocate(&device, 16)?;
    let after = command_counters(smmu);
    check!(
        after.reinitialized == before.reinitialized + 1,
        "no reinitialization after the base was restored"
    );
    check!(after.timeouts == before.timeouts, "a wait timed out");
    pass!("300 commands returned CERROR {CERROR_ABT}, then 16 streaming mappings succeeded")
}

const STOPPED: Result<(), CommandError> = Err(CommandError::Stopped { code: CERROR_ABT });
