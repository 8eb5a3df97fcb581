//! The magazines: free frames that each CPU keeps for itself, in front of the zones.
//!
//! Each has a lock, since whoever finds the zones empty also takes what other CPUs keep; otherwise nobody but its own
//! CPU wants it. What is in a magazine is free: [`cached_frames`] belongs to every count of free frames.
//!
//! A CPU keeps at most 8.8 MiB of high and 1.1 MiB of low memory.

use super::zones;
use crate::percpu::{self, MAX_CPUS, PerCpu};
use crate::sync::SpinLock;
use addr::{Chunk, Order};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use memory::{FrameSource, Magazine, OwnedChunk, Reach, Zone};

/// The largest chunk of low memory that is cached: of the larger ones there are few.
const MAX_LOW_ORDER: Order = Order::CONTIGUOUS;

/// What a CPU keeps of a zone; a cache line of its own.
#[repr(align(64))]
struct CpuMagazine {
    magazine: SpinLock<Magazine>,
    /// A copy of the number of frames that can be read without the lock.
    frames: AtomicU64,
}

impl CpuMagazine {
    const fn new() -> Self {
        Self { magazine: SpinLock::new(Magazine::new()), frames: AtomicU64::new(0) }
    }

    #[inline]
    fn update<R>(&self, update: impl FnOnce(&mut Magazine) -> R) -> R {
        let mut magazine = self.magazine.lock();
        let result = update(&mut magazine);
        self.frames.store(magazine.frames(), Relaxed);
        result
    }
}

static HIGH: PerCpu<CpuMagazine> = PerCpu::new([const { CpuMagazine::new() }; MAX_CPUS]);
static LOW: PerCpu<CpuMagazine> = PerCpu::new([const { CpuMagazine::new() }; MAX_CPUS]);

#[inline]
fn magazines(zone: Zone) -> &'static PerCpu<CpuMagazine> {
    match zone {
        Zone::High => &HIGH,
        Zone::Low => &LOW,
    }
}

/// A chunk of the preferred zone within `reach`, if this CPU has one.
#[inline]
pub(super) fn pop(order: Order, reach: Reach) -> Option<OwnedChunk> {
    magazines(reach.zone()).this().update(|magazine| magazine.pop(order, reach.highest()))
}

/// Keeps the chunk for this CPU, unless it has enough of the kind.
#[inline]
pub(super) fn push(chunk: OwnedChunk) -> Result<(), OwnedChunk> {
    let zone = if zones::is_low(chunk.chunk().start()) { Zone::Low } else { Zone::High };
    if zone == Zone::Low && chunk.chunk().order() > MAX_LOW_ORDER {
        return Err(chunk);
    }
    magazines(zone).this().update(|magazine| magazine.push(chunk))
}

fn all(zone: Zone) -> impl Iterator<Item = &'static CpuMagazine> {
    percpu::online_indices().map(move |cpu| magazines(zone).of(cpu))
}

/// Frames of `zone` in all magazines.
pub fn cached_frames(zone: Zone) -> u64 {
    all(zone).map(|cached| cached.frames.load(Relaxed)).sum()
}

/// Shows every chunk that a CPU keeps. Who has the zones locked sees each free chunk there or here.
pub(super) fn each_chunk(mut visit: impl FnMut(Chunk)) {
    [Zone::Low, Zone::High].into_iter().flat_map(all).for_each(|cached| {
        cached.magazine.lock().chunks().for_each(&mut visit);
    });
}

/// Gives what any CPU keeps for requests with this `reach` to the zones, which must not be locked here. Whether there was
/// something.
pub(super) fn drain(reach: Reach) -> bool {
    let other = (reach != reach.preferred()).then_some(Zone::Low);
    let mut drained = false;
    for cached in [Some(reach.zone()), other].into_iter().flatten().flat_map(all) {
        if cached.frames.load(Relaxed) > 0 {
            // Locked for each anew: the heap's reserve has room for what the zones write down about one.
            drain_into(&mut *zones::lock(), cached);
            drained = true;
        }
    }
    drained
}

/// Gives the low frames that any CPU keeps to `zones`, one CPU's at each call. `false` when there are none.
pub(super) fn drain_one_low(zones: &mut impl FrameSource) -> bool {
    let cached = all(Zone::Low).find(|cached| cached.frames.load(Relaxed) > 0);
    cached.map(|cached| drain_into(zones, cached)).is_some()
}

fn drain_into(zones: &mut impl FrameSource, cached: &CpuMagazine) {
    cached.update(|magazine| core::iter::from_fn(|| magazine.pop_any()).for_each(|chunk| zones.free(chunk)));
}

/// Gives `page`, which is one too many, and some more of its kind to the zones.
pub(super) fn free_batch(page: OwnedChunk, zones: &mut impl FrameSource) {
    let zone = if zones::is_low(page.chunk().start()) { Zone::Low } else { Zone::High };
    zones.free(page);
    magazines(zone).this().update(|magazine| {
        for _ in 0..Magazine::BATCH {
            let Some(page) = magazine.pop(Order::PAGE, Reach::ANYWHERE.highest()) else { break };
            zones.free(page);
        }
    });
}
