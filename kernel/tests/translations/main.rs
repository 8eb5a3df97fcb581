//! TLB maintenance of address spaces and of kernel mappings, on a TLB model that keeps every translation
//! until a TLBI names it: the frame, the kernel range or the ASID of a translation is owned until then, and
//! later no access uses it.

mod fork;
#[path = "../host_memory/mod.rs"]
mod host_memory;
mod tlb_model;
mod workload;

use ::memory::Reach;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Order, PAGE_SIZE, UserVa};
use arch::fake::{Instruction, UserAccess};
use dma_api::{Attrs, StreamMemory};
use kernel::dma;
use kernel::memory::stack::KernelStack;
use kernel::memory::vmalloc::{KernelArea, STACKS, VMALLOC};
use kernel::memory::{table_frames, zones};
use kernel::process::futex::Futexes;
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use kernel::vm::pages;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE);
const BASE: UserVa = UserVa::new(0x40_0000);

/// Boots the kernel of this process with an empty TLB; the tests run in turn.
fn boot() -> MutexGuard<'static, ()> {
    static KERNEL: Mutex<()> = Mutex::new(());
    let guard = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    tlb_model::install(host_memory::boot());
    guard
}

/// Whether another thread completes `action`, which waits for a lock, within this time.
fn completes(time: Duration, action: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::spawn(|| {
        host_memory::attach_thread();
        action();
    });
    let deadline = Instant::now() + time;
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    thread.is_finished()
}

/// An address space with `pages` anonymous pages at [`BASE`], installed on this CPU.
fn space_with_pages(pages: u64) -> AddressSpace {
    let space = AddressSpace::new().unwrap();
    space.map_anonymous(pages * PAGE_SIZE, MmapPlacement::Fixed(BASE), READ_WRITE).unwrap();
    // SAFETY: each test uninstalls it before the drop.
    unsafe { space.install() };
    for page in 0..pages {
        UserMemory::new(&space).write(BASE + page * PAGE_SIZE, &page).unwrap();
    }
    tlb_model::check();
    space
}

#[test]
fn unlinked_kernel_table_is_invalidated_before_another_is_linked() {
    let _kernel = boot();
    let stack = KernelStack::new().unwrap();
    tlb_model::check();
    // During the unmap of the only stack in its last-level table, another CPU maps one in the same 2 MiB.
    let neighbour = Rc::new(Cell::new(None));
    let started = neighbour.clone();
    let map = move |_| {
        let thread = std::thread::spawn(|| {
            host_memory::attach_thread();
            // Not dropped by a test that fails: the kernel is in an unknown state then.
            ManuallyDrop::new(KernelStack::new().unwrap())
        });
        // It waits for the lock of the kernel's tables, unless the unmap has released it.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        started.set(Some(thread));
    };
    tlb_model::with_other_cpu(Box::new(map), || drop(stack));
    let stack = neighbour.take().expect("a TLBI").join().unwrap();
    tlb_model::check();
    drop(ManuallyDrop::into_inner(stack));
    tlb_model::check();
}

#[test]
fn write_after_mprotect_faults() {
    let _kernel = boot();
    let space = space_with_pages(2);
    let memory = UserMemory::new(&space);
    memory.write(BASE, &1u64).unwrap();
    space.protect(AddrRange::new(BASE, BASE + PAGE_SIZE), Prot::READ).unwrap();
    assert!(memory.write(BASE, &2u64).is_err(), "written through a stale TLB entry");
    assert_eq!(memory.read::<u64>(BASE), Ok(1));
    memory.write(BASE + PAGE_SIZE, &3u64).unwrap();
    arch::mmu::uninstall_user();
}

