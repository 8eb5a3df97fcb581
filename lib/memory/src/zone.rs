//! The zones lowmem and highmem, and the fallback between them.

use crate::bank::Bank;
use crate::owned::{OwnedChunk, OwnedPages};
use crate::source::{FrameSource, Preference, Reach, Zone};
use addr::{AddrRange, Address, Chunk, Order, PAGE_SIZE, Pfn, PhysAddr};
use alloc::boxed::Box;
use core::ops::Range;

/// Frame numbers have 40 bits: physical addresses have 52 at most.
const BANKS: usize = 40;

/// The frame counts of a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZoneStats {
    /// All frames.
    pub total: u64,
    /// Allocated frames.
    pub allocated: u64,
}

impl ZoneStats {
    /// Free frames.
    pub const fn free(&self) -> u64 {
        self.total - self.allocated
    }
}

/// The banks of one zone.
struct Banks {
    slots: [Option<Box<Bank>>; BANKS],
    occupied: u64,
    stats: ZoneStats,
}

impl Banks {
    const fn new() -> Self {
        Self { slots: [const { None }; BANKS], occupied: 0, stats: ZoneStats { total: 0, allocated: 0 } }
    }

    fn add(&mut self, first: Pfn, end: Pfn) {
        let mut next = first;
        while next < end {
            let index = Bank::index(next);
            let stop = end.min(Pfn::new(2 << index));
            self.slots[index].get_or_insert_with(|| Box::new(Bank::new(index))).add(next, stop);
            self.occupied |= 1 << index;
            next = stop;
        }
        self.stats.total += end.raw() - first.raw();
    }

    fn alloc(&mut self, order: Order, reach: Reach<'_>) -> Option<Chunk> {
        let partly = |bank: &mut Bank, wanted: &_| bank.alloc_within(order, wanted);
        let chunk = self.find_map(reach, |bank| bank.alloc(order), partly)?;
        self.stats.allocated += chunk.frames();
        Some(chunk)
    }

