//! A software SMMU, to judge drivers by.
//!
//! It does what IHI 0070 says, and where the manual leaves a choice, what is worst for software:
//!
//! - nothing happens by itself: registers take effect and commands are consumed a few at each [`SmmuModel::step`], so a
//!   driver that does not wait for an acknowledgement or for CONS is too early;
//! - what an invalidation names stays in use until the CMD_SYNC, and what is cached again after it stays for good;
//! - stream table entries, context descriptors (valid or not), table pointers and translations stay cached for ever
//!   unless a command names them; a contiguous group or a block is cached as one entry;
//! - of all these any may be lost at any time ([`SmmuModel::lose`]), so that it is read again when nobody expects it;
//! - what breaks the rules for software without an architected answer (registers written while they are in use, a
//!   contiguous group that is not uniform, two cached translations of one address) panics with a message.
//!
//! It knows nothing of the page-table crate or of this crate's encoders: it decodes words on its own.

mod commands;
mod config;
mod events;
mod ids;
mod registers;
mod tlb;
mod walk;

#[cfg(test)]
mod tests;

pub use ids::IdRegisters;
pub use walk::Attributes;

use crate::event::{AccessKind, EventKind};
use crate::field::is_set;
use addr::StreamId;
use alloc::vec::Vec;
use config::{ConfigCache, StageTranslation, StreamAction};
use events::TransactionFault;
use registers::{cr0, offset};
use tlb::Tlb;

/// Memory as the SMMU sees it.
pub trait PhysicalMemory {
    /// The 64-bit word at `at`, a multiple of 8; `None` if the access aborts.
    fn read(&self, at: u64) -> Option<u64>;
    /// Stores a word; `false` if the access aborts.
    fn write(&mut self, at: u64, value: u64) -> bool;
}

/// The registers, which the driver writes at the same time.
pub trait RegisterFile {
    /// The 32 bits at `offset`.
    fn get(&self, offset: usize) -> u32;
    /// Sets the 32 bits at `offset`.
    fn set(&self, offset: usize, value: u32);
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionResult {
    /// It goes to memory at `to`.
    Translated {
        /// The physical address.
        to: u64,
        /// What the last-level descriptor said.
        attributes: Attributes,
    },
    /// It goes to memory untranslated.
    Bypassed,
    /// It was aborted; with the event that was recorded, if one was to be.
    Aborted(Option<EventKind>),
}

/// The SMMU.
pub struct SmmuModel<R, M> {
    /// Its registers.
    pub registers: R,
    /// The memory it sees.
    pub memory: M,
    /// Does nothing at [`SmmuModel::step`]: a broken SMMU.
    pub hung: bool,
    /// Commands consumed at each step.
    pub commands_per_step: u32,
    /// CMD_SYNCs consumed.
    pub syncs: u64,
    /// All commands consumed, by opcode.
    pub opcodes: Vec<u8>,
    /// Interrupts for events (the queue became non-empty).
    pub event_interrupts: u32,
    /// Interrupts for global errors.
    pub error_interrupts: u32,
    /// How to say that the event queue was full: QEMU's way (GERROR.EVENTQ_ABT_ERR) or the manual's (OVFLG).
    pub overflow_is_global_error: bool,
    ids: IdRegisters,
    gbpa: u32,
    config: ConfigCache,
    tlb: Tlb,
    /// Registers that must not change as long as they are in use.
    in_use: [u64; registers::GUARDED],
}

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    /// An SMMU with these ID registers, as after reset: open (GBPA.ABORT = 0), with rubbish where reset values are unknown.
    pub fn new(registers: R, memory: M, ids: IdRegisters) -> Self {
        let model = Self {
            registers,
            memory,
            hung: false,
            commands_per_step: 3,
            syncs: 0,
            opcodes: Vec::new(),
            event_interrupts: 0,
            error_interrupts: 0,
            overflow_is_global_error: false,
            ids,
            gbpa: 0x1000,
            config: ConfigCache::default(),
            tlb: Tlb::default(),
            in_use: [0; registers::GUARDED],
        };
        model.reset_registers();
        model
    }

