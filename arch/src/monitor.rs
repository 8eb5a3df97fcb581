//! The secure side, where no firmware is: what boot.s leaves at EL3 when it enters there does one thing for the kernel.
//!
//! A kernel that was entered at EL3 owns the machine, and has nobody else to protect; still it runs at EL1, where some
//! registers are out of its reach (who may use the interrupt controller, who may switch off).

use addr::PhysAddr;

/// Writes `value` to the 32-bit register at `at` as the secure side. Only for a kernel that was entered at EL3.
///
/// # Errors
/// [`NotSupported`] when nobody is there to do it.
pub fn write32(at: PhysAddr, value: u32) -> Result<(), NotSupported> {
    if call::secure_write(at.raw(), value) == 0 { Ok(()) } else { Err(NotSupported) }
}

/// What is at EL3 is not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotSupported;

#[cfg(target_os = "none")]
mod call {
    /// An OEM service call (DEN 0028, 6): boot.s knows it by the same number.
    const SECURE_WRITE: u64 = 0xc300_5401;

    pub fn secure_write(at: u64, value: u32) -> u64 {
        let [result, ..] = smccc::smc64(
            SECURE_WRITE as u32,
            [at, value.into(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        result
    }
}

#[cfg(not(target_os = "none"))]
mod call {
    use crate::fake::{Instruction, record};

    pub fn secure_write(at: u64, value: u32) -> u64 {
        record(Instruction::SecureWrite(at, value));
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Instruction};

    #[test]
    fn a_write_is_one_call() {
        fake::take();
        assert_eq!(write32(PhysAddr::new(0x5000_0000), 1), Ok(()));
        assert_eq!(fake::take(), [Instruction::SecureWrite(0x5000_0000, 1)]);
    }
}
