//! The fault state of a device: its fault count, and the transitions between armed, blocked and quarantined.
//!
//! ```text
//!          limit or queue overflow                     thread: detach
//!   armed -------------------------> quarantine pending -------------> quarantined
//!    ^ ^ \                               |                                 |
//!    | |  \ driver: block                | driver: block                   |
//!    | |   +------------> blocked <------+                                 |
//!    | |                     |                                             |
//!    | +---------------------+ driver: unblock                             |
//!    +---------------------------------------------------------------------+ driver: rearm
//! ```
//!
//! During a change of the stream table entry the state is "transitioning". A failed attach leads back to the
//! previous state. A failed detach leads to "detach failed", from where the limit, the driver's block and its
//! rearm lead as if from armed or quarantined.

use crate::sched::Nanoseconds;
use crate::sync::SpinLock;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicU8, AtomicU64};
use smmu_spec::EventRecord;

/// The default fault limit. Each transaction that an SMMU aborts is a fault; QEMU splits an access into
/// pieces of four bytes.
pub const DEFAULT_LIMIT: u64 = 4096;

/// The device may do DMA.
const ARMED: u8 = 0;
/// The limit is reached; the quarantine thread has not run yet.
const QUARANTINE_PENDING: u8 = 1;
/// The stream table entry is being changed.
const TRANSITIONING: u8 = 2;
/// The SMMU aborts the device's transactions because of its faults.
const QUARANTINED: u8 = 3;
/// The SMMU aborts the device's transactions on its driver's request.
const BLOCKED: u8 = 4;
/// A detach failed. The stream table entry aborts, but the SMMU may use its cached copy for any time, and
/// aborts without an event afterwards.
const DETACH_FAILED: u8 = 5;

/// The faults of one device, and its state.
pub struct FaultState {
    /// All faults of the device.
    total: AtomicU64,
    /// The value of `total` when the device was armed.
    total_when_armed: AtomicU64,
    limit: AtomicU64,
    state: AtomicU8,
    /// The earliest time of a rearm.
    earliest_rearm: AtomicU64,
    /// Incremented each time the device is armed.
    generation: AtomicU64,
    /// The first fault since the last arming.
    first: SpinLock<Option<EventRecord>>,
}

impl Default for FaultState {
    /// An armed device without faults.
    fn default() -> Self {
        Self {
            total: AtomicU64::new(0),
            total_when_armed: AtomicU64::new(0),
            limit: AtomicU64::new(DEFAULT_LIMIT),
            state: AtomicU8::new(ARMED),
            earliest_rearm: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            first: SpinLock::new(None),
        }
    }
}

impl FaultState {
    /// All faults of the device: a count that never decreases.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// The first fault since the device was armed.
    pub fn first(&self) -> Option<EventRecord> {
        *self.first.lock()
    }

    /// Faults since the device was armed.
    pub fn count(&self) -> u64 {
        self.total().saturating_sub(self.total_when_armed.load(Relaxed))
    }

