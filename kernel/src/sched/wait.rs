//! Wait queues: blocking until an interrupt handler or another thread makes a condition true.

use super::run_queue::Nanoseconds;
use super::thread::Thread;
use crate::debug::{self, FailPoint};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The interval at which a thread evaluates its condition if there is no memory to queue it.
const POLL_INTERVAL_NS: Nanoseconds = 10_000_000;

/// Why a wait failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// The deadline passed.
    TimedOut,
    /// The process is being terminated, or an interruptible wait ended for a signal; the caller must unwind.
    Interrupted,
}

/// The threads that wait for an event. The waker, which may be an interrupt handler, first updates the state
/// that the condition reads, then calls [`WaitQueue::wake_all`].
pub struct WaitQueue(SpinLock<Vec<Arc<Thread>>>);

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self(SpinLock::new(Vec::new()))
    }

    /// Blocks until `condition` returns a value. It is evaluated immediately, and after every
    /// [`wake_all`](Self::wake_all). Called in a thread, with no lock held. Ends early only if the process is
    /// terminated, as a killable wait of Linux.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_until<R>(
        &self,
        deadline: Option<Nanoseconds>,
        condition: impl FnMut() -> Option<R>,
    ) -> Result<R, WaitError> {
        self.wait(deadline, condition, Thread::is_interrupted)
    }

    /// As [`wait_until`](Self::wait_until); a deliverable signal ends the wait too.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_interruptible<R>(
        &self,
        deadline: Option<Nanoseconds>,
        condition: impl FnMut() -> Option<R>,
    ) -> Result<R, WaitError> {
        self.wait(deadline, condition, Thread::is_signalled)
    }

    /// Blocks until `condition` returns true, also if the process is being terminated.
    pub fn wait_uninterruptible(&self, mut condition: impl FnMut() -> bool) {
        while self.wait(None, || condition().then_some(()), |_| false).is_err() {}
    }

    fn wait<R>(
        &self,
        deadline: Option<Nanoseconds>,
        mut condition: impl FnMut() -> Option<R>,
        must_end: impl Fn(&Thread) -> bool,
    ) -> Result<R, WaitError> {
        let thread = super::current();
        loop {
            // Queued before the condition is evaluated, against a lost wakeup: one in between makes `park`
            // return immediately.
            let is_queued = self.push(&thread);
            let found = condition();
            if found.is_none() && !must_end(&thread) {
                super::park(end_of_sleep(is_queued, deadline, super::time::now()));
            }
            self.remove(&thread);
            if let Some(found) = found.or_else(&mut condition) {
                return Ok(found);
            }
            if must_end(&thread) {
                return Err(WaitError::Interrupted);
            }
            if deadline.is_some_and(|deadline| super::time::now() >= deadline) {
                return Err(WaitError::TimedOut);
            }
        }
    }

    /// Wakes all waiting threads, which evaluate their conditions.
    pub fn wake_all(&self) {
        for thread in self.0.lock().iter() {
            super::unpark(thread);
        }
    }

    /// Wakes a waiting thread, which evaluates its condition before it can leave the queue.
    pub fn wake_one(&self) {
        if let Some(thread) = self.0.lock().first() {
            super::unpark(thread);
        }
    }

    /// Returns whether there is memory for another waiting thread.
    fn push(&self, thread: &Arc<Thread>) -> bool {
        let mut list = self.0.lock();
        let has_room = !debug::fail_point(FailPoint::Heap) && list.try_reserve(1).is_ok();
        if has_room {
            list.push(thread.clone());
        }
        has_room
    }

    fn remove(&self, thread: &Arc<Thread>) {
        let mut list = self.0.lock();
        if let Some(at) = list.iter().position(|other| Arc::ptr_eq(other, thread)) {
            list.swap_remove(at);
        }
    }
}

/// Returns the end of a thread's sleep. No waker finds one that is not queued: it polls its condition.
fn end_of_sleep(is_queued: bool, deadline: Option<Nanoseconds>, now: Nanoseconds) -> Option<Nanoseconds> {
    let next_poll = now.saturating_add(POLL_INTERVAL_NS);
    if is_queued { deadline } else { Some(deadline.map_or(next_poll, |deadline| deadline.min(next_poll))) }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_no_waker_finds_polls_its_condition() {
        let poll = POLL_INTERVAL_NS;
        for (is_queued, deadline, end) in [
            (true, None, None),
            (true, Some(9 * poll), Some(9 * poll)),
            (false, None, Some(2 * poll)),
            (false, Some(9 * poll), Some(2 * poll)),
            (false, Some(poll + 1), Some(poll + 1)),
        ] {
            assert_eq!(end_of_sleep(is_queued, deadline, poll), end, "{is_queued} {deadline:?}");
        }
    }
}
