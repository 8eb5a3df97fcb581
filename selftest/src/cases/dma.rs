//! The DMA core without DMA: attributes, addresses, memory types, errors, and the release of resources.
//! Translations are read back from the page tables; `transfers.rs` and `streaming.rs` test them with a
//! device.

use super::resource_snapshot::ResourceSnapshot;
use super::{Outcome, Test};
use crate::{audit, check, pass, skip};
use addr::{AddrRange, Chunk, Iova, MemoryType, Order, PAGE_SIZE, StreamId};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::{Attrs, Direction, DmaError, DmaMask, StreamMemory};
use drivers::direct::BusWindow;
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Attachment, ChunkedBuffer, Device, MapPlacement, counters};
use kernel::iommu;
use kernel::memory::vmalloc::VMALLOC;
use kernel::memory::{heap, kernel_tables, layout, linear, table_frames, window, zones};
use memory::{Reach, Zone, ZoneStats};
use pagetable::{Access, Leaf, Mapping};

/// The tests, cheap ones first.
pub const TESTS: &[Test] = &[
    Test {
        name: "dma.invalid_requests_return_errors_with_values",
        run: invalid_requests_return_errors_with_values,
    },
    Test { name: "dma.mappings_match_attributes", run: mappings_match_attributes },
    Test {
        name: "dma.non_cacheable_lowmem_has_no_linear_alias",
        run: non_cacheable_lowmem_has_no_linear_alias,
    },
    Test {
        name: "dma.direct_buffers_are_contiguous_with_kernel_view",
        run: direct_buffers_are_contiguous_with_kernel_view,
    },
    Test { name: "dma.iova_allocation_respects_dma_mask", run: iova_allocation_respects_dma_mask },
    Test {
        name: "dma.iova_allocation_avoids_unusable_addresses",
        run: iova_allocation_avoids_unusable_addresses,
    },
    Test { name: "dma.reused_memory_is_zeroed", run: reused_memory_is_zeroed },
    Test { name: "dma.buffer_is_freed_with_its_last_view", run: buffer_is_freed_with_its_last_view },
    Test { name: "dma.audit_passes_with_all_kinds_of_buffers", run: audit_passes_with_all_kinds_of_buffers },
    Test {
        name: "dma.vmalloc_exhaustion_fails_only_kernel_views",
        run: vmalloc_exhaustion_fails_only_kernel_views,
    },
    Test { name: "dma.streaming_mapping_is_one_iova_range", run: streaming_mapping_is_one_iova_range },
    Test {
        name: "dma.device_mappings_are_cacheable_only_for_devices_that_snoop",
        run: device_mappings_are_cacheable_only_for_devices_that_snoop,
    },
];

/// A stream that no device of a known machine has.
const ABSENT_STREAM: StreamId = StreamId::new(0xfff8);

/// Returns a device behind the SMMU, if there is one.
pub(super) fn translated_device(coherent: bool) -> Result<Option<Arc<Device>>, String> {
    let Some(smmu) = iommu::all().first() else { return Ok(None) };
    let name = String::from("selftest");
    let device = Device::translated(name, smmu, ABSENT_STREAM, coherent, &[]);
    device.map(Some).map_err(|error| format!("a device behind the SMMU: {error}"))
}

pub(super) fn direct_device(coherent: bool) -> Arc<Device> {
    let device = Device::direct(String::from("selftest"), coherent, Vec::from([BusWindow::identity()]));
    // Lowmem only: its frames have linear aliases.
    let low = DmaMask::up_to(layout().low_end.raw() - 1);
    device.set_mask(low).map_or_else(|error| panic!("mask {low}: {error}"), |()| device)
}

fn invalid_requests_return_errors_with_values() -> Outcome {
    let device = direct_device(true);
    let before = ResourceSnapshot::now();
    let quiet = Attrs::NO_WARN;
    let (total, mask) = (layout().total, device.mask());
    let cases = [
        (0, quiet, DmaError::ZeroLength),
        (u64::MAX, quiet, DmaError::TooLong { len: u64::MAX }),
        (1 << 50, quiet, DmaError::PastMask { len: 1 << 50, mask }),
    ];
    for (len, attrs, wanted) in cases {
        let got = dma::alloc(&device, len, attrs).err();
        check!(got == Some(wanted), "{len:#x} bytes: {got:?}, not {wanted:?}");
    }
    let frames = total / PAGE_SIZE;
    match dma::alloc_unattached(total, Attrs::empty()) {
        Err(DmaError::OutOfFrames { wanted, had }) if wanted == frames && had > 0 && had < frames => {}
        other => return Err(format!("all of RAM: {:?}", other.err())),
    }
    before.check("after the errors")?;
    pass!("0, 2^64 - 1, 2^50 and {total:#x} bytes are refused")
}

