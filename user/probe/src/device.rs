//! `/dev/edu0`: copies through buffers and through this program's pages, buffer lifetime, and quarantine.

use std::os::fd::{AsFd, AsRawFd};

use abi::dma::SyncFlags;
use dmabuf::{Buffer, Edu, Heap, ImportedBuffer, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure, expect_error};

const PIECE: u64 = abi::edu::EDU_BUFFER_BYTES;
const MIB: u64 = 1 << 20;
/// An unmapped IOVA.
const UNMAPPED: u64 = 0x0abc_d000;

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

/// A copy to an unmapped IOVA fails; a device with too many faults is quarantined, which `poll` and `sync` of
/// its buffers report; the next open ends the quarantine.
pub fn quarantine(_: &[String]) -> ProbeResult {
    const READ: SyncFlags = SyncFlags::READ;
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    ensure(!is_failed(&buffer, 0)?, || "POLLERR before the first fault".into())?;
    // Each copy causes a thousand faults; the limit is a few thousand.
    let mut copies = 0;
    while !is_failed(&buffer, 100)? {
        expect_error("a copy to an unmapped IOVA", edu.store(UNMAPPED, PIECE, 0), libc::EIO)?;
        copies += 1;
        ensure(copies < 100, || format!("not quarantined after {copies} faulting copies"))?;
    }
    expect_error("a copy by a quarantined device", edu.load(imported.address, PIECE, 0), libc::EIO)?;
    expect_error("sync of a buffer of a quarantined device", buffer.sync(READ), libc::EIO)?;
    let again = Edu::open()?;
    ensure(!is_failed(&buffer, 0)?, || "POLLERR after the quarantine".into())?;
    again.load(imported.address, PIECE, 0)?;
    buffer.sync(READ)?;
    println!("  quarantined after {copies} faulting copies");
    Ok(())
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

/// Faulting copies of one thread are not reported to another thread that uses the same device.
pub fn concurrent_faults(_: &[String]) -> ProbeResult {
    let rounds = iterations(8);
    let buffer = buffer(MIB)?;
    std::thread::scope(|scope| {
        // One word each, so that the device is not quarantined.
        let failing = scope.spawn(|| -> ProbeResult {
            let edu = Edu::open()?;
            (0..rounds).try_for_each(|_| {
                expect_error("a copy to an unmapped IOVA", edu.store(UNMAPPED, 4, 0), libc::EIO)
            })
        });
        let edu = Edu::open()?;
        let imported = edu.import(&buffer)?;
        let copied = (0..rounds).try_for_each(|_| edu.load(imported.address, PIECE, 0));
        failing.join().map_err(|_| "a thread panicked")??;
        Ok(copied?)
    })
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
