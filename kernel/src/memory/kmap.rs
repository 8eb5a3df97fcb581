//! Windows: how the kernel reaches frames for a moment that the linear map does not have, to zero or to copy them.
//!
//! Each CPU has two slots of 2 MiB in the kernel's half, used with interrupts masked: one for a block, one for pages.
//! The page slot's last page is mapped for good (to one read-only frame), so that its table always exists and its
//! entries are written without a walk or a lock: opening a window never allocates and so never fails. When a window
//! closes, its entries are gone from the TLBs of *all* CPUs: the tables are shared, so any CPU may have walked them by
//! speculation.

use crate::events;
use crate::memory::{kernel_map, layout, linear, zones};
use crate::percpu::{MAX_CPUS, PerCpu};
use addr::{AddrRange, Chunk, KernelVa, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr};
use arch::cpu::IrqGuard;
use arch::tlb::Level;
use core::{iter, mem};
use memory::Frames;
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
#[inline]
pub fn with_window(chunk: Chunk, memory: MemoryType, mut f: impl FnMut(AddrRange<KernelVa>)) {
    if chunk.bytes() <= PAGES {
        let mut pages = Pages::none();
        pages.add(chunk, memory);
        pages.show(&mut f);
    } else {
        show_blocks(chunk, memory, &mut f);
    }
}

/// Shows `chunk`, more than [`PAGES`] bytes, piece by piece.
#[inline(never)]
fn show_blocks(chunk: Chunk, memory: MemoryType, f: &mut impl FnMut(AddrRange<KernelVa>)) {
    let _irqs = arch::cpu::mask_irqs();
    for piece in pieces(chunk) {
        show_block(piece, memory, f);
    }
}

fn pieces(chunk: Chunk) -> impl Iterator<Item = Chunk> {
    let order = chunk.order().min(Order::BLOCK_2M);
    (0..chunk.frames() / order.frames()).filter_map(move |piece| {
        // Always some: a part of a chunk is as aligned as it is long.
        Chunk::new(chunk.first().offset(piece * order.frames()), order)
    })
}

/// Shows all of `chunks`, in any order, as [`with_window`] does one, but as many in a window as fit: opening and closing
/// one costs more than filling a page. Low chunks that are write-back memory are shown by the linear map.
#[inline]
pub fn with_all(
    chunks: impl Iterator<Item = Chunk>,
    memory: MemoryType,
    mut f: impl FnMut(AddrRange<KernelVa>),
) {
    let linear_end = match memory {
        MemoryType::WriteBack => layout().low_end,
        _ => PhysAddr::new(0),
    };
    let mut pages = Pages::none();
    for chunk in chunks {
        if chunk.start() < linear_end {
            f(linear::range_of(chunk.range()));
        } else if chunk.bytes() > PAGES {
            with_window(chunk, memory, &mut f);
        } else {
            if !pages.has_room_for(chunk) {
                mem::replace(&mut pages, Pages::none()).show(&mut f);
            }
            pages.add(chunk, memory);
        }
    }
    pages.show(&mut f);
}

/// This CPU's page slot, at most [`PAGES`] bytes of it, while it is being filled. Interrupts are masked from the first
/// page on.
struct Pages {
    slot: Option<(Window<'static>, KernelVa, IrqGuard)>,
    filled: usize,
}

impl Pages {
    const fn none() -> Self {
        Self { slot: None, filled: 0 }
    }

    fn has_room_for(&self, chunk: Chunk) -> bool {
        self.filled as u64 + chunk.frames() <= PAGES / PAGE_SIZE
    }

    #[inline]
    fn add(&mut self, chunk: Chunk, memory: MemoryType) {
        let (window, _, _) = self.slot.get_or_insert_with(page_window);
        self.filled += window.show::<KernelVa>(self.filled, chunk, Mapping::read_write(memory));
    }

    /// Shows what has been added for as long as `f` takes.
    #[inline]
    fn show(self, f: &mut impl FnMut(AddrRange<KernelVa>)) {
        let Some((window, slot, _irqs)) = self.slot else { return };
        events::stores(self.filled);
        arch::barrier::dsb_ishst();
        arch::barrier::isb();
        let range = AddrRange::new(slot, slot + self.filled as u64 * PAGE_SIZE);
        f(range);
        window.hide(self.filled);
        events::stores(self.filled);
        match self.filled {
            1 => arch::tlb::kernel_page(slot),
            _ => arch::tlb::kernel(range, Level::Last),
        }
    }
}

/// This CPU's page slot.
#[inline]
fn page_window() -> (Window<'static>, KernelVa, IrqGuard) {
    let irqs = arch::cpu::mask_irqs();
    let cpu = arch::cpu::index();
    let Some(window) = WINDOWS.of(cpu).get() else { panic!("CPU {cpu} has no window yet") };
    (*window, page_slot(cpu), irqs)
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
    // SAFETY: the window maps the caller's chunk, writable, and nobody else refers to it yet.
    with_write_back(chunk, |range| unsafe { arch::cache::zero(range) });
}

/// Fills all of `frames`, which are or will be write-back memory, with zeroes.
#[inline]
pub fn zero_all(frames: &Frames) {
    match frames.only() {
        Some(chunk) => zero(chunk),
        None => zero_many(frames),
    }
}

#[inline(never)]
fn zero_many(frames: &Frames) {
    // SAFETY: the window maps the caller's chunks, writable, and nobody else refers to them yet.
    with_all(frames.chunks(), MemoryType::WriteBack, |range| unsafe { arch::cache::zero(range) });
}

/// Fills `chunks`, which will be non-cacheable and have no cacheable mapping any more, with zeroes.
///
/// Lines that an earlier owner left in a cache go first, or they could be written back over the zeroes or hit
/// instead of them; with no cacheable mapping none can come after. The maintenance reaches all caches although the
/// window itself is non-cacheable (DDI 0487, D7.5.9, effects of cache maintenance on Non-cacheable locations).
pub fn zero_all_non_cacheable(chunks: impl Iterator<Item = Chunk>) {
    with_all(chunks, MemoryType::NonCacheable, |range| {
        arch::cache::clean_invalidate(range);
        // SAFETY: the window maps the caller's chunks, writable, and nobody else refers to them yet.
        unsafe { arch::cache::zero(range) };
        arch::barrier::dsb_sy();
    });
}
