//! What a device may not do: it is aborted, recorded with its stream and address, and changes nothing.

use super::device::{edu, frame_at, peek, poke, read_in, with_page, write_out};
use super::{Outcome, Test};
use crate::fixture::TIMEOUT_NS;
use crate::{check, fixture, pass, skip};
use addr::{Iova, MemoryType, PAGE_SIZE, PhysAddr};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::timer::Deadline;
use dma_api::{Attrs, Direction, DmaError, Stream};
use kernel::devices::{self, dma_engine::DmaEngineDevice};
use kernel::dma::{self, Attachment, fault};
use kernel::iommu;
use kernel::sched;
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

/// The device, if an SMMU translates for it.
fn translated() -> Option<&'static DmaEngineDevice> {
    edu().filter(|edu| edu.device().smmu().is_some())
}

/// The events since the last call.
fn events(edu: &DmaEngineDevice) -> Vec<EventRecord> {
    edu.device().smmu().map_or(Vec::new(), fixture::take_events)
}

/// The first event is of this kind, of the device's stream, at `at`.
fn check_event(
    edu: &DmaEngineDevice,
    events: &[EventRecord],
    kind: EventKind,
    at: Iova,
) -> Result<String, String> {
    let Some(first) = events.first() else { return Err(format!("no event; {kind:?} at {at} was expected")) };
    let input = first.transaction.map(|transaction| transaction.address);
    if first.kind != kind || Some(first.stream) != edu.device().stream() || input != Some(at.raw()) {
        return Err(format!("event {first}; {kind:?} at {at} was expected"));
    }
    Ok(format!("{first}"))
}

fn new_buffer(edu: &DmaEngineDevice, len: u64) -> Result<Attachment, String> {
    dma::alloc(edu.device(), len, Attrs::NO_KERNEL_MAPPING).map_err(|error| error.to_string())
}

/// Before the first byte is attached anywhere near there.
fn access_to_unmapped_iova_is_aborted() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    events(edu);
    let at = Iova::new(0x0abc_d000);
    write_out(edu, at, 4)?;
    let write = check_event(edu, &events(edu), EventKind::Translation, at)?;
    read_in(edu, at + 0x234, 4)?;
    check_event(edu, &events(edu), EventKind::Translation, at + 0x234)?;
    pass!("{write}")
}

/// The device has used the address before, so a translation that was forgotten to be invalidated would show.
fn access_to_freed_buffer_is_aborted() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, 16 * PAGE_SIZE)?;
    let at = buffer.range().start() + 5 * PAGE_SIZE;
    let Some(frame) = frame_at(buffer.buffer().chunks(), 5 * PAGE_SIZE) else {
        return Err("no frame".to_string());
    };
    poke(&buffer, 5 * PAGE_SIZE, b"mine");
    read_in(edu, at, 4)?;
    write_out(edu, at + 64, 4)?;
    check!(peek(&buffer, 5 * PAGE_SIZE + 64, 4) == b"mine", "the device did not reach it while it was there");
    events(edu);
    drop(buffer);
    let before = page_of(frame);
    write_out(edu, at + 128, 4)?;
    let seen = check_event(edu, &events(edu), EventKind::Translation, at + 128)?;
    check!(page_of(frame) == before, "the device still wrote to {frame}");
    pass!("frame {frame} unchanged; {seen}")
}

/// The buffer lives on, but not for this device; the address was used before.
fn access_to_detached_buffer_is_aborted() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    let (at, kept) = (buffer.range().start(), buffer.buffer().clone());
    poke(&buffer, 0, b"mine");
    read_in(edu, at, 4)?;
    write_out(edu, at + 8, 4)?;
    let Some(frame) = frame_at(kept.chunks(), 0) else { return Err("no frame".to_string()) };
    events(edu);
    drop(buffer);
    let before = page_of(frame);
    check!(before[8..12] == *b"mine", "the device did not reach it while it was attached");
    write_out(edu, at + 16, 4)?;
    let seen = check_event(edu, &events(edu), EventKind::Translation, at + 16)?;
    check!(page_of(frame) == before, "the device still wrote to {frame}");
    pass!("frame {frame} unchanged; {seen}")
}

fn page_of(frame: PhysAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    with_page(frame, MemoryType::WriteBack, |page| bytes.extend_from_slice(page));
    bytes
}

