//! Tags for address spaces. There are never more programs than tags here, so one belongs to an address space as long
//! as it lives, and nothing ever has to roll over.

use crate::sync::SpinLock;
use addr::Asid;

/// Every CPU has ASIDs of 8 bits at least; number 0 stands for "no program".
const COUNT: usize = 256;

static TAKEN: SpinLock<[bool; COUNT]> = SpinLock::new([false; COUNT]);

/// An ASID that nobody else has.
#[derive(Debug)]
pub struct OwnedAsid(Asid);

impl OwnedAsid {
    /// A free one; `None` when all are taken.
    pub fn allocate() -> Option<Self> {
        let mut taken = TAKEN.lock();
        let number = (1..COUNT).find(|&number| !taken[number])?;
        taken[number] = true;
        Some(Self(Asid::new(number as u16)))
    }

    /// The ASID.
    pub fn get(&self) -> Asid {
        self.0
    }
}

impl Drop for OwnedAsid {
    /// No TLB remembers it when the next one gets it.
    fn drop(&mut self) {
        arch::tlb::asid(self.0);
        TAKEN.lock()[usize::from(self.0.raw())] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_forgotten_by_the_tlbs_before_it_is_free() {
        let tag = OwnedAsid::allocate().unwrap();
        let number = tag.get();
        assert_ne!(number.raw(), 0);
        arch::fake::take();
        drop(tag);
        assert!(arch::fake::take().contains(&arch::fake::Instruction::TlbAsid(number)));
    }
}
