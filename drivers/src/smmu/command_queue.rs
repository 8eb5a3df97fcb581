//! The command queue (IHI 0070, 3.5, 4.1 and 7.1): fill, publish, wait.
//!
//! Whoever holds the queue also owns GERRORN, the register that acknowledges global errors, since acknowledging a command
//! error restarts the queue: [`CommandQueue::service_errors`] for the interrupt handler, [`CommandQueue::wait`] for
//! everyone else.

use super::clock::{Clock, TimedOut};
use super::registers::{CommandRegisters, bits};
use super::upkeep::Upkeep;
use crate::mmio::Mmio;
use crate::region::Region;
use core::fmt;
use smmu_spec::field::extract;
use smmu_spec::{Command, Cursor};
use tock_registers::interfaces::{Readable, Writeable};

/// The most entries a queue is given, log2: 256 commands fill one page.
pub(super) const MAX_LOG2: u8 = 8;

/// There is no free slot; what is in the queue has to be published and consumed first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueFull;

/// What was published is not known to be done. Everything in the batch counts as not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// The SMMU did not get past the batch in time.
    TimedOut {
        /// Up to where there are commands.
        produced: Cursor,
        /// Up to where they were consumed.
        consumed: Cursor,
    },
    /// The SMMU refused a command (CERROR_ILL). It was replaced and the queue goes on.
    Illegal {
        /// The words in its slot.
        words: [u64; 2],
    },
    /// The SMMU could not read the queue (CERROR_ABT) or gave another reason to stop, more than once.
    Stopped {
        /// CMDQ_CONS.ERR.
        code: u8,
    },
    /// CMDQ_CONS is not between what was consumed before and CMDQ_PROD.
    Nonsense {
        /// What it read.
        consumed: u32,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { produced, consumed } => {
                write!(f, "timed out: PROD={:#x} CONS={:#x}", produced.raw(), consumed.raw())
            }
            Self::Illegal { words: [word0, word1] } => write!(f, "illegal command {word0:#x} {word1:#x}"),
            Self::Stopped { code } => write!(f, "stopped with CERROR {code:#x}"),
            Self::Nonsense { consumed } => write!(f, "CONS={consumed:#x} is outside of the queue"),
        }
    }
}

/// What went through the queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CommandCounters {
    /// Commands, CMD_SYNCs included.
    pub commands: u64,
    /// CMD_SYNCs.
    pub syncs: u64,
    /// Writes to registers.
    pub register_writes: u64,
    /// Commands the SMMU refused.
    pub illegal: u64,
    /// Waits that ended without completion.
    pub time_outs: u64,
}

/// Global errors that were active and are acknowledged now (GERROR's bits). CMDQ_ERR is among them when a command had to
/// be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GlobalErrors(
    /// The register's bits.
    pub u32,
);

const GLOBAL_ERRORS: [(u32, &str); 10] = [
    (0, "CMDQ_ERR"),
    (2, "EVENTQ_ABT_ERR"),
    (3, "PRIQ_ABT_ERR"),
    (4, "MSI_CMDQ_ABT_ERR"),
    (5, "MSI_EVENTQ_ABT_ERR"),
    (6, "MSI_PRIQ_ABT_ERR"),
    (7, "MSI_GERROR_ABT_ERR"),
    (8, "SFM_ERR"),
    (9, "CMDQP_ERR"),
    (10, "DPT_ERR"),
];

impl GlobalErrors {
    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn has(self, bit: u32) -> bool {
        extract(bit, bit, self.0.into()) != 0
    }
}