/// Checks the buffer and all its mappings against the attributes.
fn check_buffer(attachment: &Attachment, attrs: Attrs) -> Result<(), String> {
    let (buffer, device) = (attachment.buffer(), attachment.device());
    let memory = device.memory_type(attrs);
    check!(buffer.memory() == memory, "memory {:?}, not {memory:?}", buffer.memory());
    let contiguous = attrs.contains(Attrs::FORCE_CONTIGUOUS) || !device.domain().is_translated();
    if attrs.contains(Attrs::ALLOC_SINGLE_PAGES) && !contiguous {
        check!(buffer.chunks().all(|chunk| chunk.order() == Order::PAGE), "not single pages: {buffer:?}");
    }
    if contiguous {
        let chunks: Vec<_> = buffer.chunks().collect();
        let one_run = chunks.windows(2).all(|pair| pair[0].range().end() == pair[1].start());
        check!(one_run, "not contiguous: {buffer:?}");
    }
    let translated = device.domain().is_translated();
    let wants_view = !attrs.contains(Attrs::NO_KERNEL_MAPPING) || !translated;
    check!(buffer.kernel_view().is_some() == wants_view, "kernel view: {:?}", buffer.kernel_view());
    if translated {
        let mut leaves = Vec::new();
        device.domain().leaves(attachment.range(), |leaf| leaves.push(leaf));
        check_leaves(&leaves, buffer.chunks(), memory)?;
        let wanted = attrs.contains(Attrs::PRIVILEGED) && device.domain().supports_privileged_mappings();
        let wrong = leaves.iter().find(|leaf| leaf.access.contains(Access::PRIVILEGED) != wanted);
        check!(wrong.is_none(), "{wrong:?}, privileged only: {wanted}");
    }
    if let Some(view) = buffer.kernel_view() {
        let mut leaves = Vec::new();
        audit::kernel_leaves(view, |leaf| leaves.push(leaf));
        check_leaves(&leaves, buffer.chunks(), memory)?;
    }
    for chunk in buffer.chunks() {
        check_alias(chunk, memory)?;
    }
    Ok(())
}

/// Checks that the leaves map exactly the chunks, in order, readable and writable, with this memory type.
fn check_leaves<A: Copy + core::fmt::Debug>(
    leaves: &[Leaf<A>],
    chunks: impl Iterator<Item = Chunk>,
    memory: MemoryType,
) -> Result<(), String> {
    let mut leaves = leaves.iter();
    for chunk in chunks {
        let mut at = chunk.start();
        while at < chunk.range().end() {
            let Some(leaf) = leaves.next() else { return Err(format!("{chunk:?} is not mapped at {at}")) };
            // A block may start before the chunk and end after it if adjacent chunks are mapped together.
            let start = leaf.to.max(at);
            check!(start == at, "{leaf:?}, not a mapping of {at}");
            let rights = Access::READ | Access::WRITE;
            check!(leaf.memory == memory && leaf.access.contains(rights), "{leaf:?}, not {memory:?}");
            at = leaf.to + leaf.bytes;
        }
    }
    check!(leaves.next().is_none(), "mappings beyond the chunks");
    Ok(())
}

/// Checks that a chunk has a linear alias only if it is write-back, by the page tables and by the CPU's AT
/// instruction.
fn check_alias(chunk: Chunk, memory: MemoryType) -> Result<(), String> {
    if chunk.start() >= layout().low_end {
        return Ok(());
    }
    for page in (0..chunk.bytes()).step_by(PAGE_SIZE as usize) {
        let at = linear::address_of(chunk.start() + page);
        let (tables, cpu) =
            (kernel_tables::translate(at).is_some(), arch::mmu::translate_kernel(at).is_some());
        let wanted = memory == MemoryType::WriteBack;
        check!(
            tables == wanted && cpu == wanted,
            "{chunk:?} is {memory:?}: alias in the tables {tables}, by the CPU {cpu}"
        );
    }
    Ok(())
}

