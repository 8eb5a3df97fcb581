//! Illegal commands: the SMMU stops with CERROR_ILL and continues when the driver has replaced the command.
//! Other batches in the queue do not fail. Only
//! the checking build can queue such commands.

use super::{Outcome, Test};
use crate::fixture::run_each;
use crate::{check, pass, skip};
use addr::{PAGE_SIZE, StreamId};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use dma_api::{Attrs, Direction, StreamMemory};
use drivers::iommu::Shared;
use drivers::smmu::{CommandCounters, CommandError, QueueFull};
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Device};
use kernel::iommu::{self, Smmu};
use kernel::percpu;

pub const TESTS: &[Test] = &[
    Test { name: "smmu.illegal_command_is_replaced", run: illegal_command_is_replaced },
    Test {
        name: "smmu.illegal_commands_do_not_fail_other_batches",
        run: illegal_commands_do_not_fail_other_batches,
    },
];

/// Queues an illegal command without a CMD_SYNC.
///
/// # Errors
/// The queue is full.
fn submit_illegal(smmu: &Smmu) -> Result<(), QueueFull> {
    // SAFETY: the SMMU rejects the command.
    smmu.command_queue().with(|queue| unsafe { queue.submit(ILLEGAL) })
}

/// Returns the counters of the command queue.
pub(super) fn command_counters(smmu: &Smmu) -> CommandCounters {
    smmu.command_queue().with(|queue| queue.counters())
}

/// A command with an opcode of no implementation (IHI 0070, 4.1.1).
const ILLEGAL: [u64; 2] = [0xff, 0x7e55_e4a5];
/// The stream of a PCI bus without devices.
const ABSENT_STREAM: StreamId = StreamId::new(0xf000);

fn illegal_command_is_replaced() -> Outcome {
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    // SAFETY: the SMMU rejects the command.
    let result = unsafe { drivers::smmu::run_encoded(smmu.command_queue(), [ILLEGAL]) };
    check!(result == Err(CommandError::Illegal { words: ILLEGAL }), "the command returned {result:?}");
    let after = command_counters(smmu);
    check!(after.illegal == before.illegal + 1, "{} illegal commands, not 1", after.illegal - before.illegal);
    // The error affects no later command.
    let device = absent_device(smmu)?;
    map_and_allocate(&device, 16)?;
    check!(command_counters(smmu).illegal == after.illegal, "further commands were illegal");
    pass!("CERROR_ILL, command replaced, then 16 streaming mappings succeeded")
}

/// Illegal commands that belong to no batch, while all CPUs have batches in the queue.
fn illegal_commands_do_not_fail_other_batches() -> Outcome {
    // At most the number of illegal commands that the driver records: a thread may be preempted during all
    // of them.
    const ROUNDS: u64 = 48;
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = absent_device(smmu)?;
    with_concurrent_commands(&device, ROUNDS, move |round| {
        // If other batches have filled the stopped queue, a CMD_SYNC makes the driver restart it.
        while submit_illegal(smmu).is_err() {
            smmu.sync().map_err(|error| format!("round {round}: {error}"))?;
        }
        Ok(())
    })?;
    // The last illegal commands may have stopped a queue without other batches.
    smmu.sync().map_err(|error| format!("{error}"))?;
    let after = command_counters(smmu);
    let illegal = after.illegal - before.illegal;
    check!(illegal == ROUNDS, "{illegal} of {ROUNDS} commands were rejected");
    check!(after.timeouts == before.timeouts, "a wait timed out");
    pass!(
        "{ROUNDS} illegal commands among {} others on {} CPUs",
        after.commands - before.commands - ROUNDS,
        percpu::online()
    )
}

/// Calls `disturb` `rounds` times while each CPU has commands in the queue. Returns an error if a command
/// of those fails.
pub(super) fn with_concurrent_commands(
    device: &Arc<Device>,
    rounds: u64,
    disturb: impl Fn(u64) -> Result<(), String> + Send + Sync + 'static,
) -> Result<(), String> {
    let device = device.clone();
    let results = run_each(percpu::online() + 1, move |thread| match thread {
        0 => (0..rounds).try_for_each(|round| {
            kernel::sched::yield_now();
            disturb(round)
        }),
        _ => map_and_allocate(&device, 4 * rounds),
    })?;
    results.into_iter().collect()
}

/// Returns a device whose stream no hardware uses.
pub(super) fn absent_device(smmu: &'static Smmu) -> Result<Arc<Device>, String> {
    Device::translated("absent".into(), smmu, ABSENT_STREAM, true, &[]).map_err(|error| error.to_string())
}

/// Maps and unmaps a page, and allocates and frees a buffer, `rounds` times; a lost invalidation is an error.
pub(super) fn map_and_allocate(device: &Arc<Device>, rounds: u64) -> Result<(), String> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE).map_err(|error| error.to_string())?;
    for _ in 0..rounds {
        let mapping = stream::map(device, page, Direction::Bidirectional);
        let mapping = mapping.map_err(|refused| refused.error.to_string())?;
        page = mapping.unmap().map_err(|error| error.to_string())?;
        let buffer = dma::alloc(device, 8 * PAGE_SIZE, Attrs::NO_KERNEL_MAPPING);
        drop(buffer.map_err(|error| error.to_string())?);
    }
    Ok(())
}
