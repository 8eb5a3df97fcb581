//! Event recording (IHI 0070, 7.2 to 7.4).

use super::registers::{cr0, gerror, irq, offset};
use super::{PhysicalMemory, RegisterFile, SmmuModel};
use crate::event::{AccessKind, EventKind, EventRecord, FaultClass};
use crate::field::{field, flag};
use addr::StreamId;

/// The reason for an aborted transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransactionFault {
    pub kind: EventKind,
    pub stage: u8,
    pub class: FaultClass,
    pub ipa: Option<u64>,
    pub fetch: Option<u64>,
    pub recorded: bool,
}

impl TransactionFault {
    pub fn of_config(kind: EventKind) -> Self {
        Self { kind, stage: 1, class: FaultClass::Cd, ipa: None, fetch: None, recorded: true }
    }

    pub fn at_input(kind: EventKind, stage: u8) -> Self {
        Self { stage, class: FaultClass::Input, ..Self::of_config(kind) }
    }

    pub fn of_fetch(kind: EventKind, class: FaultClass, at: u64) -> Self {
        Self { class, fetch: Some(at), ..Self::of_config(kind) }
    }

    /// Whether it is one of F_TRANSLATION, F_ADDR_SIZE, F_ACCESS and F_PERMISSION.
    pub fn is_of_translation(&self) -> bool {
        (0x10..=0x13).contains(&self.kind.number())
    }

    /// The words of the event record.
    fn record(&self, stream: StreamId, address: u64, direction: AccessKind) -> [u64; 4] {
        let class = match self.class {
            FaultClass::Cd => 0b00,
            FaultClass::Table => 0b01,
            FaultClass::Input => 0b10,
            FaultClass::Reserved => 0b11,
        };
        let word0 = field(7, 0, self.kind.number().into()) | field(63, 32, stream.raw().into());
        let word1 =
            flag(35, direction == AccessKind::Read) | flag(39, self.stage == 2) | field(41, 40, class);
        let has_input = self.kind.number() >= 0x0b;
        let last = self.fetch.or(self.ipa).unwrap_or(0);
        if has_input { [word0, word1, address, last] } else { [word0, 0, 0, last] }
    }
}

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    pub(super) fn record(
        &mut self,
        stream: StreamId,
        address: u64,
        direction: AccessKind,
        fault: TransactionFault,
    ) {
        if fault.recorded && self.enabled(cr0::EVENTQEN) {
            self.write_record(fault.record(stream, address, direction));
        }
    }

    fn write_record(&mut self, words: [u64; 4]) {
        let queue = self.queue(offset::EVENTQ_BASE, EventRecord::LOG2_BYTES.into());
        let (prod, cons) = (self.registers.get(offset::EVENTQ_PROD), self.registers.get(offset::EVENTQ_CONS));
        let (produced, consumed) = (queue.start.read(prod), queue.start.read(cons));
        let overflow = prod & (1 << 31);
        if produced.distance_from(consumed) >= produced.entries() {
            return self.report_overflow(prod, overflow != cons & (1 << 31));
        }
        let at = queue.base + 32 * produced.index() as u64;
        let written = (0..4).all(|word| self.memory.write(at + 8 * word, words[word as usize]));
        assert!(written, "event queue outside of memory");
        self.registers.set(offset::EVENTQ_PROD, produced.advanced(1).raw() | overflow);
        let interrupts = self.registers.get(offset::IRQ_CTRLACK) & irq::EVENTQ != 0;
        if produced == consumed && interrupts {
            self.event_interrupts += 1;
        }
    }

    /// Drops a record. `pending`: an earlier overflow is not acknowledged yet.
    fn report_overflow(&mut self, prod: u32, pending: bool) {
        if self.overflow_is_global_error {
            self.raise(gerror::EVENTQ_ABORT);
        } else if !pending {
            self.registers.set(offset::EVENTQ_PROD, prod ^ (1 << 31));
        }
    }
}