fn mappings_match_attributes() -> Outcome {
    let mut count = 0;
    for coherent in [true, false] {
        let devices = [translated_device(coherent)?, Some(direct_device(coherent))];
        for device in devices.into_iter().flatten() {
            drop(dma::alloc(&device, 1 << 18, Attrs::empty()));
            let before = ResourceSnapshot::now();
            for bits in 0..1 << Attrs::all().iter().count() {
                let attrs: Attrs = Attrs::all()
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| bits >> n & 1 == 1)
                    .map(|(_, a)| a)
                    .collect();
                let attachment =
                    dma::alloc(&device, 0x4_3000, attrs).map_err(|error| format!("{attrs}: {error}"))?;
                check_buffer(&attachment, attrs)
                    .map_err(|wrong| format!("{attrs}, coherent {coherent}: {wrong}"))?;
                count += 1;
            }
            before.check("after all combinations")?;
        }
    }
    pass!("{count} combinations of attributes, coherency and translation")
}

fn non_cacheable_lowmem_has_no_linear_alias() -> Outcome {
    if VMALLOC.bytes() < 2 << 20 {
        skip!("vmalloc= is too small for the kernel view");
    }
    let device = direct_device(false);
    let attachment = dma::alloc(&device, 1 << 20, Attrs::empty()).map_err(|error| format!("{error}"))?;
    let chunks: Vec<_> = attachment.buffer().chunks().collect();
    for &chunk in &chunks {
        check!(chunk.start() < layout().low_end, "{chunk:?} is not lowmem");
        check_alias(chunk, MemoryType::NonCacheable)?;
    }
    drop(attachment);
    for &chunk in &chunks {
        check_alias(chunk, MemoryType::WriteBack)?;
    }
    pass!("{chunks:?}")
}

fn direct_buffers_are_contiguous_with_kernel_view() -> Outcome {
    let device = direct_device(true);
    let attrs = Attrs::NO_KERNEL_MAPPING | Attrs::ALLOC_SINGLE_PAGES;
    let attachment = dma::alloc(&device, 0x1_4000, attrs).map_err(|error| format!("{error}"))?;
    let buffer = attachment.buffer();
    let first = buffer.chunks().map(Chunk::start).next().map_or(0, |start| start.raw());
    check!(attachment.range().start().raw() == first, "{attachment:?}");
    check!(buffer.kernel_view().is_some(), "no kernel view: {buffer:?}");
    let error = dma::alloc(&device, 0x1000, Attrs::NO_WARN).err();
    check!(error.is_none(), "a second allocation: {error:?}");
    let scattered =
        dma::alloc_unattached(0x4000, Attrs::ALLOC_SINGLE_PAGES).map_err(|error| format!("{error}"))?;
    let one_run = scattered.chunks().collect::<Vec<_>>();
    let one_run = one_run.windows(2).all(|pair| pair[0].range().end() == pair[1].start());
    let refused = Attachment::new(&device, scattered, MapPlacement::Whole).err();
    check!(refused.is_some() || one_run, "a scattered buffer was attached without an IOMMU");
    pass!("{:?} at {:?}; scattered: {refused:?}", buffer.chunks().next(), attachment.range())
}

