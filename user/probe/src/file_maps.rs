//! Mappings of files, and mappings that `mremap` moves.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;

use crate::raw;
use crate::result::{ProbeResult, ensure};

const PAGE: usize = 4096;

/// A mapping, or the error of `mmap` or `mremap`.
type Mapped = std::io::Result<*mut u8>;

fn mapped(at: *mut c_void) -> Mapped {
    if at == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(at.cast()) }
}

fn map_file(file: &File, (offset, len): (usize, usize), prot: i32, flags: i32) -> Mapped {
    // SAFETY: a new mapping.
    mapped(unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, file.as_raw_fd(), offset as libc::off_t) })
}

fn map_anonymous(at: *mut u8, len: usize, prot: i32, flags: i32) -> Mapped {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, or, with MAP_FIXED, one that replaces a mapping of the caller.
    mapped(unsafe { libc::mmap(at.cast(), len, prot, flags, -1, 0) })
}

fn remap(at: *mut u8, old: usize, new: usize, flags: i32, target: *mut u8) -> Mapped {
    // SAFETY: the caller uses the result instead of `at`.
    mapped(unsafe { libc::mremap(at.cast(), old, new, flags, target) })
}

/// Whether the kernel can write to the page at `at`.
fn is_writable(at: *mut u8) -> bool {
    // SAFETY: writes a byte there, or returns EFAULT.
    unsafe { raw::call(libc::SYS_getrandom, [at.expose_provenance() as u64, 1, 0, 0, 0, 0]) == 1 }
}

/// The pages at `at` as a slice.
///
/// # Safety
/// They are mapped readable, and do not change while the slice is used.
unsafe fn pages<'a>(at: *mut u8, len: usize) -> &'a [u8] {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(at, len) }
}

/// The program's own file.
fn own_file() -> std::io::Result<File> {
    File::open(std::env::args_os().next().unwrap_or_default())
}

fn expect(call: &str, result: Mapped, expected: i32) -> ProbeResult {
    let error = result.as_ref().err().and_then(std::io::Error::raw_os_error);
    ensure(error == Some(expected), || format!("{call} returned {result:?}, not error {expected}"))
}

/// A private mapping has the bytes of the file, and writes to it stay in the process.
pub fn private(_: &[String]) -> ProbeResult {
    const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    let file = own_file()?;
    let mut content = vec![0; 3 * PAGE];
    file.read_exact_at(&mut content, PAGE as u64)?;
    let map = |prot, flags| map_file(&file, (PAGE, 3 * PAGE), prot, flags);
    let view = map(READ_WRITE, libc::MAP_PRIVATE)?;
    // SAFETY: the new mapping; it is not written while the slice exists.
    let has_content = || unsafe { pages(view, 3 * PAGE) } == content;
    ensure(has_content(), || "the mapping differs from the file".into())?;
    // SAFETY: inside the mapping.
    unsafe { view.add(PAGE).write(!content[PAGE]) };
    let mut again = vec![0; 3 * PAGE];
    file.read_exact_at(&mut again, PAGE as u64)?;
    ensure(again == content && !has_content(), || "the write changed the file, or not the mapping".into())?;
    // SAFETY: discards the written page.
    unsafe { libc::madvise(view.cast(), 3 * PAGE, libc::MADV_DONTNEED) };
    ensure(has_content(), || "after MADV_DONTNEED the mapping differs from the file".into())?;

    let shared = map(libc::PROT_READ, libc::MAP_SHARED)?;
    // SAFETY: the new mapping, which nothing writes.
    ensure(unsafe { pages(shared, 3 * PAGE) } == content, || "the shared mapping differs".into())?;
    // SAFETY: the mapping is not used afterwards.
    let protect = unsafe { libc::mprotect(shared.cast(), PAGE, READ_WRITE) };
    let error = std::io::Error::last_os_error().raw_os_error();
    ensure((protect, error) == (-1, Some(libc::EACCES)), || format!("mprotect returned {protect}"))?;
    expect("a writable shared mapping", map(READ_WRITE, libc::MAP_SHARED), libc::EACCES)?;
    expect("length 0", map_file(&file, (0, 0), READ_WRITE, libc::MAP_PRIVATE), libc::EINVAL)?;
    expect("offset 1", map_file(&file, (1, PAGE), READ_WRITE, libc::MAP_PRIVATE), libc::EINVAL)?;
    let anonymous = |prot: u64, offset: u64| {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        // SAFETY: a new mapping.
        unsafe { raw::call(libc::SYS_mmap, [0, PAGE as u64, prot, flags, u64::MAX, offset]) }
    };
    let odd = anonymous(3, 1);
    ensure(odd == -i64::from(libc::EINVAL), || format!("anonymous memory at offset 1: {odd}"))?;
    // 0x10 is PROT_BTI on Arm; mmap ignores bits that are not defined.
    let unknown = anonymous(5 | 0x10, 0);
    ensure(unknown > 0, || format!("with an undefined protection bit: {unknown}"))
}

