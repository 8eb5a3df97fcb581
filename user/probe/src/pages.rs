//! munmap, mmap, mprotect and mremap of parts of mappings.

use dmabuf::{Heap, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::raw;
use crate::result::{ProbeResult, ensure, expect_error};

const PAGE: usize = 4096;

/// Unmapping the middle leaves both ends unchanged, in anonymous memory and in a buffer.
pub fn unmap_parts(_: &[String]) -> ProbeResult {
    middle(&View::anonymous(64 * PAGE)?)?;
    match Heap::open(SYSTEM) {
        Ok(heap) => middle(&heap.allocate(4 << 20)?.map(Protection::ReadWrite)?),
        Err(error) => {
            println!("  {error}: only anonymous memory tested");
            Ok(())
        }
    }
}

fn middle(view: &View) -> ProbeResult {
    let words = view.words();
    (0..words).for_each(|index| view.set_word(index, !(index as u64)));
    let (from, len) = (view.bytes() / 4 / PAGE * PAGE, view.bytes() / 2 / PAGE * PAGE);
    // SAFETY: only words outside of `from..from + len` are accessed below.
    unsafe { view.unmap_part(from, len)? };
    let rest = (0..from / 8).chain((from + len) / 8..words);
    for index in rest {
        ensure(view.word(index) == !(index as u64), || format!("word {index} is {:#x}", view.word(index)))?;
    }
    map_hole(view, from, len)
}

/// Maps the hole again, at the same address, and checks that it is zero and the word before it unchanged.
fn map_hole(view: &View, from: usize, len: usize) -> ProbeResult {
    fill_hole(view, from, len)?;
    let dirty = (from / 8..(from + len) / 8).find(|&index| view.word(index) != 0);
    ensure(dirty.is_none(), || format!("word {dirty:?} of the new mapping is not zero"))?;
    view.set_word(from / 8, 1);
    ensure(view.word(from / 8 - 1) == !(from as u64 / 8 - 1), || "the neighbour changed".into())
}

/// Maps the hole again, at the same address.
fn fill_hole(view: &View, from: usize, len: usize) -> ProbeResult {
    let (bits, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: exactly the hole made by the caller, without other mappings; unmapped when the view is dropped.
    let at = unsafe { libc::mmap(view.pointer().add(from).cast(), len, bits, flags, -1, 0) };
    ensure(at == view.pointer().wrapping_add(from).cast(), || format!("MAP_FIXED returned {at:p}"))
}

/// The protection of single pages changes, and their content is preserved.
pub fn protect(_: &[String]) -> ProbeResult {
    let view = View::anonymous(16 * PAGE)?;
    (0..view.words()).for_each(|index| view.set_word(index, index as u64));
    for page in [0, 7, 15] {
        view.protect(page * PAGE, PAGE, libc::PROT_READ)?;
        view.protect(page * PAGE, PAGE, libc::PROT_NONE)?;
    }
    for page in [0, 7, 15] {
        view.protect(page * PAGE, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    }
    let wrong = (0..view.words()).find(|&index| view.word(index) != index as u64);
    ensure(wrong.is_none(), || format!("word {wrong:?} changed"))?;
    view.set_word(7 * PAGE / 8, 1);
    Ok(())
}

/// One munmap of a range with several mappings and a hole removes all of them, and only those.
pub fn unmap_range(_: &[String]) -> ProbeResult {
    let view = several_mappings()?;
    let mapped_again = |from: usize, pages: usize| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let bits = libc::PROT_READ | libc::PROT_WRITE;
        let at = view.pointer().wrapping_add(from * PAGE);
        // SAFETY: replaces no mapping; the range is the view's, which unmaps it when dropped.
        let got = unsafe { libc::mmap(at.cast(), pages * PAGE, bits, flags, -1, 0) };
        if got == libc::MAP_FAILED { std::io::Error::last_os_error().raw_os_error() } else { None }
    };
    let unmap = |offset: usize, len: usize| {
        // SAFETY: the words of the range are not accessed before it is mapped again.
        unsafe { libc::munmap(view.pointer().wrapping_add(offset).cast(), len) }
    };
    ensure(unmap(PAGE + 1, PAGE) == -1, || "munmap of an unaligned address".into())?;
    ensure(unmap(PAGE, 0) == -1, || "munmap of 0 bytes".into())?;
    ensure(mapped_again(INNER.start, 1) == Some(libc::EEXIST), || "MAP_FIXED_NOREPLACE replaced".into())?;
    for round in ["munmap", "munmap of nothing"] {
        let status = unmap(INNER.start * PAGE, INNER.len() * PAGE);
        ensure(status == 0, || format!("{round}: {}", std::io::Error::last_os_error()))?;
    }
    let error = mapped_again(INNER.start, INNER.len());
    ensure(error.is_none(), || format!("a mapping is left after munmap: errno {error:?}"))?;
    expect_inner_zero(&view)
}

/// `MADV_DONTNEED` of a range with several mappings discards the anonymous memory of all of them, and only
/// that; the discarded memory reads as zero and is usable.
pub fn discard(_: &[String]) -> ProbeResult {
    let view = several_mappings()?;
    // Without the hole, for which Linux returns an error after the rest is done.
    map_hole(&view, HOLE.start * PAGE, HOLE.len() * PAGE)?;
    let at = view.pointer().wrapping_add(INNER.start * PAGE);
    // SAFETY: volatile accesses only; the content becomes zero.
    let status = unsafe { libc::madvise(at.cast(), INNER.len() * PAGE, libc::MADV_DONTNEED) };
    ensure(status == 0, || format!("MADV_DONTNEED: {}", std::io::Error::last_os_error()))?;
    view.protect(INNER.start * PAGE, INNER.len() * PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    expect_inner_zero(&view)?;
    (0..view.words()).for_each(|index| view.set_word(index, 1));
    ensure((0..view.words()).all(|index| view.word(index) == 1), || "the memory is not usable".into())?;
    match Heap::open(SYSTEM) {
        Ok(heap) => discard_buffer(&heap.allocate(4 * PAGE as u64)?.map(Protection::ReadWrite)?),
        Err(_) => Ok(()),
    }
}

/// A buffer is not discarded, since the mapping does not own its content.
fn discard_buffer(view: &View) -> ProbeResult {
    (0..view.words()).for_each(|index| view.set_word(index, index as u64));
    expect_advice(
        "MADV_DONTNEED of a buffer",
        view.pointer(),
        view.bytes(),
        libc::MADV_DONTNEED,
        libc::EINVAL,
    )?;
    let wrong = (0..view.words()).find(|&index| view.word(index) != index as u64);
    ensure(wrong.is_none(), || format!("word {wrong:?} of a buffer changed"))
}

/// Fails unless `madvise` returns `errno`; 0 is success.
fn expect_advice(case: &str, at: *mut u8, len: usize, advice: i32, errno: i32) -> ProbeResult {
    // SAFETY: volatile accesses only; the content may become zero.
    let status = unsafe { libc::madvise(at.cast(), len, advice) };
    let seen = if status == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) };
    ensure(seen == errno, || format!("{case}: errno {seen}, not {errno}"))
}

/// `madvise` keeps shared memory, reports holes after the rest is done, and rejects unknown advice and
/// populating without permission.
pub fn advice(_: &[String]) -> ProbeResult {
    const LEN: usize = 4 * PAGE;
    let view = View::anonymous(LEN)?;
    let at = view.pointer();
    for unknown in [-1, 5, 99, 1000] {
        expect_advice("unknown advice", at, LEN, unknown, libc::EINVAL)?;
    }
    expect_advice("an unaligned address", at.wrapping_add(1), PAGE, libc::MADV_NORMAL, libc::EINVAL)?;
    expect_advice("no pages", at, 0, libc::MADV_DONTNEED, 0)?;
    for hint in [libc::MADV_NORMAL, libc::MADV_RANDOM, libc::MADV_SEQUENTIAL, libc::MADV_WILLNEED] {
        expect_advice("a hint", at, LEN, hint, 0)?;
    }
    expect_advice("MADV_POPULATE_WRITE", at, LEN, libc::MADV_POPULATE_WRITE, 0)?;
    view.protect(0, PAGE, libc::PROT_READ)?;
    expect_advice("populating for reads", at, LEN, libc::MADV_POPULATE_READ, 0)?;
    expect_advice("populating for writes", at, LEN, libc::MADV_POPULATE_WRITE, libc::EINVAL)?;
    view.protect(0, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    (0..view.words()).for_each(|index| view.set_word(index, 9));
    // SAFETY: the hole is not accessed before it is mapped again.
    unsafe { view.unmap_part(PAGE, PAGE)? };
    expect_advice("a hint for a hole", at, LEN, libc::MADV_RANDOM, libc::ENOMEM)?;
    expect_advice("MADV_DONTNEED across a hole", at, LEN, libc::MADV_DONTNEED, libc::ENOMEM)?;
    ensure((view.word(0), view.word(view.words() - 1)) == (0, 0), || "a mapping was kept".into())?;
    fill_hole(&view, PAGE, PAGE)?;

    // SAFETY: a new mapping.
    let shared = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), LEN, protection, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    };
    ensure(shared != libc::MAP_FAILED, || "no shared memory".into())?;
    let word = shared.cast::<u64>();
    // SAFETY: the start of the mapping.
    unsafe { word.write_volatile(9) };
    expect_advice("MADV_DONTNEED of shared memory", shared.cast(), LEN, libc::MADV_DONTNEED, 0)?;
    // SAFETY: as above.
    let kept = unsafe { word.read_volatile() };
    ensure(kept == 9, || format!("shared memory became {kept}"))?;
    expect_advice("MADV_FREE of shared memory", shared.cast(), LEN, libc::MADV_FREE, libc::EINVAL)?;
    // SAFETY: the mapping is not used any more.
    ensure(unsafe { libc::munmap(shared, LEN) } == 0, || "munmap failed".into())
}

