//! Refused mappings.

use super::{BASE, READ_WRITE, boot, host_memory, space_with_pages};
use ::memory::Reach;
use abi::Errno;
use abi::memory::{Advice, Prot};
use addr::{AddrRange, Address, Order, PAGE_SIZE, UserVa};
use dma_api::{Attrs, StreamMemory};
use kernel::dma;
use kernel::memory::zones;
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::{AddressSpace, MmapPlacement, PageCounts};
use kernel::vm::huge_pages::{self, HugePages};
use kernel::vm::pages;
use kernel::vm::shared_memory::{MemoryMapping, SharedMemory};
use program::{HugePageSize, MemoryLock};

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

const BLOCK: u64 = 2 << 20;

/// The huge pages that are not mapped, and all.
fn huge_pages() -> (u64, u64) {
    let counts = huge_pages::counts(HugePageSize::Size2M);
    (counts.reserved, counts.total)
}

#[test]
fn huge_pages_are_reserved_until_they_are_unmapped() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let at = BASE + 8 * BLOCK;
    let part = |first: u64, count: u64| AddrRange::from_len(at + first * BLOCK, count * BLOCK).unwrap();
    let map = |space: &AddressSpace, count| {
        let pages = HugePages::new(HugePageSize::Size2M, count, false)?;
        space.map_huge(pages, count * BLOCK, MmapPlacement::Fixed(at), READ_WRITE)
    };
    assert_eq!(map(&space, 1000), Err(Errno::ENOMEM));
    assert_eq!(huge_pages(), (0, 0));
    let inside = HugePages::new(HugePageSize::Size2M, 1, false).unwrap();
    let refused = space.map_huge(inside, BLOCK, MmapPlacement::Fixed(at + PAGE_SIZE), READ_WRITE);
    assert_eq!((refused, huge_pages()), (Err(Errno::EINVAL), (0, 0)));
    map(&space, 3).unwrap();
    assert_eq!(huge_pages(), (3, 3));
    // All other memory is in use: a reserved page is there.
    let others: Vec<_> = std::iter::from_fn(|| zones::alloc(Order::BLOCK_2M, Reach::ANYWHERE)).collect();
    let memory = UserMemory::new(&space);
    memory.write(at + BLOCK, &1u64).unwrap();
    others.into_iter().for_each(zones::free);
    assert_eq!(huge_pages(), (2, 3));
    let mut leaves = Vec::new();
    space.leaves(|vma| vma.range.start() >= at, |leaf| leaves.push((leaf.at, leaf.bytes)));
    assert_eq!(leaves, [(at + BLOCK, BLOCK)]);
    // No part of a page is unmapped, protected or moved.
    let page = AddrRange::from_len(at + BLOCK, PAGE_SIZE).unwrap();
    assert_eq!(space.unmap(page), Err(Errno::EINVAL));
    assert_eq!(space.protect(page, Prot::READ), Err(Errno::EINVAL));
    assert_eq!(
        space.advise(AddrRange::new(page.end(), part(1, 1).end()), Advice::DontNeed),
        Err(Errno::EINVAL)
    );
    assert_eq!(space.move_to(page, PAGE_SIZE, MmapPlacement::Hint(None)), Err(Errno::EINVAL));
    assert_eq!(
        space.map_anonymous(PAGE_SIZE, MmapPlacement::Fixed(page.start()), READ_WRITE),
        Err(Errno::EINVAL)
    );
    assert_eq!(space.grow(part(0, 3), part(3, 1)), Err(Errno::EINVAL));
    // A child has no reservation. Both have a page of their own after a write.
    let child = space.fork().unwrap();
    memory.write(at + BLOCK, &2u64).unwrap();
    assert_eq!(huge_pages(), (2, 4));
    let moved = space.move_to(part(1, 1), BLOCK, MmapPlacement::Hint(None)).unwrap();
    assert!(moved.is_aligned(BLOCK));
    assert_eq!(memory.read(moved), Ok(2u64));
    space.protect(AddrRange::from_len(moved, BLOCK).unwrap(), Prot::READ).unwrap();
    assert!(memory.write(moved, &3u64).is_err());
    // SAFETY: uninstalled below.
    unsafe { child.install() };
    assert_eq!(UserMemory::new(&child).read(at + BLOCK), Ok(1u64));
    arch::mmu::uninstall_user();
    drop(child);
    assert_eq!(huge_pages(), (2, 3));
    let pinned = space.pin(AddrRange::from_len(moved + PAGE_SIZE, 2 * PAGE_SIZE).unwrap(), false).unwrap();
    space.unmap(AddrRange::from_len(moved, BLOCK).unwrap()).unwrap();
    assert_eq!(huge_pages(), (2, 3), "a pinned page is freed");
    drop(pinned);
    assert_eq!(huge_pages(), (2, 2));
    space.unmap(part(0, 3)).unwrap();
    assert_eq!(huge_pages(), (0, 0));
}

