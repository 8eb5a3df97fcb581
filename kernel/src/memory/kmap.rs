//! Windows: how the kernel reaches frames for a moment that the linear map does not have, to zero or to copy them.
//!
//! Each CPU has two slots of 2 MiB in the kernel's half, used with interrupts masked: one for a block, one for pages.
//! The page slot's last page is mapped for good (to one read-only frame), so that its table always exists and its
//! entries are written without a walk or a lock: opening a window never allocates and so never fails. When a window
//! closes, its entries are gone from the TLBs of *all* CPUs: the tables are shared, so any CPU may have walked them by
//! speculation.

use crate::events;
use crate::memory::{kernel_map, linear, zones};
use crate::percpu::{MAX_CPUS, PerCpu};
use addr::{AddrRange, Chunk, KernelVa, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr};
use arch::tlb::Level;
use core::iter;
use pagetable::{MapError, Mapping, Window};
use spin::Once;

/// The first CPU's slots.
const BASE: u64 = 0xffff_b000_0000_0000;
/// What a slot covers: one block at level 2.
const SLOT: u64 = Order::BLOCK_2M.bytes();
/// The largest chunk that fits below the last page of the page slot.
const PAGES: u64 = SLOT / 2;

/// The page slots' entries.
static WINDOWS: PerCpu<Once<Window<'static>>> = PerCpu::new([const { Once::new() }; MAX_CPUS]);

fn block_slot(cpu: usize) -> KernelVa {
    KernelVa::new(BASE + 2 * SLOT * cpu as u64)
}

fn page_slot(cpu: usize) -> KernelVa {
    block_slot(cpu) + SLOT
}

/// Makes CPU `cpu`'s slots usable. `anchor` is the frame that stays mapped.
pub fn init_cpu(cpu: usize, anchor: Chunk) -> Result<(), MapError<KernelVa>> {
    let last = page_slot(cpu) + (SLOT - anchor.bytes());
    kernel_map::map(last, iter::once(anchor), Mapping::read_only(MemoryType::WriteBack))?;
    WINDOWS.of(cpu).call_once(|| match kernel_map::window(page_slot(cpu)) {
        Some(window) => window,
        None => unreachable!("the anchor was mapped just now"),
    });
    Ok(())
}

/// Shows `chunk`, in pieces of at most 2 MiB, at kernel addresses of memory type `memory` that are good until `f`
/// returns. `f` must neither sleep nor open another window.
///
/// The caller owns the chunk, and there is no other mapping of it with another memory type.
pub fn with_window(chunk: Chunk, memory: MemoryType, mut f: impl FnMut(AddrRange<KernelVa>)) {
    let _irqs = arch::cpu::mask_irqs();
    if chunk.bytes() <= PAGES {
        return show_pages(iter::once(chunk), memory, &mut f);
    }
    for piece in pieces(chunk) {
        show_block(piece, memory, &mut f);
    }
}

fn pieces(chunk: Chunk) -> impl Iterator<Item = Chunk> {
    let order = chunk.order().min(Order::BLOCK_2M);
    (0..chunk.frames() / order.frames()).filter_map(move |piece| {
        // Always some: a part of a chunk is as aligned as it is long.
        Chunk::new(chunk.first().offset(piece * order.frames()), order)
    })
}

/// Shows all of `chunks`, in order, as [`with_window`] does one, but as many in a window as fit: opening and closing one
/// costs more than filling a page. Low chunks that are write-back memory are shown by the linear map.
pub fn with_all(
    mut chunks: impl Iterator<Item = Chunk> + Clone,
    memory: MemoryType,
    mut f: impl FnMut(AddrRange<KernelVa>),
) {
    let linear = |chunk: &Chunk| memory == MemoryType::WriteBack && zones::is_low(chunk.start());
    loop {
        let (mut count, mut bytes) = (0, 0);
        for chunk in chunks.clone().take_while(|chunk| !linear(chunk)) {
            if bytes + chunk.bytes() > PAGES {
                break;
            }
            (count, bytes) = (count + 1, bytes + chunk.bytes());
        }
        if count > 0 {
            let _irqs = arch::cpu::mask_irqs();
            show_pages(chunks.by_ref().take(count), memory, &mut f);
            continue;
        }
        match chunks.next() {
            Some(chunk) if linear(&chunk) => f(linear::range_of(chunk.range())),
            Some(chunk) => with_window(chunk, memory, &mut f),
            None => break,
        }
    }
}

/// Shows `chunks`, at most [`PAGES`] bytes, in this CPU's page slot for as long as `f` takes. Interrupts are masked.
fn show_pages(
    chunks: impl Iterator<Item = Chunk>,
    memory: MemoryType,
    f: &mut impl FnMut(AddrRange<KernelVa>),
) {
    let cpu = arch::cpu::index();
    let Some(window) = WINDOWS.of(cpu).get() else { panic!("CPU {cpu} has no window yet") };
    let pages = window.show::<KernelVa>(chunks, Mapping::read_write(memory));
    events::stores(pages);
    arch::barrier::dsb_ishst();
    arch::barrier::isb();
    let slot = page_slot(cpu);
    let range = AddrRange::new(slot, slot + pages as u64 * PAGE_SIZE);
    f(range);
    window.hide(pages);
    events::stores(pages);
    arch::tlb::kernel(range, Level::Last);
}

/// Shows `piece`, more than [`PAGES`] bytes, in this CPU's block slot for as long as `f` takes. Interrupts are masked.
fn show_block(piece: Chunk, memory: MemoryType, f: &mut impl FnMut(AddrRange<KernelVa>)) {
    let slot = block_slot(arch::cpu::index());
    let range = AddrRange::new(slot, slot + piece.bytes());
    if let Err(error) = kernel_map::map(slot, iter::once(piece), Mapping::read_write(memory)) {
        panic!("window of CPU {}: {error:?}", arch::cpu::index());
    }
    f(range);
    kernel_map::unmap(range);
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
    zero_all(iter::once(chunk));
}

/// Fills `chunks`, which are or will be write-back memory, with zeroes.
pub fn zero_all(chunks: impl Iterator<Item = Chunk> + Clone) {
    // SAFETY: the window maps the caller's chunks, writable, and nobody else refers to them yet.
    with_all(chunks, MemoryType::WriteBack, |range| unsafe { arch::cache::zero(range) });
}

/// Fills `chunks`, which will be non-cacheable and have no cacheable mapping any more, with zeroes.
///
/// Lines that an earlier owner left in a cache go first, or they could be written back over the zeroes or hit
/// instead of them; with no cacheable mapping none can come after. The maintenance reaches all caches although the
/// window itself is non-cacheable (DDI 0487, D7.5.9, effects of cache maintenance on Non-cacheable locations).
pub fn zero_all_non_cacheable(chunks: impl Iterator<Item = Chunk> + Clone) {
    with_all(chunks, MemoryType::NonCacheable, |range| {
        arch::cache::clean_invalidate(range);
        // SAFETY: the window maps the caller's chunks, writable, and nobody else refers to them yet.
        unsafe { arch::cache::zero(range) };
        arch::barrier::dsb_sy();
    });
}
