//! The vDSO in the kernel: its image and its address in programs.

use crate::sched;
use abi::clock::NANOSECONDS;
use addr::{PAGE_SIZE, UserVa};
use program::{USER_END, Vdso, VdsoTime};
use spin::Once;

/// The address of the vDSO in programs: the last page of the address space.
pub const ADDRESS: UserVa = UserVa::new(USER_END - PAGE_SIZE);

/// Returns the vDSO. The first program starts after the real time is set, which is never set again.
pub fn vdso() -> &'static Vdso {
    static VDSO: Once<Vdso> = Once::new();
    VDSO.call_once(|| {
        let start = sched::time::counter_start();
        let (seconds, nanoseconds) = (start / NANOSECONDS, start % NANOSECONDS);
        let time = VdsoTime { frequency: arch::timer::frequency(), seconds, nanoseconds };
        Vdso::build(arch::vdso::code(), time)
    })
}
