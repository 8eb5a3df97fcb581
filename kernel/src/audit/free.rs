//! Memory without owner, and who must not reach it.

use super::mapped::Mapped;
use super::{Finding, Owner};
use addr::{AddrRange, Chunk, PhysAddr};
use alloc::vec::Vec;

/// Free memory, by address.
#[derive(Debug)]
pub(super) struct Free(Vec<AddrRange<PhysAddr>>);

impl Free {
    /// Sorts the list of what is free.
    ///
    /// # Errors
    /// [`Finding::FreeTwice`].
    pub fn new(chunks: Vec<Chunk>) -> Result<Self, Finding> {
        let mut ranges: Vec<_> = chunks.into_iter().map(Chunk::range).collect();
        ranges.sort_unstable_by_key(AddrRange::start);
        match ranges.windows(2).find_map(|pair| pair[0].intersection(&pair[1])) {
            Some(frames) => Err(Finding::FreeTwice { frames }),
            None => Ok(Self(ranges)),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(AddrRange::len).sum()
    }

    /// The first free frames that one of these mappings reaches.
    pub fn first_mapped(&self, mappings: &[Mapped]) -> Option<Finding> {
        mappings.iter().filter(|mapped| mapped.owner != Owner::Linear).find_map(|mapped| {
            let first = self.0.partition_point(|free| free.end() <= mapped.to.start());
            let frames = self.0.get(first)?.intersection(&mapped.to)?;
            Some(Finding::Free { frames, owner: mapped.owner })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{MemoryType, Order, Pfn};

    fn chunk(first: u64, log2: u8) -> Chunk {
        Chunk::new(Pfn::new(first), Order::new(log2).unwrap()).unwrap()
    }

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start << 12), PhysAddr::new(end << 12))
    }

    #[test]
    fn a_frame_that_is_free_twice_is_found() {
        let twice = Free::new(Vec::from([chunk(8, 2), chunk(2, 1), chunk(10, 0)]));
        assert_eq!(twice.unwrap_err(), Finding::FreeTwice { frames: range(10, 11) });
    }

    #[test]
    fn a_mapping_of_free_memory_is_found_wherever_it_lies() {
        let free = Free::new(Vec::from([chunk(8, 2), chunk(2, 1)])).unwrap();
        assert_eq!(free.bytes(), 6 << 12);
        let found = |start, end, owner| {
            let memory = MemoryType::WriteBack;
            free.first_mapped(&[Mapped { to: range(start, end), memory, owner }])
        };
        let owner = Owner::Domain(3);
        assert_eq!(found(4, 8, owner), None);
        assert_eq!(found(12, 99, owner), None);
        assert_eq!(found(3, 4, owner), Some(Finding::Free { frames: range(3, 4), owner }));
        assert_eq!(found(4, 99, owner), Some(Finding::Free { frames: range(8, 12), owner }));
        assert_eq!(found(0, 99, Owner::Linear), None);
    }
}
