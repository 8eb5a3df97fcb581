//! Random operations on two address spaces, kernel stacks and kernel views of buffers.

use super::{READ_WRITE, tlb_model};
use abi::memory::{Advice, Prot};
use addr::{AddrRange, PAGE_SIZE, UserVa};
use dma_api::Attrs;
use kernel::dma::{self, ChunkedBuffer};
use kernel::memory::stack::KernelStack;
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use std::sync::Arc;

/// The number of workloads.
pub const SEEDS: u64 = 6;
const STEPS: u64 = 60;
/// The tested range: it contains two whole last-level tables, and parts of two others.
const START: u64 = 0x3f_0000;
const PAGES: u64 = 0x420;
/// The start of the heap.
const HEAP: UserVa = UserVa::new(0x4000_0000);

struct Workload {
    seed: u64,
    spaces: [AddressSpace; 2],
    stacks: Vec<KernelStack>,
    buffers: Vec<Arc<ChunkedBuffer>>,
}

pub fn run(seed: u64) {
    let new_space = |_| {
        let space = AddressSpace::new().unwrap();
        space.set_heap_start(HEAP);
        space
    };
    let mut workload =
        Workload { seed, spaces: [0, 1].map(new_space), stacks: Vec::new(), buffers: Vec::new() };
    for _ in 0..STEPS {
        workload.step();
        tlb_model::check();
        arch::fake::take();
    }
    arch::mmu::uninstall_user();
    drop(workload);
    tlb_model::check();
}

impl Workload {
    fn below(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.seed >> 33) % end
    }

    /// A few pages, or up to all.
    fn range(&mut self) -> AddrRange<UserVa> {
        let first = self.below(PAGES);
        let most = [4, 40, PAGES][self.below(3) as usize].min(PAGES - first);
        let start = UserVa::new(START + first * PAGE_SIZE);
        AddrRange::new(start, start + (1 + self.below(most)) * PAGE_SIZE)
    }

    fn step(&mut self) {
        let (which, range) = (self.below(2) as usize, self.range());
        let placement = MmapPlacement::Fixed(range.start());
        match self.below(14) {
            0 | 1 => drop(self.spaces[which].map_anonymous(range.len(), placement, READ_WRITE)),
            // Unmapping splits blocks; the other half of the tables stays.
            2 => self.spaces[which].unmap(range).unwrap(),
            3 => {
                let prot = [Prot::READ, READ_WRITE, Prot::empty(), Prot::READ | Prot::EXEC];
                let prot = prot[self.below(4) as usize];
                let _ = self.spaces[which].protect(range, prot);
            }
            4 => drop(self.spaces[which].advise(range, Advice::DontNeed)),
            5 => self.map_buffer(which),
            6 => {
                let end = HEAP + self.below(20 * PAGE_SIZE);
                self.spaces[which].set_break(end);
            }
            7 => self.stacks.push(KernelStack::new().unwrap()),
            8 => drop(self.stacks.pop()),
            9 => {
                let pages = 1 + self.below(40);
                let buffer = dma::alloc_unattached(pages * PAGE_SIZE, Attrs::ALLOC_SINGLE_PAGES).unwrap();
                buffer.make_kernel_view().unwrap();
                self.buffers.push(buffer);
            }
            10 => drop(self.buffers.pop()),
            11 => self.replace(which),
            _ => self.write(which, range),
        }
    }

    /// Maps a buffer of more than one block, so that blocks and contiguous groups are split later.
    fn map_buffer(&mut self, which: usize) {
        let buffer = dma::alloc_unattached((2 << 20) + 20 * PAGE_SIZE, Attrs::empty()).unwrap();
        let len = buffer.len();
        let placement = MmapPlacement::Fixed(UserVa::new(0x40_0000));
        self.spaces[which].map_shared(buffer, (0, len), placement, (READ_WRITE, READ_WRITE)).unwrap();
    }

    /// Writes to the pages of `range` in the installed address space.
    fn write(&mut self, which: usize, range: AddrRange<UserVa>) {
        // SAFETY: uninstalled before it is dropped (`replace`, `run`).
        unsafe { self.spaces[which].install() };
        let memory = UserMemory::new(&self.spaces[which]);
        for page in 0..range.len() / PAGE_SIZE {
            let _ = memory.write(range.start() + page * PAGE_SIZE, &page);
        }
        let _ = memory.write(HEAP, &0u8);
    }

    /// Ends a process and starts another.
    fn replace(&mut self, which: usize) {
        arch::mmu::uninstall_user();
        let space = AddressSpace::new().unwrap();
        space.set_heap_start(HEAP);
        self.spaces[which] = space;
    }
}
