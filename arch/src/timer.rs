//! The generic timer (D12): the virtual counter, which programs read too, and this CPU's virtual timer.

/// The counter, in ticks, not read ahead of what precedes it (D12.2.2).
pub fn now() -> u64 {
    counter::now()
}

/// Ticks a second.
pub fn frequency() -> u64 {
    counter::frequency()
}

/// Nanoseconds since the counter started. Counts to 584 years.
pub fn now_ns() -> u64 {
    ticks_to_ns(now())
}

/// `ticks` in nanoseconds, rounded down.
pub fn ticks_to_ns(ticks: u64) -> u64 {
    scale(ticks, 1_000_000_000, frequency())
}

/// `ns` in ticks, rounded up, so that waiting for them is never too short.
pub fn ns_to_ticks(ns: u64) -> u64 {
    at_least(ns, frequency())
}

/// `ns` in ticks of a counter with this frequency, rounded up, at most `u64::MAX`.
fn at_least(ns: u64, frequency: u64) -> u64 {
    let product = u128::from(ns) * u128::from(frequency);
    u64::try_from(product.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}

/// `value * numerator / denominator`, rounded down, at most `u64::MAX`.
fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    u64::try_from(product / u128::from(denominator)).unwrap_or(u64::MAX)
}

/// A point in time to give up at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Deadline(u64);

impl Deadline {
    /// `ns` nanoseconds from now.
    pub fn in_ns(ns: u64) -> Self {
        Self(now().saturating_add(ns_to_ticks(ns)))
    }
    /// Whether it is over.
    pub fn passed(self) -> bool {
        now() >= self.0
    }
    /// The counter's value then.
    pub fn ticks(self) -> u64 {
        self.0
    }
}

/// Asks for this CPU's timer interrupt once the counter reaches `ticks`; at once if it has. The interrupt stays
/// asserted until the time is moved or the timer turned off.
pub fn interrupt_at(ticks: u64) {
    counter::interrupt_at(ticks);
}

/// Turns this CPU's timer off.
pub fn off() {
    counter::off();
}

#[cfg(target_os = "none")]
mod counter {
    use crate::barrier;
    use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, Readable, Writeable};

    pub fn now() -> u64 {
        barrier::isb();
        CNTVCT_EL0.get()
    }

    /// A frequency nobody set reads as 0; 1 keeps arithmetic defined.
    pub fn frequency() -> u64 {
        CNTFRQ_EL0.get().max(1)
    }

    pub fn interrupt_at(ticks: u64) {
        CNTV_CVAL_EL0.set(ticks);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        barrier::isb();
    }

    pub fn off() {
        CNTV_CTL_EL0.set(0);
        barrier::isb();
    }
}

#[cfg(not(target_os = "none"))]
mod counter {
    use crate::fake::{self, Instruction};

    pub fn now() -> u64 {
        fake::ticks()
    }

    pub fn frequency() -> u64 {
        1_000_000
    }

    pub fn interrupt_at(ticks: u64) {
        fake::record(Instruction::TimerAt(ticks));
    }

    pub fn off() {
        fake::record(Instruction::TimerOff);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn conversions_round_away_from_too_early() {
        assert_eq!((ticks_to_ns(3), ns_to_ticks(3000), ns_to_ticks(3001)), (3000, 3, 4));
        assert_eq!(scale(7, 1_000_000_000, 62_500_000), 112);
        assert_eq!(scale(u64::MAX, 1_000_000_000, 1), u64::MAX);
        assert_eq!(ns_to_ticks(u64::MAX), 18_446_744_073_709_552);
    }

    /// The least and the most that the architecture's counters run at, and those of the boards: a Raspberry Pi 3 and 4,
    /// QEMU's CPUs.
    const FREQUENCIES: [u64; 5] = [1_000_000, 19_200_000, 54_000_000, 62_500_000, 1_000_000_000];

    #[test]
    fn ticks_survive_the_way_to_nanoseconds_and_back() {
        for frequency in FREQUENCIES {
            let century = frequency * 3_000_000_000;
            for ticks in [0, 1, 2, 3, 999, 1_000_000_007, century, century + 1] {
                let ns = scale(ticks, 1_000_000_000, frequency);
                assert_eq!(at_least(ns, frequency), ticks, "{frequency} Hz, {ns} ns");
            }
        }
    }

    #[test]
    fn no_wait_is_shorter_than_asked_for_nor_longer_by_a_tick() {
        for frequency in FREQUENCIES {
            for ns in [1, 15, 16, 17, 999, 1000, 1001, 10_000_000, 86_400_000_000_000, u64::MAX / 1_000_000] {
                let waited = u128::from(at_least(ns, frequency)) * 1_000_000_000;
                let wanted = u128::from(ns) * u128::from(frequency);
                assert!(waited >= wanted, "{frequency} Hz, {ns} ns");
                assert!(waited - wanted < 1_000_000_000, "{frequency} Hz, {ns} ns");
            }
            assert_eq!(at_least(1, frequency), 1, "less than a tick is a tick at {frequency} Hz");
        }
    }

    #[test]
    fn what_does_not_fit_is_for_ever() {
        assert_eq!(at_least(u64::MAX, 1_000_000_000), u64::MAX);
        assert_eq!(at_least(u64::MAX, 2_000_000_000), u64::MAX);
        assert_eq!(scale(u64::MAX, 1_000_000_000, 1_000_000), u64::MAX);
        assert_eq!(at_least(u64::MAX, 1), 18_446_744_074, "a frequency that nobody set counts seconds");
    }

    #[test]
    fn a_deadline_passes() {
        let deadline = Deadline::in_ns(10_000);
        assert!(!deadline.passed());
        fake::pass(10);
        assert!(deadline.passed());
    }

    #[test]
    fn a_loop_with_a_deadline_ends_on_a_host() {
        let deadline = Deadline::in_ns(1_000_000);
        while !deadline.passed() {}
    }
}
