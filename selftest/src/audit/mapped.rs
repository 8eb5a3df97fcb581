//! All mappings, and what two of the same frame must not be.

use super::{Finding, Owner};
use addr::{AddrRange, MemoryType, PhysAddr};
use alloc::vec::Vec;

/// Physical memory that is mapped in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapped {
    pub to: AddrRange<PhysAddr>,
    pub memory: MemoryType,
    pub owner: Owner,
}

/// Mappings, as far as they have been shown.
#[derive(Default)]
pub(super) struct Mappings {
    all: Vec<Mapped>,
    leaves: usize,
}

impl Mappings {
    /// Notes a mapping. Neighbours that come one after the other take the room of one.
    pub fn add(&mut self, to: AddrRange<PhysAddr>, memory: MemoryType, owner: Owner) {
        self.leaves += 1;
        if let Some(last) = self.all.last_mut()
            && (last.memory, last.owner) == (memory, owner)
            && last.to.end() == to.start()
        {
            last.to = AddrRange::new(last.to.start(), to.end());
            return;
        }
        self.all.push(Mapped { to, memory, owner });
    }

    /// How many pages and blocks were looked at.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// All of them, by address.
    pub fn sorted(&mut self) -> &[Mapped] {
        self.all.sort_unstable_by_key(|mapped| mapped.to.start());
        &self.all
    }
}

/// The first frames, if any, that `sorted` mappings show with two memory types.
pub(super) fn conflict(sorted: &[Mapped]) -> Option<Finding> {
    // Of each memory type the mapping seen so far that reaches furthest: who meets any, meets that one.
    let mut furthest: [Option<Mapped>; 3] = [None; 3];
    for &mapped in sorted {
        let others = furthest.iter().flatten().filter(|other| other.memory != mapped.memory);
        for other in others {
            if let Some(frames) = other.to.intersection(&mapped.to) {
                let mappings = [(other.owner, other.memory), (mapped.owner, mapped.memory)];
                return Some(Finding::Conflict { frames, mappings });
            }
        }
        reach(&mut furthest[slot(mapped.memory)], mapped);
    }
    None
}

/// The first frames, if any, that a program has for itself and somebody else has too.
pub(super) fn shared(sorted: &[Mapped]) -> Option<Finding> {
    let (mut private, mut other): (Option<Mapped>, Option<Mapped>) = (None, None);
    for &mapped in sorted.iter().filter(|mapped| mapped.owner.is_program() || mapped.owner == Owner::Kernel) {
        let is_private = matches!(mapped.owner, Owner::Private(_));
        let against = if is_private { [private, other] } else { [private, None] };
        for before in against.into_iter().flatten() {
            if let Some(frames) = before.to.intersection(&mapped.to) {
                return Some(Finding::Shared { frames, owners: [before.owner, mapped.owner] });
            }
        }
        reach(if is_private { &mut private } else { &mut other }, mapped);
    }
    None
}

fn reach(furthest: &mut Option<Mapped>, mapped: Mapped) {
    if furthest.is_none_or(|before| before.to.end() < mapped.to.end()) {
        *furthest = Some(mapped);
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
    fn a_frame_mapped_in_two_ways_is_found() {
        let found = conflict_of(&[
            (0x3000, 0x4000, NonCacheable),
            (0, 0x10000, WriteBack),
            (0x20000, 0x21000, Device),
        ]);
        assert_eq!(found, Some(range(0x3000, 0x4000)));
    }

    #[test]
    fn a_long_mapping_is_remembered_behind_short_ones() {
        let long = (0, 0x100_0000, WriteBack);
        let found = conflict_of(&[long, (0x1000, 0x2000, WriteBack), (0xff_f000, 0x100_1000, NonCacheable)]);
        assert_eq!(found, Some(range(0xff_f000, 0x100_0000)));
    }

    #[test]
    fn the_same_way_twice_and_neighbours_are_fine() {
        let found = conflict_of(&[
            (0, 0x1000, WriteBack),
            (0, 0x1000, WriteBack),
            (0x1000, 0x2000, NonCacheable),
            (0x2000, 0x3000, WriteBack),
        ]);
        assert_eq!(found, None);
    }

    #[test]
    fn neighbours_are_one_until_somebody_else_comes() {
        let mut all = Mappings::default();
        (0..512).for_each(|n| all.add(range(n << 12, (n + 1) << 12), WriteBack, Owner::Kernel));
        all.add(range(512 << 12, 513 << 12), WriteBack, Owner::Program(1));
        assert_eq!((all.leaves(), all.sorted().len()), (513, 2));
    }

    #[test]
    fn what_a_program_has_for_itself_nobody_else_has() {
        let of = |owners: [Owner; 2]| {
            let mut all = Mappings::default();
            owners.into_iter().for_each(|owner| all.add(range(0x1000, 0x2000), WriteBack, owner));
            all.add(range(0x2000, 0x3000), WriteBack, Owner::Private(9));
            shared(all.sorted()).is_some()
        };
        for other in [Owner::Kernel, Owner::Program(1), Owner::Private(1), Owner::Private(2)] {
            assert!(of([Owner::Private(1), other]) && of([other, Owner::Private(1)]), "{other:?}");
        }
        // The linear map shows all of low memory, and a device may have pages that are lent to it.
        for other in [Owner::Linear, Owner::Domain(0)] {
            assert!(!of([Owner::Private(1), other]), "{other:?}");
        }
        assert!(!of([Owner::Program(1), Owner::Program(2)]), "a buffer may be shared");
    }
}
