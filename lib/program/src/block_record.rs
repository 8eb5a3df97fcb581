//! The record of a block of user memory that is mapped as a whole.

use crate::frame_record::{CowWrite, FORKS_MAX, ForkedFrame, FrameRecord, TooManyReferences};
use core::sync::atomic::{AtomicU64, Ordering};

/// The owners and the pins of a block of 2 MiB. An owner is an entry that maps all of it, a pin the access of
/// a device to any part of it. Larger blocks are several of these.
///
/// A process that needs entries for single pages splits the block: its owner becomes an owner of each
/// [`FrameRecord`]. As long as other owners or pins of the block remain, it has a reference to each frame as
/// well, which the operation that removes the last of them removes.
///
/// # Locks
///
/// As for [`FrameRecord`].
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct BlockRecord(AtomicU64);

/// An owner. The owners are in the low half of the record, the pins above.
const OWNER: u64 = 1;
const PIN: u64 = 1 << 32;
/// A former owner has split the block: its frames have owners of their own.
const SPLIT: u64 = 1 << 63;
/// The block is a huge page of 2 MiB, or a part of one of 1 GiB. Excludes [`SPLIT`].
const HUGE_2M: u64 = 1 << 61;
const HUGE_1G: u64 = 1 << 62;
/// The bits that are neither owners nor pins.
const FLAGS: u64 = SPLIT | HUGE_2M | HUGE_1G;
/// The maximum number of owners.
const OWNERS_MAX: u64 = FORKS_MAX as u64;
/// The maximum number of pins.
const PINS_MAX: u64 = (1 << 29) - 1;

/// The size of a huge page (`MAP_HUGETLB`), which is never split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePageSize {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl HugePageSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size2M => 2 << 20,
            Self::Size1G => 1 << 30,
        }
    }
}

/// The memory that the removal of an owner or a pin of a block makes unused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum UnusedBlock {
    /// None: the block has other owners or pins.
    None,
    /// All frames, which were a part of a huge page of this size, if any. The caller frees them.
    Whole(Option<HugePageSize>),
    /// The caller calls [`FrameRecord::leave_block`] for each frame, and frees those that it returns.
    Parts,
}

impl BlockRecord {
    /// The record of a free block, and of one whose frames are mapped as pages.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds the first owner of a new block, which is a part of a huge page of this size, if any.
    pub fn own(&self, huge: Option<HugePageSize>) {
        let flag = match huge {
            None => 0,
            Some(HugePageSize::Size2M) => HUGE_2M,
            Some(HugePageSize::Size1G) => HUGE_1G,
        };
        let before = self.0.swap(OWNER | flag, Ordering::Relaxed);
        debug_assert_eq!(before, 0, "the block is not free");
    }

    /// Shares the block with a child, or says that the child needs a copy.
    ///
    /// # Errors
    /// [`TooManyReferences`].
    pub fn fork(&self) -> Result<ForkedFrame, TooManyReferences> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & !FLAGS >= PIN {
                return Ok(ForkedFrame::Copied);
            }
            if word & !FLAGS >= OWNERS_MAX {
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
        let add = |word: u64| (word & (PIN - 1) < OWNERS_MAX).then_some(word + OWNER);
        self.update(add)
    }

    /// Returns the effect of a write by an owner. Called under the lock of its address space.
    pub fn write(&self) -> CowWrite {
        // Acquires the last accesses of a former owner, which released the block.
        match self.0.load(Ordering::Acquire) & (SPLIT | (PIN - 1)) {
            OWNER => CowWrite::Reuse,
            _ => CowWrite::Copy,
        }
    }

    /// Adds a pin. The caller has broken copy-on-write, as for [`FrameRecord::pin`].
    ///
    /// # Errors
    /// [`TooManyReferences`].
    #[inline]
    pub fn pin(&self) -> Result<(), TooManyReferences> {
        let before = self.0.fetch_add(PIN, Ordering::Relaxed);
        if before & !FLAGS < PIN * PINS_MAX {
            return Ok(());
        }
        self.0.fetch_sub(PIN, Ordering::Relaxed);
        Err(TooManyReferences)
    }

    /// Removes an owner, whose entry is cleared and invalidated in all TLBs.
    pub fn release(&self) -> UnusedBlock {
        self.remove(OWNER)
    }

    /// Removes a pin: the device does not access the block any more.
    pub fn unpin(&self) -> UnusedBlock {
        self.remove(PIN)
    }

