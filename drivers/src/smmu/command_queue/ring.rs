//! Slots and registers of the command queue (IHI 0070, 3.5 and 7.1).

use super::super::coherency::Coherency;
use super::super::registers::{CommandRegisters, bits, queue_base};
use super::errors::CommandError;
use crate::mmio::Mmio;
use crate::region::Region;
use addr::PhysAddr;
use core::sync::atomic::AtomicU64;
use smmu_spec::field::{extract, mask};
use smmu_spec::{Command, Cursor};
use tock_registers::interfaces::{Readable, Writeable};

/// The slots, both indices, and GERROR, whose acknowledgement restarts the queue.
///
/// Commands are numbered from 0. The low bits of a number are the index and the wrap bit of the registers;
/// unlike these, a number is never used twice.
pub(super) struct Ring {
    registers: Mmio<CommandRegisters>,
    slots: Region,
    log2: u8,
    /// The most commands in the ring before a batch stops writing: all slots, or one less, which is left for
    /// the CMD_SYNC of a part ([`Ring::reserves_sync`]).
    capacity: u64,
    coherency: Coherency,
    /// The number of the next command.
    produced: u64,
    /// The number in CMDQ_PROD.
    published: u64,
    /// The number last read from CMDQ_CONS.
    consumed: u64,
    /// GERRORN, written by this driver only.
    acknowledged: u32,
    /// Errors acknowledged since the last [`Ring::take_serviced`].
    serviced: u32,
    register_writes: u64,
}

impl Ring {
    /// The empty ring in `slots`, with a slot reserved for the CMD_SYNC of each part if `reserves_sync`.
    /// CMDQ_PROD and CMDQ_CONS must read zero.
    pub fn new(
        registers: Mmio<CommandRegisters>,
        slots: Region,
        log2: u8,
        reserves_sync: bool,
        coherency: Coherency,
    ) -> Self {
        let acknowledged = registers.gerrorn.get();
        Self {
            registers,
            slots,
            log2,
            capacity: (1 << log2) - u64::from(reserves_sync),
            coherency,
            produced: 0,
            published: 0,
            consumed: 0,
            acknowledged,
            serviced: 0,
            register_writes: 0,
        }
    }

    pub fn into_memory(self) -> Region {
        self.slots
    }

    pub fn start(&self) -> PhysAddr {
        self.slots.start()
    }

    #[inline]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    #[inline]
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    pub fn register_writes(&self) -> u64 {
        self.register_writes
    }

