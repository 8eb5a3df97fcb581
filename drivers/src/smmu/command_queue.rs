//! The command queue (IHI 0070, 3.5, 4.1 and 7.1).
//!
//! Several CPUs have commands in the queue at the same time. Its lock is held to write commands and to read
//! CMDQ_CONS, not while the SMMU executes: use [`run`] with a [`Shared`] queue, or [`CommandQueue::run`] with
//! exclusive access. A batch is identified by the numbers of its first and last command, which never repeat,
//! unlike the queue's indices.
//!
//! The queue also owns GERRORN, since acknowledging a command error restarts the queue. Every waiting batch
//! checks GERROR; the interrupt handler calls [`CommandQueue::service_errors`].

mod errors;
mod illegal;
mod inject;
mod recovery;
mod ring;

pub use errors::{CommandCounters, CommandError, GlobalErrors};
#[cfg(feature = "fault-injection")]
pub use inject::{BreakError, InjectedError, Injector, QueueFull, run_encoded};

use super::clock::Clock;
use super::coherency::Coherency;
use super::control::Control;
use super::registers::{CommandRegisters, ControlRegisters, bits};
use crate::iommu::Shared;
use crate::mmio::Mmio;
use crate::poll::TimedOut;
use crate::region::Region;
use addr::PhysAddr;
use errors::{NotRestarted, Stopped};
use illegal::IllegalCommands;
use recovery::Recovery;
use ring::Ring;
use smmu_spec::{Command, Erratum, Workaround};

/// Largest queue that is allocated, log2: 256 commands fill one page.
pub(super) const MAX_LOG2: u8 = 8;

/// CMDQ_CONS.ERR: CERROR_ILL.
const CERROR_ILL: u8 = 1;

/// The command queue.
pub struct CommandQueue {
    control: Mmio<ControlRegisters>,
    clock: Clock,
    ring: Ring,
    illegal: IllegalCommands,
    recovery: Recovery,
    syncs: u64,
    timeouts: u64,
    /// Whether the SMMU has entered service failure mode: all batches fail.
    failed: bool,
    /// Errors since the last [`CommandQueue::service_errors`], without GERROR's bits.
    errors: GlobalErrors,
    injected: inject::Injected,
}

/// A command that a batch encodes when it writes it to the queue. An iterator of encoded commands costs 57
/// instructions more for each batch.
trait Encode {
    fn words(self) -> [u64; Command::WORDS];
}

impl Encode for Command {
    #[inline(always)] // As for `advance`.
    fn words(self) -> [u64; Command::WORDS] {
        self.encode()
    }
}

/// Commands, encoded when they are written to the queue, and the CMD_SYNC that ends them.
struct CommandBatch<I> {
    commands: I,
    /// Whether the CMD_SYNC is in the queue.
    complete: bool,
    /// The number of its first command.
    first: u64,
    /// The number after its last command so far.
    end: u64,
}

/// Queues `commands` and a CMD_SYNC, at once or in as few parts as the queue has room for, and waits until
/// the SMMU has executed them. The queue is locked to write commands and to read CMDQ_CONS, not while
/// waiting.
///
/// After success, memory that the SMMU wrote or stopped using before the CMD_SYNC may be read or reused.
///
/// # Errors
/// See [`CommandError`]. Illegal commands of other batches are not reported, unless this batch was queued in
/// parts.
#[inline]
pub fn run(
    queue: &impl Shared<CommandQueue>,
    commands: impl IntoIterator<Item = Command>,
) -> Result<(), CommandError> {
    run_batch(queue, commands.into_iter())
}

#[inline(always)]
fn run_batch(
    queue: &impl Shared<CommandQueue>,
    commands: impl Iterator<Item: Encode>,
) -> Result<(), CommandError> {
    let mut batch = CommandBatch::new(commands);
    // Usually the SMMU is done before the first read of CMDQ_CONS.
    let first = queue.with(|queue| match queue.advance(&mut batch) {
        Some(result) => Ok(queue.injected.apply(result)),
        None => Err(queue.clock),
    });
    match first {
        Ok(result) => result,
        Err(clock) => wait(queue, clock, batch),
    }
}

