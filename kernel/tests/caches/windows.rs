//! Buffers for a device without an IOMMU whose `dma-ranges` are a set of windows.

use super::cache_model::{RAM, RAM_BYTES};
use addr::{AddrRange, Iova, PAGE_SIZE, PhysAddr};
use dma_api::{Attrs, DmaError, DmaMask};
use drivers::direct::BusWindow;
use kernel::dma::{self, Attachment, Device, MapPlacement};
use std::sync::Arc;

/// A window of `memory`, as offsets in RAM, whose bus addresses are the offsets plus `bus`.
fn window(memory: (u64, u64), bus: u64) -> BusWindow {
    let memory = AddrRange::new(PhysAddr::new(RAM + memory.0), PhysAddr::new(RAM + memory.1));
    BusWindow { memory, bus: Iova::new(bus + memory.start().raw() - RAM) }
}

fn device(windows: &[BusWindow]) -> Arc<Device> {
    Device::direct("windows".into(), false, windows.to_vec())
}

const ATTRS: Attrs = Attrs::NO_WARN;

/// Every window is used up, the highest memory first, and nothing outside of them.
pub fn buffers_are_inside_the_windows() {
    const LEN: u64 = 256 << 10;
    let low = window((5 << 20, (6 << 20) + 1), 0xc000_0000);
    let high = window(((RAM_BYTES - (4 << 20)) - 1, RAM_BYTES - (3 << 20)), 0x1000_0000);
    let device = device(&[low, high]);
    let buffers: Vec<_> = std::iter::from_fn(|| dma::alloc(&device, LEN, ATTRS).ok()).collect();
    let places: Vec<_> = buffers
        .iter()
        .map(|buffer| {
            let mut chunks = buffer.buffer().chunks();
            let memory = AddrRange::from_len(chunks.next().unwrap().start(), LEN).unwrap();
            let window = if high.memory.covers(&memory) { high } else { low };
            assert!(window.memory.covers(&memory), "{memory:?} is in no window");
            let offset = memory.start().raw() - window.memory.start().raw();
            assert_eq!(buffer.range().start(), window.bus + offset);
            window == high
        })
        .collect();
    assert_eq!(places, [vec![true; 4], vec![false; 4]].concat());
    let full = dma::alloc(&device, LEN, ATTRS).unwrap_err();
    assert_eq!(full, DmaError::OutOfFrames { wanted: LEN / PAGE_SIZE, had: 0 });
    drop(buffers);
    // A mask below the bus addresses of one window.
    device.set_mask(DmaMask::bits(31)).unwrap();
    let buffer = dma::alloc(&device, LEN, ATTRS).unwrap();
    assert!(high.memory.contains(buffer.buffer().chunks().next().unwrap().start()));
}

/// The error names the limit: the mask, or the windows.
pub fn errors_name_the_limit() {
    let past = |bits| DmaError::PastMask { len: PAGE_SIZE, mask: DmaMask::bits(bits) };
    let memory = AddrRange::new(PhysAddr::new(RAM), PhysAddr::new(RAM + RAM_BYTES));
    let in_ram = window((0, RAM_BYTES), 0xc000_0000);
    let far = BusWindow { bus: Iova::new(0x4000_0000), ..window((1 << 32, 1 << 33), 0) };
    for (windows, bits, expected) in [
        (&[in_ram, far][..], 32, None),
        (&[in_ram, far], 31, Some(past(31))),
        (&[far], 32, Some(DmaError::OutsideDmaRanges { memory })),
        (&[BusWindow::identity()], 30, Some(past(30))),
        (&[BusWindow::identity()], 31, None),
    ] {
        let device = device(windows);
        device.set_mask(DmaMask::bits(bits)).unwrap();
        let error = dma::alloc(&device, PAGE_SIZE, ATTRS).err();
        assert_eq!((error, device.reaches_memory()), (expected, expected.is_none()), "{windows:?} {bits}");
    }
    assert_eq!(device(&[in_ram]).set_mask(DmaMask::bits(31)), Err(past(31)), "no window below the mask");
}

/// Adjacent memory on both sides of the border of two windows has separate bus addresses, also of a buffer
/// that the device reaches chunk by chunk.
pub fn device_addresses_are_contiguous_only_in_one_window() {
    let buffer = dma::alloc_unattached(3 * PAGE_SIZE, Attrs::FORCE_CONTIGUOUS).unwrap();
    let chunks: Vec<_> = buffer.chunks().map(|chunk| chunk.range()).collect();
    let [first, second] = chunks[..] else { panic!("not a chunk of two pages and one of one: {chunks:?}") };
    let border = second.start().raw() - RAM;
    for (bus, contiguous) in [(0x1000_0000, true), (0x2000_0000, false)] {
        let device = device(&[window((0, border), 0x1000_0000), window((border, RAM_BYTES), bus)]);
        let attachment = Attachment::new(&device, buffer.clone(), MapPlacement::PerChunk).unwrap();
        assert_eq!(attachment.is_contiguous(), contiguous);
        let at = |memory: AddrRange<PhysAddr>, bus: u64| Iova::new(bus + memory.start().raw() - RAM);
        let pieces: Vec<_> = attachment.bus_ranges(0, buffer.len()).iter().map(AddrRange::start).collect();
        assert_eq!(pieces, [at(first, 0x1000_0000), at(second, bus)]);
    }
    // A run across the border cannot be one range.
    let device = device(&[window((0, border), 0x1000_0000), window((border, RAM_BYTES), 0x2000_0000)]);
    let memory = AddrRange::new(first.start(), second.end());
    let error = Attachment::new(&device, buffer, MapPlacement::Whole).unwrap_err();
    assert_eq!(error, DmaError::OutsideDmaRanges { memory });
}
