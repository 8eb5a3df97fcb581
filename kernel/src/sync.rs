//! Locks.
//!
//! A [`SpinLock`] masks interrupts while it is held, so that an interrupt handler cannot deadlock with the
//! holder on its own CPU. The kernel is not preemptible, so no other thread runs on that CPU meanwhile. Its
//! critical sections are short: at most 100 000 instructions in the checking build, measured by `cargo xtask
//! test irqsoff`. Work of any length, and waits for a device, are done under a [`Mutex`](crate::sched::Mutex)
//! instead. `track_caller` lets the checking build name the caller in that measurement; an attribute has no
//! empty form, so `cfg_attr` is where the lock is taken, also in `memory`.
//!
//! # Lock order
//!
//! A thread that holds one of these locks acquires only locks further down. The first ones are a `Mutex`:
//!
//! 1. interests of an epoll instance (`fs::epoll`), bytes of a pipe (`fs::pipe`), text of a generated file
//!    (`fs::generated`); then the file tree (`fs::root`); then address space, file descriptors and current
//!    directory of a process (`vm`, `fs`)
//! 2. host bridge, during the probe of its functions, the isolation of a removed one, and reads of its files
//!    (`devices::pci`, `sysfs`)
//! 3. DMA domain: `Iova` ranges and the page table of a device (`dma::domain`)
//! 4. SMMU stream table, TLB tags (`iommu`)
//!
//! These are a [`SpinLock`]:
//!
//! 5. process (`process`); alarms (`sched::alarm`), then the state of a file and its watchers
//!    (`fs::readiness`): an eventfd before the epoll instances that watch it, each before those that watch it
//! 6. SMMU command queue
//! 7. kernel page tables, vmalloc ranges (`memory`)
//! 8. zones: the frame allocators (`memory::zones`)
//! 9. per-CPU caches of the zones (`memory::magazines`)
//! 10. run queue (`sched`)
//! 11. per-CPU caches of the heap, and the heap (`memory::heap`)
//! 12. console
//!
//! The lock of the SMMU's event queue is acquired by the interrupt handler, and never with another lock held.

/// The atomics of lock-free data: those of `core`, or loom's, which explore all orders in which other CPUs
/// may observe the accesses.
pub(crate) mod atomic {
    #[cfg(not(feature = "loom"))]
    pub(crate) use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    #[cfg(feature = "loom")]
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
}

use core::ops::{Deref, DerefMut};
use spin::RelaxStrategy;
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// Spinning with the YIELD hint, which lets another hardware thread of the core run or, on an emulator that
/// runs CPUs in turn, the holder of the lock.
struct YieldHint;

impl RelaxStrategy for YieldHint {
    fn relax() {
        arch::cpu::yield_now();
    }
}

/// A spinlock that masks interrupts on this CPU while it is held.
///
/// It is not a fair (ticket) lock: a ticket lock passes to one particular CPU, and in a virtual machine with
/// more CPUs than the host that CPU may not run for a long time, while all others spin.
///
/// [`SpinLock::lock`] has no time limit (`drivers::poll::poll_until`): it waits for another CPU of this
/// kernel, whose sections are bounded, not for a device.
#[derive(Default)]
pub struct SpinLock<T: ?Sized> {
    inner: SpinMutex<T, YieldHint>,
}

impl<T> SpinLock<T> {
    /// An unlocked lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { inner: SpinMutex::new(value) }
    }

    /// Returns the value; ownership proves that no other reference exists.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }

    /// Returns a pointer to the value. Its user must exclude concurrent accesses.
    pub fn as_ptr(&self) -> *mut T {
        self.inner.as_mut_ptr()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Acquires the lock; interrupts stay masked until the guard is dropped.
    #[cfg_attr(feature = "checking", track_caller)]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        let irqs = arch::cpu::mask_irqs();
        SpinLockGuard { value: self.inner.lock(), _irqs: irqs }
    }

    /// Acquires the lock if it is free.
    #[cfg_attr(feature = "checking", track_caller)]
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        let irqs = arch::cpu::mask_irqs();
        Some(SpinLockGuard { value: self.inner.try_lock()?, _irqs: irqs })
    }

    /// Releases the lock, whichever CPU holds it.
    ///
    /// # Safety
    ///
    /// The holder's guard must never be used or dropped again.
    pub unsafe fn force_unlock(&self) {
        if self.inner.is_locked() {
            // SAFETY: the caller's obligation.
            unsafe { self.inner.force_unlock() }
        }
    }

    /// Returns the value without locking: `&mut self` proves that no other reference exists.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// The guard of a [`SpinLock`]. Its drop releases the lock, then restores the interrupt mask (fields drop in
/// order).
pub struct SpinLockGuard<'a, T: ?Sized> {
    value: SpinMutexGuard<'a, T, YieldHint>,
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
