//! Registers: all are zero at the first instruction, and a system call changes only the result register.

#[cfg(not(target_arch = "aarch64"))]
use crate::result::ProbeResult;

/// Unsupported on other architectures.
#[cfg(not(target_arch = "aarch64"))]
pub fn registers(_: &[String]) -> ProbeResult {
    Err("only on AArch64".into())
}

#[cfg(target_arch = "aarch64")]
pub use aarch64::registers;

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::global_asm;
    use std::mem::offset_of;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::is_kernel_address;
    use crate::result::{ProbeResult, ensure};

    /// All registers accessible to a program.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct ProgramRegisters {
        x: [u64; 31],
        sp: u64,
        v: [u128; 32],
        /// FPCR, FPSR, TPIDR_EL0, TPIDRRO_EL0.
        special: [u64; 4],
    }

    const ZERO: ProgramRegisters = ProgramRegisters { x: [0; 31], sp: 0, v: [0; 32], special: [0; 4] };

    #[unsafe(no_mangle)]
    static mut PROBE_FIRST: ProgramRegisters = ZERO;

    unsafe extern "C" {
        /// Loads the registers from `before` (except SP and TPIDR_EL0), performs a system call, stores them
        /// to `after`.
        fn probe_call_with(before: *const ProgramRegisters, after: *mut ProgramRegisters);
    }

    global_asm!(include_str!("registers.s"));

    // Offsets in registers.s.
    const _: () = assert!(offset_of!(ProgramRegisters, x) == 0 && offset_of!(ProgramRegisters, sp) == 248);
    const _: () =
        assert!(offset_of!(ProgramRegisters, v) == 256 && offset_of!(ProgramRegisters, special) == 768);

    /// See the module documentation.
    pub fn registers(_: &[String]) -> ProbeResult {
        first_instruction()?;
        // Other threads run in between, with different values in all registers.
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        call(libc::SYS_sched_yield, [0; 6], 0x1111 * thread);
                    }
                });
            }
            let outcome = all_calls();
            done.store(true, Ordering::Relaxed);
            outcome
        })
    }

    fn first_instruction() -> ProbeResult {
        // SAFETY: written only before `_start`.
        let first = unsafe { (&raw const PROBE_FIRST).read() };
        let wrong = (0..31).find(|&n| first.x[n] != 0);
        ensure(wrong.is_none(), || {
            format!("x{} is {:#x} at entry", wrong.unwrap_or(0), first.x[wrong.unwrap_or(0)])
        })?;
        let wrong = (0..32).find(|&n| first.v[n] != 0);
        ensure(wrong.is_none(), || {
            format!("v{} is {:#x} at entry", wrong.unwrap_or(0), first.v[wrong.unwrap_or(0)])
        })?;
        ensure(first.special == [0; 4], || {
            format!("FPCR, FPSR, TPIDR, TPIDRRO are {:x?} at entry", first.special)
        })?;
        ensure(first.sp != 0 && !is_kernel_address(first.sp), || format!("SP is {:#x} at entry", first.sp))
    }

    fn all_calls() -> ProbeResult {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
        let time = (&raw const time).expose_provenance() as u64;
        let mut room = [0u64; 64];
        let room = room.as_mut_ptr().expose_provenance() as u64;
        let here = libc::AT_FDCWD as u64;
        let calls = [
            (libc::SYS_getpid, [0; 6]),
            (libc::SYS_sched_yield, [0; 6]),
            (libc::SYS_clock_nanosleep, [1, 0, time, 0, 0, 0]),
            (libc::SYS_clock_gettime, [1, room, 0, 0, 0, 0]),
            (libc::SYS_getrandom, [room, 64, 0, 0, 0, 0]),
            (libc::SYS_fstat, [1, room, 0, 0, 0, 0]),
            (libc::SYS_openat, [here, 8, 0, 0, 0, 0]),
            (libc::SYS_ioctl, [1, 0xffff_ffff, 8, 0, 0, 0]),
            (libc::SYS_munmap, [u64::MAX, 8, 0, 0, 0, 0]),
            (libc::SYS_futex, [room, 129, 1, 0, 0, 0]),
            (1000, [0; 6]),
        ];
        for round in 0..40 {
            for (number, arguments) in calls {
                let (before, after) = call(number, arguments, 0x5a5a << 16 | round);
                compare(number, &before, &after)?;
            }
        }
        Ok(())
    }

    /// Performs a system call with values derived from `seed` in all other registers.
    fn call(number: i64, arguments: [u64; 6], seed: u64) -> (ProgramRegisters, ProgramRegisters) {
        let mut before = ZERO;
        before.x = std::array::from_fn(|n| seed << 32 | (n as u64) << 8 | 0x77);
        before.x[..6].copy_from_slice(&arguments);
        before.x[8] = number as u64;
        before.v = std::array::from_fn(|n| u128::from(seed) << 64 | n as u128);
        // FPCR: round towards zero. FPSR: cumulative inexact.
        before.special = [0b11 << 22, 1 << 4, 0, 0];
        let mut after = ZERO;
        // SAFETY: both are local; the system call modifies only the caller's `room`, and the function
        // preserves the callee-saved registers.
        unsafe { probe_call_with(&before, &mut after) };
        (before, after)
    }

    fn compare(number: i64, before: &ProgramRegisters, after: &ProgramRegisters) -> ProbeResult {
        let wrong = (1..31).find(|&n| before.x[n] != after.x[n]);
        ensure(wrong.is_none(), || {
            let n = wrong.unwrap_or(0);
            format!("call {number}: x{n} was {:#x} and is {:#x}", before.x[n], after.x[n])
        })?;
        let wrong = (0..32).find(|&n| before.v[n] != after.v[n]);
        ensure(wrong.is_none(), || {
            let n = wrong.unwrap_or(0);
            format!("call {number}: v{n} was {:#x} and is {:#x}", before.v[n], after.v[n])
        })?;
        let control = before.special[..2] == after.special[..2];
        ensure(control, || format!("call {number}: FPCR and FPSR became {:x?}", &after.special[..2]))?;
        let [.., tpidr, tpidrro] = after.special;
        ensure(!is_kernel_address(tpidr) && tpidrro == 0, || {
            format!("TPIDR {tpidr:#x}, TPIDRRO {tpidrro:#x}")
        })?;
        ensure(!is_kernel_address(after.x[0]), || format!("call {number} returns {:#x}", after.x[0]))
    }
}
