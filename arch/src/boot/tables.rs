//! The tables that are there before the kernel's own: boot.s maps the image, the functions here what else is
//! needed until then.

use super::{EARLY_DEVICES, EARLY_DTB, EarlyDtbError, IMAGE_BASE, emergency_stack, image_phys};
use crate::{barrier, cpu, probe};
use aarch64_cpu::registers::{TTBR0_EL1, Writeable};
use addr::{AddrRange, Address, Chunk, KernelVa, PAGE_SIZE, PhysAddr};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

const BLOCK: u64 = 2 << 20;
/// The second word of a list of ATAGs (little endian).
const ATAG_CORE: u32 = 0x5441_0001;
const TABLE: u64 = 0b11;
/// Level 2 block: UXN, PXN, not global no, AF; read-write, Device-nGnRE (MAIR index 2).
const DEVICE_BLOCK: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 2 << 2 | 0b01;
/// Level 2 block: UXN, PXN, AF, inner shareable; read-only, write-back (MAIR index 0).
const READ_ONLY_BLOCK: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 2 << 6 | 0b01;
/// Level 2 block: the same, writable.
const NORMAL_BLOCK: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 0b01;
/// Level 3 page: the same.
const STACK_PAGE: u64 = 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 0b11;

#[repr(C, align(4096))]
struct Tables<const N: usize>([AtomicU64; N]);

