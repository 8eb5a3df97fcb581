//! Kernel memory on the host, one instance per process: the linear map is resolved by arithmetic until the
//! kernel's tables exist, then all addresses are translated through these tables, and those of the program
//! through its own.

use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr, UserVa};
use arch::boot::{BootInfo, LINEAR_BASE};
use arch::fake::UserAccess;
use kernel::board::Reservation;
use kernel::memory::{self, Sizes, table_frames, zones};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The start and size of RAM.
const RAM: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 32 << 20;

/// The RAM of the process's only kernel instance.
struct HostRam {
    /// The host address of RAM.
    ram: u64,
    /// The kernel's root page table.
    root: OnceLock<PhysAddr>,
}

static HOST: OnceLock<HostRam> = OnceLock::new();

fn host() -> &'static HostRam {
    HOST.get_or_init(|| {
        let bytes = vec![0u64; ((RAM_BYTES + PAGE_SIZE) / 8) as usize].leak().as_mut_ptr();
        let ram = bytes.wrapping_add(bytes.align_offset(PAGE_SIZE as usize));
        HostRam { ram: ram.expose_provenance() as u64, root: OnceLock::new() }
    })
}

/// The host address of physical address `at`.
pub fn pointer(at: u64) -> u64 {
    assert!((RAM..RAM + RAM_BYTES).contains(&at), "no RAM at {at:#x}");
    host().ram + (at - RAM)
}

/// Entry `index` of the table at physical address `table`.
pub fn entry(table: u64, index: u64) -> u64 {
    let slot = std::ptr::with_exposed_provenance_mut(pointer(table + 8 * index) as usize);
    // SAFETY: in RAM (`pointer`), which is leaked; other threads write tables with atomic stores.
    unsafe { AtomicU64::from_ptr(slot) }.load(Relaxed)
}

/// The output address of an entry.
pub const OUTPUT: u64 = 0xffff_ffff_f000;

/// The leaf that translates `va`, with its level, in the tables below `root` (DDI 0487, D8.3).
fn walk(root: PhysAddr, va: u64) -> Option<(u64, u32)> {
    let mut table = root.raw();
    for level in 0..4 {
        let entry = entry(table, va >> (39 - 9 * level) & 0x1ff);
        match (entry & 0b11, level) {
            (0b11, 0..3) => table = entry & OUTPUT,
            (0b01, 1 | 2) | (0b11, 3) => return Some((entry, level)),
            _ => return None,
        }
    }
    None
}

/// The host address of `va`, which the leaf `entry` of `level` translates.
fn translated((entry, level): (u64, u32), va: u64) -> u64 {
    pointer((entry & OUTPUT) + (va & ((1 << (39 - 9 * level)) - 1)))
}

fn address_of(va: KernelVa) -> u64 {
    let Some(&root) = host().root.get() else { return pointer(va.raw() - LINEAR_BASE.raw()) };
    let leaf = walk(root, va.raw()).unwrap_or_else(|| panic!("the kernel maps nothing at {va}"));
    translated(leaf, va.raw())
}

fn user_address_of(va: UserVa, access: UserAccess) -> Option<u64> {
    let (root, _) = arch::mmu::user_root()?;
    let leaf = walk(root, va.raw())?;
    permits(leaf.0, access).then(|| translated(leaf, va.raw()))
}

/// Whether a leaf permits an access of a program: AP[1] is access at EL0, AP[2] read-only (D8.4.1).
pub fn permits(leaf: u64, access: UserAccess) -> bool {
    let read_only = leaf & 1 << 7 != 0;
    leaf & 1 << 6 != 0 && !(read_only && access == UserAccess::Write)
}

/// Lets the calling thread access the memory.
pub fn attach_thread() {
    arch::fake::map_memory(address_of);
    arch::fake::map_user_memory(user_address_of);
}

/// Initializes the kernel on first use, and sets up the calling thread. Returns the kernel's root table.
/// Other threads may use the kernel after [`attach_thread`].
pub fn boot() -> PhysAddr {
    static BOOTED: OnceLock<()> = OnceLock::new();
    attach_thread();
    BOOTED.get_or_init(|| {
        memory::heap::init();
        let at = |offset| PhysAddr::new(RAM + offset);
        let ram = AddrRange::new(at(0), at(RAM_BYTES));
        let image = AddrRange::new(at(2 << 20), at(3 << 20));
        let boot = BootInfo { dtb: at(0), image, entry_el: 1 };
        let reserved = [Reservation { range: image, no_map: false }];
        let sizes = Sizes { lowmem: Some(RAM_BYTES), vmalloc: Some(256 << 20) };
        // SAFETY: the RAM is this process's own, and was made for this one call.
        unsafe { memory::init(&boot, &[ram], &reserved, sizes) }.unwrap();
        host().root.set(memory::init_cpu(0).unwrap().address()).unwrap();
    });
    *host().root.get().unwrap()
}

/// The number of free frames, including the pool of page tables.
pub fn free_frames() -> u64 {
    let free: u64 = zones::free_chunks().unwrap().iter().map(|chunk| chunk.frames()).sum();
    free + table_frames::pool_remaining()
}
