//! Windows: how the kernel reaches frames for a moment that the linear map does not have, to zero or to copy them.
//!
//! Each CPU has two slots of 2 MiB in the kernel's half, used with interrupts masked: one for a block, one for pages.
//! The page slot's last page is mapped for good (to one read-only frame), so that its tables always exist: opening a
//! window never allocates and so never fails. When a window closes, its entries are gone from the TLBs of *all*
//! CPUs: the tables are shared, so any CPU may have walked them by speculation.

use crate::memory::{kernel_map, linear, zones};
use addr::{AddrRange, Chunk, KernelVa, MemoryType, Order, Pfn, PhysAddr};
use core::iter;
use pagetable::{MapError, Mapping};

/// The first CPU's slots.
const BASE: u64 = 0xffff_b000_0000_0000;
/// What a slot covers: one block at level 2.
const SLOT: u64 = Order::BLOCK_2M.bytes();
/// The largest chunk that fits below the last page of the page slot.
const PAGES: u64 = SLOT / 2;

fn block_slot(cpu: usize) -> KernelVa {
    KernelVa::new(BASE + 2 * SLOT * cpu as u64)
}

fn page_slot(cpu: usize) -> KernelVa {
    block_slot(cpu) + SLOT
}

/// Makes CPU `cpu`'s slots usable. `anchor` is the frame that stays mapped.
pub fn init_cpu(cpu: usize, anchor: Chunk) -> Result<(), MapError<KernelVa>> {
    let last = page_slot(cpu) + (SLOT - anchor.bytes());
    kernel_map::map(last, iter::once(anchor), Mapping::read_only(MemoryType::WriteBack))
}

/// Shows `chunk`, in pieces of at most 2 MiB, at kernel addresses of memory type `memory` that are good until `f`
/// returns. `f` must neither sleep nor open another window.
///
/// The caller owns the chunk, and there is no other mapping of it with another memory type.
pub fn with_window(chunk: Chunk, memory: MemoryType, mut f: impl FnMut(AddrRange<KernelVa>)) {
    let _irqs = arch::cpu::mask_irqs();
    let cpu = arch::cpu::index();
    let slot = if chunk.bytes() > PAGES { block_slot(cpu) } else { page_slot(cpu) };
    for piece in pieces(chunk) {
        let range = AddrRange::new(slot, slot + piece.bytes());
        if let Err(error) = kernel_map::map(slot, iter::once(piece), Mapping::read_write(memory)) {
            panic!("window of CPU {cpu}: {error:?}");
        }
        f(range);
        kernel_map::unmap(range);
    }
}

fn pieces(chunk: Chunk) -> impl Iterator<Item = Chunk> {
    let order = chunk.order().min(Order::BLOCK_2M);
    (0..chunk.frames() / order.frames()).filter_map(move |piece| {
        // Always some: a part of a chunk is as aligned as it is long.
        Chunk::new(chunk.first().offset(piece * order.frames()), order)
    })
}

/// Shows `chunk`, which is or will be write-back memory, as such: through the linear map where that has it, else
/// through a window. The same rules as for [`with_window`].
pub fn with_write_back(chunk: Chunk, mut f: impl FnMut(AddrRange<KernelVa>)) {
    if zones::is_low(chunk.start()) {
        f(linear::range_of(chunk.range()));
    } else {
        with_window(chunk, MemoryType::WriteBack, f);
    }
}

/// Shows the frame that holds `address`, which is write-back memory.
pub fn with_frame(address: PhysAddr, f: impl FnMut(AddrRange<KernelVa>)) {
    with_write_back(Chunk::page(Pfn::containing(address)), f);
}

/// Fills `chunk`, which is or will be write-back memory, with zeroes.
pub fn zero(chunk: Chunk) {
    // SAFETY: the window maps the caller's chunk, writable, and nobody else refers to it yet.
    with_write_back(chunk, |range| unsafe { arch::cache::zero(range) });
}

/// Fills `chunk`, which will be non-cacheable and has no cacheable mapping any more, with zeroes.
///
/// Lines that an earlier owner left in a cache go first, or they could be written back over the zeroes or hit
/// instead of them; with no cacheable mapping none can come after. The maintenance reaches all caches although the
/// window itself is non-cacheable (DDI 0487, D7.5.9, effects of cache maintenance on Non-cacheable locations).
pub fn zero_non_cacheable(chunk: Chunk) {
    with_window(chunk, MemoryType::NonCacheable, |range| {
        arch::cache::clean_invalidate(range);
        // SAFETY: the window maps the caller's chunk, writable, and nobody else refers to it yet.
        unsafe { arch::cache::zero(range) };
        arch::barrier::dsb_sy();
    });
}
