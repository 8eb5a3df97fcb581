//! From the loader's jump to `kernel_main`, and what is known about the image.
//!
//! boot.s enters at EL3, EL2 or EL1, goes down to EL1, maps the image at its link address in 4 KiB pages with the
//! final permissions, turns MMU and caches on and goes on in Rust on the first stack. Until the kernel installs
//! its own tables, [`map_early_device`] and [`map_early_dtb`] reach a UART and the device tree.
//!
//! What a loader that enters at EL3 owes: CNTFRQ_EL0. Interrupts may be in group 0: their registers' addresses are in a
//! device tree that is not read yet, and the kernel moves them later ([`monitor`](crate::monitor)). CPUs that come along with the boot CPU
//! wait for [`release_parked`].

#[cfg(target_os = "none")]
mod entry;
#[cfg(not(target_os = "none"))]
mod host;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod tables;

use addr::{AddrRange, KernelVa, PhysAddr};
#[cfg(target_os = "none")]
pub use {entry::*, image::*, tables::*};

#[cfg(not(target_os = "none"))]
pub use host::*;

/// What the loader left, as `kernel_main` gets it.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// x0 at entry: the device tree by the boot protocol, but check its magic; ELF loaders leave 0.
    pub dtb: PhysAddr,
    /// The image in memory, with .bss and stacks.
    pub image: AddrRange<PhysAddr>,
    /// The exception level of entry, 1 to 3.
    pub entry_el: u8,
}

/// Where the image is linked.
pub const IMAGE_BASE: KernelVa = KernelVa::new(0xffff_8000_0000_0000);
/// Where the linear map would have physical address 0.
pub const LINEAR_BASE: KernelVa = KernelVa::new(0xffff_0000_0000_0000);
/// Where [`map_early_device`] starts. The final layout has device registers there too.
pub const EARLY_DEVICES: KernelVa = KernelVa::new(0xffff_a000_0000_0000);
/// Where [`map_early_dtb`] maps the device tree.
pub const EARLY_DTB: KernelVa = KernelVa::new(0xffff_c000_0000_0000);

/// What a part of the image may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// Read and execute.
    Text,
    /// Read.
    Rodata,
    /// Read and write.
    Data,
    /// Read and write, with an unmapped guard page below.
    Stack,
}

/// A part of the image with one set of permissions, whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// What for.
    pub kind: SectionKind,
    /// Where it is linked.
    pub virt: AddrRange<KernelVa>,
    /// Where it was loaded.
    pub phys: PhysAddr,
}

/// Why there is no device tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyDtbError {
    /// The address is 0, not a multiple of 8, or wider than 48 bits.
    NoAddress(PhysAddr),
    /// Nothing answers there.
    Unreadable(PhysAddr),
    /// There is a list of ATAGs, the boot protocol of 32-bit kernels.
    Atags(PhysAddr),
    /// The first word is not the magic number.
    BadMagic(u32),
    /// `totalsize` is above the 2 MiB that the boot protocol allows.
    TooLarge(u32),
}

/// What a secondary CPU needs to get going; it reads this with its MMU off, so the three words must be cleaned
/// to the point of coherency.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SecondaryArgs {
    /// The root of its own.
    pub ttbr1: PhysAddr,
    /// The top of its stack, 16-byte aligned.
    pub stack_top: KernelVa,
    /// Its number, below [`MAX_CPUS`](crate::cpu::MAX_CPUS).
    pub index: u64,
}
