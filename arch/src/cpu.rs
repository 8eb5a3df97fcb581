//! Who am I: this CPU's place in the machine, its own memory, its interrupt mask, waiting and halting.

/// The most CPUs the kernel starts; linker.ld reserves an emergency stack for each.
pub const MAX_CPUS: usize = 32;
/// Bytes of the stack a CPU falls back to when its own overflowed; linker.ld says so too.
pub const EMERGENCY_STACK_SIZE: u64 = 8 << 10;

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::boot;
    use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL1, Writeable};
    use core::mem::offset_of;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// What assembly finds through TPIDR_EL1 (offsets are in exception.s too).
    #[repr(C)]
    struct CpuLocal {
        index: AtomicU64,
        /// The top of the emergency stack.
        emergency_stack: AtomicU64,
        /// Not 0 once it was needed.
        overflowed: AtomicU64,
    }

    const _: () =
        assert!(offset_of!(CpuLocal, emergency_stack) == 8 && offset_of!(CpuLocal, overflowed) == 16);

    impl CpuLocal {
        const fn new() -> Self {
            Self {
                index: AtomicU64::new(0),
                emergency_stack: AtomicU64::new(0),
                overflowed: AtomicU64::new(0),
            }
        }
    }

    static LOCALS: [CpuLocal; MAX_CPUS] = [const { CpuLocal::new() }; MAX_CPUS];

    /// Makes this CPU number `index`. Panics past [`MAX_CPUS`].
    pub(crate) fn install(index: usize) {
        let local = &LOCALS[index];
        local.index.store(index as u64, Relaxed);
        local.emergency_stack.store(boot::emergency_stack(index).end().raw(), Relaxed);
        TPIDR_EL1.set(core::ptr::from_ref(local) as u64);
    }

    /// This CPU's number, 0 for the boot CPU, below [`MAX_CPUS`].
    #[inline]
    pub fn index() -> usize {
        let local = TPIDR_EL1.get() as *const CpuLocal;
        // SAFETY: `install` pointed TPIDR_EL1 at an element of LOCALS before any Rust code beyond boot ran here.
        unsafe { (*local).index.load(Relaxed) as usize }
    }

    /// This CPU's affinity, as PSCI and the device tree's `reg` have it (MPIDR_EL1 without its flag bits).
    pub fn affinity() -> u64 {
        MPIDR_EL1.get() & 0xff_00ff_ffff
    }
}

/// On a host every thread is CPU 0.
#[cfg(not(target_os = "none"))]
mod host {
    /// This CPU's number, 0 for the boot CPU, below [`MAX_CPUS`](super::MAX_CPUS).
    pub fn index() -> usize {
        0
    }

    /// This CPU's affinity, as PSCI and the device tree's `reg` have it (MPIDR_EL1 without its flag bits).
    pub fn affinity() -> u64 {
        0
    }
}

#[cfg(not(target_os = "none"))]
pub use host::*;
#[cfg(target_os = "none")]
pub use target::*;
