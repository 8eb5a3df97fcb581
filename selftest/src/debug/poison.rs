//! Frame poison: a freed frame is filled with a pattern, and the next allocation checks that all of it is
//! unchanged. A changed byte was written after the frame was freed, by a CPU or by a device.
//!
//! A frame that has never been freed is not poisoned.

use addr::{AddrRange, Chunk, KernelVa, PAGE_SIZE, PhysAddr};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use kernel::debug::LastOwner;
use kernel::kprintln;
use kernel::memory::{layout, window};
use kernel::sync::SpinLock;
use spin::Once;

/// The content of a free frame.
const PATTERN: u64 = 0x5aa5_f00d_5aa5_f00d;

/// The last owner of each frame of a range of RAM; 0 while the frame is not poisoned.
struct Records {
    range: AddrRange<PhysAddr>,
    owners: Box<[AtomicU8]>,
}

static RECORDS: Once<Vec<Records>> = Once::new();
/// The first finding since [`take_finding`].
static FOUND: SpinLock<Option<WriteAfterFree>> = SpinLock::new(None);

/// A write to a free frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteAfterFree {
    pub frame: PhysAddr,
    /// The first changed byte.
    pub offset: u64,
    /// Bytes from the first to the last changed one.
    pub bytes: u64,
    pub owner: LastOwner,
}

impl fmt::Display for WriteAfterFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, offset, bytes, owner } = self;
        let owner = owner_name(*owner);
        write!(
            f,
            "poison: {bytes} bytes at offset {offset} of {frame} written after free, last owner: {owner}"
        )
    }
}

fn owner_name(owner: LastOwner) -> &'static str {
    match owner {
        LastOwner::Unknown | LastOwner::Untouched => "unknown",
        LastOwner::Buffer => "DMA buffer",
        LastOwner::Stream => "streaming mapping",
        LastOwner::Process => "process",
        LastOwner::PageTable => "page table",
        LastOwner::KernelStack => "kernel stack",
        LastOwner::Iommu => "IOMMU",
    }
}

fn owner_from(number: u8) -> Option<LastOwner> {
    use LastOwner::*;
    let all = [Unknown, Buffer, Stream, Process, PageTable, KernelStack, Iommu, Untouched];
    all.into_iter().find(|owner| *owner as u8 == number)
}

/// Starts to poison freed frames. The windows of all CPUs must exist.
pub fn start() {
    let layout = layout();
    let records = |range: &AddrRange<PhysAddr>| Records {
        range: *range,
        owners: (0..range.len() / PAGE_SIZE).map(|_| AtomicU8::new(0)).collect(),
    };
    RECORDS.call_once(|| layout.low_free.iter().chain(&layout.high_free).map(records).collect());
}

/// Returns the first finding since the last call.
pub fn take_finding() -> Option<WriteAfterFree> {
    FOUND.lock().take()
}

/// Poisons `chunk`, which `owner` is about to free. No lock is held.
pub(super) fn fill(chunk: Chunk, owner: LastOwner) {
    let Some(records) = records_of(chunk) else { return };
    if owner == LastOwner::Untouched {
        return;
    }
    // SAFETY: the window is mapped and writable until the closure returns; the chunk has no other user.
    let poison = |window| unsafe { words(window) }.iter_mut().for_each(|word| *word = PATTERN);
    // SAFETY: the chunk is about to be freed, and its owner no longer uses it; free frames are
    // write-back memory.
    unsafe { window::with_write_back(chunk, poison) };
    records.iter().for_each(|record| record.store(owner as u8, Relaxed));
}

/// Checks the poison of `chunk`, which was free until now. No lock is held.
pub(super) fn check(chunk: Chunk) {
    let Some(records) = records_of(chunk) else { return };
    if records.iter().all(|record| record.load(Relaxed) == 0) {
        return;
    }
    let mut frame = 0;
    let check_pages = |window| {
        // SAFETY: the window is mapped and writable until the closure returns; the chunk has no other user.
        for page in unsafe { words(window) }.chunks((PAGE_SIZE / 8) as usize) {
            if let Some(owner) = owner_from(records[frame].swap(0, Relaxed)) {
                check_page(chunk.start() + frame as u64 * PAGE_SIZE, page, owner);
            }
            frame += 1;
        }
    };
    // SAFETY: the chunk was just allocated, and its new owner does not use it yet; free frames are
    // write-back memory.
    unsafe { window::with_write_back(chunk, check_pages) };
}

fn check_page(frame: PhysAddr, page: &[u64], owner: LastOwner) {
    let is_changed = |at: usize| page[at / 8].to_ne_bytes()[at % 8] != PATTERN.to_ne_bytes()[at % 8];
    let Some(first) = page.iter().position(|&word| word != PATTERN) else { return };
    let mut changed = (first * 8..PAGE_SIZE as usize).filter(|&at| is_changed(at));
    let Some(offset) = changed.next() else { return };
    let end = changed.next_back().unwrap_or(offset) + 1;
    report(WriteAfterFree { frame, offset: offset as u64, bytes: (end - offset) as u64, owner });
}

fn report(finding: WriteAfterFree) {
    kprintln!("{finding}");
    FOUND.lock().get_or_insert(finding);
}

/// Returns the records of a chunk, one a frame; `None` before [`start`], and for frames outside of the zones.
fn records_of(chunk: Chunk) -> Option<&'static [AtomicU8]> {
    let records = RECORDS.get()?.iter().find(|records| records.range.covers(&chunk.range()))?;
    let first = ((chunk.start().raw() - records.range.start().raw()) / PAGE_SIZE) as usize;
    records.owners.get(first..first + chunk.frames() as usize)
}

/// # Safety
/// `window` is mapped and writable for `'a`, and there is no other reference to it.
unsafe fn words<'a>(window: AddrRange<KernelVa>) -> &'a mut [u64] {
    let start = arch::pointer::to::<u64>(window.start());
    // SAFETY: the caller's contract; a window is page-aligned, and any bytes are valid words.
    unsafe { core::slice::from_raw_parts_mut(start, (window.len() / 8) as usize) }
}
