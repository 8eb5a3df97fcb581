//! A command queue that the SMMU cannot read (IHI 0070, 7.1: CERROR_ABT).
//!
//! A passing fault is over when the SMMU tries again, so it is asked to, once for each command. If it stops there again, the
//! queue is described to it anew and begins empty. What was in it is lost; but all that the driver ever commands is to
//! forget something, and to say when that is done. So the new queue begins with commands to forget everything: when these
//! are done the lost ones are too, and nobody needs to be told. If that fails as well, whoever waits is told, and the
//! next one who waits tries it once more.

use super::command_queue::CommandQueue;
use super::registers::bits;
use super::reset::{self, StartError};
use smmu_spec::Command;
use smmu_spec::field::mask;
use tock_registers::interfaces::{Readable, Writeable};

/// The queue stopped for a reason that is no command's fault: CMDQ_CONS.ERR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stopped(pub u8);

/// What is known of a queue that could not be read.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Recovery {
    /// The command at which the SMMU was asked to try again.
    tried_at: Option<u64>,
    /// The queue is disabled, since it could not begin anew.
    pub halted: Option<Stopped>,
    /// Numbers that no command got.
    pub skipped: u64,
    pub begun_anew: u64,
}

/// What a queue begins with whose commands were lost.
const FORGET_ALL: [Command; 3] = [Command::CfgiAll, Command::TlbiNsnhAll, Command::Sync];

impl CommandQueue {
    /// Whether the SMMU may be asked to read the next command again.
    ///
    /// # Errors
    /// It was asked already.
    pub(super) fn may_try_again(&mut self, stopped: Stopped) -> Result<(), Stopped> {
        self.errors.stopped = Some(stopped.0);
        if self.recovery.tried_at == Some(self.consumed) {
            return Err(stopped);
        }
        self.recovery.tried_at = Some(self.consumed);
        Ok(())
    }

    /// Gives the SMMU an empty queue and waits until it has forgotten everything. Whether it did: then every command ever
    /// pushed is done. If not, the queue is disabled, and all stays in it.
    #[cold]
    pub(super) fn begin_anew(&mut self, stopped: Stopped) -> bool {
        let done = self.describe().is_ok() && self.forget_all();
        if done {
            self.has_begun();
        } else {
            self.halt(stopped);
        }
        done
    }

    /// Describes the queue to the SMMU, empty. CMDQ_BASE, CMDQ_CONS and CMDQ_PROD may be written while it is disabled, and
    /// it consumes nothing as long as an error is not acknowledged.
    pub(super) fn describe(&mut self) -> Result<(), StartError> {
        self.control().set_command_queue(false)?;
        self.registers.cmdq_base.set(reset::base(self.place(), self.log2));
        self.registers.cmdq_prod.set(0);
        self.registers.cmdq_cons.set(0);
        let active = self.active_errors() & bits::GERROR_CMDQ;
        if active != 0 {
            self.acknowledge(active);
        }
        self.control().set_command_queue(true)
    }

    /// Where the SMMU is to find the queue.
    fn place(&self) -> addr::PhysAddr {
        #[cfg(feature = "checking")]
        if let Some(nowhere) = self.injected.nowhere {
            return nowhere;
        }
        self.slots.start()
    }

    /// Runs [`FORGET_ALL`] in a queue that is empty for the SMMU, without counting its commands.
    fn forget_all(&mut self) -> bool {
        for (number, command) in FORGET_ALL.into_iter().enumerate() {
            self.slots.store(number * Command::WORDS, &command.encode());
        }
        let end = FORGET_ALL.len();
        self.coherency.written(&self.slots.words()[..end * Command::WORDS]);
        self.coherency.publish();
        self.registers.cmdq_prod.set(end as u32);
        let indices = mask(self.log2.into(), 0) as u32;
        let waited = self.clock.wait(|| {
            let done = self.registers.cmdq_cons.get() & indices == end as u32;
            let stopped = self.active_errors() & bits::GERROR_CMDQ != 0;
            (done || stopped).then_some(done)
        });
        matches!(waited, Ok(true))
    }

    fn has_begun(&mut self) {
        self.recovery.halted = None;
        self.recovery.begun_anew += 1;
        self.errors.begun_anew = true;
        self.syncs += 1;
        self.number_from(FORGET_ALL.len() as u64);
    }

    /// The next command gets a number that has this index, so many commands were in the queue since it was described, and
    /// everything is done.
    pub(super) fn number_from(&mut self, commands: u64) {
        let start = self.produced.next_multiple_of(2 * self.entries());
        self.recovery.skipped += start - self.produced;
        self.produced = start + commands;
        self.published = self.produced;
        self.consumed = self.produced;
    }

    /// Disables the queue, so that nothing moves in it, and lets CMDQ_CONS say how far it got with what was in it before.
    fn halt(&mut self, stopped: Stopped) {
        self.recovery.halted = Some(stopped);
        // An SMMU that does not confirm this has stopped answering; what waits for it times out.
        if self.control().set_command_queue(false).is_ok() {
            self.registers.cmdq_prod.set(self.in_register(self.published));
            self.registers.cmdq_cons.set(self.in_register(self.consumed));
        }
    }
}
