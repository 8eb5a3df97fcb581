//! DMA without an IOMMU: bus addresses follow `dma-ranges`, and a buffer needs physically contiguous memory.

use addr::{AddrRange, Address, FrameRun, Iova, PhysAddr};
use alloc::vec::Vec;
use core::cmp::Reverse;

/// A part of memory at its bus addresses: one entry of `dma-ranges`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusWindow {
    /// Physical addresses.
    pub memory: AddrRange<PhysAddr>,
    /// Bus address of the first byte.
    pub bus: Iova,
}

impl BusWindow {
    /// The identity mapping of all memory except its last byte: there are no `dma-ranges`.
    pub fn identity() -> Self {
        let memory = AddrRange::new(PhysAddr::new(0), PhysAddr::new(u64::MAX));
        Self { memory, bus: Iova::new(0) }
    }

    /// Its bus addresses; `None` if they exceed the address space.
    pub fn bus_range(&self) -> Option<AddrRange<Iova>> {
        AddrRange::from_len(self.bus, self.memory.len())
    }

    /// The bus address of `memory` if all of it is in the window.
    fn translate(&self, memory: AddrRange<PhysAddr>) -> Option<AddrRange<Iova>> {
        if !self.memory.covers(&memory) {
            return None;
        }
        let offset = memory.start().raw() - self.memory.start().raw();
        AddrRange::from_len(self.bus.checked_add(offset)?, memory.len())
    }

    /// Whether `next` continues this window, in memory and on the bus.
    fn continues_in(&self, next: &Self) -> bool {
        self.memory.end() == next.memory.start() && self.bus_range().is_some_and(|bus| bus.end() == next.bus)
    }
}

/// The memory that is reachable from a bus, as windows: the highest memory first, adjacent windows merged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BusWindows(Vec<BusWindow>);

impl BusWindows {
    /// The set of these windows; no memory is reachable without any.
    pub fn new(mut windows: Vec<BusWindow>) -> Self {
        windows.sort_unstable_by_key(|window| (Reverse(window.memory.start()), window.bus));
        windows.dedup_by(|below, above| {
            let adjacent = below.continues_in(above);
            if adjacent {
                let memory = AddrRange::new(below.memory.start(), above.memory.end());
                *above = BusWindow { memory, ..*below };
            }
            adjacent
        });
        Self(windows)
    }
}

/// A buffer has no bus address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusAddressError {
    /// The buffer has no chunks.
    Empty,
    /// A chunk does not follow the one before it.
    NotContiguous(PhysAddr),
    /// No window contains all of this memory.
    OutsideWindows(AddrRange<PhysAddr>),
    /// The bus addresses, which start here, exceed the device's mask.
    PastMask(Iova),
}

/// The bus addresses of a device without an IOMMU.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    windows: &'a BusWindows,
    mask: u64,
}

impl<'a> Direct<'a> {
    /// A device behind `windows` that drives the address bits in `mask`.
    pub fn new(windows: &'a BusWindows, mask: u64) -> Self {
        Self { windows, mask }
    }

