//! Parts of mappings: taken out, filled again, protected.

use dmabuf::{Heap, Protection, SYSTEM, View};

use crate::outcome::{Outcome, ensure};

const PAGE: usize = 4096;

/// Unmapping the middle leaves both ends as they were, in fresh memory and in a buffer.
pub fn unmap_parts(_: &[String]) -> Outcome {
    middle(&View::anonymous(64 * PAGE)?)?;
    match Heap::open(SYSTEM) {
        Ok(heap) => middle(&heap.allocate(4 << 20)?.map(Protection::ReadWrite)?),
        Err(error) => {
            println!("  {error}: only fresh memory was tried");
            Ok(())
        }
    }
}

fn middle(view: &View) -> Outcome {
    let words = view.words();
    (0..words).for_each(|index| view.set_word(index, !(index as u64)));
    let (from, len) = (view.bytes() / 4 / PAGE * PAGE, view.bytes() / 2 / PAGE * PAGE);
    // SAFETY: only words before `from` and behind `from + len` are looked at below.
    unsafe { view.unmap_part(from, len)? };
    let rest = (0..from / 8).chain((from + len) / 8..words);
    for index in rest {
        ensure(view.word(index) == !(index as u64), || format!("word {index} is {:#x}", view.word(index)))?;
    }
    again(view, from, len)
}

/// The hole can be mapped again where it was, and is zero.
fn again(view: &View, from: usize, len: usize) -> Outcome {
    let (bits, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: exactly the hole that the caller made; nothing else is there, and the view's drop unmaps it.
    let at = unsafe { libc::mmap(view.pointer().add(from).cast(), len, bits, flags, -1, 0) };
    ensure(at == view.pointer().wrapping_add(from).cast(), || {
        format!("asked for a fixed place, got {at:p}")
    })?;
    let dirty = (from / 8..(from + len) / 8).find(|&index| view.word(index) != 0);
    ensure(dirty.is_none(), || format!("word {dirty:?} of the new mapping is not zero"))?;
    view.set_word(from / 8, 1);
    ensure(view.word(from / 8 - 1) == !(from as u64 / 8 - 1), || "the neighbour changed".into())
}

/// Protection of single pages changes back and forth, and what they hold stays.
pub fn protect(_: &[String]) -> Outcome {
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
