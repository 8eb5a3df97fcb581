//! The event queue (IHI 0070, 3.5, 7.2 to 7.4), drained by the interrupt handler. Does not allocate, wait or
//! print.

use super::clock::Clock;
use super::coherency::Coherency;
use super::event_rate_limit::{EventRateLimit, SuppressedEvents};
use super::registers::{EventRegisters, bits};
use crate::mmio::Mmio;
use crate::region::Region;
use smmu_spec::{Cursor, EventRecord};
use tock_registers::interfaces::{Readable, Writeable};

/// A report of [`EventQueue::drain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventReport {
    /// An event within the rate limit, to be printed.
    Event(EventRecord),
    /// An event beyond the rate limit. The rate limit counts it; the caller may do its own accounting.
    RateLimited(EventRecord),
    /// Number of events beyond the rate limit.
    Suppressed(SuppressedEvents),
    /// The queue was full, and the SMMU lost an unknown number of events.
    Overflow,
}

/// The queue, its registers, and the consumer index.
pub struct EventQueue {
    registers: Mmio<EventRegisters>,
    records: Region,
    coherency: Coherency,
    clock: Clock,
    consumed: Cursor,
    /// EVENTQ_CONS.OVACKFLG.
    acknowledged: u32,
    limit: EventRateLimit,
}

impl EventQueue {
    /// The maximum number of records that [`drain`](Self::drain) reads, with interrupts masked: about 80 000
    /// instructions.
    pub const BATCH: u32 = 64;

    /// The empty queue in `records`. EVENTQ_PROD and EVENTQ_CONS must read zero.
    pub(super) fn new(
        registers: Mmio<EventRegisters>,
        records: Region,
        log2: u8,
        coherency: Coherency,
        clock: Clock,
    ) -> Self {
        Self {
            registers,
            records,
            coherency,
            clock,
            consumed: Cursor::new(log2),
            acknowledged: 0,
            limit: EventRateLimit::new(),
        }
    }

    /// Reads the records up to EVENTQ_PROD, at most [`BATCH`](Self::BATCH), and frees their slots. Returns
    /// whether more are in the queue: the caller must call again, since their interrupt may have been this
    /// one.
    pub fn drain(&mut self, mut report: impl FnMut(EventReport)) -> bool {
        let now = (self.clock.now)();
        let prod = self.registers.eventq_prod.get();
        self.check_overflow(prod, &mut report);
        let readable = self.readable(prod);
        let produced = self.consumed.advanced(readable.distance_from(self.consumed).min(Self::BATCH));
        self.prepare_read(produced);
        while self.consumed != produced {
            let record = self.records.load(self.consumed.index() * EventRecord::WORDS);
            self.consumed = self.consumed.advanced(1);
            self.report(EventRecord::decode(record), now, &mut report);
        }
        if produced == readable {
            self.limit.announce(now, |dropped| report(EventReport::Suppressed(dropped)));
        }
        self.coherency.after_read();
        self.registers.eventq_cons.set(self.consumed.raw() | self.acknowledged);
        let more = self.registers.eventq_prod.get();
        self.consumed.read(more) != self.consumed
    }

    /// The queue's memory. The queue must be disabled.
    pub(super) fn into_memory(self) -> Region {
        self.records
    }

    fn report(&mut self, event: EventRecord, now: u64, report: &mut impl FnMut(EventReport)) {
        match self.limit.admit(event.stream, now, &mut |dropped| report(EventReport::Suppressed(dropped))) {
            true => report(EventReport::Event(event)),
            false => report(EventReport::RateLimited(event)),
        }
    }

    fn check_overflow(&mut self, prod: u32, report: &mut impl FnMut(EventReport)) {
        let flag = prod & bits::OVERFLOW;
        if flag != self.acknowledged {
            self.acknowledged = flag;
            report(EventReport::Overflow);
        }
    }

    /// The end of the readable records. After an invalid PROD nothing is read, and the queue continues at
    /// that index.
    fn readable(&mut self, prod: u32) -> Cursor {
        let produced = self.consumed.read(prod);
        if produced.distance_from(self.consumed) > produced.entries() {
            self.consumed = produced;
        }
        produced
    }

    fn prepare_read(&self, produced: Cursor) {
        let words = self.records.words();
        let (first, end) =
            (self.consumed.index() * EventRecord::WORDS, produced.index() * EventRecord::WORDS);
        if self.consumed == produced {
            // Nothing to read; below, equal indices mean a full queue.
        } else if first < end {
            self.coherency.before_read(&words[first..end]);
        } else {
            self.coherency.before_read(&words[first..self.consumed.entries() as usize * EventRecord::WORDS]);
            self.coherency.before_read(&words[..end]);
        }
    }
}
