//! Batches of commands that fail on demand, in the checking build: whoever waits for the n-th is told that it did.

use super::command_queue::{CommandError, CommandQueue};
use smmu_spec::{Command, Cursor};

/// How a batch is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// As if the SMMU had not answered in time.
    TimedOut,
    /// As if it had refused a command.
    Refused,
}

/// What is to fail.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Armed {
    mishap: Option<Mishap>,
    /// Batches until the one that fails.
    left: u64,
    fired: bool,
}

impl CommandQueue {
    /// From now on the `nth` batch (1: the next one) fails with `mishap`, once, whatever the SMMU did with it.
    pub fn arm(&mut self, mishap: Mishap, nth: u64) {
        self.armed = Armed { mishap: Some(mishap), left: nth, fired: false };
    }

    /// Nothing fails on demand any more. Whether something did since [`CommandQueue::arm`].
    pub fn disarm(&mut self) -> bool {
        core::mem::take(&mut self.armed).fired
    }

    /// What whoever waited for a batch is told of it.
    pub(super) fn told(&mut self, result: Result<(), CommandError>) -> Result<(), CommandError> {
        let Some(mishap) = self.armed.mishap else { return result };
        self.armed.left = self.armed.left.saturating_sub(1);
        if self.armed.left > 0 {
            return result;
        }
        self.armed = Armed { fired: true, ..Armed::default() };
        let words = Command::Sync.encode();
        Err(match mishap {
            Mishap::Refused => CommandError::Illegal { words },
            Mishap::TimedOut => CommandError::TimedOut {
                produced: Cursor::new(0),
                consumed: Cursor::new(0),
                opcode: Command::opcode(words),
            },
        })
    }
}