    /// Makes an owner of the block, the caller's entry, an owner of each of its `frames`, which entries of
    /// their own map from now on. Returns whether it was the last reference to the block.
    pub fn split(&self, frames: &[FrameRecord]) -> bool {
        if self.0.load(Ordering::Acquire) == OWNER {
            // The caller holds the lock that an addition of owners and pins needs.
            frames.iter().for_each(FrameRecord::own);
            self.0.store(0, Ordering::Relaxed);
            return true;
        }
        // First: from here on, the last owner or pin looks at the frames.
        self.0.fetch_or(SPLIT, Ordering::Relaxed);
        frames.iter().for_each(FrameRecord::own_part);
        let is_last = self.release() == UnusedBlock::Parts;
        if is_last {
            for frame in frames {
                let is_unused = frame.leave_block();
                debug_assert!(!is_unused, "a frame without the owner that was added above");
            }
        }
        is_last
    }

    /// The number of owners.
    pub fn owners(&self) -> u32 {
        // Acquires as `FrameRecord::write`.
        self.0.load(Ordering::Acquire) as u32
    }

    /// The number of pins.
    pub fn pins(&self) -> u32 {
        ((self.0.load(Ordering::Relaxed) & !FLAGS) / PIN) as u32
    }

    fn update(&self, add: impl Fn(u64) -> Option<u64>) -> Result<(), TooManyReferences> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map(|_| ())
            .map_err(|_| TooManyReferences)
    }

    #[inline]
    fn remove(&self, unit: u64) -> UnusedBlock {
        // Releases the accesses of this owner or device, and acquires those of the others before the free.
        let before = self.0.fetch_sub(unit, Ordering::AcqRel);
        debug_assert!(before & !FLAGS >= unit, "record {before:#x} has none of {unit:#x}");
        if before & !FLAGS != unit {
            return UnusedBlock::None;
        }
        // Before the frames are free: then the block can be allocated again.
        self.0.store(0, Ordering::Relaxed);
        match before & FLAGS {
            0 => UnusedBlock::Whole(None),
            HUGE_2M => UnusedBlock::Whole(Some(HugePageSize::Size2M)),
            HUGE_1G => UnusedBlock::Whole(Some(HugePageSize::Size1G)),
            _ => UnusedBlock::Parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn references_of_a_block_have_a_limit() {
        let block = BlockRecord(AtomicU64::new(OWNER | (PIN * (PINS_MAX - 1))));
        assert_eq!((block.pin(), block.pin()), (Ok(()), Err(TooManyReferences)));
        assert_eq!((block.owners(), block.pins()), (1, PINS_MAX as u32));
        let block = BlockRecord(AtomicU64::new(SPLIT | OWNERS_MAX));
        assert_eq!((block.fork(), block.share()), (Err(TooManyReferences), Err(TooManyReferences)));
    }

    #[test]
    fn last_reference_of_a_huge_page_returns_its_size() {
        for size in [HugePageSize::Size2M, HugePageSize::Size1G] {
            let block = BlockRecord::new();
            block.own(Some(size));
            assert_eq!((block.fork(), block.write()), (Ok(ForkedFrame::Shared), CowWrite::Copy));
            assert_eq!((block.release(), block.write()), (UnusedBlock::None, CowWrite::Reuse));
            block.pin().unwrap();
            assert_eq!((block.fork(), block.pins()), (Ok(ForkedFrame::Copied), 1));
            assert_eq!((block.release(), block.unpin()), (UnusedBlock::None, UnusedBlock::Whole(Some(size))));
            block.own(None);
        }
    }

    /// The frames of a block of the model, each a page of a process at first.
    const PAGES: usize = 4;

    #[derive(Clone, Debug)]
    enum FrameOp {
        Fork(usize),
        Write(usize, usize),
        Pin(usize, usize),
        DeviceWrite(usize),
        Unpin(usize),
        Unmap(usize, usize),
        Split(usize),
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
            process.clone().prop_map(FrameOp::Split),
            process.prop_map(FrameOp::Exit),
        ]
    }

    /// A page of a process: a frame of a block.
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Page {
        block: usize,
        frame: usize,
        is_writable: bool,
        /// Whether the entry maps the whole block.
        is_block: bool,
    }

    #[derive(Default)]
    struct TestBlock {
        record: BlockRecord,
        frames: [FrameRecord; PAGES],
        content: [u32; PAGES],
        is_free: [bool; PAGES],
    }

    #[derive(Clone, Copy)]
    struct ModelPin {
        mapped: Page,
        process: usize,
        page: usize,
    }

    /// A machine that follows the records, and beside it the content that each process must see.
    #[derive(Default)]
    struct Machine {
        blocks: Vec<TestBlock>,
        processes: Vec<BTreeMap<usize, Page>>,
        expected: Vec<BTreeMap<usize, u32>>,
        pins: Vec<ModelPin>,
        next: u32,
    }

    impl Machine {
        /// One process with a block.
        fn new() -> Self {
            let mut machine = Self::default();
            machine.blocks.push(TestBlock::default());
            machine.blocks[0].record.own(None);
            let page = |frame| Page { block: 0, frame, is_writable: true, is_block: true };
            machine.processes.push((0..PAGES).map(|frame| (frame, page(frame))).collect());
            machine.expected.push((0..PAGES).map(|page| (page, 0)).collect());
            machine
        }

        /// A single frame, in a block without other frames in use.
        fn allocate(&mut self, content: u32) -> Page {
            let mut block = TestBlock { is_free: [true; PAGES], ..TestBlock::default() };
            block.frames[0].own();
            (block.content[0], block.is_free[0]) = (content, false);
            self.blocks.push(block);
            Page { block: self.blocks.len() - 1, frame: 0, is_writable: true, is_block: false }
        }

        fn free(&mut self, block: usize, frame: usize) {
            assert!(!self.blocks[block].is_free[frame], "frame {frame} is freed twice");
            self.blocks[block].is_free[frame] = true;
        }

        fn free_block(&mut self, block: usize, unused: UnusedBlock) {
            for frame in 0..PAGES {
                let is_unused = match unused {
                    UnusedBlock::None => false,
                    UnusedBlock::Whole(huge) => huge.is_none(),
                    UnusedBlock::Parts => self.blocks[block].frames[frame].leave_block(),
                };
                if is_unused {
                    self.free(block, frame);
                }
            }
        }

        /// Releases the frame of an entry for a page.
        fn release(&mut self, mapped: Page) {
            assert!(!mapped.is_block);
            if self.blocks[mapped.block].frames[mapped.frame].release() {
                self.free(mapped.block, mapped.frame);
            }
        }

        fn split(&mut self, process: usize) {
            let pages = &mut self.processes[process];
            let Some(block) = pages.values().find(|page| page.is_block).map(|page| page.block) else {
                return;
            };
            pages.values_mut().for_each(|page| page.is_block = false);
            let block = &self.blocks[block];
            block.record.split(&block.frames);
        }

        /// Makes the page writable for its process, as a page fault does.
        fn break_cow(&mut self, process: usize, page: usize) -> Option<Page> {
            let mapped = *self.processes[process].get(&page)?;
            if mapped.is_writable {
                return Some(mapped);
            }
            if mapped.is_block {
                if self.blocks[mapped.block].record.write() == CowWrite::Reuse {
                    self.processes[process].values_mut().for_each(|page| page.is_writable = true);
                    return Some(Page { is_writable: true, ..mapped });
                }
                self.split(process);
            }
            let block = &self.blocks[mapped.block];
            let mapped = match block.frames[mapped.frame].write(&block.record) {
                CowWrite::Reuse => Page { is_writable: true, is_block: false, ..mapped },
                CowWrite::Copy => {
                    let copy = self.allocate(block.content[mapped.frame]);
                    self.release(Page { is_block: false, ..mapped });
                    copy
                }
            };
            self.processes[process].insert(page, mapped);
            Some(mapped)
        }

        fn fork(&mut self, parent: usize) {
            // A block is forked once.
            let mut forked_block = None;
            let mut child = BTreeMap::new();
            for (page, mapped) in self.processes[parent].clone() {
                let block = &self.blocks[mapped.block];
                let forked = match mapped.is_block {
                    true => *forked_block.get_or_insert_with(|| block.record.fork().unwrap()),
                    false => block.frames[mapped.frame].fork(&block.record).unwrap(),
                };
                let copy = match forked {
                    ForkedFrame::Shared => {
                        let shared = Page { is_writable: false, ..mapped };
                        self.processes[parent].insert(page, shared);
                        shared
                    }
                    ForkedFrame::Copied => self.allocate(block.content[mapped.frame]),
                };
                child.insert(page, copy);
            }
            self.processes.push(child);
            self.expected.push(self.expected[parent].clone());
        }

        fn run(&mut self, op: &FrameOp) {
            match *op {
                FrameOp::Fork(parent) if parent < self.processes.len() && self.processes.len() < 6 => {
                    self.fork(parent)
                }
                FrameOp::Write(process, page) if process < self.processes.len() => {
                    if let Some(mapped) = self.break_cow(process, page) {
                        self.next += 1;
                        self.blocks[mapped.block].content[mapped.frame] = self.next;
                        self.expected[process].insert(page, self.next);
                    }
                }
                FrameOp::Pin(process, page) if process < self.processes.len() && self.pins.len() < 8 => {
                    if let Some(mapped) = self.break_cow(process, page) {
                        let block = &self.blocks[mapped.block];
                        match mapped.is_block {
                            true => block.record.pin().unwrap(),
                            false => block.frames[mapped.frame].pin().unwrap(),
                        }
                        self.pins.push(ModelPin { mapped, process, page });
                    }
                }
                FrameOp::DeviceWrite(pin) if pin < self.pins.len() => {
                    let ModelPin { mapped, process, page } = self.pins[pin];
                    let block = &mut self.blocks[mapped.block];
                    assert!(!block.is_free[mapped.frame], "a device writes to a free frame");
                    self.next += 1;
                    block.content[mapped.frame] = self.next;
                    let is_frame = |page: &Page| (page.block, page.frame) == (mapped.block, mapped.frame);
                    if self.processes[process].get(&page).is_some_and(is_frame) {
                        self.expected[process].insert(page, self.next);
                    }
                }
                FrameOp::Unpin(pin) if pin < self.pins.len() => {
                    let ModelPin { mapped, .. } = self.pins.swap_remove(pin);
                    let block = &self.blocks[mapped.block];
                    match mapped.is_block {
                        true => {
                            let unused = block.record.unpin();
                            self.free_block(mapped.block, unused);
                        }
                        false if block.frames[mapped.frame].unpin() => self.free(mapped.block, mapped.frame),
                        false => {}
                    }
                }
                FrameOp::Unmap(process, page) if process < self.processes.len() => {
                    self.split(process);
                    self.expected[process].remove(&page);
                    let unmapped = self.processes[process].remove(&page);
                    unmapped.into_iter().for_each(|mapped| self.release(mapped));
                }
                FrameOp::Split(process) if process < self.processes.len() => self.split(process),
                FrameOp::Exit(process) if process < self.processes.len() => {
                    let pages = core::mem::take(&mut self.processes[process]);
                    self.expected[process].clear();
                    if let Some(page) = pages.values().find(|page| page.is_block) {
                        let unused = self.blocks[page.block].record.release();
                        return self.free_block(page.block, unused);
                    }
                    pages.into_values().for_each(|mapped| self.release(mapped));
                }
                _ => {}
            }
        }

        /// Every process sees its own content, in frames that are not free; a pinned page stays that of its
        /// process, and a frame without references is free.
        fn check(&self) {
            for (process, expected) in self.processes.iter().zip(&self.expected) {
                for (page, mapped) in process {
                    let block = &self.blocks[mapped.block];
                    assert!(!block.is_free[mapped.frame], "a mapped frame is free");
                    assert_eq!(block.content[mapped.frame], expected[page], "page {page}");
                }
            }
            for (index, block) in self.blocks.iter().enumerate() {
                let pages = || self.processes.iter().flat_map(BTreeMap::values).filter(|p| p.block == index);
                let pins = || self.pins.iter().map(|pin| &pin.mapped).filter(|pin| pin.block == index);
                let owners = pages().filter(|page| page.is_block && page.frame == 0).count() as u32;
                let block_pins = pins().filter(|pin| pin.is_block).count() as u32;
                assert_eq!((block.record.owners(), block.record.pins()), (owners, block_pins));
                for (frame, record) in block.frames.iter().enumerate() {
                    let own = |page: &&Page| !page.is_block && page.frame == frame;
                    let (owners_here, pins_here) = (pages().filter(own).count(), pins().filter(own).count());
                    assert_eq!((record.owners() as usize, record.pins() as usize), (owners_here, pins_here));
                    let is_used = owners_here + pins_here > 0 || owners + block_pins > 0;
                    assert_eq!(!block.is_free[frame], is_used, "frame {frame} of block {index} leaks");
                }
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