impl fmt::Display for GlobalErrors {
    /// `smmu: global error EVENTQ_ABT_ERR`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("smmu: global error")?;
        for (_, name) in GLOBAL_ERRORS.iter().filter(|(bit, _)| self.has(*bit)) {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}

/// CMDQ_CONS.ERR.
mod cerror {
    pub const ILLEGAL: u8 = 1;
}

/// The queue, its registers, and the driver's own idea of both indices.
pub struct CommandQueue {
    registers: Mmio<CommandRegisters>,
    slots: Region,
    upkeep: Upkeep,
    clock: Clock,
    /// Where the next command goes.
    produced: Cursor,
    /// What CMDQ_PROD says.
    published: Cursor,
    /// What CMDQ_CONS last said.
    consumed: Cursor,
    /// GERRORN: this driver alone writes it.
    acknowledged: u32,
    /// The first command that was refused since the last wait.
    refused: Option<CommandError>,
    counters: CommandCounters,
    errors: GlobalErrors,
}

impl CommandQueue {
    /// The queue in `slots`, empty. CMDQ_PROD and CMDQ_CONS read zero, and the queue is enabled.
    pub(super) fn new(
        registers: Mmio<CommandRegisters>,
        slots: Region,
        log2: u8,
        upkeep: Upkeep,
        clock: Clock,
    ) -> Self {
        let start = Cursor::new(log2);
        let acknowledged = registers.gerrorn.get();
        Self {
            registers,
            slots,
            upkeep,
            clock,
            produced: start,
            published: start,
            consumed: start,
            acknowledged,
            refused: None,
            counters: CommandCounters::default(),
            errors: GlobalErrors::default(),
        }
    }

    /// Puts a command into the next slot. The SMMU does not see it before [`CommandQueue::publish`].
    pub fn push(&mut self, command: Command) -> Result<(), QueueFull> {
        if self.free() == 0 {
            self.read_consumed().map_err(|_| QueueFull)?;
        }
        if self.free() == 0 {
            return Err(QueueFull);
        }
        self.slots.store(self.produced.index() * Command::WORDS, &command.encode());
        self.produced = self.produced.advanced(1);
        self.counters.commands += 1;
        self.counters.syncs += u64::from(command == Command::Sync);
        Ok(())
    }

    /// Lets the SMMU see all commands pushed so far, and everything that was written to memory before.
    pub fn publish(&mut self) {
        if self.published == self.produced {
            return;
        }
        self.clean_pushed();
        self.upkeep.publish();
        self.registers.cmdq_prod.set(self.produced.raw());
        self.counters.register_writes += 1;
        self.published = self.produced;
    }

    /// Waits until everything published is consumed; with a CMD_SYNC at the end, until it is done. What the SMMU wrote
    /// or stopped using before is seen by whoever reads or reuses it after this. A command that was refused since the
    /// last wait is an error, whoever's it was.
    pub fn wait(&mut self) -> Result<(), CommandError> {
        let target = self.published;
        let waited = self.wait_until(|queue| queue.passed(target));
        arch::barrier::dmb_oshld();
        self.read_errors();
        let refused = self.refused.take();
        waited.and(refused.map_or(Ok(()), Err))
    }

    /// Pushes `commands` and a CMD_SYNC, publishes them at once (or in as few parts as the queue has room for) and waits
    /// until the SMMU has done them all.
    pub fn run(&mut self, commands: impl IntoIterator<Item = Command>) -> Result<(), CommandError> {
        for command in commands.into_iter().chain([Command::Sync]) {
            while self.push(command).is_err() {
                self.publish();
                self.wait_until(|queue| queue.free() > 0)?;
            }
        }
        self.publish();
        self.wait()
    }

    /// Acknowledges what GERROR says, restarting the queue if it stopped. Does not wait. For the interrupt handler, if it
    /// gets the lock; if not, whoever holds it does the same at the end of its wait.
    pub fn service_errors(&mut self) -> GlobalErrors {
        self.read_errors();
        core::mem::take(&mut self.errors)
    }

    /// What went through the queue so far.
    pub fn counters(&self) -> CommandCounters {
        self.counters
    }

    /// The queue's memory. The queue is disabled.
    pub(super) fn into_memory(self) -> Region {
        self.slots
    }

