//! The alias audit: all mappings of a frame have one memory type (invariant 2), asked of all tables there are.

use super::domain;
use crate::memory::kernel_map;
use addr::{AddrRange, KernelVa, MemoryType, PhysAddr};
use alloc::vec::Vec;
use core::fmt;

/// Whose tables a mapping is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Owner {
    /// The kernel's.
    Kernel,
    /// A device's, counted from 0 in the order in which domains were made.
    Domain(usize),
    /// A program's.
    Process(u32),
}

/// Physical memory that is mapped in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapped {
    to: AddrRange<PhysAddr>,
    memory: MemoryType,
    owner: Owner,
}

/// Memory that is mapped in two ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The frames.
    pub frames: AddrRange<PhysAddr>,
    /// Two of their mappings.
    pub mappings: [(Owner, MemoryType); 2],
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(one, first), (other, second)] = self.mappings;
        write!(f, "{:?} is {first:?} for {one:?} and {second:?} for {other:?}", self.frames)
    }
}

/// All mappings, as far as they have been shown.
#[derive(Default)]
pub struct Audit {
    mapped: Vec<Mapped>,
    leaves: usize,
}

impl Audit {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { mapped: Vec::new(), leaves: 0 }
    }

    /// All mappings of the kernel and of all devices. Mappings may change meanwhile: a verdict needs a machine at rest.
    pub fn of_kernel_and_devices() -> Self {
        let mut audit = Self::new();
        let all = AddrRange::new(KernelVa::new(0xffff << 48), KernelVa::new(!0 << 12));
        kernel_map::leaves(all, |leaf| audit.add(leaf.output(), leaf.memory, Owner::Kernel));
        for (number, domain) in domain::all().into_iter().enumerate() {
            domain.all_leaves(|leaf| audit.add(leaf.output(), leaf.memory, Owner::Domain(number)));
        }
        audit
    }

    /// Notes a mapping. Neighbours that come one after the other take the room of one.
    pub fn add(&mut self, to: AddrRange<PhysAddr>, memory: MemoryType, owner: Owner) {
        self.leaves += 1;
        if let Some(last) = self.mapped.last_mut()
            && (last.memory, last.owner) == (memory, owner)
            && last.to.end() == to.start()
        {
            last.to = AddrRange::new(last.to.start(), to.end());
            return;
        }
        self.mapped.push(Mapped { to, memory, owner });
    }

    /// How many pages and blocks were looked at.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// The first frames, if any, that are mapped in two ways.
    pub fn conflict(mut self) -> Option<Conflict> {
        self.mapped.sort_unstable_by_key(|mapped| mapped.to.start());
        // Of each memory type the mapping seen so far that reaches furthest: who meets any, meets that one.
        let mut furthest: [Option<Mapped>; 3] = [None; 3];
        for mapped in self.mapped {
            let others = furthest.iter().flatten().filter(|other| other.memory != mapped.memory);
            for other in others {
                if let Some(frames) = other.to.intersection(&mapped.to) {
                    let mappings = [(other.owner, other.memory), (mapped.owner, mapped.memory)];
                    return Some(Conflict { frames, mappings });
                }
            }
            let slot = &mut furthest[slot(mapped.memory)];
            if slot.is_none_or(|before| before.to.end() < mapped.to.end()) {
                *slot = Some(mapped);
            }
        }
        None
    }
}

fn slot(memory: MemoryType) -> usize {
    match memory {
        MemoryType::WriteBack => 0,
        MemoryType::NonCacheable => 1,
        MemoryType::Device => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryType::{Device, NonCacheable, WriteBack};
    use super::*;

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
    }

    fn audit(mappings: &[(u64, u64, MemoryType)]) -> Option<AddrRange<PhysAddr>> {
        let mut audit = Audit::new();
        for (number, &(start, end, memory)) in mappings.iter().enumerate() {
            audit.add(range(start, end), memory, Owner::Domain(number));
        }
        audit.conflict().map(|conflict| conflict.frames)
    }

    #[test]
    fn a_frame_mapped_in_two_ways_is_found() {
        let found =
            audit(&[(0x3000, 0x4000, NonCacheable), (0, 0x10000, WriteBack), (0x20000, 0x21000, Device)]);
        assert_eq!(found, Some(range(0x3000, 0x4000)));
    }

    #[test]
    fn a_long_mapping_is_remembered_behind_short_ones() {
        let long = (0, 0x100_0000, WriteBack);
        let found = audit(&[long, (0x1000, 0x2000, WriteBack), (0xff_f000, 0x100_1000, NonCacheable)]);
        assert_eq!(found, Some(range(0xff_f000, 0x100_0000)));
    }

    #[test]
    fn the_same_way_twice_and_neighbours_are_fine() {
        let found = audit(&[
            (0, 0x1000, WriteBack),
            (0, 0x1000, WriteBack),
            (0x1000, 0x2000, NonCacheable),
            (0x2000, 0x3000, WriteBack),
        ]);
        assert_eq!(found, None);
    }

    #[test]
    fn neighbours_are_one_until_somebody_else_comes() {
        let mut audit = Audit::new();
        (0..512).for_each(|n| audit.add(range(n << 12, (n + 1) << 12), WriteBack, Owner::Kernel));
        audit.add(range(512 << 12, 513 << 12), WriteBack, Owner::Process(1));
        assert_eq!((audit.leaves(), audit.mapped.len()), (513, 2));
        assert_eq!(audit.conflict(), None);
    }
}