fn iova_allocation_respects_dma_mask() -> Outcome {
    let Some(device) = translated_device(true)? else { skip!("no IOMMU") };
    let mask = DmaMask::bits(28);
    device.set_mask(mask).map_err(|error| format!("{error}"))?;
    let quiet = Attrs::NO_KERNEL_MAPPING | Attrs::NO_WARN;
    let past = dma::alloc(&device, (1 << 28) + 1, quiet).err();
    check!(matches!(past, Some(DmaError::PastMask { .. })), "2^28 + 1 bytes: {past:?}");
    let mut held = Vec::new();
    let end = loop {
        match dma::alloc(&device, 16 << 20, quiet) {
            Ok(attachment) => {
                let last = attachment.range().end().raw() - 1;
                check!(last <= mask.highest().raw(), "{attachment:?} is past {mask}");
                held.push(attachment);
            }
            Err(error) => break error,
        }
    };
    let full = matches!(end, DmaError::OutOfIova { .. } | DmaError::OutOfFrames { .. });
    check!(full && !held.is_empty(), "after {} buffers: {end}", held.len());
    let count = held.len();
    drop(held);
    let big = dma::alloc_unattached(1 << 20, Attrs::NO_KERNEL_MAPPING).map_err(|error| format!("{error}"))?;
    device.set_mask(DmaMask::bits(20)).map_err(|error| format!("{error}"))?;
    let whole = Attachment::new(&device, big.clone(), MapPlacement::Whole).err();
    check!(matches!(whole, Some(DmaError::OutOfIova { .. })), "1 MiB below 2^20: {whole:?}");
    // The larger part can only be below the mask at less than the alignment of its largest chunk.
    for part in [0..768 << 10, 600 << 10..1 << 20] {
        check_part(&device, &big, part)?;
    }
    pass!("{count} buffers of 16 MiB below {mask}, then {end}; 1 MiB below 2^20 in two parts")
}

/// The space below the window of `virt` is not large enough for all attachments.
fn iova_allocation_avoids_unusable_addresses() -> Outcome {
    let Some(smmu) = iommu::all().first() else { skip!("no IOMMU") };
    let range = |start, end| AddrRange::new(Iova::new(start), Iova::new(end));
    let (window, doorbells) = (range(0x1000_0000, 0x3eff_0000), range(0xffe0_0000, 0x1_0000_0000));
    let device = Device::translated(String::from("selftest"), smmu, ABSENT_STREAM, true, &[window]);
    let device = device.map_err(|error| format!("{error}"))?;
    let mut held = Vec::new();
    for len in core::iter::repeat_n(8 << 20, 34).chain([PAGE_SIZE]) {
        let buffer = dma::alloc_unattached(len, Attrs::empty()).map_err(|error| format!("{error}"))?;
        let attachment = Attachment::new(&device, buffer, MapPlacement::Whole);
        let attachment = attachment.map_err(|error| format!("{error}"))?;
        let found = attachment.range();
        check!(!found.overlaps(&window) && !found.overlaps(&doorbells), "{found:?} is reserved");
        held.push(attachment);
    }
    let above = held.iter().filter(|attachment| attachment.range().start() >= window.end()).count();
    check!(above > 1, "only {above} attachments are above the window");
    pass!("{} attachments, {above} above {window:?}", held.len())
}

/// Attaches the bytes `part` of `buffer`, and checks that they are below the mask and translated to the same
/// frames as in the buffer.
fn check_part(
    device: &Arc<Device>,
    buffer: &Arc<ChunkedBuffer>,
    part: core::ops::Range<u64>,
) -> Result<(), String> {
    let attachment = Attachment::of_part(device, buffer.clone(), part.clone(), MapPlacement::Whole);
    let range = attachment.as_ref().map_err(|error| format!("{part:?}: {error}"))?.range();
    check!(device.mask().reaches(range.start(), part.end - part.start), "{part:?} at {range:?}");
    let mut found = Vec::new();
    let pages = |leaf: Leaf<Iova>| (0..leaf.bytes).step_by(PAGE_SIZE as usize).map(move |at| leaf.to + at);
    device.domain().leaves(range, |leaf| found.extend(pages(leaf)));
    let frames = buffer
        .chunks()
        .flat_map(|chunk| (0..chunk.bytes()).step_by(PAGE_SIZE as usize).map(move |at| chunk.start() + at));
    let (skip, count) = (part.start / PAGE_SIZE, (part.end - part.start) / PAGE_SIZE);
    check!(frames.skip(skip as usize).take(count as usize).eq(found), "{part:?} is at other frames");
    Ok(())
}

