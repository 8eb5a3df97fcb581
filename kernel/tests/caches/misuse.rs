//! Memory that cannot be lent is refused by a named error, and comes back: of the misuses that can be written at all
//! (`dma_api::misuse`), each.

use super::machine::RAM;
use addr::{PAGE_SIZE, PhysAddr};
use dma_api::{Direction, DmaError, DmaMask, Segment, StreamMemory};
use kernel::dma::{Device, stream};

/// Pieces of RAM of which nobody looks at a byte.
struct Pieces(Vec<Segment>);

// SAFETY: what is refused is never used.
unsafe impl StreamMemory for Pieces {
    fn segments(&self) -> &[Segment] {
        &self.0
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// Lends pieces, by start and length, to a device that does not snoop and reaches the first 8 MiB of RAM.
pub fn each_has_a_name() {
    let device = Device::direct("misused".into(), false, Vec::new());
    let mask = DmaMask::up_to(RAM + (8 << 20) - 1);
    device.set_mask(mask).unwrap();
    let far = RAM + (16 << 20);
    let cases: [(&[(u64, u64)], DmaError); 10] = [
        (&[], DmaError::ZeroLength),
        (&[(RAM, 0)], DmaError::ZeroLength),
        (&[(RAM, PAGE_SIZE), (RAM + PAGE_SIZE, 0)], DmaError::Ragged { index: 1 }),
        (&[(RAM, 128), (RAM + PAGE_SIZE, PAGE_SIZE)], DmaError::Ragged { index: 0 }),
        (&[(RAM, PAGE_SIZE), (RAM + PAGE_SIZE + 128, 128)], DmaError::Ragged { index: 1 }),
        (&[(RAM + 64, 64)], DmaError::SharedLine { offset: 64, len: 64 }),
        (&[(RAM, PAGE_SIZE), (RAM + 2 * PAGE_SIZE, PAGE_SIZE)], DmaError::Scattered { runs: 2 }),
        (&[(1 << 63, PAGE_SIZE)], DmaError::TooLong { len: PAGE_SIZE }),
        (&[(0, 1 << 63)], DmaError::TooLong { len: 1 << 63 }),
        (&[(far, PAGE_SIZE)], DmaError::PastMask { len: PAGE_SIZE, mask }),
    ];
    for (pieces, error) in cases {
        let segments: Vec<_> =
            pieces.iter().map(|&(start, len)| Segment { start: PhysAddr::new(start), len }).collect();
        let lent = stream::map(&device, Box::new(Pieces(segments.clone())), Direction::FromDevice);
        let refused = lent.err().unwrap_or_else(|| panic!("{pieces:x?} can be lent"));
        assert_eq!((refused.error, refused.memory.segments()), (error, &*segments), "{pieces:x?}");
    }
}
