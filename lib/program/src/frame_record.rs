//! The record of a frame of user memory: its owners and its pins.

use crate::block_record::BlockRecord;
use core::sync::atomic::{AtomicU32, Ordering};

/// The owners and the pins of a frame that is mapped as a page. An owner is a page table entry of a process;
/// two of them share the frame until one writes it (copy-on-write). A pin is the access of a device. The
/// frame is freed by the operation that removes the last of both, and the reference of its block
/// ([`BlockRecord::split`]).
///
/// # Locks
///
/// The operations are atomic. A frame is shared and pinned only by a process that owns it, under the lock of
/// its address space; so a frame with one owner, seen under that lock, cannot become shared or pinned
/// meanwhile.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct FrameRecord(AtomicU32);

/// An owner. The owners are in the lowest 15 bits of the record, the pins in the high half.
const OWNER: u32 = 1;
/// The reference of a split block that has owners or pins of its own.
const BLOCK: u32 = 1 << 15;
const PIN: u32 = 1 << 16;
/// The maximum number of owners.
const OWNERS_MAX: u32 = BLOCK - 1;
/// The maximum number of owners that forks make. The owners of a block become those of its frames when they
/// split it, so that both together are less than the maximum.
pub(crate) const FORKS_MAX: u32 = OWNERS_MAX / 2;
/// The maximum number of pins.
const PINS_MAX: u32 = (1 << 16) - 1;

/// The maximum number of owners or pins is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyReferences;

/// The effect of a write to memory that is mapped read-only for copy-on-write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CowWrite {
    /// The process is the only owner: the entry becomes writable.
    Reuse,
    /// The process gets a copy, and releases the frame.
    Copy,
}

/// The effect of a fork on a private frame or block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForkedFrame {
    /// Both processes own it, read-only.
    Shared,
    /// A device may write it: the child gets a copy at once, so that the parent keeps the frame of the
    /// device.
    Copied,
}

impl FrameRecord {
    /// The record of a free frame, and of one whose block is mapped as a whole.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Adds the first owner of a new frame.
    pub fn own(&self) {
        let before = self.0.swap(OWNER, Ordering::Relaxed);
        debug_assert_eq!(before, 0, "the frame is not free");
    }

    /// Shares the frame with a child, or says that the child needs a copy. `block` is the record of the block
    /// that contains it.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    #[inline]
    pub fn fork(&self, block: &BlockRecord) -> Result<ForkedFrame, TooManyReferences> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word >= PIN || word & BLOCK != 0 && block.pins() > 0 {
                return Ok(ForkedFrame::Copied);
            }
            if word & OWNERS_MAX >= FORKS_MAX {
                return Err(TooManyReferences);
            }
            match self.0.compare_exchange_weak(word, word + OWNER, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(ForkedFrame::Shared),
                Err(other) => word = other,
            }
        }
    }

    /// Adds an owner that shares all writes, as a mapping of shared memory.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    pub fn share(&self) -> Result<(), TooManyReferences> {
        self.add(OWNER, OWNERS_MAX)
    }

    /// Returns the effect of a write by an owner. Called under the lock of its address space. `block` is the
    /// record of the block that contains the frame.
    pub fn write(&self, block: &BlockRecord) -> CowWrite {
        // Acquires the last accesses of a former owner, which released the frame.
        let word = self.0.load(Ordering::Acquire);
        let is_only_owner = word & OWNERS_MAX == OWNER && (word & BLOCK == 0 || block.owners() == 0);
        if is_only_owner { CowWrite::Reuse } else { CowWrite::Copy }
    }

    /// Adds a pin. The caller has broken copy-on-write, also for an access that only reads: a later write of
    /// the process would move it to another frame.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    pub fn pin(&self) -> Result<(), TooManyReferences> {
        self.add(PIN, PINS_MAX)
    }

    /// Removes an owner, whose entry is cleared and invalidated in all TLBs. Returns whether the caller frees
    /// the frame.
    #[must_use]
    #[inline]
    pub fn release(&self) -> bool {
        self.remove(OWNER, OWNERS_MAX)
    }

    /// Removes a pin: no device accesses the frame any more. Returns whether the caller frees the frame.
    #[must_use]
    pub fn unpin(&self) -> bool {
        self.remove(PIN, PINS_MAX)
    }

    /// The number of owners.
    pub fn owners(&self) -> u32 {
        self.0.load(Ordering::Relaxed) & OWNERS_MAX
    }

    /// The number of pins.
    pub fn pins(&self) -> u32 {
        self.0.load(Ordering::Relaxed) / PIN
    }

    /// Makes an owner of the block one of this frame. Only owners of a block do so, while they own it.
    pub(crate) fn own_part(&self) {
        self.0.fetch_or(BLOCK, Ordering::Relaxed);
        self.0.fetch_add(OWNER, Ordering::Relaxed);
    }

    /// Removes the reference of the block, which has neither owners nor pins. Returns whether the caller
    /// frees the frame.
    #[must_use]
    pub fn leave_block(&self) -> bool {
        self.0.fetch_and(!BLOCK, Ordering::AcqRel) & !BLOCK == 0
    }

    fn add(&self, unit: u32, max: u32) -> Result<(), TooManyReferences> {
        let limit = unit * max;
        let add = |word: u32| (word & limit < limit).then(|| word + unit);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(|_| ())
            .map_err(|_| TooManyReferences)
    }

    #[inline]
    fn remove(&self, unit: u32, max: u32) -> bool {
        // Releases the accesses of this owner or device, and acquires those of the others before the free.
        let before = self.0.fetch_sub(unit, Ordering::AcqRel);
        debug_assert!(before & (unit * max) != 0, "record {before:#x} has none of {unit:#x}");
        before == unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_reference_frees_the_frame() {
        for (first, second) in [
            (FrameRecord::release as fn(&_) -> _, FrameRecord::unpin as fn(&_) -> _),
            (FrameRecord::unpin, FrameRecord::release),
        ] {
            let record = FrameRecord::new();
            record.own();
            record.pin().unwrap();
            assert!(!first(&record) && second(&record));
        }
    }

    #[test]
    fn references_have_a_limit() {
        let (record, block) = (FrameRecord::new(), BlockRecord::new());
        record.own();
        for _ in 0..PINS_MAX {
            record.pin().unwrap();
        }
        assert_eq!(record.pin(), Err(TooManyReferences));
        assert_eq!((record.owners(), record.pins()), (1, PINS_MAX));
        let record = FrameRecord::new();
        record.own();
        (1..FORKS_MAX).for_each(|_| assert_eq!(record.fork(&block), Ok(ForkedFrame::Shared)));
        assert_eq!(record.fork(&block), Err(TooManyReferences));
        (FORKS_MAX..OWNERS_MAX).for_each(|_| record.share().unwrap());
        assert_eq!((record.share(), record.owners(), record.pins()), (Err(TooManyReferences), OWNERS_MAX, 0));
    }
}
