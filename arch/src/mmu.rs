//! Which tables this CPU walks, and what it finds there.
//!
//! boot.s sets the registers that never change: two 48-bit halves in 4 KiB granules, walks write-back cacheable
//! and inner shareable, the ASID in TTBR0 (16 bits where there are), no hardware access flag or dirty state
//! (TCR_EL1); MAIR index 0 write-back, 1 non-cacheable, 2 Device-nGnRE; WXN, so that nothing writable is ever
//! executable, PAN on every entry to EL1, and for programs cache maintenance, DC ZVA, CTR_EL0 and FEAT_MOPS (SCTLR_EL1).

use addr::{Asid, KernelVa, PhysAddr};

/// What a CPU makes of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where it leads.
    pub phys: PhysAddr,
    /// The memory type, as a byte of MAIR_EL1.
    pub attributes: u8,
    /// 0 non, 2 outer, 3 inner shareable.
    pub shareability: u8,
}

impl Translation {
    /// [`Translation::attributes`] of write-back memory.
    pub const WRITE_BACK: u8 = 0xff;
    /// [`Translation::attributes`] of non-cacheable memory.
    pub const NON_CACHEABLE: u8 = 0x44;

    /// Reads PAR_EL1 (D24.2.124) after the translation of `address`.
    #[cfg_attr(not(any(target_os = "none", test)), expect(dead_code, reason = "a host translates nothing"))]
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

/// What the kernel reads at `va` (AT S1E1R): `None` when that would fault.
pub fn translate_kernel(va: KernelVa) -> Option<Translation> {
    walk::s1e1r(va.raw())
}

/// What the kernel writes at `va` (AT S1E1W): `None` when that would fault.
pub fn translate_kernel_write(va: KernelVa) -> Option<Translation> {
    walk::s1e1w(va.raw())
}

#[cfg(target_os = "none")]
mod walk {
    use super::Translation;
    use crate::cpu;
    use core::arch::asm;

    /// Defines a translation by one AT instruction.
    macro_rules! translate {
        ($name:ident) => {
            pub fn $name(va: u64) -> Option<Translation> {
                // An interrupt between the two could translate something else.
                let _masked = cpu::mask_irqs();
                let par: u64;
                // SAFETY: AT and PAR_EL1 touch nothing else; a fault shows in PAR_EL1 alone.
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

    /// Makes this CPU walk `root` for the kernel's half.
    ///
    /// The early and the final tables map the same addresses with different sizes, which no TLB may hold at
    /// once (D8.16.1, break-before-make). So the switch runs at its physical address through TTBR0, with an
    /// empty TTBR1 and a TLB invalidation in between. Only for the boot CPU, before others walk tables;
    /// afterwards no program is installed.
    ///
    /// # Safety
    /// `root` is a level 0 table that lives for ever, maps the image as [`boot::sections`] says, and whatever
    /// else is in use: this stack, the UART.
    pub unsafe fn replace_ttbr1(root: PhysAddr) {
        let _masked = cpu::mask_irqs();
        TTBR0_EL1.set(boot::identity_root().raw());
        barrier::isb();
        // SAFETY: the code at this physical address is mapped there by the tables just installed, uses no
        // memory, and returns through the new tables, which map this function by the caller's promise.
        unsafe {
            asm!("blr {code}", code = in(reg) boot::replace_ttbr1_code().raw(),
                in("x0") root.raw(), in("x1") boot::no_tables().raw(), out("x30") _, options(nostack));
        }
        boot::leave_identity_map();
    }

    /// The kernel's tables on this CPU.
    pub fn kernel_root() -> PhysAddr {
        PhysAddr::new(TTBR1_EL1.get() & BADDR)
    }

    /// The installed program's tables and ASID on this CPU; `None` when there is no program.
    pub fn user_root() -> Option<(PhysAddr, Asid)> {
        let ttbr = TTBR0_EL1.get();
        let root = PhysAddr::new(ttbr & BADDR);
        (root != boot::no_tables()).then(|| (root, Asid::new((ttbr >> ASID_SHIFT) as u16)))
    }

    /// Makes this CPU walk `root` for the programs' half, and tag what it finds with `asid`. One write changes
    /// both, so that no translation of one program gets the tag of another.
    ///
    /// # Safety
    /// `root` is a level 0 table; it lives until it is uninstalled on every CPU and
    /// [`tlb::asid`](crate::tlb::asid) was called. `asid` is not 0, which is the tag of "no program", fits
    /// [`asid_bits`], and has no translations of another program left.
    pub unsafe fn install_user(root: PhysAddr, asid: Asid) {
        TTBR0_EL1.set(root.raw() | u64::from(asid.raw()) << ASID_SHIFT);
        barrier::isb();
    }

    /// Makes this CPU walk an empty table for the programs' half. What the TLB holds of the program stays until
    /// [`tlb::asid`](crate::tlb::asid).
    pub fn uninstall_user() {
        TTBR0_EL1.set(boot::no_tables().raw());
        barrier::isb();
    }
}

#[cfg(not(target_os = "none"))]
mod target {
    use super::*;
    use crate::fake::{Instruction, record};

    /// Makes this CPU walk `root` for the kernel's half.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn replace_ttbr1(root: PhysAddr) {
        record(Instruction::ReplaceTtbr1(root));
    }

    /// The kernel's tables on this CPU.
    pub fn kernel_root() -> PhysAddr {
        PhysAddr::new(0)
    }

    /// The installed program's tables and ASID on this CPU; a host has no program.
    pub fn user_root() -> Option<(PhysAddr, Asid)> {
        None
    }

    /// Makes this CPU walk `root` for the programs' half, and tag what it finds with `asid`.
    ///
    /// # Safety
    /// None on a host.
    pub unsafe fn install_user(root: PhysAddr, asid: Asid) {
        record(Instruction::InstallUser(root, asid));
    }

    /// Makes this CPU walk an empty table for the programs' half.
    pub fn uninstall_user() {
        record(Instruction::UninstallUser);
    }
}

pub use target::*;

/// How many bits of an ASID the CPUs compare: 8 or 16.
pub fn asid_bits() -> u32 {
    if crate::cpu::features().contains(crate::cpu::CpuFeatures::ASID16) { 16 } else { 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn par_holds_frame_type_and_shareability() {
        let found = Translation::from_par(0xff00_0000_4020_1b80, 0xffff_8000_0000_1234).unwrap();
        assert_eq!(found.phys, PhysAddr::new(0x4020_1234));
        assert_eq!((found.attributes, found.shareability), (Translation::WRITE_BACK, 3));
        assert_eq!(Translation::from_par(0x0000_0000_0000_080f, 0x1000), None);
    }
}