    /// The first result of an allocation from a bank, the highest bank first: `whole` allocates from banks
    /// whose frames are all within `reach`, `partly` from the others, among the given frames.
    fn find_map<R>(
        &mut self,
        reach: Reach<'_>,
        whole: impl Fn(&mut Bank) -> Option<R>,
        partly: impl Fn(&mut Bank, &Range<u64>) -> Option<R>,
    ) -> Option<R> {
        let limit = reach.frames();
        let mut candidates = self.occupied;
        while let Some(index) = candidates.checked_ilog2() {
            candidates &= !(1 << index);
            let bank = self.slots[index as usize].as_mut()?;
            let found = match &limit {
                Some(wanted) if !bank.is_within(wanted) => partly(bank, wanted),
                _ => whole(bank),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Allocates single frames as [`FrameSource::alloc_pages`] does.
    fn alloc_pages(&mut self, wanted: u32, reach: Reach<'_>) -> Option<OwnedPages> {
        let one = |bank: &mut Bank, among: &_| {
            let page = bank.alloc_within(Order::PAGE, among)?.first().raw();
            let in_run = page % OwnedPages::RUN;
            Some((Pfn::new(page - in_run), 1 << in_run))
        };
        let (run, bits) = self.find_map(reach, |bank| bank.alloc_pages(wanted), one)?;
        self.stats.allocated += u64::from(bits.count_ones());
        Some(OwnedPages::from_list(run, bits))
    }

    fn free(&mut self, chunk: Chunk) {
        self.bank(chunk.first()).free(chunk);
        self.stats.allocated -= chunk.frames();
    }

    fn free_pages(&mut self, run: Pfn, bits: u64) {
        self.bank(run).free_pages(run, bits);
        self.stats.allocated -= u64::from(bits.count_ones());
    }

    fn bank(&mut self, first: Pfn) -> &mut Bank {
        match self.slots[Bank::index(first)].as_mut() {
            Some(bank) => bank,
            None => panic!("{first:?} was never added to its zone"),
        }
    }
}

/// The frame allocator of all usable RAM.
pub struct Zones {
    low: Banks,
    high: Banks,
    low_end: PhysAddr,
    reserve: u64,
}

impl Zones {
    /// Zones without RAM. RAM below `low_end` will be lowmem, the rest highmem.
    pub const fn new(low_end: PhysAddr) -> Self {
        Self { low: Banks::new(), high: Banks::new(), low_end, reserve: 0 }
    }

    /// Adds the whole frames of `ram` to the zones they belong to, as free frames.
    ///
    /// # Safety
    /// The frames are RAM without another owner, and were not added before.
    #[expect(unsafe_code, reason = "frames that have another owner would be given a second one")]
    pub unsafe fn add(&mut self, ram: AddrRange<PhysAddr>) {
        let ram = ram.align_inward(PAGE_SIZE);
        let border = self.low_end.align_down(PAGE_SIZE).max(ram.start()).min(ram.end());
        self.low.add(Pfn::containing(ram.start()), Pfn::containing(border));
        self.high.add(Pfn::containing(border), Pfn::containing(ram.end()));
    }

    /// Reserves the last `frames` free frames of lowmem for requests that need lowmem: [`Reach::ANYWHERE`]
    /// does not get them, so that buffers cannot starve the kernel.
    pub fn set_reserve(&mut self, frames: u64) {
        self.reserve = frames;
    }

    /// The zone of a physical address of RAM.
    pub fn zone_of(&self, address: PhysAddr) -> Zone {
        if address < self.low_end { Zone::Low } else { Zone::High }
    }

    /// The frame counts of `zone`.
    pub fn stats(&self, zone: Zone) -> ZoneStats {
        match zone {
            Zone::Low => self.low.stats,
            Zone::High => self.high.stats,
        }
    }

    /// All free chunks, in no particular order.
    pub fn free_chunks(&self) -> impl Iterator<Item = Chunk> {
        let banks = [&self.low, &self.high].into_iter().flat_map(|banks| banks.slots.iter().flatten());
        banks.flat_map(|bank| bank.free_chunks())
    }

    /// The number of free frames of lowmem above the reserve.
    fn spare_low(&self) -> u64 {
        self.low.stats.free().saturating_sub(self.reserve)
    }

    fn alloc_spare_low(&mut self, order: Order, reach: Reach<'_>) -> Option<Chunk> {
        if order.frames() > self.spare_low() {
            return None;
        }
        self.low.alloc(order, reach)
    }

    fn alloc_spare_low_pages(&mut self, wanted: u32, reach: Reach<'_>) -> Option<OwnedPages> {
        match wanted.min(u32::try_from(self.spare_low()).unwrap_or(u32::MAX)) {
            0 => None,
            spare => self.low.alloc_pages(spare, reach),
        }
    }

    fn banks_of(&mut self, address: PhysAddr) -> &mut Banks {
        match self.zone_of(address) {
            Zone::Low => &mut self.low,
            Zone::High => &mut self.high,
        }
    }
}

impl FrameSource for Zones {
    fn alloc(&mut self, order: Order, reach: Reach<'_>) -> Option<OwnedChunk> {
        let chunk = match reach.preference() {
            Preference::Only(Zone::High) => self.high.alloc(order, reach),
            Preference::Only(Zone::Low) => self.low.alloc(order, reach),
            Preference::HighFirst => {
                self.high.alloc(order, reach).or_else(|| self.alloc_spare_low(order, reach))
            }
        };
        chunk.map(OwnedChunk::from_list)
    }

    /// Panics if the chunk was never added.
    fn free(&mut self, chunk: OwnedChunk) {
        let chunk = chunk.release();
        self.banks_of(chunk.start()).free(chunk);
    }

    fn alloc_pages(&mut self, wanted: u32, reach: Reach<'_>) -> Option<OwnedPages> {
        match reach.preference() {
            Preference::Only(Zone::High) => self.high.alloc_pages(wanted, reach),
            Preference::Only(Zone::Low) => self.low.alloc_pages(wanted, reach),
            Preference::HighFirst => {
                let high = self.high.alloc_pages(wanted, reach);
                high.or_else(|| self.alloc_spare_low_pages(wanted, reach))
            }
        }
    }

    /// Panics if a page was never added.
    fn free_pages(&mut self, pages: OwnedPages) {
        let (first, last) = (pages.run(), pages.run().offset(OwnedPages::RUN - 1));
        let in_one_bank = Bank::index(first) == Bank::index(last);
        if in_one_bank && self.zone_of(first.start()) == self.zone_of(last.start()) {
            let (run, bits) = pages.release();
            self.banks_of(first.start()).free_pages(run, bits);
        } else {
            pages.split().for_each(|page| self.free(page));
        }
    }
}
