//! Processes: address space, file descriptors, threads, and termination.

use super::STACK_BYTES;
use super::signals::ProcessSignals;
use super::task::{self, Task};
use super::timers::Timers;
use super::tree::{self, ExitRecord};
use crate::debug::{self, FailPoint};
use crate::fs::context::FsContext;
use crate::fs::root::NodeRef;
use crate::fs::{FileTable, OpenFile};
use crate::memory::heap;
use crate::sched::{self, Mutex, Nanoseconds, Thread, WaitQueue};
use crate::sync::SpinLock;
use crate::vm::address_space::AddressSpace;
use abi::Errno;
use abi::process::*;
use abi::signal::{SA_NOCLDWAIT, SIG_IGN, Signal};
use addr::{AddrRange, UserVa};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use program::FdTable;

/// `RLIMIT_NOFILE`: enough to hold all of memory in small buffers.
pub const FILES_MAX: usize = 1 << 16;
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

/// The program of a process, as `/proc` reports it.
pub struct ProgramInfo {
    /// The auxiliary vector.
    pub auxiliary: Vec<u64>,
    /// The strings of the arguments and of the environment.
    pub arguments: AddrRange<UserVa>,
    pub environment: AddrRange<UserVa>,
    /// The first stack pointer.
    pub stack: UserVa,
    /// Its file.
    pub executable: NodeRef,
}

pub struct Process {
    id: u32,
    /// As in the tree of processes, which `getppid` need not lock.
    parent: AtomicU32,
    /// The address space of its threads; `None` once it is released.
    space: SpinLock<Option<Arc<AddressSpace>>>,
    pub files: FileTable,
    pub fs: FsContext,
    pub signals: SpinLock<ProcessSignals>,
    pub timers: SpinLock<Timers>,
    /// Its program; `None` once the process has released its resources.
    pub program: SpinLock<Option<Arc<ProgramInfo>>>,
    /// The time of its start.
    pub started: Nanoseconds,
    threads: SpinLock<Vec<Arc<Thread>>>,
    /// The CPU time of the threads that have exited. Changed with `threads` locked.
    exited_cpu_time: AtomicU64,
    /// The name of the thread that exited last.
    name: SpinLock<ThreadName>,
    /// The cause of the termination; the first one is kept.
    termination: SpinLock<Option<Termination>>,
    is_terminating: AtomicBool,
    /// A thread executes another program: all others must exit, and none is added. Changed with `threads`
    /// locked.
    is_executing: AtomicBool,
    /// A timer of CPU time is armed. Changed with `threads` locked.
    is_timed: AtomicBool,
    /// Stopped by a signal. Changed with `threads` locked.
    is_stopped: AtomicBool,
    /// Threads that wait until the process continues.
    continuations: WaitQueue,
    /// The thread that executes a program waits here for the exits of the others.
    thread_exits: WaitQueue,
    /// The process does not use the address space of its parent any more (`vfork`).
    has_own_space: AtomicBool,
    own_space_waiters: WaitQueue,
    /// Threads that wait for an exit of a child.
    pub child_exits: WaitQueue,
    /// All resources are released.
    is_released: AtomicBool,
    /// Threads that wait for the release.
    exit_waiters: WaitQueue,
}

