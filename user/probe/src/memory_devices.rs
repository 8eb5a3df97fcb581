//! The devices of zeroes and of random bytes, and calls that say that there is nothing: no supplementary
//! groups, no extended attributes.

use crate::raw;
use crate::result::{Failure, ProbeResult, ensure};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

fn open(path: &str) -> Result<File, Failure> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

fn filled(file: &mut File) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0x55; 10_000];
    let len = file.read(&mut bytes)?;
    ensure(len > 0, || "no bytes".into())?;
    bytes.truncate(len);
    Ok(bytes)
}

/// `/dev/zero` reads and maps as zeroes, `/dev/full` is full, and two reads of `/dev/urandom` differ.
pub fn devices(_: &[String]) -> ProbeResult {
    let (mut zero, mut full, mut random) = (open("/dev/zero")?, open("/dev/full")?, open("/dev/urandom")?);
    for file in [&mut zero, &mut full] {
        let bytes = filled(file)?;
        ensure(bytes.len() == 10_000 && bytes.iter().all(|&byte| byte == 0), || "not all zeroes".into())?;
    }
    let (one, other) = (filled(&mut random)?, filled(&mut random)?);
    ensure(one[..32] != other[..32], || "the same random bytes twice".into())?;
    let zeroes = one.windows(8).filter(|bytes| bytes.iter().all(|&byte| byte == 0)).count();
    ensure(zeroes == 0, || "eight zeroes among random bytes".into())?;
    ensure(zero.write(b"discarded").is_ok_and(|len| len == 9), || "a write to /dev/zero".into())?;
    ensure(random.write(b"mixed in").is_ok_and(|len| len == 8), || "a write to /dev/urandom".into())?;
    let error = full.write(b"x").err().map(|error| error.kind());
    ensure(error == Some(ErrorKind::StorageFull), || format!("a write to /dev/full: {error:?}"))?;
    map(&zero, libc::MAP_PRIVATE)?;
    map(&zero, libc::MAP_SHARED)
}

/// Maps a page, which must be zero and writable.
fn map(zero: &File, flags: i32) -> ProbeResult {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, zero.as_raw_fd(), 0) };
    ensure(at != libc::MAP_FAILED, || format!("mmap of /dev/zero with flags {flags}"))?;
    // SAFETY: mapped above, and unmapped below.
    let page = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), 4096) };
    ensure(page.iter().all(|&byte| byte == 0), || "the page is not zero".into())?;
    page.fill(7);
    // SAFETY: `page` is not used any more.
    unsafe { libc::munmap(at, 4096) };
    Ok(())
}

/// A process is in no supplementary group, and files have no extended attributes.
pub fn nothing(_: &[String]) -> ProbeResult {
    let root = c"/dev/null".as_ptr().expose_provenance() as u64;
    let missing = c"/nonexistent".as_ptr().expose_provenance() as u64;
    let name = c"user.none".as_ptr().expose_provenance() as u64;
    let mut room = [0u8; 64];
    let to = room.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the addresses are those of live strings, and of `room`.
    let call = |number, arguments| unsafe { raw::call(number, arguments) };
    let groups = call(libc::SYS_getgroups, [u64::from(u32::MAX), to, 0, 0, 0, 0]);
    ensure(groups == -i64::from(libc::EINVAL), || format!("getgroups of -1: {groups}"))?;
    for get in [libc::SYS_getxattr, libc::SYS_lgetxattr] {
        let found = [root, missing].map(|path| call(get, [path, name, to, 64, 0, 0]));
        let is_absent = [libc::EOPNOTSUPP, libc::ENODATA].map(i64::from).contains(&-found[0]);
        ensure(is_absent && found[1] == -i64::from(libc::ENOENT), || format!("call {get}: {found:?}"))?;
    }
    let file = open("/dev/null")?;
    let list = call(libc::SYS_flistxattr, [file.as_raw_fd() as u64, to, 64, 0, 0, 0]);
    ensure(list == 0, || format!("flistxattr: {list}"))?;
    let list = call(libc::SYS_listxattr, [missing, to, 64, 0, 0, 0]);
    ensure(list == -i64::from(libc::ENOENT), || format!("listxattr: {list}"))
}
