//! The frame allocators, behind one lock.

use crate::memory::{heap, linear};
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sync::{SpinLock, SpinLockGuard};
use addr::{AddrRange, Chunk, Order, PhysAddr};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use memory::{FrameSource, Frames, OwnedChunk, OwnedPages, Reach, Zone, ZoneStats, Zones};
use spin::Once;

static ZONES: Once<SpinLock<Zones>> = Once::new();
/// Whether this CPU holds the lock: the heap must not ask for frames then.
static LOCKED: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; MAX_CPUS]);

/// Sets the zones up: `low_end` is the first address above lowmem.
pub fn init(low_end: PhysAddr, free: impl Iterator<Item = AddrRange<PhysAddr>>) {
    let mut zones = Zones::new(low_end);
    free.for_each(|range| zones.add(range));
    ZONES.call_once(|| SpinLock::new(zones));
}

/// Whether this CPU is inside [`with`].
pub fn locked_here() -> bool {
    LOCKED.this().load(Ordering::Relaxed)
}

/// The zones, locked. Whatever allocates meanwhile uses the heap's reserve.
pub struct Locked(SpinLockGuard<'static, Zones>);

/// Waits for the zones, after making sure that the heap can hold what they write down.
pub fn lock() -> Locked {
    // Without a reserve there may still be enough: the zones panic on a failed allocation, nobody else.
    heap::ensure_reserve();
    let Some(zones) = ZONES.get() else { panic!("no zones yet") };
    let zones = zones.lock();
    LOCKED.this().store(true, Ordering::Relaxed);
    Locked(zones)
}

impl Deref for Locked {
    type Target = Zones;
    fn deref(&self) -> &Zones {
        &self.0
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Zones {
        &mut self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        LOCKED.this().store(false, Ordering::Relaxed);
    }
}

/// Runs `f` with the zones locked.
pub fn with<R>(f: impl FnOnce(&mut Zones) -> R) -> R {
    f(&mut lock())
}

/// A chunk of lowmem that the heap keeps for good; `None` before there are zones, or when lowmem is used up.
pub fn take_for_heap(order: Order) -> Option<Chunk> {
    let mut zones = ZONES.get()?.lock();
    LOCKED.this().store(true, Ordering::Relaxed);
    let chunk = zones.take(order, Reach::LOW);
    LOCKED.this().store(false, Ordering::Relaxed);
    chunk.map(OwnedChunk::release)
}

/// A frame of lowmem, zero-filled.
pub fn take_zeroed_page() -> Option<OwnedChunk> {
    let page = with(|zones| zones.take(Order::PAGE, Reach::LOW))?;
    // SAFETY: the frame is ours, and lowmem is in the linear map, writable.
    unsafe { arch::cache::zero(linear::range_of(page.chunk().range())) };
    Some(page)
}

/// Gives a chunk back.
pub fn give(chunk: OwnedChunk) {
    with(|zones| zones.give(chunk));
}

/// Gives a list of chunks back.
pub fn give_all(mut frames: Frames) {
    frames.give_back(&mut Source::default());
}

/// Chunks that change hands while [`Source`] keeps the zones locked: some 10 000 instructions.
const TURN: u8 = 64;
/// As many chunks does the taking or giving of some 64 single frames at once count for.
const MANY: u8 = 8;

/// All frames, for lists of any length: the zones are locked for a few chunks at a time, and the heap's reserve, which a
/// long list of small chunks would use up, is seen to before each turn. It is no longer alive than the list's making.
#[derive(Default)]
pub struct Source {
    zones: Option<Locked>,
    /// Chunks until somebody else has a turn.
    left: u8,
}

impl Source {
    /// The zones, for as much as `cost` chunks.
    fn zones(&mut self, cost: u8) -> &mut Locked {
        if self.left < cost {
            // Unlocked before it is locked again.
            self.zones = None;
            self.left = TURN;
        }
        self.left -= cost;
        self.zones.get_or_insert_with(lock)
    }
}

impl FrameSource for Source {
    fn take(&mut self, order: Order, reach: Reach) -> Option<OwnedChunk> {
        self.zones(1).take(order, reach)
    }

    fn give(&mut self, chunk: OwnedChunk) {
        self.zones(1).give(chunk);
    }

    fn take_pages(&mut self, wanted: u32, reach: Reach) -> Option<OwnedPages> {
        self.zones(MANY).take_pages(wanted, reach)
    }

    fn give_pages(&mut self, pages: OwnedPages) {
        self.zones(MANY).give_pages(pages);
    }
}

/// Whether the linear map has `address`.
pub fn is_low(address: PhysAddr) -> bool {
    address < super::layout().low_end
}

/// What a zone has and has given out, in frames.
pub fn stats(zone: Zone) -> ZoneStats {
    with(|zones| zones.stats(zone))
}
