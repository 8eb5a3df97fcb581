//! Devices without an IOMMU: their addresses are what the bus makes of physical ones (`dma-ranges`), and what a buffer
//! has is what it is, contiguous or not at all.

use crate::iommu::{Domain, Freed, Iommu, MapError, NotUnmapped, Placement, Shared, Stale, Unfinished};
use crate::region::RegionSource;
use addr::{AddrRange, Address, FrameRun, Iova, PhysAddr, StreamId};
use alloc::vec::Vec;
use core::convert::Infallible;
use pagetable::{Mapping, StaleTables, TableMemory};
use smmu_spec::Invalidation;

/// A part of memory as a bus shows it: one entry of `dma-ranges`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusWindow {
    /// The memory, as the CPU sees it.
    pub memory: AddrRange<PhysAddr>,
    /// Where the bus shows its first byte.
    pub bus: Iova,
}

impl BusWindow {
    /// The bus address of `memory` if all of it is in the window.
    fn translate(&self, memory: AddrRange<PhysAddr>) -> Option<AddrRange<Iova>> {
        if !self.memory.covers(&memory) {
            return None;
        }
        let offset = memory.start().raw() - self.memory.start().raw();
        AddrRange::from_len(self.bus.checked_add(offset)?, memory.len())
    }
}

/// The addresses of a device without an IOMMU.
#[derive(Clone, Debug)]
pub struct Direct {
    windows: Vec<BusWindow>,
    mask: u64,
}

impl Direct {
    /// A device behind `windows` that drives the address bits in `mask`. No windows: bus addresses are physical ones.
    pub fn new(windows: Vec<BusWindow>, mask: u64) -> Self {
        Self { windows, mask }
    }

    /// The highest physical address the device can reach: what to allocate below.
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

    /// The bus address of `memory`, if the device can use all of it.
    pub fn translate(&self, memory: AddrRange<PhysAddr>) -> Option<Iova> {
        let bus = if self.windows.is_empty() {
            AddrRange::from_len(Iova::new(memory.start().raw()), memory.len())
        } else {
            self.windows.iter().find_map(|window| window.translate(memory))
        }?;
        let last = bus.end().raw().checked_sub(1)?;
        (last <= self.mask).then_some(bus.start())
    }

    fn address(&self, chunks: impl IntoIterator<Item: FrameRun>) -> Result<Iova, MapError<Infallible>> {
        let mut chunks = chunks.into_iter();
        let first = chunks.next().ok_or(MapError::Empty)?;
        let mut all = AddrRange::new(first.start(), first.end());
        for chunk in chunks {
            if chunk.start() != all.end() {
                return Err(MapError::NotContiguous(chunk.start()));
            }
            all = AddrRange::new(all.start(), chunk.end());
        }
        self.translate(all).ok_or(MapError::Unreachable(all.start()))
    }
}

impl Domain for Direct {
    type Commands = ();
    type Error = Infallible;

    fn input_bits(&self) -> u8 {
        (u64::BITS - self.mask.leading_zeros()) as u8
    }

    fn placement(
        &self,
        chunks: impl IntoIterator<Item: FrameRun>,
    ) -> Result<Placement, MapError<Infallible>> {
        self.address(chunks).map(Placement::At)
    }

    fn map<M: TableMemory>(
        &mut self,
        _memory: &mut M,
        _commands: &impl Shared<()>,
        at: Iova,
        chunks: impl IntoIterator<Item: FrameRun>,
        _mapping: Mapping,
    ) -> Result<(), MapError<Infallible>> {
        let is = self.address(chunks)?;
        if is == at { Ok(()) } else { Err(MapError::NotAt { asked: at, is }) }
    }

    fn unmap<T, M: TableMemory>(
        &mut self,
        _memory: &mut M,
        _commands: &impl Shared<()>,
        range: AddrRange<Iova>,
        held: T,
    ) -> Result<Stale<T>, NotUnmapped<T>> {
        Ok(Stale::new(held, range, StaleTables::new(), Invalidation::EMPTY))
    }

