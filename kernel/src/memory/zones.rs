//! The kernel's frame allocator: the zones behind one lock, and per-CPU caches in front of them
//! ([`magazines`]).

use crate::debug::{self, DebugOnly, FailPoint, LastOwner};
use crate::memory::{heap, linear, magazines};
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sync::{SpinLock, SpinLockGuard};
use addr::{AddrRange, Chunk, Order, PhysAddr};
use alloc::vec::Vec;
use core::iter;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use memory::{FrameSource, Frames, Magazine, OwnedChunk, OwnedPages, Reach, Zone, ZoneStats, Zones};
use spin::Once;

static ZONES: Once<SpinLock<Zones>> = Once::new();
/// Whether this CPU holds the zones' lock. The heap must not allocate frames then.
static LOCKED: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; MAX_CPUS]);

/// Initializes the zones. `low_end` is the first address above lowmem.
///
/// # Safety
/// The ranges of `free` are RAM without an owner, and do not overlap.
pub unsafe fn init(low_end: PhysAddr, free: impl Iterator<Item = AddrRange<PhysAddr>>) {
    let mut zones = Zones::new(low_end);
    // SAFETY: as the caller promises; each range is added once.
    free.for_each(|range| unsafe { zones.add(range) });
    ZONES.call_once(|| SpinLock::new(zones));
}

/// Returns whether this CPU holds the zones' [lock].
pub fn locked_by_this_cpu() -> bool {
    LOCKED.this().load(Ordering::Relaxed)
}