/// Waits until the SMMU has executed all commands published before this call.
///
/// # Errors
/// See [`CommandError`].
pub fn sync(queue: &impl Shared<CommandQueue>) -> Result<(), CommandError> {
    run(queue, core::iter::empty())
}

// `batch` is passed by value, so that the caller need not keep it in memory.
#[cold]
fn wait(
    queue: &impl Shared<CommandQueue>,
    clock: Clock,
    mut batch: CommandBatch<impl Iterator<Item: Encode>>,
) -> Result<(), CommandError> {
    let waited = clock
        .wait(|| queue.with(|queue| queue.advance(&mut batch).map(|result| queue.injected.apply(result))));
    waited.unwrap_or_else(|TimedOut| {
        queue.with(|queue| {
            let error = queue.timed_out();
            queue.injected.apply(Err(error))
        })
    })
}

impl<I: Iterator<Item: Encode>> CommandBatch<I> {
    fn new(commands: I) -> Self {
        Self { commands, complete: false, first: u64::MAX, end: 0 }
    }
}

impl CommandQueue {
    /// The empty queue in `slots`. CMDQ_PROD and CMDQ_CONS must read zero.
    pub(super) fn new(
        control: Mmio<ControlRegisters>,
        registers: Mmio<CommandRegisters>,
        slots: Region,
        log2: u8,
        erratum: Option<&Erratum>,
        coherency: Coherency,
        clock: Clock,
    ) -> Self {
        let reserves_sync = erratum.is_some_and(|erratum| erratum.workaround == Workaround::SyncBetweenKinds);
        Self {
            control,
            clock,
            ring: Ring::new(registers, slots, log2, reserves_sync, coherency),
            illegal: IllegalCommands::new(),
            recovery: Recovery::default(),
            syncs: 0,
            timeouts: 0,
            failed: false,
            errors: GlobalErrors::default(),
            injected: inject::Injected::default(),
        }
    }

