//! A software model of the SMMU, for driver tests.
//!
//! It implements IHI 0070 and, where the manual permits several behaviours, the worst one for software:
//!
//! - register writes take effect and commands are consumed only in [`SmmuModel::step`], a few at a time, so a
//!   driver that does not wait for an acknowledgement or for CONS continues too early;
//! - invalidated entries stay in use until the CMD_SYNC; entries cached between a TLBI and its CMD_SYNC are
//!   kept;
//! - stream table entries, context descriptors (valid or not), table descriptors and translations stay cached
//!   until invalidated by a command; a contiguous group or a block is cached as one entry;
//! - any cached entry can be evicted at any time ([`SmmuModel::evict`]) and is then fetched again;
//! - violations of software rules without an architected result (registers written while in use, a
//!   non-uniform contiguous group, two cached translations of one address) panic with a message.
//!
//! It shares no code with the page-table crate or with this crate's encoders: it decodes words independently.

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

/// Physical memory, as accessed by the SMMU.
pub trait PhysicalMemory {
    /// Reads the 64-bit word at `at`, a multiple of 8; `None` if the access aborts.
    fn read(&self, at: u64) -> Option<u64>;
    /// Stores a word. Returns `false` if the access aborts.
    fn write(&mut self, at: u64, value: u64) -> bool;
}

/// The registers, shared with the driver under test.
pub trait RegisterFile {
    /// Reads the 32-bit register at `offset`.
    fn get(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn set(&self, offset: usize, value: u32);
}

/// The result of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionResult {
    /// Translated.
    Translated {
        /// The physical address.
        to: u64,
        /// The attributes of the leaf descriptor.
        attributes: Attributes,
    },
    /// Not translated.
    Bypassed,
    /// Aborted, with the kind of event to be recorded, if any.
    Aborted(Option<EventKind>),
}

/// The SMMU model.
pub struct SmmuModel<R, M> {
    /// The registers.
    pub registers: R,
    /// The memory that it accesses.
    pub memory: M,
    /// [`SmmuModel::step`] does nothing: a hung SMMU.
    pub hung: bool,
    /// Service failure mode (IHI 0070, 12.3): all transactions abort without an event, and no command is
    /// consumed.
    service_failure: bool,
    /// Commands consumed in each step.
    pub commands_per_step: u32,
    /// Number of CMD_SYNCs consumed.
    pub syncs: u64,
    /// Opcodes of all commands consumed, in order.
    pub opcodes: Vec<u8>,
    /// Number of event queue interrupts (the queue became non-empty).
    pub event_interrupts: u32,
    /// Number of global error interrupts.
    pub error_interrupts: u32,
    /// Event queue overflow is reported as by QEMU (GERROR.EVENTQ_ABT_ERR) instead of as in the manual
    /// (OVFLG).
    pub overflow_is_global_error: bool,
    ids: IdRegisters,
    /// The last command since the last CMD_SYNC.
    unsynchronized: Option<u8>,
    gbpa: u32,
    config: ConfigCache,
    tlb: Tlb,
    /// Last values of the registers that must not change while in use.
    in_use: [u64; registers::GUARDED],
}

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    /// An SMMU with these ID registers after reset: bypassing (GBPA.ABORT = 0), with arbitrary values where
    /// reset values are UNKNOWN.
    pub fn new(registers: R, memory: M, ids: IdRegisters) -> Self {
        let model = Self {
            registers,
            memory,
            hung: false,
            service_failure: false,
            commands_per_step: 3,
            syncs: 0,
            opcodes: Vec::new(),
            event_interrupts: 0,
            error_interrupts: 0,
            overflow_is_global_error: false,
            ids,
            unsynchronized: None,
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
        self.registers.set(offset::IIDR, self.ids.iidr);
        self.registers.set(offset::AIDR, self.ids.aidr);
        self.registers.set(offset::GBPA, self.gbpa);
        let unknown = [offset::CMDQ_PROD, offset::CMDQ_CONS, offset::EVENTQ_PROD, offset::EVENTQ_CONS];
        unknown.into_iter().for_each(|at| self.registers.set(at, 0x0005_5555));
    }

    /// Applies register writes and consumes up to `commands_per_step` commands.
    pub fn step(&mut self) {
        if self.hung {
            return;
        }
        self.update_gbpa();
        self.acknowledge_enables();
        if self.enabled(cr0::CMDQEN) && !self.service_failure {
            for _ in 0..self.commands_per_step {
                self.consume();
            }
        }
    }

    /// Enters service failure mode.
    pub fn enter_service_failure(&mut self) {
        self.service_failure = true;
        self.raise(registers::gerror::SERVICE_FAILURE);
    }

    /// Performs an unprivileged transaction of `stream` at `address`. Uses and fills all caches, and records
    /// an event if the transaction is aborted and the manual requires an event.
    pub fn access(&mut self, stream: StreamId, address: u64, direction: AccessKind) -> TransactionResult {
        if self.service_failure {
            return TransactionResult::Aborted(None);
        }
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

    /// Performs an ATS Translated transaction of `stream`. Without CR0.ATSCHK it is not checked at all (IHI
    /// 0070, 3.9.1 and 6.3.9); with it, STE.EATS = 0 forbids it (7.3.8).
    pub fn access_translated(
        &mut self,
        stream: StreamId,
        address: u64,
        direction: AccessKind,
    ) -> TransactionResult {
        if !self.enabled(cr0::SMMUEN) {
            return TransactionResult::Aborted(Some(EventKind::TranslationForbidden));
        }
        if !self.enabled(cr0::ATSCHK) {
            return TransactionResult::Bypassed;
        }
        let fault = TransactionFault::of_config(EventKind::TranslationForbidden);
        self.record(stream, address, direction, fault);
        TransactionResult::Aborted(Some(fault.kind))
    }

    /// The number of cached translations and table descriptors.
    pub fn cached_translations(&self) -> usize {
        self.tlb.len()
    }

    /// Performs a speculative walk for `address`, which may be cached already. Faults are not reported.
    pub fn prefetch(&mut self, stream: StreamId, address: u64) {
        if !self.enabled(cr0::SMMUEN) {
            return;
        }
        if let Ok(StreamAction::Translate(translation)) = self.configuration(stream)
            && address >> translation.input_bits == 0
        {
            let _ = self.walk(&translation, address);
        }
    }

    /// Evicts the cached entries for which `evicted` returns true, as a cache may do at any time.
    pub fn evict(&mut self, mut evicted: impl FnMut() -> bool) {
        self.config.evict(&mut evicted);
        self.tlb.evict(&mut evicted);
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
            StreamAction::Translate(translation) => {
                let result = self.look_up(&translation, address, direction);
                // Only translation-related faults depend on R and S2R (5.4, 5.2).
                result.map_err(|fault| TransactionFault {
                    recorded: fault.recorded && (translation.records || !fault.is_of_translation()),
                    ..fault
                })
            }
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
