//! The irqsoff latency: for how long a CPU keeps interrupts masked, and where it masked them (feature
//! `irqsoff`; Linux has a tracer of this name). Without the feature all functions are empty.
//!
//! A stretch starts where interrupts become masked, by [`mask_irqs`](crate::cpu::mask_irqs) or by an
//! exception, and ends where they become unmasked. It can cross a context switch. Times are ticks of the
//! virtual counter: guest instructions of all CPUs under QEMU's `-icount shift=0` with a counter of 1 GHz.
//! Each stretch is passed to the hook (`set_hook`).

#[cfg(feature = "irqsoff")]
pub use enabled::*;

/// Starts a stretch at the caller, unless interrupts were masked already. The caller is an exception handler,
/// or has masked interrupts.
#[cfg(not(feature = "irqsoff"))]
#[inline(always)]
pub fn start() {}

/// Ends the stretch of this CPU. The caller unmasks interrupts or returns from an exception.
#[cfg(not(feature = "irqsoff"))]
#[inline(always)]
pub fn end() {}

/// Excludes the stretch so far of this CPU: it waited for an interrupt (WFI).
#[cfg(not(feature = "irqsoff"))]
#[inline(always)]
pub fn exclude() {}

#[cfg(feature = "irqsoff")]
mod enabled {
    use crate::cpu::{self, MAX_CPUS};
    use crate::timer;
    use core::panic::Location;
    use core::ptr;
    use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    /// Called at the end of each stretch, with interrupts still masked, with the place that masked them and
    /// the length. Masking interrupts in it starts no stretch.
    pub type Hook = fn(&'static Location<'static>, u64);

    /// The current stretch of a CPU, which only that CPU accesses. No stretch if `site` is null.
    struct Current {
        since: AtomicU64,
        site: AtomicPtr<Location<'static>>,
    }

    static CURRENT: [Current; MAX_CPUS] = [const { Current::new() }; MAX_CPUS];
    /// Null, or a [`Hook`].
    static HOOK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

    impl Current {
        const fn new() -> Self {
            Self { since: AtomicU64::new(0), site: AtomicPtr::new(ptr::null_mut()) }
        }

        fn this() -> &'static Self {
            &CURRENT[cpu::index()]
        }
    }

    /// Sets the hook.
    pub fn set_hook(hook: Hook) {
        HOOK.store(hook as *mut (), Ordering::Release);
    }

    fn hook() -> Option<Hook> {
        // SAFETY: null, which is `None`, or the `Hook` of `set_hook`.
        unsafe { core::mem::transmute::<*mut (), Option<Hook>>(HOOK.load(Ordering::Acquire)) }
    }

    /// See the disabled function.
    #[track_caller]
    pub fn start() {
        let current = Current::this();
        if current.site.load(Ordering::Relaxed).is_null() {
            current.since.store(timer::now(), Ordering::Relaxed);
            current.site.store(ptr::from_ref(Location::caller()).cast_mut(), Ordering::Relaxed);
        }
    }

    /// See the disabled function.
    pub fn end() {
        let current = Current::this();
        // SAFETY: null, or the pointer of a `&'static Location` that `start` stored.
        let Some(site) = (unsafe { current.site.load(Ordering::Relaxed).as_ref() }) else { return };
        if let Some(hook) = hook() {
            hook(site, timer::now() - current.since.load(Ordering::Relaxed));
        }
        // After the hook, whose locks would otherwise start another stretch.
        current.site.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// See the disabled function.
    pub fn exclude() {
        Current::this().since.store(timer::now(), Ordering::Relaxed);
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use core::cell::Cell;

        std::thread_local!(static STRETCHES: Cell<u32> = const { Cell::new(0) });

        #[test]
        fn outermost_guard_ends_the_only_stretch_with_interrupts_masked() {
            set_hook(|_, ticks| {
                drop(cpu::mask_irqs());
                assert!(cpu::irqs_masked() && ticks > 0);
                STRETCHES.set(STRETCHES.get() + 1);
            });
            // SAFETY: no guard exists.
            unsafe { cpu::unmask_irqs() };
            let before = STRETCHES.get();
            let outer = cpu::mask_irqs();
            drop(cpu::mask_irqs());
            assert_eq!(STRETCHES.get(), before);
            drop(outer);
            assert_eq!(STRETCHES.get(), before + 1);
            assert!(Current::this().site.load(Ordering::Relaxed).is_null(), "the hook started a stretch");
        }
    }
}