    fn free(&self) -> u32 {
        self.produced.entries() - self.produced.distance_from(self.consumed)
    }

    /// Whether the SMMU consumed everything before `target`.
    fn passed(&self, target: Cursor) -> bool {
        self.produced.distance_from(self.consumed) <= self.produced.distance_from(target)
    }

    /// Waits for `done`, restarting the queue where it stopped. Commands that are refused on the way are remembered; the
    /// others still have to be told.
    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), CommandError> {
        let clock = self.clock;
        let mut aborts = 0;
        let waited = clock.wait(|| match self.read_consumed() {
            Err(error) => Some(Err(error)),
            Ok(()) if done(self) => Some(Ok(())),
            Ok(()) => match self.restart()? {
                // A queue that cannot be read may have met a passing fault: once.
                error @ CommandError::Stopped { .. } if aborts > 0 => Some(Err(error)),
                CommandError::Stopped { .. } => {
                    aborts += 1;
                    None
                }
                _ => None,
            },
        });
        waited.unwrap_or_else(|TimedOut| {
            self.counters.time_outs += 1;
            Err(CommandError::TimedOut { produced: self.published, consumed: self.consumed })
        })
    }

    fn read_consumed(&mut self) -> Result<(), CommandError> {
        let consumed = self.registers.cmdq_cons.get();
        let cursor = self.published.read(consumed);
        let outstanding = self.published.distance_from(self.consumed);
        if self.published.distance_from(cursor) > outstanding {
            return Err(CommandError::Nonsense { consumed });
        }
        self.consumed = cursor;
        Ok(())
    }

    /// If a command error is active: replaces the command if it is to blame, acknowledges, and says what it was.
    fn restart(&mut self) -> Option<CommandError> {
        if self.active_errors() & bits::GERROR_CMDQ == 0 {
            return None;
        }
        // The error was raised after CONS stopped moving, so it stands at the command.
        self.read_consumed().ok()?;
        let error = match extract(30, 24, self.registers.cmdq_cons.get().into()) as u8 {
            cerror::ILLEGAL => self.replace_refused(),
            code => CommandError::Stopped { code },
        };
        self.acknowledge(bits::GERROR_CMDQ);
        Some(error)
    }

    /// Puts a CMD_SYNC, which is always legal, over the command that CONS stands at.
    fn replace_refused(&mut self) -> CommandError {
        let first = self.consumed.index() * Command::WORDS;
        let words = self.slots.load(first);
        self.slots.store(first, &Command::Sync.encode());
        self.upkeep.written(&self.slots.words()[first..first + Command::WORDS]);
        self.upkeep.publish();
        self.counters.illegal += 1;
        let error = CommandError::Illegal { words };
        self.refused = self.refused.or(Some(error));
        error
    }

    fn active_errors(&self) -> u32 {
        self.registers.gerror.get() ^ self.acknowledged
    }

    /// Remembers and acknowledges all errors.
    fn read_errors(&mut self) {
        let active = self.active_errors();
        if active & bits::GERROR_CMDQ != 0 {
            self.restart();
        }
        if active & !bits::GERROR_CMDQ != 0 {
            self.acknowledge(active & !bits::GERROR_CMDQ);
        }
    }

    fn acknowledge(&mut self, errors: u32) {
        self.acknowledged ^= errors;
        self.registers.gerrorn.set(self.acknowledged);
        self.counters.register_writes += 1;
        self.errors.0 |= errors;
    }

    /// Cleans the slots between what is published and what was pushed, which may go around the end.
    fn clean_pushed(&self) {
        let words = self.slots.words();
        let (first, end) = (self.published.index(), self.produced.index());
        let at = |slot: usize| slot * Command::WORDS;
        if first < end {
            self.upkeep.written(&words[at(first)..at(end)]);
        } else {
            self.upkeep.written(&words[at(first)..at(self.produced.entries() as usize)]);
            self.upkeep.written(&words[..at(end)]);
        }
    }
}
