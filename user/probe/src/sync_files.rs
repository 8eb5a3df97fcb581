//! Names and sync files of dma-bufs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

use abi::Ioctl;
use abi::dma::{
    BufferSyncFile, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, DMA_BUF_SET_NAME_A,
    DMA_BUF_SET_NAME_B,
};
use abi::sync_file::*;
use dmabuf::{Buffer, Edu, Heap, SYSTEM, request};

use crate::result::{ProbeResult, ensure, expect_error};

const READ: u32 = 1;
const WRITE: u32 = 2;
/// The number of attempts to see a copy in progress.
const ATTEMPTS: usize = 1000;

fn set_name(buffer: &Buffer, ioctl: Ioctl, name: *const u8) -> io::Result<()> {
    // SAFETY: the kernel only reads at the address, and checks it.
    let result = unsafe { libc::ioctl(buffer.as_fd().as_raw_fd(), ioctl.raw() as _, name) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A name has up to 31 bytes; both numbers of the ioctl set it, but no number of another size.
pub fn names(_: &[String]) -> ProbeResult {
    let buffer = Heap::open(SYSTEM)?.allocate(4096)?;
    let mut text = [b'n'; 33];
    for ioctl in [DMA_BUF_SET_NAME_A, DMA_BUF_SET_NAME_B] {
        for len in [0, 1, 31] {
            text.fill(b'n');
            text[len] = 0;
            set_name(&buffer, ioctl, text.as_ptr())?;
        }
        text.fill(b'n');
        text[32] = 0;
        expect_error("a name of 32 bytes", set_name(&buffer, ioctl, text.as_ptr()), libc::EINVAL)?;
        expect_error("no pointer", set_name(&buffer, ioctl, ptr::null()), libc::EFAULT)?;
    }
    let other_size = Ioctl::from_raw(DMA_BUF_SET_NAME_B.raw() + (8 << 16));
    expect_error("a size of 16 bytes", set_name(&buffer, other_size, text.as_ptr()), libc::ENOTTY)
}

fn export(buffer: &Buffer, flags: u32) -> io::Result<OwnedFd> {
    let mut argument = BufferSyncFile { flags, fd: -1 };
    request(buffer, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &mut argument)?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(argument.fd) })
}

fn import(buffer: &Buffer, flags: u32, file: &impl AsFd) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    request(buffer, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &mut BufferSyncFile { flags, fd })
}

fn merge(first: &OwnedFd, second: &impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let fd2 = second.as_fd().as_raw_fd();
    let mut argument = SyncMerge { name: [0; SYNC_NAME_LEN], fd2, fence: -1, flags: 0, pad: 0 };
    argument.name[..name.len()].copy_from_slice(name);
    request(first, SYNC_IOC_MERGE, &mut argument)?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(argument.fence) })
}

/// Describes the file and its first fence.
fn info(file: &OwnedFd, room: u32) -> io::Result<(SyncFileInfo, SyncFenceInfo)> {
    let mut fence = SyncFenceInfo {
        obj_name: [0; SYNC_NAME_LEN],
        driver_name: [0; SYNC_NAME_LEN],
        status: -1,
        flags: 0,
        timestamp_ns: 0,
    };
    let mut info = SyncFileInfo {
        name: [0; SYNC_NAME_LEN],
        status: -1,
        flags: 0,
        num_fences: room,
        pad: 0,
        sync_fence_info: (&raw mut fence).expose_provenance() as u64,
    };
    request(file, SYNC_IOC_FILE_INFO, &mut info)?;
    Ok((info, fence))
}

fn text(name: &[u8; SYNC_NAME_LEN]) -> String {
    String::from_utf8_lossy(name).trim_end_matches('\0').into()
}

/// Returns the events that are ready.
fn ready(file: &impl AsFd) -> io::Result<i16> {
    let fd = file.as_fd().as_raw_fd();
    let mut wanted = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one valid, exclusively owned entry.
    let count = unsafe { libc::poll(&raw mut wanted, 1, 0) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(wanted.revents) }
}

