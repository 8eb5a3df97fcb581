//! The program's side of a thread: its registers while others run, and what it told the kernel about itself.

use super::process::Process;
use crate::sched::{Thread, UserThread};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::signal::StackT;
use addr::UserVa;
use alloc::sync::Arc;
use arch::context::FpState;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Numbers for programs and their threads, from one row.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A number that no program or thread has had.
pub fn next_id() -> u32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// A thread of a program.
pub struct Task {
    id: u32,
    process: Arc<Process>,
    registers: SpinLock<Registers>,
    /// Where zero goes when it ends, and a futex is woken; 0 for nowhere.
    clear_tid: AtomicU64,
    /// Not 0 when it leaves alone: one more than its status.
    leaving: AtomicU32,
    /// Signals it blocks; recorded only.
    pub signal_mask: AtomicU64,
    /// Its alternative signal stack; recorded only.
    pub signal_stack: SpinLock<StackT>,
}

/// What the trap frame does not hold.
struct Registers {
    fp: FpState,
    thread_pointer: UserVa,
}

impl Task {
    /// A thread number `id` of `process` whose TLS is at `thread_pointer`.
    pub fn new(id: u32, process: Arc<Process>, thread_pointer: UserVa) -> Self {
        Self {
            id,
            process,
            registers: SpinLock::new(Registers { fp: FpState::new(), thread_pointer }),
            clear_tid: AtomicU64::new(0),
            leaving: AtomicU32::new(0),
            signal_mask: AtomicU64::new(0),
            signal_stack: SpinLock::new(StackT::default()),
        }
    }

    /// Returns the user side of `thread`; `None` for a kernel thread.
    pub fn of(thread: &Thread) -> Option<&Self> {
        let user: &dyn Any = thread.user()?;
        user.downcast_ref()
    }

    /// `gettid`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The program it is a thread of.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The program's memory; only for the running thread itself.
    pub fn memory(&self) -> UserMemory<'_> {
        UserMemory::new(&self.process.space)
    }

    /// Says where zero goes when it ends.
    pub fn set_clear_tid(&self, at: UserVa) {
        self.clear_tid.store(at.raw(), Ordering::Relaxed);
    }

    /// It leaves alone, with this status, when it would go back to the program.
    pub fn leave(&self, status: u8) {
        self.leaving.store(1 + u32::from(status), Ordering::Relaxed);
    }

    /// The status it left with; 0 if it was made to.
    pub fn status(&self) -> u8 {
        self.leaving.load(Ordering::Relaxed).saturating_sub(1) as u8
    }

    /// Whether it leaves, alone or with the whole program.
    pub fn is_ending(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) != 0 || self.process.is_ending()
    }

    /// Tells whoever joins it that it has ended.
    pub fn announce_end(&self) {
        let at = UserVa::new(self.clear_tid.swap(0, Ordering::Relaxed));
        if at.raw() != 0 && self.memory().write(at, &0u32).is_ok() {
            self.process.futexes.wake(at, 1, u32::MAX);
        }
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
        // SAFETY: `leave_process` uninstalls it before the thread leaves the process; `clear` runs after the last one.
        unsafe { self.process.space.install() };
    }

    fn is_ending(&self) -> bool {
        Task::is_ending(self)
    }
}
