//! The event queue (IHI 0070, 3.5, 7.2 to 7.4): drained in bulk by the interrupt handler. Nothing here allocates, waits
//! or prints.

use super::clock::Clock;
use super::coherency::Coherency;
use super::rate_limit::{Dropped, EventRateLimit};
use super::registers::{EventRegisters, bits};
use crate::mmio::Mmio;
use crate::region::Region;
use smmu_spec::{Cursor, EventRecord};
use tock_registers::interfaces::{Readable, Writeable};

/// What [`EventQueue::drain`] tells its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventReport {
    /// An event that is worth a line: print it.
    Event(EventRecord),
    /// An event of a stream that had its lines: it is counted, and shown here for those who count themselves.
    Quiet(EventRecord),
    /// Events that were left out.
    Dropped(Dropped),
    /// The queue was full and the SMMU lost events; how often is not known.
    Overflow,
}

/// What came through the queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EventCounters {
    /// Records read.
    pub events: u64,
    /// Records that were not worth a line.
    pub quiet: u64,
    /// Times the SMMU said that the queue had been full.
    pub overflows: u64,
    /// Times EVENTQ_PROD was not inside the queue.
    pub nonsense: u64,
}

/// The queue, its registers, and how far it was read.
pub struct EventQueue {
    registers: Mmio<EventRegisters>,
    records: Region,
    coherency: Coherency,
    clock: Clock,
    consumed: Cursor,
    /// EVENTQ_CONS.OVACKFLG.
    acknowledged: u32,
    limit: EventRateLimit,
    counters: EventCounters,
}

impl EventQueue {
    /// The queue in `records`, empty. EVENTQ_PROD and EVENTQ_CONS read zero.
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
            counters: EventCounters::default(),
        }
    }

    /// Reads what is in the queue, at most once around, and gives the room back. `true` if there was more: then call
    /// again, since the interrupt for it may have been this one.
    pub fn drain(&mut self, mut report: impl FnMut(EventReport)) -> bool {
        let now = (self.clock.now)();
        let prod = self.registers.eventq_prod.get();
        self.note_overflow(prod, &mut report);
        let produced = self.readable(prod);
        self.clean_readable(produced);
        while self.consumed != produced {
            let record = self.records.load(self.consumed.index() * EventRecord::WORDS);
            self.consumed = self.consumed.advanced(1);
            self.take(EventRecord::decode(record), now, &mut report);
        }
        self.limit.announce(now, |dropped| report(EventReport::Dropped(dropped)));
        self.coherency.done_reading();
        self.registers.eventq_cons.set(self.consumed.raw() | self.acknowledged);
        let more = self.registers.eventq_prod.get();
        self.consumed.read(more) != self.consumed
    }

    /// What came through the queue so far.
    pub fn counters(&self) -> EventCounters {
        self.counters
    }

    /// The queue's memory. The queue is disabled.
    pub(super) fn into_memory(self) -> Region {
        self.records
    }

    fn take(&mut self, event: EventRecord, now: u64, report: &mut impl FnMut(EventReport)) {
        self.counters.events += 1;
        let worth = self.limit.admit(event.stream, now, &mut |dropped| report(EventReport::Dropped(dropped)));
        if worth {
            report(EventReport::Event(event));
        } else {
            self.counters.quiet += 1;
            report(EventReport::Quiet(event));
        }
    }

    fn note_overflow(&mut self, prod: u32, report: &mut impl FnMut(EventReport)) {
        let flag = prod & bits::OVERFLOW;
        if flag != self.acknowledged {
            self.acknowledged = flag;
            self.counters.overflows += 1;
            report(EventReport::Overflow);
        }
    }

    /// The end of what can be read. A PROD that contradicts CONS is not followed: nothing is read, and the queue starts
    /// again from there.
    fn readable(&mut self, prod: u32) -> Cursor {
        let produced = self.consumed.read(prod);
        if produced.distance_from(self.consumed) > produced.entries() {
            self.counters.nonsense += 1;
            self.consumed = produced;
        }
        produced
    }

    fn clean_readable(&self, produced: Cursor) {
        let words = self.records.words();
        let (first, end) =
            (self.consumed.index() * EventRecord::WORDS, produced.index() * EventRecord::WORDS);
        if self.consumed == produced {
            // Nothing to read; equal indices would mean the whole queue below.
        } else if first < end {
            self.coherency.about_to_read(&words[first..end]);
        } else {
            self.coherency
                .about_to_read(&words[first..self.consumed.entries() as usize * EventRecord::WORDS]);
            self.coherency.about_to_read(&words[..end]);
        }
    }
}
