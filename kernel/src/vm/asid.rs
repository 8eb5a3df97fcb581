//! ASIDs of user address spaces. An address space keeps its ASID for its lifetime, so there is no rollover;
//! the number of ASIDs limits the number of processes.

use crate::sync::SpinLock;
use addr::Asid;

/// Every CPU implements ASIDs of at least 8 bits. ASID 0 is used without a user address space.
const COUNT: usize = 256;

static IN_USE: SpinLock<[bool; COUNT]> = SpinLock::new([false; COUNT]);

/// An allocated ASID. Freed on drop.
#[derive(Debug)]
pub struct OwnedAsid(Asid);

impl OwnedAsid {
    /// Allocates an ASID. `None` if all are in use.
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
    /// Invalidates the ASID in the TLBs of all CPUs before it can be allocated again.
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
