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
//! During a change of the stream table entry the state is "transitioning". A failed detach leads to armed, a
//! failed attach back to the previous state.

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

    pub fn is_quarantined(&self) -> bool {
        self.state.load(Acquire) == QUARANTINED
    }

    /// Returns the generation of the arming; `None` unless the device is armed. If it is the same before and
    /// after an operation, the SMMU aborted no transaction in between without an event.
    pub fn arm_generation(&self) -> Option<u64> {
        (self.state.load(Acquire) == ARMED).then(|| self.generation.load(Relaxed))
    }

    /// Returns whether the SMMU aborts the device's transactions, for either reason.
    pub fn is_detached(&self) -> bool {
        matches!(self.state.load(Acquire), QUARANTINED | BLOCKED)
    }

    /// Returns the earliest time of a rearm.
    pub fn earliest_rearm(&self) -> Nanoseconds {
        self.earliest_rearm.load(Relaxed)
    }

    /// Requests the quarantine of an armed device, regardless of its limit, until `until` at least. Returns
    /// whether this changed the state.
    pub fn quarantine_until(&self, until: Nanoseconds) -> bool {
        if self.state.load(Acquire) != ARMED {
            return false;
        }
        // Before the state that a reader of `earliest_rearm` waits for.
        self.earliest_rearm.store(until, Relaxed);
        self.change(ARMED, QUARANTINE_PENDING)
    }

    /// Counts a fault. Returns whether it reached the limit.
    pub fn add(&self, event: EventRecord) -> bool {
        self.total.fetch_add(1, Relaxed);
        let count = self.count();
        if count == 1 {
            *self.first.lock() = Some(event);
        }
        count >= self.limit.load(Relaxed) && self.change(ARMED, QUARANTINE_PENDING)
    }

    pub fn is_pending(&self) -> bool {
        self.state.load(Acquire) == QUARANTINE_PENDING
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    /// Runs `detach` if a quarantine is pending. After an error of `detach` the device is armed, and the next
    /// quarantine needs as many faults again. `None` if none was pending.
    pub fn quarantine<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        self.change(QUARANTINE_PENDING, TRANSITIONING).then(|| {
            let result = detach();
            self.settle(if result.is_ok() { QUARANTINED } else { ARMED });
            result
        })
    }

    fn settle(&self, state: u8) {
        if state == ARMED {
            self.total_when_armed.store(self.total(), Relaxed);
            *self.first.lock() = None;
        }
        self.enter(state);
    }

    /// Ends a transition.
    fn enter(&self, state: u8) {
        self.generation.fetch_add(u64::from(state == ARMED), Relaxed);
        self.state.store(state, Release);
    }

    /// Runs `detach` for a driver; a pending quarantine becomes a block. `None` if the device is blocked,
    /// quarantined or in a transition.
    pub fn block<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        (self.change(ARMED, TRANSITIONING) || self.change(QUARANTINE_PENDING, TRANSITIONING)).then(|| {
            let result = detach();
            self.enter(if result.is_ok() { BLOCKED } else { ARMED });
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

    /// Runs `attach` if the device is quarantined, and resets the fault count.
    pub fn rearm<E>(&self, attach: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if !self.change(QUARANTINED, TRANSITIONING) {
            return Ok(());
        }
        let result = attach();
        self.settle(if result.is_ok() { ARMED } else { QUARANTINED });
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
        faults.rearm(done).unwrap();
        assert!(faults.arm_generation().is_some() && faults.arm_generation() != before);
        let again = faults.arm_generation();
        assert_eq!((faults.block(done), faults.arm_generation()), (Some(Ok(())), None));
        assert_eq!(faults.unblock(done), Some(Ok(())));
        assert!(faults.arm_generation().is_some() && faults.arm_generation() != again);
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
        faults.rearm(done).unwrap();
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
        assert_eq!((faults.is_quarantined(), faults.count()), (false, 0));
        assert!(!faults.add(event(0)) && faults.add(event(0)));
    }

    #[test]
    fn first_fault_since_arming_is_kept() {
        let faults = FaultState::default();
        faults.set_limit(2);
        assert_eq!(faults.first(), None);
        assert!(!faults.add(event(1)) && faults.add(event(2)));
        assert_eq!((faults.first(), faults.quarantine(done)), (Some(event(1)), Some(Ok(()))));
        assert_eq!(faults.first(), Some(event(1)), "kept until the rearm");
        faults.rearm(done).unwrap();
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
        assert!(faults.is_detached() && !faults.is_quarantined());
        faults.rearm(|| -> Result<(), &str> { panic!("not quarantined") }).unwrap();
        assert_eq!((faults.unblock(done), faults.count()), (Some(Ok(())), 1));
        assert!(faults.add(event(0)), "second fault since arming");
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!((faults.block(done), faults.unblock(done)), (None, None));
        assert!(faults.is_quarantined());
        faults.rearm(done).unwrap();
        assert_eq!((faults.count(), faults.total()), (0, 2));
    }

    #[test]
    fn failed_block_or_unblock_keeps_the_state() {
        let faults = FaultState::default();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.block(|| Err("no answer")), Some(Err("no answer")));
        assert!(!faults.is_detached() && faults.add(event(0)), "the next fault reaches the limit again");
        assert_eq!(faults.block(done), Some(Ok(())));
        assert_eq!(faults.quarantine(done), None, "already blocked");
        assert_eq!(faults.unblock(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.is_detached(), faults.unblock(done)), (true, Some(Ok(()))));
    }

    #[test]
    fn failed_rearm_keeps_the_quarantine() {
        let faults = FaultState::default();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!(faults.rearm(|| Err("no answer")), Err("no answer"));
        assert!(faults.is_quarantined());
        assert_eq!(faults.rearm(|| Ok::<_, &str>(())), Ok(()));
        faults.rearm(|| -> Result<(), &str> { panic!("already armed") }).unwrap();
    }
}

/// Device, driver and quarantine thread in every interleaving (`cargo xtask loom`).
#[cfg(all(test, feature = "loom"))]
mod loom {
    use super::*;
    use ::loom::cell::UnsafeCell;
    use ::loom::sync::Arc;
    use ::loom::thread;

    /// The stream table entry: attached or not. Changed by one thread at a time, visible to the next.
    struct Stream(UnsafeCell<bool>);

    struct Shared {
        faults: FaultState,
        attached: Stream,
    }

    impl Stream {
        fn attach(&self, attached: bool) -> Result<(), ()> {
            // SAFETY: loom checks for concurrent access and for the visibility of the last change.
            self.0.with_mut(|now| assert_ne!(unsafe { now.replace(attached) }, attached, "no change"));
            Ok(())
        }
    }

    fn shared(limit: u64) -> Arc<Shared> {
        let shared = Shared { faults: FaultState::default(), attached: Stream(UnsafeCell::new(true)) };
        shared.faults.set_limit(limit);
        Arc::new(shared)
    }

    impl Shared {
        fn fault(&self) -> bool {
            self.faults.add(super::tests::event(0))
                && self.faults.quarantine(|| self.attached.attach(false)).is_some()
        }
        fn rearm(&self) {
            self.faults.rearm(|| self.attached.attach(true)).unwrap();
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
            assert_eq!(attached, !self.faults.is_detached());
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
}
