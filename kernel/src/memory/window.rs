//! Windows: temporary per-CPU mappings of frames outside of the linear map, to zero or to copy them (as
//! `kmap_local` in Linux).
//!
//! Each CPU has a slot of 2 MiB for a block and one for pages. Interrupts stay enabled: the kernel is not
//! preemptible, so the thread does not move to another CPU, and interrupt handlers open no window. The slots
//! have the same addresses on all CPUs, in tables reachable only from this CPU's TTBR1: closing a window
//! needs only a local TLB invalidation. The tables are allocated before the CPU runs, and their entries are
//! written without a table walk or a lock, so opening a window never allocates and never fails.

use crate::memory::{kernel_tables, layout, linear, table_frames, zones};
use crate::percpu::{self, MAX_CPUS, PerCpu};
use crate::{debug, perf_counters};
use addr::{AddrRange, Chunk, KernelVa, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr};
use core::mem;
use memory::{Frames, OwnedChunk};
use pagetable::{Leaf, MapWindow, Mapping, OutOfTables, PerCpuRoot};
use spin::Once;

/// The slot for a block. The 512 GiB from here on are private to each CPU.
const BLOCK_SLOT: KernelVa = KernelVa::new(0xffff_b000_0000_0000);
/// The slot for pages.
const PAGE_SLOT: KernelVa = KernelVa::new(BLOCK_SLOT.raw() + MapWindow::PAGES_OFFSET);
/// The largest size that is mapped with pages.
const PAGE_WINDOW_BYTES: u64 = Order::BLOCK_2M.bytes() / 2;

static WINDOWS: PerCpu<Once<MapWindow<'static>>> = PerCpu::new([const { Once::new() }; MAX_CPUS]);
static ROOTS: PerCpu<Once<PerCpuRoot>> = PerCpu::new([const { Once::new() }; MAX_CPUS]);

/// Allocates the window tables of CPU `cpu`, and the root table that links them. Returns the root.
pub fn init_cpu(cpu: usize) -> Result<PhysAddr, OutOfTables> {
    let own = kernel_tables::per_cpu_root(BLOCK_SLOT)?;
    WINDOWS.of(cpu).call_once(|| {
        MapWindow::new(table_frames::entries(own.blocks()), table_frames::entries(own.pages()))
    });
    Ok(ROOTS.of(cpu).call_once(|| own).root())
}

/// Calls `visit` with the current mappings in the windows of all CPUs.
pub fn leaves(mut visit: impl FnMut(Leaf<KernelVa>)) {
    WINDOWS.iter().filter_map(Once::get).for_each(|window| window.leaves(BLOCK_SLOT, &mut visit));
}

/// Calls `visit` with every private table of a CPU.
pub fn each_table(visit: impl FnMut(PhysAddr)) {
    let roots = ROOTS.iter().filter_map(Once::get);
    roots.flat_map(|root| root.tables(&table_frames::kernel())).for_each(visit);
}

/// The first CPU whose root table differs from the shared root, with the address of the difference.
pub fn root_mismatch() -> Option<(usize, KernelVa)> {
    let roots = ROOTS.iter().enumerate().filter_map(|(cpu, root)| Some((cpu, root.get()?)));
    roots.filter_map(|(cpu, root)| Some((cpu, kernel_tables::root_mismatch(root)?))).next()
}

/// Maps `chunk`, in blocks of at most 2 MiB, with memory type `memory`, and calls `f` with the address of
/// each. The mapping ends when `f` returns.
///
/// # Safety
/// `chunk` is RAM that the caller owns, or borrows from its owner until this returns. No mapping of it has
/// another memory type. `f` neither sleeps nor opens another window, which would reuse the slot.
#[inline]
pub unsafe fn with_chunk(chunk: Chunk, memory: MemoryType, mut f: impl FnMut(AddrRange<KernelVa>)) {
    map_chunk(chunk, memory, &mut f);
}

#[inline]
fn map_chunk(chunk: Chunk, memory: MemoryType, f: &mut impl FnMut(AddrRange<KernelVa>)) {
    if chunk.bytes() <= PAGE_WINDOW_BYTES {
        let mut pages = PageWindow::empty();
        pages.add(chunk, memory);
        pages.with_mapped(f);
    } else {
        with_blocks(chunk, memory, f);
    }
}

/// Maps `chunk`, of more than [`PAGE_WINDOW_BYTES`], block by block.
#[inline(never)]
fn with_blocks(chunk: Chunk, memory: MemoryType, f: &mut impl FnMut(AddrRange<KernelVa>)) {
    let window = this_cpu_window();
    for block in split_into_blocks(chunk) {
        with_block(window, block, memory, f);
    }
}

