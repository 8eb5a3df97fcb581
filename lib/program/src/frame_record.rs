//! The record of a frame of user memory: its owners and its pins.

use core::sync::atomic::{AtomicU32, Ordering};

/// The owners and the pins of a frame, or of a block that is mapped as a whole. An owner is a page table
/// entry of a process; two of them share the frame until one writes it (copy-on-write). A pin is the access
/// of a device. The frame is freed by the operation that removes the last of both.
///
/// # Locks
///
/// The operations are atomic. A frame is shared and pinned only by a process that owns it, under the lock of
/// its address space; so a frame with one owner, seen under that lock, cannot become shared or pinned
/// meanwhile.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct FrameRecord(AtomicU32);

/// An owner. The owners are in the low half of the record, the pins in the high half.
const OWNER: u32 = 1;
const PIN: u32 = 1 << 16;
/// The maximum number of owners, and of pins.
const MAX: u32 = (1 << 16) - 1;

/// The maximum number of owners or pins is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyReferences;

/// The effect of a write to a frame that is mapped read-only for copy-on-write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CowWrite {
    /// The process is the only owner: the entry becomes writable.
    Reuse,
    /// The process gets a copy, and releases the frame.
    Copy,
}

/// The effect of a fork on a private frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForkedFrame {
    /// Both processes own it, read-only.
    Shared,
    /// A device may write it: the child gets a copy at once, so that the parent keeps the frame of the
    /// device.
    Copied,
}

impl FrameRecord {
    /// The record of a free frame.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Adds the first owner of a new frame.
    pub fn own(&self) {
        let before = self.0.swap(OWNER, Ordering::Relaxed);
        debug_assert_eq!(before, 0, "the frame is not free");
    }