fn access_past_buffer_end_is_aborted() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    let Some(frame) = frame_at(buffer.buffer().chunks(), 0) else { return Err("no frame".to_string()) };
    let next = frame + PAGE_SIZE;
    let in_ram = kernel::memory::layout().high_free.iter().any(|range| range.contains(next));
    let before = in_ram.then(|| page_of(next));
    poke(&buffer, 0, &[1; 8]);
    read_in(edu, buffer.range().start(), 8)?;
    events(edu);
    write_out(edu, buffer.range().start() + (PAGE_SIZE - 4), 5)?;
    let seen = check_event(edu, &events(edu), EventKind::Translation, buffer.range().end())?;
    check!(peek(&buffer, PAGE_SIZE - 4, 4) == [1; 4], "the bytes inside were not written");
    check!(before == in_ram.then(|| page_of(next)), "the frame behind it has changed");
    pass!("four bytes arrived, the fifth did not; {seen}")
}

fn write_to_read_only_mapping_is_aborted() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let pages = dma::stream::Pages::new(PAGE_SIZE).map_err(|error| error.to_string())?;
    let stream = dma::stream::map(edu.device(), pages, Direction::ToDevice);
    let stream: Stream<_> = stream.map_err(|refused| refused.error.to_string())?;
    events(edu);
    // Once by a walk, and once by the translation that reading leaves in the TLB. Of a cached stage 2 translation QEMU
    // records no event, so only the first is counted on.
    write_out(edu, stream.iova(), 4)?;
    let seen = check_event(edu, &events(edu), EventKind::Permission, stream.iova())?;
    read_in(edu, stream.iova(), 64)?;
    write_out(edu, stream.iova(), 4)?;
    events(edu);
    let mut stream = stream.sync_for_cpu();
    let bytes = stream.bytes().map(|bytes| bytes.iter().all(|&byte| byte == 0));
    check!(bytes == Some(true), "the device wrote into memory lent for reading");
    pass!("{seen}")
}

/// What comes before the first attachment is the same: an entry that aborts. The SMMU records nothing for it (IHI 0070,
/// 5.2, Config 0b000).
fn detached_stream_is_aborted() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    let at = buffer.range().start();
    poke(&buffer, 0, b"before");
    read_in(edu, at, 6)?;
    write_out(edu, at + 16, 6)?;
    edu.device().block().map_err(|error| error.to_string())?;
    let blocked = write_out(edu, at + 32, 6).and_then(|()| read_in(edu, at, 6));
    again(|| edu.device().unblock())?;
    blocked?;
    let (reached, not_reached) = (peek(&buffer, 16, 6), peek(&buffer, 32, 6));
    check!(reached == b"before", "the device did not reach the buffer at first");
    check!(not_reached == [0; 6], "a detached device wrote {not_reached:x?}");
    write_out(edu, at + 48, 6)?;
    let later = peek(&buffer, 48, 6);
    check!(later == [0; 6], "the aborted read brought {later:x?}, not zeroes");
    poke(&buffer, 0, b"again!");
    read_in(edu, at, 6)?;
    write_out(edu, at + 64, 6)?;
    check!(peek(&buffer, 64, 6) == b"again!", "attached again, the device does not reach the buffer");
    pass!("stream {:?}: nothing arrived while detached, everything after", edu.device().stream())
}

/// Lets a device do DMA again, at the second try if it must be: the tests behind this one want it.
fn again(attempt: impl Fn() -> Result<(), DmaError>) -> Result<(), String> {
    attempt().or_else(|_| attempt()).map_err(|error| error.to_string())
}

/// Faults that the test lets the device have; one transfer to nowhere makes more.
const LIMIT: u64 = 512;
/// Where nothing is mapped.
const NOWHERE: Iova = Iova::new(0x0abc_d000);

fn repeated_faults_quarantine_the_device() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    edu.device().set_fault_limit(LIMIT);
    let seen = until_blocked(edu).and_then(|faults| while_blocked(edu, &buffer).map(|()| faults));
    edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
    again(|| edu.device().rearm())?;
    let faults = seen?;
    check!(edu.device().faults() == 0, "{} faults before it did anything", edu.device().faults());
    poke(&buffer, 0, b"again!");
    read_in(edu, buffer.range().start(), 6)?;
    write_out(edu, buffer.range().start() + 64, 6)?;
    check!(peek(&buffer, 64, 6) == b"again!", "armed again, the device does not reach the buffer");
    pass!("blocked after {faults} faults, the limit was {LIMIT}; then silent, and armed again")
}

/// How many faults it took.
fn until_blocked(edu: &DmaEngineDevice) -> Result<u64, String> {
    write_out(edu, NOWHERE, PAGE_SIZE)?;
    let deadline = Deadline::in_ns(TIMEOUT_NS);
    while !edu.device().is_quarantined() {
        check!(!deadline.passed(), "not blocked after {} faults", edu.device().faults());
        sched::yield_now();
    }
    Ok(edu.device().faults())
}

