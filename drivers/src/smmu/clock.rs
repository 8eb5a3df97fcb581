//! Polling of SMMU registers with a time limit.

use crate::poll::{TimedOut, poll_until};

/// The current time, and a hint to the CPU for the time between two polls. Both are supplied by the kernel.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Microseconds since an arbitrary moment.
    pub now: fn() -> u64,
    /// Called between two polls of a register.
    pub relax: fn(),
}

/// Time limit of each step of the SMMU, in microseconds. The manual gives no number; a working SMMU needs
/// microseconds, and an SMMU that takes a second is broken.
pub const TIMEOUT_US: u64 = 1_000_000;

/// Minimum number of polls before a timeout. The CPU of a virtual machine may be descheduled for longer than
/// [`TIMEOUT_US`]; meanwhile the SMMU has finished the queued part of a long batch, or has stopped at an
/// illegal command, and needs the CPU to continue. A read of an SMMU register takes far less than a
/// ten-thousandth of [`TIMEOUT_US`].
const MIN_POLLS: u32 = 100;

impl Clock {
    /// The CPU's own counter.
    pub const fn system() -> Self {
        Self { now: || arch::timer::now_ns() / 1000, relax: core::hint::spin_loop }
    }

    /// Polls until `poll` returns a value, for at least [`TIMEOUT_US`] and at least [`MIN_POLLS`] polls. The
    /// clock is read only after two polls without result.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn wait<T>(&self, mut poll: impl FnMut() -> Option<T>) -> Result<T, TimedOut> {
        // Usually one of the first two polls succeeds, and reading the time costs more than a poll.
        if let Some(value) = poll() {
            return Ok(value);
        }
        let (mut start, mut polls) = (None, 0u32);
        let expired = || {
            let start = *start.get_or_insert_with(self.now);
            (self.relax)();
            polls = polls.saturating_add(1);
            polls > MIN_POLLS && (self.now)().wrapping_sub(start) > TIMEOUT_US
        };
        poll_until(expired, poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn condition_that_becomes_true_after_the_timeout_is_still_seen() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let clock = Clock {
            now: || NOW.load(Relaxed),
            relax: || {
                NOW.fetch_add(TIMEOUT_US + 1, Relaxed);
            },
        };
        for wanted in [2, MIN_POLLS + 3] {
            let mut polls = 0;
            let seen = clock.wait(|| {
                polls += 1;
                (polls == wanted).then_some(polls)
            });
            assert_eq!(seen, Ok(wanted));
        }
    }

    #[test]
    fn wait_times_out_across_a_wrap_of_the_clock() {
        static NOW: AtomicU64 = AtomicU64::new(u64::MAX - 5);
        let clock = Clock { now: || NOW.fetch_add(TIMEOUT_US / 4, Relaxed), relax: || {} };
        assert_eq!(clock.wait(|| None::<()>), Err(TimedOut));
    }
}