impl<const N: usize> Tables<N> {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

// Filled by boot.s, by these names.
#[unsafe(no_mangle)]
static EARLY_ROOT: Tables<512> = Tables::empty();
#[unsafe(no_mangle)]
static EARLY_L1: Tables<512> = Tables::empty();
#[unsafe(no_mangle)]
static EARLY_L2: Tables<512> = Tables::empty();
/// Eight level 3 tables in a row: 16 MiB of image, indexed by the page's place in it.
#[unsafe(no_mangle)]
static EARLY_PAGES: Tables<4096> = Tables::empty();
/// One table of each level: a single page, boot.s's .idmap, at its physical address.
#[unsafe(no_mangle)]
static IDENTITY_TABLES: Tables<2048> = Tables::empty();

static DEVICE_L1: Tables<512> = Tables::empty();
static DEVICE_L2: Tables<512> = Tables::empty();
static DEVICES: AtomicUsize = AtomicUsize::new(0);
static LINEAR_L1: Tables<512> = Tables::empty();
static LINEAR_L2: Tables<512> = Tables::empty();
static DTB_L1: Tables<512> = Tables::empty();
static DTB_L2: Tables<512> = Tables::empty();
/// An empty table for TTBR0 while no program runs.
static NO_USER: Tables<512> = Tables::empty();

fn table_phys<const N: usize>(table: &'static Tables<N>) -> PhysAddr {
    image_phys(KernelVa::new(core::ptr::from_ref(table) as u64))
}

/// Links the two tables under the root's entry for `va`; again is harmless.
fn link(va: KernelVa, l1: &'static Tables<512>, l2: &'static Tables<512>) {
    let root_index = (va.raw() >> 39 & 0x1ff) as usize;
    l1.0[0].store(table_phys(l2).raw() | TABLE, Relaxed);
    EARLY_ROOT.0[root_index].store(table_phys(l1).raw() | TABLE, Relaxed);
}

/// Makes new entries of the early tables usable; what was invalid before needs no TLBI.
fn publish() {
    barrier::dsb_ishst();
    barrier::isb();
}

/// Maps the 2 MiB around `pa` as Device-nGnRE and returns where `pa` is. Valid until the kernel installs its own
/// tables. Panics after 512 calls.
pub fn map_early_device(pa: PhysAddr) -> KernelVa {
    let slot = DEVICES.fetch_add(1, Relaxed);
    link(EARLY_DEVICES, &DEVICE_L1, &DEVICE_L2);
    DEVICE_L2.0[slot].store(pa.align_down(BLOCK).raw() | DEVICE_BLOCK, Relaxed);
    publish();
    EARLY_DEVICES + slot as u64 * BLOCK + pa.raw() % BLOCK
}

/// Maps the device tree at `pa` read-only and returns where all of it is, in whole bytes of its `totalsize`. Valid
/// until the kernel installs its own tables.
///
/// One 2 MiB block first, since the boot protocol promises no more than that it is memory; a second one only if
/// the header says that the tree goes on there.
pub fn map_early_dtb(pa: PhysAddr) -> Result<AddrRange<KernelVa>, EarlyDtbError> {
    if pa.raw() == 0 || !pa.is_aligned(8) || pa.raw() >> 48 != 0 {
        return Err(EarlyDtbError::NoAddress(pa));
    }
    let block = pa.align_down(BLOCK);
    let offset = pa.raw() % BLOCK;
    link(EARLY_DTB, &DTB_L1, &DTB_L2);
    DTB_L2.0[0].store(block.raw() | READ_ONLY_BLOCK, Relaxed);
    publish();
    let start = EARLY_DTB + offset;
    let (magic, size) = header(start).ok_or(EarlyDtbError::Unreadable(pa))?;
    if magic != 0xd00d_feed {
        let atags = size == ATAG_CORE.swap_bytes();
        return Err(if atags { EarlyDtbError::Atags(pa) } else { EarlyDtbError::BadMagic(magic) });
    }
    if u64::from(size) > BLOCK {
        return Err(EarlyDtbError::TooLarge(size));
    }
    if offset + u64::from(size) > BLOCK {
        DTB_L2.0[1].store((block.raw() + BLOCK) | READ_ONLY_BLOCK, Relaxed);
        publish();
    }
    // The header may be the last of it that is in memory.
    let pages = (0..u64::from(size)).step_by(PAGE_SIZE as usize);
    match pages.map(|at| start + at).find(|&page| probe::read_u32(page).is_none()) {
        Some(page) => Err(EarlyDtbError::Unreadable(pa + (page.raw() - start.raw()))),
        None => Ok(AddrRange::new(start, start + u64::from(size))),
    }
}

/// The first two words of a device tree: magic number and size. Aligned to 8 bytes, so they are in one page.
fn header(at: KernelVa) -> Option<(u32, u32)> {
    let word = |at| probe::read_u32(at).map(u32::from_be);
    Some((word(at)?, word(at + 4)?))
}

/// Maps `chunk` (2 MiB or more of RAM) writable where the linear map will have it: as far above
/// [`LINEAR_BASE`](super::LINEAR_BASE) as it is above physical address 0. Valid until the kernel installs its
/// own tables. Called once.
pub fn map_early_linear(chunk: Chunk) {
    assert!(chunk.bytes() >= BLOCK, "{chunk:?} is smaller than a block");
    let (root, l1) = (chunk.start().raw() >> 39 & 0x1ff, chunk.start().raw() >> 30 & 0x1ff);
    for block in (0..chunk.bytes()).step_by(BLOCK as usize).map(|offset| chunk.start() + offset) {
        LINEAR_L2.0[(block.raw() >> 21 & 0x1ff) as usize].store(block.raw() | NORMAL_BLOCK, Relaxed);
    }
    LINEAR_L1.0[l1 as usize].store(table_phys(&LINEAR_L2).raw() | TABLE, Relaxed);
    EARLY_ROOT.0[root as usize].store(table_phys(&LINEAR_L1).raw() | TABLE, Relaxed);
    publish();
}

/// boot.s leaves the emergency stacks to us: 4 KiB pages with a guard between any two.
pub(super) fn map_emergency_stacks() {
    for stack in (0..cpu::MAX_CPUS).map(emergency_stack) {
        for page in 0..stack.len() / PAGE_SIZE {
            let va = stack.start() + page * PAGE_SIZE;
            let index = (va.raw() - IMAGE_BASE.raw()) / PAGE_SIZE;
            EARLY_PAGES.0[index as usize].store(image_phys(va).raw() | STACK_PAGE, Relaxed);
        }
    }
    publish();
}

/// The tables that map one page of code at its physical address, for TTBR0.
pub(crate) fn identity_root() -> PhysAddr {
    table_phys(&IDENTITY_TABLES)
}

/// A table with nothing in it.
pub(crate) fn no_tables() -> PhysAddr {
    table_phys(&NO_USER)
}

/// Takes the identity map out of TTBR0.
pub(crate) fn leave_identity_map() {
    TTBR0_EL1.set(table_phys(&NO_USER).raw());
    barrier::isb();
    // SAFETY: drops translations of this CPU, which are walked again on use; the identity map has no user left.
    unsafe { core::arch::asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}
