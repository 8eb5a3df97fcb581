//! DMA without an IOMMU: bus addresses follow `dma-ranges`, and a buffer needs physically contiguous memory.

use addr::{AddrRange, Address, FrameRun, Iova, PhysAddr};

/// A part of memory at its bus addresses: one entry of `dma-ranges`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusWindow {
    /// Physical addresses.
    pub memory: AddrRange<PhysAddr>,
    /// Bus address of the first byte.
    pub bus: Iova,
}

impl BusWindow {
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
}

/// A buffer has no bus address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusAddressError {
    /// The buffer has no chunks.
    Empty,
    /// A chunk does not follow the one before it.
    NotContiguous(PhysAddr),
    /// The memory is outside of all windows, or its bus address exceeds the device's mask.
    Unreachable(PhysAddr),
}

/// The bus addresses of a device without an IOMMU.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    windows: &'a [BusWindow],
    mask: u64,
}

impl<'a> Direct<'a> {
    /// A device behind `windows` that drives the address bits in `mask`. Without windows, bus addresses are
    /// physical addresses.
    pub fn new(windows: &'a [BusWindow], mask: u64) -> Self {
        Self { windows, mask }
    }

    /// The highest physical address that the device can access: the upper limit of its allocations.
    pub fn reach(&self) -> PhysAddr {
        let reached = |window: &BusWindow| {
            let below_mask = (self.mask - window.bus.raw().min(self.mask)).min(window.memory.len() - 1);
            (window.bus.raw() <= self.mask).then(|| window.memory.start() + below_mask)
        };
        let highest =
            self.windows.iter().filter(|window| !window.memory.is_empty()).filter_map(reached).max();
        let nothing = PhysAddr::new(if self.windows.is_empty() { self.mask } else { 0 });
        highest.unwrap_or(nothing)
    }

    /// The bus address of `memory`, if the device can access all of it.
    pub fn translate(&self, memory: AddrRange<PhysAddr>) -> Option<Iova> {
        let bus = if self.windows.is_empty() {
            AddrRange::from_len(Iova::new(memory.start().raw()), memory.len())
        } else {
            self.windows.iter().find_map(|window| window.translate(memory))
        }?;
        let last = bus.end().raw().checked_sub(1)?;
        (last <= self.mask).then_some(bus.start())
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
        self.translate(all).ok_or(BusAddressError::Unreachable(all.start()))
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

    /// The windows of a Raspberry Pi 3: the DMA engine sees memory from 0 on at 0xc000_0000.
    fn pi() -> [BusWindow; 2] {
        [window(0, 0x3f00_0000, 0xc000_0000), window(0x3f00_0000, 0x100_0000, 0x7e00_0000)]
    }

    const MASK_32: u64 = u32::MAX as u64;

    #[test]
    fn bus_addresses_follow_dma_ranges() {
        let windows = pi();
        let at = |chunk| Direct::new(&windows, MASK_32).address([chunk]);
        assert_eq!(at(chunk(0x8000, 1)), Ok(Iova::new(0xc000_8000)));
        assert_eq!(at(chunk(0x3f00_1000, 0)), Ok(Iova::new(0x7e00_1000)));
        assert_eq!(at(chunk(0x4000_0000, 0)), Err(BusAddressError::Unreachable(PhysAddr::new(0x4000_0000))));
    }

    #[test]
    fn buffer_across_two_windows_has_no_bus_address() {
        let chunks = [chunk(0x3eff_f000, 0), chunk(0x3f00_0000, 0)];
        assert_eq!(
            Direct::new(&pi(), MASK_32).address(chunks),
            Err(BusAddressError::Unreachable(PhysAddr::new(0x3eff_f000)))
        );
    }

    #[test]
    fn scattered_chunks_have_no_bus_address() {
        let direct = Direct::new(&[], u64::MAX);
        assert_eq!(direct.address([chunk(0x1000, 0), chunk(0x2000, 1)]), Ok(Iova::new(0x1000)));
        let gap = direct.address([chunk(0x1000, 0), chunk(0x3000, 0)]);
        assert_eq!(gap, Err(BusAddressError::NotContiguous(PhysAddr::new(0x3000))));
        assert_eq!(direct.address([] as [Chunk; 0]), Err(BusAddressError::Empty));
    }

    #[test]
    fn last_byte_must_be_below_the_mask() {
        let direct = Direct::new(&[], 0x0fff_ffff);
        assert!(direct.address([chunk(0x0fff_f000, 0)]).is_ok());
        let across = direct.address([chunk(0x0fff_f000, 0), chunk(0x1000_0000, 0)]);
        assert_eq!(across, Err(BusAddressError::Unreachable(PhysAddr::new(0x0fff_f000))));
    }

    #[test]
    fn reach_is_the_highest_byte_below_the_mask() {
        assert_eq!(Direct::new(&[], 0x0fff_ffff).reach(), PhysAddr::new(0x0fff_ffff));
        assert_eq!(Direct::new(&pi(), MASK_32).reach(), PhysAddr::new(0x3fff_ffff));
        let windows = [window(0x8000_0000, 0x1000_0000, 0x100_0000)];
        let low_bus = Direct::new(&windows, 0x1ff_ffff);
        assert_eq!(low_bus.reach(), PhysAddr::new(0x80ff_ffff));
        assert_eq!(Direct::new(&[window(0, 0x1000, 0x1_0000_0000)], 0xffff).reach(), PhysAddr::new(0));
    }
}