/// The locked zones. Heap allocations of the lock holder use the heap's reserve.
pub struct ZonesGuard(SpinLockGuard<'static, Zones>);

impl ZonesGuard {
    #[cfg_attr(feature = "checking", track_caller)]
    fn new(zones: &'static SpinLock<Zones>) -> Self {
        let zones = zones.lock();
        LOCKED.this().store(true, Ordering::Relaxed);
        Self(zones)
    }
}

/// Locks the zones, after refilling the heap's reserve for their metadata.
#[cfg_attr(feature = "checking", track_caller)]
pub fn lock() -> ZonesGuard {
    // Not an error: the heap may have enough without the full reserve. If not, the zones panic.
    heap::ensure_reserve();
    match ZONES.get() {
        Some(zones) => ZonesGuard::new(zones),
        None => panic!("the zones are not initialized"),
    }
}

impl Deref for ZonesGuard {
    type Target = Zones;
    fn deref(&self) -> &Zones {
        &self.0
    }
}

impl DerefMut for ZonesGuard {
    fn deref_mut(&mut self) -> &mut Zones {
        &mut self.0
    }
}

impl Drop for ZonesGuard {
    fn drop(&mut self) {
        LOCKED.this().store(false, Ordering::Relaxed);
    }
}

/// Reserves the last `frames` of lowmem for the kernel; see [`Zones::set_reserve`].
pub fn set_reserve(frames: u64) {
    lock().set_reserve(frames);
}

/// Allocates a chunk of lowmem for the heap, which never frees it. `None` before [`init`], or if lowmem is
/// exhausted.
///
/// The heap's reserve cannot be refilled during this call, so magazines are drained only while `has_room`
/// confirms that the heap can hold the zones' metadata for their frames.
pub fn alloc_for_heap(order: Order, has_room: impl Fn() -> bool) -> Option<Chunk> {
    let mut zones = ZonesGuard::new(ZONES.get()?);
    let mut chunk = zones.alloc(order, Reach::LOW);
    while chunk.is_none() && has_room() && magazines::drain_one_low(&mut *zones) {
        chunk = zones.alloc(order, Reach::LOW);
    }
    drop(zones);
    chunk.map(OwnedChunk::release).inspect(|&chunk| debug::frame_allocated(chunk))
}

/// Allocates a chunk of exactly `order` in the preferred zone of `reach` from this CPU's magazine. If there
/// is none, [`alloc()`] may still find one.
#[inline]
pub fn alloc_cached(order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
    // This path has no fail point: an armed failure is left to `alloc`.
    let chunk = if debug::is_armed(FailPoint::Frames) { None } else { magazines::pop(order, reach) };
    chunk.inspect(|chunk| debug::frame_allocated(chunk.chunk()))
}

/// A consistent snapshot of all free chunks, in no particular order. `None` without memory for the list.
pub fn free_chunks() -> Option<Vec<Chunk>> {
    // For chunks freed after the count: the list must not grow while the zones are locked.
    const SPARE: usize = 1024;
    let mut all = Vec::new();
    loop {
        let count = lock().free_chunks().count() + MAX_CPUS * 2 * Magazine::CAPACITY + SPARE;
        all.try_reserve_exact(count).ok()?;
        let zones = lock();
        if zones.free_chunks().count() + MAX_CPUS * 2 * Magazine::CAPACITY <= all.capacity() {
            all.extend(zones.free_chunks());
            magazines::each_chunk(|chunk| all.push(chunk));
            return Some(all);
        }
    }
}

/// Allocates a chunk of exactly `order` within `reach`. `None` if there is none.
pub fn alloc(order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
    FrameAllocator::default().alloc(order, reach)
}

/// Allocates a zero-filled frame of lowmem.
pub fn alloc_zeroed_page() -> Option<OwnedChunk> {
    let page = alloc(Order::PAGE, Reach::LOW)?;
    // SAFETY: `page` owns the frame, and the linear map maps lowmem writable.
    unsafe { arch::memory::zero(linear::range_of(page.chunk().range())) };
    Some(page)
}

/// Frees a chunk.
pub fn free(chunk: OwnedChunk) {
    FrameAllocator::default().free(chunk);
}

/// Frees a chunk whose last owner is `owner`.
pub fn free_from(chunk: OwnedChunk, owner: LastOwner) {
    FrameAllocator::with_owner(owner).free(chunk);
}

/// Frees a list of chunks.
pub fn free_all(mut frames: Frames) {
    frames.free_to(&mut FrameAllocator::default());
}

/// The number of chunks that [`FrameAllocator`] allocates or frees before it releases the zones' lock, which
/// masks interrupts: about 10 000 instructions.
const LOCK_BUDGET: u8 = 64;
/// The number of chunks that an allocation or free of up to 64 single frames at once counts as.
const PAGES_COST: u8 = 8;

/// Allocates and frees lists of any length: from and to this CPU's magazine first, then from and to the
/// zones. Releases the zones' lock after every few chunks, and refills the heap's reserve, which a long list
/// of small chunks would exhaust, before locking again. Must be dropped as soon as the list is complete,
/// since it may hold the lock.
#[derive(Default)]
pub struct FrameAllocator {
    zones: Option<ZonesGuard>,
    /// The number of chunks until the lock is released.
    budget: u8,
    /// Whether the magazines were drained for this list, or must not be.
    magazines_drained: bool,
    /// The owner that frees the frames.
    owner: DebugOnly,
}

impl FrameAllocator {
    /// An allocator that records `owner` as the last owner of the frames it frees.
    #[inline]
    pub fn with_owner(owner: LastOwner) -> Self {
        Self { owner: DebugOnly::new(owner), ..Self::default() }
    }

    /// An allocator that does not drain the magazines to find a chunk of several frames.
    pub fn without_drain() -> Self {
        Self { magazines_drained: true, ..Self::default() }
    }

    /// Calls `hook` for each chunk with the zones unlocked. Empty in the product.
    #[inline(always)]
    fn with_debug_hook(&mut self, chunks: impl Iterator<Item = Chunk>, hook: impl Fn(Chunk, LastOwner)) {
        if debug::ENABLED {
            (self.zones, self.budget) = (None, 0);
            chunks.for_each(|chunk| hook(chunk, self.owner.get()));
        }
    }

    #[inline]
    fn alloc_chunk(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
        // The magazine is only worthwhile while the zones are not locked.
        if self.zones.is_none()
            && let Some(chunk) = magazines::pop(order, reach)
        {
            return Some(chunk);
        }
        self.alloc_from_zones(order, reach)
    }

    /// The locked zones, for an operation that counts as `cost` chunks.
    fn zones(&mut self, cost: u8) -> &mut ZonesGuard {
        if self.budget < cost {
            // Dropped here, since the lock must be released before it is taken again.
            self.zones = None;
            self.budget = LOCK_BUDGET;
        }
        self.budget -= cost;
        self.zones.get_or_insert_with(lock)
    }

    /// Calls `alloc` with the zones. On failure, drains all magazines into the zones and tries again; for
    /// orders above 0 only once per list, since the list can fall back to smaller chunks.
    fn alloc_with<R>(
        &mut self,
        order: Order,
        reach: Reach<'_>,
        cost: u8,
        alloc: impl Fn(&mut Zones) -> Option<R>,
    ) -> Option<R> {
        let found = alloc(self.zones(cost));
        if found.is_some() || (self.magazines_drained && order > Order::PAGE) {
            return found;
        }
        self.magazines_drained = true;
        (self.zones, self.budget) = (None, 0);
        if magazines::drain(reach) { alloc(self.zones(cost)) } else { None }
    }

    /// Allocates a single frame, and refills this CPU's magazine.
    fn refill(&mut self, reach: Reach<'_>) -> Option<OwnedChunk> {
        let mut pages = self
            .alloc_with(Order::PAGE, reach, PAGES_COST, |zones| zones.alloc_pages(Magazine::BATCH, reach))?
            .split();
        let page = pages.next();
        pages.for_each(|page| magazines::push(page).unwrap_or_else(|page| self.zones(1).free(page)));
        page
    }

    #[cold]
    #[inline(never)]
    fn alloc_from_zones(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
        if order == Order::PAGE {
            return self.refill(reach);
        }
        self.alloc_with(order, reach, 1, |zones| zones.alloc(order, reach))
    }

    #[cold]
    #[inline(never)]
    fn free_to_zones(&mut self, chunk: OwnedChunk) {
        match chunk.chunk().order() {
            Order::PAGE => magazines::free_batch(chunk, &mut **self.zones(PAGES_COST)),
            _ => self.zones(1).free(chunk),
        }
    }
}

impl FrameSource for FrameAllocator {
    #[inline]
    fn alloc(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
        if debug::fail_point(FailPoint::Frames) {
            return None;
        }
        let chunk = self.alloc_chunk(order, reach);
        let allocated = chunk.iter().map(OwnedChunk::chunk);
        self.with_debug_hook(allocated, |chunk, _| debug::frame_allocated(chunk));
        chunk
    }

    #[inline]
    fn free(&mut self, chunk: OwnedChunk) {
        self.with_debug_hook(iter::once(chunk.chunk()), debug::frame_freed);
        let pushed = if self.zones.is_none() { magazines::push(chunk) } else { Err(chunk) };
        if let Err(chunk) = pushed {
            self.free_to_zones(chunk);
        }
    }

    fn alloc_pages(&mut self, wanted: u32, reach: Reach<'_>) -> Option<OwnedPages> {
        if debug::fail_point(FailPoint::Frames) {
            return None;
        }
        let pages = self.alloc_with(Order::PAGE, reach, PAGES_COST, |zones| zones.alloc_pages(wanted, reach));
        let allocated = pages.iter().flat_map(OwnedPages::chunks);
        self.with_debug_hook(allocated, |chunk, _| debug::frame_allocated(chunk));
        pages
    }

    fn free_pages(&mut self, pages: OwnedPages) {
        self.with_debug_hook(pages.chunks(), debug::frame_freed);
        self.zones(PAGES_COST).free_pages(pages);
    }
}

/// Returns whether `address` is lowmem.
pub fn is_low(address: PhysAddr) -> bool {
    address < super::layout().low_end
}

/// The frame counts of a zone; approximate while other CPUs allocate and free.
pub fn stats(zone: Zone) -> ZoneStats {
    let stats = lock().stats(zone);
    ZoneStats { allocated: stats.allocated.saturating_sub(magazines::cached_frames(zone)), ..stats }
}
