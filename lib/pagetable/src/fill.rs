//! Writing leaves into one table: the inner loops of mapping.
//!
//! Large runs take two passes over their slots (check that all are free, then write), scattered pages take
//! one.

use crate::descriptor::Descriptor;
use crate::geometry::{LAST_LEVEL, index, size};
use crate::steps::{LeafStep, RunCursor};
use crate::table::{load, write_leaves};
use addr::{FrameRun, PhysAddr};
use core::sync::atomic::AtomicU64;

/// The slots of one table that were written.
pub(crate) struct Filled {
    /// The first slot written.
    pub first: usize,
    /// The slot after the last one written.
    pub end: usize,
    /// The slot that is not free, if that ended the loop.
    pub occupied: Option<usize>,
}

/// A slot that is not free, and the number of slots written before it.
struct Occupied {
    written: usize,
    slot: usize,
}

/// Writes leaves into one table until the table or the list ends, the next leaf is of another level, or a
/// slot is not free.
#[inline(always)] // The call would cost as much as mapping one page, the most common case.
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

/// Writes the leaves of one step up to the end of the table. If one of their slots is not free, writes none.
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
    write_leaves(&slots[..count], leaf, size);
    cursor.advance(count as u64 * size);
    Ok(count)
}

/// Writes single pages while runs are short, the fast path of fragmented buffers: saves the choice of a level
/// and of the contiguous hint for each page.
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
