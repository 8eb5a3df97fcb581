//! Visits of the leaves of a page table behind a spin lock, which masks interrupts: the lock is released
//! after every few leaves.

use addr::{AddrRange, Address};
use core::ops::ControlFlow;
use pagetable::Leaf;

/// The number of leaves that are read per acquisition of the lock.
const LEAVES: usize = 32;

/// Calls `visit` for each leaf in `range` in ascending order, without the lock. `read` locks the page table
/// and calls its argument for the leaves of a range until that breaks; the second value of each is passed on.
pub fn visit<A: Address, T: Copy>(
    range: AddrRange<A>,
    mut read: impl FnMut(AddrRange<A>, &mut dyn FnMut(Leaf<A>, T) -> ControlFlow<()>),
    mut visit: impl FnMut(Leaf<A>, T),
) {
    let mut rest = range;
    loop {
        let mut batch = [None; LEAVES];
        let mut count = 0;
        read(rest, &mut |leaf, value| {
            batch[count] = Some((leaf, value));
            count += 1;
            if count == LEAVES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        batch.iter().flatten().for_each(|&(leaf, value)| visit(leaf, value));
        let Some((last, _)) = batch[LEAVES - 1] else { return };
        let Some(end) = last.at.checked_add(last.bytes).filter(|&end| end < range.end()) else { return };
        rest = AddrRange::new(end, range.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Iova, MemoryType, PAGE_SIZE, PhysAddr};
    use alloc::vec::Vec;
    use pagetable::Access;

    #[test]
    fn every_leaf_is_visited_once_in_batches() {
        for pages in [0, 1, LEAVES as u64, LEAVES as u64 + 1, 3 * LEAVES as u64] {
            let range = AddrRange::new(Iova::new(0), Iova::new(pages * PAGE_SIZE));
            let (mut seen, mut locked) = (Vec::new(), 0);
            let read = |rest: AddrRange<Iova>, each: &mut dyn FnMut(Leaf<Iova>, ()) -> ControlFlow<()>| {
                locked += 1;
                for page in rest.start().raw() / PAGE_SIZE..pages {
                    let leaf = Leaf {
                        at: Iova::new(page * PAGE_SIZE),
                        to: PhysAddr::new(0),
                        bytes: PAGE_SIZE,
                        memory: MemoryType::WriteBack,
                        access: Access::READ,
                        contiguous: false,
                        regular: true,
                    };
                    if each(leaf, ()).is_break() {
                        return;
                    }
                }
            };
            visit(range, read, |leaf, ()| seen.push(leaf.at.raw() / PAGE_SIZE));
            assert!(seen.into_iter().eq(0..pages), "{pages} pages");
            assert_eq!(locked, pages.div_ceil(LEAVES as u64).max(1), "{pages} pages");
        }
    }
}