fn split_into_blocks(chunk: Chunk) -> impl Iterator<Item = Chunk> {
    let order = chunk.order().min(Order::BLOCK_2M);
    (0..chunk.frames() / order.frames()).filter_map(move |index| {
        // Never `None`: a chunk is naturally aligned, and so are its parts.
        Chunk::new(chunk.first().offset(index * order.frames()), order)
    })
}

/// Maps `chunks` as [`with_chunk`] does, but as many at once as fit into a window, in any order: opening and
/// closing a window costs more than zeroing a page. For write-back access to lowmem, `f` gets the linear
/// map's addresses.
///
/// # Safety
/// As for [`with_chunk`], for each of `chunks`.
#[inline]
pub unsafe fn with_chunks(
    chunks: impl Iterator<Item = Chunk>,
    memory: MemoryType,
    mut f: impl FnMut(AddrRange<KernelVa>),
) {
    let linear_end = match memory {
        MemoryType::WriteBack => layout().low_end,
        _ => PhysAddr::new(0),
    };
    let mut pages = PageWindow::empty();
    for chunk in chunks {
        if chunk.start() < linear_end {
            f(linear::range_of(chunk.range()));
        } else if chunk.bytes() > PAGE_WINDOW_BYTES {
            map_chunk(chunk, memory, &mut f);
        } else {
            if !pages.has_room_for(chunk) {
                mem::replace(&mut pages, PageWindow::empty()).with_mapped(&mut f);
            }
            pages.add(chunk, memory);
        }
    }
    pages.with_mapped(&mut f);
}

/// This CPU's page slot, of which up to [`PAGE_WINDOW_BYTES`] are used, while chunks are added.
struct PageWindow {
    slot: Option<&'static MapWindow<'static>>,
    filled: usize,
}

impl PageWindow {
    const fn empty() -> Self {
        Self { slot: None, filled: 0 }
    }

    fn has_room_for(&self, chunk: Chunk) -> bool {
        self.filled as u64 + chunk.frames() <= PAGE_WINDOW_BYTES / PAGE_SIZE
    }

    #[inline]
    fn add(&mut self, chunk: Chunk, memory: MemoryType) {
        let window = self.slot.get_or_insert_with(this_cpu_window);
        self.filled += window.map::<KernelVa>(self.filled, chunk, Mapping::read_write(memory));
    }

    /// Calls `f` with the range of the added chunks, then unmaps them.
    #[inline]
    fn with_mapped(self, f: &mut impl FnMut(AddrRange<KernelVa>)) {
        let Some(window) = self.slot else { return };
        perf_counters::count_descriptor_stores(self.filled);
        arch::barrier::dsb_nshst();
        arch::barrier::isb();
        let range = AddrRange::new(PAGE_SLOT, PAGE_SLOT + self.filled as u64 * PAGE_SIZE);
        f(range);
        window.unmap(self.filled);
        perf_counters::count_descriptor_stores(self.filled);
        match self.filled {
            1 => arch::tlb::local_leaf(PAGE_SLOT),
            _ => arch::tlb::local(range),
        }
    }
}

/// This CPU's window. The caller must close it before it sleeps.
#[inline]
fn this_cpu_window() -> &'static MapWindow<'static> {
    assert!(!debug::ENABLED || !percpu::in_interrupt(), "an interrupt handler opens a window");
    let cpu = arch::cpu::index();
    let Some(window) = WINDOWS.of(cpu).get() else { panic!("the window of CPU {cpu} is not initialized") };
    window
}

/// Maps `block` in the block slot of this CPU's `window` while `f` runs. Between two blocks the entry is
/// invalid and not in the TLB (break-before-make, DDI 0487, D8.16.1).
fn with_block(
    window: &MapWindow<'_>,
    block: Chunk,
    memory: MemoryType,
    f: &mut impl FnMut(AddrRange<KernelVa>),
) {
    window.map_block::<KernelVa>(block, Mapping::read_write(memory));
    perf_counters::count_descriptor_stores(1);
    arch::barrier::dsb_nshst();
    arch::barrier::isb();
    f(AddrRange::new(BLOCK_SLOT, BLOCK_SLOT + block.bytes()));
    window.unmap_block();
    perf_counters::count_descriptor_stores(1);
    arch::tlb::local_leaf(BLOCK_SLOT);
}

/// Calls `f` with write-back mappings of `chunk`: in the linear map for lowmem, in a window for highmem.
///
/// # Safety
/// As for [`with_chunk`]; the linear alias of a lowmem chunk is not removed.
pub unsafe fn with_write_back(chunk: Chunk, mut f: impl FnMut(AddrRange<KernelVa>)) {
    if zones::is_low(chunk.start()) {
        f(linear::range_of(chunk.range()));
    } else {
        map_chunk(chunk, MemoryType::WriteBack, &mut f);
    }
}

