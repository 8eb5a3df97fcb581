//! ASIDs (VMIDs where only stage 2 is implemented) for domains. Each domain has its own, since the SMMU's TLB
//! is not tagged by stream.

use super::probe::Features;
use addr::{Asid, Vmid};
use alloc::vec::Vec;
use smmu_spec::TlbTag;

/// Allocator of ASIDs or VMIDs.
#[derive(Debug)]
pub struct TlbTagAllocator {
    stage1: bool,
    /// The lowest number never allocated. 0 stays unused: an uninitialized field would name it.
    next: u32,
    end: u32,
    freed: Vec<u16>,
}

impl TlbTagAllocator {
    /// All tags that the SMMU implements are free.
    pub(super) fn new(features: &Features) -> Self {
        let stage1 = features.uses_stage1();
        let bits = if stage1 { features.asid_bits } else { features.vmid_bits };
        Self { stage1, next: 1, end: if bits == 16 { 1 << 16 } else { 1 << 8 }, freed: Vec::new() }
    }

    /// A tag without TLB entries; `None` when all are in use.
    pub(super) fn allocate(&mut self) -> Option<TlbTag> {
        let number = match self.freed.pop() {
            Some(number) => number,
            None if self.next < self.end => {
                self.next += 1;
                (self.next - 1) as u16
            }
            None => return None,
        };
        Some(if self.stage1 { TlbTag::Stage1(Asid::new(number)) } else { TlbTag::Stage2(Vmid::new(number)) })
    }

    /// Frees a tag, whose TLB entries must be invalidated. Without memory for the free list the tag is lost.
    pub(super) fn release(&mut self, tag: TlbTag) {
        let number = match tag {
            TlbTag::Stage1(asid) => asid.raw(),
            TlbTag::Stage2(vmid) => vmid.raw(),
        };
        if self.freed.try_reserve(1).is_ok() {
            self.freed.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_unique_until_released() {
        let mut tags = TlbTagAllocator { stage1: false, next: 1, end: 4, freed: Vec::new() };
        let all: Vec<_> = core::iter::from_fn(|| tags.allocate()).collect();
        assert_eq!(all, [1, 2, 3].map(|number| TlbTag::Stage2(Vmid::new(number))));
        tags.release(all[1]);
        assert_eq!((tags.allocate(), tags.allocate()), (Some(all[1]), None));
    }
}