    /// The memory that the device can access: of each window the part below the mask, the highest memory
    /// first. A contiguous buffer must be inside one of them.
    pub fn reachable(&self) -> impl Iterator<Item = AddrRange<PhysAddr>> + use<'a> {
        let below_mask = self.mask.saturating_add(1);
        self.windows.0.iter().filter_map(move |window| {
            let len = below_mask.saturating_sub(window.bus.raw()).min(window.memory.len());
            AddrRange::from_len(window.memory.start(), len).filter(|range| !range.is_empty())
        })
    }

    /// The bus address of `memory`.
    ///
    /// # Errors
    /// [`BusAddressError::OutsideWindows`], [`BusAddressError::PastMask`].
    pub fn translate(&self, memory: AddrRange<PhysAddr>) -> Result<Iova, BusAddressError> {
        let mut error = BusAddressError::OutsideWindows(memory);
        // Windows may overlap: another one may have the memory below the mask.
        for bus in self.windows.0.iter().filter_map(|window| window.translate(memory)) {
            if bus.end().raw().saturating_sub(1) <= self.mask {
                return Ok(bus.start());
            }
            error = BusAddressError::PastMask(bus.start());
        }
        Err(error)
    }

    /// The bus address of a buffer of `chunks`.
    ///
    /// # Errors
    /// [`BusAddressError`].
    pub fn address(&self, chunks: impl IntoIterator<Item: FrameRun>) -> Result<Iova, BusAddressError> {
        let mut chunks = chunks.into_iter();
        let first = chunks.next().ok_or(BusAddressError::Empty)?;
        let mut all = AddrRange::new(first.start(), first.end());
        for chunk in chunks {
            if chunk.start() != all.end() {
                return Err(BusAddressError::NotContiguous(chunk.start()));
            }
            all = AddrRange::new(all.start(), chunk.end());
        }
        self.translate(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Chunk, Order, Pfn};

    fn chunk(at: u64, log2: u8) -> Chunk {
        Chunk::new(Pfn::new(at >> 12), Order::new(log2).unwrap()).unwrap()
    }

    fn window(memory: u64, len: u64, bus: u64) -> BusWindow {
        let memory = AddrRange::from_len(PhysAddr::new(memory), len).unwrap();
        BusWindow { memory, bus: Iova::new(bus) }
    }

    fn windows(all: &[BusWindow]) -> BusWindows {
        BusWindows::new(all.to_vec())
    }

    fn identity() -> BusWindows {
        windows(&[BusWindow::identity()])
    }

    /// The windows of a Raspberry Pi 3: the DMA engine sees memory from 0 on at 0xc000_0000.
    fn pi() -> BusWindows {
        windows(&[window(0, 0x3f00_0000, 0xc000_0000), window(0x3f00_0000, 0x100_0000, 0x7e00_0000)])
    }

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
    }

    const MASK_32: u64 = u32::MAX as u64;

    #[test]
    fn bus_addresses_follow_dma_ranges() {
        let windows = pi();
        let at = |chunk| Direct::new(&windows, MASK_32).address([chunk]);
        assert_eq!(at(chunk(0x8000, 1)), Ok(Iova::new(0xc000_8000)));
        assert_eq!(at(chunk(0x3f00_1000, 0)), Ok(Iova::new(0x7e00_1000)));
        let outside = range(0x4000_0000, 0x4000_1000);
        assert_eq!(at(chunk(0x4000_0000, 0)), Err(BusAddressError::OutsideWindows(outside)));
    }

    #[test]
    fn buffer_across_two_windows_has_no_bus_address() {
        let chunks = [chunk(0x3eff_f000, 0), chunk(0x3f00_0000, 0)];
        let across = range(0x3eff_f000, 0x3f00_1000);
        assert_eq!(Direct::new(&pi(), MASK_32).address(chunks), Err(BusAddressError::OutsideWindows(across)));
    }

    #[test]
    fn windows_that_continue_each_other_are_merged() {
        let [low, high] = [window(0, 0x1000, 0x8000), window(0x1000, 0x2000, 0x9000)];
        assert_eq!(windows(&[low, high]), windows(&[window(0, 0x3000, 0x8000)]));
        assert_eq!(windows(&[high, low]), windows(&[window(0, 0x3000, 0x8000)]));
        let elsewhere = window(0x1000, 0x2000, 0xa000);
        assert_eq!(windows(&[low, elsewhere]).0, [elsewhere, low], "not adjacent on the bus");
        let gap = window(0x2000, 0x1000, 0x9000);
        assert_eq!(windows(&[low, gap]).0, [gap, low], "not adjacent in memory");
    }

    #[test]
    fn scattered_chunks_have_no_bus_address() {
        let identity = identity();
        let direct = Direct::new(&identity, u64::MAX);
        assert_eq!(direct.address([chunk(0x1000, 0), chunk(0x2000, 1)]), Ok(Iova::new(0x1000)));
        let gap = direct.address([chunk(0x1000, 0), chunk(0x3000, 0)]);
        assert_eq!(gap, Err(BusAddressError::NotContiguous(PhysAddr::new(0x3000))));
        assert_eq!(direct.address([] as [Chunk; 0]), Err(BusAddressError::Empty));
    }

    #[test]
    fn last_byte_must_be_below_the_mask() {
        let identity = identity();
        let direct = Direct::new(&identity, 0x0fff_ffff);
        assert!(direct.address([chunk(0x0fff_f000, 0)]).is_ok());
        let across = direct.address([chunk(0x0fff_f000, 0), chunk(0x1000_0000, 0)]);
        assert_eq!(across, Err(BusAddressError::PastMask(Iova::new(0x0fff_f000))));
    }

    #[test]
    fn memory_in_two_windows_has_the_bus_address_below_the_mask() {
        let aliases = windows(&[window(0, 0x1000, 0x1000_0000), window(0, 0x1000, 0x8000_0000)]);
        let at = |mask| Direct::new(&aliases, mask).translate(range(0, 0x1000));
        assert_eq!((at(MASK_32), at(0x1fff_ffff)), (Ok(Iova::new(0x1000_0000)), Ok(Iova::new(0x1000_0000))));
        assert!(matches!(at(0xfff_ffff), Err(BusAddressError::PastMask(_))));
    }

    #[test]
    fn every_window_is_reachable_up_to_the_mask() {
        let reachable = |windows, mask| Direct::new(&windows, mask).reachable().collect::<Vec<_>>();
        assert_eq!(reachable(identity(), 0x0fff_ffff), [range(0, 0x1000_0000)]);
        assert_eq!(reachable(identity(), u64::MAX), [range(0, u64::MAX)]);
        let both = [range(0x3f00_0000, 0x4000_0000), range(0, 0x3f00_0000)];
        assert_eq!(reachable(pi(), MASK_32), both, "the highest memory first");
        assert_eq!(reachable(pi(), 0x7fff_ffff), [range(0x3f00_0000, 0x4000_0000)]);
        let low_bus = windows(&[window(0x8000_0000, 0x1000_0000, 0x100_0000)]);
        assert_eq!(reachable(low_bus, 0x1ff_ffff), [range(0x8000_0000, 0x8100_0000)]);
        assert_eq!(reachable(windows(&[window(0, 0x1000, 0x1_0000_0000)]), 0xffff), []);
        assert_eq!(reachable(BusWindows::default(), u64::MAX), [], "no window is no memory");
    }
}
