//! Bounded waiting.

/// What time it is, and what to do until it is later. The kernel knows both.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Microseconds since some moment.
    pub now: fn() -> u64,
    /// Called between two looks at a register: a hint to the CPU.
    pub relax: fn(),
}

/// How long any step of the SMMU may take, in microseconds. The manual has no number; a healthy SMMU needs microseconds,
/// and one that lets a second pass is broken.
pub const TIMEOUT_US: u64 = 1_000_000;

/// Looks that it takes to give up, too: a CPU of a virtual machine may be held up for longer than [`TIMEOUT_US`], and comes
/// back to an SMMU that has done its part and waits for the next of a long batch, or for a refused command to be replaced.
/// An SMMU's register takes far less than a ten thousandth of [`TIMEOUT_US`] to read.
const MIN_POLLS: u32 = 100;

/// The condition did not come true in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

impl Clock {
    /// The CPU's own counter.
    pub const fn system() -> Self {
        Self { now: || arch::timer::now_ns() / 1000, relax: core::hint::spin_loop }
    }

    /// Calls `poll` until it gives something, for [`TIMEOUT_US`], however often that is, and at least a hundred times. The
    /// clock is not looked at if it does so at once; and there is one call more after the time is up, since a CPU may have
    /// been held up between two.
    pub fn wait<T>(&self, mut poll: impl FnMut() -> Option<T>) -> Result<T, TimedOut> {
        if let Some(value) = poll() {
            return Ok(value);
        }
        // Mostly it is true at once, and reading the time costs more than a look.
        if let Some(value) = poll() {
            return Ok(value);
        }
        let (start, mut looks) = ((self.now)(), 0u32);
        loop {
            (self.relax)();
            looks = looks.saturating_add(1);
            let late = looks > MIN_POLLS && (self.now)().wrapping_sub(start) > TIMEOUT_US;
            match poll() {
                Some(value) => return Ok(value),
                None if late => return Err(TimedOut),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn a_condition_that_comes_true_late_is_still_seen() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let clock = Clock {
            now: || NOW.load(Relaxed),
            relax: || {
                NOW.fetch_add(TIMEOUT_US + 1, Relaxed);
            },
        };
        let mut polls = 0;
        let seen = clock.wait(|| {
            polls += 1;
            (polls == 2).then_some(polls)
        });
        assert_eq!(seen, Ok(2));
    }

    #[test]
    fn waiting_ends() {
        static NOW: AtomicU64 = AtomicU64::new(u64::MAX - 5);
        let clock = Clock { now: || NOW.fetch_add(TIMEOUT_US / 4, Relaxed), relax: || {} };
        assert_eq!(clock.wait(|| None::<()>), Err(TimedOut));
    }
}
