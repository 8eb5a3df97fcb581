//! Copy-on-write after a fork: random operations on processes and pins, with the content that each process
//! must see. The memory is in pages and in blocks, which the operations share, copy, split and free.

use super::{READ_WRITE, host_memory, tlb_model};
use abi::memory::{Advice, Prot};
use addr::{AddrRange, PAGE_SIZE, UserVa};
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use kernel::vm::pages::{self, PinnedPages};
use kernel::vm::shared_memory::{MemoryMapping, SharedMemory};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

/// The number of workloads.
pub const SEEDS: u64 = 12;
const STEPS: u64 = 120;
/// The tested memory in units, each with its size in pages: the end of a last-level table, two blocks, and
/// the start of the next table. The operations are on whole units; the first page of each has a content.
const UNITS: [u64; 20] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 255, 1, 254, 1, 511, 1, 1, 1, 1];
const START: UserVa = UserVa::new(0x40_0000 - 10 * PAGE_SIZE);
const PAGES: u64 = UNITS.len() as u64;
/// A page of shared memory.
const SHARED: UserVa = UserVa::new(0x90_0000);
const PROCESSES: usize = 4;

/// The state of the first page of a unit that a process must see.
#[derive(Clone, Copy)]
struct PrivatePage {
    prot: Prot,
    value: u64,
    /// Identifies the frame that a pin of the page keeps: changed when the page gets a new frame.
    generation: u64,
}

struct TestProcess {
    space: AddressSpace,
    id: u64,
    pages: Vec<Option<PrivatePage>>,
}

/// A page that a device can write.
struct Pin {
    process: u64,
    page: usize,
    generation: u64,
    pages: PinnedPages,
}

struct ForkWorkload {
    seed: u64,
    processes: Vec<TestProcess>,
    pins: Vec<Pin>,
    /// The content of [`SHARED`].
    shared: u64,
    /// A file that is mapped privately, of zeroes.
    file: Arc<SharedMemory>,
    /// The last id, value or generation.
    last: u64,
    /// The largest number of blocks at the end of a step.
    most_blocks: u64,
}

pub fn run(seed: u64) {
    let file = SharedMemory::new().unwrap();
    file.writer().truncate(offset(PAGES as usize)).unwrap();
    let (processes, pins) = (Vec::new(), Vec::new());
    let mut workload = ForkWorkload { seed, processes, pins, shared: 0, file, last: 0, most_blocks: 0 };
    let space = AddressSpace::new().unwrap();
    space.map_shared_anonymous(PAGE_SIZE, MmapPlacement::Fixed(SHARED), READ_WRITE).unwrap();
    workload.start_process(space, vec![None; PAGES as usize]);
    workload.map(0, 0..PAGES as usize, false);
    for _ in 0..STEPS {
        workload.step();
        workload.check();
        tlb_model::check();
        arch::fake::take();
        workload.most_blocks = workload.most_blocks.max(pages::block_count());
    }
    assert!(workload.most_blocks > 1, "no block is used");
    arch::mmu::uninstall_user();
    drop(workload);
    tlb_model::check();
    assert_eq!(pages::block_count(), 0);
}

/// The offset of a unit from the first one.
fn offset(unit: usize) -> u64 {
    UNITS[..unit].iter().sum::<u64>() * PAGE_SIZE
}

fn address(unit: usize) -> UserVa {
    START + offset(unit)
}

