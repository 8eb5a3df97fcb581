//! The irqsoff latency: for how long a CPU keeps interrupts masked, and where it masked them (feature
//! `irqsoff`; Linux has a tracer of this name). Without the feature all functions are empty.
//!
//! A stretch starts where interrupts become masked, by [`mask_irqs`](crate::cpu::mask_irqs) or by an
//! exception, and ends where they become unmasked. It can cross a context switch. Times are ticks of the
//! virtual counter: guest instructions of all CPUs under QEMU's `-icount shift=0` with a counter of 1 GHz.

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

/// Excludes the stretch so far of this CPU: it waited, for an interrupt (WFI) or for a device that does not
/// respond.
#[cfg(not(feature = "irqsoff"))]
#[inline(always)]
pub fn exclude() {}

#[cfg(feature = "irqsoff")]
mod enabled {
    use crate::cpu::{self, MAX_CPUS};
    use crate::timer;
    use core::panic::Location;
    use core::ptr;
    use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

    /// The number of places in the record.
    pub const PLACES: usize = 16;

    /// A place that masks interrupts, and the longest stretch from there.
    pub type Stretch = (&'static Location<'static>, u64);

    /// The current stretch of a CPU, which only that CPU accesses. No stretch if `site` is null.
    struct Current {
        since: AtomicU64,
        site: AtomicPtr<Location<'static>>,
    }

    static CURRENT: [Current; MAX_CPUS] = [const { Current::new() }; MAX_CPUS];
    static RECORD: Record = Record::new();

    impl Current {
        const fn new() -> Self {
            Self { since: AtomicU64::new(0), site: AtomicPtr::new(ptr::null_mut()) }
        }

        fn this() -> &'static Self {
            &CURRENT[cpu::index()]
        }
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
        let site = current.site.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: null, or the pointer of a `&'static Location` that `start` stored.
        if let Some(site) = unsafe { site.as_ref() } {
            RECORD.add((site, timer::now() - current.since.load(Ordering::Relaxed)));
        }
    }

    /// See the disabled function.
    pub fn exclude() {
        Current::this().since.store(timer::now(), Ordering::Relaxed);
    }

    /// Removes and returns the places with the longest stretches since the last call, in no order.
    pub fn take_longest() -> [Option<Stretch>; PLACES] {
        let _irqs = cpu::mask_irqs();
        RECORD.locked(|places| core::mem::replace(places, [None; PLACES]))
    }

    /// The places with the longest stretches.
    struct Record {
        locked: AtomicBool,
        places: core::cell::UnsafeCell<[Option<Stretch>; PLACES]>,
    }

    // SAFETY: `locked` excludes concurrent accesses to `places`.
    unsafe impl Sync for Record {}

    impl Record {
        const fn new() -> Self {
            Self { locked: AtomicBool::new(false), places: core::cell::UnsafeCell::new([None; PLACES]) }
        }

        /// Runs `f` with the places locked. Interrupts must be masked.
        fn locked<R>(&self, f: impl FnOnce(&mut [Option<Stretch>; PLACES]) -> R) -> R {
            while self.locked.swap(true, Ordering::Acquire) {
                cpu::yield_now();
            }
            // SAFETY: this CPU has set `locked`, and no interrupt handler runs meanwhile.
            let result = f(unsafe { &mut *self.places.get() });
            self.locked.store(false, Ordering::Release);
            result
        }

        /// Adds a stretch. Interrupts must be masked.
        fn add(&self, stretch: Stretch) {
            self.locked(|places| add(places, stretch));
        }
    }

    /// Replaces the stretch of the same place if it is shorter, else a free or the shortest place.
    fn add(places: &mut [Option<Stretch>; PLACES], (site, ticks): Stretch) {
        let ticks_of = |place: &Option<Stretch>| place.map_or(0, |(_, ticks)| ticks);
        let same = places.iter().position(|place| place.is_some_and(|(other, _)| ptr::eq(other, site)));
        let shortest = (0..PLACES).min_by_key(|&n| ticks_of(&places[n])).unwrap_or(0);
        let slot = &mut places[same.unwrap_or(shortest)];
        if ticks > ticks_of(slot) {
            *slot = Some((site, ticks));
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn longest_stretch_of_each_place_is_kept() {
            let (one, two) = (Location::caller(), {
                #[track_caller]
                fn here() -> &'static Location<'static> {
                    Location::caller()
                }
                here()
            });
            let mut places = [None; PLACES];
            for (site, ticks) in [(one, 5), (two, 9), (one, 7), (two, 3)] {
                add(&mut places, (site, ticks));
            }
            let found: std::vec::Vec<_> = places.iter().flatten().map(|(_, ticks)| *ticks).collect();
            assert_eq!(found, [7, 9]);
        }
    }
}
