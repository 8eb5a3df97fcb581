//! The magazines: per-CPU caches of free frames in front of the zones.
//!
//! Each magazine has a lock, which is contended only when an allocation finds the zones empty and drains the
//! magazines of all CPUs. Frames in a magazine are free: every count of free frames must include
//! [`cached_frames`].
//!
//! A CPU caches at most 8.8 MiB of highmem and 1.1 MiB of lowmem.

use super::zones;
use crate::percpu::{self, MAX_CPUS, PerCpu};
use crate::sync::SpinLock;
use addr::{Chunk, Order};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use memory::{FrameSource, Magazine, OwnedChunk, Reach, Zone};

/// The largest order of lowmem that is cached: larger free chunks are rare.
const MAX_LOW_ORDER: Order = Order::CONTIGUOUS;

/// The cache of one CPU for one zone, aligned to a cache line against false sharing.
#[repr(align(64))]
struct CpuMagazine {
    magazine: SpinLock<Magazine>,
    /// A copy of the magazine's frame count that can be read without the lock.
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

/// Allocates a chunk of the preferred zone within `reach` from this CPU's magazine.
#[inline]
pub(super) fn pop(order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
    magazines(reach.zone()).this().update(|magazine| magazine.pop(order, reach))
}

/// Caches the chunk in this CPU's magazine; returns it if the magazine is full or does not cache its order.
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

/// The number of frames of `zone` in all magazines.
pub fn cached_frames(zone: Zone) -> u64 {
    all(zone).map(|cached| cached.frames.load(Relaxed)).sum()
}

/// Calls `visit` with every cached chunk. If the caller holds the zones' lock, every free chunk is either in
/// the zones or visited here.
pub(super) fn each_chunk(mut visit: impl FnMut(Chunk)) {
    [Zone::Low, Zone::High].into_iter().flat_map(all).for_each(|cached| {
        cached.magazine.lock().chunks().for_each(&mut visit);
    });
}

/// Frees the cached frames of all CPUs that a request with this `reach` can use to the zones, which must not
/// be locked by this CPU. Returns whether there were any.
pub(super) fn drain(reach: Reach<'_>) -> bool {
    let other = reach.has_fallback().then_some(Zone::Low);
    let mut drained = false;
    for cached in [Some(reach.zone()), other].into_iter().flatten().flat_map(all) {
        if cached.frames.load(Relaxed) > 0 {
            // Locks the zones for each magazine separately, since each lock refills the heap's reserve, which
            // holds the zones' metadata for the frames of one magazine.
            drain_into(&mut *zones::lock(), cached);
            drained = true;
        }
    }
    drained
}

/// Frees the lowmem frames of one CPU's magazine to `zones`. Returns `false` if all are empty.
pub(super) fn drain_one_low(zones: &mut impl FrameSource) -> bool {
    let cached = all(Zone::Low).find(|cached| cached.frames.load(Relaxed) > 0);
    cached.map(|cached| drain_into(zones, cached)).is_some()
}

fn drain_into(zones: &mut impl FrameSource, cached: &CpuMagazine) {
    cached.update(|magazine| core::iter::from_fn(|| magazine.pop_any()).for_each(|chunk| zones.free(chunk)));
}

/// Frees `page`, for which the magazine is full, and a batch of the magazine's pages to the zones.
pub(super) fn free_batch(page: OwnedChunk, zones: &mut impl FrameSource) {
    let zone = if zones::is_low(page.chunk().start()) { Zone::Low } else { Zone::High };
    zones.free(page);
    magazines(zone).this().update(|magazine| {
        for _ in 0..Magazine::BATCH {
            let Some(page) = magazine.pop(Order::PAGE, Reach::ANYWHERE) else { break };
            zones.free(page);
        }
    });
}
