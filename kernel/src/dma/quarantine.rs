//! What becomes of a device that does what it may not: its faults are counted, and at its limit the SMMU is told to
//! abort whatever it does, without another record, until its driver arms it again ([`Device::rearm`]).
//!
//! A device whose events leave no room in the event queue goes there at once, and stays for [`HOLD_NS`]: else nobody would
//! know of another one that faults at the same moments.
//!
//! An interrupt handler counts, and must not wait for the SMMU; so a thread does the blocking. The same thread says at
//! last how many events had no line of their own, if no other event does.

use super::device::Device;
use super::iommu::{self, Smmu};
use crate::sched::{self, Nanoseconds, WaitError, WaitQueue};
use crate::sync::SpinLock;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicU8, AtomicU64};
use addr::StreamId;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use smmu_spec::EventRecord;

/// Faults that a device may have before it is blocked, unless its driver says otherwise. Every transaction that an SMMU
/// aborts is one; QEMU makes one of every four bytes.
pub const DEFAULT_LIMIT: u64 = 4096;

/// How long a device stays that left no room for others' events: a second, in which one of them after the other can show
/// its first.
const HOLD_NS: u64 = 1_000_000_000;

/// A device may do DMA.
const ARMED: u8 = 0;
/// Its limit is reached; the thread has not come to it yet.
const WANTED: u8 = 1;
/// Somebody changes what the SMMU does with it.
const CHANGING: u8 = 2;
/// The SMMU aborts what it does, because of its faults.
const QUARANTINED: u8 = 3;
/// The SMMU aborts what it does, because its driver wants that.
const BLOCKED: u8 = 4;

/// The faults of one device.
pub(super) struct Faults {
    /// All there ever were.
    total: AtomicU64,
    /// How many of them there were when it was armed.
    before: AtomicU64,
    limit: AtomicU64,
    state: AtomicU8,
    /// It is not armed again before.
    held_until: AtomicU64,
    /// How often it was armed again.
    armings: AtomicU64,
    /// The first since it was armed.
    first: SpinLock<Option<EventRecord>>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            before: AtomicU64::new(0),
            limit: AtomicU64::new(DEFAULT_LIMIT),
            state: AtomicU8::new(ARMED),
            held_until: AtomicU64::new(0),
            armings: AtomicU64::new(0),
            first: SpinLock::new(None),
        }
    }

    /// How many there ever were.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// The first since the device was armed.
    pub(super) fn first(&self) -> Option<EventRecord> {
        *self.first.lock()
    }

    /// How many there were since the device was armed.
    pub(super) fn count(&self) -> u64 {
        self.total().saturating_sub(self.before.load(Relaxed))
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit.max(1), Relaxed);
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.state.load(Acquire) == QUARANTINED
    }

    /// Which time it is that the device is armed; `None` while it is not, or is about not to be. Where this is the same
    /// before and after, the SMMU aborted nothing in between without an event.
    pub(super) fn armed(&self) -> Option<u64> {
        (self.state.load(Acquire) == ARMED).then(|| self.armings.load(Relaxed))
    }

    /// Whether the SMMU aborts what the device does, for whatever reason.
    pub(super) fn is_detached(&self) -> bool {
        matches!(self.state.load(Acquire), QUARANTINED | BLOCKED)
    }

    /// When it may be armed again.
    pub(super) fn held_until(&self) -> Nanoseconds {
        self.held_until.load(Relaxed)
    }

    /// Goes too far, however few its faults are, until `until` at least. Whether that is new.
    fn hold(&self, until: Nanoseconds) -> bool {
        if self.state.load(Acquire) != ARMED {
            return false;
        }
        // Before anybody can come to what is wanted.
        self.held_until.store(until, Relaxed);
        self.change(ARMED, WANTED)
    }

    /// Notes a fault; whether it is the one that goes too far.
    fn add(&self, event: EventRecord) -> bool {
        self.total.fetch_add(1, Relaxed);
        let count = self.count();
        if count == 1 {
            *self.first.lock() = Some(event);
        }
        count >= self.limit.load(Relaxed) && self.change(ARMED, WANTED)
    }

    fn is_wanted(&self) -> bool {
        self.state.load(Acquire) == WANTED
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    /// Runs `block` if the limit is reached. If that succeeds the device is in quarantine; if not, it is tried again after
    /// as many faults.
    pub(super) fn quarantine<E>(&self, block: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        self.change(WANTED, CHANGING).then(|| {
            let result = block();
            self.settle(if result.is_ok() { QUARANTINED } else { ARMED });
            result
        })
    }

    fn settle(&self, state: u8) {
        if state == ARMED {
            self.before.store(self.total(), Relaxed);
            *self.first.lock() = None;
        }
        self.enter(state);
    }

    /// Ends a change.
    fn enter(&self, state: u8) {
        self.armings.fetch_add(u64::from(state == ARMED), Relaxed);
        self.state.store(state, Release);
    }

    /// Runs `detach` for a driver. `None` if the device is blocked, or just about to be.
    pub(super) fn block<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        // What was to be blocked for its faults is blocked all the same.
        (self.change(ARMED, CHANGING) || self.change(WANTED, CHANGING)).then(|| {
            let result = detach();
            self.enter(if result.is_ok() { BLOCKED } else { ARMED });
            result
        })
    }

    /// Runs `attach` for a driver that blocked the device; the count of its faults goes on. `None` if no driver did.
    pub(super) fn unblock<E>(&self, attach: impl FnOnce() -> Result<(), E>) -> Option<Result<(), E>> {
        self.change(BLOCKED, CHANGING).then(|| {
            let result = attach();
            self.enter(if result.is_ok() { ARMED } else { BLOCKED });
            result
        })
    }

    /// Runs `unblock` if the device is in quarantine; if that succeeds it counts from 0.
    pub(super) fn rearm<E>(&self, unblock: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if !self.change(QUARANTINED, CHANGING) {
            return Ok(());
        }
        let result = unblock();
        self.settle(if result.is_ok() { ARMED } else { QUARANTINED });
        result
    }
}

