//! The command queue (IHI 0070, 3.5, 4.1 and 7.1): fill, publish, wait.
//!
//! Many CPUs have commands in it at a time. The lock around it is held to write them and to look at CMDQ_CONS, not to
//! wait: [`run`] for whoever has a [`Shared`] queue, [`CommandQueue::run`] for whoever has it alone. A batch is known by
//! the numbers of its first and its last command, which count all commands ever and so never come again, as the
//! queue's indices do.
//!
//! Whoever holds the queue also owns GERRORN, the register that acknowledges global errors, since acknowledging a command
//! error restarts the queue: everybody whose commands are not done yet looks at it, and
//! [`CommandQueue::service_errors`] is for the interrupt handler.

use super::clock::{Clock, TimedOut};
use super::coherency::Coherency;
use super::recovery::{Recovery, Stopped};
use super::registers::{CommandRegisters, ControlRegisters, bits};
use super::reset::Control;
use crate::iommu::Shared;
use crate::mmio::Mmio;
use crate::region::Region;
use core::fmt;
use core::sync::atomic::AtomicU64;
use smmu_spec::field::{extract, flag};
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
        /// The opcode of the command that it stands at (IHI 0070, 4.1.1).
        opcode: u8,
    },
    /// The SMMU refused a command (CERROR_ILL). It was replaced and the queue goes on.
    Illegal {
        /// The words in its slot.
        words: [u64; 2],
    },
    /// The SMMU could not read the queue (CERROR_ABT) or gave another reason to stop, also when the queue had begun anew.
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
            Self::TimedOut { produced, consumed, opcode } => {
                let (prod, cons) = (produced.raw(), consumed.raw());
                write!(f, "timed out at opcode {opcode:#x}: PROD={prod:#x} CONS={cons:#x}")
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
    /// Times the queue began anew because the SMMU could not read it.
    pub begun_anew: u64,
}

/// Global errors that were active and are acknowledged now (GERROR's bits). CMDQ_ERR is among them when a command had to
/// be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GlobalErrors {
    /// The register's bits.
    pub bits: u32,
    /// CMDQ_CONS.ERR, if the command queue stopped for another reason than a command.
    pub stopped: Option<u8>,
    /// Whether it began anew since.
    pub begun_anew: bool,
}

/// GERROR.EVENTQ_ABT_ERR.
const EVENTS_LOST: u32 = 2;
const GLOBAL_ERRORS: [(u32, &str); 10] = [
    (0, "CMDQ_ERR"),
    (EVENTS_LOST, "EVENTQ_ABT_ERR"),
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
        self == Self::default()
    }

    /// Whether the SMMU could not write events (EVENTQ_ABT_ERR), and the other errors. QEMU has no other way to say that
    /// the event queue was full.
    pub fn lost_events(self) -> (bool, Self) {
        let lost = self.has(EVENTS_LOST);
        (
            lost,
            Self { bits: if lost { self.bits ^ flag(EVENTS_LOST, true) as u32 } else { self.bits }, ..self },
        )
    }

    fn has(self, bit: u32) -> bool {
        extract(bit, bit, self.bits.into()) != 0
    }
}

impl fmt::Display for GlobalErrors {
    /// `global error CMDQ_ERR, CERROR 0x2: the command queue begins anew`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("global error")?;
        for (_, name) in GLOBAL_ERRORS.iter().filter(|(bit, _)| self.has(*bit)) {
            write!(f, " {name}")?;
        }
        if let Some(code) = self.stopped {
            write!(f, ", CERROR {code:#x}")?;
        }
        if self.begun_anew {
            f.write_str(": the command queue begins anew")?;
        }
        Ok(())
    }
}

/// CMDQ_CONS.ERR.
mod cerror {
    pub const ILLEGAL: u8 = 1;
}

/// A command that the SMMU refused: its number, and its words.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    number: u64,
    words: [u64; 2],
}

/// Refusals that are remembered, each until so many others came. Whoever looks later than that takes one for its own, so
/// there are more than a CPU misses that was held up for some milliseconds.
const REFUSALS: usize = 64;

