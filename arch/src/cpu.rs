//! The running CPU: number, affinity, features, interrupt mask, wait and halt instructions.

use crate::{errata, irqsoff};
use bitflags::bitflags;
use core::marker::PhantomData;

/// The maximum number of CPUs. linker.ld reserves an emergency stack for each.
pub const MAX_CPUS: usize = 32;
/// Size in bytes of the stack that a CPU uses after a stack overflow; must match linker.ld.
pub const EMERGENCY_STACK_SIZE: u64 = 8 << 10;

bitflags! {
    /// The features that all running CPUs have.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CpuFeatures: u64 {
        /// FEAT_PAN: ordinary loads and stores of the kernel cannot access user pages.
        const PAN = 1 << 0;
        /// 16-bit ASIDs.
        const ASID16 = 1 << 1;
        /// FEAT_TLBIRANGE.
        const TLB_RANGE = 1 << 2;
        /// FEAT_RNG: random number registers.
        const RANDOM = 1 << 3;
        /// FEAT_LSE: atomic read-modify-write instructions.
        const ATOMICS = 1 << 4;
        /// FP and SIMD registers.
        const FP = 1 << 5;
        /// CRC32 instructions.
        const CRC32 = 1 << 6;
        /// System register access to the GIC CPU interface.
        const GIC_REGISTERS = 1 << 7;
        /// FEAT_MOPS, not disabled by a higher exception level: memory copy and memory set instructions.
        const MOPS = 1 << 8;
        /// A broadcast TLBI and a DSB complete all accesses through old translations (no erratum of
        /// [`repeats_tlbi`](crate::errata)).
        const TLBI_COMPLETES = 1 << 9;
    }
}

impl CpuFeatures {
    /// Decodes the ID registers (D24.2).
    fn decode(ids: &CpuIdRegisters) -> Self {
        let field = |register: u64, lsb: u32| register >> lsb & 0xf;
        let mut features = Self::empty();
        features.set(Self::PAN, field(ids.mmfr1, 20) != 0);
        features.set(Self::ASID16, field(ids.mmfr0, 4) == 2);
        features.set(Self::TLB_RANGE, field(ids.isar0, 56) >= 2);
        features.set(Self::RANDOM, field(ids.isar0, 60) != 0);
        features.set(Self::ATOMICS, field(ids.isar0, 20) >= 2);
        features.set(Self::CRC32, field(ids.isar0, 16) != 0);
        features.set(Self::FP, field(ids.pfr0, 16) != 0xf);
        features.set(Self::GIC_REGISTERS, field(ids.pfr0, 24) != 0);
        features.set(Self::MOPS, field(ids.isar2, 16) != 0);
        if errata::repeats_tlbi(ids.midr) {
            // Without the range instructions only the path that does not use them tests for the erratum, and
            // it costs nothing on other CPUs that have them.
            features.remove(Self::TLB_RANGE);
        } else {
            features.insert(Self::TLBI_COMPLETES);
        }
        features
    }
}

/// The ID registers that [`CpuFeatures`] decodes.
#[derive(Clone, Copy, Default)]
struct CpuIdRegisters {
    midr: u64,
    pfr0: u64,
    isar0: u64,
    isar2: u64,
    mmfr0: u64,
    mmfr1: u64,
}

/// Masks interrupts (PSTATE.I) until the guard is dropped, which restores the previous mask. Guards nest:
/// they are dropped in the reverse order, which the checking build and host tests check.
#[cfg_attr(feature = "irqsoff", track_caller)]
pub fn mask_irqs() -> IrqGuard {
    let guard = IrqGuard { was_masked: irqs_masked(), not_send: PhantomData };
    set_irqs_masked(true);
    irqsoff::start();
    guard
}

/// Keeps interrupts masked on this CPU.
#[must_use = "interrupts are unmasked when the guard is dropped"]
#[derive(Debug)]
pub struct IrqGuard {
    was_masked: bool,
    /// Not `Send`: the guard belongs to one CPU.
    not_send: PhantomData<*const ()>,
}

