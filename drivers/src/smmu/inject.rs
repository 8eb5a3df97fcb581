//! What fails on demand, in the checking build: batches of commands, of which whoever waits for one may be told that it
//! did, and the SMMU's way to the queue.

use super::command_queue::{CommandError, CommandQueue};
use super::reset::StartError;
use addr::PhysAddr;
use smmu_spec::{Command, Cursor};

/// How a batch is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InjectedError {
    /// As if the SMMU had not answered in time.
    TimedOut,
    /// As if it had refused a command.
    Illegal,
}

/// Why [`CommandQueue::break_base`] did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakError {
    /// What was in the queue did not get through.
    Command(CommandError),
    /// The queue was not disabled or not enabled.
    Register(StartError),
}

/// Says of each batch whether it is to fail, and how. Called with the queue locked.
pub type Injector = fn() -> Option<InjectedError>;

/// What is to fail.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Injected {
    injector: Option<Injector>,
    /// Where the SMMU finds no queue.
    pub(super) nowhere: Option<PhysAddr>,
}

impl CommandQueue {
    /// From now on `injector` is asked at the end of each batch, whatever the SMMU did with it.
    pub fn inject_errors(&mut self, injector: Option<Injector>) {
        self.injected.injector = injector;
    }

    /// Has the SMMU read its commands at `nowhere`, where there should be no memory. A queue that begins anew is in its
    /// memory again, unless this is to last: then only [`CommandQueue::restore_base`] ends it. Waits for what is in the queue.
    ///
    /// # Errors
    /// The queue is in use as before, or was not enabled again.
    pub fn break_base(&mut self, nowhere: PhysAddr, lasting: bool) -> Result<(), BreakError> {
        self.run([]).map_err(BreakError::Command)?;
        self.injected.nowhere = Some(nowhere);
        let described = self.describe();
        self.number_from(0);
        if !lasting {
            self.restore_base();
        }
        described.map_err(BreakError::Register)
    }

    /// A queue that begins anew is in its memory from now on.
    pub fn restore_base(&mut self) {
        self.injected.nowhere = None;
    }

    /// What whoever waited for a batch is told of it.
    pub(super) fn told(&mut self, result: Result<(), CommandError>) -> Result<(), CommandError> {
        let words = Command::Sync.encode();
        match self.injected.injector.and_then(|injector| injector()) {
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