#[test]
fn user_copy_succeeds_while_another_thread_breaks_the_entry() {
    thread_local!(static SPACE: RefCell<Option<Arc<AddressSpace>>> = const { RefCell::new(None) });
    let _kernel = boot();
    let space = Arc::new(space_with_pages(1));
    SPACE.set(Some(space.clone()));
    let memory = UserMemory::new(&space);
    // The entry is broken whenever this thread does not hold the lock of the address space.
    arch::fake::map_user_memory(|at, access| {
        let space = SPACE.with_borrow(|space| space.clone().unwrap());
        let is_locked = !completes(Duration::from_millis(50), move || space.leaves(|_| false, |_| {}));
        is_locked.then(|| tlb_model::user_address_of(at, access)).flatten()
    });
    assert_eq!(memory.write(BASE, &0x0123_4567_89ab_cdefu64), Ok(()));
    assert_eq!(memory.read(BASE), Ok(0x0123_4567_89ab_cdefu64));
    assert_eq!(memory.load_u32(BASE), Ok(0x89ab_cdef));
    assert_eq!(memory.write(BASE + PAGE_SIZE, &0u8), Err(Errno::EFAULT));
    // An access that faults with the lock too, for example by an external abort, is not repeated forever.
    arch::fake::map_user_memory(|_, _| None);
    assert_eq!(memory.write(BASE, &0u64), Err(Errno::EFAULT));
    assert_eq!(memory.load_u32(BASE), Err(Errno::EFAULT));
    arch::mmu::uninstall_user();
    SPACE.take();
}

/// A buffer can be large, and its attachments wait for the IOMMU: neither may delay the page faults of other
/// threads.
#[test]
fn replaced_buffer_is_freed_without_the_lock_of_the_address_space() {
    let _kernel = boot();
    let replace_by_mmap = |space: &AddressSpace| {
        space.map_anonymous(3 * PAGE_SIZE, MmapPlacement::Fixed(BASE), READ_WRITE).map(|_| ())
    };
    let replace_by_mapping = |space: &AddressSpace| {
        let other = dma::alloc_unattached(3 * PAGE_SIZE, Attrs::empty()).unwrap();
        let place = MmapPlacement::Fixed(BASE);
        space.map_shared(other, (0, 3 * PAGE_SIZE), place, (READ_WRITE, READ_WRITE)).map(|_| ())
    };
    let shrink_heap = |space: &AddressSpace| {
        assert_eq!(space.set_break(BASE), BASE);
        Ok(())
    };
    let unmap = |space: &AddressSpace| space.unmap(AddrRange::new(BASE, BASE + 3 * PAGE_SIZE));
    type UnmappingCall = fn(&AddressSpace) -> Result<(), Errno>;
    for call in [replace_by_mmap as UnmappingCall, replace_by_mapping, shrink_heap, unmap] {
        let space = Arc::new(AddressSpace::new().unwrap());
        space.set_heap_start(BASE);
        space.set_break(BASE + 3 * PAGE_SIZE);
        let buffer = dma::alloc_unattached(3 * PAGE_SIZE, Attrs::WRITE_COMBINE).unwrap();
        // Its removal by the last reference is a TLBI of kernel addresses.
        let view = buffer.make_kernel_view().unwrap();
        let place = MmapPlacement::Fixed(BASE);
        space.map_shared(buffer, (0, 3 * PAGE_SIZE), place, (READ_WRITE, READ_WRITE)).unwrap();
        let freed = Rc::new(Cell::new(false));
        let (other, seen) = (space.clone(), freed.clone());
        let fault = move |instruction| {
            if matches!(instruction, Instruction::TlbKernel(range, _) if range.overlaps(&view)) {
                seen.set(true);
                let other = other.clone();
                let is_free = completes(Duration::from_secs(1), move || other.leaves(|_| false, |_| {}));
                assert!(is_free, "the address space is locked");
            }
        };
        tlb_model::with_other_cpu(Box::new(fault), || call(&space).unwrap());
        assert!(freed.get(), "the buffer is not freed");
    }
}

#[test]
fn futex_requeue_compares_under_the_lock() {
    static LOADS: AtomicU64 = AtomicU64::new(0);
    static WORDS: [AtomicU32; 2] = [AtomicU32::new(1), AtomicU32::new(2)];
    let _kernel = boot();
    let space = space_with_pages(1);
    let (memory, futexes) = (UserMemory::new(&space), Futexes::new().unwrap());
    // The word changes from 1 to 2 after the first load, which populates the page.
    arch::fake::map_user_memory(|_, _| {
        let word = &WORDS[LOADS.fetch_add(1, Relaxed).min(1) as usize];
        Some(std::ptr::from_ref(word).expose_provenance() as u64)
    });
    let requeue = |from, expected| futexes.requeue(memory, (from, 1), (BASE + 4, 1), Some(expected));
    assert_eq!(requeue(BASE, 1), Err(Errno::EAGAIN));
    assert_eq!(requeue(BASE, 2), Ok(0));
    assert_eq!(requeue(BASE + 2, 2), Err(Errno::EINVAL));
    arch::mmu::uninstall_user();
}

