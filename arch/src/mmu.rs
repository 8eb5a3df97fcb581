//! Translation table base registers and address translation instructions.
//!
//! boot.s sets the registers that never change: two 48-bit halves with 4 KiB granule, write-back cacheable
//! and inner shareable walks, the ASID in TTBR0 (16 bits if implemented), no hardware update of access flag
//! or dirty state (TCR_EL1); MAIR index 0 write-back, 1 non-cacheable, 2 Device-nGnRE, 3 Device-nGnRnE;
//! WXN, so that no writable page is ever executable, PAN on every entry to EL1, and for programs cache
//! maintenance, DC ZVA, CTR_EL0 and FEAT_MOPS (SCTLR_EL1).

use addr::{Asid, KernelVa, PhysAddr};

/// The result of an address translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The output address.
    pub phys: PhysAddr,
    /// The memory type, encoded as in MAIR_EL1.
    pub attributes: u8,
    /// 0 non-shareable, 2 outer shareable, 3 inner shareable.
    pub shareability: u8,
}

impl Translation {
    /// [`Translation::attributes`] of write-back memory.
    pub const WRITE_BACK: u8 = 0xff;
    /// [`Translation::attributes`] of non-cacheable memory.
    pub const NON_CACHEABLE: u8 = 0x44;
    /// [`Translation::attributes`] of Device-nGnRE memory.
    pub const DEVICE: u8 = 0x04;
    /// [`Translation::attributes`] of Device-nGnRnE memory.
    pub const DEVICE_NON_POSTED: u8 = 0x00;

    /// Decodes PAR_EL1 (D24.2.124) after the translation of `address`.
    #[cfg_attr(
        not(any(target_os = "none", test)),
        expect(dead_code, reason = "a host has no AT instruction")
    )]
    fn from_par(par: u64, address: u64) -> Option<Self> {
        const FAULT: u64 = 1;
        const FRAME: u64 = 0x000f_ffff_ffff_f000;
        (par & FAULT == 0).then(|| Self {
            phys: PhysAddr::new(par & FRAME | address & 0xfff),
            attributes: (par >> 56) as u8,
            shareability: (par >> 7 & 3) as u8,
        })
    }
}

/// Translates `va` for a kernel read (AT S1E1R); `None` if the read would fault.
pub fn translate_kernel(va: KernelVa) -> Option<Translation> {
    walk::s1e1r(va.raw())
}

/// Translates `va` for a kernel write (AT S1E1W); `None` if the write would fault.
pub fn translate_kernel_write(va: KernelVa) -> Option<Translation> {
    walk::s1e1w(va.raw())
}

#[cfg(target_os = "none")]
mod walk {
    use super::Translation;
    use crate::cpu;
    use core::arch::asm;

    /// Defines a translation by an AT instruction.
    macro_rules! translate {
        ($name:ident) => {
            pub fn $name(va: u64) -> Option<Translation> {
                // An interrupt handler could overwrite PAR_EL1.
                let _masked = cpu::mask_irqs();
                let par: u64;
                // SAFETY: AT changes PAR_EL1 only, and reports a fault there.
                unsafe {
                    asm!(concat!("at ", stringify!($name), ", {0}"), "isb", "mrs {0}, par_el1",
                        inout(reg) va => par, options(nostack, preserves_flags));
                }
                Translation::from_par(par, va)
            }
        };
    }
    translate!(s1e1r);
    translate!(s1e1w);
}

#[cfg(not(target_os = "none"))]
mod walk {
    use super::Translation;

    pub fn s1e1r(_: u64) -> Option<Translation> {
        None
    }

    pub fn s1e1w(_: u64) -> Option<Translation> {
        None
    }
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::{barrier, boot, cpu};
    use aarch64_cpu::registers::{Readable, TTBR0_EL1, TTBR1_EL1, Writeable};
    use core::arch::asm;

    const ASID_SHIFT: u32 = 48;
    const BADDR: u64 = 0x0000_ffff_ffff_fffe;