    /// Sets the limit; at least 1.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit.max(1), Relaxed);
    }

    /// Returns whether only a rearm makes the device usable: it is quarantined, or a detach failed.
    pub fn is_quarantined(&self) -> bool {
        matches!(self.state.load(Acquire), QUARANTINED | DETACH_FAILED)
    }

    /// Returns the generation of the arming; `None` unless the device is armed. If it is the same before and
    /// after an operation, the stream was attached all the time in between.
    pub fn arm_generation(&self) -> Option<u64> {
        // The caller has seen the end of the operation in a register of the device or in memory: that load
        // must precede the loads below.
        arch::barrier::dmb_oshld();
        // Acquire, both: the operation starts after them.
        (self.state.load(Acquire) == ARMED).then(|| self.generation.load(Acquire))
    }

    /// Returns the earliest time of a rearm.
    pub fn earliest_rearm(&self) -> Nanoseconds {
        self.earliest_rearm.load(Relaxed)
    }

    /// Requests the quarantine of a device that may do DMA, regardless of its limit, until `until` at least.
    /// Returns whether this changed the state.
    pub fn quarantine_until(&self, until: Nanoseconds) -> bool {
        if !matches!(self.state.load(Acquire), ARMED | DETACH_FAILED) {
            return false;
        }
        // Before the state that a reader of `earliest_rearm` waits for.
        self.earliest_rearm.store(until, Relaxed);
        self.request_quarantine()
    }

    /// Counts a fault. Returns whether it reached the limit.
    pub fn add(&self, event: EventRecord) -> bool {
        self.total.fetch_add(1, Relaxed);
        let count = self.count();
        if count == 1 {
            *self.first.lock() = Some(event);
        }
        count >= self.limit.load(Relaxed) && self.request_quarantine()
    }

    fn request_quarantine(&self) -> bool {
        self.change(ARMED, QUARANTINE_PENDING) || self.change(DETACH_FAILED, QUARANTINE_PENDING)
    }

    pub fn is_pending(&self) -> bool {
        self.state.load(Acquire) == QUARANTINE_PENDING
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    /// Runs `detach` if a quarantine is pending. After an error of `detach` the next quarantine needs as many
    /// faults again. `None` if none was pending.
    pub fn quarantine<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        self.change(QUARANTINE_PENDING, TRANSITIONING).then(|| {
            let result = detach();
            if result.is_err() {
                self.reset_count();
            }
            self.enter(if result.is_ok() { QUARANTINED } else { DETACH_FAILED });
            result
        })
    }

    fn reset_count(&self) {
        self.total_when_armed.store(self.total(), Relaxed);
        *self.first.lock() = None;
    }

    /// Ends a transition.
    fn enter(&self, state: u8) {
        // Released and before the state: both a reader of the new generation and one of the new state observe
        // the attach, and the latter the new generation.
        self.generation.fetch_add(u64::from(state == ARMED), Release);
        self.state.store(state, Release);
    }

    /// Runs `detach` for a driver; a pending quarantine becomes a block. `None` if the device is blocked,
    /// quarantined or in a transition.
    pub fn block<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        // A pending quarantine last: the two other states lead there.
        let may_do_dma = [ARMED, DETACH_FAILED, QUARANTINE_PENDING];
        may_do_dma.into_iter().any(|from| self.change(from, TRANSITIONING)).then(|| {
            let result = detach();
            self.enter(if result.is_ok() { BLOCKED } else { DETACH_FAILED });
            result
        })
    }

    /// Runs `attach` for a driver that blocked the device; the fault count is kept. `None` if no driver did.
    pub fn unblock<E>(&self, attach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        self.change(BLOCKED, TRANSITIONING).then(|| {
            let result = attach();
            self.enter(if result.is_ok() { ARMED } else { BLOCKED });
            result
        })
    }

    /// Runs `service` and `attach` if the device is quarantined or its detach failed, and resets the fault
    /// count. `service` counts the events of earlier transactions, which must not count as new faults.
    pub fn rearm<E>(&self, service: impl FnOnce(), attach: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let from = [QUARANTINED, DETACH_FAILED];
        let Some(from) = from.into_iter().find(|&from| self.change(from, TRANSITIONING)) else {
            return Ok(());
        };
        service();
        let result = attach();
        if result.is_ok() {
            self.reset_count();
        }
        self.enter(if result.is_ok() { ARMED } else { from });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn event(number: u64) -> EventRecord {
        EventRecord::decode([0x10 | 8 << 32, 0, number << 12, 0])
    }

    fn done() -> Result<(), ()> {
        Ok(())
    }

    /// A rearm without pending events.
    fn rearm<E>(faults: &FaultState, attach: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        faults.rearm(|| {}, attach)
    }

    #[test]
    fn generation_changes_when_transactions_may_have_been_aborted() {
        let faults = FaultState::default();
        faults.set_limit(1);
        let before = faults.arm_generation();
        assert!(before.is_some() && faults.arm_generation() == before);
        assert!(faults.add(event(0)));
        assert_eq!(faults.arm_generation(), None, "quarantine pending");
        faults.quarantine(|| {
            assert_eq!(faults.arm_generation(), None, "the SMMU may already abort");
            done()
        });
        assert_eq!(faults.arm_generation(), None);
        rearm(&faults, done).unwrap();
        assert!(faults.arm_generation().is_some() && faults.arm_generation() != before);
        let again = faults.arm_generation();
        assert_eq!((faults.block(done), faults.arm_generation()), (Some(Ok(())), None));
        assert_eq!(faults.unblock(done), Some(Ok(())));
        assert!(faults.arm_generation().is_some() && faults.arm_generation() != again);
    }

    /// After a failed detach the entry in memory aborts: with the SMMU's next fetch of it, without an event.
    #[test]
    fn device_has_no_generation_from_a_failed_detach_to_the_next_attach() {
        let faults = FaultState::default();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.quarantine(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.arm_generation(), faults.is_quarantined()), (None, true));
        assert_eq!(rearm(&faults, || Err("no answer")), Err("no answer"));
        assert_eq!(faults.arm_generation(), None);
        rearm(&faults, done).unwrap();
        let armed = faults.arm_generation();
        assert!(armed.is_some() && !faults.is_quarantined());
        assert_eq!(faults.block(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.arm_generation(), faults.unblock(done)), (None, None));
        assert_eq!((faults.block(done), faults.unblock(done)), (Some(Ok(())), Some(Ok(()))));
        assert!(faults.arm_generation().is_some() && faults.arm_generation() != armed);
    }

    #[test]
    fn generation_is_read_after_the_end_of_the_operation_was_seen() {
        arch::fake::take();
        FaultState::default().arm_generation();
        assert_eq!(arch::fake::take(), [arch::fake::Instruction::Barrier("dmb_oshld")]);
    }

    #[test]
    fn rearm_counts_pending_events_before_it_attaches() {
        let faults = FaultState::default();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        let pending = || assert!(!faults.add(event(1)), "still quarantined");
        let attach = || if faults.total() == 2 { done() } else { Err(()) };
        faults.rearm(pending, attach).unwrap();
        assert_eq!((faults.count(), faults.is_pending()), (0, false));
    }

    #[test]
    fn device_is_quarantined_once_at_its_limit_and_rearmed_by_its_driver() {
        let faults = FaultState::default();
        faults.set_limit(3);
        assert_eq!(
            [faults.add(event(0)), faults.add(event(0)), faults.add(event(0)), faults.add(event(0))],
            [false, false, true, false]
        );
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!(faults.quarantine(done), None, "already quarantined");
        assert!(faults.is_quarantined() && !faults.add(event(0)));
        rearm(&faults, done).unwrap();
        assert_eq!((faults.is_quarantined(), faults.count()), (false, 0));
        assert_eq!(faults.quarantine(done), None, "below the limit");
    }

    #[test]
    fn device_that_overflows_the_event_queue_is_quarantined_below_its_limit() {
        let faults = FaultState::default();
        assert!(!faults.add(event(7)));
        assert_eq!([faults.quarantine_until(50), faults.quarantine_until(60)], [true, false]);
        assert_eq!((faults.quarantine(done), faults.first()), (Some(Ok(())), Some(event(7))));
        assert!(!faults.quarantine_until(70), "already quarantined");
        assert_eq!(faults.earliest_rearm(), 50);
    }

    #[test]
    fn failed_quarantine_is_retried_after_the_next_limit() {
        let faults = FaultState::default();
        faults.set_limit(2);
        assert!(!faults.add(event(0)) && faults.add(event(0)));
        assert_eq!(faults.quarantine(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.is_quarantined(), faults.count()), (true, 0));
        assert!(!faults.add(event(0)) && faults.add(event(0)));
        assert_eq!(faults.quarantine(done), Some(Ok(())));
    }

    #[test]
    fn first_fault_since_arming_is_kept() {
        let faults = FaultState::default();
        faults.set_limit(2);
        assert_eq!(faults.first(), None);
        assert!(!faults.add(event(1)) && faults.add(event(2)));
        assert_eq!((faults.first(), faults.quarantine(done)), (Some(event(1)), Some(Ok(()))));
        assert_eq!(faults.first(), Some(event(1)), "kept until the rearm");
        rearm(&faults, done).unwrap();
        assert_eq!(faults.first(), None);
        faults.add(event(3));
        assert_eq!(faults.first(), Some(event(3)));
    }

    #[test]
    fn block_and_quarantine_exclude_each_other() {
        let faults = FaultState::default();
        faults.set_limit(2);
        assert_eq!((faults.unblock(done), faults.add(event(0))), (None, false), "never blocked");
        assert_eq!((faults.block(done), faults.block(done)), (Some(Ok(())), None));
        assert!(faults.arm_generation().is_none() && !faults.is_quarantined());
        rearm(&faults, || -> Result<(), &str> { panic!("not quarantined") }).unwrap();
        assert_eq!((faults.unblock(done), faults.count()), (Some(Ok(())), 1));
        assert!(faults.add(event(0)), "second fault since arming");
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!((faults.block(done), faults.unblock(done)), (None, None));
        assert!(faults.is_quarantined());
        rearm(&faults, done).unwrap();
        assert_eq!((faults.count(), faults.total()), (0, 2));
    }

    #[test]
    fn failed_block_or_unblock_keeps_the_state() {
        let faults = FaultState::default();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.block(|| Err("no answer")), Some(Err("no answer")));
        assert!(faults.add(event(0)), "the next fault reaches the limit again");
        assert_eq!(faults.block(done), Some(Ok(())));
        assert_eq!(faults.quarantine(done), None, "already blocked");
        assert_eq!(faults.unblock(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.arm_generation(), faults.unblock(done)), (None, Some(Ok(()))));
    }

    #[test]
    fn failed_rearm_keeps_the_quarantine() {
        let faults = FaultState::default();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!(rearm(&faults, || Err("no answer")), Err("no answer"));
        assert!(faults.is_quarantined());
        assert_eq!(rearm(&faults, || Ok::<_, &str>(())), Ok(()));
        rearm(&faults, || -> Result<(), &str> { panic!("already armed") }).unwrap();
    }
}

