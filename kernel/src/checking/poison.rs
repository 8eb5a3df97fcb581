//! Poison: a frame that is given back is filled with a pattern, and whoever gets it next looks whether all of it is
//! still there. What is not was written after the frame was free, by a CPU or by a device.
//!
//! Frames that have never been given back are not filled.

use super::Last;
use crate::kprintln;
use crate::memory::{kmap, layout};
use crate::sync::SpinLock;
use addr::{AddrRange, Chunk, KernelVa, PAGE_SIZE, PhysAddr};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use spin::Once;

/// What free memory holds.
const PATTERN: u64 = 0x5aa5_f00d_5aa5_f00d;

/// Who had each frame of a part of RAM last, if it is filled; 0 if not.
struct Records {
    range: AddrRange<PhysAddr>,
    last: Box<[AtomicU8]>,
}

static RECORDS: Once<Vec<Records>> = Once::new();
/// The first since somebody asked.
static FOUND: SpinLock<Option<Written>> = SpinLock::new(None);

/// A free frame that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The frame.
    pub frame: PhysAddr,
    /// The first byte that is different.
    pub offset: u64,
    /// Bytes from there to the last that is different.
    pub bytes: u64,
    /// Who gave it back.
    pub last: Last,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, offset, bytes, last } = self;
        write!(
            f,
            "poison: {bytes} bytes at offset {offset} of {frame} were written after {last} had given it back"
        )
    }
}

/// From now on frames are filled. All CPUs have their windows.
pub fn start() {
    let layout = layout();
    let records = |range: &AddrRange<PhysAddr>| Records {
        range: *range,
        last: (0..range.len() / PAGE_SIZE).map(|_| AtomicU8::new(0)).collect(),
    };
    RECORDS.call_once(|| layout.low_free.iter().chain(&layout.high_free).map(records).collect());
}

/// The first finding since the last call.
pub fn take_finding() -> Option<Written> {
    FOUND.lock().take()
}

/// Fills what is about to be free. No lock is held.
pub(super) fn given(chunk: Chunk, last: Last) {
    let Some(records) = records_of(chunk) else { return };
    if last == Last::Untouched {
        return;
    }
    kmap::with_write_back(chunk, |window| {
        words(window).iter_mut().for_each(|word| *word = PATTERN);
    });
    records.iter().for_each(|record| record.store(last as u8, Relaxed));
}

/// Looks at what was free a moment ago. No lock is held.
pub(super) fn taken(chunk: Chunk) {
    let Some(records) = records_of(chunk) else { return };
    if records.iter().all(|record| record.load(Relaxed) == 0) {
        return;
    }
    let mut frame = 0;
    kmap::with_write_back(chunk, |window| {
        for page in words(window).chunks((PAGE_SIZE / 8) as usize) {
            if let Some(last) = Last::from_number(records[frame].swap(0, Relaxed)) {
                look(chunk.start() + frame as u64 * PAGE_SIZE, page, last);
            }
            frame += 1;
        }
    });
}

fn look(frame: PhysAddr, page: &[u64], last: Last) {
    let byte = |at: usize| page[at / 8].to_ne_bytes()[at % 8] != PATTERN.to_ne_bytes()[at % 8];
    let Some(first) = page.iter().position(|&word| word != PATTERN) else { return };
    let mut different = (first * 8..PAGE_SIZE as usize).filter(|&at| byte(at));
    let Some(offset) = different.next() else { return };
    let end = different.next_back().unwrap_or(offset) + 1;
    report(Written { frame, offset: offset as u64, bytes: (end - offset) as u64, last });
}

fn report(written: Written) {
    kprintln!("{written}");
    FOUND.lock().get_or_insert(written);
}

/// The records of a chunk, one a frame; `None` before the start, and for what was never free.
fn records_of(chunk: Chunk) -> Option<&'static [AtomicU8]> {
    let records = RECORDS.get()?.iter().find(|records| records.range.covers(&chunk.range()))?;
    let first = ((chunk.start().raw() - records.range.start().raw()) / PAGE_SIZE) as usize;
    records.last.get(first..first + chunk.frames() as usize)
}

fn words(window: AddrRange<KernelVa>) -> &'static mut [u64] {
    let start = arch::pointer::to::<u64>(window.start());
    // SAFETY: a window that is mapped and writable until the closure that uses this returns, on whole frames that belong
    // to the caller alone; any bytes are words.
    unsafe { core::slice::from_raw_parts_mut(start, (window.len() / 8) as usize) }
}