/// A device whose stream's events are its faults.
struct Watched {
    smmu: &'static Smmu,
    stream: StreamId,
    faults: Arc<Faults>,
    device: Weak<Device>,
}

/// Where the device is among those in the list, or would be: there may be thousands, and a handler looks for one.
fn find(list: &[Watched], smmu: &Smmu, stream: StreamId) -> Result<usize, usize> {
    let key = (core::ptr::from_ref(smmu).addr(), stream);
    list.binary_search_by_key(&key, |watched| (core::ptr::from_ref(watched.smmu).addr(), watched.stream))
}

/// In the order of SMMUs and streams. Taken by interrupt handlers too.
static WATCHED: SpinLock<Vec<Watched>> = SpinLock::new(Vec::new());
/// The thread.
static WAITING: WaitQueue = WaitQueue::new();
/// Events were left out, and their number may not have been told.
static UNTOLD: AtomicBool = AtomicBool::new(false);
/// When it is: the window in which a stream has a few lines is over then ([`drivers::rate_limiter::WINDOW_US`]).
const TELLING_NS: u64 = (drivers::rate_limiter::WINDOW_US + 100_000) * 1000;

/// Counts the faults of `device` from now on.
pub(super) fn watch(smmu: &'static Smmu, stream: StreamId, faults: Arc<Faults>, device: Weak<Device>) {
    let mut watched = WATCHED.lock();
    let at = find(&watched, smmu, stream).unwrap_or_else(|at| at);
    watched.insert(at, Watched { smmu, stream, faults, device });
}

/// Stops counting for a stream.
pub(super) fn forget(smmu: &Smmu, stream: StreamId) {
    let mut watched = WATCHED.lock();
    if let Ok(at) = find(&watched, smmu, stream) {
        watched.remove(at);
    }
}

/// Notes a fault. For interrupt handlers.
pub(super) fn note(smmu: &Smmu, event: EventRecord) {
    let too_far = {
        let watched = WATCHED.lock();
        find(&watched, smmu, event.stream).is_ok_and(|at| watched[at].faults.add(event))
    };
    if too_far {
        WAITING.wake_all();
    }
}

/// The events of `stream` left no room for others, which are lost. For interrupt handlers.
pub(super) fn hold(smmu: &Smmu, stream: StreamId) {
    let wanted = {
        let watched = WATCHED.lock();
        let until = sched::time::now() + HOLD_NS;
        find(&watched, smmu, stream).is_ok_and(|at| watched[at].faults.hold(until))
    };
    if wanted {
        WAITING.wake_all();
    }
}

/// An event had no line of its own: how many did is told a while later. For interrupt handlers.
pub(super) fn tell_later() {
    if !UNTOLD.swap(true, Relaxed) {
        WAITING.wake_all();
    }
}

