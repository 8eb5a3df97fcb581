//! Time.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Seconds since the epoch. Without a real time clock Tessera's epoch is the boot.
pub const CLOCK_REALTIME: u64 = 0;
/// Time since the boot.
pub const CLOCK_MONOTONIC: u64 = 1;
/// [`CLOCK_MONOTONIC`] with the time asleep.
pub const CLOCK_BOOTTIME: u64 = 7;

/// The time given to `clock_nanosleep` is a point in time, not a duration.
pub const TIMER_ABSTIME: u64 = 1;

/// `struct timespec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanoseconds: i64,
}

impl Timespec {
    /// The same time as nanoseconds: `None` when it is negative or its nanoseconds make no sense (`EINVAL`). More
    /// than 584 years are as good as for ever.
    pub fn to_nanoseconds(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanoseconds = u64::try_from(self.nanoseconds).ok().filter(|&n| n < NANOSECONDS)?;
        Some(seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds))
    }
    /// The time of so many nanoseconds.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self { seconds: (nanoseconds / NANOSECONDS) as i64, nanoseconds: (nanoseconds % NANOSECONDS) as i64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_convert_or_are_refused() {
        let cases = [
            ((0, 0), Some(0)),
            ((1, 5), Some(1_000_000_005)),
            ((0, 999_999_999), Some(999_999_999)),
            ((i64::MAX, 0), Some(u64::MAX)),
            ((0, 1_000_000_000), None),
            ((0, -1), None),
            ((-1, 0), None),
        ];
        for ((seconds, nanoseconds), expected) in cases {
            assert_eq!(
                Timespec { seconds, nanoseconds }.to_nanoseconds(),
                expected,
                "{seconds} {nanoseconds}"
            );
        }
        assert_eq!(
            Timespec::from_nanoseconds(2_500_000_000),
            Timespec { seconds: 2, nanoseconds: 500_000_000 }
        );
    }
}
