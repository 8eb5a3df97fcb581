//! The hooks of the checking build, which decides when a fault occurs
//! (`selftest/src/debug/fault_injection.rs`).

use super::super::recovery;
use super::super::{CommandError, CommandQueue, Encode, run_batch};
use crate::iommu::Shared;
use crate::smmu::control::{Control, RegisterTimeout};
use addr::PhysAddr;
use smmu_spec::{Command, Cursor};

/// An injected outcome of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InjectedError {
    /// [`CommandError::TimedOut`].
    TimedOut,
    /// [`CommandError::Illegal`].
    Illegal,
}

/// The queue has no free slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueFull;

/// The base of the queue was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakError {
    /// The commands in the queue did not complete.
    Command(CommandError),
    /// The queue was not disabled or not enabled.
    Register(RegisterTimeout),
}

/// Chooses the injected error of each batch, if any. Called with the queue locked.
pub type Injector = fn() -> Option<InjectedError>;

/// The armed faults.
#[derive(Default)]
pub(in super::super) struct Injected {
    injector: Option<Injector>,
    base: Option<PhysAddr>,
}

impl Injected {
    /// The base that replaces the queue's own.
    pub fn base(&self) -> Option<PhysAddr> {
        self.base
    }

    /// `result`, or the injected error.
    pub fn apply(&self, result: Result<(), CommandError>) -> Result<(), CommandError> {
        let words = Command::Sync.encode();
        match self.injector.and_then(|injector| injector()) {
            None => result,
            Some(InjectedError::Illegal) => Err(CommandError::Illegal { words }),
            Some(InjectedError::TimedOut) => Err(CommandError::TimedOut {
                produced: Cursor::new(0),
                consumed: Cursor::new(0),
                opcode: Command::opcode(words),
            }),
        }
    }
}

impl Encode for [u64; Command::WORDS] {
    fn words(self) -> [u64; Command::WORDS] {
        self
    }
}

/// [`run`](super::super::run) with encoded commands, which may be illegal.
///
/// # Errors
/// As [`run`](super::super::run).
///
/// # Safety
/// Each command is encoded by [`Command`], or the SMMU rejects it: other commands write to memory (a CMD_SYNC
/// with an MSI), or resume transactions.
pub unsafe fn run_encoded(
    queue: &impl Shared<CommandQueue>,
    commands: impl IntoIterator<Item = [u64; Command::WORDS]>,
) -> Result<(), CommandError> {
    run_batch(queue, commands.into_iter())
}

impl CommandQueue {
    /// Calls `injector` at the end of each batch, regardless of the batch's actual result.
    pub fn inject_errors(&mut self, injector: Option<Injector>) {
        self.injected.injector = injector;
    }

    /// Queues one encoded command, which may be illegal, without waiting for it.
    ///
    /// # Errors
    /// [`QueueFull`].
    ///
    /// # Safety
    /// As for [`run_encoded`].
    pub unsafe fn submit(&mut self, words: [u64; Command::WORDS]) -> Result<(), QueueFull> {
        if !self.ring.has_room() {
            return Err(QueueFull);
        }
        self.ring.write(words);
        self.ring.publish();
        Ok(())
    }

    /// Points the SMMU at `base` after the commands in the queue are complete. Reinitialization restores the
    /// base, unless the fault is `persistent`: then only [`CommandQueue::restore_base`] ends it.
    ///
    /// # Errors
    /// [`BreakError`]. The queue is unchanged, or was not enabled again.
    ///
    /// # Safety
    /// No component responds at the page at `base`: the SMMU would execute the commands that it reads there,
    /// and a read may have effects in a device.
    pub unsafe fn break_base(&mut self, base: PhysAddr, persistent: bool) -> Result<(), BreakError> {
        self.run([]).map_err(BreakError::Command)?;
        let control = Control { registers: &self.control, clock: self.clock };
        let moved = recovery::set_base(&mut self.ring, &control, base);
        self.recovery.skip(self.ring.renumber(0));
        self.injected.base = persistent.then_some(base);
        moved.map_err(BreakError::Register)
    }

    /// Ends a persistent fault: the next reinitialization restores the base.
    pub fn restore_base(&mut self) {
        self.injected.base = None;
    }
}
