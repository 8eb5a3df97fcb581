//! Commands that the SMMU refuses: it stops, says CERROR_ILL, and goes on when the command was replaced. Whoever else has
//! commands in the queue does not notice.

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

/// Writes a command into the queue as its two doublewords, without a CMD_SYNC of its own.
///
/// # Errors
/// The queue is full.
pub(super) fn push_words(smmu: &Smmu, words: [u64; 2]) -> Result<(), QueueFull> {
    smmu.command_queue().with(|queue| queue.submit(words))
}

/// Writes a command into the queue as its two doublewords, and waits for it.
///
/// # Errors
/// See [`CommandError`].
pub(super) fn run_words(smmu: &Smmu, words: [u64; 2]) -> Result<(), CommandError> {
    drivers::smmu::run_encoded(smmu.command_queue(), [words])
}

/// Returns the counters of the command queue.
pub(super) fn command_counters(smmu: &Smmu) -> CommandCounters {
    smmu.command_queue().with(|queue| queue.counters())
}

/// No opcode, of any implementation (IHI 0070, 4.1.1).
const ILLEGAL: [u64; 2] = [0xff, 0x7e55_e4a5];
/// A PCI bus on which nothing is.
const NOBODY: StreamId = StreamId::new(0xf000);

fn illegal_command_is_replaced() -> Outcome {
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let refused = run_words(smmu, ILLEGAL);
    check!(refused == Err(CommandError::Illegal { words: ILLEGAL }), "it answers {refused:?}");
    let after = command_counters(smmu);
    check!(after.illegal == before.illegal + 1, "{} were refused", after.illegal - before.illegal);
    // A legal one does not inherit the error, nor does anything that follows.
    let device = nobody(smmu)?;
    lend(&device, 16)?;
    check!(command_counters(smmu).illegal == after.illegal, "more were refused");
    pass!("CERROR_ILL, replaced, and 16 mappings came and went after it")
}

/// What is refused belongs to nobody, while all CPUs have commands of their own in the queue.
fn illegal_commands_do_not_fail_other_batches() -> Outcome {
    // No more than the driver remembers: a thread may be held up from the first to the last.
    const ROUNDS: u64 = 48;
    let Some(smmu) = iommu::all().first().copied() else { skip!("no SMMU") };
    let before = command_counters(smmu);
    let device = nobody(smmu)?;
    among_others(&device, ROUNDS, move |round| {
        // Where the others have filled a queue that stands still, somebody has to make it go on.
        while push_words(smmu, ILLEGAL).is_err() {
            smmu.sync().map_err(|error| format!("round {round}: {error}"))?;
        }
        Ok(())
    })?;
    // The last ones may have come when nobody else had anything in the queue, and each stops it.
    smmu.sync().map_err(|error| format!("{error}"))?;
    let after = command_counters(smmu);
    let refused = after.illegal - before.illegal;
    check!(refused == ROUNDS, "{refused} of {ROUNDS} were refused");
    check!(after.timeouts == before.timeouts, "somebody waited in vain");
    pass!("{ROUNDS} among {} others, of {} CPUs", after.commands - before.commands - ROUNDS, percpu::online())
}

/// Does something so many times while every CPU has commands of its own in the queue, which may not fail.
pub(super) fn among_others(
    device: &Arc<Device>,
    rounds: u64,
    trouble: impl Fn(u64) -> Result<(), String> + Send + Sync + 'static,
) -> Result<(), String> {
    let device = device.clone();
    let seen = run_each(percpu::online() + 1, move |thread| match thread {
        0 => (0..rounds).try_for_each(|round| {
            kernel::sched::yield_now();
            trouble(round)
        }),
        _ => lend(&device, 4 * rounds),
    })?;
    seen.into_iter().collect()
}

/// A device that is not there.
pub(super) fn nobody(smmu: &'static Smmu) -> Result<Arc<Device>, String> {
    Device::translated("nobody".into(), smmu, NOBODY, true).map_err(|error| error.to_string())
}

/// Lends a page so many times, and has a buffer each time; a lost invalidation would be an error.
pub(super) fn lend(device: &Arc<Device>, rounds: u64) -> Result<(), String> {
    let mut page: Box<dyn StreamMemory> = Pages::new(PAGE_SIZE).map_err(|error| error.to_string())?;
    for _ in 0..rounds {
        let lent = stream::map(device, page, Direction::Bidirectional);
        let lent = lent.map_err(|refused| refused.error.to_string())?;
        page = lent.unmap().map_err(|error| error.to_string())?;
        let buffer = dma::alloc(device, 8 * PAGE_SIZE, Attrs::NO_KERNEL_MAPPING);
        drop(buffer.map_err(|error| error.to_string())?);
    }
    Ok(())
}