impl Drop for IrqGuard {
    fn drop(&mut self) {
        // The drop of an outer guard before that of an inner one unmasks interrupts too early.
        if cfg!(any(feature = "irqsoff", debug_assertions)) {
            assert!(irqs_masked(), "an interrupt guard is dropped after an outer one");
        }
        if !self.was_masked {
            irqsoff::end();
            set_irqs_masked(false);
        }
    }
}

/// Unmasks interrupts.
///
/// # Safety
/// No [`IrqGuard`] of this CPU is dropped later: its holder, such as a spinlock or a context switch, relies
/// on the mask.
pub unsafe fn unmask_irqs() {
    irqsoff::end();
    set_irqs_masked(false);
}

/// Hints that this CPU is in a spin loop (YIELD, C6.2), so that another hardware thread or virtual CPU can
/// run.
#[inline]
pub fn yield_now() {
    #[cfg(target_os = "none")]
    // SAFETY: a hint.
    unsafe {
        core::arch::asm!("yield", options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    core::hint::spin_loop();
}

/// Stops this CPU permanently.
pub fn halt() -> ! {
    set_irqs_masked(true);
    loop {
        wfi();
    }
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::probe;
    use aarch64_cpu::registers::{
        CurrentEL, DAIF, ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64PFR0_EL1, MIDR_EL1,
        MPIDR_EL1, Readable, TPIDR_EL1, Writeable,
    };
    use addr::KernelVa;
    use core::arch::asm;
    use core::mem::offset_of;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// CPU-local data, at TPIDR_EL1. exception.s uses the offsets.
    #[repr(C)]
    struct CpuLocal {
        index: AtomicU64,
        /// The top of the emergency stack.
        emergency_stack: AtomicU64,
        /// Not 0 after a stack overflow.
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
    /// The bits of [`features`].
    static FEATURES: AtomicU64 = AtomicU64::new(0);
    /// MIDR_EL1 of each CPU.
    static MIDR: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

    /// Sets up the CPU-local data of this CPU: its number `index` and the top of its emergency stack. Panics
    /// if `index` is not below [`MAX_CPUS`].
    pub(crate) fn install(index: usize, emergency_stack: KernelVa) {
        let local = &LOCALS[index];
        local.index.store(index as u64, Relaxed);
        local.emergency_stack.store(emergency_stack.raw(), Relaxed);
        TPIDR_EL1.set(core::ptr::from_ref(local) as u64);
    }

    /// Removes the features that this CPU lacks from [`features`]; the boot CPU, which must be first, sets
    /// them. Requires the vector table, and must precede the first migration of a thread.
    pub(crate) fn detect(index: usize) {
        MIDR[index].store(MIDR_EL1.get(), Relaxed);
        let mut own = CpuFeatures::decode(&CpuIdRegisters::read());
        if own.contains(CpuFeatures::MOPS) && !probe::executes_memory_set() {
            own.remove(CpuFeatures::MOPS);
        }
        if index == 0 {
            FEATURES.store(own.bits(), Relaxed);
        } else {
            FEATURES.fetch_and(own.bits(), Relaxed);
        }
    }

    impl CpuIdRegisters {
        fn read() -> Self {
            Self {
                midr: MIDR_EL1.get(),
                pfr0: ID_AA64PFR0_EL1.get(),
                isar0: ID_AA64ISAR0_EL1.get(),
                isar2: isar2(),
                mmfr0: ID_AA64MMFR0_EL1.get(),
                mmfr1: ID_AA64MMFR1_EL1.get(),
            }
        }
    }

    /// ID_AA64ISAR2_EL1, by its encoding: not every assembler has the name.
    fn isar2() -> u64 {
        let value: u64;
        // SAFETY: reads an ID register; an encoding without a register reads as 0 in this block (D24.2).
        unsafe { asm!("mrs {}, S3_0_C0_C6_2", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    /// The features that all running CPUs have.
    #[inline]
    pub fn features() -> CpuFeatures {
        CpuFeatures::from_bits_truncate(FEATURES.load(Relaxed))
    }

    /// MIDR_EL1 of a running CPU.
    pub fn midr(index: usize) -> u64 {
        MIDR[index].load(Relaxed)
    }

    /// The width of physical addresses (PARange), at most 48 bits.
    pub fn physical_bits() -> u32 {
        [32, 36, 40, 42, 44, 48][ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5) as usize]
    }

    /// This CPU's number, 0 for the boot CPU, below [`MAX_CPUS`].
    #[inline]
    pub fn index() -> usize {
        let local = TPIDR_EL1.get() as *const CpuLocal;
        // SAFETY: `install` set TPIDR_EL1 to an element of LOCALS before other Rust code ran on this CPU.
        unsafe { (*local).index.load(Relaxed) as usize }
    }

    /// The current exception level.
    pub fn exception_level() -> u8 {
        (CurrentEL.get() >> 2) as u8
    }

    /// PSTATE.PAN: whether the kernel cannot access memory that EL0 can. `None` without FEAT_PAN.
    pub fn privileged_access_never() -> Option<bool> {
        super::features().contains(super::CpuFeatures::PAN).then(|| {
            let pan: u64;
            // SAFETY: reads PSTATE.PAN, which exists with FEAT_PAN (DDI 0487, C5.2.20).
            unsafe { core::arch::asm!("mrs {}, s3_0_c4_c2_3", out(reg) pan, options(nomem, nostack)) };
            pan & 1 << 22 != 0
        })
    }

    /// The affinity of this CPU (MPIDR_EL1 without flag bits), as in PSCI and in `reg` of the device tree.
    pub fn affinity() -> u64 {
        MPIDR_EL1.get() & 0xff_00ff_ffff
    }

    /// Whether interrupts are masked on this CPU.
    #[inline]
    pub fn irqs_masked() -> bool {
        DAIF.is_set(DAIF::I)
    }

    #[inline]
    pub(super) fn set_irqs_masked(masked: bool) {
        // SAFETY: changes PSTATE.I only. Without `nomem`, the compiler does not move accesses across.
        unsafe {
            match masked {
                true => asm!("msr daifset, #2", options(nostack, preserves_flags)),
                false => asm!("msr daifclr, #2", options(nostack, preserves_flags)),
            }
        }
    }

    /// Defines a function of one hint instruction.
    macro_rules! hint {
        ($(#[$doc:meta])* $name:ident) => {
            $(#[$doc])*
            #[inline]
            pub fn $name() {
                // SAFETY: a hint.
                unsafe { asm!(stringify!($name), options(nostack, preserves_flags)) };
            }
        };
    }
    hint! {
        /// Waits for a pending interrupt, masked or not.
        wfi
    }
    hint! {
        /// Waits for an event or an interrupt.
        wfe
    }
    hint! {
        /// Sends an event to all CPUs. If the event announces a store, a [`dsb_ish`](crate::barrier::dsb_ish)
        /// must precede.
        sev
    }

    /// A random number from RNDR; `None` without FEAT_RNG, or if RNDR has no number available.
    pub fn random() -> Option<u64> {
        if !features().contains(CpuFeatures::RANDOM) {
            return None;
        }
        let (value, failed): (u64, u64);
        // SAFETY: reads RNDR (S3_3_C2_C4_0), which sets PSTATE.Z on failure.
        unsafe {
            asm!("mrs {}, S3_3_C2_C4_0", "cset {}, eq", out(reg) value, out(reg) failed, options(nostack))
        };
        (failed == 0).then_some(value)
    }
}

/// On a host every thread is CPU 0 of a machine without optional features.
#[cfg(not(target_os = "none"))]
mod target {
    use super::*;
    use crate::fake::{self, Instruction};

    /// The features that all running CPUs have.
    pub fn features() -> CpuFeatures {
        CpuFeatures::decode(&CpuIdRegisters { midr: fake::midr(), ..CpuIdRegisters::default() })
    }

    /// MIDR_EL1 of a running CPU.
    pub fn midr(_: usize) -> u64 {
        fake::midr()
    }

    /// The width of physical addresses, at most 48 bits.
    pub fn physical_bits() -> u32 {
        48
    }

    /// This CPU's number, 0 for the boot CPU, below [`MAX_CPUS`].
    pub fn index() -> usize {
        0
    }

    /// The current exception level; 0 on a host.
    pub fn exception_level() -> u8 {
        0
    }

    /// `None`: a host has no PSTATE.
    pub fn privileged_access_never() -> Option<bool> {
        None
    }

    /// The affinity of this CPU.
    pub fn affinity() -> u64 {
        0
    }

    /// Whether interrupts are masked on this CPU.
    pub fn irqs_masked() -> bool {
        fake::irqs_masked()
    }

    pub(super) fn set_irqs_masked(masked: bool) {
        fake::set_irqs_masked(masked);
    }

    /// Waits for a pending interrupt, masked or not.
    pub fn wfi() {
        fake::record(Instruction::Hint("wfi"));
    }

    /// Waits for an event or an interrupt.
    pub fn wfe() {
        fake::record(Instruction::Hint("wfe"));
    }

    /// Sends an event to all CPUs.
    pub fn sev() {
        fake::record(Instruction::Hint("sev"));
    }

    /// A random number of the CPU; always `None` on a host.
    pub fn random() -> Option<u64> {
        None
    }
}

use target::set_irqs_masked;
pub use target::*;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn irq_guards_nest() {
        // SAFETY: no guard exists.
        unsafe { unmask_irqs() };
        let outer = mask_irqs();
        drop(mask_irqs());
        assert!(irqs_masked(), "the inner guard restores the masked state");
        drop(outer);
        assert!(!irqs_masked());
    }

    #[test]
    #[should_panic(expected = "dropped after an outer one")]
    fn irq_guards_dropped_in_the_order_of_their_creation_panic() {
        // SAFETY: no guard exists.
        unsafe { unmask_irqs() };
        let (outer, inner) = (mask_irqs(), mask_irqs());
        drop(outer);
        drop(inner);
    }

    #[test]
    fn mops_is_read_from_isar2() {
        let with = CpuIdRegisters { isar2: 0x0000_0000_0001_0000, ..CpuIdRegisters::default() };
        assert!(CpuFeatures::decode(&with).contains(CpuFeatures::MOPS));
        assert!(!CpuFeatures::decode(&CpuIdRegisters::default()).contains(CpuFeatures::MOPS));
    }

    /// FEAT_TLBIOS without FEAT_TLBIRANGE, and values that the architecture reserves (DDI 0487, D24.2).
    #[test]
    fn lower_values_of_a_field_are_not_the_feature() {
        let ids = CpuIdRegisters { isar0: 1 << 56 | 1 << 20, mmfr0: 1 << 4, ..CpuIdRegisters::default() };
        let features = CpuFeatures::decode(&ids);
        let absent = CpuFeatures::TLB_RANGE | CpuFeatures::ATOMICS | CpuFeatures::ASID16;
        assert!(!features.intersects(absent), "{features:?}");
        let ids = CpuIdRegisters { isar0: 2 << 56 | 2 << 20, mmfr0: 2 << 4, ..CpuIdRegisters::default() };
        assert!(CpuFeatures::decode(&ids).contains(absent));
    }

    #[test]
    fn features_of_a_cortex_a53_and_a_neoverse_n1() {
        let a53 = CpuIdRegisters {
            midr: 0x410f_d034,
            pfr0: 0x0000_2222,
            isar0: 0x0001_1120,
            mmfr0: 0x0000_1122,
            ..CpuIdRegisters::default()
        };
        let expected =
            CpuFeatures::ASID16 | CpuFeatures::FP | CpuFeatures::CRC32 | CpuFeatures::TLBI_COMPLETES;
        assert_eq!(CpuFeatures::decode(&a53), expected);
        let n1 = CpuIdRegisters {
            midr: 0x413f_d0c1,
            pfr0: 0x1100_0000_1111_1112,
            isar0: 0x0000_1000_1021_1120,
            mmfr0: 0x0000_0000_0010_1125,
            mmfr1: 0x0000_0000_1021_2122,
            ..CpuIdRegisters::default()
        };
        let expected = CpuFeatures::ASID16
            | CpuFeatures::FP
            | CpuFeatures::CRC32
            | CpuFeatures::PAN
            | CpuFeatures::ATOMICS
            | CpuFeatures::GIC_REGISTERS
            | CpuFeatures::TLBI_COMPLETES;
        assert_eq!(CpuFeatures::decode(&n1), expected);
    }
}
