//! Zones, allocation from fragmented memory, zeroing, windows, and the linear map.

use super::boot::kernel_half;
use super::device::edu;
use super::{Outcome, Test};
use crate::fixture::{Fragmented, allocate_all, run_each, run_on_other_cpu, spin_until};
use crate::{audit, check, pass, skip};
use abi::memory::Prot;
use addr::{AddrRange, Chunk, KernelVa, MemoryType, Order, PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::cpu::privileged_access_never;
use arch::mmu::{Translation, translate_kernel};
use arch::user_copy::{self, CompareExchange, UserFault};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::dma::counters;
use kernel::memory::vmalloc::{KernelMapping, REGISTERS, STACKS, VMALLOC};
use kernel::memory::{layout, linear, magazines, window, zones};
use kernel::percpu;
use kernel::sync::SpinLock;
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use kernel::vm::huge_pages::HugePages;
use memory::{Frames, Reach, Request, Zone, chunks};
use pagetable::Mapping;
use program::HugePageSize;

pub const TESTS: &[Test] = &[
    Test { name: "memory.zones_do_not_overlap", run: zones_do_not_overlap },
    Test { name: "memory.highmem_has_no_kernel_translation", run: highmem_has_no_kernel_translation },
    Test { name: "memory.linear_map_covers_all_lowmem", run: linear_map_covers_all_lowmem },
    Test {
        name: "memory.fragmented_zone_allocates_single_frames",
        run: fragmented_zone_allocates_single_frames,
    },
    Test {
        name: "memory.allocation_drains_magazines_of_other_cpus",
        run: allocation_drains_magazines_of_other_cpus,
    },
    Test { name: "memory.zeroing_stays_within_its_range", run: zeroing_stays_within_its_range },
    Test {
        name: "cpu.memory_set_restarts_after_option_mismatch",
        run: memory_set_restarts_after_option_mismatch,
    },
    Test { name: "cpu.pan_is_set_after_user_accesses", run: pan_is_set_after_user_accesses },
    Test { name: "memory.programs_use_blocks", run: programs_use_blocks },
    Test { name: "memory.closed_window_has_no_translation", run: closed_window_has_no_translation },
    Test { name: "memory.linear_alias_is_removed_and_restored", run: linear_alias_is_removed_and_restored },
    Test { name: "memory.kernel_mappings_have_guard_pages", run: kernel_mappings_have_guard_pages },
    Test { name: "memory.pci_configuration_space_is_non_posted", run: pci_configuration_space_is_non_posted },
];

fn zones_do_not_overlap() -> Outcome {
    let layout = layout();
    for low in &layout.low_free {
        check!(low.end() <= layout.low_end, "{low:?} is low, but ends above {}", layout.low_end);
    }
    for high in &layout.high_free {
        check!(high.start() >= layout.low_end, "{high:?} is high, but starts below {}", layout.low_end);
    }
    let (low, high) = (zones::stats(Zone::Low), zones::stats(Zone::High));
    let frames = |ranges: &[AddrRange<PhysAddr>]| ranges.iter().map(AddrRange::len).sum::<u64>() / PAGE_SIZE;
    check!(
        low.total == frames(&layout.low_free),
        "low zone has {} frames of {}",
        low.total,
        frames(&layout.low_free)
    );
    check!(
        high.total == frames(&layout.high_free),
        "high zone has {} of {}",
        high.total,
        frames(&layout.high_free)
    );
    pass!("boundary at {}, {} low and {} high frames", layout.low_end, low.total, high.total)
}

/// The compare-and-exchange clears PSTATE.PAN for its exclusives. They fault in a page that a program can
/// only read; in an unmapped one, the load with EL0 permissions before them does.
fn pan_is_set_after_user_accesses() -> Outcome {
    let space = AddressSpace::new().ok_or("no memory or no ASID")?;
    let at = space.map_anonymous(PAGE_SIZE, MmapPlacement::Hint(None), Prot::READ | Prot::WRITE);
    let at = at.map_err(|errno| format!("mmap: {errno}"))?;
    let page = AddrRange::new(at, at + PAGE_SIZE);
    space.populate(page, Prot::WRITE).map_err(|errno| format!("populate: {errno}"))?;
    let exchange = |at, expected, new| {
        let _irqs = arch::cpu::mask_irqs();
        // SAFETY: uninstalled below; no other thread runs on this CPU meanwhile.
        unsafe { space.install() };
        let result = (user_copy::compare_exchange_u32(at, expected, new), privileged_access_never());
        arch::mmu::uninstall_user();
        result
    };
    let mut results = Vec::from([
        ("writable", exchange(at, 0, 7), Ok(CompareExchange::Exchanged)),
        ("other word", exchange(at, 0, 8), Ok(CompareExchange::Differs(7))),
        ("unmapped", exchange(page.end(), 0, 1), Err(UserFault)),
    ]);
    space.protect(page, Prot::READ).map_err(|errno| format!("mprotect: {errno}"))?;
    results.push(("read-only", exchange(at, 7, 9), Err(UserFault)));
    results.push(("read-only, other word", exchange(at, 6, 9), Ok(CompareExchange::Differs(7))));
    for (name, (result, pan), expected) in results {
        check!(result == expected, "{name}: {result:?}, not {expected:?}");
        check!(pan != Some(false), "{name}: PSTATE.PAN is clear");
    }
    match privileged_access_never() {
        Some(_) => pass!("after success and faults"),
        None => pass!("no FEAT_PAN"),
    }
}

/// The leaves of anonymous memory and of huge pages, also in fragmented memory, and the accesses of a program
/// through them.
fn programs_use_blocks() -> Outcome {
    const BLOCK: u64 = Order::BLOCK_2M.bytes();
    let prot = Prot::READ | Prot::WRITE;
    let error = |errno| format!("{errno}");
    let space = AddressSpace::new().ok_or("no memory or no ASID")?;
    let sizes = || {
        let mut sizes = Vec::new();
        space.leaves(|_| true, |leaf| sizes.push(leaf.bytes));
        sizes
    };
    let start = space.map_anonymous(2 * BLOCK, MmapPlacement::Hint(None), prot).map_err(error)?;
    let whole = AddrRange::new(start, start + 2 * BLOCK);
    space.populate(whole, prot).map_err(error)?;
    check!(sizes() == [BLOCK; 2], "anonymous memory: {:?}", sizes());
    let exchange = |at| {
        let _irqs = arch::cpu::mask_irqs();
        // SAFETY: uninstalled below; no other thread runs on this CPU meanwhile.
        unsafe { space.install() };
        let result = user_copy::compare_exchange_u32(at, 0, 7);
        arch::mmu::uninstall_user();
        result
    };
    check!(exchange(start + BLOCK) == Ok(CompareExchange::Exchanged), "no access to a block");
    space.protect(AddrRange::new(start, start + PAGE_SIZE), Prot::READ).map_err(error)?;
    check!(exchange(start) == Err(UserFault), "a write to a read-only page of a block");
    check!(exchange(start + PAGE_SIZE) == Ok(CompareExchange::Exchanged), "no access beside it");
    check!(sizes().len() == 512 + 1, "a split block has {} leaves", sizes().len());
    space.unmap(whole).map_err(error)?;
    let fragmented = Fragmented::new(Reach::ANYWHERE, 4096);
    let start = space.map_anonymous(BLOCK, MmapPlacement::Hint(None), prot).map_err(error)?;
    let whole = AddrRange::new(start, start + BLOCK);
    space.populate(whole, prot).map_err(error)?;
    let fallback = sizes();
    drop(fragmented);
    check!(fallback == [PAGE_SIZE; 512], "without a free block: {} leaves", fallback.len());
    space.unmap(whole).map_err(error)?;
    let mut seen = Vec::new();
    for size in [HugePageSize::Size2M, HugePageSize::Size1G] {
        let Ok(pages) = HugePages::new(size, 1, false) else { continue };
        let start = space.map_huge(pages, size.bytes(), MmapPlacement::Hint(None), prot).map_err(error)?;
        let whole = AddrRange::new(start, start + size.bytes());
        space.populate(whole, prot).map_err(error)?;
        check!(sizes() == [size.bytes()], "huge pages: {:?}", sizes());
        check!(
            exchange(start + (size.bytes() - PAGE_SIZE)) == Ok(CompareExchange::Exchanged),
            "no access to {size:?}"
        );
        space.unmap(whole).map_err(error)?;
        seen.push(size.bytes() >> 20);
    }
    pass!("blocks of 2 MiB, pages in fragmented memory, huge pages of {seen:?} MiB")
}

/// Checks samples of highmem by the MMU, and all mappings by the page tables. Only kernel views of buffers
/// may map highmem.
fn highmem_has_no_kernel_translation() -> Outcome {
    /// The most addresses per range that are checked by the MMU.
    const SAMPLES: u64 = 4096;
    let high = &layout().high_free;
    if high.is_empty() {
        skip!("all memory is lowmem");
    }
    let mut checked = 0;
    for range in high {
        let step = (range.len() / SAMPLES).max(PAGE_SIZE).next_multiple_of(PAGE_SIZE);
        for at in (range.start().raw()..range.end().raw()).step_by(step as usize) {
            let alias = linear::address_of(PhysAddr::new(at));
            check!(translate_kernel(alias).is_none(), "highmem {at:#x} is mapped at {alias}");
            checked += 1;
        }
    }
    let views = counters::read().vmalloc_bytes.now;
    let (mut found, mut mapped) = (None, 0);
    audit::kernel_leaves(kernel_half(), |leaf| {
        if high.iter().any(|range| range.overlaps(&leaf.output())) {
            found = Some((leaf.at, leaf.to));
            mapped += leaf.bytes;
        }
    });
    check!(
        mapped <= views,
        "{mapped:#x} bytes of highmem are mapped, kernel views have {views:#x}: {found:?}"
    );
    pass!("{checked} addresses of highmem are unmapped; {mapped} bytes are mapped, kernel views have {views}")
}

fn linear_map_covers_all_lowmem() -> Outcome {
    let mut pages = 0u64;
    for range in &layout().low_free {
        for at in (range.start().raw()..range.end().raw()).step_by(PAGE_SIZE as usize) {
            let at = PhysAddr::new(at);
            let found = translate_kernel(linear::address_of(at));
            let good = found.is_some_and(|t| t.phys == at && t.attributes == Translation::WRITE_BACK);
            check!(good, "lowmem {at}: {found:x?}");
            pages += 1;
        }
    }
    pass!("{pages} pages of lowmem, write-back")
}

/// Allocates all of highmem, frees some frames on another CPU, which caches them in its magazine, and
/// allocates as many.
fn allocation_drains_magazines_of_other_cpus() -> Outcome {
    const FRAMES: u64 = 24;
    if percpu::online() == 1 || zones::stats(Zone::High).free() < FRAMES {
        skip!("one CPU, or no highmem");
    }
    let request =
        Request { frames: FRAMES, largest: Order::PAGE, reach: Reach::HIGH, ..Request::new(FRAMES) };
    let mut some = match chunks::alloc(&mut zones::FrameAllocator::default(), &request) {
        Ok(some) => some,
        Err(error) => return Err(alloc::format!("{FRAMES} frames of highmem: {error:?}")),
    };
    let rest = allocate_all(Reach::HIGH);
    let pages = Arc::new(SpinLock::new(some.drain().collect::<Vec<_>>()));
    let here = arch::cpu::index();
    let shared = pages.clone();
    let there = run_on_other_cpu(move || {
        core::mem::take(&mut *shared.lock()).into_iter().for_each(zones::free);
        arch::cpu::index()
    });
    // If the thread did not run, the frames are still here.
    core::mem::take(&mut *pages.lock()).into_iter().for_each(zones::free);
    let (free, cached) = (zones::stats(Zone::High).free(), magazines::cached_frames(Zone::High));
    let again = chunks::alloc(&mut zones::FrameAllocator::default(), &request);
    let one_more = zones::alloc(Order::PAGE, Reach::HIGH);
    let found = again.as_ref().map(Frames::frames).map_err(|error| *error);
    let remaining = (zones::stats(Zone::High).free(), one_more.is_some());
    zones::free_all(again.unwrap_or_default());
    one_more.into_iter().for_each(zones::free);
    zones::free_all(rest);
    check!(there.is_some_and(|there| there != here), "freed on CPU {there:?}, allocated on CPU {here}");
    check!(
        (free, cached) == (FRAMES, FRAMES),
        "{free} frames free and {cached} in magazines after {FRAMES} were freed"
    );
    check!(found == Ok(FRAMES), "allocation of {FRAMES} frames from another CPU's magazine: {found:?}");
    check!(remaining == (0, false), "free frames, and whether one more was allocated: {remaining:?}");
    pass!("{FRAMES} frames freed on CPU {}, allocated on CPU {here}", there.unwrap_or(here))
}

/// Allocates 1 MiB from a zone with single free frames only.
fn fragmented_zone_allocates_single_frames() -> Outcome {
    const WANTED: u64 = 256;
    let before = zones::stats(Zone::High);
    if before.free() < 8 * WANTED {
        skip!("{} free frames of highmem", before.free());
    }
    let fragmented = Fragmented::new(Reach::HIGH, 2 * WANTED);
    let request = Request { reach: Reach::HIGH, ..Request::new(WANTED) };
    let got = chunks::alloc(&mut zones::FrameAllocator::default(), &request);
    let seen =
        got.as_ref().map(|frames| (frames.chunk_count(), frames.chunks().all(|c| c.order() == Order::PAGE)));
    let seen = seen.map_err(|error| *error);
    let too_much =
        chunks::alloc(&mut zones::FrameAllocator::default(), &Request { frames: 1 << 20, ..request });
    let refused = too_much.as_ref().err().copied();
    zones::free_all(got.unwrap_or_default());
    zones::free_all(too_much.unwrap_or_default());
    drop(fragmented);
    let after = zones::stats(Zone::High);
    check!(seen == Ok((WANTED as usize, true)), "{WANTED} frames of fragmented memory: {seen:?}");
    check!(refused.is_some(), "an allocation of 4 GiB from 2 MiB of free memory succeeded");
    check!(after.free() == before.free(), "{} frames free before, {} after", before.free(), after.free());
    pass!("1 MiB in {WANTED} chunks of 4 KiB; {} frames free before and after", after.free())
}

/// Bytes after the range that must not change.
const MARGIN: u64 = 4096;
/// The fill pattern.
const FILL: u8 = 0xa5;

/// Fills `area`, calls `zero` for `len` bytes after the first `before`, and returns whether exactly these
/// are zero and the bytes before and [`MARGIN`] bytes after are unchanged.
fn clears_exactly(
    area: AddrRange<KernelVa>,
    before: u64,
    len: u64,
    zero: impl Fn(AddrRange<KernelVa>),
) -> bool {
    let whole = before + len + MARGIN;
    let range = AddrRange::new(area.start() + before, area.start() + before + len);
    // SAFETY: the caller owns the chunk, which is mapped writable and longer than `whole`.
    let bytes =
        unsafe { core::slice::from_raw_parts_mut(arch::pointer::to::<u8>(area.start()), whole as usize) };
    bytes.fill(FILL);
    zero(range);
    let (head, rest) = bytes.split_at(before as usize);
    let (middle, tail) = rest.split_at(len as usize);
    middle.iter().all(|byte| *byte == 0) && head.iter().chain(tail).all(|byte| *byte == FILL)
}

/// Checks each supported method with sizes around those of cache lines, pages and loops, at aligned and
/// unaligned offsets, in write-back and, if there is highmem, in non-cacheable memory.
fn zeroing_stays_within_its_range() -> Outcome {
    const OFFSETS: [u64; 6] = [4096, 4096 + 1, 4096 + 16, 4096 + 63, 4096 + 64, 2 * 4096 - 1];
    const SIZES: [u64; 12] = [0, 1, 63, 64, 65, 1000, 2047, 2048, 4096, 4096 + 192, 65536, 3 * 65536 + 7];
    let Some(owned) = zones::alloc(Order::BLOCK_2M, Reach::ANYWHERE) else {
        skip!("no 2 MiB chunk is free");
    };
    let mut wrong = None;
    let mut try_all = |area, memory| {
        for method in arch::memory::supported() {
            for (before, len) in OFFSETS.iter().flat_map(|before| SIZES.map(|len| (*before, len))) {
                // SAFETY: a part of the test's own chunk, and the CPUs support the method.
                if !clears_exactly(area, before, len, |range| unsafe { method.zero(range) }) {
                    wrong = Some((method, memory, before, len));
                }
            }
        }
        arch::cache::clean_invalidate(area);
    };
    // SAFETY: the test's own chunk, mapped only by its linear alias.
    unsafe { window::with_write_back(owned.chunk(), |area| try_all(area, MemoryType::WriteBack)) };
    // Lowmem has a write-back alias, which a non-cacheable window would conflict with.
    if !zones::is_low(owned.chunk().start()) {
        let try_all = |area| try_all(area, MemoryType::NonCacheable);
        // SAFETY: the test's own chunk of highmem, which has no other mapping.
        unsafe { window::with_chunk(owned.chunk(), MemoryType::NonCacheable, try_all) };
    }
    zones::free(owned);
    check!(wrong.is_none(), "method, memory type, offset, length: {wrong:?}");
    let methods: Vec<_> = arch::memory::supported().collect();
    pass!("{methods:?} at {} sizes and {} offsets, the first is in use", SIZES.len(), OFFSETS.len())
}

/// The Memory Copy and Memory Set exception, taken at EL1 with the registers of the other option (FEAT_MOPS).
fn memory_set_restarts_after_option_mismatch() -> Outcome {
    const LEN: u64 = 3 * 4096 + 100;
    if !arch::cpu::features().contains(arch::cpu::CpuFeatures::MOPS) {
        skip!("no FEAT_MOPS");
    }
    let Some(owned) = zones::alloc(Order::BLOCK_2M, Reach::LOW) else {
        skip!("no 2 MiB chunk of lowmem is free");
    };
    let area = linear::range_of(owned.chunk().range());
    let restarts = |at_epilogue| {
        clears_exactly(area, 4096 + 3, LEN, |range| {
            // SAFETY: a part of the test's own chunk, and the CPUs have FEAT_MOPS.
            unsafe { arch::memory::zero_from_other_option(range, at_epilogue) };
        })
    };
    let (main, epilogue) = (restarts(false), restarts(true));
    zones::free(owned);
    check!(main && epilogue, "resumed at SETM: {main}, at SETE: {epilogue}");
    pass!("{LEN} bytes, resumed with the other option's registers at SETM and at SETE")
}

fn closed_window_has_no_translation() -> Outcome {
    let Some(owned) = zones::alloc(Order::BLOCK_2M, Reach::ANYWHERE) else {
        skip!("no 2 MiB chunk is free");
    };
    let chunk = owned.chunk();
    let mut seen = Vec::new();
    let observe = |range: AddrRange<KernelVa>| {
        let last = KernelVa::new(range.end().raw() - PAGE_SIZE);
        seen.push((range, translate_kernel(range.start()), translate_kernel(last)));
    };
    // SAFETY: the test's own chunk, whose contents neither this window nor a linear alias accesses.
    unsafe { window::with_chunk(chunk, MemoryType::NonCacheable, observe) };
    let after: Vec<_> = seen.iter().map(|(range, ..)| translate_kernel(range.start())).collect();
    let from_two_cpus = (percpu::online() > 1).then(|| observe_from_two_cpus(chunk));
    zones::free(owned);
    let [(range, Some(first), Some(last))] = seen[..] else {
        return Err(alloc::format!("windows: {seen:x?}"));
    };
    check!(first.phys == chunk.start(), "the window maps {:x?}, not {chunk:?}", first);
    check!(last.phys == PhysAddr::new(chunk.range().end().raw() - PAGE_SIZE), "its last page maps {last:x?}");
    check!(first.attributes == Translation::NON_CACHEABLE, "its attributes are {:#x}", first.attributes);
    check!(after == [None], "the closed window still maps {after:x?}");
    let Some(observations) = from_two_cpus.transpose()? else {
        return pass!("{chunk:?} at {range:?}, unmapped afterwards");
    };
    let [one, other] = observations[..] else {
        return Err(alloc::format!("observations: {observations:x?}"));
    };
    check!(one.good && other.good, "a window open on one CPU is translated on another: {observations:x?}");
    check!(
        one.cpu != other.cpu && one.root != other.root,
        "the same CPU or root table twice: {observations:x?}"
    );
    pass!(
        "{chunk:?} at {range:?}, unmapped afterwards; open on CPU {}, not translated on CPU {}",
        one.cpu,
        other.cpu
    )
}

/// A thread's observation of a window that is open on one CPU.
#[derive(Clone, Copy, Debug)]
struct WindowObservation {
    cpu: usize,
    /// The table base in its TTBR1.
    root: PhysAddr,
    /// In the thread with the window: the other one finished before the timeout. In the other one: the
    /// address has no translation.
    good: bool,
}

/// Opens a window in one thread until another thread has translated its address.
fn observe_from_two_cpus(chunk: Chunk) -> Result<Vec<WindowObservation>, String> {
    let (window, observed) = (AtomicU64::new(0), AtomicBool::new(false));
    run_each(2, move |thread| {
        let mut good = false;
        if thread == 0 {
            let wait = |range: AddrRange<KernelVa>| {
                window.store(range.start().raw(), Ordering::Release);
                good = spin_until(|| observed.load(Ordering::Acquire));
            };
            // SAFETY: the caller's own chunk, mapped only by its linear alias.
            unsafe { window::with_chunk(chunk, MemoryType::WriteBack, wait) };
        } else {
            let is_open = spin_until(|| window.load(Ordering::Acquire) != 0);
            let at = KernelVa::new(window.load(Ordering::Acquire));
            good = is_open && translate_kernel(at).is_none();
            observed.store(true, Ordering::Release);
        }
        WindowObservation { cpu: arch::cpu::index(), root: arch::mmu::kernel_root(), good }
    })
}

/// Removes and restores the alias of a page and of 2 MiB. Both are restored with pages: the removal of a
/// single page must not split a block.
fn linear_alias_is_removed_and_restored() -> Outcome {
    for order in [Order::PAGE, Order::BLOCK_2M] {
        let Some(owned) = zones::alloc(order, Reach::LOW) else {
            skip!("no free chunk of lowmem of order {order:?}");
        };
        let result = remove_and_restore_alias(owned.chunk());
        zones::free(owned);
        result?;
    }
    pass!(
        "a page and 2 MiB removed from the linear map and restored with pages; the neighbours stayed mapped"
    )
}

/// `chunk` is the caller's, and is not accessed meanwhile.
fn remove_and_restore_alias(chunk: Chunk) -> Result<(), String> {
    let alias = linear::range_of(chunk.range());
    let ends = [alias.start(), KernelVa::new(alias.end().raw() - PAGE_SIZE)];
    // Unmapped if they are outside lowmem or have no alias themselves.
    let neighbours = [alias.start().raw() - PAGE_SIZE, alias.end().raw()].map(KernelVa::new);
    let (before, neighbours_before) = (ends.map(translate_kernel), neighbours.map(translate_kernel));
    // SAFETY: the caller's own chunk, which is not accessed.
    unsafe { linear::remove_alias(chunk) };
    let (between, neighbours_between) = (ends.map(translate_kernel), neighbours.map(translate_kernel));
    // SAFETY: as above, and the chunk has no other mapping.
    unsafe { linear::restore_alias(chunk) };
    let after = ends.map(translate_kernel);
    let mut largest = 0;
    audit::kernel_leaves(alias, |leaf| largest = leaf.bytes.max(largest));
    check!(between == [None; 2], "{alias:?} is still translated to {between:x?}");
    check!(
        neighbours_between == neighbours_before,
        "neighbours of {alias:?}: before {neighbours_before:x?}, after {neighbours_between:x?}"
    );
    check!(after == before && !before.contains(&None), "{alias:?}: before {before:x?}, after {after:x?}");
    check!(largest == PAGE_SIZE, "{alias:?} is restored with a mapping of {largest:#x} bytes");
    Ok(())
}

/// Maps a page twice in each area of kernel addresses.
fn kernel_mappings_have_guard_pages() -> Outcome {
    let Some(owned) = zones::alloc(Order::PAGE, Reach::LOW) else {
        skip!("no free page of lowmem");
    };
    let chunk = owned.chunk();
    let mut seen = Ok(());
    for (name, area) in [("vmalloc", &VMALLOC), ("stacks", &STACKS), ("registers", &REGISTERS)] {
        let mapping = Mapping::read_write(MemoryType::WriteBack);
        // SAFETY: the test's own page, whose other mappings are write-back too.
        let mapped = [(); 2].map(|()| unsafe { area.map(core::iter::once(chunk), PAGE_SIZE, mapping) });
        let unguarded = mapped.iter().flatten().map(KernelMapping::range).find(|range| {
            let around = [range.start().raw() - PAGE_SIZE, range.end().raw()].map(KernelVa::new);
            around.into_iter().any(|at| translate_kernel(at).is_some())
        });
        if let Some(error) = mapped.iter().find_map(|mapped| mapped.as_ref().err()) {
            seen = seen.and(Err(alloc::format!("{name}: {error:?}")));
        } else if let Some(range) = unguarded {
            seen = seen.and(Err(alloc::format!("{name}: no guard page next to {range:?}")));
        }
    }
    zones::free(owned);
    seen?;
    pass!("a guard page on either side of mappings for vmalloc, stacks and registers")
}

/// Checks all register mappings by the MMU. PCIe configuration space is the only one without early write
/// acknowledgement.
fn pci_configuration_space_is_non_posted() -> Outcome {
    let (mut registers, mut non_posted, mut wrong) = (0, 0, None);
    audit::kernel_leaves(kernel_half(), |leaf| {
        let (bytes, expected) = match leaf.memory {
            MemoryType::Device => (&mut registers, Translation::DEVICE),
            MemoryType::DeviceNonPosted => (&mut non_posted, Translation::DEVICE_NON_POSTED),
            MemoryType::WriteBack | MemoryType::NonCacheable => return,
        };
        *bytes += leaf.bytes;
        let found = translate_kernel(leaf.at).map(|found| found.attributes);
        if found != Some(expected) {
            wrong = Some((leaf.at, found));
        }
    });
    check!(wrong.is_none(), "attributes of {wrong:x?}");
    // The name of a PCI function is its address.
    if non_posted == 0 && !edu().is_some_and(|edu| edu.device().name().contains(':')) {
        skip!("no PCI function");
    }
    check!(non_posted >= 1 << 20, "{non_posted:#x} bytes are Device-nGnRnE, a PCI bus has 1 MiB");
    pass!("{} MiB are Device-nGnRnE, {} KiB Device-nGnRE", non_posted >> 20, registers >> 10)
}