impl Process {
    /// Creates a process without threads.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(space: Arc<AddressSpace>) -> Result<Arc<Self>, Errno> {
        let files = FdTable::new(debug::scaled(FILES_MAX as u64) as usize);
        Self::with(space, files, FsContext::default(), ProcessSignals::new()?)
    }

    fn with(
        space: Arc<AddressSpace>,
        files: FdTable<Arc<OpenFile>>,
        fs: FsContext,
        signals: ProcessSignals,
    ) -> Result<Arc<Self>, Errno> {
        let process = Self {
            id: task::next_id(),
            parent: AtomicU32::new(0),
            space: SpinLock::new(Some(space)),
            files: Mutex::new(files),
            fs,
            signals: SpinLock::new(signals),
            timers: SpinLock::new(Timers::default()),
            program: SpinLock::new(None),
            started: sched::time::now(),
            threads: SpinLock::new(Vec::new()),
            exited_cpu_time: AtomicU64::new(0),
            name: SpinLock::new(ThreadName::default()),
            termination: SpinLock::new(None),
            is_terminating: AtomicBool::new(false),
            is_executing: AtomicBool::new(false),
            is_timed: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            continuations: WaitQueue::new(),
            thread_exits: WaitQueue::new(),
            has_own_space: AtomicBool::new(false),
            own_space_waiters: WaitQueue::new(),
            child_exits: WaitQueue::new(),
            is_released: AtomicBool::new(false),
            exit_waiters: WaitQueue::new(),
        };
        heap::try_arc(process).ok_or(Errno::ENOMEM)
    }

    /// Creates a child without threads that runs in `space`: with the same files and signal actions.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn forked(&self, space: Arc<AddressSpace>, flags: CloneFlags) -> Result<Arc<Self>, Errno> {
        let files = self.files.lock().try_clone()?;
        let mut signals = ProcessSignals::new()?;
        signals.actions.copy_from_slice(&self.signals.lock().actions);
        if flags.contains(CloneFlags::CLEAR_SIGHAND) {
            signals.reset_handlers();
        }
        let child = Self::with(space, files, self.fs.copy()?, signals)?;
        let program = self.program.lock().clone();
        *child.program.lock() = program;
        Ok(child)
    }

    /// Releases a child that was not started.
    pub(super) fn abandon(&self) {
        let files = self.files.lock().take_all();
        files.for_each(drop);
        self.release_nodes();
        self.leave_space();
    }

    /// Drops the references to nodes, without a spin lock.
    fn release_nodes(&self) {
        self.fs.release();
        let program = self.program.lock().take();
        drop(program);
    }

    /// `getpid`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// `getppid`: 0 for a root of the tree.
    pub fn parent(&self) -> u32 {
        self.parent.load(Ordering::Relaxed)
    }

    /// Records the parent. Called with the tree of processes locked.
    pub(super) fn set_parent(self: &Arc<Self>, parent: u32) {
        self.parent.store(parent, Ordering::Relaxed);
    }

    /// Returns the address space of its threads; `None` once it is released.
    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().clone()
    }

    /// Adds a thread that does not run yet. Returns `false` if there are too many threads, the process is
    /// terminating, or there is no memory.
    pub fn add_thread(&self, thread: &Arc<Thread>) -> bool {
        let mut threads = self.threads.lock();
        let may = threads.len() < debug::scaled(THREADS_MAX as u64) as usize
            && !self.is_terminating()
            && !self.is_executing.load(Ordering::Relaxed);
        let has_room = || !debug::fail_point(FailPoint::Heap) && reserve_futexes(thread).is_ok();
        let added = may && has_room();
        if added {
            thread.set_timed(self.is_timed.load(Ordering::Relaxed));
            thread.set_stopped(self.is_stopped());
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

    /// Returns the limit of `resource` (`RLIMIT_*`); `None` for an unknown one.
    pub fn limit(&self, resource: u64) -> Option<RLimit> {
        Some(match resource {
            RLIMIT_STACK => RLimit { current: STACK_BYTES, maximum: STACK_BYTES },
            // No core files are written.
            RLIMIT_CORE => RLimit { current: 0, maximum: 0 },
            RLIMIT_NOFILE => {
                let (current, maximum) = self.files.lock().limits();
                RLimit { current: current as u64, maximum: maximum as u64 }
            }
            other if other < RLIM_NLIMITS => RLimit { current: RLIM_INFINITY, maximum: RLIM_INFINITY },
            _ => return None,
        })
    }

    /// Returns the name of the thread that exited last.
    pub fn last_name(&self) -> ThreadName {
        *self.name.lock()
    }

    /// Makes the threads compare the CPU time with that of the timers before they return to user space, or
    /// not.
    pub(super) fn set_timed(&self, is_timed: bool) {
        let threads = self.threads.lock();
        self.is_timed.store(is_timed, Ordering::Relaxed);
        threads.iter().for_each(|thread| thread.set_timed(is_timed));
    }

    /// Whether a signal has stopped the process.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Stops the threads before they return to user space, or lets them continue. Returns whether that is a
    /// change. A thread that waits in a system call is left there.
    pub(super) fn set_stopped(&self, is_stopped: bool) -> bool {
        let threads = self.threads.lock();
        let changes = self.is_stopped.swap(is_stopped, Ordering::Relaxed) != is_stopped;
        for thread in threads.iter().filter(|_| changes) {
            thread.set_stopped(is_stopped);
            // Also for the signals that arrived meanwhile.
            sched::notify(thread);
        }
        drop(threads);
        if changes && !is_stopped {
            self.continuations.wake_all();
        }
        changes
    }

    /// Waits while the process is stopped, or until it is terminated. Called by its running thread.
    pub(super) fn wait_while_stopped(&self) {
        // An error means that the caller exits.
        let _ = self.continuations.wait_until(None, || (!self.is_stopped()).then_some(()));
    }

    /// Calls `visit` with the threads.
    pub fn with_threads<R>(&self, visit: impl FnOnce(&[Arc<Thread>]) -> R) -> R {
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
        self.thread(id).map(|thread| sched::cpu_time(&thread))
    }

    /// Returns thread `id`.
    pub fn thread(&self, id: u32) -> Option<Arc<Thread>> {
        let has_id = |thread: &&Arc<Thread>| Task::of(thread).is_some_and(|task| task.id() == id);
        self.threads.lock().iter().find(has_id).cloned()
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
        if let Some(task) = Task::of(thread) {
            task.futexes().release();
        }
        self.thread_exits.wake_all();
        if left == 0 {
            *self.name.lock() = Task::of(thread).map(Task::name).unwrap_or_default();
            // The last thread's status is that of the process, unless it is already terminating.
            self.terminate(Termination::Exited(status));
            self.release();
        }
    }

    /// Ends all threads but `own`, the running one, which executes a program.
    ///
    /// # Errors
    /// `EINTR` if the process is being terminated, or another thread does the same.
    pub(super) fn end_other_threads(&self, own: &Arc<Thread>) -> Result<(), Errno> {
        {
            let threads = self.threads.lock();
            if self.is_executing.swap(true, Ordering::Relaxed) {
                return Err(Errno::EINTR);
            }
            threads.iter().filter(|other| !Arc::ptr_eq(other, own)).for_each(sched::interrupt);
        }
        let is_alone = || (self.threads.lock().len() == 1).then_some(());
        self.thread_exits.wait_until(None, is_alone).map_err(|_| Errno::EINTR)
    }

    /// Continues in `space` with `thread`, after the running thread, which is the only one. Returns the old
    /// address space.
    pub(super) fn replace_program(
        &self,
        space: Arc<AddressSpace>,
        thread: &Arc<Thread>,
    ) -> Option<Arc<AddressSpace>> {
        let mut threads = self.threads.lock();
        debug_assert!(threads.len() == 1, "{} threads", threads.len());
        thread.set_timed(self.is_timed.load(Ordering::Relaxed));
        thread.set_stopped(self.is_stopped());
        threads.push(thread.clone());
        self.is_executing.store(false, Ordering::Relaxed);
        drop(threads);
        if self.is_terminating() {
            // `terminate` may have missed it.
            sched::interrupt(thread);
        }
        self.signals.lock().reset_handlers();
        self.space.lock().replace(space)
    }

    /// Reserves memory for `thread`, which is one more than there are, so that
    /// [`replace_program`](Self::replace_program) does not allocate.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn reserve_thread(&self, thread: &Thread) -> Result<(), Errno> {
        self.threads.lock().try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        reserve_futexes(thread)
    }

    /// Records that the process has left the address space that it shared with its parent.
    pub(super) fn set_own_space(&self) {
        self.has_own_space.store(true, Ordering::Release);
        self.own_space_waiters.wake_all();
    }

    /// Waits until the process has left the address space of its parent, the caller (`vfork`), or the caller
    /// is being terminated.
    pub(super) fn wait_for_own_space(&self) {
        let has_own = || self.has_own_space.load(Ordering::Acquire).then_some(());
        // An error means that the caller exits.
        let _ = self.own_space_waiters.wait_until(None, has_own);
    }

    /// Whether exits of children are not to be waited for.
    pub(super) fn ignores_children(&self) -> bool {
        let action = self.signals.lock().actions[Signal::SIGCHLD.number()];
        action.handler == SIG_IGN || action.flags & SA_NOCLDWAIT != 0
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

    fn leave_space(&self) {
        let space = self.space.lock().take();
        space.iter().for_each(|space| space.leave());
        self.set_own_space();
    }

    fn release(&self) {
        // Files first: buffers are detached from devices before their mappings are removed.
        let files = self.files.lock().take_all();
        files.for_each(drop);
        self.release_nodes();
        // No alarm has a reference to the process afterwards.
        self.timers.lock().clear(self);
        self.leave_space();
        let termination = self.termination.lock().unwrap_or(Termination::Exited(0));
        let (cpu_time, started, name) = (self.cpu_time(), self.started, self.last_name());
        let record = ExitRecord { termination, cpu_time, started, name };
        tree::exit(self, record);
        self.is_released.store(true, Ordering::Release);
        self.exit_waiters.wake_all();
    }
}

/// Reserves memory for the waits of `thread`.
///
/// # Errors
/// `ENOMEM`.
fn reserve_futexes(thread: &Thread) -> Result<(), Errno> {
    Task::of(thread).map_or(Ok(()), |task| task.futexes().reserve().map_err(|_| Errno::ENOMEM))
}
