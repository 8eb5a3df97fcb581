//! `/dev/edu0`: copies through buffers and through this program's pages, buffer lifetime, and quarantine.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use abi::dma::SyncFlags;
use dmabuf::{Buffer, Edu, Heap, ImportedBuffer, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure, expect_error};

const PIECE: u64 = abi::edu::EDU_BUFFER_BYTES;
const MIB: u64 = 1 << 20;

fn content(index: usize) -> u64 {
    (index as u64 + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fill(view: &View) {
    (0..view.words()).for_each(|index| view.set_word(index, content(index)));
}

/// Checks that the view has the fill content, except for a copy of the block at `from` at offset `to`.
fn check(view: &View, from: u64, to: u64) -> ProbeResult {
    let (from, to, words) = ((from / 8) as usize, (to / 8) as usize, (PIECE / 8) as usize);
    for index in 0..view.words() {
        let source = if (to..to + words).contains(&index) { index - to + from } else { index };
        let (found, expected) = (view.word(index), content(source));
        ensure(found == expected, || format!("word {index} is {found:#x}, not {expected:#x}"))?;
    }
    Ok(())
}

fn copy_block(edu: &Edu, imported: &ImportedBuffer<'_>, from: u64, to: u64) -> std::io::Result<()> {
    edu.load(imported.address + from, PIECE, 0)?;
    edu.store(imported.address + to, PIECE, 0)
}

fn buffer(len: u64) -> std::io::Result<Buffer> {
    Heap::open(SYSTEM)?.allocate(len)
}

/// A copy between unaligned offsets of a buffer changes nothing else. The argument is the number of the
/// device, 0 by default.
pub fn copy(arguments: &[String]) -> ProbeResult {
    let number = arguments.first().map_or(Ok(0), |text| text.parse().map_err(|_| "not a device number"))?;
    let edu = Edu::open_instance(number)?;
    let buffer = buffer(3 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    ensure(imported.len == 3 * MIB, || format!("{:#x} bytes imported", imported.len))?;
    let (from, to) = (MIB - 2048 + 8, 3 * MIB - PIECE);
    copy_block(&edu, &imported, from, to)?;
    check(&view, from, to)
}

/// Copies from and to this program's pages, at unaligned offsets in a page. Whole cache lines, so that it
/// also works for non-coherent devices.
pub fn user_pages(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let view = View::anonymous(16 * 4096)?;
    fill(&view);
    let (from, to) = (3 * 4096 + 512, 9 * 4096 + 2048 + 128);
    let at = |offset: u64| view.pointer().wrapping_add(offset as usize);
    edu.load_pages(at(from), PIECE, 0)?;
    // SAFETY: inside the view, which returns no references.
    unsafe { edu.store_pages(at(to), PIECE, 0)? };
    check(&view, from, to)?;
    expect_error(
        "unmapped memory",
        edu.load_pages(std::ptr::without_provenance(4096), PIECE, 0),
        libc::EFAULT,
    )
}

/// An imported buffer stays alive without mapping and descriptor.
pub fn buffer_lifetime(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(2 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    drop(view);
    let (from, to) = (MIB - 2048, 64);
    copy_block(&edu, &imported, from, to)?;
    let view = buffer.map(Protection::ReadWrite)?;
    check(&view, from, to)?;
    drop((buffer, view));
    copy_block(&edu, &imported, from, to)?;
    let (address, last) = (imported.address, imported.address + 2 * MIB - PIECE);
    copy_block(&edu, &imported, last - address, 0)?;
    drop(imported);
    Ok(())
}

/// Imports a filled buffer, prints its device address, and checks its content until it is killed.
pub fn hold(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(2 * PIECE)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    println!("imported at {:#x}", imported.address);
    loop {
        check(&view, 0, 0)?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A copy from or to a device address that this open file did not import fails. The argument is an address
/// that another program imported.
pub fn foreign_address(arguments: &[String]) -> ProbeResult {
    let address =
        arguments.first().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let address = address.ok_or("no device address")?;
    let (edu, other) = (Edu::open()?, Edu::open()?);
    let buffer = buffer(3 * PIECE)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = other.import(&buffer)?;
    for (whose, address) in [("another program", address), ("another open file", imported.address)] {
        expect_error(&format!("a load from {whose}"), edu.load(address, PIECE, 0), libc::EIO)?;
        expect_error(&format!("a store to {whose}"), edu.store(address, PIECE, 0), libc::EIO)?;
    }
    let (start, end) = (imported.address, imported.address + 3 * PIECE);
    expect_error("a store across the start", other.store(start - 8, 16, 0), libc::EIO)?;
    expect_error("a store across the end", other.store(end - 8, 16, 0), libc::EIO)?;
    check(&view, 0, 0)?;
    copy_block(&other, &imported, 0, PIECE)?;
    check(&view, 0, PIECE)
}

/// A release waits for the copy that uses the buffer: the copy is complete, and the device does not write to
/// the buffer afterwards.
pub fn release_during_copy(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let (source, target) = (buffer(PIECE)?, buffer(PIECE)?);
    let views = (source.map(Protection::ReadWrite)?, target.map(Protection::ReadWrite)?);
    fill(&views.0);
    let from = edu.import(&source)?;
    edu.load(from.address, PIECE, 0)?;
    let mut completed = 0;
    for delay in [0, 20, 60, 90, 110] {
        (0..views.1.words()).for_each(|word| views.1.set_word(word, 0));
        let to = edu.import(&target)?;
        let address = to.address;
        let copied = std::thread::scope(|scope| {
            let copy = scope.spawn(|| edu.store(address, PIECE, 0));
            std::thread::sleep(Duration::from_millis(delay));
            drop(to);
            let at_release = views.1.word(0);
            let copied = copy.join().map_err(|_| "a thread panicked")?;
            let later = views.1.word(0);
            ensure(later == at_release, || format!("the device wrote {later:#x} after the release"))?;
            Ok::<_, crate::result::Failure>(copied)
        })?;
        match copied {
            Ok(()) => {
                check(&views.1, 0, 0)?;
                completed += 1;
            }
            // The release preceded the copy, whose thread may start late on a busy host.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
            Err(error) => ensure(false, || format!("released after {delay} ms: {error}"))?,
        }
    }
    // A copy takes 100 ms: one of them may be over before its release.
    ensure(completed >= 2, || format!("{completed} copies completed, the others were cut off"))
}

/// Invalid lengths, offsets and descriptors are rejected.
pub fn bad_arguments(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    let at = imported.address;
    expect_error("a copy larger than the internal buffer", edu.load(at, PIECE + 1, 0), libc::EINVAL)?;
    expect_error("a copy past the end of the internal buffer", edu.load(at, 8, PIECE - 4), libc::EINVAL)?;
    expect_error("an offset that wraps", edu.load(at, 8, u64::MAX - 3), libc::EINVAL)?;
    expect_error("a length that wraps", edu.load(at, u64::MAX, 1), libc::EINVAL)?;
    expect_error("a file that is not a dma-buf", edu.import(&std::io::stdout()).map(drop), libc::EINVAL)
}

/// `poll` and `sync` of a buffer report the quarantine of its device, which another party makes fault after
/// the printed line; the next open ends the quarantine.
pub fn quarantine(_: &[String]) -> ProbeResult {
    const READ: SyncFlags = SyncFlags::READ;
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    ensure(!is_failed(&buffer, 0)?, || "POLLERR before the first fault".into())?;
    println!("imported");
    let start = Instant::now();
    while !is_failed(&buffer, 100)? {
        ensure(start.elapsed() < Duration::from_secs(60), || "no POLLERR of a quarantined device".into())?;
    }
    expect_error("a copy by a quarantined device", edu.load(imported.address, PIECE, 0), libc::EIO)?;
    expect_error("sync of a buffer of a quarantined device", buffer.sync(READ), libc::EIO)?;
    let again = Edu::open()?;
    ensure(!is_failed(&buffer, 0)?, || "POLLERR after the quarantine".into())?;
    let imported_again = again.import(&buffer)?;
    again.load(imported_again.address, PIECE, 0)?;
    edu.load(imported.address, PIECE, 0)?;
    Ok(buffer.sync(READ)?)
}

/// Fills the device's internal buffer.
pub fn fill_buffer(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(PIECE)?;
    fill(&buffer.map(Protection::ReadWrite)?);
    let imported = edu.import(&buffer)?;
    Ok(edu.load(imported.address, PIECE, 0)?)
}

/// The device's internal buffer contains no data of the previous user, and retains this program's data.
pub fn scan_buffer(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(2 * PIECE)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    edu.store(imported.address, PIECE, 0)?;
    let leaked = (0..(PIECE / 8) as usize).find(|&index| view.word(index) != 0);
    ensure(leaked.is_none(), || {
        format!("word {leaked:?} of the internal buffer contains data of another program")
    })?;
    edu.load(imported.address + PIECE, PIECE, 0)?;
    edu.store(imported.address, PIECE, 0)?;
    check(&view, PIECE, 0)
}

/// Copies succeed although the device faults between them, which another party causes after the printed line.
pub fn concurrent_faults(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    println!("imported");
    Ok((0..iterations(8)).try_for_each(|_| edu.load(imported.address, PIECE, 0))?)
}

/// Whether `poll` reports an error of `buffer` within `milliseconds`.
fn is_failed(buffer: &Buffer, milliseconds: i32) -> std::io::Result<bool> {
    let mut wanted = libc::pollfd { fd: buffer.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one valid, exclusively owned entry.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, milliseconds) };
    if ready < 0 { Err(std::io::Error::last_os_error()) } else { Ok(wanted.revents & libc::POLLERR != 0) }
}

/// Faults while a buffer is imported by the device: the kernel must release all resources.
pub fn fault_with_import(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(8 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    let imported = edu.import(&buffer)?;
    copy_block(&edu, &imported, 0, 4 * MIB)?;
    println!("  imported at {:#x}, {} bytes mapped", imported.address, view.bytes());
    crate::fatal::null(&[])
}
