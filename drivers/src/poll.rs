//! Polling with a time limit.

/// The condition did not become true in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

/// Calls `poll` until it returns a value or `expired` returns true, for instance `|| deadline.passed()` for
/// an `arch::timer::Deadline`.
///
/// `expired` is not called if the first poll succeeds. After the time limit `poll` is called once more: the
/// CPU may have been preempted between the two calls.
///
/// # Errors
/// [`TimedOut`].
#[inline]
pub fn poll_until<T>(
    mut expired: impl FnMut() -> bool,
    mut poll: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    let mut late = false;
    loop {
        match poll() {
            Some(value) => return Ok(value),
            None if late => return Err(TimedOut),
            None => late = expired(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_successful_poll_does_not_read_the_clock() {
        assert_eq!(poll_until(|| unreachable!("the clock was read"), || Some(7)), Ok(7));
    }

    #[test]
    fn condition_is_polled_once_more_after_the_deadline() {
        let mut polls = 0;
        let second = poll_until(
            || true,
            || {
                polls += 1;
                (polls == 2).then_some(polls)
            },
        );
        assert_eq!(second, Ok(2));
    }

    #[test]
    fn false_condition_times_out() {
        let (mut reads, mut polls) = (0, 0);
        let result = poll_until(
            || {
                reads += 1;
                reads == 3
            },
            || {
                polls += 1;
                None::<()>
            },
        );
        assert_eq!((result, polls), (Err(TimedOut), 4));
    }
}