/// Calls `f` with a mapping of the frame that contains `address`, which is write-back memory.
///
/// # Safety
/// As for [`with_write_back`].
pub unsafe fn with_frame(address: PhysAddr, f: impl FnMut(AddrRange<KernelVa>)) {
    // SAFETY: passed on to the caller.
    unsafe { with_write_back(Chunk::page(Pfn::containing(address)), f) };
}

/// Zeroes `chunk`, which is or becomes write-back memory. All observers see the zeroes before later stores of
/// this CPU: through a descriptor that is written afterwards, a CPU or device reads no older contents.
/// (Closing a window orders the zeroes for the CPUs only, and the linear map has no barrier at all.)
pub fn zero(chunk: &mut OwnedChunk) {
    // SAFETY: `chunk` owns its frames and is borrowed mutably; the only mapping of an allocated chunk is its
    // linear alias.
    unsafe { zero_write_back(chunk.chunk()) };
}

/// # Safety
/// As for [`with_write_back`], and no reference to the contents exists.
unsafe fn zero_write_back(chunk: Chunk) {
    // SAFETY: passed on to the caller; the range is mapped writable while the closure runs.
    unsafe { with_write_back(chunk, |range| arch::memory::zero(range)) };
    arch::barrier::dmb_oshst();
}

/// Copies the start of `content` to `frames`, which are or become write-back memory; visible to all observers
/// as the zeroes of [`zero`].
pub fn fill(frames: &mut Frames, content: &[u8]) {
    let mut rest = content;
    let mut copy = |to: AddrRange<KernelVa>| {
        let (here, after) = rest.split_at(rest.len().min(to.len() as usize));
        // SAFETY: the range is mapped writable, at least as long, and has no other user.
        unsafe { arch::memory::copy(here.as_ptr(), arch::pointer::to(to.start()), here.len()) };
        rest = after;
    };
    for chunk in frames.chunks() {
        // SAFETY: `frames` owns the chunk and is borrowed mutably.
        unsafe { with_write_back(chunk, &mut copy) };
    }
    arch::barrier::dmb_oshst();
}

/// Copies the frame `from` to the frame `to`; visible to all observers as the zeroes of [`zero`].
///
/// # Safety
/// As for [`with_write_back`], for both. The caller owns `to`, and no reference to its contents exists.
pub unsafe fn copy_frame(from: Pfn, to: Pfn) {
    let mut pages = PageWindow::empty();
    let mut address_of = |frame: Pfn| {
        let page = Chunk::page(frame);
        if zones::is_low(page.start()) {
            return linear::range_of(page.range()).start();
        }
        let at = PAGE_SLOT + pages.filled as u64 * PAGE_SIZE;
        pages.add(page, MemoryType::WriteBack);
        at
    };
    let (source, target) = (address_of(from), address_of(to));
    let copy = || {
        let (source, target) = (arch::pointer::to::<u8>(source), arch::pointer::to::<u8>(target));
        // SAFETY: both pages are mapped, `target` writable and without another user.
        unsafe { arch::memory::copy(source, target, PAGE_SIZE as usize) };
    };
    if pages.filled == 0 {
        copy()
    } else {
        pages.with_mapped(&mut |_| copy())
    }
    arch::barrier::dmb_oshst();
}

/// Zeroes all of `frames`, which are or become write-back memory, as [`zero`] does.
#[inline]
pub fn zero_all(frames: &mut Frames) {
    match frames.only() {
        // SAFETY: as in `zero`; `frames` owns the chunk.
        Some(chunk) => unsafe { zero_write_back(chunk) },
        None => zero_many(frames),
    }
}

#[inline(never)]
fn zero_many(frames: &mut Frames) {
    // SAFETY: as in `zero`; `frames` owns the chunks. The range is mapped writable while the closure runs.
    unsafe {
        with_chunks(frames.chunks(), MemoryType::WriteBack, |range| arch::memory::zero(range));
    }
    arch::barrier::dmb_oshst();
}

/// Zeroes all of `frames`, which become non-cacheable.
///
/// Cache lines of an earlier owner are cleaned and invalidated first: they could be written back over the
/// zeroes, or hit. Without a cacheable mapping no new lines are allocated. The maintenance affects all caches
/// although the window itself is non-cacheable (DDI 0487, D7.5.9, effects of cache maintenance on
/// Non-cacheable locations).
///
/// # Safety
/// `frames` have no cacheable mapping: the linear aliases of lowmem chunks are
/// [removed](linear::remove_alias).
pub unsafe fn zero_all_non_cacheable(frames: &mut Frames) {
    let zero = |range| {
        arch::cache::clean_invalidate(range);
        // SAFETY: the window maps frames that the caller owns, borrowed mutably, writable while the closure
        // runs.
        unsafe { arch::memory::zero(range) };
        arch::barrier::dsb_sy();
    };
    // SAFETY: `frames` owns the chunks; the caller removed their mappings of another type.
    unsafe { with_chunks(frames.chunks(), MemoryType::NonCacheable, zero) };
}