#[test]
fn asid_is_owned_until_it_is_invalidated() {
    let _kernel = boot();
    let space = space_with_pages(1);
    let (_, asid) = arch::mmu::user_root().unwrap();
    arch::mmu::uninstall_user();
    let invalidations = Rc::new(Cell::new(0));
    let count = invalidations.clone();
    let start_process = move |instruction| {
        if instruction == Instruction::TlbAsid(asid) {
            count.set(count.get() + 1);
            let other = AddressSpace::new().unwrap();
            // SAFETY: uninstalled before the drop.
            unsafe { other.install() };
            let (_, other_asid) = arch::mmu::user_root().unwrap();
            arch::mmu::uninstall_user();
            assert_ne!(other_asid, asid, "the ASID is free before its TLBI");
        }
    };
    tlb_model::with_other_cpu(Box::new(start_process), || drop(space));
    assert!(invalidations.get() > 0);
    tlb_model::check();
}

/// Drops a mapping of `area`, whose range must be allocated at each TLBI.
fn drop_with_owned_range<T>(area: &'static KernelArea, mapping: T) {
    tlb_model::check();
    let used = area.usage().now;
    let invalidations = Rc::new(Cell::new(0));
    let count = invalidations.clone();
    let check = move |instruction| {
        if matches!(instruction, Instruction::TlbKernel(..)) {
            count.set(count.get() + 1);
            assert_eq!(area.usage().now, used, "the range is free before its TLBI");
        }
    };
    tlb_model::with_other_cpu(Box::new(check), || drop(mapping));
    assert!(invalidations.get() > 0 && area.usage().now < used);
    tlb_model::check();
}

#[test]
fn kernel_range_is_owned_until_it_is_invalidated() {
    let _kernel = boot();
    let buffer = dma::alloc_unattached(3 * PAGE_SIZE, Attrs::WRITE_COMBINE).unwrap();
    buffer.make_kernel_view().unwrap();
    drop_with_owned_range(&VMALLOC, buffer);
    drop_with_owned_range(&STACKS, KernelStack::new().unwrap());
}

#[test]
fn random_operations_leave_no_stale_translation() {
    let _kernel = boot();
    let free = host_memory::free_frames();
    for seed in 0..workload::SEEDS {
        workload::run(seed);
        assert_eq!(host_memory::free_frames(), free, "frames leaked, seed {seed}");
    }
}

/// Frames stay shared until the incomplete child is dropped, after the lock of the parent is released.
#[test]
fn failed_fork_leaves_no_page_writable() {
    // At the end of a last-level table, so that the second half of the pages needs another.
    const PAGES: u64 = 256;
    let start = UserVa::new(0x60_0000 - PAGES / 2 * PAGE_SIZE);
    let _kernel = boot();
    let space = AddressSpace::new().unwrap();
    space.map_anonymous(PAGES * PAGE_SIZE, MmapPlacement::Fixed(start), READ_WRITE).unwrap();
    // SAFETY: uninstalled before the drop.
    unsafe { space.install() };
    (0..PAGES).for_each(|page| UserMemory::new(&space).write(start + page * PAGE_SIZE, &page).unwrap());
    let (_, parent) = arch::mmu::user_root().unwrap();
    let mut frames: Vec<_> = std::iter::from_fn(table_frames::alloc).collect();
    let mut failures = 0;
    while space.fork().is_err() {
        let checked = Rc::new(Cell::new(false));
        let seen = checked.clone();
        let check = move |instruction| {
            if instruction == Instruction::TlbAsid(parent) {
                assert_eq!(tlb_model::user_address_of(start, UserAccess::Write), None);
                seen.set(true);
            }
        };
        let _ = tlb_model::with_other_cpu(Box::new(check), || space.fork().map(drop));
        failures += u32::from(checked.get());
        frames.drain(..1).for_each(table_frames::free);
    }
    frames.into_iter().for_each(table_frames::free);
    assert!(failures > 1, "{failures} forks failed after the copy had begun");
    (0..PAGES).for_each(|page| UserMemory::new(&space).write(start + page * PAGE_SIZE, &page).unwrap());
    arch::mmu::uninstall_user();
}