/// Device, driver and quarantine thread in every interleaving (`cargo xtask loom`).
#[cfg(all(test, feature = "loom"))]
mod loom {
    use super::*;
    use ::loom::cell::UnsafeCell;
    use ::loom::sync::{Arc, Mutex};
    use ::loom::thread;

    /// The stream table entry: attached or not. Changed by one thread at a time, visible to the next.
    struct StreamEntry(UnsafeCell<bool>);

    struct SharedDevice {
        faults: FaultState,
        attached: StreamEntry,
    }

    impl StreamEntry {
        fn attach(&self, attached: bool) -> Result<(), ()> {
            // SAFETY: loom checks for concurrent access and for the visibility of the last change.
            self.0.with_mut(|now| assert_ne!(unsafe { now.replace(attached) }, attached, "no change"));
            Ok(())
        }
    }

    fn shared(limit: u64) -> Arc<SharedDevice> {
        let shared =
            SharedDevice { faults: FaultState::default(), attached: StreamEntry(UnsafeCell::new(true)) };
        shared.faults.set_limit(limit);
        Arc::new(shared)
    }

    impl SharedDevice {
        fn fault(&self) -> bool {
            self.faults.add(super::tests::event(0))
                && self.faults.quarantine(|| self.attached.attach(false)).is_some()
        }
        fn rearm(&self) {
            self.faults.rearm(|| {}, || self.attached.attach(true)).unwrap();
        }
        fn block(&self) -> bool {
            self.faults.block(|| self.attached.attach(false)).is_some()
        }
        fn unblock(&self) -> bool {
            self.faults.unblock(|| self.attached.attach(true)).is_some()
        }
        /// The stream table entry agrees with the state.
        fn check(&self) {
            let attached = self.attached.0.with(|now| {
                // SAFETY: all threads have ended.
                unsafe { *now }
            });
            assert_eq!(attached, self.faults.arm_generation().is_some());
        }
    }

