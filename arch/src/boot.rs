//! The boot path from the entry point to `kernel_main`, and the layout of the image.
//!
//! boot.s is entered at EL3, EL2 or EL1. It drops to EL1, maps the image at its link address in 4 KiB pages
//! with the final permissions, enables MMU and caches, and calls Rust on the boot stack. Until the kernel
//! installs its own tables, [`map_early_device`] and [`map_early_dtb`] map a UART and the device tree.
//!
//! A loader that enters at EL3 must set CNTFRQ_EL0. Interrupts may be in group 0: the addresses of the
//! interrupt controller are in the device tree, so the kernel configures the groups later
//! ([`monitor`](crate::monitor)). CPUs that enter together with the boot CPU wait for [`release_parked`].

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

/// State at entry, passed to `kernel_main`.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// x0 at entry: the device tree by the boot protocol, 0 from ELF loaders. Its magic number is not checked
    /// yet.
    pub dtb: PhysAddr,
    /// The memory of the image, .bss and stacks included.
    pub image: AddrRange<PhysAddr>,
    /// The exception level of entry, 1 to 3.
    pub entry_el: u8,
}

/// The link address of the image.
pub const IMAGE_BASE: KernelVa = KernelVa::new(0xffff_8000_0000_0000);
/// The address of physical address 0 in the linear map.
pub const LINEAR_BASE: KernelVa = KernelVa::new(0xffff_0000_0000_0000);
/// The first address of [`map_early_device`]. The final layout maps device registers there too.
pub const EARLY_DEVICES: KernelVa = KernelVa::new(0xffff_a000_0000_0000);
/// The address of the block in which [`map_early_dtb`] maps the device tree.
pub const EARLY_DTB: KernelVa = KernelVa::new(0xffff_c000_0000_0000);

/// The permissions of a section of the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// Read, execute.
    Text,
    /// Read.
    Rodata,
    /// Read, write.
    Data,
    /// Read, write; an unmapped guard page below.
    Stack,
}

/// A part of the image with uniform permissions, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// The permissions.
    pub kind: SectionKind,
    /// The link address.
    pub virt: AddrRange<KernelVa>,
    /// The load address.
    pub phys: PhysAddr,
}

/// The reason why no device tree was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyDtbError {
    /// The address is 0, not a multiple of 8, or wider than 48 bits.
    NoAddress(PhysAddr),
    /// The memory cannot be read.
    Unreadable(PhysAddr),
    /// The address is that of an ATAG list, the boot protocol of 32-bit kernels.
    Atags(PhysAddr),
    /// The first word is not the magic number.
    BadMagic(u32),
    /// `totalsize` exceeds 2 MiB, the limit of the boot protocol.
    TooLarge(u32),
}

/// Arguments of a secondary CPU. The CPU reads them with its MMU off, so they must be cleaned to the point of
/// coherency.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SecondaryArgs {
    /// The root of the CPU's kernel tables.
    pub ttbr1: PhysAddr,
    /// The top of the CPU's stack, 16-byte aligned.
    pub stack_top: KernelVa,
    /// The CPU number, below [`MAX_CPUS`](crate::cpu::MAX_CPUS).
    pub index: u64,
}
