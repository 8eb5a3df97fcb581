//! A command queue where there is no memory: the SMMU stops with CERROR_ABT, once more when it is asked to try again, and
//! the queue begins anew. The checking build alone can take a queue away.

use super::commands::{among_others, command_counters, lend, nobody, run_words};
use super::{Outcome, Test};
use crate::{check, pass, skip};
use addr::{PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::String;
use drivers::iommu::Shared;
use drivers::smmu::{CommandError, CommandQueue};
use kernel::iommu::{self, Smmu};
use kernel::percpu;
use smmu_spec::Command;

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

/// CMDQ_CONS.ERR for a command that could not be read.
const ABORTED: u8 = 2;

/// The last page that the SMMU has an address for.
fn nowhere(smmu: &Smmu) -> PhysAddr {
    PhysAddr::new((1 << smmu.features().output_bits) - PAGE_SIZE)
}

fn lose(smmu: &Smmu, lasting: bool) -> Result<(), String> {
    smmu.command_queue()
        .with(|queue| queue.break_base(nowhere(smmu), lasting))
        .map_err(|error| format!("{error:?}"))
}

fn unreadable_command_queue_is_reinitialized() -> Outcome {
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = nobody(smmu)?;
    for round in 1..=4 {
        lose(smmu, false)?;
        lend(&device, 4)?;
        let anew = command_counters(smmu).reinitialized - before.reinitialized;
        check!(anew == round, "it began anew {anew} times, after {round} losses");
    }
    let after = command_counters(smmu);
    check!(after.illegal == before.illegal, "commands were refused");
    check!(after.timeouts == before.timeouts, "somebody waited in vain");
    pass!("CERROR_ABT at {}; four times anew, with 16 mappings", nowhere(smmu))
}

/// One thread takes the queue away, all CPUs have commands in it.
fn command_queue_reinitialization_fails_no_command() -> Outcome {
    const ROUNDS: u64 = 64;
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = nobody(smmu)?;
    among_others(&device, ROUNDS, move |_| lose(smmu, false))?;
    smmu.sync().map_err(|error| format!("{error}"))?;
    let after = command_counters(smmu);
    let anew = after.reinitialized - before.reinitialized;
    check!(anew == ROUNDS, "it began anew {anew} times, after {ROUNDS} losses");
    check!(after.timeouts == before.timeouts, "somebody waited in vain");
    pass!("{ROUNDS} losses among {} commands, of {} CPUs", after.commands - before.commands, percpu::online())
}

fn permanently_unreadable_command_queue_returns_errors() -> Outcome {
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = nobody(smmu)?;
    lose(smmu, true)?;
    // More than it has room for.
    let seen = (0..300).map(|_| run_words(smmu, Command::Sync.encode())).find(|seen| *seen != STOPPED);
    smmu.command_queue().with(CommandQueue::restore_base);
    check!(seen.is_none(), "somebody who waited was told {seen:?}");
    lend(&device, 16)?;
    let after = command_counters(smmu);
    check!(after.reinitialized == before.reinitialized + 1, "it did not begin anew when it was back");
    check!(after.timeouts == before.timeouts, "somebody waited in vain");
    pass!("300 were told of CERROR {ABORTED}; and 16 mappings came and went after it")
}

const STOPPED: Result<(), CommandError> = Err(CommandError::Stopped { code: ABORTED });
