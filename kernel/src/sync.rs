//! Locks.
//!
//! A [`SpinLock`] masks interrupts while it is held, so that a handler on the same CPU never finds it taken. The
//! kernel is not preemptible, so nothing else can.
//!
//! # Lock order
//!
//! A CPU that holds one of these takes only locks further down:
//!
//! 1. process and address space (`user`)
//! 2. DMA domain: `Iova` ranges and the page table of a device (`dma::domain`)
//! 3. SMMU stream table
//! 4. SMMU command queue
//! 5. kernel page tables, vmalloc ranges (`memory`)
//! 6. zones: the frame allocators (`memory::zones`)
//! 7. what each CPU keeps of the zones (`memory::magazines`)
//! 8. run queue (`sched`)
//! 9. what each CPU keeps of the heap, and the heap (`memory::heap`)
//! 10. console
//!
//! The SMMU's event queue is taken by its interrupt handler, and by nobody who holds another lock.

/// The atomics of what several CPUs change without a lock: the processor's, or loom's, which try everything that another
/// CPU may see.
pub(crate) mod atomic {
    #[cfg(not(feature = "loom"))]
    pub(crate) use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    #[cfg(feature = "loom")]
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
}

use core::ops::{Deref, DerefMut};
use spin::RelaxStrategy;
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// How a CPU waits for a lock: it says so, so that others can have its time (another thread of the core, or on an
/// emulator that runs CPUs in turns, the holder of the lock).
struct Hint;

impl RelaxStrategy for Hint {
    fn relax() {
        arch::cpu::yield_now();
    }
}

/// A spin lock that masks interrupts on this CPU while it is held.
///
/// Whoever comes first gets it, not who has waited longest: a fair lock goes to a certain CPU next, and in a virtual
/// machine with more CPUs than the host has, that one may not be running for a long time, while all others wait.
#[derive(Default)]
pub struct SpinLock<T: ?Sized> {
    inner: SpinMutex<T, Hint>,
}

impl<T> SpinLock<T> {
    /// An unlocked lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: SpinMutex::new(value) }
    }

    /// The value: ownership proves that nobody else can reach it.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }

    /// Where the value is, for who knows that nobody else uses it.
    pub fn as_ptr(&self) -> *mut T {
        self.inner.as_mut_ptr()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Waits for the lock; interrupts stay masked until the guard is dropped.
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        let irqs = arch::cpu::mask_irqs();
        SpinLockGuard { value: self.inner.lock(), _irqs: irqs }
    }

    /// The lock if nobody holds it at this moment.
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        let irqs = arch::cpu::mask_irqs();
        Some(SpinLockGuard { value: self.inner.try_lock()?, _irqs: irqs })
    }

    /// Unlocks whoever holds it.
    ///
    /// # Safety
    ///
    /// The holder's guard is never used or dropped again.
    pub unsafe fn force_unlock(&self) {
        if self.inner.is_locked() {
            // SAFETY: passed on to the caller.
            unsafe { self.inner.force_unlock() }
        }
    }

    /// The value, without locking: `&mut self` proves that nobody else can reach it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// Access to what a [`SpinLock`] protects. Unlocks first, then restores the interrupt mask (fields drop in order).
pub struct SpinLockGuard<'a, T: ?Sized> {
    value: SpinMutexGuard<'a, T, Hint>,
    _irqs: arch::cpu::IrqGuard,
}

impl<T: ?Sized> Deref for SpinLockGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for SpinLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
