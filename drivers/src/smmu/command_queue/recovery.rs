//! Recovery of a command queue that the SMMU cannot read (IHI 0070, 7.1: CERROR_ABT).
//!
//! 1. The SMMU retries the read, once for each command: the fault may have been transient.
//! 2. If it stops there again, the queue is reinitialized, empty. Its commands are lost, but all commands of
//!    this driver are invalidations and their CMD_SYNCs. So the first commands of the new queue invalidate
//!    everything; once these are complete, the lost ones are too, and no batch fails.
//! 3. If that fails as well, the queue is disabled and all waiting batches fail. The next batch repeats step
//!    2.

use super::super::control::{Control, RegisterTimeout};
use super::super::registers::bits;
use super::errors::Stopped;
use super::ring::Ring;
use addr::PhysAddr;
use smmu_spec::Command;

/// The first commands of a reinitialized queue, each followed by a CMD_SYNC, so that they fit into a queue of
/// two entries, and that commands of two kinds do not follow each other
/// ([`Workaround::SyncBetweenKinds`](smmu_spec::Workaround)).
const INVALIDATE_ALL: [Command; 2] = [Command::CfgiAll, Command::TlbiNsnhAll];

/// Progress of the recovery.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Recovery {
    /// The command whose read was retried.
    retried_at: Option<u64>,
    /// Set while the queue is disabled because reinitialization failed.
    halted: Option<Stopped>,
    /// Command numbers that were never used.
    skipped: u64,
    reinitialized: u64,
}

impl Recovery {
    /// Reinitializations so far.
    pub fn reinitialized(&self) -> u64 {
        self.reinitialized
    }

    /// Command numbers that were never used.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Why the queue is disabled, if it is.
    pub fn halted(&self) -> Option<Stopped> {
        self.halted
    }

    /// Allows one retry of the read of command `number`.
    ///
    /// # Errors
    /// It was retried before.
    pub fn allow_retry(&mut self, stopped: Stopped, number: u64) -> Result<(), Stopped> {
        if self.retried_at == Some(number) {
            return Err(stopped);
        }
        self.retried_at = Some(number);
        Ok(())
    }

    /// Reinitializes the queue at `base` and waits until the SMMU has invalidated everything. Returns whether
    /// it has: then all earlier commands are complete. Otherwise the queue is disabled and keeps its
    /// commands.
    #[cold]
    pub fn reinitialize(
        &mut self,
        ring: &mut Ring,
        control: &Control<'_>,
        base: PhysAddr,
        stopped: Stopped,
    ) -> bool {
        let done = set_base(ring, control, base).is_ok() && invalidate_all(ring, control);
        if done {
            self.halted = None;
            self.reinitialized += 1;
            self.skip(ring.renumber(2 * INVALIDATE_ALL.len() as u64));
        } else {
            self.halt(ring, control, stopped);
        }
        done
    }

    /// Counts command numbers that are never used.
    pub fn skip(&mut self, numbers: u64) {
        self.skipped += numbers;
    }

    /// Disables the queue, so that the indices do not change, and restores CMDQ_CONS for the commands in it.
    fn halt(&mut self, ring: &Ring, control: &Control<'_>, stopped: Stopped) {
        self.halted = Some(stopped);
        // An SMMU that does not acknowledge this does not respond at all; waiting batches time out.
        if control.set_command_queue(false).is_ok() {
            ring.restore_indices();
        }
    }
}

/// Disables the queue, sets its base, and enables it again, empty. CMDQ_BASE, CMDQ_CONS and CMDQ_PROD are
/// writable while the queue is disabled; it consumes nothing until the error is acknowledged.
pub(super) fn set_base(
    ring: &mut Ring,
    control: &Control<'_>,
    base: PhysAddr,
) -> Result<(), RegisterTimeout> {
    control.set_command_queue(false)?;
    ring.set_base(base);
    ring.acknowledge(ring.active_errors() & bits::GERROR_CMDQ);
    control.set_command_queue(true)
}

/// Runs [`INVALIDATE_ALL`] in the empty queue, without counting its commands.
fn invalidate_all(ring: &Ring, control: &Control<'_>) -> bool {
    (0..).step_by(2).zip(INVALIDATE_ALL).all(|(count, command)| {
        ring.publish_unnumbered(count, &[command, Command::Sync]);
        let waited = control.clock.wait(|| {
            let done = ring.has_consumed_unnumbered(count + 2);
            (done || ring.is_stopped()).then_some(done)
        });
        matches!(waited, Ok(true))
    })
}
