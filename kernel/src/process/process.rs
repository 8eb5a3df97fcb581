//! A running program: its memory, its files, its threads, and how it ended.

use super::futex::Futexes;
use super::task::{self, Task};
use crate::debug::{self, FailPoint};
use crate::fs::{Caller, FileTable};
use crate::sched::{self, Thread, WaitQueue};
use crate::sync::SpinLock;
use crate::vm::address_space::AddressSpace;
use abi::signal::{SIGNALS, SigAction, Signal};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use program::FdTable;

/// `RLIMIT_NOFILE`: enough to hold all of memory in small buffers.
const FILES_MAX: usize = 1 << 16;
/// The most threads of one program.
pub const THREADS_MAX: usize = 512;

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// By itself, with this status (0 to 255).
    Exited(u8),
    /// By a fault, an abort or from outside.
    Killed(Signal),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// A program.
pub struct Process {
    id: u32,
    /// Its memory.
    pub space: AddressSpace,
    /// Its open files.
    pub files: FileTable,
    /// Its threads that sleep on words of its memory.
    pub futexes: Futexes,
    /// What it wants to be done with signals; recorded only.
    pub signals: SpinLock<[SigAction; SIGNALS]>,
    threads: SpinLock<Vec<Arc<Thread>>>,
    /// The first reason to end; set once.
    ending: SpinLock<Option<Ending>>,
    is_ending: AtomicBool,
    /// Everything is released.
    is_over: AtomicBool,
    over: WaitQueue,
}

/// All that have not been forgotten by everybody.
static ALL: SpinLock<Vec<Weak<Process>>> = SpinLock::new(Vec::new());

/// All programs that somebody still knows, running or not.
pub fn all() -> Vec<Arc<Process>> {
    ALL.lock().iter().filter_map(Weak::upgrade).collect()
}

impl Process {
    /// Puts it on the list of [`all`].
    pub(super) fn announce(self: &Arc<Self>) {
        let mut all = ALL.lock();
        all.retain(|process| process.strong_count() > 0);
        all.push(Arc::downgrade(self));
    }

    /// A program without threads yet.
    pub fn new(space: AddressSpace) -> Self {
        let action = SigAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
        Self {
            id: task::next_id(),
            space,
            files: SpinLock::new(FdTable::new(debug::scaled(FILES_MAX as u64) as usize)),
            futexes: Futexes::new(),
            signals: SpinLock::new([action; SIGNALS]),
            threads: SpinLock::new(Vec::new()),
            ending: SpinLock::new(None),
            is_ending: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            over: WaitQueue::new(),
        }
    }

    /// `getpid`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns the process as file operations know it. Only for one of its running threads.
    pub fn caller(&self) -> Caller<'_> {
        Caller { process_id: self.id, space: &self.space, files: &self.files }
    }

    /// Adds a thread that does not run yet. `false`: there are too many, the program is being ended, or there is no memory
    /// for what is known of it.
    pub fn add_thread(&self, thread: &Arc<Thread>) -> bool {
        let mut threads = self.threads.lock();
        let may = threads.len() < debug::scaled(THREADS_MAX as u64) as usize && !self.is_ending();
        let has_room =
            || !debug::fail_point(FailPoint::Heap) && self.futexes.make_room(threads.len() + 1).is_ok();
        let added = may && has_room();
        if added {
            threads.push(thread.clone());
        }
        added
    }

    /// Whether its threads should unwind and leave.
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Ends it: every thread leaves when it comes by. Only the first reason counts. `true`: this was it.
    pub fn end(&self, ending: Ending) -> bool {
        let first = {
            let mut reason = self.ending.lock();
            let first = reason.is_none();
            reason.get_or_insert(ending);
            first
        };
        self.is_ending.store(true, Ordering::Release);
        for thread in self.threads.lock().iter() {
            sched::unpark(thread);
        }
        first
    }

    /// Whether a thread of it has this number.
    pub fn has_thread(&self, id: u32) -> bool {
        self.threads.lock().iter().any(|thread| Task::of(thread).is_some_and(|task| task.id() == id))
    }

    /// A thread leaves for good, with this status; it sees the program's memory no more. The last one releases
    /// everything.
    pub fn remove_thread(&self, thread: &Arc<Thread>, status: u8) {
        let left = {
            let mut threads = self.threads.lock();
            threads.retain(|other| !Arc::ptr_eq(other, thread));
            threads.len()
        };
        if left == 0 {
            // The program ends as its last thread did, unless there was a reason before.
            self.end(Ending::Exited(status));
            self.release();
        }
    }

    /// Waits until it has ended and everything it held is released.
    pub fn wait(&self) -> Ending {
        loop {
            let over = || self.is_over.load(Ordering::Acquire).then(|| *self.ending.lock()).flatten();
            if let Ok(ending) = self.over.wait_until(None, over) {
                return ending;
            }
        }
    }

    fn release(&self) {
        // Devices let go of their buffers first, then the program's own mappings of them.
        let files = self.files.lock().take_all();
        files.for_each(drop);
        self.space.clear();
        self.is_over.store(true, Ordering::Release);
        self.over.wake_all();
    }
}