    /// Shares the frame with a child, or says that the child needs a copy.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    pub fn fork(&self) -> Result<ForkedFrame, TooManyReferences> {
        // Neither pins nor the maximum of owners.
        let share = |word: u32| (word < MAX).then_some(word + OWNER);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, share) {
            Ok(_) => Ok(ForkedFrame::Shared),
            Err(MAX) => Err(TooManyReferences),
            Err(_) => Ok(ForkedFrame::Copied),
        }
    }

    /// Adds an owner that shares all writes, as a mapping of shared memory.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    pub fn share(&self) -> Result<(), TooManyReferences> {
        self.add(OWNER)
    }

    /// Returns the effect of a write by an owner. Called under the lock of its address space.
    pub fn write(&self) -> CowWrite {
        // Acquires the last accesses of a former owner, which released the frame.
        match self.0.load(Ordering::Acquire) & MAX {
            OWNER => CowWrite::Reuse,
            _ => CowWrite::Copy,
        }
    }

    /// Adds a pin. The caller has broken copy-on-write, also for an access that only reads: a later write of
    /// the process would move it to another frame.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    pub fn pin(&self) -> Result<(), TooManyReferences> {
        self.add(PIN)
    }

    /// Removes an owner, whose entry is cleared and invalidated in all TLBs. Returns whether the caller frees
    /// the frame.
    #[must_use]
    pub fn release(&self) -> bool {
        self.remove(OWNER)
    }

    /// Removes a pin: no device accesses the frame any more. Returns whether the caller frees the frame.
    #[must_use]
    pub fn unpin(&self) -> bool {
        self.remove(PIN)
    }

    /// The number of owners.
    pub fn owners(&self) -> u32 {
        self.0.load(Ordering::Relaxed) & MAX
    }

    /// The number of pins.
    pub fn pins(&self) -> u32 {
        self.0.load(Ordering::Relaxed) / PIN
    }

    fn add(&self, unit: u32) -> Result<(), TooManyReferences> {
        let limit = unit * MAX;
        let add = |word: u32| (word & limit < limit).then(|| word + unit);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(|_| ())
            .map_err(|_| TooManyReferences)
    }

    fn remove(&self, unit: u32) -> bool {
        // Releases the accesses of this owner or device, and acquires those of the others before the free.
        let before = self.0.fetch_sub(unit, Ordering::AcqRel);
        debug_assert!(before & (unit * MAX) != 0, "record {before:#x} has none of {unit:#x}");
        before == unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use proptest::prelude::*;

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
        let record = FrameRecord::new();
        record.own();
        for _ in 0..MAX {
            record.pin().unwrap();
        }
        assert_eq!(record.pin(), Err(TooManyReferences));
        assert_eq!((record.owners(), record.pins()), (1, MAX));
        let record = FrameRecord::new();
        record.own();
        (1..MAX).for_each(|_| record.share().unwrap());
        assert_eq!((record.fork(), record.owners(), record.pins()), (Err(TooManyReferences), MAX, 0));
    }

    const PAGES: usize = 4;

    #[derive(Clone, Debug)]
    enum FrameOp {
        Fork(usize),
        Write(usize, usize),
        Pin(usize, usize),
        DeviceWrite(usize),
        Unpin(usize),
        Unmap(usize, usize),
        Exit(usize),
    }

    fn op() -> impl Strategy<Value = FrameOp> {
        let process = 0usize..6;
        let page = 0usize..PAGES;
        prop_oneof![
            process.clone().prop_map(FrameOp::Fork),
            (process.clone(), page.clone()).prop_map(|(process, page)| FrameOp::Write(process, page)),
            (process.clone(), page.clone()).prop_map(|(process, page)| FrameOp::Write(process, page)),
            (process.clone(), page.clone()).prop_map(|(process, page)| FrameOp::Pin(process, page)),
            (0usize..8).prop_map(FrameOp::DeviceWrite),
            (0usize..8).prop_map(FrameOp::Unpin),
            (process.clone(), page).prop_map(|(process, page)| FrameOp::Unmap(process, page)),
            process.prop_map(FrameOp::Exit),
        ]
    }

    /// A page of a process.
    #[derive(Clone, Copy, Debug)]
    struct Page {
        frame: usize,
        is_writable: bool,
    }

    /// A machine that follows the records, and beside it the content that each process must see.
    #[derive(Default)]
    struct Machine {
        frames: Vec<(FrameRecord, u32, bool)>,
        processes: Vec<BTreeMap<usize, Page>>,
        expected: Vec<BTreeMap<usize, u32>>,
        /// The frame, and the process and page whose content it is, unless they were unmapped.
        pins: Vec<(usize, usize, usize)>,
        next: u32,
    }

    impl Machine {
        fn new() -> Self {
            let mut machine = Self::default();
            machine.processes.push(BTreeMap::new());
            machine.expected.push(BTreeMap::new());
            for page in 0..PAGES {
                let frame = machine.allocate(0);
                machine.processes[0].insert(page, Page { frame, is_writable: true });
                machine.expected[0].insert(page, 0);
            }
            machine
        }

        fn allocate(&mut self, content: u32) -> usize {
            let record = FrameRecord::new();
            record.own();
            self.frames.push((record, content, false));
            self.frames.len() - 1
        }

        fn free(&mut self, frame: usize, is_last: bool) {
            if is_last {
                assert!(!self.frames[frame].2, "frame {frame} is freed twice");
                self.frames[frame].2 = true;
            }
        }

        fn release(&mut self, frame: usize) {
            let is_last = self.frames[frame].0.release();
            self.free(frame, is_last);
        }

        /// Makes the page writable for its process, as a page fault does.
        fn break_cow(&mut self, process: usize, page: usize) -> Option<usize> {
            let Page { frame, is_writable } = *self.processes[process].get(&page)?;
            let frame = match is_writable {
                true => frame,
                false if self.frames[frame].0.write() == CowWrite::Reuse => frame,
                false => {
                    let copy = self.allocate(self.frames[frame].1);
                    self.release(frame);
                    copy
                }
            };
            self.processes[process].insert(page, Page { frame, is_writable: true });
            Some(frame)
        }

        fn run(&mut self, op: &FrameOp) {
            match *op {
                FrameOp::Fork(parent) if parent < self.processes.len() && self.processes.len() < 6 => {
                    let mut child = BTreeMap::new();
                    for (page, Page { frame, is_writable }) in self.processes[parent].clone() {
                        let forked = match self.frames[frame].0.fork().unwrap() {
                            ForkedFrame::Shared => {
                                self.processes[parent].insert(page, Page { frame, is_writable: false });
                                Page { frame, is_writable: false }
                            }
                            ForkedFrame::Copied => {
                                assert!(is_writable, "a pinned frame is shared");
                                Page { frame: self.allocate(self.frames[frame].1), is_writable: true }
                            }
                        };
                        child.insert(page, forked);
                    }
                    self.processes.push(child);
                    self.expected.push(self.expected[parent].clone());
                }
                FrameOp::Write(process, page) if process < self.processes.len() => {
                    if let Some(frame) = self.break_cow(process, page) {
                        self.next += 1;
                        self.frames[frame].1 = self.next;
                        self.expected[process].insert(page, self.next);
                    }
                }
                FrameOp::Pin(process, page) if process < self.processes.len() && self.pins.len() < 8 => {
                    if let Some(frame) = self.break_cow(process, page) {
                        self.frames[frame].0.pin().unwrap();
                        self.pins.push((frame, process, page));
                    }
                }
                FrameOp::DeviceWrite(pin) if pin < self.pins.len() => {
                    let (frame, process, page) = self.pins[pin];
                    assert!(!self.frames[frame].2, "a device writes to the free frame {frame}");
                    self.next += 1;
                    self.frames[frame].1 = self.next;
                    if self.processes[process].get(&page).is_some_and(|mapped| mapped.frame == frame) {
                        self.expected[process].insert(page, self.next);
                    }
                }
                FrameOp::Unpin(pin) if pin < self.pins.len() => {
                    let (frame, ..) = self.pins.swap_remove(pin);
                    let is_last = self.frames[frame].0.unpin();
                    self.free(frame, is_last);
                }
                FrameOp::Unmap(process, page) if process < self.processes.len() => self.unmap(process, page),
                FrameOp::Exit(process) if process < self.processes.len() => {
                    (0..PAGES).for_each(|page| self.unmap(process, page));
                }
                _ => {}
            }
        }

        fn unmap(&mut self, process: usize, page: usize) {
            if let Some(mapped) = self.processes[process].remove(&page) {
                self.expected[process].remove(&page);
                self.release(mapped.frame);
            }
        }

        /// Every process sees its own content, in frames that are not free; a pinned page stays that of its
        /// process.
        fn check(&self) {
            for (process, expected) in self.processes.iter().zip(&self.expected) {
                for (page, mapped) in process {
                    let (_, content, is_free) = &self.frames[mapped.frame];
                    assert!(!is_free, "a mapped frame is free");
                    assert_eq!(content, &expected[page], "page {page}");
                }
            }
            for (frame, (record, _, is_free)) in self.frames.iter().enumerate() {
                let owners =
                    self.processes.iter().flat_map(BTreeMap::values).filter(|page| page.frame == frame);
                let pins = self.pins.iter().filter(|pin| pin.0 == frame).count();
                assert_eq!((record.owners() as usize, record.pins() as usize), (owners.count(), pins));
                assert_eq!(*is_free, record.owners() == 0 && record.pins() == 0, "frame {frame} leaks");
            }
        }
    }

    proptest! {
        #[test]
        fn no_process_sees_another_ones_write_and_no_frame_is_lost(ops in prop::collection::vec(op(), 1..80)) {
            let mut machine = Machine::new();
            for op in &ops {
                machine.run(op);
                machine.check();
            }
        }
    }
}
