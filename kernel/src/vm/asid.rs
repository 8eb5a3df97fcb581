//! Tags for address spaces. There are never more programs than tags here, so one belongs to an address space as long
//! as it lives, and nothing ever has to roll over.

use crate::sync::SpinLock;
use addr::Asid;

/// Every CPU has ASIDs of 8 bits at least; number 0 stands for "no program".
const COUNT: usize = 256;

static IN_USE: SpinLock<[bool; COUNT]> = SpinLock::new([false; COUNT]);

/// An ASID that nobody else has.
#[derive(Debug)]
pub struct OwnedAsid(Asid);

impl OwnedAsid {
    /// A free one; `None` when all are taken.
    pub fn allocate() -> Option<Self> {
        let mut in_use = IN_USE.lock();
        let number = (1..COUNT).find(|&number| !in_use[number])?;
        in_use[number] = true;
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
        IN_USE.lock()[usize::from(self.0.raw())] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asid_is_invalidated_before_it_is_freed() {
        let asid = OwnedAsid::allocate().unwrap();
        let number = asid.get();
        assert_ne!(number.raw(), 0);
        arch::fake::take();
        drop(asid);
        assert!(arch::fake::take().contains(&arch::fake::Instruction::TlbAsid(number)));
    }
}