    fn invalidate<T>(
        _commands: &impl Shared<()>,
        stale: Stale<T>,
    ) -> Result<Freed<T>, Unfinished<T, Infallible>> {
        Ok(stale.freed())
    }
}

/// The IOMMU that is not there: every stream may do what its device can.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoIommu;

impl Iommu for NoIommu {
    type Domain = Direct;
    type Error = Infallible;

    fn attach(
        &mut self,
        _commands: &impl Shared<()>,
        _memory: &mut impl RegionSource,
        _stream: StreamId,
        _domain: &mut Direct,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn detach(
        &mut self,
        _commands: &impl Shared<()>,
        _stream: StreamId,
        _domain: &mut Direct,
    ) -> Result<(), Infallible> {
        Ok(())
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

    /// The Raspberry Pi 3's: memory from 0 is at 0xc000_0000 for the DMA engine.
    fn pi() -> Direct {
        Direct::new(
            vec![window(0, 0x3f00_0000, 0xc000_0000), window(0x3f00_0000, 0x100_0000, 0x7e00_0000)],
            u32::MAX.into(),
        )
    }

    #[test]
    fn addresses_follow_the_windows() {
        let at = |chunk| pi().placement([chunk]);
        assert_eq!(at(chunk(0x8000, 1)), Ok(Placement::At(Iova::new(0xc000_8000))));
        assert_eq!(at(chunk(0x3f00_1000, 0)), Ok(Placement::At(Iova::new(0x7e00_1000))));
        assert_eq!(at(chunk(0x4000_0000, 0)), Err(MapError::Unreachable(PhysAddr::new(0x4000_0000))));
    }

    #[test]
    fn a_buffer_across_two_windows_has_no_address() {
        let chunks = [chunk(0x3eff_f000, 0), chunk(0x3f00_0000, 0)];
        assert_eq!(pi().placement(chunks), Err(MapError::Unreachable(PhysAddr::new(0x3eff_f000))));
    }

    #[test]
    fn only_contiguous_chunks_are_one_buffer() {
        let direct = Direct::new(vec![], u64::MAX);
        assert_eq!(
            direct.placement([chunk(0x1000, 0), chunk(0x2000, 1)]),
            Ok(Placement::At(Iova::new(0x1000)))
        );
        let gap = direct.placement([chunk(0x1000, 0), chunk(0x3000, 0)]);
        assert_eq!(gap, Err(MapError::NotContiguous(PhysAddr::new(0x3000))));
        assert_eq!(direct.placement([] as [Chunk; 0]), Err(MapError::Empty));
    }

    #[test]
    fn the_mask_counts_the_last_byte() {
        let direct = Direct::new(vec![], 0x0fff_ffff);
        assert!(direct.placement([chunk(0x0fff_f000, 0)]).is_ok());
        let across = direct.placement([chunk(0x0fff_f000, 0), chunk(0x1000_0000, 0)]);
        assert_eq!(across, Err(MapError::Unreachable(PhysAddr::new(0x0fff_f000))));
    }

    #[test]
    fn reach_is_the_highest_byte_below_the_mask() {
        assert_eq!(Direct::new(vec![], 0x0fff_ffff).reach(), PhysAddr::new(0x0fff_ffff));
        assert_eq!(pi().reach(), PhysAddr::new(0x3fff_ffff));
        let low_bus = Direct::new(vec![window(0x8000_0000, 0x1000_0000, 0x100_0000)], 0x1ff_ffff);
        assert_eq!(low_bus.reach(), PhysAddr::new(0x80ff_ffff));
        assert_eq!(Direct::new(vec![window(0, 0x1000, 0x1_0000_0000)], 0xffff).reach(), PhysAddr::new(0));
    }
}
