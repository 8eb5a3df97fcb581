//! Clocks and time.

use crate::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nanoseconds per second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// The clock of `clock_gettime`. Clocks that differ only in resolution, or by the time suspended, are the
/// same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockId {
    /// Time since the epoch. Without a real-time clock Tessera's epoch is boot.
    Realtime,
    /// Time since boot.
    Monotonic,
    /// CPU time of all threads of a process; 0 is the calling process.
    ProcessCpu(u32),
    /// CPU time of a thread; 0 is the calling thread.
    ThreadCpu(u32),
}

impl ClockId {
    /// Decodes a clock id; `None` for an unknown clock (`EINVAL`).
    pub fn from_id(id: i32) -> Option<Self> {
        // The CPU clock of another process or thread: its id, inverted, above three bits that select it
        // (Linux `CPUCLOCK_SCHED`, `CPUCLOCK_PERTHREAD_MASK`).
        let other = !(id >> 3) as u32;
        match id {
            // CLOCK_REALTIME, _REALTIME_COARSE, CLOCK_TAI, whose offset is 0 until it is set.
            0 | 5 | 11 => Some(Self::Realtime),
            // CLOCK_MONOTONIC, _MONOTONIC_RAW, _MONOTONIC_COARSE, CLOCK_BOOTTIME.
            1 | 4 | 6 | 7 => Some(Self::Monotonic),
            2 => Some(Self::ProcessCpu(0)),
            3 => Some(Self::ThreadCpu(0)),
            _ if id < 0 && id & 7 == 2 => Some(Self::ProcessCpu(other)),
            _ if id < 0 && id & 7 == 6 => Some(Self::ThreadCpu(other)),
            _ => None,
        }
    }

    /// Whether it is a clock of CPU time.
    pub fn is_cpu_time(self) -> bool {
        matches!(self, Self::ProcessCpu(_) | Self::ThreadCpu(_))
    }

    /// Decodes the clock id of `timer_create`.
    ///
    /// # Errors
    /// As for [`for_sleep`](Self::for_sleep), except for clocks of CPU time.
    pub fn for_timer(id: i32) -> Result<Self, Errno> {
        Self::from_id(id).filter(|clock| clock.is_cpu_time()).map_or_else(|| Self::for_sleep(id), Ok)
    }

    /// Decodes the clock id of `clock_nanosleep`.
    ///
    /// # Errors
    /// `EINVAL` for an unknown clock and that of another thread; `EOPNOTSUPP` for the calling thread's,
    /// CLOCK_MONOTONIC_RAW and the coarse clocks, and, unlike Linux, for the CPU clock of a process.
    pub fn for_sleep(id: i32) -> Result<Self, Errno> {
        match Self::from_id(id).ok_or(Errno::EINVAL)? {
            Self::ThreadCpu(0) | Self::ProcessCpu(_) => Err(Errno::EOPNOTSUPP),
            Self::ThreadCpu(_) => Err(Errno::EINVAL),
            _ if matches!(id, 4..=6) => Err(Errno::EOPNOTSUPP),
            clock => Ok(clock),
        }
    }
}

/// `clock_nanosleep`: the time is absolute.
pub const TIMER_ABSTIME: u64 = 1;
/// Clock ticks per second in the results of `times` (`USER_HZ`).
pub const USER_HZ: u64 = 100;

/// `struct timeval`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub seconds: i64,
    /// Microseconds, below 1 000 000.
    pub microseconds: i64,
}

impl Timeval {
    /// Converts from nanoseconds.
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        let Timespec { seconds, nanoseconds } = Timespec::from_nanoseconds(nanoseconds);
        Self { seconds, microseconds: nanoseconds / 1000 }
    }
    /// Converts to nanoseconds; `None` if negative or out of range (`EINVAL`). Saturates at 584 years.
    pub fn to_nanoseconds(self) -> Option<u64> {
        let nanoseconds = self.microseconds.checked_mul(1000)?;
        Timespec { seconds: self.seconds, nanoseconds }.to_nanoseconds()
    }
}

/// `struct __kernel_old_itimerval`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimerVal {
    /// The time between expirations; 0 for a single one.
    pub interval: Timeval,
    /// The time until the next expiration; 0 for none.
    pub value: Timeval,
}

/// `struct timezone`, which is unused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timezone {
    /// Minutes west of Greenwich.
    pub minutes_west: i32,
    /// Type of daylight saving time.
    pub dst_type: i32,
}

/// `struct tms`: CPU times in units of 1 / [`USER_HZ`] s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tms {
    /// User time. Tessera counts the time in the kernel here too.
    pub user: i64,
    /// Time in the kernel.
    pub system: i64,
    /// User time of the children that were waited for.
    pub children_user: i64,
    /// Time in the kernel of the children that were waited for.
    pub children_system: i64,
}

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

/// `struct itimerspec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimerSpec {
    /// The time between expirations; 0 for a single one.
    pub interval: Timespec,
    /// The time of the first expiration; 0 for none.
    pub value: Timespec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeval_is_checked_and_scaled() {
        let time = |seconds, microseconds| Timeval { seconds, microseconds }.to_nanoseconds();
        assert_eq!([time(2, 5), time(0, 999_999)], [Some(2_000_005_000), Some(999_999_000)]);
        assert_eq!([time(0, 1_000_000), time(0, -1), time(-1, 0), time(0, i64::MAX)], [None; 4]);
    }

    #[test]
    fn clock_ids_are_those_of_linux() {
        assert_eq!([0, 5, 11].map(ClockId::from_id), [Some(ClockId::Realtime); 3]);
        assert_eq!([1, 4, 6, 7].map(ClockId::from_id), [Some(ClockId::Monotonic); 4]);
        assert_eq!([2, 3].map(ClockId::from_id), [Some(ClockId::ProcessCpu(0)), Some(ClockId::ThreadCpu(0))]);
        assert_eq!([8, 9, 10, 12, i32::MAX, -1, i32::MIN].map(ClockId::from_id), [None; 7]);
        // clock_getcpuclockid(5) and pthread_getcpuclockid of thread 6.
        assert_eq!(ClockId::from_id(!5 << 3 | 2), Some(ClockId::ProcessCpu(5)));
        assert_eq!(ClockId::from_id(!6 << 3 | 6), Some(ClockId::ThreadCpu(6)));
    }

    #[test]
    fn sleeps_follow_realtime_and_monotonic_only() {
        assert_eq!([0, 11].map(ClockId::for_sleep), [Ok(ClockId::Realtime); 2]);
        assert_eq!([1, 7].map(ClockId::for_sleep), [Ok(ClockId::Monotonic); 2]);
        assert_eq!([2, 3, 4, 5, 6].map(ClockId::for_sleep), [Err(Errno::EOPNOTSUPP); 5]);
        assert_eq!([12, !6 << 3 | 6].map(ClockId::for_sleep), [Err(Errno::EINVAL); 2]);
        assert_eq!([2, 3].map(ClockId::for_timer), [Ok(ClockId::ProcessCpu(0)), Ok(ClockId::ThreadCpu(0))]);
        assert_eq!([1, 4, 12].map(ClockId::for_timer), [1, 4, 12].map(ClockId::for_sleep));
    }

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
