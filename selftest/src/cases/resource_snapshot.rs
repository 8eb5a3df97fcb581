//! Snapshots of allocated resources, to detect leaks by comparison.

use crate::fixture::TIMEOUT_NS;
use addr::PAGE_SIZE;
use alloc::format;
use alloc::string::String;
use kernel::dma::counters::{self, Counters};
use kernel::memory::{heap, table_frames, zones};
use kernel::sched;
use kernel::vm::pages;
use memory::Zone;

/// A leak is reported when a surplus has not changed for this time and for this number of snapshots. The
/// stack of an ended thread is freed last, by the next thread on its CPU.
const UNCHANGED_NS: u64 = 5_000_000_000;
const UNCHANGED_SNAPSHOTS: u64 = 10_000;

/// The allocated resources at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceSnapshot {
    /// Frames of lowmem, without page tables and without the heap, which does not shrink.
    low_frames: u64,
    high_frames: u64,
    /// Page tables of the kernel and of programs.
    tables: u64,
    /// Page tables of devices. A domain keeps empty tables, so the first use may add some.
    device_tables: u64,
    low_bytes: u64,
    high_bytes: u64,
    vmalloc_bytes: u64,
    iova_ranges: u64,
    lost_bytes: u64,
    /// Pinned pages of programs.
    pinned: usize,
    threads: usize,
}

impl ResourceSnapshot {
    /// Takes a snapshot.
    pub fn now() -> Self {
        let counters: Counters = counters::read();
        let used = |zone| zones::stats(zone).allocated;
        let all_tables = table_frames::usage().now;
        let kept = heap::grown_bytes() / PAGE_SIZE + all_tables + table_frames::pool_remaining();
        Self {
            low_frames: used(Zone::Low) - kept,
            high_frames: used(Zone::High),
            tables: all_tables - counters.table_pages.now,
            device_tables: counters.table_pages.now,
            low_bytes: counters.low_bytes.now,
            high_bytes: counters.high_bytes.now,
            vmalloc_bytes: counters.vmalloc_bytes.now,
            iova_ranges: counters.iova_ranges.now,
            lost_bytes: counters.lost_bytes.now,
            pinned: pages::pinned(),
            threads: sched::threads(),
        }
    }

    /// As [`ResourceSnapshot::settle`], but permits leaked memory and IOVAs: an IOMMU may still access
    /// them, so they are never reused.
    #[cfg(feature = "checking")]
    pub fn settle_except_leaked(self, when: &str) -> Result<(), String> {
        let mut wait = SettleWait::from(self);
        loop {
            let now = Self::now();
            if self.differs_only_by_leaked(now) {
                return Ok(());
            }
            if !wait.may_continue(now) {
                return Err(format!("{when}: {self:?} became {now:?}"));
            }
            sched::yield_now();
        }
    }

    /// Returns whether the growth is at most the bytes leaked meanwhile. It may be less, since a failed
    /// invalidation is retried later.
    #[cfg(feature = "checking")]
    fn differs_only_by_leaked(self, now: Self) -> bool {
        let lost = now.lost_bytes.wrapping_sub(self.lost_bytes);
        let frames = |held: Self| held.low_frames + held.high_frames;
        let bounded = [
            (PAGE_SIZE * frames(self), PAGE_SIZE * frames(now)),
            (self.low_bytes + self.high_bytes, now.low_bytes + now.high_bytes),
            (self.vmalloc_bytes, now.vmalloc_bytes),
            (PAGE_SIZE * self.pinned as u64, PAGE_SIZE * now.pinned as u64),
        ];
        let same =
            (self.tables, self.iova_ranges, self.threads) == (now.tables, now.iova_ranges, now.threads);
        let same = same || (lost > 0 && (self.iova_ranges, self.threads) == (now.iova_ranges, now.threads));
        same && bounded.iter().all(|(before, after)| after.saturating_sub(*before) <= lost)
    }

    /// Checks immediately that all resources are as before.
    pub fn check(self, when: &str) -> Result<(), String> {
        self.compare(Self::now(), when)
    }

    fn compare(self, now: Self, when: &str) -> Result<(), String> {
        if now == self { Ok(()) } else { Err(format!("{when}: {self:?} became {now:?}")) }
    }

    /// Waits until all resources except device tables are as before: ended threads free theirs later.
    /// Returns an error immediately if memory was leaked, which is never freed.
    pub fn settle(self, when: &str) -> Result<(), String> {
        let mut wait = SettleWait::from(self);
        loop {
            let now = Self::now();
            let wanted = Self { device_tables: now.device_tables, ..self };
            let may_settle = now.lost_bytes <= self.lost_bytes;
            match wanted.compare(now, when) {
                Err(_) if may_settle && wait.may_continue(now) => sched::yield_now(),
                result => return result,
            }
        }
    }
}

/// The wait of [`ResourceSnapshot::settle`]. It continues while the snapshots change and while there are
/// more threads than before: the CPU of an ending thread may be one that the host does not schedule.
struct SettleWait {
    before: ResourceSnapshot,
    last: ResourceSnapshot,
    end: u64,
    /// The time of the first snapshot equal to `last`, and the number of equal ones since.
    since: u64,
    unchanged: u64,
}

impl SettleWait {
    fn from(before: ResourceSnapshot) -> Self {
        let now = sched::time::now();
        Self { before, last: before, end: now + TIMEOUT_NS, since: now, unchanged: 0 }
    }

    /// Returns whether resources may still be freed after the snapshot `now`.
    fn may_continue(&mut self, now: ResourceSnapshot) -> bool {
        let time = sched::time::now();
        if now != self.last {
            (self.last, self.since, self.unchanged) = (now, time, 0);
        }
        self.unchanged += 1;
        let still = self.unchanged > UNCHANGED_SNAPSHOTS && time > self.since + UNCHANGED_NS;
        time < self.end && (!still || now.threads > self.before.threads)
    }
}
