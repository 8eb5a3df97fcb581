//! Readiness of files: one mechanism for blocking operations, `ppoll`, `pselect6` and `epoll`.
//!
//! A file whose readiness changes keeps its state in a [`Watched`], together with its watchers, under one
//! lock. A change and its notification are one critical section, and a watcher registers before it reads the
//! state, so no wakeup is lost. Operations of a file never block: they return `EAGAIN`, and [`block_on`]
//! repeats them after notifications.
//!
//! # Locks
//!
//! A notification is made with the lock of the file held. It acquires the lock of an epoll instance, which
//! is itself a file, and that of the scheduler; it neither allocates nor frees, so interrupt handlers notify.

use super::OpenFile;
use super::epoll::Interest;
use crate::debug::{self, FailPoint};
use crate::sched::{self, Nanoseconds, Thread};
use crate::sync::SpinLock;
use abi::Errno;
use abi::file::{OpenFlags, PollEvents};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The maximum number of watchers of a file, which bounds the time of a notification.
const WATCHERS_MAX: usize = 1024;

/// A recipient of notifications.
pub trait Notified: Clone {
    fn is_same(&self, other: &Self) -> bool;
    /// Handles a change. Returns whether a sleeping thread is woken for one of `events`.
    fn notify(&self, events: PollEvents) -> bool;
    /// Whether only one of the watchers of this kind must be woken (`EPOLLEXCLUSIVE`).
    fn is_exclusive(&self) -> bool;
}

/// A watcher of a file.
#[derive(Clone)]
pub enum Watcher {
    /// A thread in a blocking operation, `ppoll`, `pselect6` or `epoll_pwait`. It evaluates its condition
    /// after every change.
    Thread(Arc<Thread>),
    /// The file in an epoll instance.
    Interest(Arc<Interest>),
}

impl Notified for Watcher {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Thread(this), Self::Thread(other)) => Arc::ptr_eq(this, other),
            (Self::Interest(this), Self::Interest(other)) => Arc::ptr_eq(this, other),
            _ => false,
        }
    }

    fn notify(&self, events: PollEvents) -> bool {
        match self {
            Self::Thread(thread) => {
                sched::unpark(thread);
                true
            }
            Self::Interest(interest) => interest.notify(events),
        }
    }

    fn is_exclusive(&self) -> bool {
        matches!(self, Self::Interest(interest) if interest.is_exclusive())
    }
}

/// The watchers of a file, each with the number of its registrations.
pub struct Watchers<W = Watcher>(Vec<(W, usize)>);

impl<W: Notified> Watchers<W> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// # Errors
    /// `ENOMEM`, also above [`WATCHERS_MAX`].
    fn add(&mut self, watcher: &W) -> Result<(), Errno> {
        if let Some((_, count)) = self.0.iter_mut().find(|(other, _)| other.is_same(watcher)) {
            *count += 1;
            return Ok(());
        }
        let has_room = self.0.len() < WATCHERS_MAX && !debug::fail_point(FailPoint::Heap);
        if !has_room || self.0.try_reserve(1).is_err() {
            return Err(Errno::ENOMEM);
        }
        self.0.push((watcher.clone(), 1));
        Ok(())
    }

    /// Returns the watcher after its last registration, to be dropped without the lock.
    fn remove(&mut self, watcher: &W) -> Option<W> {
        let at = self.0.iter().position(|(other, _)| other.is_same(watcher))?;
        self.0[at].1 -= 1;
        // In order: the exclusive watcher that registered first is woken first.
        (self.0[at].1 == 0).then(|| self.0.remove(at).0)
    }

    fn notify(&self, events: PollEvents) {
        let mut is_taken = false;
        for (watcher, _) in &self.0 {
            let is_exclusive = watcher.is_exclusive();
            if !(is_exclusive && is_taken) {
                is_taken |= watcher.notify(events) && is_exclusive;
            }
        }
    }
}

impl Watchers {
    /// Whether a thread waits.
    pub fn has_thread(&self) -> bool {
        self.0.iter().any(|(watcher, _)| matches!(watcher, Watcher::Thread(_)))
    }
}

/// A file whose readiness changes.
pub trait Watchable {
    /// Adds a watcher, which is notified of all later changes.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn watch(&self, watcher: &Watcher) -> Result<(), Errno>;
    /// Removes a watcher once.
    fn unwatch(&self, watcher: &Watcher);
    /// Returns a watcher that is an interest in `file`.
    fn interest_in(&self, file: &OpenFile) -> Option<Arc<Interest>>;
}

