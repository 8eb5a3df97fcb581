//! The user-space state of a thread.

use super::futex::Futexes;
use super::process::Process;
use super::signals;
use crate::fs::Caller;
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sched::{self, Thread, UserThread};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use crate::vm::address_space::AddressSpace;
use abi::process::{SCHED_RESET_ON_FORK, ThreadName};
use abi::signal::{SignalSet, StackT, blockable};
use addr::UserVa;
use alloc::sync::Arc;
use arch::context::FpState;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use program::{FutexMemory, PendingSignals};

/// The next process or thread id; both share a number space.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// The task whose registers each CPU has. Set at each context switch to a thread of a process; read by
/// exceptions from EL0 only, which no kernel thread takes.
static CURRENT: PerCpu<AtomicPtr<Task>> =
    PerCpu::new([const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS]);

/// Returns an unused process or thread id.
pub fn next_id() -> u32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Returns the last id that was used.
pub fn last_id() -> u32 {
    NEXT_ID.load(Ordering::Relaxed) - 1
}

/// A scheduling policy (`SCHED_*`) and its priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SchedulingPolicy {
    pub policy: u32,
    pub priority: u32,
}

/// The user-space state of a thread of a process.
pub struct Task {
    id: u32,
    process: Arc<Process>,
    space: Arc<AddressSpace>,
    /// The threads that wait on futexes in the address space.
    futexes: Arc<Futexes>,
    /// Locks with priority inheritance were passed on: the thread exits. Changed with the waiters locked.
    owns_no_futexes: AtomicBool,
    registers: SpinLock<TaskRegisters>,
    /// The address that is zeroed, and whose futex is woken, on exit (`set_tid_address`), or 0.
    clear_tid: AtomicU64,
    /// The head of the list of robust futexes (`set_robust_list`), or 0.
    robust_list: AtomicU64,
    exit_status: AtomicU8,
    /// The signals that were sent to the thread.
    pub(super) pending: SpinLock<PendingSignals>,
    signal_mask: AtomicU64,
    /// The signals that `rt_sigtimedwait` waits for.
    awaited_signals: AtomicU64,
    /// The mask before `rt_sigsuspend`, which is that of the thread again after a handler.
    suspended_mask: SpinLock<Option<SignalSet>>,
    pub signal_stack: SpinLock<StackT>,
    name: SpinLock<ThreadName>,
    policy: SpinLock<SchedulingPolicy>,
    /// The thread that continues the process in another program, after this one has exited (`execve`).
    successor: SpinLock<Option<Arc<Thread>>>,
}

/// The registers outside of the trap frame.
struct TaskRegisters {
    fp: FpState,
    thread_pointer: UserVa,
}

impl Task {
    /// Creates thread `id` of `process`, which runs in `space`, to which `futexes` belong, and whose TLS is
    /// at `thread_pointer`.
    pub fn new(
        id: u32,
        process: Arc<Process>,
        (space, futexes): (Arc<AddressSpace>, Arc<Futexes>),
        thread_pointer: UserVa,
    ) -> Self {
        Self {
            id,
            process,
            space,
            futexes,
            owns_no_futexes: AtomicBool::new(false),
            registers: SpinLock::new(TaskRegisters { fp: FpState::new(), thread_pointer }),
            clear_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            exit_status: AtomicU8::new(0),
            pending: SpinLock::new(PendingSignals::default()),
            signal_mask: AtomicU64::new(0),
            awaited_signals: AtomicU64::new(0),
            suspended_mask: SpinLock::new(None),
            signal_stack: SpinLock::new(StackT::default()),
            name: SpinLock::new(ThreadName::default()),
            policy: SpinLock::new(SchedulingPolicy::default()),
            successor: SpinLock::new(None),
        }
    }

    /// Copies the FP state, the signal mask, the name and the scheduling policy of the running thread,
    /// `parent`, which creates this one.
    pub fn inherit(&self, parent: &Self) {
        self.registers.lock().fp.save();
        self.inherit_mask(parent);
        self.set_name(parent.name());
        let policy = parent.scheduling_policy();
        if policy.policy & SCHED_RESET_ON_FORK == 0 {
            self.set_scheduling_policy(policy);
        }
    }