/// Starts the thread that puts devices into quarantine.
///
/// # Errors
/// There is no memory for a thread.
pub fn start() -> Result<(), sched::OutOfMemory> {
    sched::spawn("quarantine", || {
        loop {
            match wait() {
                Some(device) => device.quarantine(),
                None => tell(),
            }
        }
    })
    .map(|_| ())
}

/// Waits for a device whose limit is reached, or, if events were left out, for the end of the time in which they are.
fn wait() -> Option<Arc<Device>> {
    loop {
        let until = UNTOLD.load(Relaxed).then(|| sched::time::now() + TELLING_NS);
        let changed =
            || next().map(Some).or_else(|| (until.is_none() && UNTOLD.load(Relaxed)).then_some(None));
        match WAITING.wait_until(until, changed) {
            Ok(Some(device)) => return Some(device),
            Err(WaitError::TimedOut) => return None,
            Ok(None) | Err(WaitError::Interrupted) => {}
        }
    }
}

/// Says how many events were left out: looking into the queues does.
fn tell() {
    UNTOLD.store(false, Relaxed);
    iommu::all().iter().for_each(|smmu| smmu.service());
}

/// A device whose limit is reached.
fn next() -> Option<Arc<Device>> {
    let watched = WATCHED.lock();
    watched.iter().filter(|watched| watched.faults.is_wanted()).find_map(|watched| watched.device.upgrade())
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
    fn whoever_is_not_armed_throughout_may_have_been_aborted() {
        let faults = Faults::new();
        faults.set_limit(1);
        let before = faults.armed();
        assert!(before.is_some() && faults.armed() == before);
        assert!(faults.add(event(0)));
        assert_eq!(faults.armed(), None, "about to be blocked");
        faults.quarantine(|| {
            assert_eq!(faults.armed(), None, "the SMMU may abort already");
            done()
        });
        assert_eq!(faults.armed(), None);
        faults.rearm(done).unwrap();
        assert!(faults.armed().is_some() && faults.armed() != before);
        let again = faults.armed();
        assert_eq!((faults.block(done), faults.armed()), (Some(Ok(())), None));
        assert_eq!(faults.unblock(done), Some(Ok(())));
        assert!(faults.armed().is_some() && faults.armed() != again);
    }

    #[test]
    fn a_device_is_blocked_once_at_its_limit_and_armed_again_by_its_driver() {
        let faults = Faults::new();
        faults.set_limit(3);
        assert_eq!(
            [faults.add(event(0)), faults.add(event(0)), faults.add(event(0)), faults.add(event(0))],
            [false, false, true, false]
        );
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!(faults.quarantine(done), None, "it is done already");
        assert!(faults.is_quarantined() && !faults.add(event(0)));
        faults.rearm(done).unwrap();
        assert_eq!((faults.is_quarantined(), faults.count()), (false, 0));
        assert_eq!(faults.quarantine(done), None, "below its limit");
    }

    #[test]
    fn a_device_that_leaves_no_room_for_others_is_blocked_with_its_first_fault() {
        let faults = Faults::new();
        assert!(!faults.add(event(7)));
        assert_eq!([faults.hold(50), faults.hold(60)], [true, false]);
        assert_eq!((faults.quarantine(done), faults.first()), (Some(Ok(())), Some(event(7))));
        assert!(!faults.hold(70), "it does nothing any more");
        assert_eq!(faults.held_until(), 50);
    }

    #[test]
    fn a_device_that_cannot_be_blocked_is_tried_again() {
        let faults = Faults::new();
        faults.set_limit(2);
        assert!(!faults.add(event(0)) && faults.add(event(0)));
        assert_eq!(faults.quarantine(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.is_quarantined(), faults.count()), (false, 0));
        assert!(!faults.add(event(0)) && faults.add(event(0)));
    }

    #[test]
    fn the_first_fault_since_it_was_armed_is_kept() {
        let faults = Faults::new();
        faults.set_limit(2);
        assert_eq!(faults.first(), None);
        assert!(!faults.add(event(1)) && faults.add(event(2)));
        assert_eq!((faults.first(), faults.quarantine(done)), (Some(event(1)), Some(Ok(()))));
        assert_eq!(faults.first(), Some(event(1)), "whoever blocks it may tell");
        faults.rearm(done).unwrap();
        assert_eq!(faults.first(), None);
        faults.add(event(3));
        assert_eq!(faults.first(), Some(event(3)));
    }

    #[test]
    fn what_a_driver_blocks_is_no_quarantine_and_the_other_way_round() {
        let faults = Faults::new();
        faults.set_limit(2);
        assert_eq!((faults.unblock(done), faults.add(event(0))), (None, false), "it was never blocked");
        assert_eq!((faults.block(done), faults.block(done)), (Some(Ok(())), None));
        assert!(faults.is_detached() && !faults.is_quarantined());
        faults.rearm(|| -> Result<(), &str> { panic!("it is in no quarantine") }).unwrap();
        assert_eq!((faults.unblock(done), faults.count()), (Some(Ok(())), 1));
        assert!(faults.add(event(0)), "the second since it was armed");
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!((faults.block(done), faults.unblock(done)), (None, None));
        assert!(faults.is_quarantined());
        faults.rearm(done).unwrap();
        assert_eq!((faults.count(), faults.total()), (0, 2));
    }

    #[test]
    fn what_cannot_be_blocked_or_unblocked_stays_as_it_is() {
        let faults = Faults::new();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.block(|| Err("no answer")), Some(Err("no answer")));
        assert!(!faults.is_detached() && faults.add(event(0)), "the next fault is too many again");
        assert_eq!(faults.block(done), Some(Ok(())));
        assert_eq!(faults.quarantine(done), None, "it is blocked already");
        assert_eq!(faults.unblock(|| Err("no answer")), Some(Err("no answer")));
        assert_eq!((faults.is_detached(), faults.unblock(done)), (true, Some(Ok(()))));
    }

    #[test]
    fn a_device_that_cannot_be_armed_stays_in_quarantine() {
        let faults = Faults::new();
        faults.set_limit(1);
        assert!(faults.add(event(0)));
        assert_eq!(faults.quarantine(done), Some(Ok(())));
        assert_eq!(faults.rearm(|| Err("no answer")), Err("no answer"));
        assert!(faults.is_quarantined());
        assert_eq!(faults.rearm(|| Ok::<_, &str>(())), Ok(()));
        faults.rearm(|| -> Result<(), &str> { panic!("it is armed already") }).unwrap();
    }
}

