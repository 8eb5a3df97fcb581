//! Invalid accesses of a device: each is aborted, recorded with its stream and IOVA, and changes no memory.

use super::device::{edu, frame_at, peek, poke, read_in, with_page, write_out};
use super::{Outcome, Test};
use crate::fixture::TIMEOUT_NS;
use crate::{check, fixture, pass, skip};
use addr::{Iova, MemoryType, PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dma_api::{Attrs, Direction, DmaError, Stream};
use kernel::devices::{self, dma_engine::DmaEngineDevice};
use kernel::dma::{self, Attachment, fault};
use kernel::iommu;
use smmu_spec::{EventKind, EventRecord};

pub const TESTS: &[Test] = &[
    Test { name: "smmu.access_to_unmapped_iova_is_aborted", run: access_to_unmapped_iova_is_aborted },
    Test { name: "smmu.access_to_freed_buffer_is_aborted", run: access_to_freed_buffer_is_aborted },
    Test { name: "smmu.access_to_detached_buffer_is_aborted", run: access_to_detached_buffer_is_aborted },
    Test { name: "smmu.access_past_buffer_end_is_aborted", run: access_past_buffer_end_is_aborted },
    Test { name: "smmu.write_to_read_only_mapping_is_aborted", run: write_to_read_only_mapping_is_aborted },
    Test { name: "smmu.detached_stream_is_aborted", run: detached_stream_is_aborted },
    Test { name: "smmu.repeated_faults_quarantine_the_device", run: repeated_faults_quarantine_the_device },
    Test { name: "smmu.first_event_of_each_stream_is_recorded", run: first_event_of_each_stream_is_recorded },
    Test { name: "smmu.only_rearm_ends_a_quarantine", run: only_rearm_ends_a_quarantine },
];

/// Returns the device if it is behind an SMMU.
fn translated_edu() -> Option<&'static DmaEngineDevice> {
    edu().filter(|edu| edu.device().smmu().is_some())
}

/// Drains the recorded events.
fn take_events(edu: &DmaEngineDevice) -> Vec<EventRecord> {
    edu.device().smmu().map_or(Vec::new(), fixture::take_events)
}

/// Checks kind, stream and address of the first event.
fn check_event(
    edu: &DmaEngineDevice,
    events: &[EventRecord],
    kind: EventKind,
    at: Iova,
) -> Result<String, String> {
    let Some(first) = events.first() else { return Err(format!("no event, expected {kind:?} at {at}")) };
    let input = first.transaction.map(|transaction| transaction.address);
    if first.kind != kind || Some(first.stream) != edu.device().stream() || input != Some(at.raw()) {
        return Err(format!("event {first}, expected {kind:?} at {at}"));
    }
    Ok(format!("{first}"))
}

fn new_buffer(edu: &DmaEngineDevice, len: u64) -> Result<Attachment, String> {
    dma::alloc(edu.device(), len, Attrs::NO_KERNEL_MAPPING).map_err(|error| error.to_string())
}

/// No attachment is near the address.
fn access_to_unmapped_iova_is_aborted() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    take_events(edu);
    let at = Iova::new(0x0abc_d000);
    write_out(edu, at, 4)?;
    let write = check_event(edu, &take_events(edu), EventKind::Translation, at)?;
    read_in(edu, at + 0x234, 4)?;
    check_event(edu, &take_events(edu), EventKind::Translation, at + 0x234)?;
    pass!("{write}")
}

/// The device has used the address before, so a missing IOTLB invalidation is detected.
fn access_to_freed_buffer_is_aborted() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, 16 * PAGE_SIZE)?;
    let at = buffer.range().start() + 5 * PAGE_SIZE;
    let Some(frame) = frame_at(buffer.buffer().chunks(), 5 * PAGE_SIZE) else {
        return Err("no frame".to_string());
    };
    poke(&buffer, 5 * PAGE_SIZE, b"mine");
    read_in(edu, at, 4)?;
    write_out(edu, at + 64, 4)?;
    check!(
        peek(&buffer, 5 * PAGE_SIZE + 64, 4) == b"mine",
        "the device did not access the buffer before the free"
    );
    take_events(edu);
    drop(buffer);
    let before = read_page(frame);
    write_out(edu, at + 128, 4)?;
    let seen = check_event(edu, &take_events(edu), EventKind::Translation, at + 128)?;
    check!(read_page(frame) == before, "the device wrote to {frame}");
    pass!("frame {frame} unchanged; {seen}")
}

/// The buffer stays allocated, but is not mapped for the device. The address was used before.
fn access_to_detached_buffer_is_aborted() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    let (at, kept) = (buffer.range().start(), buffer.buffer().clone());
    poke(&buffer, 0, b"mine");
    read_in(edu, at, 4)?;
    write_out(edu, at + 8, 4)?;
    let Some(frame) = frame_at(kept.chunks(), 0) else { return Err("no frame".to_string()) };
    take_events(edu);
    drop(buffer);
    let before = read_page(frame);
    check!(before[8..12] == *b"mine", "the device did not access the buffer while attached");
    write_out(edu, at + 16, 4)?;
    let seen = check_event(edu, &take_events(edu), EventKind::Translation, at + 16)?;
    check!(read_page(frame) == before, "the device wrote to {frame}");
    pass!("frame {frame} unchanged; {seen}")
}