    #[test]
    fn loom_concurrent_faults_quarantine_once() {
        ::loom::model(|| {
            let shared = shared(2);
            let other = shared.clone();
            let other = thread::spawn(move || other.fault());
            let here = shared.fault();
            assert!(here ^ other.join().unwrap(), "both or neither quarantined");
            assert!(shared.faults.is_quarantined());
            shared.check();
        });
    }

    #[test]
    fn loom_rearm_and_fault_agree_on_the_state() {
        ::loom::model(|| {
            let shared = shared(1);
            assert!(shared.fault());
            let other = shared.clone();
            let other = thread::spawn(move || other.fault());
            shared.rearm();
            let blocked = other.join().unwrap();
            assert_eq!(blocked, shared.faults.is_quarantined());
            shared.check();
        });
    }

    #[test]
    fn loom_block_and_quarantine_exclude_each_other() {
        ::loom::model(|| {
            let shared = shared(1);
            let other = shared.clone();
            let other = thread::spawn(move || other.fault());
            let blocked = shared.block();
            let unblocked = blocked && shared.unblock();
            let quarantined = other.join().unwrap();
            assert_eq!(blocked, unblocked, "only the driver ends its block");
            assert_eq!(quarantined, shared.faults.is_quarantined());
            shared.check();
        });
    }