/// Device, driver and the quarantine's thread, in every order (`cargo xtask loom`).
#[cfg(all(test, feature = "loom"))]
mod loom {
    use super::*;
    use ::loom::cell::UnsafeCell;
    use ::loom::sync::Arc;
    use ::loom::thread;

    /// What the SMMU does with a device, which one CPU changes at a time and the next one finds as it was left.
    struct Stream(UnsafeCell<bool>);

    struct Shared {
        faults: Faults,
        attached: Stream,
    }

    impl Stream {
        fn attach(&self, attached: bool) -> Result<(), ()> {
            // SAFETY: loom checks that nobody else is here, and that what the last one did is seen.
            self.0.with_mut(|now| assert_ne!(unsafe { now.replace(attached) }, attached, "it is so already"));
            Ok(())
        }
    }

    fn shared(limit: u64) -> Arc<Shared> {
        let shared = Shared { faults: Faults::new(), attached: Stream(UnsafeCell::new(true)) };
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
        /// What the SMMU does is what the state says.
        fn check(&self) {
            let attached = self.attached.0.with(|now| {
                // SAFETY: all threads have ended.
                unsafe { *now }
            });
            assert_eq!(attached, !self.faults.is_detached());
        }
    }

    #[test]
    fn loom_the_fault_that_goes_too_far_blocks_once() {
        ::loom::model(|| {
            let shared = shared(2);
            let other = shared.clone();
            let other = thread::spawn(move || other.fault());
            let here = shared.fault();
            assert!(here ^ other.join().unwrap(), "one of two is one too many");
            assert!(shared.faults.is_quarantined());
            shared.check();
        });
    }

    #[test]
    fn loom_a_driver_that_arms_it_and_a_device_that_faults_agree() {
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
    fn loom_a_driver_that_blocks_it_and_the_quarantine_do_not_both() {
        ::loom::model(|| {
            let shared = shared(1);
            let other = shared.clone();
            let other = thread::spawn(move || other.fault());
            let blocked = shared.block();
            let unblocked = blocked && shared.unblock();
            let quarantined = other.join().unwrap();
            assert_eq!(blocked, unblocked, "only its driver ends what its driver began");
            assert_eq!(quarantined, shared.faults.is_quarantined());
            shared.check();
        });
    }
}
