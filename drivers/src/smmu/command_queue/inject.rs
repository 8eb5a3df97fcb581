//! Faults injected into the command queue: failed batches, and a queue that the SMMU cannot read. The
//! checking build decides when (`selftest/src/debug/fault_injection.rs`).

use super::super::control::RegisterTimeout;
use super::errors::CommandError;
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
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Injected {
    pub injector: Option<Injector>,
    /// The base that replaces the queue's own.
    pub base: Option<PhysAddr>,
}

impl Injected {
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