/// The state of a file and its watchers.
pub struct Watched<S>(SpinLock<(S, Watchers)>);

impl<S> Watched<S> {
    pub const fn new(state: S) -> Self {
        Self(SpinLock::new((state, Watchers::new())))
    }

    /// Reads or changes the state without a notification: no watcher waits for the change.
    pub fn with<R>(&self, access: impl FnOnce(&mut S) -> R) -> R {
        access(&mut self.0.lock().0)
    }

    /// Changes the state, and notifies the watchers of the events that `change` returns, if any.
    pub fn update<R>(&self, change: impl FnOnce(&mut S) -> (R, Option<PollEvents>)) -> R {
        let mut guard = self.0.lock();
        let (result, events) = change(&mut guard.0);
        if let Some(events) = events
            && !guard.1.0.is_empty()
        {
            guard.1.notify(events);
        }
        result
    }

    /// Like [`Watched::update`]; `change` sees the watchers.
    pub fn update_with<R>(&self, change: impl FnOnce(&mut S, &Watchers) -> (R, Option<PollEvents>)) -> R {
        let mut guard = self.0.lock();
        let (state, watchers) = &mut *guard;
        let (result, events) = change(state, watchers);
        if let Some(events) = events {
            watchers.notify(events);
        }
        result
    }
}

impl<S> Watchable for Watched<S> {
    fn watch(&self, watcher: &Watcher) -> Result<(), Errno> {
        self.0.lock().1.add(watcher)
    }

    fn unwatch(&self, watcher: &Watcher) {
        let removed = self.0.lock().1.remove(watcher);
        drop(removed);
    }

    fn interest_in(&self, file: &OpenFile) -> Option<Arc<Interest>> {
        let guard = self.0.lock();
        guard.1.0.iter().find_map(|(watcher, _)| match watcher {
            Watcher::Interest(interest) if interest.is_for(file) => Some(interest.clone()),
            _ => None,
        })
    }
}

/// A registration of the running thread, until it is dropped.
pub struct Watch<'a> {
    file: &'a dyn Watchable,
    thread: Watcher,
}

impl<'a> Watch<'a> {
    /// # Errors
    /// `ENOMEM`.
    pub fn new(file: &'a dyn Watchable, thread: &Arc<Thread>) -> Result<Self, Errno> {
        let thread = Watcher::Thread(thread.clone());
        file.watch(&thread)?;
        Ok(Self { file, thread })
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.file.unwatch(&self.thread);
    }
}

/// Sleeps until a notification or the deadline; may return early. All waits for files are here.
///
/// # Errors
/// `EINTR`.
pub fn sleep(deadline: Option<Nanoseconds>) -> Result<(), Errno> {
    if sched::current().is_signalled() {
        return Err(Errno::EINTR);
    }
    sched::park(deadline);
    Ok(())
}

/// Runs `attempt`, and repeats it after each notification of the file while it returns `EAGAIN`, unless the
/// file is `O_NONBLOCK`.
///
/// # Errors
/// Those of `attempt`, `EINTR`, `ENOMEM`.
#[inline]
pub fn block_on<R>(file: &OpenFile, mut attempt: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    match attempt() {
        Err(Errno::EAGAIN) if !file.flags().contains(OpenFlags::NONBLOCK) => wait(file, attempt),
        result => result,
    }
}

