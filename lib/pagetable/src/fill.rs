//! Writing leaves into one table: the inner loops of mapping.
//!
//! What a leaf costs is here: two passes over the slots of a run (all free? then write), one over scattered pages.

use crate::descriptor::Descriptor;
use crate::geometry::{LAST_LEVEL, index, size};
use crate::steps::{LeafStep, RunCursor};
use crate::table::{load, store};
use addr::{FrameRun, PhysAddr};
use core::sync::atomic::AtomicU64;

/// What went into one table.
pub(crate) struct Filled {
    /// The slots from `first` up to, not including, `end` were written.
    pub first: usize,
    pub end: usize,
    /// The slot that was not free where a leaf had to go.
    pub occupied: Option<usize>,
}

/// A slot that is not free, and how many before it were written.
struct Occupied {
    written: usize,
    slot: usize,
}

/// Writes leaves into one table until it or the list is at its end, another level's turn comes, or a slot is taken.
#[inline(always)] // A call would cost as much as the page that is most often mapped.
pub(crate) fn fill<I: Iterator<Item: FrameRun>>(
    entries: &[AtomicU64],
    mut step: LeafStep,
    cursor: &mut RunCursor<I>,
    attributes: u64,
) -> Filled {
    let level = step.level;
    let first = index(cursor.at, level);
    let mut end = first;
    loop {
        let filled = if cursor.needs_pages() {
            fill_pages(&entries[end..], cursor, attributes)
        } else {
            fill_step(&entries[end..], cursor, step, attributes)
        };
        match filled {
            Ok(count) => end += count,
            Err(Occupied { written, slot }) => {
                return Filled { first, end: end + written, occupied: Some(end + slot) };
            }
        }
        if cursor.left() == 0 || end == entries.len() {
            break;
        }
        step = cursor.step();
        if step.level != level {
            break;
        }
    }
    Filled { first, end, occupied: None }
}

/// Writes the leaves of one step, as far as there are slots for them, or none of them.
#[inline]
fn fill_step<I: Iterator<Item: FrameRun>>(
    slots: &[AtomicU64],
    cursor: &mut RunCursor<I>,
    step: LeafStep,
    attributes: u64,
) -> Result<usize, Occupied> {
    let count = (step.leaves as usize).min(slots.len());
    if let Some(slot) = slots[..count].iter().position(|slot| load(slot).is_valid()) {
        return Err(Occupied { written: 0, slot });
    }
    let mut leaf = Descriptor::leaf(PhysAddr::new(cursor.to), step.level, attributes);
    if step.contiguous {
        leaf = leaf.contiguous();
    }
    let size = size(step.level);
    for slot in &slots[..count] {
        store(slot, leaf);
        leaf = leaf.advanced(size);
    }
    cursor.advance(count as u64 * size);
    Ok(count)
}

/// Writes page after page while runs are short: all that a fragmented buffer takes.
#[inline]
fn fill_pages<I: Iterator<Item: FrameRun>>(
    slots: &[AtomicU64],
    cursor: &mut RunCursor<I>,
    attributes: u64,
) -> Result<usize, Occupied> {
    let page = Descriptor::leaf(PhysAddr::new(0), LAST_LEVEL, attributes);
    let (count, occupied) = cursor.write_pages(slots, page);
    if occupied { Err(Occupied { written: count, slot: count }) } else { Ok(count) }
}