fn reused_memory_is_zeroed() -> Outcome {
    let dirty = dma::alloc_unattached(4 << 20, Attrs::empty()).map_err(|error| format!("{error}"))?;
    let chunks: Vec<_> = dirty.chunks().collect();
    for &chunk in &chunks {
        // SAFETY: a page-aligned window on a chunk of a write-back buffer that only this function owns.
        unsafe {
            window::with_write_back(chunk, |range| {
                (range.start().raw() as *mut u8).write_bytes(0xa5, range.len() as usize);
            });
        }
    }
    drop(dirty);
    let mut reused = 0;
    for attrs in [Attrs::empty(), Attrs::WRITE_COMBINE, Attrs::ALLOC_SINGLE_PAGES] {
        let clean = dma::alloc_unattached(4 << 20, attrs).map_err(|error| format!("{error}"))?;
        for chunk in clean.chunks() {
            reused += u64::from(chunks.iter().any(|dirty| dirty.range().overlaps(&chunk.range())));
            let mut nonzero = 0usize;
            let count = |range: AddrRange<addr::KernelVa>| {
                // SAFETY: as above, read only.
                let words = unsafe {
                    core::slice::from_raw_parts(range.start().raw() as *const u64, (range.len() / 8) as usize)
                };
                nonzero += words.iter().filter(|&&word| word != 0).count();
            };
            // SAFETY: as above, with the buffer's memory type.
            unsafe { window::with_chunk(chunk, clean.memory(), count) };
            check!(nonzero == 0, "{chunk:?} with {attrs}: {nonzero} words are not zero");
        }
    }
    check!(reused > 0, "no frame was reused");
    pass!("{reused} reused chunks, all zero")
}

fn buffer_is_freed_with_its_last_view() -> Outcome {
    let Some(first) = translated_device(true)? else { skip!("no IOMMU") };
    let second = {
        let smmu = first.smmu().ok_or("no SMMU")?;
        let stream = StreamId::new(ABSENT_STREAM.raw() + 1);
        Device::translated(String::from("selftest2"), smmu, stream, true, &[])
            .map_err(|error| format!("{error}"))?
    };
    drop(dma::alloc(&first, 1 << 20, Attrs::NO_KERNEL_MAPPING));
    drop(dma::alloc(&second, 1 << 20, Attrs::NO_KERNEL_MAPPING));
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let before = ResourceSnapshot::now();
        let buffer = dma::alloc_unattached(1 << 20, Attrs::empty()).map_err(|error| format!("{error}"))?;
        let attach = |device: &Arc<Device>| Attachment::new(device, buffer.clone(), MapPlacement::Whole);
        let (a, b) = (attach(&first), attach(&second));
        let (mut a, mut b) = (Some(a.map_err(|e| format!("{e}"))?), Some(b.map_err(|e| format!("{e}"))?));
        let frames = buffer.len() / PAGE_SIZE;
        let mut buffer = Some(buffer);
        for (step, view) in order.into_iter().enumerate() {
            let before = zones::stats(Zone::High).allocated + zones::stats(Zone::Low).allocated;
            match view {
                0 => a = None,
                1 => b = None,
                _ => buffer = None,
            }
            let after = zones::stats(Zone::High).allocated + zones::stats(Zone::Low).allocated;
            let freed = before - after >= frames;
            check!(freed == (step == 2), "{order:?}: {} frames freed at step {step}", before - after);
        }
        check!(a.is_none() && b.is_none() && buffer.is_none(), "a view was not dropped");
        before.check("after all views")?;
    }
    pass!("two attachments and a handle, in all six orders")
}

