//! The host's log: what the functions of this crate were asked, in order, one log per thread.

use std::cell::RefCell;
use std::vec::Vec;

/// One thing that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A barrier, by the name of its function.
    Barrier(&'static str),
}

std::thread_local! {
    static LOG: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// Appends to this thread's log.
pub fn record(event: Event) {
    LOG.with_borrow_mut(|log| log.push(event));
}

/// Takes this thread's log, leaving it empty.
pub fn take() -> Vec<Event> {
    LOG.take()
}