    /// Sets TTBR1_EL1 of this CPU to `root`.
    ///
    /// The early and the final tables map the same addresses with different block sizes, and a TLB must not
    /// hold both (D8.16.1, break-before-make). The code therefore runs from the identity map in TTBR0, and
    /// installs an empty TTBR1 and invalidates the TLB in between. For the boot CPU only, before other CPUs
    /// run; afterwards TTBR0 is empty.
    ///
    /// # Safety
    /// `root` is a level 0 table that is never freed. It maps the image by [`boot::sections`], the current
    /// stack and every other address in use, such as the UART.
    pub unsafe fn replace_ttbr1(root: PhysAddr) {
        let _masked = cpu::mask_irqs();
        TTBR0_EL1.set(boot::identity_root().raw());
        barrier::isb();
        // SAFETY: the identity map maps the code at its physical address; the code accesses no memory and
        // returns through the new tables, which map this function by the caller's promise.
        unsafe {
            asm!("blr {code}", code = in(reg) boot::replace_ttbr1_code().raw(),
                in("x0") root.raw(), in("x1") boot::no_tables().raw(), out("x30") _, options(nostack));
        }
        boot::leave_identity_map();
    }

    /// The root in TTBR1_EL1 of this CPU.
    pub fn kernel_root() -> PhysAddr {
        PhysAddr::new(TTBR1_EL1.get() & BADDR)
    }

    /// The user root and ASID in TTBR0_EL1 of this CPU; `None` while no program is installed.
    pub fn user_root() -> Option<(PhysAddr, Asid)> {
        let ttbr = TTBR0_EL1.get();
        let root = PhysAddr::new(ttbr & BADDR);
        (root != boot::no_tables()).then(|| (root, Asid::new((ttbr >> ASID_SHIFT) as u16)))
    }

    /// Sets user root and ASID in TTBR0_EL1 of this CPU. A single write changes both, so that no TLB entry
    /// gets the ASID of another program.
    ///
    /// # Safety
    /// `root` is a level 0 table, not freed before it is uninstalled on all CPUs and
    /// [`tlb::asid`](crate::tlb::asid) has returned. `asid` is not 0, the ASID of the empty table, fits
    /// [`asid_bits`], and no TLB has entries of another program with it.
    pub unsafe fn install_user(root: PhysAddr, asid: Asid) {
        TTBR0_EL1.set(root.raw() | u64::from(asid.raw()) << ASID_SHIFT);
        barrier::isb();
    }

    /// Sets TTBR0_EL1 of this CPU to the empty table. TLB entries of the program remain until
    /// [`tlb::asid`](crate::tlb::asid).
    pub fn uninstall_user() {
        TTBR0_EL1.set(boot::no_tables().raw());
        barrier::isb();
    }
}

#[cfg(not(target_os = "none"))]
mod target {
    use super::*;
    use crate::fake::{self, Instruction, record};

    /// Sets TTBR1_EL1.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn replace_ttbr1(root: PhysAddr) {
        record(Instruction::ReplaceTtbr1(root));
    }

    /// The root in TTBR1_EL1; 0 on a host.
    pub fn kernel_root() -> PhysAddr {
        PhysAddr::new(0)
    }

    /// The user root and ASID of this thread.
    pub fn user_root() -> Option<(PhysAddr, Asid)> {
        fake::user_root()
    }

    /// Sets user root and ASID in TTBR0_EL1.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn install_user(root: PhysAddr, asid: Asid) {
        fake::set_user_root(Some((root, asid)));
        record(Instruction::InstallUser(root, asid));
    }

    /// Sets TTBR0_EL1 to the empty table.
    pub fn uninstall_user() {
        fake::set_user_root(None);
        record(Instruction::UninstallUser);
    }
}

pub use target::*;

/// The width of an ASID, 8 or 16 bits.
pub fn asid_bits() -> u32 {
    if crate::cpu::features().contains(crate::cpu::CpuFeatures::ASID16) { 16 } else { 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn par_is_decoded() {
        let found = Translation::from_par(0xff00_0000_4020_1b80, 0xffff_8000_0000_1234).unwrap();
        assert_eq!(found.phys, PhysAddr::new(0x4020_1234));
        assert_eq!((found.attributes, found.shareability), (Translation::WRITE_BACK, 3));
        assert_eq!(Translation::from_par(0x0000_0000_0000_080f, 0x1000), None);
    }
}
