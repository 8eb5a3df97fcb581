//! The initramfs file system.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use crate::result::{ProbeResult, ensure, expect_error};

fn this_program() -> std::io::Result<String> {
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
    expect_error("a file as a directory", File::open(format!("{path}/x")), libc::ENOTDIR)
}

/// The initramfs is read-only.
pub fn read_only(_: &[String]) -> ProbeResult {
    expect_error("writing to a program", OpenOptions::new().write(true).open(this_program()?), libc::EROFS)?;
    expect_error("a new file", File::create("/bin/new"), libc::EROFS)
}

/// Duplicated descriptors share a file offset; closed descriptor numbers are reused.
pub fn descriptors(_: &[String]) -> ProbeResult {
    let mut first = File::open(this_program()?)?;
    let mut second = first.try_clone()?;
    second.seek(SeekFrom::Start(100))?;
    let at = first.stream_position()?;
    ensure(at == 100, || format!("the duplicate moved to 100, this one to {at}"))?;
    let number = |file: &File| std::os::fd::AsRawFd::as_raw_fd(&file.as_fd());
    let freed = number(&second);
    drop(second);
    let third = File::open(this_program()?)?;
    ensure(number(&third) <= freed, || format!("{freed} is free, but {} was returned", number(&third)))?;
    expect_error("writing to a file open for reading", first.write(b"x"), libc::EBADF)
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
