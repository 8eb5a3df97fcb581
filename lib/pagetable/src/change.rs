//! Which changes of an entry need break-before-make (D8.16.1).

use crate::{Descriptor, Format};

/// How to change an entry that walkers may be using.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryChange {
    /// The entries are equal.
    Unchanged,
    /// One store. Until the TLBs are invalidated, either entry may be in effect.
    InPlace,
    /// An invalid entry, a completed invalidation, then the new entry. With both entries in TLBs at the same
    /// time, a lookup may return an amalgamation of the two, or a TLB conflict abort.
    BreakBeforeMake,
}

impl EntryChange {
    /// How to change the entry of a slot from `old` to `new`.
    ///
    /// A change from or to an invalid entry is one store. Between valid entries only the rights may change in
    /// place: not the output address, the size, the memory type, the shareability, nG or the contiguous hint.
    /// In a contiguous group nothing may change in place, since its sixteen entries have to agree at any time
    /// (D8.7.1): the group is broken as a whole.
    pub(crate) fn between<F: Format>(old: Descriptor, new: Descriptor) -> Self {
        let rights_alone = (old.bits() ^ new.bits()) & !F::RIGHTS == 0;
        if old == new {
            Self::Unchanged
        } else if !old.is_valid() || !new.is_valid() || (rights_alone && !old.is_contiguous()) {
            Self::InPlace
        } else {
            Self::BreakBeforeMake
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, InputAddress, Mapping, Stage1, Stage2};
    use addr::{Iova, KernelVa, MemoryType, PhysAddr, UserVa};

    fn leaf<F: Format, A: InputAddress>(output: u64, level: u8, mapping: Mapping) -> Descriptor {
        Descriptor::leaf(PhysAddr::new(output), level, F::attributes::<A>(mapping))
    }

    #[test]
    fn only_rights_change_in_place_between_valid_entries() {
        let (ro, rw) =
            (Mapping::read_only(MemoryType::WriteBack), Mapping::read_write(MemoryType::WriteBack));
        let page = |m| leaf::<Stage1, UserVa>(0x20_0000, 3, m);
        let cases = [
            (page(rw), page(rw), EntryChange::Unchanged),
            (page(rw), page(ro), EntryChange::InPlace),
            (page(ro), page(Mapping::code()), EntryChange::InPlace),
            (page(ro), page(ro.privileged()), EntryChange::InPlace),
            (page(ro), Descriptor::INVALID, EntryChange::InPlace),
            (Descriptor::INVALID, page(ro), EntryChange::InPlace),
            (page(rw).broken(), page(ro), EntryChange::InPlace),
            (page(ro), page(Mapping::read_only(MemoryType::NonCacheable)), EntryChange::BreakBeforeMake),
            (page(ro), leaf::<Stage1, UserVa>(0x20_1000, 3, ro), EntryChange::BreakBeforeMake),
            (page(ro), leaf::<Stage1, KernelVa>(0x20_0000, 3, ro.privileged()), EntryChange::BreakBeforeMake),
            (
                leaf::<Stage1, UserVa>(0x20_0000, 2, ro),
                Descriptor::table(PhysAddr::new(0x5000)),
                EntryChange::BreakBeforeMake,
            ),
            (page(ro), page(ro).contiguous(), EntryChange::BreakBeforeMake),
            (page(ro).contiguous(), page(rw).contiguous(), EntryChange::BreakBeforeMake),
        ];
        for (old, new, expected) in cases {
            assert_eq!(EntryChange::between::<Stage1>(old, new), expected, "{old:?} -> {new:?}");
        }
    }

    #[test]
    fn stage_2_rights_change_in_place() {
        let page =
            |access| leaf::<Stage2, Iova>(0x1000, 3, Mapping::new(MemoryType::WriteBack, access).unwrap());
        let changes = [Access::READ, Access::WRITE, Access::READ | Access::EXECUTE];
        for access in changes {
            assert_eq!(
                EntryChange::between::<Stage2>(page(Access::READ | Access::WRITE), page(access)),
                EntryChange::InPlace
            );
        }
    }
}
