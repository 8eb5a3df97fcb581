//! Processes: address space, file descriptors, threads, and termination.

use super::futex::Futexes;
use super::signals::ProcessSignals;
use super::task::{self, Task};
use super::timers::Timers;
use crate::debug::{self, FailPoint};
use crate::fs::FileTable;
use crate::fs::context::FsContext;
use crate::sched::{self, Mutex, Nanoseconds, Thread, WaitQueue};
use crate::sync::SpinLock;
use crate::vm::address_space::AddressSpace;
use abi::signal::Signal;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use program::FdTable;

/// `RLIMIT_NOFILE`: enough to hold all of memory in small buffers.
const FILES_MAX: usize = 1 << 16;
/// The maximum number of threads of a process.
pub const THREADS_MAX: usize = 512;

/// The cause of a process's termination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Termination {
    /// By `exit`, with this status.
    Exited(u8),
    /// By a signal.
    Killed(Signal),
}

impl fmt::Display for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// A process.
pub struct Process {
    id: u32,
    /// The address space of its threads; `None` once it is released.
    space: SpinLock<Option<Arc<AddressSpace>>>,
    pub files: FileTable,
    pub fs: FsContext,
    /// The threads that wait on futexes.
    pub futexes: Futexes,
    pub signals: SpinLock<ProcessSignals>,
    pub timers: SpinLock<Timers>,
    /// The auxiliary vector of its program.
    pub auxiliary: SpinLock<Option<Arc<Vec<u64>>>>,
    threads: SpinLock<Vec<Arc<Thread>>>,
    /// The CPU time of the threads that have exited. Changed with `threads` locked.
    exited_cpu_time: AtomicU64,
    /// The cause of the termination; the first one is kept.
    termination: SpinLock<Option<Termination>>,
    is_terminating: AtomicBool,
    /// All resources are released.
    is_released: AtomicBool,
    /// Threads that wait for the release.
    exit_waiters: WaitQueue,
}

/// The processes with at least one reference, for the memory audit.
static ALL: SpinLock<Vec<Weak<Process>>> = SpinLock::new(Vec::new());

/// Returns all processes with at least one reference, running or not.
pub fn all() -> Vec<Arc<Process>> {
    ALL.lock().iter().filter_map(Weak::upgrade).collect()
}

impl Process {
    /// Adds the process to the list of [`all`].
    pub(super) fn register(self: &Arc<Self>) {
        let mut all = ALL.lock();
        all.retain(|process| process.strong_count() > 0);
        all.push(Arc::downgrade(self));
    }

    /// Creates a process without threads.
    pub fn new(space: Arc<AddressSpace>) -> Self {
        Self {
            id: task::next_id(),
            space: SpinLock::new(Some(space)),
            files: Mutex::new(FdTable::new(debug::scaled(FILES_MAX as u64) as usize)),
            fs: FsContext::default(),
            futexes: Futexes::new(),
            signals: SpinLock::new(ProcessSignals::default()),
            timers: SpinLock::new(Timers::default()),
            auxiliary: SpinLock::new(None),
            threads: SpinLock::new(Vec::new()),
            exited_cpu_time: AtomicU64::new(0),
            termination: SpinLock::new(None),
            is_terminating: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            exit_waiters: WaitQueue::new(),
        }
    }

    /// `getpid`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns the address space of its threads; `None` once it is released.
    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().clone()
    }

    /// Adds a thread that does not run yet. Returns `false` if there are too many threads, the process is
    /// terminating, or there is no memory.
    pub fn add_thread(&self, thread: &Arc<Thread>) -> bool {
        let mut threads = self.threads.lock();
        let may = threads.len() < debug::scaled(THREADS_MAX as u64) as usize && !self.is_terminating();
        let has_room =
            || !debug::fail_point(FailPoint::Heap) && self.futexes.reserve(threads.len() + 1).is_ok();
        let added = may && has_room();
        if added {
            threads.push(thread.clone());
        }
        added
    }

    /// Whether the process is being terminated: its threads must exit.
    pub fn is_terminating(&self) -> bool {
        self.is_terminating.load(Ordering::Acquire)
    }

    /// Terminates the process: each thread exits before it would return to user space. Returns `false` if the
    /// process is already terminating for another cause.
    pub fn terminate(&self, cause: Termination) -> bool {
        let first = {
            let mut termination = self.termination.lock();
            let first = termination.is_none();
            termination.get_or_insert(cause);
            first
        };
        self.is_terminating.store(true, Ordering::Release);
        for thread in self.threads.lock().iter() {
            sched::interrupt(thread);
        }
        first
    }

    /// Calls `visit` with the threads.
    pub(super) fn with_threads<R>(&self, visit: impl FnOnce(&[Arc<Thread>]) -> R) -> R {
        visit(&self.threads.lock())
    }

    /// Returns the CPU time of all threads, also of those that have exited.
    pub fn cpu_time(&self) -> Nanoseconds {
        let threads = self.threads.lock();
        let running: Nanoseconds = threads.iter().map(|thread| sched::cpu_time(thread)).sum();
        self.exited_cpu_time.load(Ordering::Relaxed) + running
    }

    /// Returns the CPU time of thread `id`; `None` if there is no such thread.
    pub fn cpu_time_of(&self, id: u32) -> Option<Nanoseconds> {
        let threads = self.threads.lock();
        let thread = threads.iter().find(|thread| Task::of(thread).is_some_and(|task| task.id() == id))?;
        Some(sched::cpu_time(thread))
    }

    /// Removes a thread that exits with this status; it must not use the address space any more. The last one
    /// releases all resources.
    pub fn remove_thread(&self, thread: &Arc<Thread>, status: u8) {
        let left = {
            let mut threads = self.threads.lock();
            threads.retain(|other| !Arc::ptr_eq(other, thread));
            self.exited_cpu_time.fetch_add(sched::cpu_time(thread), Ordering::Relaxed);
            threads.len()
        };
        if left == 0 {
            // The last thread's status is that of the process, unless it is already terminating.
            self.terminate(Termination::Exited(status));
            self.release();
        }
    }

    /// Waits until the process has terminated and all its resources are released.
    pub fn wait(&self) -> Termination {
        loop {
            let terminated =
                || self.is_released.load(Ordering::Acquire).then(|| *self.termination.lock()).flatten();
            if let Ok(termination) = self.exit_waiters.wait_until(None, terminated) {
                return termination;
            }
        }
    }

    fn release(&self) {
        // Files first: buffers are detached from devices before their mappings are removed.
        let files = self.files.lock().take_all();
        files.for_each(drop);
        self.fs.release();
        // No alarm has a reference to the process afterwards.
        self.timers.lock().clear(self);
        let space = self.space.lock().take();
        space.iter().for_each(|space| space.leave());
        self.is_released.store(true, Ordering::Release);
        self.exit_waiters.wake_all();
    }
}