const BLOCK: u64 = 2 << 20;

/// An address space with `blocks` blocks from [`BASE`] on, installed on this CPU.
fn space_with_blocks(blocks: u64) -> AddressSpace {
    let space = AddressSpace::new().unwrap();
    space.map_anonymous(blocks * BLOCK, MmapPlacement::Fixed(BASE), READ_WRITE).unwrap();
    // SAFETY: each test uninstalls it before the drop.
    unsafe { space.install() };
    (0..blocks).for_each(|block| UserMemory::new(&space).write(BASE + block * BLOCK, &block).unwrap());
    tlb_model::check();
    space
}

/// The size of each leaf.
fn leaves(space: &AddressSpace) -> Vec<u64> {
    let mut all = Vec::new();
    space.leaves(|_| true, |leaf| all.push(leaf.bytes));
    all
}

#[test]
fn block_is_split_only_where_pages_are_needed() {
    let _kernel = boot();
    let space = space_with_blocks(2);
    assert_eq!(leaves(&space), [BLOCK, BLOCK]);
    let memory = UserMemory::new(&space);
    memory.write(BASE + BLOCK + PAGE_SIZE, &7u64).unwrap();
    let page = AddrRange::new(BASE + BLOCK + PAGE_SIZE, BASE + BLOCK + 2 * PAGE_SIZE);
    // Rights of whole blocks change in place.
    space.protect(AddrRange::new(BASE, BASE + BLOCK), Prot::READ).unwrap();
    assert_eq!(leaves(&space), [BLOCK, BLOCK]);
    space.protect(page, Prot::READ).unwrap();
    assert_eq!(leaves(&space), [&[BLOCK][..], &[PAGE_SIZE; 512]].concat());
    assert!(memory.write(page.start(), &1u64).is_err() && memory.write(page.end(), &1u64).is_ok());
    assert_eq!(memory.read(page.start()), Ok(7u64));
    space.unmap(AddrRange::new(BASE, BASE + PAGE_SIZE)).unwrap();
    assert_eq!(leaves(&space).len(), 511 + 512);
    tlb_model::check();
    arch::mmu::uninstall_user();
}

#[test]
fn block_is_shared_by_fork_and_one_page_is_copied_by_a_write() {
    let _kernel = boot();
    let space = space_with_blocks(1);
    let free = host_memory::free_frames();
    let child = space.fork().unwrap();
    assert_eq!((leaves(&space), leaves(&child)), (vec![BLOCK], vec![BLOCK]));
    let memory = UserMemory::new(&space);
    memory.write(BASE + PAGE_SIZE, &5u64).unwrap();
    assert_eq!((leaves(&space).len(), leaves(&child).len()), (512, 1));
    assert!(free - host_memory::free_frames() < 16, "more than a page is copied");
    // SAFETY: uninstalled below.
    unsafe { child.install() };
    assert_eq!(UserMemory::new(&child).read(BASE + PAGE_SIZE), Ok(0u64));
    // The parent exits: its pages go, and those of the child stay.
    drop(space);
    tlb_model::check();
    assert_eq!(UserMemory::new(&child).read(BASE), Ok(0u64));
    UserMemory::new(&child).write(BASE, &9u64).unwrap();
    arch::mmu::uninstall_user();
    drop(child);
    assert_eq!(pages::block_count(), 0);
}

