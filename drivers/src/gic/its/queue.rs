//! The command queue of an ITS: one page of commands, written under exclusive access and completed at once.

use super::ItsError;
use super::command::{ItsCommand, WORDS};
use super::memory::{ITS_INNER_CACHE, ItsCoherency, write_base};
use super::registers::{GITS_CBASER, GITS_CREADR, GITS_CWRITER, VALID};
use crate::mmio::RegisterAccess;
use crate::region::Region;
use arch::timer::Deadline;

/// Size of the queue in bytes: one page.
pub(super) const QUEUE_BYTES: u64 = 4096;
const COMMAND_BYTES: u64 = 8 * WORDS as u64;
/// GITS_CREADR and GITS_CWRITER: the offset in the queue.
const OFFSET: u64 = 0xf_ffe0;
/// GITS_CREADR: an error stopped the queue at the command at its offset.
const STALLED: u64 = 1;
/// GITS_CWRITER: the ITS processes the command again that stalled the queue.
const RETRY: u64 = 1;
/// The time limit without progress of the ITS.
const TIMEOUT_NS: u64 = 1_000_000_000;

pub(super) struct ItsQueue {
    region: Region,
    coherency: ItsCoherency,
    /// The offset of the next command.
    write: u64,
}

impl ItsQueue {
    /// The queue in `region`, of [`QUEUE_BYTES`]. The ITS is disabled and quiescent.
    pub fn start(registers: &mut impl RegisterAccess, region: Region, forced: Option<ItsCoherency>) -> Self {
        let value = VALID | region.start().raw();
        // A write of GITS_CBASER resets GITS_CREADR.
        let (_, coherency) = write_base(registers, GITS_CBASER, value, ITS_INNER_CACHE, forced);
        registers.write64(GITS_CWRITER, 0);
        Self { region, coherency, write: 0 }
    }

    pub fn coherency(&self) -> ItsCoherency {
        self.coherency
    }

    /// Executes `commands`, and returns after the ITS has processed all of them. A command that stalls the
    /// queue is replaced by `harmless`; the others are executed.
    ///
    /// # Errors
    /// [`ItsError::Refused`], [`ItsError::TimedOut`].
    pub fn run(
        &mut self,
        registers: &mut impl RegisterAccess,
        commands: impl IntoIterator<Item = ItsCommand>,
        harmless: ItsCommand,
    ) -> Result<(), ItsError> {
        // After a timeout, commands of an earlier call may be left.
        let mut result = Ok(());
        let mut left = self.left(registers);
        for command in commands {
            // One command less than the queue holds: a full queue would look empty.
            if left + COMMAND_BYTES == QUEUE_BYTES {
                result = result.and(self.complete(registers, harmless)?);
                left = 0;
            }
            self.store(self.write, command);
            self.write = (self.write + COMMAND_BYTES) % QUEUE_BYTES;
            left += COMMAND_BYTES;
        }
        result.and(self.complete(registers, harmless)?)
    }

    /// The number of bytes that the ITS has not processed.
    fn left(&self, registers: &impl RegisterAccess) -> u64 {
        (self.write + QUEUE_BYTES - (registers.read64(GITS_CREADR) & OFFSET)) % QUEUE_BYTES
    }

    fn store(&self, offset: u64, command: ItsCommand) {
        let first = (offset / 8) as usize;
        self.region.store(first, &command.encode());
        self.coherency.clean(&self.region.words()[first..first + WORDS]);
    }

    /// Publishes the commands and waits until the ITS has processed them. The inner result is
    /// [`ItsError::Refused`] if it refused one.
    fn complete(
        &mut self,
        registers: &mut impl RegisterAccess,
        harmless: ItsCommand,
    ) -> Result<Result<(), ItsError>, ItsError> {
        self.coherency.publish();
        registers.write64(GITS_CWRITER, self.write);
        let mut result = Ok(());
        let (mut last, mut retried) = (None, None);
        let mut deadline = Deadline::in_ns(TIMEOUT_NS);
        let mut late = false;
        loop {
            let value = registers.read64(GITS_CREADR);
            let at = value & OFFSET;
            if at == self.write {
                return Ok(result);
            }
            if last != Some(at) {
                last = Some(at);
                (deadline, late) = (Deadline::in_ns(TIMEOUT_NS), false);
            }
            if value & STALLED != 0 && retried != Some(at) {
                result =
                    Err(ItsError::Refused { command: self.region.load::<1>((at / 8) as usize)[0] as u8 });
                self.store(at, harmless);
                self.coherency.publish();
                registers.write64(GITS_CWRITER, self.write | RETRY);
                retried = Some(at);
            }
            if late {
                return Err(ItsError::TimedOut);
            }
            // Polled once more after the deadline: the CPU may have been preempted.
            late = deadline.passed();
        }
    }
}