    /// Returns the scheduling policy that the program has set.
    pub fn scheduling_policy(&self) -> SchedulingPolicy {
        *self.policy.lock()
    }

    /// Records a scheduling policy, which has no effect.
    pub fn set_scheduling_policy(&self, policy: SchedulingPolicy) {
        *self.policy.lock() = policy;
    }

    /// Returns the name: that of the program's file until the program sets another.
    pub fn name(&self) -> ThreadName {
        *self.name.lock()
    }

    /// Sets the name, which must end with a zero.
    pub fn set_name(&self, name: ThreadName) {
        *self.name.lock() = name;
    }

    /// Copies the signal mask of `other`.
    pub(super) fn inherit_mask(&self, other: &Self) {
        self.signal_mask.store(other.signal_mask().bits(), Ordering::Relaxed);
    }

    /// Moves the pending signals to `thread`, which continues after this one and looks for signals first.
    pub(super) fn move_pending_signals(&self, thread: &Arc<Thread>) {
        if let Some(task) = Self::of(thread) {
            let pending = core::mem::take(&mut *self.pending.lock());
            *task.pending.lock() = pending;
            sched::notify(thread);
        }
    }

    /// Calls `handle` with the task of the running thread, which has entered the kernel from user space.
    #[inline]
    pub fn with_current<R>(handle: impl FnOnce(&Self) -> R) -> R {
        let current = CURRENT.this().load(Ordering::Relaxed);
        // SAFETY: the thread that runs this owns the task and ends after it. Null is a defect of the
        // scheduler.
        handle(unsafe { current.as_ref() }.expect("an exception from EL0 in a kernel thread"))
    }

    /// Returns the task of `thread`; `None` for a kernel thread.
    pub fn of(thread: &Thread) -> Option<&Self> {
        let user: &dyn Any = thread.user()?;
        user.downcast_ref()
    }

    /// `gettid`.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Returns the address space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Returns the waiters on futexes in the address space.
    pub fn futexes(&self) -> &Arc<Futexes> {
        &self.futexes
    }

    /// Whether the thread cannot own locks with priority inheritance any more.
    pub(super) fn owns_no_futexes(&self) -> bool {
        self.owns_no_futexes.load(Ordering::Relaxed)
    }

    /// Sets that the thread cannot own locks with priority inheritance any more.
    pub(super) fn set_owns_no_futexes(&self) {
        self.owns_no_futexes.store(true, Ordering::Relaxed);
    }

