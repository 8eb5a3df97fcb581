//! The Generic Timer (D12): the virtual counter, which programs can read, and the virtual timer of this CPU.

/// The counter, in ticks. An ISB prevents an early, speculative read (D12.2.2).
pub fn now() -> u64 {
    counter::now()
}

/// Counter frequency in Hz.
pub fn frequency() -> u64 {
    counter::frequency()
}

/// The counter in nanoseconds. Overflows after 584 years.
pub fn now_ns() -> u64 {
    ticks_to_ns(now())
}

/// `ticks` in nanoseconds, rounded down.
pub fn ticks_to_ns(ticks: u64) -> u64 {
    scale(ticks, 1_000_000_000, frequency())
}

/// `ns` in ticks, rounded up: a wait is never too short.
pub fn ns_to_ticks(ns: u64) -> u64 {
    scale_up(ns, frequency())
}

/// `ns` in ticks of a counter with this frequency, rounded up, saturating.
fn scale_up(ns: u64, frequency: u64) -> u64 {
    let product = u128::from(ns) * u128::from(frequency);
    u64::try_from(product.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}

/// `value * numerator / denominator`, rounded down, saturating.
fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    u64::try_from(product / u128::from(denominator)).unwrap_or(u64::MAX)
}

/// The time at which an operation times out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Deadline(u64);

impl Deadline {
    /// `ns` nanoseconds from now.
    pub fn in_ns(ns: u64) -> Self {
        Self(now().saturating_add(ns_to_ticks(ns)))
    }
    /// Whether the deadline has passed.
    pub fn passed(self) -> bool {
        now() >= self.0
    }
    /// The counter value of the deadline.
    pub fn ticks(self) -> u64 {
        self.0
    }
}

/// Sets the timer of this CPU to interrupt when the counter reaches `ticks`, or immediately if it has. The
/// interrupt stays asserted until a later time is set or the timer is disabled.
pub fn interrupt_at(ticks: u64) {
    counter::interrupt_at(ticks);
}

/// Disables the timer of this CPU.
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

    /// CNTFRQ_EL0; 1 if firmware left it 0, to avoid a division by zero.
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
    fn ticks_round_down_and_nanoseconds_round_up() {
        assert_eq!((ticks_to_ns(3), ns_to_ticks(3000), ns_to_ticks(3001)), (3000, 3, 4));
        assert_eq!(scale(7, 1_000_000_000, 62_500_000), 112);
        assert_eq!(scale(u64::MAX, 1_000_000_000, 1), u64::MAX);
        assert_eq!(ns_to_ticks(u64::MAX), 18_446_744_073_709_552);
    }

    /// The limits of the architecture, and the frequencies of a Raspberry Pi 3 and 4 and of QEMU.
    const FREQUENCIES: [u64; 5] = [1_000_000, 19_200_000, 54_000_000, 62_500_000, 1_000_000_000];

    #[test]
    fn ticks_to_nanoseconds_and_back_is_identity() {
        for frequency in FREQUENCIES {
            let century = frequency * 3_000_000_000;
            for ticks in [0, 1, 2, 3, 999, 1_000_000_007, century, century + 1] {
                let ns = scale(ticks, 1_000_000_000, frequency);
                assert_eq!(scale_up(ns, frequency), ticks, "{frequency} Hz, {ns} ns");
            }
        }
    }

    #[test]
    fn wait_exceeds_its_duration_by_less_than_a_tick() {
        for frequency in FREQUENCIES {
            for ns in [1, 15, 16, 17, 999, 1000, 1001, 10_000_000, 86_400_000_000_000, u64::MAX / 1_000_000] {
                let waited = u128::from(scale_up(ns, frequency)) * 1_000_000_000;
                let wanted = u128::from(ns) * u128::from(frequency);
                assert!(waited >= wanted, "{frequency} Hz, {ns} ns");
                assert!(waited - wanted < 1_000_000_000, "{frequency} Hz, {ns} ns");
            }
            assert_eq!(scale_up(1, frequency), 1, "1 ns rounds up to a tick at {frequency} Hz");
        }
    }

    #[test]
    fn conversions_saturate() {
        assert_eq!(scale_up(u64::MAX, 1_000_000_000), u64::MAX);
        assert_eq!(scale_up(u64::MAX, 2_000_000_000), u64::MAX);
        assert_eq!(scale(u64::MAX, 1_000_000_000, 1_000_000), u64::MAX);
        assert_eq!(scale_up(u64::MAX, 1), 18_446_744_074, "an unset frequency counts seconds");
    }

    #[test]
    fn deadline_passes() {
        let deadline = Deadline::in_ns(10_000);
        // Each read of the counter advances it by a tick.
        for tick in 1..=10 {
            assert_eq!(deadline.passed(), tick == 10, "tick {tick}");
        }
        let deadline = Deadline::in_ns(10_000);
        fake::advance(10);
        assert!(deadline.passed());
    }

    #[test]
    fn polling_advances_the_host_counter() {
        let deadline = Deadline::in_ns(1_000_000);
        while !deadline.passed() {}
    }
}