    /// [`run`] with exclusive access to the queue.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&mut self, commands: impl IntoIterator<Item = Command>) -> Result<(), CommandError> {
        let mut batch = CommandBatch::new(commands.into_iter());
        let clock = self.clock;
        clock.wait(|| self.advance(&mut batch)).unwrap_or_else(|TimedOut| Err(self.timed_out()))
    }

    /// Acknowledges the active errors in GERROR, which restarts a stopped queue, and returns those since the
    /// last call. For the interrupt handler: does not wait. A queue that needs reinitialization gets it from
    /// the next waiting batch.
    pub fn service_errors(&mut self) -> GlobalErrors {
        let active = self.ring.active_errors();
        let resolved = self.resolve_stop(active).unwrap_or(0);
        self.ring.acknowledge(active & !bits::GERROR_CMDQ | resolved);
        GlobalErrors { bits: self.ring.take_serviced(), ..core::mem::take(&mut self.errors) }
    }

    /// Totals so far.
    pub fn counters(&self) -> CommandCounters {
        CommandCounters {
            commands: self.ring.produced() - self.recovery.skipped(),
            syncs: self.syncs,
            register_writes: self.ring.register_writes(),
            illegal: self.illegal.total(),
            timeouts: self.timeouts,
            reinitialized: self.recovery.reinitialized(),
        }
    }

    /// The SMMU's enables.
    pub(super) fn control(&self) -> Control<'_> {
        Control { registers: &self.control, clock: self.clock }
    }

    /// The queue's memory. The queue must be disabled.
    pub(super) fn into_memory(self) -> Region {
        self.ring.into_memory()
    }

    /// Advances a batch without waiting: queues more of it, restarts a stopped queue. Returns the batch's
    /// result once it is finished.
    #[inline(always)] // The first caller knows the whole batch.
    fn advance(
        &mut self,
        batch: &mut CommandBatch<impl Iterator<Item: Encode>>,
    ) -> Option<Result<(), CommandError>> {
        if !batch.complete {
            self.fill(batch);
        }
        if let Err(error) = self.ring.read_consumed() {
            return Some(Err(error));
        }
        if batch.complete && self.ring.consumed() >= batch.end {
            arch::barrier::dmb_oshld();
            return Some(self.illegal.check(batch.first, batch.end));
        }
        match self.restart() {
            Err(NotRestarted::ServiceFailure) => Some(Err(CommandError::ServiceFailure)),
            Err(NotRestarted::Unreadable(stopped)) if !self.reinitialize(stopped) => {
                Some(Err(CommandError::Stopped { code: stopped.0 }))
            }
            _ => None,
        }
    }

    /// Writes and publishes as much of a batch as the queue has room for.
    #[inline(always)] // As for `advance`.
    fn fill(&mut self, batch: &mut CommandBatch<impl Iterator<Item: Encode>>) {
        let start = self.ring.produced();
        batch.first = batch.first.min(start);
        while !batch.complete && self.ring.has_room() {
            match batch.commands.next() {
                Some(command) => self.ring.write(command.words()),
                None => {
                    self.ring.write(const { Command::Sync.encode() });
                    self.syncs += 1;
                    batch.complete = true;
                }
            }
        }
        if !batch.complete && self.ring.reserves_sync() && self.ring.produced() > start {
            // Another batch may continue with commands of another kind.
            self.ring.write(const { Command::Sync.encode() });
            self.syncs += 1;
        }
        batch.end = self.ring.produced();
        self.ring.publish();
    }

    #[cold]
    fn timed_out(&mut self) -> CommandError {
        self.timeouts += 1;
        self.ring.timeout()
    }

    /// Restarts a stopped queue.
    ///
    /// # Errors
    /// As [`CommandQueue::resolve_stop`].
    #[cold]
    fn restart(&mut self) -> Result<(), NotRestarted> {
        let resolved = self.resolve_stop(self.ring.active_errors())?;
        self.ring.acknowledge(resolved);
        Ok(())
    }

    /// Prepares a queue that has stopped by the `active` errors for its restart: replaces an illegal command.
    /// Returns the error to acknowledge, or 0.
    ///
    /// # Errors
    /// The SMMU cannot read the queue, even after one retry: the error must not be acknowledged, since it
    /// would recur immediately. Or the SMMU is in service failure mode, which only a reset ends.
    fn resolve_stop(&mut self, active: u32) -> Result<u32, NotRestarted> {
        if self.failed || active & bits::GERROR_SFM != 0 {
            self.fail();
            return Err(NotRestarted::ServiceFailure);
        }
        if let Some(stopped) = self.recovery.halted() {
            return Err(stopped.into());
        }
        // The error is raised after CONS has stopped, so CONS is at the faulting command.
        if active & bits::GERROR_CMDQ == 0 || self.ring.read_consumed().is_err() {
            return Ok(0);
        }
        match self.ring.error_code() {
            CERROR_ILL => {
                // CMD_SYNC is always legal.
                let words = self.ring.replace_at_consumer(Command::Sync);
                self.illegal.record(self.ring.consumed(), words);
            }
            code => {
                self.errors.stopped = Some(code);
                self.recovery.allow_retry(Stopped(code), self.ring.consumed())?;
            }
        }
        Ok(bits::GERROR_CMDQ)
    }

    /// Disables an SMMU in service failure mode. It has no effect on transactions, which abort already, until
    /// a reset ends the mode: then they abort by GBPA, instead of using tables that may have been released.
    fn fail(&mut self) {
        if !self.failed {
            self.failed = true;
            self.errors.service_failure = true;
            self.control().request_disable();
        }
    }

    fn reinitialize(&mut self, stopped: Stopped) -> bool {
        let base = self.base();
        let control = Control { registers: &self.control, clock: self.clock };
        let done = self.recovery.reinitialize(&mut self.ring, &control, base, stopped);
        self.errors.reinitialized |= done;
        self.syncs += if done { 2 } else { 0 };
        done
    }

    fn base(&self) -> PhysAddr {
        self.injected.base().unwrap_or_else(|| self.ring.start())
    }
}