    /// Returns the running thread as the caller of file operations.
    pub fn caller(&self) -> Caller<'_> {
        Caller { process_id: self.process.id(), space: &self.space, files: &self.process.files }
    }

    pub fn signal_mask(&self) -> SignalSet {
        SignalSet::from_bits(self.signal_mask.load(Ordering::Relaxed))
    }

    /// Sets the signal mask of the running thread, which looks for signals that it no longer blocks.
    pub fn set_signal_mask(&self, mask: SignalSet) {
        self.change_mask(|task| task.signal_mask.store(blockable(mask.bits()), Ordering::Relaxed));
    }

    /// Returns the signals that the thread waits for, though it may block them.
    pub fn awaited_signals(&self) -> SignalSet {
        SignalSet::from_bits(self.awaited_signals.load(Ordering::Relaxed))
    }

    /// Sets the signals that the running thread waits for.
    pub fn await_signals(&self, set: SignalSet) {
        self.change_mask(|task| task.awaited_signals.store(set.bits(), Ordering::Relaxed));
    }

    fn change_mask(&self, change: impl FnOnce(&Self)) {
        // As `signals::send` expects.
        let signals = self.process.signals.lock();
        change(self);
        drop(signals);
        sched::check_signals();
    }

    /// Blocks `mask` until the next handler returns (`rt_sigsuspend`), or until
    /// [`restore_mask`](Self::restore_mask).
    pub fn suspend_mask(&self, mask: SignalSet) {
        *self.suspended_mask.lock() = Some(self.signal_mask());
        self.set_signal_mask(mask);
    }

    /// Restores the mask before [`suspend_mask`](Self::suspend_mask), for a call that no signal interrupted.
    pub fn restore_mask(&self) {
        if let Some(mask) = self.take_suspended_mask() {
            self.set_signal_mask(mask);
        }
    }

    /// Returns and forgets the mask before `rt_sigsuspend`.
    pub(super) fn take_suspended_mask(&self) -> Option<SignalSet> {
        self.suspended_mask.lock().take()
    }

    /// Returns the memory of the process. Called by the running thread itself.
    pub fn memory(&self) -> UserMemory<'_> {
        UserMemory::new(&self.space)
    }

    /// Sets the address that is zeroed on exit.
    pub fn set_clear_tid(&self, at: UserVa) {
        self.clear_tid.store(at.raw(), Ordering::Relaxed);
    }

    /// Sets the head of the list of robust futexes.
    pub fn set_robust_list(&self, head: UserVa) {
        self.robust_list.store(head.raw(), Ordering::Relaxed);
    }

    /// Returns the head of the list of robust futexes, or 0.
    pub fn robust_list(&self) -> UserVa {
        UserVa::new(self.robust_list.load(Ordering::Relaxed))
    }

    /// Makes the running thread, to which the task belongs, exit with this status instead of returning to
    /// user space.
    pub fn exit(&self, status: u8) {
        self.exit_status.store(status, Ordering::Relaxed);
        sched::interrupt(&sched::current());
    }

    /// Makes the running thread exit, and `successor` run after it.
    pub(super) fn exit_to(&self, successor: Arc<Thread>) {
        *self.successor.lock() = Some(successor);
        self.exit(0);
    }

    /// Leaves the address space and starts the successor of the running thread, if it has one. The thread
    /// must not use the address space any more.
    pub(super) fn start_successor(&self) {
        let successor = self.successor.lock().take();
        if let Some(successor) = successor {
            self.space.leave();
            self.process.set_own_space();
            sched::make_ready(&successor);
        }
    }

    /// Returns the exit status; 0 if the whole process terminates.
    pub fn exit_status(&self) -> u8 {
        self.exit_status.load(Ordering::Relaxed)
    }

    /// Releases the robust futexes that the thread holds, and passes on its locks with priority inheritance.
    pub fn release_robust_futexes(&self) {
        let head = self.robust_list();
        if head.raw() != 0 {
            program::release_robust_list(&mut TaskMemory(self), head, self.id);
        }
        self.futexes.owner_exits(self.memory(), self);
    }

    /// Zeroes the word of `set_tid_address` and wakes its futex, for `pthread_join`.
    pub fn clear_child_tid(&self) {
        let at = UserVa::new(self.clear_tid.swap(0, Ordering::Relaxed));
        if at.raw() != 0 && self.memory().write(at, &0u32).is_ok() {
            // Ignored, as on Linux: the program chose the address.
            let _ = self.futexes.wake(at, 1, u32::MAX);
        }
    }
}

/// The memory and the futexes of the running thread.
struct TaskMemory<'a>(&'a Task);

impl FutexMemory for TaskMemory<'_> {
    fn load_u64(&mut self, at: UserVa) -> Option<u64> {
        self.0.memory().read(at).ok()
    }
    fn load_u32(&mut self, at: UserVa) -> Option<u32> {
        self.0.memory().load_u32(at).ok()
    }
    fn compare_exchange_u32(&mut self, at: UserVa, expected: u32, new: u32) -> Option<u32> {
        self.0.memory().compare_exchange_u32(at, expected, new).ok()
    }
    fn wake_one(&mut self, at: UserVa) {
        // The address is aligned and in user memory, by the access before.
        let _ = self.0.futexes.wake(at, 1, u32::MAX);
    }
}

impl UserThread for Task {
    fn save(&self) {
        let mut registers = self.registers.lock();
        registers.fp.save();
        registers.thread_pointer = arch::context::thread_pointer();
    }

    fn restore(&self) {
        let registers = self.registers.lock();
        registers.fp.restore();
        arch::context::set_thread_pointer(registers.thread_pointer);
        CURRENT.this().store(core::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        // SAFETY: `detach_from_process` uninstalls it before the thread leaves the process; the tables are
        // freed after the last one.
        unsafe { self.space.install() };
    }

    fn has_signal(&self) -> bool {
        let blocked = self.signal_mask().difference(self.awaited_signals());
        !signals::pending(self).difference(blocked).is_empty()
    }
}