#[cold]
fn wait<R>(file: &OpenFile, mut attempt: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    let watched = file.file().watched().ok_or(Errno::EAGAIN)?;
    let _watch = Watch::new(watched, &sched::current())?;
    loop {
        match attempt() {
            Err(Errno::EAGAIN) => sleep(None)?,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::rc::Rc;
    use core::cell::RefCell;

    /// A watcher that records its notifications.
    #[derive(Clone)]
    struct NotificationRecorder {
        number: usize,
        is_exclusive: bool,
        is_waiting: bool,
        log: Rc<RefCell<Vec<usize>>>,
    }

    impl Notified for NotificationRecorder {
        fn is_same(&self, other: &Self) -> bool {
            self.number == other.number
        }
        fn notify(&self, _: PollEvents) -> bool {
            self.log.borrow_mut().push(self.number);
            self.is_waiting
        }
        fn is_exclusive(&self) -> bool {
            self.is_exclusive
        }
    }

    #[test]
    fn exclusive_watchers_are_notified_until_one_wakes_a_thread() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut watchers = Watchers::new();
        let kinds = [(true, false), (false, true), (true, true), (true, true), (false, true)];
        for (number, (is_exclusive, is_waiting)) in kinds.into_iter().enumerate() {
            watchers
                .add(&NotificationRecorder { number, is_exclusive, is_waiting, log: log.clone() })
                .unwrap();
        }
        watchers.notify(PollEvents::IN);
        assert_eq!(*log.borrow(), [0, 1, 2, 4]);
    }

    #[test]
    fn watcher_is_removed_after_as_many_removals_as_registrations() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let recorder =
            |number| NotificationRecorder { number, is_exclusive: false, is_waiting: true, log: log.clone() };
        let mut watchers = Watchers::new();
        for number in [1, 2, 1] {
            watchers.add(&recorder(number)).unwrap();
        }
        assert!(watchers.remove(&recorder(1)).is_none() && watchers.remove(&recorder(3)).is_none());
        watchers.notify(PollEvents::IN);
        assert_eq!(core::mem::take(&mut *log.borrow_mut()), [1, 2]);
        assert!(watchers.remove(&recorder(1)).is_some());
        watchers.notify(PollEvents::IN);
        assert_eq!(*log.borrow(), [2]);
    }

    #[test]
    fn number_of_watchers_is_limited() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let recorder =
            |number| NotificationRecorder { number, is_exclusive: false, is_waiting: true, log: log.clone() };
        let mut watchers = Watchers::new();
        for number in 0..WATCHERS_MAX {
            watchers.add(&recorder(number)).unwrap();
        }
        assert_eq!(watchers.add(&recorder(WATCHERS_MAX)), Err(Errno::ENOMEM));
        assert_eq!(watchers.add(&recorder(0)), Ok(()), "registered already");
    }

    /// The steps of `block_on`, each of which is one critical section.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum WaitStep {
        FirstAttempt,
        Watch,
        Attempt,
        Park,
        Parked,
        Unwatch,
        Done,
    }

    /// Threads of which each takes one unit of a counter, and a writer that adds them singly.
    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Model {
        counter: usize,
        to_write: usize,
        watchers: Vec<usize>,
        steps: Vec<WaitStep>,
        is_woken: Vec<bool>,
    }

    impl Model {
        fn take(&mut self) -> bool {
            let may = self.counter > 0;
            self.counter -= usize::from(may);
            may
        }

        fn unpark(&mut self, thread: usize) {
            match self.steps[thread] {
                WaitStep::Parked => self.steps[thread] = WaitStep::Attempt,
                _ => self.is_woken[thread] = true,
            }
        }

        /// Runs the next step of `thread`; the last one is the writer. `false` if it cannot run.
        fn run(&mut self, thread: usize) -> bool {
            if thread == self.steps.len() {
                if self.to_write == 0 {
                    return false;
                }
                self.to_write -= 1;
                self.counter += 1;
                self.watchers.clone().into_iter().for_each(|watcher| self.unpark(watcher));
                return true;
            }
            let step = self.steps[thread];
            self.steps[thread] = match step {
                WaitStep::FirstAttempt if self.take() => WaitStep::Done,
                WaitStep::FirstAttempt => WaitStep::Watch,
                WaitStep::Watch => {
                    self.watchers.push(thread);
                    WaitStep::Attempt
                }
                WaitStep::Attempt if self.take() => WaitStep::Unwatch,
                WaitStep::Attempt => WaitStep::Park,
                WaitStep::Park if core::mem::take(&mut self.is_woken[thread]) => WaitStep::Attempt,
                WaitStep::Park => WaitStep::Parked,
                WaitStep::Unwatch => {
                    self.watchers.retain(|&other| other != thread);
                    WaitStep::Done
                }
                WaitStep::Parked | WaitStep::Done => return false,
            };
            true
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn no_order_of_steps_loses_a_wakeup_of_a_file() {
        let readers = 3;
        let start = Model {
            counter: 0,
            to_write: readers,
            watchers: Vec::new(),
            steps: [WaitStep::FirstAttempt].repeat(readers),
            is_woken: [false].repeat(readers),
        };
        let (mut seen, mut open) = (BTreeSet::from([start.clone()]), Vec::from([start]));
        while let Some(state) = open.pop() {
            let mut can_run = false;
            for thread in 0..=readers {
                let mut next = state.clone();
                if next.run(thread) {
                    can_run = true;
                    if seen.insert(next.clone()) {
                        open.push(next);
                    }
                }
            }
            let is_done = state.steps.iter().all(|&step| step == WaitStep::Done);
            assert!(can_run || is_done, "a thread sleeps forever: {state:?}");
        }
        assert!(seen.len() > 1000, "{} states", seen.len());
    }
}