impl ForkWorkload {
    fn below(&mut self, end: u64) -> usize {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.seed >> 33) % end) as usize
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn start_process(&mut self, space: AddressSpace, pages: Vec<Option<PrivatePage>>) {
        let id = self.next();
        self.processes.push(TestProcess { space, id, pages });
    }

    fn step(&mut self) {
        let which = self.below(self.processes.len() as u64);
        let first = self.below(PAGES);
        let pages = first..first + 1 + self.below((PAGES - first as u64).min(5));
        let range = AddrRange::new(address(pages.start), address(pages.end));
        match self.below(19) {
            0 | 1 if self.processes.len() < PROCESSES => {
                let (space, pages) =
                    (self.processes[which].space.fork().unwrap(), self.processes[which].pages.clone());
                self.start_process(space, pages);
            }
            2 if self.processes.len() > 1 => {
                arch::mmu::uninstall_user();
                self.processes.swap_remove(which);
            }
            3 | 16 => {
                let is_file = self.below(4) == 0;
                self.map(which, pages, is_file);
            }
            17 => self.move_away_and_back(which, pages),
            18 => {
                let uses_blocks = self.below(4) > 0;
                let _ = self.processes[which].space.advise(range, Advice::Blocks(uses_blocks));
            }
            4 => {
                let process = &mut self.processes[which];
                process.space.unmap(range).unwrap();
                process.pages[pages].fill(None);
            }
            5 | 6 => {
                let prot = [Prot::READ, READ_WRITE, Prot::READ | Prot::EXEC][self.below(3)];
                let process = &mut self.processes[which];
                // Up to the first hole.
                let changed = process.pages[pages.clone()].iter_mut().map_while(Option::as_mut);
                let count = changed.map(|page| page.prot = prot).count();
                assert_eq!(process.space.protect(range, prot).is_ok(), count == pages.len());
            }
            7 => {
                let _ = self.processes[which].space.advise(range, Advice::DontNeed);
                for page in pages {
                    let generation = self.next();
                    if let Some(page) = &mut self.processes[which].pages[page] {
                        (page.value, page.generation) = (0, generation);
                    }
                }
            }
            8 | 9 => self.pin(which, first),
            10 if !self.pins.is_empty() => {
                let pin = self.below(self.pins.len() as u64);
                self.pins.swap_remove(pin);
            }
            11 if !self.pins.is_empty() => self.device_write(),
            12 => {
                self.shared = self.next();
                let space = &self.processes[which].space;
                // SAFETY: uninstalled before a process is dropped.
                unsafe { space.install() };
                UserMemory::new(space).write(SHARED, &self.shared).unwrap();
            }
            _ => self.write(which, first),
        }
    }

    fn map(&mut self, which: usize, pages: Range<usize>, is_file: bool) {
        let (start, len) = (address(pages.start), offset(pages.end) - offset(pages.start));
        let (offset, placement) = (offset(pages.start), MmapPlacement::Fixed(start));
        let space = &self.processes[which].space;
        match is_file {
            false => space.map_anonymous(len, placement, READ_WRITE).unwrap(),
            true => {
                let mapping =
                    MemoryMapping::new(self.file.clone(), false, (READ_WRITE, Prot::all())).unwrap();
                space.map_memory(mapping, (offset, len), placement, READ_WRITE).unwrap()
            }
        };
        for page in pages {
            let generation = self.next();
            self.processes[which].pages[page] = Some(PrivatePage { prot: READ_WRITE, value: 0, generation });
        }
    }

    /// Moves a mapping to an address at which blocks fit or do not, and back.
    fn move_away_and_back(&mut self, which: usize, pages: Range<usize>) {
        let by = self.below(2) as u64 * PAGE_SIZE;
        let space = &self.processes[which].space;
        let range = AddrRange::new(address(pages.start), address(pages.end));
        let away = range.start() + (1 << 30) + by;
        if space.move_to(range, range.len(), MmapPlacement::Fixed(away)).is_ok() {
            let moved = AddrRange::from_len(away, range.len()).unwrap();
            space.move_to(moved, range.len(), MmapPlacement::Fixed(range.start())).unwrap();
        }
    }

    fn write(&mut self, which: usize, page: usize) {
        let value = self.next();
        let process = &mut self.processes[which];
        // SAFETY: uninstalled before a process is dropped.
        unsafe { process.space.install() };
        let written = UserMemory::new(&process.space).write(address(page), &value);
        let expected = process.pages[page].as_mut().filter(|page| page.prot.contains(Prot::WRITE));
        assert_eq!(written.is_ok(), expected.is_some());
        expected.into_iter().for_each(|page| page.value = value);
    }

    fn pin(&mut self, which: usize, page: usize) {
        let is_whole = self.below(2) == 0;
        let process = &self.processes[which];
        let end = if is_whole { address(page + 1) } else { address(page) + PAGE_SIZE };
        let range = AddrRange::new(address(page), end);
        let Some(expected) = process.pages[page] else { return };
        // Pinned for reads only if the process itself cannot write.
        let writes = expected.prot.contains(Prot::WRITE);
        let pages = process.space.pin(range, writes).unwrap();
        if self.pins.len() < 8 {
            self.pins.push(Pin { process: process.id, page, generation: expected.generation, pages });
        }
    }

    /// A device writes a page, which the process that pinned it sees, and no other.
    fn device_write(&mut self) {
        let (pin, value) = (self.below(self.pins.len() as u64), self.next());
        let pin = &self.pins[pin];
        let at = dma_api::StreamMemory::segments(&pin.pages)[0].start;
        // SAFETY: RAM of the test, in a frame that is pinned; an address space has no references to it.
        unsafe {
            ptr::with_exposed_provenance_mut::<u64>(host_memory::pointer(at.raw()) as usize).write(value)
        };
        let process = self.processes.iter_mut().find(|process| process.id == pin.process);
        let page = process.and_then(|process| process.pages[pin.page].as_mut());
        page.into_iter().filter(|page| page.generation == pin.generation).for_each(|page| page.value = value);
    }

    /// Every process sees its own content, and that of shared memory. No private write reaches the file.
    fn check(&mut self) {
        let mut word = [0; 8];
        for page in 0..PAGES {
            self.file.read(offset(page as usize), &mut word);
            assert_eq!(word, [0; 8], "page {page} of the file");
        }
        for process in &self.processes {
            // SAFETY: as in `write`.
            unsafe { process.space.install() };
            let memory = UserMemory::new(&process.space);
            assert_eq!(memory.read::<u64>(SHARED), Ok(self.shared));
            for (page, expected) in process.pages.iter().enumerate() {
                let seen = memory.read::<u64>(address(page)).ok();
                assert_eq!(seen, expected.map(|page| page.value), "page {page} of process {}", process.id);
            }
        }
    }
}