/// All kinds of buffers at the same time, each attached to all kinds of devices.
fn audit_passes_with_all_kinds_of_buffers() -> Outcome {
    const VIEWS: u64 = 16 << 20;
    if VMALLOC.bytes() < VIEWS {
        skip!("vmalloc= is too small for the kernel views");
    }
    let mut devices = Vec::new();
    for (number, coherent) in [true, false].into_iter().enumerate() {
        if let Some(smmu) = iommu::all().first() {
            let stream = StreamId::new(ABSENT_STREAM.raw() + number as u32);
            let device = Device::translated(format!("selftest{number}"), smmu, stream, coherent, &[]);
            devices.push(device.map_err(|error| format!("{error}"))?);
        }
        devices.push(direct_device(coherent));
    }
    let mut held = Vec::new();
    for attrs in [Attrs::empty(), Attrs::WRITE_COMBINE, Attrs::ALLOC_SINGLE_PAGES, Attrs::FORCE_CONTIGUOUS] {
        for device in &devices {
            let attachment = dma::alloc(device, 0x6_5000, attrs).map_err(|error| format!("{error}"))?;
            for other in devices.iter().filter(|other| other.domain().is_translated()) {
                let buffer = attachment.buffer().clone();
                held.push(
                    Attachment::new(other, buffer, MapPlacement::Whole)
                        .map_err(|error| format!("{error}"))?,
                );
            }
            held.push(attachment);
        }
    }
    let audited = || audit::check().map_err(|finding| format!("{finding}"));
    // The first audit may grow the heap.
    audited()?;
    let seen = audited()?;
    let low_pages = zones::stats(Zone::Low).total;
    check!(seen.leaves as u64 > low_pages / 2, "{} leaves for {low_pages} pages of lowmem", seen.leaves);
    let counted =
        [Zone::Low, Zone::High].map(zones::stats).iter().map(ZoneStats::free).sum::<u64>() * PAGE_SIZE;
    check!(seen.free == counted, "the audit found {:#x} free bytes, the zones count {counted:#x}", seen.free);
    // Tables that an IOMMU may still walk after a failed invalidation are never freed.
    let (in_use, lost) = (table_frames::usage().now * PAGE_SIZE, counters::read().lost_bytes.now);
    let missing = in_use.checked_sub(seen.tables);
    check!(
        missing.is_some_and(|bytes| bytes <= lost),
        "the audit found {:#x} bytes of tables, of {in_use:#x} allocated",
        seen.tables
    );
    let grown = heap::grown_bytes();
    check!(seen.heap == grown, "the audit found {:#x} bytes of heap, of {grown:#x} allocated", seen.heap);
    drop(held);
    audited()?;
    pass!("{seen}")
}

fn vmalloc_exhaustion_fails_only_kernel_views() -> Outcome {
    const MAX_VMALLOC: u64 = 1 << 40;
    let Some(device) = translated_device(true)? else { skip!("no IOMMU") };
    if VMALLOC.bytes() > MAX_VMALLOC {
        skip!("vmalloc= is too large to fill");
    }
    // The first allocations leave empty tables.
    drop(dma::alloc(&device, 4 << 20, Attrs::NO_KERNEL_MAPPING | Attrs::ALLOC_SINGLE_PAGES));
    drop(dma::alloc(&device, 8 << 20, Attrs::NO_KERNEL_MAPPING));
    let chunk = zones::alloc(Order::BLOCK_2M, Reach::ANYWHERE).ok_or("no 2 MiB chunk")?;
    let mut filler = Vec::new();
    // Maps the same frames repeatedly: the test exhausts addresses, not memory.
    for shift in (0..20).rev() {
        let again = core::iter::repeat_n(chunk.chunk(), 1 << shift);
        let mapping = Mapping::read_write(MemoryType::WriteBack);
        // SAFETY: the test owns the chunk; all its mappings are write-back and are removed before it is
        // freed.
        while let Ok(mapped) = unsafe { VMALLOC.map(again.clone(), Order::BLOCK_2M.bytes(), mapping) } {
            filler.push(mapped);
        }
    }
    let before = ResourceSnapshot::now();
    // Single pages: one chunk of lowmem would have its kernel view in the linear map.
    let with_view = dma::alloc(&device, 4 << 20, Attrs::NO_WARN | Attrs::ALLOC_SINGLE_PAGES);
    let without_view = dma::alloc(&device, 8 << 20, Attrs::NO_WARN | Attrs::NO_KERNEL_MAPPING);
    let results = (with_view.as_ref().err().copied(), without_view.as_ref().err().copied());
    drop((with_view, without_view));
    let checked = before.check("with vmalloc exhausted");
    let used = VMALLOC.usage().now;
    drop(filler);
    zones::free(chunk);
    checked?;
    check!(
        results == (Some(DmaError::OutOfVmalloc { len: 4 << 20 }), None),
        "{results:?} with {used:#x} bytes in use"
    );
    pass!("{used:#x} bytes of vmalloc in use: 4 MiB with a kernel view fail, 8 MiB without succeed")
}