/// Behind the last byte of the file, a mapping is zero up to the end of the page, and inaccessible above it.
pub fn end_of_file(_: &[String]) -> ProbeResult {
    let file = own_file()?;
    let len = file.metadata()?.len() as usize;
    let (last, rest) = (len & !(PAGE - 1), len % PAGE);
    ensure(rest != 0, || "the file ends at a page border".into())?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let view = map_file(&file, (last, 4 * PAGE), prot, libc::MAP_PRIVATE)?;
    // SAFETY: the first page of the new mapping.
    let tail = unsafe { pages(view, PAGE) };
    let mut content = vec![0; rest];
    file.read_exact_at(&mut content, last as u64)?;
    ensure(tail[..rest] == content && tail[rest..].iter().all(|&byte| byte == 0), || {
        "the last page differs from the file, or is not zero behind it".into()
    })?;
    ensure(is_writable(view) && !is_writable(view.wrapping_add(PAGE)), || {
        "the page above the end of the file is accessible".into()
    })
}

/// Reads above the end of a mapped file: SIGBUS.
pub fn beyond_file(_: &[String]) -> ProbeResult {
    let file = own_file()?;
    let at = file.metadata()?.len() as usize & !(PAGE - 1);
    let view = map_file(&file, (at, 2 * PAGE), libc::PROT_READ, libc::MAP_PRIVATE)?;
    // SAFETY: inside the mapping; raises SIGBUS.
    let byte = unsafe { view.add(PAGE).read_volatile() };
    ensure(false, || format!("read {byte} above the end of the file"))
}

/// `mremap` moves a mapping that cannot grow in place, with its content, and replaces mappings at a fixed
/// address.
pub fn moves(_: &[String]) -> ProbeResult {
    const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const MOVES: i32 = libc::MREMAP_MAYMOVE;
    const FIXED: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // Sparse: its first, a middle and its last page are written.
    const LEN: usize = 64 << 20;
    const WRITTEN: [usize; 3] = [0, LEN / 2 + 5 * PAGE, LEN - PAGE];
    let base = map_anonymous(ptr::null_mut(), LEN + PAGE, READ_WRITE, libc::MAP_NORESERVE)?;
    let guard = map_anonymous(base.wrapping_add(LEN), PAGE, libc::PROT_NONE, libc::MAP_FIXED);
    guard?;
    for offset in WRITTEN {
        // SAFETY: inside the mapping.
        unsafe { base.add(offset).write_volatile((offset / PAGE) as u8 | 1) };
    }
    let is_moved = |at: *mut u8| {
        // SAFETY: inside the moved mapping.
        WRITTEN.iter().all(|&offset| unsafe { at.add(offset).read_volatile() } == (offset / PAGE) as u8 | 1)
    };
    expect("without MREMAP_MAYMOVE", remap(base, LEN, 2 * LEN, 0, ptr::null_mut()), libc::ENOMEM)?;
    let moved = remap(base, LEN, 2 * LEN, MOVES, ptr::null_mut())?;
    ensure(moved != base && is_moved(moved), || "the content was not moved".into())?;
    ensure(!is_writable(base) && is_writable(moved.wrapping_add(2 * LEN - PAGE)), || {
        "the old range is mapped, or the new one is not".into()
    })?;

    // A part of it, onto another mapping.
    let target = map_anonymous(ptr::null_mut(), 4 * PAGE, READ_WRITE, 0)?;
    // SAFETY: a new mapping.
    unsafe { target.write_volatile(77) };
    let source = moved.wrapping_add(LEN / 2 + 4 * PAGE);
    let part = remap(source, 2 * PAGE, 3 * PAGE, FIXED, target)?;
    // SAFETY: the first pages of the target.
    let bytes = unsafe { [part.read_volatile(), part.add(PAGE).read_volatile()] };
    let expected = [0, (WRITTEN[1] / PAGE) as u8 | 1];
    ensure((part, bytes) == (target, expected), || format!("{bytes:?} at {part:p}, not {target:p}"))?;
    ensure(!is_writable(source.wrapping_add(PAGE)), || "the moved part is still mapped".into())?;
    ensure(is_writable(source.wrapping_add(2 * PAGE)), || "more than the part was moved".into())?;

    expect(
        "overlapping ranges",
        remap(target, 2 * PAGE, 2 * PAGE, FIXED, target.wrapping_add(PAGE)),
        libc::EINVAL,
    )?;
    expect("an unaligned target", remap(target, PAGE, PAGE, FIXED, moved.wrapping_add(1)), libc::EINVAL)?;
    expect("MREMAP_FIXED alone", remap(target, PAGE, PAGE, libc::MREMAP_FIXED, moved), libc::EINVAL)?;
    expect("a hole", remap(source, 2 * PAGE, 2 * PAGE, 0, ptr::null_mut()), libc::EFAULT)
}