#[test]
fn shared_huge_pages_are_the_same_for_parent_and_child() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let at = BASE + 8 * BLOCK;
    let pages = HugePages::new(HugePageSize::Size2M, 2, true).unwrap();
    space.map_huge(pages, 2 * BLOCK, MmapPlacement::Fixed(at), READ_WRITE).unwrap();
    UserMemory::new(&space).write(at, &1u64).unwrap();
    let child = space.fork().unwrap();
    // SAFETY: uninstalled below.
    unsafe { child.install() };
    let memory = UserMemory::new(&child);
    assert_eq!(memory.read(at), Ok(1u64));
    (0..2).for_each(|page| memory.write(at + page * BLOCK, &(5 + page)).unwrap());
    child.unmap(AddrRange::from_len(at, 2 * BLOCK).unwrap()).unwrap();
    assert_eq!(huge_pages(), (0, 2), "the object has the pages");
    arch::mmu::uninstall_user();
    drop(child);
    // SAFETY: not dropped while it is installed, as in `space_with_pages`.
    unsafe { std::mem::ManuallyDrop::new(space.clone()).install() };
    assert_eq!([0, 1].map(|page| UserMemory::new(&space).read(at + page * BLOCK)), [Ok(5u64), Ok(6)]);
    space.unmap(AddrRange::from_len(at, 2 * BLOCK).unwrap()).unwrap();
    assert_eq!(huge_pages(), (0, 0));
}

#[test]
fn pin_of_a_block_is_one_segment_of_one_pin() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let at = BASE + 8 * BLOCK;
    space.map_anonymous(2 * BLOCK, MmapPlacement::Fixed(at), READ_WRITE).unwrap();
    let before = pages::pinned();
    let range = AddrRange::new(at + 12, at + (BLOCK - 8));
    let pinned = space.pin(range, true).unwrap();
    assert_eq!((StreamMemory::segments(&pinned).len(), pages::pinned() - before), (1, 1));
    assert_eq!(StreamMemory::segments(&pinned)[0].len, range.len());
    let whole = space.pin(AddrRange::from_len(at, 2 * BLOCK).unwrap(), true).unwrap();
    let bytes: u64 = StreamMemory::segments(&whole).iter().map(|segment| segment.len).sum();
    assert_eq!((bytes, pages::pinned() - before), (2 * BLOCK, 3));
    // The last byte of the first block, and a page of the second, which is split.
    space.protect(AddrRange::from_len(at + BLOCK, PAGE_SIZE).unwrap(), Prot::READ).unwrap();
    let across = space.pin(AddrRange::new(at + (BLOCK - 1), at + (BLOCK + 1)), false).unwrap();
    assert_eq!(pages::pinned() - before, 5);
    drop((pinned, whole, across));
    assert_eq!(pages::pinned(), before);
    let beyond = AddrRange::new(at, at + 2 * BLOCK + 1);
    assert_eq!(space.pin(beyond, true).map(drop), Err(Errno::EFAULT));
    assert_eq!(pages::pinned(), before);
    space.unmap(AddrRange::from_len(at, 2 * BLOCK).unwrap()).unwrap();
}