fn read_page(frame: PhysAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    with_page(frame, MemoryType::WriteBack, |page| bytes.extend_from_slice(page));
    bytes
}

fn access_past_buffer_end_is_aborted() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    let Some(frame) = frame_at(buffer.buffer().chunks(), 0) else { return Err("no frame".to_string()) };
    let next = frame + PAGE_SIZE;
    let in_ram = kernel::memory::layout().high_free.iter().any(|range| range.contains(next));
    let before = in_ram.then(|| read_page(next));
    poke(&buffer, 0, &[1; 8]);
    read_in(edu, buffer.range().start(), 8)?;
    take_events(edu);
    write_out(edu, buffer.range().start() + (PAGE_SIZE - 4), 5)?;
    let seen = check_event(edu, &take_events(edu), EventKind::Translation, buffer.range().end())?;
    check!(peek(&buffer, PAGE_SIZE - 4, 4) == [1; 4], "the bytes in the buffer were not written");
    check!(before == in_ram.then(|| read_page(next)), "the next frame has changed");
    pass!("four bytes written, the fifth aborted; {seen}")
}

fn write_to_read_only_mapping_is_aborted() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let pages = dma::stream::Pages::new(PAGE_SIZE).map_err(|error| error.to_string())?;
    let stream = dma::stream::map(edu.device(), pages, Direction::ToDevice);
    let stream: Stream<_> = stream.map_err(|refused| refused.error.to_string())?;
    take_events(edu);
    // Once by a page-table walk, and once by the IOTLB entry of the read. QEMU records no event for a
    // cached stage 2 translation, so only the first event is required.
    write_out(edu, stream.iova(), 4)?;
    let seen = check_event(edu, &take_events(edu), EventKind::Permission, stream.iova())?;
    read_in(edu, stream.iova(), 64)?;
    write_out(edu, stream.iova(), 4)?;
    take_events(edu);
    let mut stream = stream.sync_for_cpu();
    let bytes = stream.bytes().map(|bytes| bytes.iter().all(|&byte| byte == 0));
    check!(bytes == Some(true), "the device wrote to memory mapped read-only");
    pass!("{seen}")
}

/// The STE is the same as before the first attachment: it aborts, and the SMMU records no event (IHI 0070,
/// 5.2, Config 0b000).
fn detached_stream_is_aborted() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    let at = buffer.range().start();
    poke(&buffer, 0, b"before");
    read_in(edu, at, 6)?;
    write_out(edu, at + 16, 6)?;
    edu.device().block().map_err(|error| error.to_string())?;
    let blocked = write_out(edu, at + 32, 6).and_then(|()| read_in(edu, at, 6));
    retry(|| edu.device().unblock())?;
    blocked?;
    let (reached, not_reached) = (peek(&buffer, 16, 6), peek(&buffer, 32, 6));
    check!(reached == b"before", "the device did not access the buffer while attached");
    check!(not_reached == [0; 6], "a detached device wrote {not_reached:x?}");
    write_out(edu, at + 48, 6)?;
    let later = peek(&buffer, 48, 6);
    check!(later == [0; 6], "the aborted read returned {later:x?}, not zeroes");
    poke(&buffer, 0, b"again!");
    read_in(edu, at, 6)?;
    write_out(edu, at + 64, 6)?;
    check!(
        peek(&buffer, 64, 6) == b"again!",
        "the device does not access the buffer after the stream was attached again"
    );
    pass!("stream {:?}: no access while detached, full access afterwards", edu.device().stream())
}

/// Calls `attempt`, and once more if it fails, since later tests need the device.
fn retry(attempt: impl Fn() -> Result<(), DmaError>) -> Result<(), String> {
    attempt().or_else(|_| attempt()).map_err(|error| error.to_string())
}

/// The fault limit of the tests; one transfer to an unmapped IOVA exceeds it.
const LIMIT: u64 = 512;
/// An IOVA that is never mapped.
pub(super) const UNMAPPED: Iova = Iova::new(0x0abc_d000);

fn repeated_faults_quarantine_the_device() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    edu.device().set_fault_limit(LIMIT);
    let seen =
        fault_until_quarantined(edu).and_then(|faults| check_quarantined(edu, &buffer).map(|()| faults));
    edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
    retry(|| edu.device().rearm())?;
    let faults = seen?;
    check!(
        edu.device().service_faults() == 0,
        "{} faults right after the rearm",
        edu.device().service_faults()
    );
    poke(&buffer, 0, b"again!");
    read_in(edu, buffer.range().start(), 6)?;
    write_out(edu, buffer.range().start() + 64, 6)?;
    check!(peek(&buffer, 64, 6) == b"again!", "the device does not access the buffer after the rearm");
    pass!("quarantined after {faults} faults, limit {LIMIT}; no further events, rearmed")
}