/// Nothing arrives any more, and nothing is recorded; other devices go on.
fn while_blocked(edu: &DmaEngineDevice, buffer: &Attachment) -> Result<(), String> {
    let before = edu.device().faults();
    poke(buffer, 0, b"before");
    write_out(edu, buffer.range().start(), 6)?;
    write_out(edu, NOWHERE, PAGE_SIZE)?;
    check!(peek(buffer, 0, 6) == b"before", "a blocked device wrote");
    check!(edu.device().faults() == before, "{} more faults", edu.device().faults() - before);
    let Some(other) = devices::dma_engines().nth(1) else { return Ok(()) };
    let theirs = new_buffer(other, PAGE_SIZE)?;
    poke(&theirs, 0, b"theirs");
    read_in(other, theirs.range().start(), 6)?;
    write_out(other, theirs.range().start() + 64, 6)?;
    check!(peek(&theirs, 64, 6) == b"theirs", "another device is blocked too");
    Ok(())
}

/// What a driver blocked itself, and what was blocked for its faults, are two things.
fn only_rearm_ends_a_quarantine() -> Outcome {
    let Some(edu) = translated() else { skip!("no SMMU") };
    let buffer = new_buffer(edu, PAGE_SIZE)?;
    poke(&buffer, 0, b"before");
    edu.device().set_fault_limit(LIMIT);
    let seen = until_blocked(edu).and_then(|_| while_in_quarantine(edu, &buffer));
    edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
    again(|| edu.device().rearm())?;
    seen?;
    check!(!edu.device().is_quarantined(), "armed again, it is still in quarantine");
    poke(&buffer, 0, b"again!");
    read_in(edu, buffer.range().start(), 6)?;
    write_out(edu, buffer.range().start() + 64, 6)?;
    check!(peek(&buffer, 64, 6) == b"again!", "armed again, the device does not reach the buffer");
    pass!("neither blocking nor unblocking changes a quarantine")
}

fn while_in_quarantine(edu: &DmaEngineDevice, buffer: &Attachment) -> Result<(), String> {
    let refused = Err(DmaError::IommuRefused);
    let (blocked, unblocked) = (edu.device().block(), edu.device().unblock());
    check!(blocked == refused && unblocked == refused, "blocked {blocked:?}, unblocked {unblocked:?}");
    check!(edu.device().is_quarantined(), "the quarantine is over");
    write_out(edu, buffer.range().start(), 6)?;
    check!(peek(buffer, 0, 6) == b"before", "a device in quarantine wrote");
    Ok(())
}

/// Devices that QEMU lets fault at the same time, a thousand events each: as many as the event queue has room for.
const AT_ONCE: usize = 8;

fn first_event_of_each_stream_is_recorded() -> Outcome {
    let all = devices::dma_engines().filter(|edu| edu.device().smmu().is_some());
    let edus: Vec<&'static DmaEngineDevice> = all.take(AT_ONCE).collect();
    if edus.len() < 2 {
        skip!("fewer than two devices behind an SMMU");
    }
    let room = edus[0].device().smmu().map_or(0, |smmu| smmu.features().event_queue_entries());
    if room < edus.len() as u64 * iommu::EVENTS_PER_DEVICE {
        skip!("room for {room} events, and {} devices", edus.len());
    }
    for edu in &edus {
        // Quarantine is not the subject; and its end clears what was seen before.
        edu.device().set_fault_limit(1);
        until_blocked(edu)?;
        edu.device().set_fault_limit(u64::MAX);
        again(|| edu.device().rearm())?;
    }
    let threads = edus.clone();
    let place = |number: usize| NOWHERE + number as u64 * PAGE_SIZE;
    let written = crate::fixture::run_each(edus.len(), move |number| {
        write_out(threads[number], place(number), PAGE_SIZE)
    })?;
    let seen: Vec<_> = edus.iter().map(|edu| (edu.device().faults(), edu.device().first_fault())).collect();
    for edu in &edus {
        edu.device().set_fault_limit(fault::DEFAULT_LIMIT);
        // An own test's events are no other test's.
        events(edu);
    }
    written.into_iter().collect::<Result<(), _>>()?;
    for (number, (edu, (_, first))) in edus.iter().zip(&seen).enumerate() {
        check_event(edu, first.as_slice(), EventKind::Translation, place(number))?;
    }
    let faults: u64 = seen.iter().map(|(faults, _)| faults).sum();
    pass!("{} streams at once, {faults} events, the first of each at its place", edus.len())
}
