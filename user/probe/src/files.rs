//! Files: the initramfs, devices and dma-bufs.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use dmabuf::{Heap, SYSTEM};

use crate::result::{ProbeResult, ensure, expect_error};
use crate::{epolls, raw};

pub fn this_program() -> std::io::Result<String> {
    Ok(std::env::current_exe().map_or_else(|_| "/bin/probe".into(), |path| path.display().to_string()))
}

/// The program's own file is found, listed, and readable at any offset.
pub fn tree(_: &[String]) -> ProbeResult {
    let path = this_program()?;
    let mut file = File::open(&path)?;
    let mut head = [0; 4];
    file.read_exact(&mut head)?;
    ensure(&head == b"\x7fELF", || format!("{path} starts with {head:x?}"))?;
    let size = file.metadata()?.len();
    let end = file.seek(SeekFrom::End(0))?;
    ensure(size == end && size > 4096, || format!("size {size}, end {end}"))?;
    ensure(file.read(&mut head)? == 0, || "read past the end of the file".into())?;
    file.seek(SeekFrom::Start(1))?;
    file.read_exact(&mut head[..3])?;
    ensure(&head[..3] == b"ELF", || format!("at 1: {head:x?}"))?;
    let (directory, name) = path.rsplit_once('/').ok_or("the path has no directory")?;
    let names: Vec<_> = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    ensure(names.iter().any(|entry| entry == name), || format!("{directory} lists {names:?}"))?;
    expect_error("a missing file", File::open("/no/such/file"), libc::ENOENT)?;
    expect_error("an existing file as a new one", File::create_new(&path), libc::EEXIST)?;
    expect_error("a file as a directory", File::open(format!("{path}/x")), libc::ENOTDIR)
}

/// The initramfs is read-only.
pub fn read_only(_: &[String]) -> ProbeResult {
    expect_error("writing to a program", OpenOptions::new().write(true).open(this_program()?), libc::EROFS)?;
    expect_error("a new file", File::create("/bin/new"), libc::EROFS)?;
    let writable = |path: &CStr| {
        // SAFETY: reads the path only.
        let result = unsafe { libc::access(path.as_ptr(), libc::W_OK) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    expect_error("write access to a program", writable(c"/bin/probe"), libc::EROFS)?;
    Ok(writable(c"/dev/null")?)
}

/// Duplicated descriptors share a file offset and have at least the requested number; closed descriptor
/// numbers are reused.
pub fn descriptors(_: &[String]) -> ProbeResult {
    let mut first = File::open(this_program()?)?;
    let mut second = first.try_clone()?;
    second.seek(SeekFrom::Start(100))?;
    let at = first.stream_position()?;
    ensure(at == 100, || format!("the duplicate moved to 100, this one to {at}"))?;
    let number = |file: &File| std::os::fd::AsRawFd::as_raw_fd(&file.as_fd());
    // SAFETY: no pointers.
    let high =
        unsafe { raw::call(libc::SYS_fcntl, [number(&first) as u64, libc::F_DUPFD as u64, 100, 0, 0, 0]) };
    let high = epolls::owned(high)?;
    ensure(high.as_raw_fd() >= 100, || format!("descriptor {high:?} instead of one from 100 on"))?;
    let freed = number(&second);
    drop(second);
    let third = File::open(this_program()?)?;
    ensure(number(&third) <= freed, || format!("{freed} is free, but {} was returned", number(&third)))?;
    expect_error("writing to a file open for reading", first.write(b"x"), libc::EBADF)
}

/// A path and the descriptor opened by it have the same attributes.
pub fn attributes(_: &[String]) -> ProbeResult {
    let ours = this_program()?;
    for path in ["/", "/dev/null", "/dev/console", "/dev/dma_heap/system", "/dev/edu0", &ours] {
        // A machine may lack the device, and a user of the build host may not open it.
        let Ok(file) = File::open(path) else { continue };
        let identity = |found: &fs::Metadata| (found.dev(), found.ino(), found.mode(), found.rdev());
        let (by_path, by_descriptor) = (identity(&fs::metadata(path)?), identity(&file.metadata()?));
        ensure(by_path == by_descriptor, || format!("{path}: {by_path:?}, open {by_descriptor:?}"))?;
    }
    Ok(())
}

/// Buffers have inode numbers of their own, and a duplicated descriptor that of its buffer.
pub fn buffer_attributes(_: &[String]) -> ProbeResult {
    let heap = Heap::open(SYSTEM)?;
    let file = || Ok::<_, io::Error>(File::from(heap.allocate(8192)?.as_fd().try_clone_to_owned()?));
    let (first, second) = (file()?, file()?);
    let inode = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
    let inodes = [inode(&first)?, inode(&first.try_clone()?)?, inode(&second)?];
    ensure(inodes[0] == inodes[1] && inodes[0] != inodes[2], || format!("inodes {inodes:?}"))?;
    let blocks = first.metadata()?.blocks();
    ensure(blocks == 16, || format!("{blocks} blocks"))
}

/// The heap finds the ioctl by its number, and copies the shorter of the two structures.
pub fn heap_ioctl_sizes(_: &[String]) -> ProbeResult {
    let heap = File::open(SYSTEM)?;
    let ioctl =
        |direction: u64, size: u64, number: u64| direction << 30 | size << 16 | u64::from(b'H') << 8 | number;
    let allocate = |request: u64, len: u64| {
        // Length, descriptor and flags, heap flags, and two words that a later structure may add.
        let mut argument = [len, (libc::O_RDWR as u64) << 32, 0, 7, 7];
        // SAFETY: the argument is longer than any of the sizes below.
        let result = unsafe { libc::ioctl(heap.as_raw_fd(), request as _, argument.as_mut_ptr()) };
        let descriptor = argument[1] as i32;
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and owned by nothing else.
        Ok((descriptor > 2).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) }))
    };
    for size in [16, 24, 40] {
        let buffer = allocate(ioctl(3, size, 0), 4096)?;
        ensure(buffer.is_some(), || format!("{size} bytes: no descriptor"))?;
    }
    expect_error("an unknown number", allocate(ioctl(0, 0, 1), 4096), libc::EINVAL)?;
    expect_error("no input", allocate(ioctl(2, 24, 0), 4096), libc::EINVAL)?;
    expect_error("a length that rounds up to 0", allocate(ioctl(3, 24, 0), u64::MAX), libc::EINVAL)
}

/// `checksum FILE SUM`: the file has this checksum half a second after start. DMA left running by the
/// previous boot stage would have modified it by then.
pub fn checksum(arguments: &[String]) -> ProbeResult {
    let [file, expected] = arguments else { return Err("usage: checksum FILE SUM".into()) };
    std::thread::sleep(std::time::Duration::from_millis(500));
    let bytes = std::fs::read(file)?;
    let sum = bytes.iter().fold(0, |sum: u64, byte| sum.rotate_left(5) ^ u64::from(*byte));
    ensure(sum.to_string() == *expected, || format!("{file}: {sum} instead of {expected}"))
}