    fn reset_registers(&self) {
        for (index, value) in self.ids.idr.into_iter().enumerate() {
            self.registers.set(offset::IDR0 + 4 * index, value);
        }
        self.registers.set(offset::AIDR, self.ids.aidr);
        self.registers.set(offset::GBPA, self.gbpa);
        let unknown = [offset::CMDQ_PROD, offset::CMDQ_CONS, offset::EVENTQ_PROD, offset::EVENTQ_CONS];
        unknown.into_iter().for_each(|at| self.registers.set(at, 0x0005_5555));
    }

    /// Lets the SMMU look at its registers once, and do a little of what they ask for.
    pub fn step(&mut self) {
        if self.hung {
            return;
        }
        self.take_gbpa();
        self.take_enables();
        if self.enabled(cr0::CMDQEN) {
            for _ in 0..self.commands_per_step {
                self.consume();
            }
        }
    }

    /// A transaction of `stream` to or from `address`, unprivileged. Uses and fills all caches, and records an event if it
    /// is aborted and the manual says so.
    pub fn access(&mut self, stream: StreamId, address: u64, direction: AccessKind) -> TransactionResult {
        if !self.enabled(cr0::SMMUEN) {
            let abort = is_set(20, self.gbpa.into());
            return if abort { TransactionResult::Aborted(None) } else { TransactionResult::Bypassed };
        }
        match self.translate(stream, address, direction) {
            Ok(outcome) => outcome,
            Err(fault) => {
                self.record(stream, address, direction, fault);
                TransactionResult::Aborted(Some(fault.kind))
            }
        }
    }

    /// Translations, table pointers and configuration that are cached for anything: what a domain leaves behind.
    pub fn cached_translations(&self) -> usize {
        self.tlb.len()
    }

    /// Walks for `address` though nobody asks for it, and though it may be cached: an SMMU may fetch ahead. Faults are
    /// nobody's.
    pub fn fetch_ahead(&mut self, stream: StreamId, address: u64) {
        if !self.enabled(cr0::SMMUEN) {
            return;
        }
        if let Ok(StreamAction::Translate(translation)) = self.configuration(stream)
            && address >> translation.input_bits == 0
        {
            let _ = self.walk(&translation, address);
        }
    }

    /// Loses what is `chosen` of all that is cached: a cache may, whenever it likes.
    pub fn lose(&mut self, mut chosen: impl FnMut() -> bool) {
        self.config.lose(&mut chosen);
        self.tlb.lose(&mut chosen);
    }

    fn translate(
        &mut self,
        stream: StreamId,
        address: u64,
        direction: AccessKind,
    ) -> Result<TransactionResult, TransactionFault> {
        match self.configuration(stream)? {
            StreamAction::Abort => Ok(TransactionResult::Aborted(None)),
            StreamAction::Bypass => Ok(TransactionResult::Bypassed),
            StreamAction::Translate(translation) => self.look_up(&translation, address, direction),
        }
    }

    fn look_up(
        &mut self,
        translation: &StageTranslation,
        address: u64,
        direction: AccessKind,
    ) -> Result<TransactionResult, TransactionFault> {
        if address >> translation.input_bits != 0 {
            return Err(TransactionFault::at_input(EventKind::Translation, translation.stage));
        }
        let leaf = match self.tlb.find(translation.tag, address) {
            Some(leaf) => leaf,
            None => self.walk(translation, address)?,
        };
        leaf.check(translation.stage, address, direction)?;
        Ok(TransactionResult::Translated { to: leaf.translate(address), attributes: leaf.attributes })
    }

    /// Whether the SMMU translates: CR0ACK.SMMUEN.
    pub fn is_translating(&self) -> bool {
        self.enabled(cr0::SMMUEN)
    }

    fn enabled(&self, enable: u32) -> bool {
        self.registers.get(offset::CR0ACK) & enable != 0
    }
}
