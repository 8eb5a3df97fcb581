//! The kernel's own Secure monitor, installed by boot.s at EL3 on a machine without firmware.
//!
//! A kernel that was entered at EL3 controls the whole machine, but it runs at Non-secure EL1, from which
//! Secure registers (interrupt groups, a power controller) are not accessible. The monitor has one service: a
//! write to such a register.

use addr::PhysAddr;

/// Writes `value` to the 32-bit register at `at` from EL3, in Secure state. Requires that the kernel was
/// entered at EL3.
///
/// # Errors
/// [`NotSupported`] when EL3 belongs to firmware.
///
/// # Safety
/// `at` is a device register, and the write does not change memory or the CPUs' access to it.
pub unsafe fn write32(at: PhysAddr, value: u32) -> Result<(), NotSupported> {
    if call::secure_write(at.raw(), value) == 0 { Ok(()) } else { Err(NotSupported) }
}

/// EL3 does not implement the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotSupported;

#[cfg(target_os = "none")]
mod call {
    /// Function ID of the service, in the range of OEM calls (DEN 0028, 6); defined in boot.s too.
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
    fn write_is_one_monitor_call() {
        fake::take();
        // SAFETY: only recorded.
        assert_eq!(unsafe { write32(PhysAddr::new(0x5000_0000), 1) }, Ok(()));
        assert_eq!(fake::take(), [Instruction::SecureWrite(0x5000_0000, 1)]);
    }
}
