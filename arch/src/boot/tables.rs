//! The early page tables, in use until the kernel installs its own. boot.s maps the image; the functions here
//! map the UART, the device tree, the first chunk of the linear map and the emergency stacks.

use super::{EARLY_DEVICES, EARLY_DTB, EarlyDtbError, IMAGE_BASE, emergency_stack, image_phys};
use crate::{barrier, cpu, probe};
use aarch64_cpu::registers::{TTBR0_EL1, Writeable};
use addr::{AddrRange, Address, Chunk, KernelVa, PAGE_SIZE, PhysAddr};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

const BLOCK: u64 = 2 << 20;
/// The second word of an ATAG list (little endian).
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

/// One or more contiguous tables.
#[repr(C, align(4096))]
struct EarlyTables<const N: usize>([AtomicU64; N]);

impl<const N: usize> EarlyTables<N> {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

// Written by boot.s, by these names.
#[unsafe(no_mangle)]
static EARLY_ROOT: EarlyTables<512> = EarlyTables::empty();
#[unsafe(no_mangle)]
static EARLY_L1: EarlyTables<512> = EarlyTables::empty();
#[unsafe(no_mangle)]
static EARLY_L2: EarlyTables<512> = EarlyTables::empty();
/// Eight contiguous level 3 tables for the first 16 MiB of the image, indexed by the page number in the
/// image.
#[unsafe(no_mangle)]
static EARLY_PAGES: EarlyTables<4096> = EarlyTables::empty();
/// A table of each level, which map one page, .idmap of boot.s, at its physical address.
#[unsafe(no_mangle)]
static IDENTITY_TABLES: EarlyTables<2048> = EarlyTables::empty();

static DEVICE_L1: EarlyTables<512> = EarlyTables::empty();
static DEVICE_L2: EarlyTables<512> = EarlyTables::empty();
static DEVICES: AtomicUsize = AtomicUsize::new(0);
static LINEAR_L1: EarlyTables<512> = EarlyTables::empty();
static LINEAR_L2: EarlyTables<512> = EarlyTables::empty();
static DTB_L1: EarlyTables<512> = EarlyTables::empty();
static DTB_L2: EarlyTables<512> = EarlyTables::empty();
/// The empty table, in TTBR0 while no program runs.
static NO_USER: EarlyTables<512> = EarlyTables::empty();

fn table_phys<const N: usize>(table: &'static EarlyTables<N>) -> PhysAddr {
    image_phys(KernelVa::new(core::ptr::from_ref(table) as u64))
}

/// Links the two tables below the root's entry for `va`. Idempotent.
fn link(va: KernelVa, l1: &'static EarlyTables<512>, l2: &'static EarlyTables<512>) {
    let root_index = (va.raw() >> 39 & 0x1ff) as usize;
    l1.0[0].store(table_phys(l2).raw() | TABLE, Relaxed);
    EARLY_ROOT.0[root_index].store(table_phys(l1).raw() | TABLE, Relaxed);
}

/// Orders new entries of the early tables before later accesses. Entries that were invalid need no TLBI.
fn publish() {
    barrier::dsb_ishst();
    barrier::isb();
}

/// Maps the 2 MiB around `pa` as Device-nGnRE and returns the virtual address of `pa`. Valid until the kernel
/// installs its own tables. Panics after 512 calls.
///
/// # Safety
/// The early tables are in use. Memory in the 2 MiB that has a cacheable mapping is not accessed through this
/// one.
pub unsafe fn map_early_device(pa: PhysAddr) -> KernelVa {
    let slot = DEVICES.fetch_add(1, Relaxed);
    link(EARLY_DEVICES, &DEVICE_L1, &DEVICE_L2);
    DEVICE_L2.0[slot].store(pa.align_down(BLOCK).raw() | DEVICE_BLOCK, Relaxed);
    publish();
    EARLY_DEVICES + slot as u64 * BLOCK + pa.raw() % BLOCK
}

/// Maps the device tree at `pa` read-only and returns its range, `totalsize` bytes. Valid until the kernel
/// installs its own tables.
///
/// The second 2 MiB block is mapped only if `totalsize` reaches into it: the boot protocol does not guarantee
/// that it is memory.
///
/// # Safety
/// The early tables are in use. `pa` is the address that the boot loader passed, and nothing writes to the
/// tree while it is mapped.
pub unsafe fn map_early_dtb(pa: PhysAddr) -> Result<AddrRange<KernelVa>, EarlyDtbError> {
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
    // The pages after the header may lie outside of memory.
    let pages = (0..u64::from(size)).step_by(PAGE_SIZE as usize);
    // SAFETY: part of the device tree's blob by its header; nothing has a reference to it yet.
    let unreadable = |page: &KernelVa| unsafe { probe::read_u32(*page) }.is_none();
    match pages.map(|at| start + at).find(unreadable) {
        Some(page) => Err(EarlyDtbError::Unreadable(pa + (page.raw() - start.raw()))),
        None => Ok(AddrRange::new(start, start + u64::from(size))),
    }
}

/// The first two words of a device tree, magic number and `totalsize`. `at` is 8-byte aligned, so they are in
/// one page.
fn header(at: KernelVa) -> Option<(u32, u32)> {
    // SAFETY: the boot protocol has the device tree there, in memory; nothing has a reference to it yet.
    let word = |at| unsafe { probe::read_u32(at) }.map(u32::from_be);
    Some((word(at)?, word(at + 4)?))
}

/// Maps `chunk`, at least 2 MiB of RAM, writable at its address in the linear map: its physical address above
/// [`LINEAR_BASE`](super::LINEAR_BASE). Valid until the kernel installs its own tables.
///
/// # Safety
/// The early tables are in use, the caller owns the chunk, and this is the only call.
pub unsafe fn map_early_linear(chunk: Chunk) {
    assert!(chunk.bytes() >= BLOCK, "{chunk:?} is smaller than a block");
    let (root, l1) = (chunk.start().raw() >> 39 & 0x1ff, chunk.start().raw() >> 30 & 0x1ff);
    for block in (0..chunk.bytes()).step_by(BLOCK as usize).map(|offset| chunk.start() + offset) {
        LINEAR_L2.0[(block.raw() >> 21 & 0x1ff) as usize].store(block.raw() | NORMAL_BLOCK, Relaxed);
    }
    LINEAR_L1.0[l1 as usize].store(table_phys(&LINEAR_L2).raw() | TABLE, Relaxed);
    EARLY_ROOT.0[root as usize].store(table_phys(&LINEAR_L1).raw() | TABLE, Relaxed);
    publish();
}

/// Maps the emergency stacks, which boot.s does not map: 4 KiB pages, with a guard page before each stack.
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

/// The root of the identity map, for TTBR0.
pub(crate) fn identity_root() -> PhysAddr {
    table_phys(&IDENTITY_TABLES)
}

/// The empty table.
pub(crate) fn no_tables() -> PhysAddr {
    table_phys(&NO_USER)
}

/// Replaces the identity map in TTBR0 by the empty table.
pub(crate) fn leave_identity_map() {
    TTBR0_EL1.set(table_phys(&NO_USER).raw());
    barrier::isb();
    // SAFETY: removes cached translations of this CPU, which are walked again on use; the identity map is not
    // in use.
    unsafe { core::arch::asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}
