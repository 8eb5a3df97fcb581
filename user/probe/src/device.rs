//! `/dev/edu0`: copies through buffers and through this program's own pages, and what the device may hold.

use std::os::fd::{AsFd, AsRawFd};

use abi::dma::SyncFlags;
use dmabuf::{Buffer, Edu, Heap, ImportedBuffer, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure, refused};

const PIECE: u64 = abi::edu::EDU_BUFFER_BYTES;
const MIB: u64 = 1 << 20;
/// A device address where nothing is mapped.
const NOWHERE: u64 = 0x0abc_d000;

fn content(index: usize) -> u64 {
    (index as u64 + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fill(view: &View) {
    (0..view.words()).for_each(|index| view.set_word(index, content(index)));
}

/// Everything is as filled, except that the piece at byte `to` holds what stands at byte `from`.
fn check(view: &View, from: u64, to: u64) -> ProbeResult {
    let (from, to, words) = ((from / 8) as usize, (to / 8) as usize, (PIECE / 8) as usize);
    for index in 0..view.words() {
        let source = if (to..to + words).contains(&index) { index - to + from } else { index };
        let (found, expected) = (view.word(index), content(source));
        ensure(found == expected, || format!("word {index} is {found:#x}, not {expected:#x}"))?;
    }
    Ok(())
}

fn carry(edu: &Edu, imported: &ImportedBuffer<'_>, from: u64, to: u64) -> std::io::Result<()> {
    edu.load(imported.address + from, PIECE, 0)?;
    edu.store(imported.address + to, PIECE, 0)
}

fn buffer(len: u64) -> std::io::Result<Buffer> {
    Heap::open(SYSTEM)?.allocate(len)
}

/// A piece goes from one unaligned place of a buffer to another, and nothing else changes.
pub fn copy(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(3 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    ensure(imported.len == 3 * MIB, || format!("{:#x} bytes imported", imported.len))?;
    let (from, to) = (MIB - 2048 + 8, 3 * MIB - PIECE);
    carry(&edu, &imported, from, to)?;
    check(&view, from, to)
}

/// The device reaches this program's own pages while a copy runs, from and to the middle of a page. Whole cache lines,
/// so that it works for a device that does not see the caches too.
pub fn user_pages(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let view = View::anonymous(16 * 4096)?;
    fill(&view);
    let (from, to) = (3 * 4096 + 512, 9 * 4096 + 2048 + 128);
    let at = |offset: u64| view.pointer().wrapping_add(offset as usize);
    edu.load_pages(at(from), PIECE, 0)?;
    // SAFETY: inside the view, which hands out no references.
    unsafe { edu.store_pages(at(to), PIECE, 0)? };
    check(&view, from, to)?;
    refused(
        "memory that is not there",
        edu.load_pages(std::ptr::without_provenance(4096), PIECE, 0),
        libc::EFAULT,
    )
}

/// What the device holds stays alive without a view, and without a descriptor.
pub fn buffer_lifetime(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(2 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    drop(view);
    let (from, to) = (MIB - 2048, 64);
    carry(&edu, &imported, from, to)?;
    let view = buffer.map(Protection::ReadWrite)?;
    check(&view, from, to)?;
    drop((buffer, view));
    carry(&edu, &imported, from, to)?;
    let (address, last) = (imported.address, imported.address + 2 * MIB - PIECE);
    carry(&edu, &imported, last - address, 0)?;
    drop(imported);
    Ok(())
}

/// Lengths, places and descriptors that are wrong.
pub fn bad_arguments(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    let at = imported.address;
    refused("more than the device holds", edu.load(at, PIECE + 1, 0), libc::EINVAL)?;
    refused("behind the device's buffer", edu.load(at, 8, PIECE - 4), libc::EINVAL)?;
    refused("an offset that wraps", edu.load(at, 8, u64::MAX - 3), libc::EINVAL)?;
    refused("a length that wraps", edu.load(at, u64::MAX, 1), libc::EINVAL)?;
    refused("a file that is no buffer", edu.import(&std::io::stdout()).map(drop), libc::EINVAL)
}

/// A copy to where nothing is says so; a device that goes on with that is blocked, its buffer's owner is told, and who opens
/// it next gets it back.
pub fn quarantine(_: &[String]) -> ProbeResult {
    const READ: SyncFlags = SyncFlags::READ;
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    ensure(!is_failed(&buffer, 0)?, || "an error before there was one".into())?;
    // Each of these is a thousand faults, and a few thousand are too many.
    let mut copies = 0;
    while !is_failed(&buffer, 100)? {
        refused("a copy to nowhere", edu.store(NOWHERE, PIECE, 0), libc::EIO)?;
        copies += 1;
        ensure(copies < 100, || format!("not blocked after {copies} copies to nowhere"))?;
    }
    refused("a copy by a blocked device", edu.load(imported.address, PIECE, 0), libc::EIO)?;
    refused("the data of a blocked device", buffer.sync(READ), libc::EIO)?;
    let again = Edu::open()?;
    ensure(!is_failed(&buffer, 0)?, || "still an error".into())?;
    again.load(imported.address, PIECE, 0)?;
    buffer.sync(READ)?;
    println!("  blocked after {copies} copies to nowhere");
    Ok(())
}

/// Leaves bytes in the device's own buffer.
pub fn fill_buffer(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(PIECE)?;
    fill(&buffer.map(Protection::ReadWrite)?);
    let imported = edu.import(&buffer)?;
    Ok(edu.load(imported.address, PIECE, 0)?)
}

/// The device's own buffer holds nothing of whoever used it before; what this program puts there stays.
pub fn scan_buffer(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(2 * PIECE)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    edu.store(imported.address, PIECE, 0)?;
    let odd = (0..(PIECE / 8) as usize).find(|&index| view.word(index) != 0);
    ensure(odd.is_none(), || format!("word {odd:?} of the device's buffer is another program's"))?;
    edu.load(imported.address + PIECE, PIECE, 0)?;
    edu.store(imported.address, PIECE, 0)?;
    check(&view, PIECE, 0)
}

/// One thread's copies to nowhere are no other thread's error, though both wait for the same device.
pub fn concurrent_faults(_: &[String]) -> ProbeResult {
    let rounds = iterations(8);
    let buffer = buffer(MIB)?;
    std::thread::scope(|scope| {
        // A word each, so that the device is not blocked for it.
        let failing = scope.spawn(|| -> ProbeResult {
            let edu = Edu::open()?;
            (0..rounds).try_for_each(|_| refused("a copy to nowhere", edu.store(NOWHERE, 4, 0), libc::EIO))
        });
        let edu = Edu::open()?;
        let imported = edu.import(&buffer)?;
        let copied = (0..rounds).try_for_each(|_| edu.load(imported.address, PIECE, 0));
        failing.join().map_err(|_| "a thread panicked")??;
        Ok(copied?)
    })
}

/// Waits for an error of `buffer`, but not longer than `milliseconds`.
fn is_failed(buffer: &Buffer, milliseconds: i32) -> std::io::Result<bool> {
    let mut wanted = libc::pollfd { fd: buffer.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one valid entry, which nobody else uses.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, milliseconds) };
    if ready < 0 { Err(std::io::Error::last_os_error()) } else { Ok(wanted.revents & libc::POLLERR != 0) }
}

/// Dies while the device holds a buffer: the kernel has to take everything back.
pub fn fault_with_import(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = buffer(8 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    let imported = edu.import(&buffer)?;
    carry(&edu, &imported, 0, 4 * MIB)?;
    println!("  held at {:#x}, {} bytes mapped", imported.address, view.bytes());
    crate::fatal::null(&[])
}