/// Lets the device fault until it is quarantined. Returns the number of faults.
fn fault_until_quarantined(edu: &DmaEngineDevice) -> Result<u64, String> {
    write_out(edu, UNMAPPED, PAGE_SIZE)?;
    let quarantined = fixture::yield_until(TIMEOUT_NS, || edu.device().is_quarantined());
    check!(quarantined, "not quarantined after {} faults", edu.device().service_faults());
    Ok(edu.device().service_faults())
}

/// Checks that the device's accesses are aborted without events, and that other devices are unaffected.
fn check_quarantined(edu: &DmaEngineDevice, buffer: &Attachment) -> Result<(), String> {
    let before = edu.device().service_faults();
    poke(buffer, 0, b"before");
    write_out(edu, buffer.range().start(), 6)?;
    write_out(edu, UNMAPPED, PAGE_SIZE)?;
    check!(peek(buffer, 0, 6) == b"before", "a quarantined device wrote to the buffer");
    check!(edu.device().service_faults() == before, "{} more faults", edu.device().service_faults() - before);
    let Some(other) = devices::dma_engines().nth(1) else { return Ok(()) };
    let other_buffer = new_buffer(other, PAGE_SIZE)?;
    poke(&other_buffer, 0, b"others");
    read_in(other, other_buffer.range().start(), 6)?;
    write_out(other, other_buffer.range().start() + 64, 6)?;
    check!(peek(&other_buffer, 64, 6) == b"others", "the other device does not access its buffer");
    Ok(())
}

/// Blocking by the driver and quarantine are separate states.
fn only_rearm_ends_a_quarantine() -> Outcome {
    let Some(edu) = translated_edu() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    poke(&buffer, 0, b"before");
    edu.device().set_fault_limit(LIMIT);
    let seen = fault_until_quarantined(edu).and_then(|_| check_block_is_refused(edu, &buffer));
    edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
    retry(|| edu.device().rearm())?;
    seen?;
    check!(!edu.device().is_quarantined(), "still quarantined after the rearm");
    poke(&buffer, 0, b"again!");
    read_in(edu, buffer.range().start(), 6)?;
    write_out(edu, buffer.range().start() + 64, 6)?;
    check!(peek(&buffer, 64, 6) == b"again!", "the device does not access the buffer after the rearm");
    pass!("neither block nor unblock ends a quarantine")
}

/// Checks that `block` and `unblock` return an error and do not end the quarantine.
fn check_block_is_refused(edu: &DmaEngineDevice, buffer: &Attachment) -> Result<(), String> {
    let refused = Err(DmaError::IommuRefused);
    let (blocked, unblocked) = (edu.device().block(), edu.device().unblock());
    check!(blocked == refused && unblocked == refused, "block: {blocked:?}, unblock: {unblocked:?}");
    check!(edu.device().is_quarantined(), "the quarantine ended");
    write_out(edu, buffer.range().start(), 6)?;
    check!(peek(buffer, 0, 6) == b"before", "a quarantined device wrote to the buffer");
    Ok(())
}

/// The number of devices that fault concurrently, with a thousand events each: the capacity of QEMU's event
/// queue.
const CONCURRENT_DEVICES: usize = 8;

fn first_event_of_each_stream_is_recorded() -> Outcome {
    let all = devices::dma_engines().filter(|edu| edu.device().smmu().is_some());
    let edus: Vec<&'static DmaEngineDevice> = all.take(CONCURRENT_DEVICES).collect();
    if edus.len() < 2 {
        skip!("fewer than two devices behind an SMMU");
    }
    let room = edus[0].device().smmu().map_or(0, |smmu| smmu.features().event_queue_entries());
    if room < edus.len() as u64 * iommu::EVENTS_PER_DEVICE {
        skip!("{} devices, but an event queue of {room} entries", edus.len());
    }
    for edu in &edus {
        // A rearm clears the recorded faults; the high limit prevents a quarantine during the test.
        edu.device().set_fault_limit(1);
        fault_until_quarantined(edu)?;
        edu.device().set_fault_limit(u64::MAX);
        retry(|| edu.device().rearm())?;
    }
    let threads = edus.clone();
    let fault_at = |number: usize| UNMAPPED + number as u64 * PAGE_SIZE;
    let written = crate::fixture::run_each(edus.len(), move |number| {
        write_out(threads[number], fault_at(number), PAGE_SIZE)
    })?;
    let seen: Vec<_> =
        edus.iter().map(|edu| (edu.device().service_faults(), edu.device().first_fault())).collect();
    for edu in &edus {
        edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
        // Later tests must not see the events.
        take_events(edu);
    }
    written.into_iter().collect::<Result<(), _>>()?;
    for (number, (edu, (_, first))) in edus.iter().zip(&seen).enumerate() {
        check_event(edu, first.as_slice(), EventKind::Translation, fault_at(number))?;
    }
    let faults: u64 = seen.iter().map(|(faults, _)| faults).sum();
    pass!("{} streams concurrently, {faults} events, the first of each recorded", edus.len())
}
