//! Clocks and time.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nanoseconds per second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Time since the epoch. Without a real-time clock Tessera's epoch is boot.
pub const CLOCK_REALTIME: u64 = 0;
/// Time since boot.
pub const CLOCK_MONOTONIC: u64 = 1;
/// [`CLOCK_MONOTONIC`] plus the time suspended.
pub const CLOCK_BOOTTIME: u64 = 7;

/// `clock_nanosleep`: the time is absolute.
pub const TIMER_ABSTIME: u64 = 1;

/// `struct timespec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below [`NANOSECONDS`].
    pub nanoseconds: i64,
}

impl Timespec {
    /// Converts to nanoseconds; `None` if negative or out of range (`EINVAL`). Saturates at 584 years.
    pub fn to_nanoseconds(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanoseconds = u64::try_from(self.nanoseconds).ok().filter(|&n| n < NANOSECONDS)?;
        Some(seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds))
    }
    /// Converts from nanoseconds.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self { seconds: (nanoseconds / NANOSECONDS) as i64, nanoseconds: (nanoseconds % NANOSECONDS) as i64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_rejects_invalid_times_and_saturates() {
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