#[test]
fn without_a_free_block_pages_are_mapped() {
    let _kernel = boot();
    let mut chunks: Vec<_> = std::iter::from_fn(|| zones::alloc(Order::BLOCK_2M, Reach::ANYWHERE)).collect();
    let space = AddressSpace::new().unwrap();
    space.map_anonymous(BLOCK, MmapPlacement::Fixed(BASE), READ_WRITE).unwrap();
    // SAFETY: uninstalled before the drop.
    unsafe { space.install() };
    let memory = UserMemory::new(&space);
    // Fragmented, too: half of the frames of a block are free.
    let mut kept = Vec::new();
    for page in chunks.pop().unwrap().split_into(Order::PAGE) {
        if page.chunk().first().raw() % 2 == 0 { kept.push(page) } else { zones::free(page) }
    }
    memory.write(BASE, &1u64).unwrap();
    assert!(leaves(&space).iter().all(|&bytes| bytes == PAGE_SIZE));
    kept.into_iter().for_each(zones::free);
    chunks.into_iter().for_each(zones::free);
    // The pages that are mapped stay, so that the rest of the block gets pages, too.
    memory.write(BASE + BLOCK / 2, &1u64).unwrap();
    assert!(leaves(&space).iter().all(|&bytes| bytes == PAGE_SIZE));
    arch::mmu::uninstall_user();
}

#[test]
fn pinned_part_of_a_block_outlives_its_process() {
    let _kernel = boot();
    let space = space_with_blocks(2);
    let middle = AddrRange::new(BASE + (BLOCK - PAGE_SIZE), BASE + BLOCK + PAGE_SIZE);
    let pinned = space.pin(middle, true).unwrap();
    let segments = StreamMemory::segments(&pinned).to_vec();
    let is_free = |segment: &dma_api::PhysSegment| {
        zones::free_chunks().unwrap().iter().any(|chunk| chunk.range().contains(segment.start))
    };
    // Splits the first block; then its other pages go.
    space.unmap(AddrRange::new(BASE, BASE + (BLOCK - PAGE_SIZE))).unwrap();
    assert_eq!(leaves(&space), [PAGE_SIZE, BLOCK]);
    // A child gets copies.
    let child = space.fork().unwrap();
    assert_eq!(leaves(&child).len(), 1 + 512);
    UserMemory::new(&space).write(middle.start(), &3u64).unwrap();
    assert_eq!(leaves(&space), [PAGE_SIZE, BLOCK], "the write moves the page away from the device");
    arch::mmu::uninstall_user();
    drop(space);
    drop(child);
    assert!(!segments.iter().any(is_free), "a pinned frame is free");
    drop(pinned);
    assert!(segments.iter().all(is_free), "a frame leaks");
    assert_eq!(pages::block_count(), 0);
    tlb_model::check();
}

#[test]
fn executable_block_is_synchronized_as_a_whole() {
    let _kernel = boot();
    let space = space_with_blocks(1);
    arch::fake::take();
    space.protect(AddrRange::new(BASE, BASE + BLOCK), Prot::READ | Prot::EXEC).unwrap();
    let synced: u64 = arch::fake::take()
        .iter()
        .filter_map(|instruction| match instruction {
            Instruction::SyncInstructions(range) => Some(range.len()),
            _ => None,
        })
        .sum();
    assert_eq!(synced, BLOCK);
    assert_eq!(leaves(&space), [BLOCK]);
    arch::mmu::uninstall_user();
}

#[test]
fn only_writable_memory_is_stored_to() {
    let _kernel = boot();
    let space = space_with_pages(2);
    space.protect(AddrRange::new(BASE, BASE + PAGE_SIZE), Prot::READ).unwrap();
    let across = BASE + (PAGE_SIZE - 2);
    assert_eq!(space.store(across, &[1; 4]), Err(Errno::EFAULT));
    assert_eq!(space.store(BASE + 2 * PAGE_SIZE, &[1; 4]), Err(Errno::EFAULT));
    assert_eq!(space.store(BASE + PAGE_SIZE, &[1; 4]), Ok(()));
    assert_eq!(UserMemory::new(&space).read(across), Ok([0u8, 0, 1, 1]));
    arch::mmu::uninstall_user();
}

#[test]
fn fork_gives_each_process_its_own_content() {
    let _kernel = boot();
    fork::run(0);
    let free = host_memory::free_frames();
    for seed in 0..fork::SEEDS {
        fork::run(seed);
        assert_eq!(host_memory::free_frames(), free, "frames leaked, seed {seed}");
    }
}