/// The queue, its registers, and the driver's own idea of both indices.
///
/// Commands are numbered from 0 on; the lowest bits of a number are the index and the wrap bit.
pub struct CommandQueue {
    control: Mmio<ControlRegisters>,
    pub(super) registers: Mmio<CommandRegisters>,
    pub(super) slots: Region,
    pub(super) log2: u8,
    pub(super) coherency: Coherency,
    pub(super) clock: Clock,
    /// The next command's number.
    pub(super) produced: u64,
    /// CMDQ_PROD is at this number.
    pub(super) published: u64,
    /// CMDQ_CONS was last seen at this number.
    pub(super) consumed: u64,
    /// Up to here, [`CommandQueue::wait`] has told of refusals.
    waited: u64,
    /// GERRORN: this driver alone writes it.
    acknowledged: u32,
    /// The last refusals, oldest first.
    refusals: [Option<Refusal>; REFUSALS],
    pub(super) recovery: Recovery,
    pub(super) syncs: u64,
    register_writes: u64,
    illegal: u64,
    time_outs: u64,
    pub(super) errors: GlobalErrors,
    #[cfg(feature = "checking")]
    pub(super) injected: super::inject::Injected,
}

/// Commands and the CMD_SYNC behind them, on their way through the queue.
struct Batch<I> {
    commands: I,
    /// Whether the CMD_SYNC is in the queue.
    whole: bool,
    /// The number of its first command, and the one behind its last so far.
    first: u64,
    end: u64,
}

/// Puts `commands` and a CMD_SYNC into the queue, at once or in as few parts as it has room for, and waits until the
/// SMMU has done them all. The queue is locked to write and to look, not to wait.
///
/// What the SMMU wrote or stopped using before is seen by whoever reads or reuses it after this.
///
/// # Errors
/// See [`CommandError`]. A refused command of somebody else's is none of this batch's, unless it went through in parts.
#[inline]
pub(super) fn run(
    queue: &impl Shared<CommandQueue>,
    commands: impl IntoIterator<Item = Command>,
) -> Result<(), CommandError> {
    let mut batch = Batch::new(commands.into_iter());
    // Mostly the SMMU is done before the first look.
    let first = queue.with(|queue| match queue.advance(&mut batch) {
        Some(result) => Ok(result),
        None => Err(queue.clock),
    });
    let result = match first {
        Ok(result) => result,
        Err(clock) => wait_for(queue, clock, batch),
    };
    #[cfg(feature = "checking")]
    let result = queue.with(|queue| queue.told(result));
    result
}

/// Waits until the SMMU has done all commands that were published before this.
///
/// # Errors
/// See [`CommandError`].
pub fn sync(queue: &impl Shared<CommandQueue>) -> Result<(), CommandError> {
    run(queue, core::iter::empty())
}

// The batch by value: nobody else has to keep it in memory.
#[cold]
fn wait_for(
    queue: &impl Shared<CommandQueue>,
    clock: Clock,
    mut batch: Batch<impl Iterator<Item = Command>>,
) -> Result<(), CommandError> {
    let waited = clock.wait(|| queue.with(|queue| queue.advance(&mut batch)));
    waited.unwrap_or_else(|TimedOut| queue.with(|queue| Err(queue.timed_out())))
}

impl<I: Iterator<Item = Command>> Batch<I> {
    fn new(commands: I) -> Self {
        Self { commands, whole: false, first: u64::MAX, end: 0 }
    }
}

impl CommandQueue {
    /// The queue in `slots`, empty. CMDQ_PROD and CMDQ_CONS read zero, and the queue is enabled.
    pub(super) fn new(
        control: Mmio<ControlRegisters>,
        registers: Mmio<CommandRegisters>,
        slots: Region,
        log2: u8,
        coherency: Coherency,
        clock: Clock,
    ) -> Self {
        let acknowledged = registers.gerrorn.get();
        Self {
            control,
            registers,
            slots,
            log2,
            coherency,
            clock,
            produced: 0,
            published: 0,
            consumed: 0,
            waited: 0,
            acknowledged,
            refusals: [None; REFUSALS],
            recovery: Recovery::default(),
            syncs: 0,
            register_writes: 0,
            illegal: 0,
            time_outs: 0,
            errors: GlobalErrors::default(),
            #[cfg(feature = "checking")]
            injected: super::inject::Injected::default(),
        }
    }

    /// Puts a command into the next slot. The SMMU does not see it before [`CommandQueue::publish`].
    pub fn push(&mut self, command: Command) -> Result<(), QueueFull> {
        if !self.has_room() {
            return Err(QueueFull);
        }
        self.write(command.encode());
        self.syncs += u64::from(command == Command::Sync);
        Ok(())
    }

    /// The same for a command as its words, which may be one that the SMMU refuses.
    pub fn push_words(&mut self, words: [u64; Command::WORDS]) -> Result<(), QueueFull> {
        if !self.has_room() {
            return Err(QueueFull);
        }
        self.write(words);
        Ok(())
    }

