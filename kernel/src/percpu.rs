//! Per-CPU variables, the set of online CPUs, and whether a CPU runs an interrupt handler.

pub use arch::cpu::MAX_CPUS;

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One `T` for each CPU. Other CPUs can access it too, so `T` is an atomic or a lock.
pub struct PerCpu<T>([T; MAX_CPUS]);

impl<T> PerCpu<T> {
    /// Wraps the values, CPU 0 first.
    pub const fn new(values: [T; MAX_CPUS]) -> Self {
        Self(values)
    }

    /// The value of the current CPU. A thread can move to another CPU afterwards, but only when it waits,
    /// yields or returns to user space, since the kernel is not preemptible.
    pub fn this(&self) -> &T {
        &self.0[arch::cpu::index()]
    }

    /// The value of CPU `index`.
    pub fn of(&self, index: usize) -> &T {
        &self.0[index]
    }

    /// All values, CPU 0 first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

/// A bit for each online CPU. The boot CPU is online from the start.
static ONLINE: AtomicU64 = AtomicU64::new(1);
/// Set while the CPU runs interrupt handlers.
static IN_INTERRUPT: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; MAX_CPUS]);

/// Marks the calling CPU online.
pub fn set_online() {
    ONLINE.fetch_or(1 << arch::cpu::index(), Ordering::AcqRel);
}

/// Returns whether CPU `index` is online.
pub fn is_online(index: usize) -> bool {
    ONLINE.load(Ordering::Acquire) & 1 << index != 0
}

/// Returns the number of online CPUs.
pub fn online() -> usize {
    ONLINE.load(Ordering::Acquire).count_ones() as usize
}

/// Returns a range of indices that includes all online CPUs; the index of a CPU that failed to start may be
/// in it.
pub fn online_indices() -> Range<usize> {
    0..(u64::BITS - ONLINE.load(Ordering::Acquire).leading_zeros()) as usize
}

/// Runs `handlers` in interrupt context: [`in_interrupt`] returns true on this CPU. Interrupts must be
/// masked.
pub fn with_interrupt_context(handlers: impl FnOnce()) {
    IN_INTERRUPT.this().store(true, Ordering::Relaxed);
    handlers();
    IN_INTERRUPT.this().store(false, Ordering::Relaxed);
}

/// Returns whether this CPU runs an interrupt handler, which must neither allocate nor sleep.
pub fn in_interrupt() -> bool {
    IN_INTERRUPT.this().load(Ordering::Relaxed)
}
