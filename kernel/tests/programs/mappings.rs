//! Refused mappings.

use super::{BASE, READ_WRITE, boot, host_memory};
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, PAGE_SIZE, UserVa};
use kernel::vm::address_space::{AddressSpace, MmapPlacement};

/// The arguments, and the room for VMAs, are checked before the mappings at a fixed address are unmapped.
#[test]
fn refused_mapping_at_a_fixed_address_leaves_the_old_ones() {
    let _kernel = boot();
    let before = host_memory::free_frames();
    let space = AddressSpace::new().unwrap();
    let pages =
        |first: u64, count: u64| AddrRange::from_len(BASE + first * PAGE_SIZE, count * PAGE_SIZE).unwrap();
    let map = |range: AddrRange<UserVa>, prot| {
        space.map_anonymous(range.len(), MmapPlacement::Fixed(range.start()), prot)
    };
    let (wide, single) = (pages(0, 3), pages(4, 1));
    let of_wide = pages(1, 1);
    map(wide, READ_WRITE).unwrap();
    map(single, READ_WRITE).unwrap();
    assert_eq!(map(single, Prot::WRITE | Prot::EXEC), Err(Errno::EACCES));
    assert_eq!(space.is_mapped(single.start()), Ok(true), "unmapped for a refused protection");
    let others = (3..).map(|n| pages(2 * n, 1)).take_while(|range| map(*range, READ_WRITE).is_ok());
    let last = others.last().unwrap();
    // The new VMA has room in place of the old one, but not together with the rest of a moved one.
    map(single, Prot::READ).unwrap();
    let moved = space.move_to(last, PAGE_SIZE, MmapPlacement::Fixed(single.start()));
    assert_eq!(moved, Err(Errno::ENOMEM));
    assert_eq!(space.is_mapped(single.start()), Ok(true), "unmapped for a refused move");
    space.unmap(last).unwrap();
    // Room for one more: not for the new VMA and both parts of the old one.
    assert_eq!(map(of_wide, Prot::READ), Err(Errno::ENOMEM));
    assert_eq!(space.is_mapped(of_wide.start()), Ok(true), "unmapped for a refused mapping");
    drop(space);
    assert_eq!(host_memory::free_frames(), before);
}
