//! munmap, mmap, mprotect and mremap of parts of mappings.

use dmabuf::{Heap, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure};

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

/// Maps the hole again, at the same address, and checks that it is zero.
fn map_hole(view: &View, from: usize, len: usize) -> ProbeResult {
    let (bits, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: exactly the hole made by the caller, without other mappings; unmapped when the view is dropped.
    let at = unsafe { libc::mmap(view.pointer().add(from).cast(), len, bits, flags, -1, 0) };
    ensure(at == view.pointer().wrapping_add(from).cast(), || format!("MAP_FIXED returned {at:p}"))?;
    let dirty = (from / 8..(from + len) / 8).find(|&index| view.word(index) != 0);
    ensure(dirty.is_none(), || format!("word {dirty:?} of the new mapping is not zero"))?;
    view.set_word(from / 8, 1);
    ensure(view.word(from / 8 - 1) == !(from as u64 / 8 - 1), || "the neighbour changed".into())
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