/// `mprotect` of a range with a hole changes the pages before it.
pub fn protect_hole(_: &[String]) -> ProbeResult {
    let view = View::anonymous(2 * PAGE)?;
    // SAFETY: the hole is not accessed before it is mapped again.
    unsafe { view.unmap_part(PAGE, PAGE)? };
    let protected = view.protect(0, 2 * PAGE, libc::PROT_READ);
    expect_error("mprotect across a hole", protected, libc::ENOMEM)?;
    let at = view.pointer().expose_provenance() as u64;
    // SAFETY: the kernel refuses the write.
    let status =
        unsafe { raw::call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as u64, at, 0, 0, 0, 0]) };
    ensure(status == -i64::from(libc::EFAULT), || format!("clock_gettime to that page returned {status}"))?;
    fill_hole(&view, PAGE, PAGE)
}

/// The pages of a view of [`several_mappings`] that a probe unmaps or discards.
const INNER: std::ops::Range<usize> = 2..30;
const READ_ONLY: std::ops::Range<usize> = 4..6;
const HOLE: std::ops::Range<usize> = 8..10;
const NO_ACCESS: std::ops::Range<usize> = 20..22;

/// 32 pages, in which every word is the complement of its index, as six mappings and a hole.
fn several_mappings() -> Result<View, crate::result::Failure> {
    let view = View::anonymous(32 * PAGE)?;
    (0..view.words()).for_each(|index| view.set_word(index, !(index as u64)));
    view.protect(READ_ONLY.start * PAGE, READ_ONLY.len() * PAGE, libc::PROT_READ)?;
    view.protect(NO_ACCESS.start * PAGE, NO_ACCESS.len() * PAGE, libc::PROT_NONE)?;
    // SAFETY: the hole is not accessed before it is mapped again.
    unsafe { view.unmap_part(HOLE.start * PAGE, HOLE.len() * PAGE)? };
    Ok(view)
}

