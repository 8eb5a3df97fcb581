//! Refused mappings.

use super::{BASE, READ_WRITE, boot, host_memory, space_with_pages};
use abi::Errno;
use abi::memory::{Advice, Prot};
use addr::{AddrRange, PAGE_SIZE, UserVa};
use dma_api::{Attrs, StreamMemory};
use kernel::dma;
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::{AddressSpace, MmapPlacement, PageCounts};
use kernel::vm::shared_memory::{MemoryMapping, SharedMemory};
use program::MemoryLock;

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

#[test]
fn mapping_grows_with_the_following_bytes_of_its_object() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let object = SharedMemory::new().unwrap();
    object.writer().truncate(4 * PAGE_SIZE).unwrap();
    for page in 0..4 {
        object.writer().write(page * PAGE_SIZE, &[page as u8]).unwrap();
    }
    let (at, page) = (BASE + (1 << 20), PAGE_SIZE);
    let placement = MmapPlacement::Fixed(at);
    let mapping = MemoryMapping::new(object, true, (Prot::READ, Prot::all())).unwrap();
    space.map_memory(mapping, (page, 2 * page), placement, Prot::READ).unwrap();
    let range = |from: u64, to: u64| AddrRange::new(at + from * page, at + to * page);
    space.grow(range(0, 2), range(2, 3)).unwrap();
    let bytes = [0, 1, 2].map(|n| UserMemory::new(&space).read::<u8>(at + n * page).unwrap());
    assert_eq!(bytes, [1, 2, 3]);
    assert_eq!(space.grow(range(2, 4), range(4, 5)), Err(Errno::EFAULT), "across the end");
}

/// As a mapping of device memory in Linux.
#[test]
fn mapping_of_a_buffer_does_not_become_longer() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let buffer = dma::alloc_unattached(2 * PAGE_SIZE, Attrs::empty()).unwrap();
    let at = BASE + (1 << 20);
    let prot = (READ_WRITE, READ_WRITE);
    space.map_shared(buffer, (0, PAGE_SIZE), MmapPlacement::Fixed(at), prot).unwrap();
    let whole = AddrRange::new(at, at + PAGE_SIZE);
    assert_eq!(space.grow(whole, AddrRange::new(at + PAGE_SIZE, at + 2 * PAGE_SIZE)), Err(Errno::EFAULT));
    assert_eq!(space.move_to(whole, 2 * PAGE_SIZE, MmapPlacement::Hint(None)), Err(Errno::EFAULT));
    assert!(space.move_to(whole, PAGE_SIZE, MmapPlacement::Hint(None)).is_ok());
}

#[test]
fn heap_ends_above_its_start() {
    let _kernel = boot();
    let space = AddressSpace::new().unwrap();
    space.set_heap_start(BASE);
    let end = BASE + 3 * PAGE_SIZE;
    assert_eq!(space.set_break(end), end);
    for refused in [0, BASE.raw() - 1, u64::MAX, BASE.raw() + (1 << 40)] {
        assert_eq!(space.set_break(UserVa::new(refused)), end, "{refused:#x}");
    }
    assert_eq!(space.set_break(BASE), BASE);
    assert_eq!(space.is_mapped(BASE), Ok(false));
}

#[test]
fn access_beyond_the_protection_is_refused() {
    let _kernel = boot();
    let space = space_with_pages(2);
    let pages = |first: u64, end: u64| AddrRange::new(BASE + first * PAGE_SIZE, BASE + end * PAGE_SIZE);
    space.protect(pages(0, 2), Prot::READ).unwrap();
    assert!(space.pin(pages(0, 1), false).is_ok());
    assert_eq!(space.pin(pages(0, 1), true).map(drop), Err(Errno::EFAULT));
    assert_eq!(space.populate(pages(0, 1), Prot::READ), Ok(()));
    assert_eq!(space.populate(pages(0, 1), Prot::WRITE), Err(Errno::EINVAL));
    assert_eq!(space.advise(pages(0, 2), Advice::Hint), Ok(()));
    assert_eq!(space.advise(pages(0, 3), Advice::Hint), Err(Errno::ENOMEM), "a hole");
}

/// The child has its own locks: none.
#[test]
fn locks_are_populated_and_not_inherited() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let at = BASE + (1 << 20);
    let range = AddrRange::new(at, at + 4 * PAGE_SIZE);
    let locked = |space: &AddressSpace| {
        let (mut counts, mut at) = (PageCounts::default(), UserVa::new(0));
        while let Some(end) = space.count_pages(at, &mut counts) {
            at = end;
        }
        counts.locked
    };
    let resident = |space: &AddressSpace| {
        let mut states = Vec::new();
        space.residency(range, |is_resident| states.push(is_resident)).unwrap();
        states
    };
    space.map_anonymous(range.len(), MmapPlacement::Fixed(at), READ_WRITE).unwrap();
    assert_eq!((resident(&space), locked(&space)), (vec![false; 4], 0));
    space.lock_range(AddrRange::new(at, at + PAGE_SIZE), MemoryLock::Populated).unwrap();
    assert_eq!((resident(&space), locked(&space)), (vec![true, false, false, false], 1));
    let child = space.fork().unwrap();
    assert_eq!(locked(&child), 0);
    // Both share the page now; the lock copies it, as a write would.
    let frame = |space: &AddressSpace| space.frame_at(at).unwrap().0;
    assert_eq!(frame(&space), frame(&child));
    child.lock_all(MemoryLock::Populated).unwrap();
    assert_ne!(frame(&space), frame(&child));
    assert_eq!((resident(&child), locked(&child)), (vec![true; 4], 5));
    let hole = AddrRange::new(at + 3 * PAGE_SIZE, at + 5 * PAGE_SIZE);
    assert_eq!(space.lock_range(hole, MemoryLock::OnFault), Err(Errno::ENOMEM));
    assert_eq!(locked(&space), 2, "up to the hole");
    assert_eq!(space.advise(range, Advice::DontNeed), Err(Errno::EINVAL));
    assert_eq!(space.check_mapped(range, true), Err(Errno::EBUSY));
    child.lock_all(MemoryLock::None).unwrap();
    assert_eq!(locked(&child), 0);
}

#[test]
fn pinned_segments_are_the_frames_of_the_pages() {
    let _kernel = boot();
    let space = space_with_pages(4);
    space.unmap(AddrRange::new(BASE, BASE + 4 * PAGE_SIZE)).unwrap();
    // One by one, in another order, so that not all frames are adjacent.
    for page in [2, 0, 3, 1] {
        let at = BASE + page * PAGE_SIZE;
        space.map_anonymous(PAGE_SIZE, MmapPlacement::Fixed(at), READ_WRITE).unwrap();
        UserMemory::new(&space).write(at, &page).unwrap();
    }
    let pinned = space.pin(AddrRange::new(BASE, BASE + 4 * PAGE_SIZE), true).unwrap();
    let frames = |segment: &dma_api::PhysSegment| {
        (0..segment.len / PAGE_SIZE).map(|n| segment.start + n * PAGE_SIZE).collect::<Vec<_>>()
    };
    let frames: Vec<_> = StreamMemory::segments(&pinned).iter().flat_map(frames).collect();
    let mut leaves = Vec::new();
    space.leaves(|_| true, |leaf| leaves.push((leaf.at, leaf.to)));
    leaves.sort_by_key(|leaf| leaf.0);
    assert_eq!(frames, leaves.iter().map(|leaf| leaf.1).collect::<Vec<_>>());
}