fn streaming_mapping_is_one_iova_range() -> Outcome {
    let mut count = 0;
    // A machine with little lowmem has no large contiguous run of it.
    let large = (layout().lowmem_bytes() / 64).min(4 << 20);
    for coherent in [true, false] {
        let Some(device) = translated_device(coherent)? else { skip!("no IOMMU") };
        for direction in [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional] {
            for len in [1, 0x80, 0x1000, 0x1001, 0x1080, large - 5, large - 0x80] {
                if coherent || !direction.device_writes() || len % 0x80 == 0 {
                    check_streaming(&device, Pages::scattered(len), len, direction)?;
                    check_streaming(&device, Pages::new(len), len, direction)?;
                    count += 2;
                }
            }
        }
    }
    let other = Device::direct(String::from("selftest"), false, Vec::from([BusWindow::identity()]));
    let refused = stream::map(&other, pages_or_error(Pages::new(100))?, Direction::FromDevice).err();
    let refused = refused.map(|refused| refused.error);
    let shared = DmaError::SharedLine { offset: 0, len: 100 };
    check!(refused == Some(shared), "100 bytes for a non-coherent device: {refused:?}");
    pass!("{count} scatter-gather lists")
}

/// Converts the error of an allocation of streaming memory.
pub(super) fn pages_or_error(
    pages: Result<alloc::boxed::Box<Pages>, DmaError>,
) -> Result<alloc::boxed::Box<Pages>, String> {
    pages.map_err(|error| format!("pages: {error}"))
}

/// Maps the pages, checks the translation of each page, unmaps them, and checks that no translation remains.
fn check_streaming(
    device: &Arc<Device>,
    pages: Result<alloc::boxed::Box<Pages>, DmaError>,
    len: u64,
    direction: Direction,
) -> Result<(), String> {
    let pages = pages_or_error(pages)?;
    let segments = pages.segments().to_vec();
    let stream = stream::map(device, pages, direction).map_err(|refused| format!("{:?}", refused.error))?;
    check!(stream.len() as u64 == len, "{stream:?}, not {len:#x} bytes");
    let range = AddrRange::new(stream.iova(), stream.iova() + len);
    let mut at: Iova = range.start();
    for segment in segments {
        for offset in (0..segment.len).step_by(PAGE_SIZE as usize) {
            let page = AddrRange::new(at, at + PAGE_SIZE);
            let mut found = None;
            device.domain().leaves(page, |leaf| found = Some(leaf));
            let to = found.map(|leaf| leaf.translate(at));
            check!(
                to == Some(segment.start + offset),
                "{at} is translated to {to:?}, not {}",
                segment.start + offset
            );
            let writes = found.is_some_and(|leaf| leaf.access.contains(Access::WRITE));
            check!(writes == direction.device_writes(), "{direction:?}: {found:?}");
            at = at + PAGE_SIZE;
        }
    }
    stream.unmap().map_err(|error| format!("unmap: {error}"))?;
    let mut remaining = 0;
    device.domain().leaves(range.align_outward(PAGE_SIZE).ok_or("range")?, |_| remaining += 1);
    check!(remaining == 0, "{remaining} leaves after unmap");
    Ok(())
}

fn device_mappings_are_cacheable_only_for_devices_that_snoop() -> Outcome {
    let mut pages = 0;
    for (coherent, expected) in [(true, MemoryType::WriteBack), (false, MemoryType::NonCacheable)] {
        let Some(device) = translated_device(coherent)? else { skip!("no SMMU") };
        // A page, mapped in a pinned table, and a large mapping.
        for len in [PAGE_SIZE, 1 << 20] {
            let buffer = dma::alloc_unattached(len, Attrs::empty()).map_err(|error| format!("{error}"))?;
            let attachment = Attachment::new(&device, buffer, MapPlacement::Whole);
            let attachment = attachment.map_err(|error| format!("{error}"))?;
            let pages_of_stream = pages_or_error(Pages::new(len))?;
            let stream = stream::map(&device, pages_of_stream, Direction::Bidirectional);
            let stream = stream.map_err(|refused| format!("{}", refused.error))?;
            let streamed = AddrRange::new(stream.iova(), stream.iova() + len);
            for range in [attachment.range(), streamed] {
                let mut wrong = None;
                device.domain().leaves(range, |leaf| {
                    pages += leaf.bytes / PAGE_SIZE;
                    if leaf.memory != expected {
                        wrong = Some(leaf);
                    }
                });
                check!(wrong.is_none(), "coherent {coherent}: {wrong:?}, not {expected:?}");
            }
        }
    }
    pass!("{pages} pages of write-back buffers and streams")
}