    /// A driver compares the generation before and after a transaction, which the SMMU may abort.
    #[test]
    fn loom_generation_changes_with_every_aborted_transaction() {
        ::loom::model(|| {
            let faults = Arc::new(FaultState::default());
            faults.set_limit(1);
            // The entry as the SMMU uses it. A CMD_SYNC orders its change, the device's completion its use.
            let entry = Arc::new(AtomicU8::new(1));
            let other = (faults.clone(), entry.clone());
            let set = |entry: &AtomicU8, attached| {
                entry.store(attached, Release);
                Ok::<_, ()>(())
            };
            let other = thread::spawn(move || {
                let (faults, entry) = other;
                assert!(faults.add(super::tests::event(0)));
                faults.quarantine(|| set(&entry, 0)).unwrap().unwrap();
                faults.rearm(|| {}, || set(&entry, 1)).unwrap();
            });
            let before = faults.arm_generation();
            let aborted = entry.load(Acquire) == 0;
            let after = faults.arm_generation();
            assert!(!aborted || before.is_none() || before != after, "{before:?}, but aborted");
            other.join().unwrap();
            assert_eq!(faults.arm_generation(), Some(1));
        });
    }

    /// A thread that observes the quarantine after an overflow observes its minimum end.
    #[test]
    fn loom_quarantine_is_seen_with_its_earliest_rearm() {
        ::loom::model(|| {
            let faults = Arc::new(FaultState::default());
            let other = faults.clone();
            let other = thread::spawn(move || assert!(other.quarantine_until(50)));
            faults.quarantine(|| Ok::<_, ()>(()));
            if faults.is_quarantined() || faults.is_pending() {
                assert_eq!(faults.earliest_rearm(), 50);
            }
            other.join().unwrap();
        });
    }

    /// The event of an earlier transaction is still in the queue, which an interrupt handler drains
    /// meanwhile.
    #[test]
    fn loom_event_of_an_earlier_transaction_does_not_count_after_a_rearm() {
        ::loom::model(|| {
            let shared = shared(1);
            assert!(shared.fault());
            let queue = Arc::new(Mutex::new(1));
            let other = (shared.clone(), queue.clone());
            let drain = |shared: &SharedDevice, queue: &Mutex<u32>| {
                let mut events = queue.lock().unwrap();
                while *events > 0 {
                    *events -= 1;
                    shared.faults.add(super::tests::event(0));
                }
            };
            let other = thread::spawn(move || drain(&other.0, &other.1));
            let attach = || shared.attached.attach(true);
            shared.faults.rearm(|| drain(&shared, &queue), attach).unwrap();
            other.join().unwrap();
            assert_eq!((shared.faults.count(), shared.faults.arm_generation()), (0, Some(1)));
            shared.check();
        });
    }
}
