//! Waiting for something that an interrupt handler or another thread brings about.

use super::run_queue::Nanoseconds;
use super::thread::Thread;
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// The deadline passed.
    TimedOut,
    /// The program is being ended: give up and unwind.
    Interrupted,
}

/// The threads that wait for one thing. Whoever brings it about first changes the state that the condition looks at,
/// then calls [`WaitQueue::wake_all`], which interrupt handlers may do.
pub struct WaitQueue(SpinLock<Vec<Arc<Thread>>>);

impl WaitQueue {
    /// Nobody.
    pub const fn new() -> Self {
        Self(SpinLock::new(Vec::new()))
    }

    /// Sleeps until `condition` gives a value: at once if it does now, else it is asked again after every
    /// [`wake_all`](Self::wake_all).
    ///
    /// # Errors
    /// See [`WaitError`]. Only in a thread, with no lock held.
    pub fn wait_until<R>(
        &self,
        deadline: Option<Nanoseconds>,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<R, WaitError> {
        let thread = super::current();
        loop {
            // First into the list, then the look: a wake between the two makes `park` return at once.
            self.0.lock().push(thread.clone());
            let found = condition();
            if found.is_none() && !thread.is_interrupted() {
                super::park(deadline);
            }
            self.leave(&thread);
            if let Some(found) = found.or_else(&mut condition) {
                return Ok(found);
            }
            if thread.is_interrupted() {
                return Err(WaitError::Interrupted);
            }
            if deadline.is_some_and(|deadline| super::time::now() >= deadline) {
                return Err(WaitError::TimedOut);
            }
        }
    }

    /// Lets all of them look at their condition.
    pub fn wake_all(&self) {
        for thread in self.0.lock().iter() {
            super::unpark(thread);
        }
    }

    fn leave(&self, thread: &Arc<Thread>) {
        let mut list = self.0.lock();
        if let Some(at) = list.iter().position(|other| Arc::ptr_eq(other, thread)) {
            list.swap_remove(at);
        }
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}
