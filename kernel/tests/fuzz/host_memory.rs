//! Kernel memory on the host, one instance per process: the linear map is resolved by arithmetic until the
//! kernel's tables exist, then all addresses are translated through these tables.

use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use arch::boot::{BootInfo, LINEAR_BASE};
use kernel::board::Reservation;
use kernel::fs::{self, root};
use kernel::memory::{self, Sizes, table_frames, zones};
use std::sync::OnceLock;

/// The start and size of RAM.
const RAM: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 32 << 20;

/// The RAM of the process's only kernel instance.
struct HostMemory {
    /// The host address of RAM.
    ram: u64,
    /// The kernel's root page table.
    root: OnceLock<PhysAddr>,
}

static HOST: OnceLock<HostMemory> = OnceLock::new();

fn host() -> &'static HostMemory {
    HOST.get_or_init(|| {
        let bytes = vec![0u64; ((RAM_BYTES + PAGE_SIZE) / 8) as usize].leak().as_mut_ptr();
        let ram = bytes.wrapping_add(bytes.align_offset(PAGE_SIZE as usize));
        HostMemory { ram: ram.expose_provenance() as u64, root: OnceLock::new() }
    })
}

impl HostMemory {
    fn pointer(&self, at: u64) -> u64 {
        assert!((RAM..RAM + RAM_BYTES).contains(&at), "no RAM at {at:#x}");
        self.ram + (at - RAM)
    }

    fn word(&self, at: u64) -> u64 {
        // SAFETY: in RAM (`pointer`), which is leaked; one thread at a time uses the kernel.
        unsafe { std::ptr::with_exposed_provenance::<u64>(self.pointer(at) as usize).read() }
    }

    /// Translates `va` through the kernel's tables (DDI 0487, D8.3).
    fn walk(&self, va: u64) -> u64 {
        let Some(root) = self.root.get() else { return va - LINEAR_BASE.raw() };
        let mut table = root.raw();
        for level in 0..4 {
            let shift = 39 - 9 * level;
            let entry = self.word(table + 8 * (va >> shift & 0x1ff));
            let output = entry & 0xffff_ffff_f000;
            match (entry & 0b11, level) {
                (0b11, 0..3) => table = output,
                (0b01, 1 | 2) | (0b11, 3) => return output + (va & ((1 << shift) - 1)),
                _ => break,
            }
        }
        panic!("the kernel maps nothing at {va:#x}");
    }
}

fn address_of(va: KernelVa) -> u64 {
    let host = host();
    host.pointer(host.walk(va.raw()))
}

/// Initializes the kernel on first use, and sets up the calling thread. Only one thread at a time may use the
/// kernel.
pub fn boot(archive: &'static [u8]) {
    static BOOTED: OnceLock<()> = OnceLock::new();
    arch::fake::map_memory(address_of);
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
        fs::init();
        root::mount(archive).unwrap();
    });
}

/// The number of free frames, including the pool of page tables.
pub fn free_frames() -> u64 {
    let free: u64 = zones::free_chunks().unwrap().iter().map(|chunk| chunk.frames()).sum();
    free + table_frames::pool_remaining()
}