    /// Whether a slot is free; the reserved one does not count.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        self.produced - self.consumed < self.capacity || self.has_room_now()
    }

    /// Whether each part of a batch is to end with a CMD_SYNC, for which a slot is reserved.
    pub fn reserves_sync(&self) -> bool {
        self.capacity < self.entries()
    }

    #[cold]
    fn has_room_now(&mut self) -> bool {
        self.read_consumed().is_ok() && self.produced - self.consumed < self.capacity
    }

    /// Writes a command to the next slot, which must be free. The SMMU reads it after [`Ring::publish`].
    #[inline]
    pub fn write(&mut self, words: [u64; Command::WORDS]) {
        self.slots.store(self.slot(self.produced), &words);
        self.produced += 1;
    }

    /// Makes all commands written so far, and all earlier stores, visible to the SMMU.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.produced {
            return;
        }
        self.coherency.clean_if(|| self.unpublished());
        self.coherency.publish();
        self.registers.cmdq_prod.set(self.in_register(self.produced));
        self.register_writes += 1;
        self.published = self.produced;
    }

    /// Reads CMDQ_CONS.
    ///
    /// # Errors
    /// [`CommandError::InvalidConsumer`].
    #[inline]
    pub fn read_consumed(&mut self) -> Result<(), CommandError> {
        let consumed = self.registers.cmdq_cons.get();
        let passed = u64::from(self.in_register(u64::from(consumed).wrapping_sub(self.consumed)));
        if passed > self.published - self.consumed {
            return Err(CommandError::InvalidConsumer { consumed });
        }
        self.consumed += passed;
        Ok(())
    }

    /// CMDQ_CONS.ERR.
    pub fn error_code(&self) -> u8 {
        extract(30, 24, self.registers.cmdq_cons.get().into()) as u8
    }

    /// Overwrites the command at CONS, and returns its words.
    pub fn replace_at_consumer(&mut self, command: Command) -> [u64; Command::WORDS] {
        let first = self.slot(self.consumed);
        let words = self.slots.load(first);
        self.slots.store(first, &command.encode());
        self.coherency.clean(&self.slots.words()[first..first + Command::WORDS]);
        self.coherency.publish();
        words
    }

    pub fn timeout(&self) -> CommandError {
        CommandError::TimedOut {
            produced: self.cursor(self.published),
            consumed: self.cursor(self.consumed),
            opcode: Command::opcode(self.slots.load(self.slot(self.consumed))),
        }
    }

    /// The active errors in GERROR.
    pub fn active_errors(&self) -> u32 {
        self.registers.gerror.get() ^ self.acknowledged
    }

    /// Whether the queue is stopped by an error that is not acknowledged.
    pub fn is_stopped(&self) -> bool {
        self.active_errors() & bits::GERROR_CMDQ != 0
    }

    /// Acknowledges `errors`, which must be active, with one write; with none if there are no errors.
    pub fn acknowledge(&mut self, errors: u32) {
        if errors == 0 {
            return;
        }
        self.acknowledged ^= errors;
        self.registers.gerrorn.set(self.acknowledged);
        self.register_writes += 1;
        self.serviced |= errors;
    }

    /// The errors acknowledged since the last call.
    pub fn take_serviced(&mut self) -> u32 {
        core::mem::take(&mut self.serviced)
    }

    /// Writes the base register and zero to both indices. The queue must be disabled.
    pub fn set_base(&self, base: PhysAddr) {
        self.registers.cmdq_base.set(queue_base(base, self.log2));
        self.registers.cmdq_prod.set(0);
        self.registers.cmdq_cons.set(0);
    }

    /// Writes `commands`, which get no number, to the slots after `count` such commands, all consumed, and
    /// publishes them. Both indices must have been set to zero before the first.
    pub fn publish_unnumbered(&self, count: u64, commands: &[Command]) {
        for (number, command) in (count..).zip(commands) {
            let first = self.slot(number);
            self.slots.store(first, &command.encode());
            self.coherency.clean(&self.slots.words()[first..first + Command::WORDS]);
        }
        self.coherency.publish();
        self.registers.cmdq_prod.set(self.in_register(count + commands.len() as u64));
    }

    /// Whether `count` commands of [`Ring::publish_unnumbered`] are consumed.
    pub fn has_consumed_unnumbered(&self, count: u64) -> bool {
        let indices = mask(self.log2.into(), 0) as u32;
        self.registers.cmdq_cons.get() & indices == self.in_register(count)
    }

    /// Aligns the numbers with the registers after [`Ring::set_base`] and `commands` unnumbered commands: all
    /// earlier commands count as consumed. Returns the count of numbers skipped.
    pub fn renumber(&mut self, commands: u64) -> u64 {
        let start = self.produced.next_multiple_of(2 * self.entries());
        let skipped = start - self.produced;
        self.produced = start + commands;
        self.published = self.produced;
        self.consumed = self.produced;
        skipped
    }

    /// Restores both index registers after [`Ring::set_base`]. The queue must be disabled.
    pub fn restore_indices(&self) {
        self.registers.cmdq_prod.set(self.in_register(self.published));
        self.registers.cmdq_cons.set(self.in_register(self.consumed));
    }

    #[inline]
    fn entries(&self) -> u64 {
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

    /// The bits of a number that the registers hold: the index, and the wrap bit above it.
    #[inline]
    fn in_register(&self, number: u64) -> u32 {
        (number & (2 * self.entries() - 1)) as u32
    }

    /// The written and unpublished slots, which may wrap around the end of the ring.
    fn unpublished(&self) -> [&[AtomicU64]; 2] {
        let words = self.slots.words();
        let (first, end) = (self.slot(self.published), self.slot(self.produced));
        let (until, wrapped) = if first < end { (end, 0) } else { (Command::WORDS << self.log2, end) };
        [&words[first..until], &words[..wrapped]]
    }
}