/// The sync file of a buffer that no device accesses is signalled.
pub fn idle(_: &[String]) -> ProbeResult {
    let buffer = Heap::open(SYSTEM)?.allocate(4096)?;
    ensure(ready(&buffer)? == libc::POLLIN | libc::POLLOUT, || "an idle buffer is not ready".into())?;
    for flags in [0, 4, 5, 8, 1 << 31] {
        expect_error("invalid flags", export(&buffer, flags), libc::EINVAL)?;
    }
    let file = export(&buffer, READ | WRITE)?;
    ensure(ready(&file)? == libc::POLLIN, || "an idle buffer's sync file is not readable".into())?;
    // SAFETY: reads the flags of an open descriptor.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
    ensure(flags == libc::FD_CLOEXEC, || format!("descriptor flags {flags}"))?;
    let (all, _) = info(&file, 0)?;
    ensure((all.status, all.num_fences) == (1, 1), || format!("{all:?}"))?;
    let (_, fence) = info(&file, 1)?;
    let names = (text(&fence.driver_name), text(&fence.obj_name), fence.status);
    ensure(names == ("stub".into(), "stub".into(), 1), || format!("{names:?}"))?;
    let merged = merge(&file, &export(&buffer, WRITE)?, b"both")?;
    let (all, _) = info(&merged, 1)?;
    ensure(text(&all.name) == "both" && all.status == 1, || format!("{all:?}"))?;
    import(&buffer, READ, &merged)?;
    let mut deadline = SyncDeadline { deadline_ns: 1, pad: 0 };
    request(&file, SYNC_IOC_SET_DEADLINE, &mut deadline)?;
    deadline.pad = 1;
    expect_error("padding", request(&file, SYNC_IOC_SET_DEADLINE, &mut deadline), libc::EINVAL)?;
    let other = File::open("/dev/null")?;
    expect_error("a merge with no sync file", merge(&file, &other, b"x"), libc::ENOENT)?;
    expect_error("an import of no sync file", import(&buffer, READ, &other), libc::EINVAL)?;
    expect_error("an import without access", import(&buffer, 0, &file), libc::EINVAL)
}

/// While a device accesses a buffer, conflicting accesses have to wait: `poll` and sync files report it. The
/// buffer to which the sync file is imported has to wait, too.
pub fn pending(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let heap = Heap::open(SYSTEM)?;
    let (buffer, other) = (heap.allocate(4096)?, heap.allocate(4096)?);
    let imported = edu.import(&buffer)?;
    let address = imported.address;
    // A copy takes the edu a tenth of a second; other engines may be too fast to be observed.
    let is_observable = Path::new("/dev/edu0").exists();
    for (writes, others_wait_for) in [(true, READ), (false, WRITE)] {
        let file = std::thread::scope(|scope| {
            let copy =
                scope.spawn(|| if writes { edu.store(address, 4096, 0) } else { edu.load(address, 4096, 0) });
            let mut file = export(&buffer, others_wait_for)?;
            for _ in 0..ATTEMPTS {
                if ready(&file)? == 0 || copy.is_finished() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(50));
                file = export(&buffer, others_wait_for)?;
            }
            if is_observable {
                observe(&buffer, &other, &file, writes)?;
            }
            copy.join().map_err(|_| "a thread panicked")??;
            Ok::<_, crate::result::Failure>(file)
        })?;
        let both = libc::POLLIN | libc::POLLOUT;
        let all = (ready(&buffer)?, ready(&other)?, ready(&file)?);
        ensure(all == (both, both, libc::POLLIN), || format!("after the copy: {all:?}"))?;
        let (_, fence) = info(&file, 1)?;
        ensure(fence.status == 1 && fence.timestamp_ns > 0, || format!("after the copy: {fence:?}"))?;
    }
    Ok(())
}

/// Checks the state during a copy, whose fence is in `file`.
fn observe(buffer: &Buffer, other: &Buffer, file: &OwnedFd, writes: bool) -> ProbeResult {
    let (all, fence) = info(file, 1)?;
    ensure((all.status, all.num_fences, fence.status) == (0, 1, 0), || format!("{all:?} {fence:?}"))?;
    ensure(text(&all.name).starts_with("edu-"), || format!("{all:?}"))?;
    let expected = if writes { 0 } else { libc::POLLIN };
    let seen = ready(buffer)?;
    ensure(seen == expected, || format!("writes: {writes}, poll {seen}"))?;
    // Only a write precedes a read.
    let reader = export(buffer, READ)?;
    ensure((ready(&reader)? == 0) == writes, || format!("writes: {writes}, for a reader {reader:?}"))?;
    let merged = merge(file, &export(other, WRITE)?, b"")?;
    ensure(ready(&merged)? == 0, || "a merged file is signalled before its fence".into())?;
    import(other, if writes { WRITE } else { READ }, &merged)?;
    let seen = ready(other)?;
    ensure(seen == expected, || format!("writes: {writes}, poll {seen} of the other buffer"))
}
