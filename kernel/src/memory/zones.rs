//! The frame allocators, behind one lock, and in front of them what each CPU keeps for itself ([`magazines`]).

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
/// Whether this CPU holds the lock: the heap must not ask for frames then.
static LOCKED: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; MAX_CPUS]);

/// Sets the zones up: `low_end` is the first address above lowmem.
///
/// # Safety
/// The ranges of `free` are RAM without an owner, and do not overlap.
pub unsafe fn init(low_end: PhysAddr, free: impl Iterator<Item = AddrRange<PhysAddr>>) {
    let mut zones = Zones::new(low_end);
    // SAFETY: the caller's promise, and each range is added once.
    free.for_each(|range| unsafe { zones.add(range) });
    ZONES.call_once(|| SpinLock::new(zones));
}

/// Whether this CPU has the zones [locked](lock).
pub fn locked_by_this_cpu() -> bool {
    LOCKED.this().load(Ordering::Relaxed)
}

/// The zones, locked. Whatever allocates meanwhile uses the heap's reserve.
pub struct ZonesGuard(SpinLockGuard<'static, Zones>);

impl ZonesGuard {
    fn new(zones: &'static SpinLock<Zones>) -> Self {
        let zones = zones.lock();
        LOCKED.this().store(true, Ordering::Relaxed);
        Self(zones)
    }
}

/// Waits for the zones, after making sure that the heap can hold what they write down.
pub fn lock() -> ZonesGuard {
    // Without a reserve there may still be enough: the zones panic on a failed allocation, nobody else.
    heap::ensure_reserve();
    match ZONES.get() {
        Some(zones) => ZonesGuard::new(zones),
        None => panic!("no zones yet"),
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

/// Keeps the last `frames` of lowmem for the kernel; see [`Zones::set_reserve`].
pub fn set_reserve(frames: u64) {
    lock().set_reserve(frames);
}

/// A chunk of lowmem that the heap keeps for good; `None` before there are zones, or when lowmem is used up.
///
/// The heap has no reserve to see to now, so that what CPUs keep is given to the zones, who write that down, only as
/// long as there is `room`.
pub fn alloc_for_heap(order: Order, room: impl Fn() -> bool) -> Option<Chunk> {
    let mut zones = ZonesGuard::new(ZONES.get()?);
    let mut chunk = zones.alloc(order, Reach::LOW);
    while chunk.is_none() && room() && magazines::drain_one_low(&mut *zones) {
        chunk = zones.alloc(order, Reach::LOW);
    }
    drop(zones);
    chunk.map(OwnedChunk::release).inspect(|&chunk| debug::frame_allocated(chunk))
}

/// A chunk of exactly `order` in the preferred zone of `reach`, if this CPU keeps one: [`take`] may find more.
#[inline]
pub fn alloc_cached(order: Order, reach: Reach) -> Option<OwnedChunk> {
    // The one that is to fail is left to `take`.
    let chunk = if debug::is_armed(FailPoint::Frames) { None } else { magazines::pop(order, reach) };
    chunk.inspect(|chunk| debug::frame_allocated(chunk.chunk()))
}

/// All chunks without owner, in no order, as they are at one moment. `None`: there is no memory for the list.
pub fn free_chunks() -> Option<Vec<Chunk>> {
    // What is added meanwhile would need the heap while the zones are locked.
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

/// A chunk of exactly `order` within `reach`; `None` when there is none.
pub fn alloc(order: Order, reach: Reach) -> Option<OwnedChunk> {
    FrameAllocator::default().alloc(order, reach)
}

/// A frame of lowmem, zero-filled.
pub fn alloc_zeroed_page() -> Option<OwnedChunk> {
    let page = alloc(Order::PAGE, Reach::LOW)?;
    // SAFETY: the frame is ours, and lowmem is in the linear map, writable.
    unsafe { arch::memory::zero(linear::range_of(page.chunk().range())) };
    Some(page)
}

/// Gives a chunk back.
pub fn free(chunk: OwnedChunk) {
    FrameAllocator::default().free(chunk);
}

/// Gives a chunk back that `owner` had.
pub fn free_from(chunk: OwnedChunk, owner: LastOwner) {
    FrameAllocator::with_owner(owner).free(chunk);
}

/// Gives a list of chunks back.
pub fn free_all(mut frames: Frames) {
    frames.free_to(&mut FrameAllocator::default());
}

/// Chunks that change hands while [`FrameAllocator`] keeps the zones locked: some 10 000 instructions.
const LOCK_BUDGET: u8 = 64;
/// As many chunks does the taking or giving of some 64 single frames at once count for.
const PAGES_COST: u8 = 8;

/// All frames, for lists of any length: what this CPU keeps goes first, then the zones are locked for a few chunks at a
/// time, and the heap's reserve, which a long list of small chunks would use up, is seen to before each turn. It is no
/// longer alive than the list's making.
#[derive(Default)]
pub struct FrameAllocator {
    zones: Option<ZonesGuard>,
    /// Chunks until somebody else has a turn.
    budget: u8,
    /// Whether the magazines have been emptied for this list.
    magazines_drained: bool,
    /// The owner that frees the frames.
    owner: DebugOnly,
}

impl FrameAllocator {
    /// A source for the frames that `owner` frees.
    #[inline]
    pub fn with_owner(owner: LastOwner) -> Self {
        Self { owner: DebugOnly::new(owner), ..Self::default() }
    }

    /// Calls `hook` for each chunk, with the zones unlocked. Nothing in the product.
    #[inline(always)]
    fn with_debug_hook(&mut self, chunks: impl Iterator<Item = Chunk>, hook: impl Fn(Chunk, LastOwner)) {
        if debug::ENABLED {
            (self.zones, self.budget) = (None, 0);
            chunks.for_each(|chunk| hook(chunk, self.owner.get()));
        }
    }

    #[inline]
    fn alloc_chunk(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk> {
        // With the zones locked anyway, they are asked at once.
        if self.zones.is_none()
            && let Some(chunk) = magazines::pop(order, reach)
        {
            return Some(chunk);
        }
        self.alloc_from_zones(order, reach)
    }

    /// The zones, for as much as `cost` chunks.
    fn zones(&mut self, cost: u8) -> &mut ZonesGuard {
        if self.budget < cost {
            // Unlocked before it is locked again.
            self.zones = None;
            self.budget = LOCK_BUDGET;
        }
        self.budget -= cost;
        self.zones.get_or_insert_with(lock)
    }

    /// What `find` finds in the zones, or else, unless a smaller order will do, in the zones and all magazines together.
    fn alloc_with<R>(
        &mut self,
        order: Order,
        reach: Reach,
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

    /// A single frame, and more for the next who want one.
    fn refill(&mut self, reach: Reach) -> Option<OwnedChunk> {
        let mut pages = self
            .alloc_with(Order::PAGE, reach, PAGES_COST, |zones| zones.alloc_pages(Magazine::BATCH, reach))?
            .split();
        let page = pages.next();
        pages.for_each(|page| magazines::push(page).unwrap_or_else(|page| self.zones(1).free(page)));
        page
    }

    #[cold]
    #[inline(never)]
    fn alloc_from_zones(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk> {
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
    fn alloc(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk> {
        if debug::fail_point(FailPoint::Frames) {
            return None;
        }
        let chunk = self.alloc_chunk(order, reach);
        let taken = chunk.iter().map(OwnedChunk::chunk);
        self.with_debug_hook(taken, |chunk, _| debug::frame_allocated(chunk));
        chunk
    }

    #[inline]
    fn free(&mut self, chunk: OwnedChunk) {
        self.with_debug_hook(iter::once(chunk.chunk()), debug::frame_freed);
        let refused = if self.zones.is_none() { magazines::push(chunk) } else { Err(chunk) };
        if let Err(chunk) = refused {
            self.free_to_zones(chunk);
        }
    }

    fn alloc_pages(&mut self, wanted: u32, reach: Reach) -> Option<OwnedPages> {
        if debug::fail_point(FailPoint::Frames) {
            return None;
        }
        let pages = self.alloc_with(Order::PAGE, reach, PAGES_COST, |zones| zones.alloc_pages(wanted, reach));
        let taken = pages.iter().flat_map(OwnedPages::chunks);
        self.with_debug_hook(taken, |chunk, _| debug::frame_allocated(chunk));
        pages
    }

    fn free_pages(&mut self, pages: OwnedPages) {
        self.with_debug_hook(pages.chunks(), debug::frame_freed);
        self.zones(PAGES_COST).free_pages(pages);
    }
}

/// Whether the linear map has `address`.
pub fn is_low(address: PhysAddr) -> bool {
    address < super::layout().low_end
}

/// What a zone has and has given out, in frames. While CPUs take and give, a few more or less.
pub fn stats(zone: Zone) -> ZoneStats {
    let stats = lock().stats(zone);
    ZoneStats { allocated: stats.allocated.saturating_sub(magazines::cached_frames(zone)), ..stats }
}
