//! All mappings of the machine, and the rules for two mappings of the same frame.

use super::{Finding, Owner};
use addr::{AddrRange, MemoryType, PhysAddr};
use alloc::vec::Vec;

/// A range of physical memory mapped with one memory type by one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MappedRange {
    pub frames: AddrRange<PhysAddr>,
    pub memory: MemoryType,
    pub owner: Owner,
}

/// The mappings collected so far.
#[derive(Default)]
pub(super) struct Mappings {
    all: Vec<MappedRange>,
    leaves: usize,
}

impl Mappings {
    /// Adds a mapping, merged with the previous one if the two are adjacent, of one owner and of one memory
    /// type.
    pub fn add(&mut self, frames: AddrRange<PhysAddr>, memory: MemoryType, owner: Owner) {
        self.leaves += 1;
        if let Some(last) = self.all.last_mut()
            && (last.memory, last.owner) == (memory, owner)
            && last.frames.end() == frames.start()
        {
            last.frames = AddrRange::new(last.frames.start(), frames.end());
            return;
        }
        self.all.push(MappedRange { frames, memory, owner });
    }

    /// Returns the number of pages and blocks added.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// Returns all mappings in the order of their physical addresses.
    pub fn sorted(&mut self) -> &[MappedRange] {
        self.all.sort_unstable_by_key(|mapped| mapped.frames.start());
        &self.all
    }
}

/// Returns the first frames that are mapped with two memory types. Mappings of devices that do not snoop are
/// excluded: they are non-cacheable for every memory type of the CPUs' mappings.
pub(super) fn conflict(sorted: &[MappedRange]) -> Option<Finding> {
    // Of each memory type, the mapping so far with the highest end: a mapping that overlaps any of them
    // overlaps this one.
    let mut furthest: [Option<MappedRange>; 4] = [None; 4];
    let snooped = |mapped: &&MappedRange| !matches!(mapped.owner, Owner::NonCoherentDomain(_));
    for &mapped in sorted.iter().filter(snooped) {
        let others = furthest.iter().flatten().filter(|other| other.memory != mapped.memory);
        for other in others {
            if let Some(frames) = other.frames.intersection(&mapped.frames) {
                let mappings = [(other.owner, other.memory), (mapped.owner, mapped.memory)];
                return Some(Finding::Conflict { frames, mappings });
            }
        }
        extend(&mut furthest[index_of(mapped.memory)], mapped);
    }
    None
}

/// Returns the first frames of a program's private memory that have a second mapping in a program, or one in
/// the kernel outside of the linear map.
pub(super) fn shared(sorted: &[MappedRange]) -> Option<Finding> {
    let (mut private, mut other): (Option<MappedRange>, Option<MappedRange>) = (None, None);
    for &mapped in sorted.iter().filter(|mapped| mapped.owner.is_program() || mapped.owner == Owner::Kernel) {
        let is_private = matches!(mapped.owner, Owner::Private(_));
        let against = if is_private { [private, other] } else { [private, None] };
        for before in against.into_iter().flatten() {
            if let Some(frames) = before.frames.intersection(&mapped.frames) {
                return Some(Finding::Shared { frames, owners: [before.owner, mapped.owner] });
            }
        }
        extend(if is_private { &mut private } else { &mut other }, mapped);
    }
    None
}

/// Replaces `furthest` if `mapped` ends at a higher address.
fn extend(furthest: &mut Option<MappedRange>, mapped: MappedRange) {
    if furthest.is_none_or(|before| before.frames.end() < mapped.frames.end()) {
        *furthest = Some(mapped);
    }
}

fn index_of(memory: MemoryType) -> usize {
    match memory {
        MemoryType::WriteBack => 0,
        MemoryType::NonCacheable => 1,
        MemoryType::Device => 2,
        MemoryType::DeviceNonPosted => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryType::{Device, NonCacheable, WriteBack};
    use super::*;

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
    }

    fn conflict_of(mappings: &[(u64, u64, MemoryType)]) -> Option<AddrRange<PhysAddr>> {
        let mut all = Mappings::default();
        for (number, &(start, end, memory)) in mappings.iter().enumerate() {
            all.add(range(start, end), memory, Owner::Domain(number));
        }
        match conflict(all.sorted()) {
            Some(Finding::Conflict { frames, .. }) => Some(frames),
            Some(other) => panic!("{other}"),
            None => None,
        }
    }

    #[test]
    fn conflicting_memory_types_of_a_frame_are_found() {
        let found = conflict_of(&[
            (0x3000, 0x4000, NonCacheable),
            (0, 0x10000, WriteBack),
            (0x20000, 0x21000, Device),
        ]);
        assert_eq!(found, Some(range(0x3000, 0x4000)));
    }

    #[test]
    fn non_cacheable_mapping_of_a_device_that_does_not_snoop_is_no_conflict() {
        let mut all = Mappings::default();
        all.add(range(0, 0x2000), WriteBack, Owner::Linear);
        all.add(range(0x1000, 0x2000), NonCacheable, Owner::NonCoherentDomain(0));
        assert_eq!(conflict(all.sorted()), None);
        all.add(range(0x1000, 0x2000), NonCacheable, Owner::Domain(1));
        assert!(conflict(all.sorted()).is_some());
    }

    #[test]
    fn conflict_with_a_long_mapping_is_found_after_shorter_ones() {
        let long = (0, 0x100_0000, WriteBack);
        let found = conflict_of(&[long, (0x1000, 0x2000, WriteBack), (0xff_f000, 0x100_1000, NonCacheable)]);
        assert_eq!(found, Some(range(0xff_f000, 0x100_0000)));
    }

    #[test]
    fn equal_memory_types_and_adjacent_mappings_do_not_conflict() {
        let found = conflict_of(&[
            (0, 0x1000, WriteBack),
            (0, 0x1000, WriteBack),
            (0x1000, 0x2000, NonCacheable),
            (0x2000, 0x3000, WriteBack),
        ]);
        assert_eq!(found, None);
    }

    #[test]
    fn adjacent_mappings_of_one_owner_are_merged() {
        let mut all = Mappings::default();
        (0..512).for_each(|n| all.add(range(n << 12, (n + 1) << 12), WriteBack, Owner::Kernel));
        all.add(range(512 << 12, 513 << 12), WriteBack, Owner::Program(1));
        assert_eq!((all.leaves(), all.sorted().len()), (513, 2));
    }

    #[test]
    fn second_mapping_of_private_memory_is_found() {
        let of = |owners: [Owner; 2]| {
            let mut all = Mappings::default();
            owners.into_iter().for_each(|owner| all.add(range(0x1000, 0x2000), WriteBack, owner));
            all.add(range(0x2000, 0x3000), WriteBack, Owner::Private(9));
            shared(all.sorted()).is_some()
        };
        for other in [Owner::Kernel, Owner::Program(1), Owner::Private(1), Owner::Private(2)] {
            assert!(of([Owner::Private(1), other]) && of([other, Owner::Private(1)]), "{other:?}");
        }
        // The linear map maps all of lowmem, and a device may have streaming mappings of the pages.
        for other in [Owner::Linear, Owner::Domain(0)] {
            assert!(!of([Owner::Private(1), other]), "{other:?}");
        }
        assert!(!of([Owner::Program(1), Owner::Program(2)]), "a buffer may be shared");
    }
}
