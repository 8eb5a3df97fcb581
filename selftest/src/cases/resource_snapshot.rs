//! The books: what is held now, to be compared with what is held after something that leaves nothing behind.

use crate::fixture::TIMEOUT_NS;
use addr::PAGE_SIZE;
use alloc::format;
use alloc::string::String;
use kernel::dma::counters::{self, Counters};
use kernel::memory::{heap, table_frames, zones};
use kernel::sched;
use kernel::vm::pages;
use memory::Zone;

/// How long nothing may change where something is too much, and how often it is looked at: the last of a thread is its
/// stack, which is freed by whoever runs next.
const STILL_NS: u64 = 5_000_000_000;
const STILL_LOOKS: u64 = 10_000;

/// What is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceSnapshot {
    /// Frames of lowmem, without page tables and what the heap has taken, which it keeps.
    low_frames: u64,
    high_frames: u64,
    /// Page tables of the kernel and of programs.
    tables: u64,
    /// Page tables of devices. A domain keeps an empty one, so a first use may leave some.
    device_tables: u64,
    low_bytes: u64,
    high_bytes: u64,
    vmalloc_bytes: u64,
    iova_ranges: u64,
    lost_bytes: u64,
    /// Pages of programs that devices use.
    pinned: usize,
    threads: usize,
}

impl ResourceSnapshot {
    /// What is held now.
    pub fn now() -> Self {
        let counters: Counters = counters::read();
        let used = |zone| zones::stats(zone).allocated;
        let all_tables = table_frames::usage().0;
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

    /// As [`ResourceSnapshot::settle`], but for memory and addresses that an IOMMU may still reach, which are lost for good.
    #[cfg(feature = "checking")]
    pub fn settle_but_lost(self, when: &str) -> Result<(), String> {
        let mut settling = Settling::from(self);
        loop {
            let now = Self::now();
            if self.has_only_lost(now) {
                return Ok(());
            }
            if !settling.may_go_on(now) {
                return Err(format!("{when}: {self:?} became {now:?}"));
            }
            sched::yield_now();
        }
    }

    /// Whether what is held now and was not before is no more than what was lost meanwhile. It may be less: what an IOMMU
    /// did not let go of is tried again later.
    #[cfg(feature = "checking")]
    fn has_only_lost(self, now: Self) -> bool {
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

    /// Everything is as it was, at once.
    pub fn check(self, when: &str) -> Result<(), String> {
        self.compare(Self::now(), when)
    }

    fn compare(self, now: Self, when: &str) -> Result<(), String> {
        if now == self { Ok(()) } else { Err(format!("{when}: {self:?} became {now:?}")) }
    }

    /// Everything but devices' tables is as it was, as soon as threads that have ended are gone. What is lost for good is
    /// not waited for.
    pub fn settle(self, when: &str) -> Result<(), String> {
        let mut settling = Settling::from(self);
        loop {
            let now = Self::now();
            let wanted = Self { device_tables: now.device_tables, ..self };
            let may_come = now.lost_bytes <= self.lost_bytes;
            match wanted.compare(now, when) {
                Err(_) if may_come && settling.may_go_on(now) => sched::yield_now(),
                result => return result,
            }
        }
    }
}

/// A wait until no more is held than was before. It goes on while something changes, and while there is a thread more: the
/// CPU that is to end it may be one that the host does not run.
struct Settling {
    before: ResourceSnapshot,
    last: ResourceSnapshot,
    end: u64,
    /// When `last` was seen first, and how often since.
    since: u64,
    looks: u64,
}

impl Settling {
    fn from(before: ResourceSnapshot) -> Self {
        let now = sched::time::now();
        Self { before, last: before, end: now + TIMEOUT_NS, since: now, looks: 0 }
    }

    /// Whether what is held may still become less than it is `now`.
    fn may_go_on(&mut self, now: ResourceSnapshot) -> bool {
        let time = sched::time::now();
        if now != self.last {
            (self.last, self.since, self.looks) = (now, time, 0);
        }
        self.looks += 1;
        let still = self.looks > STILL_LOOKS && time > self.since + STILL_NS;
        time < self.end && (!still || now.threads > self.before.threads)
    }
}