    /// Lets the SMMU see all commands pushed so far, and everything that was written to memory before.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.produced {
            return;
        }
        self.coherency.written_if(|| self.pushed());
        self.coherency.publish();
        self.registers.cmdq_prod.set(self.in_register(self.produced));
        self.register_writes += 1;
        self.published = self.produced;
    }

    /// Waits until everything published is consumed; with a CMD_SYNC at the end, until it is done. What the SMMU wrote
    /// or stopped using before is seen by whoever reads or reuses it after this. A command that was refused since the
    /// last wait is an error, whoever's it was.
    pub fn wait(&mut self) -> Result<(), CommandError> {
        let (first, end) = (self.waited, self.published);
        self.finish(Batch { commands: core::iter::empty(), whole: true, first, end })
    }

    /// [`run`] for whoever has the queue alone.
    pub fn run(&mut self, commands: impl IntoIterator<Item = Command>) -> Result<(), CommandError> {
        self.finish(Batch::new(commands.into_iter()))
    }

    fn finish(&mut self, mut batch: Batch<impl Iterator<Item = Command>>) -> Result<(), CommandError> {
        let clock = self.clock;
        let result = clock.wait(|| self.advance(&mut batch)).unwrap_or_else(|TimedOut| Err(self.timed_out()));
        self.waited = self.waited.max(batch.end);
        result
    }

    /// Acknowledges what GERROR says, restarting the queue if it stopped. Does not wait: a queue that has to begin anew
    /// does so when somebody waits for it. For the interrupt handler.
    pub fn service_errors(&mut self) -> GlobalErrors {
        let active = self.active_errors();
        if active & bits::GERROR_CMDQ != 0 {
            _ = self.restart();
        }
        if active & !bits::GERROR_CMDQ != 0 {
            self.acknowledge(active & !bits::GERROR_CMDQ);
        }
        core::mem::take(&mut self.errors)
    }

    /// What went through the queue so far.
    pub fn counters(&self) -> CommandCounters {
        CommandCounters {
            commands: self.produced - self.recovery.skipped,
            syncs: self.syncs,
            register_writes: self.register_writes,
            illegal: self.illegal,
            time_outs: self.time_outs,
            begun_anew: self.recovery.begun_anew,
        }
    }

    /// What enables the queue, and all else.
    pub(super) fn control(&self) -> Control<'_> {
        Control { registers: &self.control, clock: self.clock }
    }

    /// The queue's memory. The queue is disabled.
    pub(super) fn into_memory(self) -> Region {
        self.slots
    }

    /// Brings a batch as far as it gets without waiting: more of it into the queue, a queue that stopped running again.
    /// What became of it, if it is over.
    #[inline(always)] // Where it is called first, all of a batch is known.
    fn advance(
        &mut self,
        batch: &mut Batch<impl Iterator<Item = Command>>,
    ) -> Option<Result<(), CommandError>> {
        if !batch.whole {
            self.fill(batch);
        }
        if let Err(error) = self.read_consumed() {
            return Some(Err(error));
        }
        if batch.whole && self.consumed >= batch.end {
            arch::barrier::dmb_oshld();
            return Some(self.refused_in(batch.first, batch.end));
        }
        match self.restart() {
            Err(stopped) if !self.begin_anew(stopped) => Some(Err(CommandError::Stopped { code: stopped.0 })),
            _ => None,
        }
    }

    /// Writes and publishes as much of a batch as there is room for.
    #[inline(always)] // As for `advance`.
    fn fill(&mut self, batch: &mut Batch<impl Iterator<Item = Command>>) {
        batch.first = batch.first.min(self.produced);
        while !batch.whole && self.has_room() {
            match batch.commands.next() {
                Some(command) => self.write(command.encode()),
                None => {
                    self.write(const { Command::Sync.encode() });
                    self.syncs += 1;
                    batch.whole = true;
                }
            }
        }
        batch.end = self.produced;
        self.publish();
    }

    /// Whether there is a free slot.
    #[inline]
    fn has_room(&mut self) -> bool {
        self.produced - self.consumed < self.entries() || self.gets_room()
    }

    #[cold]
    fn gets_room(&mut self) -> bool {
        self.read_consumed().is_ok() && self.produced - self.consumed < self.entries()
    }

    /// Writes a command into the next slot, which is free.
    #[inline]
    pub(super) fn write(&mut self, words: [u64; Command::WORDS]) {
        self.slots.store(self.slot(self.produced), &words);
        self.produced += 1;
    }

    #[inline]
    pub(super) fn entries(&self) -> u64 {
        1 << self.log2
    }

    /// The first word of the slot of command `number`.
    #[inline]
    fn slot(&self, number: u64) -> usize {
        (number & (self.entries() - 1)) as usize * Command::WORDS
    }

    fn cursor(&self, number: u64) -> Cursor {
        Cursor::new(self.log2).advanced(number as u32)
    }

    /// The bits of a number that are in the registers: the index, and the wrap bit above it.
    #[inline]
    pub(super) fn in_register(&self, number: u64) -> u32 {
        (number & (2 * self.entries() - 1)) as u32
    }

    #[inline]
    fn read_consumed(&mut self) -> Result<(), CommandError> {
        let consumed = self.registers.cmdq_cons.get();
        let passed = u64::from(self.in_register(u64::from(consumed).wrapping_sub(self.consumed)));
        if passed > self.published - self.consumed {
            return Err(CommandError::Nonsense { consumed });
        }
        self.consumed += passed;
        Ok(())
    }

    #[cold]
    fn timed_out(&mut self) -> CommandError {
        self.time_outs += 1;
        CommandError::TimedOut {
            produced: self.cursor(self.published),
            consumed: self.cursor(self.consumed),
            opcode: Command::opcode(self.slots.load(self.slot(self.consumed))),
        }
    }

    /// If a command error is active: replaces the command if it is to blame, and acknowledges.
    ///
    /// # Errors
    /// The queue cannot be read, not at the second try either. It stays as it is: acknowledging would only bring the next
    /// error.
    #[cold]
    fn restart(&mut self) -> Result<(), Stopped> {
        if let Some(stopped) = self.recovery.halted {
            return Err(stopped);
        }
        // The error was raised after CONS stopped moving, so it stands at the command.
        if self.active_errors() & bits::GERROR_CMDQ == 0 || self.read_consumed().is_err() {
            return Ok(());
        }
        match extract(30, 24, self.registers.cmdq_cons.get().into()) as u8 {
            cerror::ILLEGAL => self.replace_refused(),
            code => self.may_try_again(Stopped(code))?,
        }
        self.acknowledge(bits::GERROR_CMDQ);
        Ok(())
    }

    /// Puts a CMD_SYNC, which is always legal, over the command that CONS stands at.
    fn replace_refused(&mut self) {
        let first = self.slot(self.consumed);
        let words = self.slots.load(first);
        self.slots.store(first, &Command::Sync.encode());
        self.coherency.written(&self.slots.words()[first..first + Command::WORDS]);
        self.coherency.publish();
        self.illegal += 1;
        self.refusals.rotate_left(1);
        self.refusals[REFUSALS - 1] = Some(Refusal { number: self.consumed, words });
    }

    /// The first refusal among the commands from `first` to before `end`.
    #[inline]
    fn refused_in(&self, first: u64, end: u64) -> Result<(), CommandError> {
        match self.refusals[REFUSALS - 1] {
            Some(last) if last.number >= first => self.find_refusal(first, end),
            _ => Ok(()),
        }
    }

    #[cold]
    fn find_refusal(&self, first: u64, end: u64) -> Result<(), CommandError> {
        let known = self.refusals.iter().flatten();
        // One that is forgotten may have been among them too.
        let all_known = self.refusals[0].is_none_or(|oldest| oldest.number < first);
        let found =
            known.into_iter().find(|refusal| refusal.number >= first && (refusal.number < end || !all_known));
        found.map_or(Ok(()), |refusal| Err(CommandError::Illegal { words: refusal.words }))
    }

    pub(super) fn active_errors(&self) -> u32 {
        self.registers.gerror.get() ^ self.acknowledged
    }

    pub(super) fn acknowledge(&mut self, errors: u32) {
        self.acknowledged ^= errors;
        self.registers.gerrorn.set(self.acknowledged);
        self.register_writes += 1;
        self.errors.bits |= errors;
    }

    /// The slots between what is published and what was pushed, which may go around the end.
    fn pushed(&self) -> [&[AtomicU64]; 2] {
        let words = self.slots.words();
        let (first, end) = (self.slot(self.published), self.slot(self.produced));
        let (until, around) = if first < end { (end, 0) } else { (Command::WORDS << self.log2, end) };
        [&words[first..until], &words[..around]]
    }
}