fn expect_inner_zero(view: &View) -> ProbeResult {
    for index in 0..view.words() {
        let expected = if INNER.contains(&(index * 8 / PAGE)) { 0 } else { !(index as u64) };
        let (word, page) = (view.word(index), index * 8 / PAGE);
        ensure(word == expected, || format!("word {index} in page {page} is {word:#x}, not {expected:#x}"))?;
    }
    Ok(())
}

/// mremap grows into the unmapped range above and shrinks, and the content is preserved.
pub fn remap(_: &[String]) -> ProbeResult {
    let view = View::anonymous(8 * PAGE)?;
    view.set_word(0, 1);
    // SAFETY: the upper half is not accessed before it is mapped again.
    unsafe { view.unmap_part(4 * PAGE, 4 * PAGE)? };
    let at = view.pointer().cast();
    // SAFETY: the mapping grows to its previous size.
    let grown = unsafe { libc::mremap(at, 4 * PAGE, 8 * PAGE, 0) };
    ensure(grown.cast_const() == at.cast_const(), || format!("it grew at {grown:p} instead of {at:p}"))?;
    ensure((view.word(0), view.word(view.words() - 1)) == (1, 0), || "wrong content after growing".into())?;
    // SAFETY: expected to fail without effect.
    let huge = unsafe { libc::mremap(at, 8 * PAGE, usize::MAX / 2, 0) };
    ensure(huge == libc::MAP_FAILED, || format!("half the address space at {huge:p}"))?;
    // SAFETY: only the first page is used from now on; the view's drop unmaps the rest.
    let shrunk = unsafe { libc::mremap(at, 8 * PAGE, PAGE, 0) };
    ensure(shrunk.cast_const() == at.cast_const() && view.word(0) == 1, || format!("it shrank at {shrunk:p}"))
}

/// Concurrent mmap and munmap in several threads preserve each thread's mappings.
pub fn concurrent_mmap(_: &[String]) -> ProbeResult {
    let threads: Vec<_> = (0..8u64).map(|number| std::thread::spawn(move || map_and_unmap(number))).collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
}

fn map_and_unmap(number: u64) -> ProbeResult {
    for round in 0..iterations(200) {
        let pages = 1 + (number + round) as usize % 5;
        let view = View::anonymous(pages * PAGE)?;
        let value = number << 32 | round;
        (0..view.words()).step_by(PAGE / 8).for_each(|index| view.set_word(index, value));
        std::thread::yield_now();
        let wrong = (0..view.words()).step_by(PAGE / 8).find(|&index| view.word(index) != value);
        ensure(wrong.is_none(), || format!("round {round}: word {wrong:?} changed"))?;
    }
    Ok(())
}
