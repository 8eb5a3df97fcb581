//! Invalid streaming mappings: each misuse that compiles (`dma_api::misuse`) is rejected with its own error,
//! and the memory is returned.

use super::cache_model::RAM;
use addr::{PAGE_SIZE, PhysAddr};
use dma_api::{Direction, DmaError, DmaMask, PhysSegment, StreamMemory};
use drivers::direct::BusWindow;
use kernel::dma::{Device, stream};

/// Segments of RAM that are never accessed.
struct RawSegments(Vec<PhysSegment>);

// SAFETY: every mapping is rejected, so the memory is never accessed.
unsafe impl StreamMemory for RawSegments {
    fn segments(&self) -> &[PhysSegment] {
        &self.0
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// Maps segments, given by start and length, for a non-coherent device that reaches the first 8 MiB of RAM.
pub fn each_misuse_is_rejected_with_its_error() {
    let device = Device::direct("misused".into(), false, vec![BusWindow::identity()]);
    let mask = DmaMask::up_to(RAM + (8 << 20) - 1);
    device.set_mask(mask).unwrap();
    let far = RAM + (16 << 20);
    let cases: [(&[(u64, u64)], DmaError); 10] = [
        (&[], DmaError::ZeroLength),
        (&[(RAM, 0)], DmaError::ZeroLength),
        (&[(RAM, PAGE_SIZE), (RAM + PAGE_SIZE, 0)], DmaError::UnalignedSegment { index: 1 }),
        (&[(RAM, 128), (RAM + PAGE_SIZE, PAGE_SIZE)], DmaError::UnalignedSegment { index: 0 }),
        (&[(RAM, PAGE_SIZE), (RAM + PAGE_SIZE + 128, 128)], DmaError::UnalignedSegment { index: 1 }),
        (&[(RAM + 64, 64)], DmaError::SharedLine { offset: 64, len: 64 }),
        (&[(RAM, PAGE_SIZE), (RAM + 2 * PAGE_SIZE, PAGE_SIZE)], DmaError::Scattered { runs: 2 }),
        (&[(1 << 63, PAGE_SIZE)], DmaError::TooLong { len: PAGE_SIZE }),
        (&[(0, 1 << 63)], DmaError::TooLong { len: 1 << 63 }),
        (&[(far, PAGE_SIZE)], DmaError::PastMask { len: PAGE_SIZE, mask }),
    ];
    for (segments, error) in cases {
        let segments: Vec<_> =
            segments.iter().map(|&(start, len)| PhysSegment { start: PhysAddr::new(start), len }).collect();
        let mapped = stream::map(&device, Box::new(RawSegments(segments.clone())), Direction::FromDevice);
        let rejected = mapped.err().unwrap_or_else(|| panic!("{segments:x?} was mapped"));
        assert_eq!((rejected.error, rejected.memory.segments()), (error, &*segments), "{segments:x?}");
    }
}
