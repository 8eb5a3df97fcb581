//! Random programs of buffers and streams: whoever reads, device or CPU, has to see what was written last, and nobody
//! what an earlier owner wrote.

use super::machine::{LINE, Line, Machine, RAM, RAM_BYTES};
use addr::{AddrRange, Address, Chunk, KernelVa, PAGE_SIZE, PhysAddr};
use dma_api::{Attrs, Direction, DmaError, DmaMask, Segment, StreamMemory};
use kernel::dma::{self, Buffer, Device, Side, stream};
use kernel::memory::linear;
use std::rc::Rc;
use std::sync::Arc;

pub struct Program {
    machine: Rc<Machine>,
    device: Arc<Device>,
    seed: u64,
    /// Tells each write from all others.
    writes: u64,
}

/// Where a line of a buffer is, for both.
#[derive(Clone, Copy)]
struct Spot {
    va: KernelVa,
    at: PhysAddr,
}

impl Program {
    pub fn new(machine: &Rc<Machine>, seed: u64) -> Self {
        machine.reseed(seed);
        let device = Device::direct("test".into(), false, Vec::new());
        if seed.is_multiple_of(2) {
            // Buffers from lowmem, which the linear map has.
            device.set_mask(DmaMask::up_to(RAM + RAM_BYTES / 2 - 1)).unwrap();
        }
        Self { machine: machine.clone(), device, seed, writes: 0 }
    }

    pub fn run(mut self, steps: u64) {
        for _ in 0..steps {
            match self.machine.below(6) {
                0 => self.coherent_buffer(),
                1 => self.uncached_buffer_for_later(),
                2 => self.cached_buffer_with_syncs(),
                3 => self.stream_that_shares_a_line(),
                _ => self.stream(),
            }
            arch::fake::take();
        }
    }

    fn pages(&self) -> u64 {
        [1, 1, 2, 3, 8, 17][self.machine.below(6) as usize]
    }

    /// A line of `view`, which shows `chunks` one after the other.
    fn line(&self, view: AddrRange<KernelVa>, chunks: impl Iterator<Item = Chunk>) -> Spot {
        let offset = LINE * self.machine.below(view.len() / LINE);
        let mut before = 0;
        for chunk in chunks {
            if offset - before < chunk.bytes() {
                return Spot { va: view.start() + offset, at: chunk.start() + (offset - before) };
            }
            before += chunk.bytes();
        }
        panic!("{view:?} is longer than its chunks");
    }

    fn look_at(&self, buffer: &Buffer, view: Option<AddrRange<KernelVa>>) {
        self.machine.assert_zeroes_first();
        self.machine.look_at(frames(buffer.chunks()), view);
    }

    /// What nobody wrote before, in every word.
    fn pattern(&mut self) -> Line {
        self.writes += 1;
        std::array::from_fn(|word| self.seed << 32 | self.writes << 8 | word as u64 | 0x80)
    }

    fn cpu_writes(&mut self, line: Spot) -> Line {
        let pattern = self.pattern();
        self.machine.store_line(line.va, pattern);
        pattern
    }

    fn device_writes(&mut self, line: Spot) -> Line {
        let pattern = self.pattern();
        self.machine.device_store(line.at, pattern);
        pattern
    }

    fn check(&self, what: &str, seen: Line, expected: Line, line: Spot) {
        assert!(seen == expected, "{what} sees {:x} at {}, not {:x}", seen[0], line.at, expected[0]);
    }

    /// A few rounds of everybody writing and reading, all at once: nobody has to be told of anything.
    fn share(&mut self, view: AddrRange<KernelVa>, buffer: &Buffer) {
        for _ in 0..4 {
            let line = self.line(view, buffer.chunks());
            let zero = self.machine.device_load(line.at);
            self.check("CPU", self.machine.load_line(line.va), zero, line);
            let written = self.cpu_writes(line);
            self.check("device", self.machine.device_load(line.at), written, line);
            let written = self.device_writes(line);
            self.check("CPU", self.machine.load_line(line.va), written, line);
        }
        self.fill(buffer);
    }

    /// Leaves something that the next owner must not see.
    fn fill(&mut self, buffer: &Buffer) {
        for frame in frames(buffer.chunks()) {
            let line = LINE * self.machine.below(PAGE_SIZE / LINE);
            self.machine.device_store(frame + line, [0x0ddd_a7a0; 8]);
        }
    }

    fn check_zero(&self, buffer: &Buffer) {
        for frame in frames(buffer.chunks()) {
            for line in (0..PAGE_SIZE).step_by(4 * LINE as usize) {
                let seen = self.machine.device_load(frame + line);
                assert!(seen == Line::default(), "old data at {}: {:x}", frame + line, seen[0]);
            }
        }
    }

    fn coherent_buffer(&mut self) {
        let attachment = dma::alloc(&self.device, self.pages() * PAGE_SIZE, Attrs::empty()).unwrap();
        let buffer = attachment.buffer();
        let view = buffer.kernel_view().unwrap();
        self.look_at(buffer, Some(view));
        self.check_zero(buffer);
        self.share(view, buffer);
    }

    fn uncached_buffer_for_later(&mut self) {
        let attrs = Attrs::WRITE_COMBINE
            | [Attrs::empty(), Attrs::ALLOC_SINGLE_PAGES][self.machine.below(2) as usize];
        let buffer = dma::alloc_unattached(self.pages() * PAGE_SIZE, attrs).unwrap();
        self.look_at(&buffer, None);
        self.check_zero(&buffer);
        let view = buffer.make_kernel_view().unwrap();
        self.look_at(&buffer, Some(view));
        self.share(view, &buffer);
    }

    fn cached_buffer_with_syncs(&mut self) {
        let buffer = dma::alloc_unattached(self.pages() * PAGE_SIZE, Attrs::empty()).unwrap();
        let view = buffer.make_kernel_view().unwrap();
        self.look_at(&buffer, Some(view));
        if self.machine.below(4) == 0 {
            // Of a device that has written nothing: what the CPU wrote, zeroes, is still there.
            buffer.sync(Side::Cpu, Direction::FromDevice);
            // Everywhere: an earlier owner left something in one line of a frame.
            for offset in (0..view.len()).step_by(LINE as usize) {
                let seen = self.machine.load_line(view.start() + offset);
                assert!(seen == Line::default(), "old data at {}: {seen:x?}", view.start() + offset);
            }
        }
        for round in 0..4 {
            let line = self.line(view, buffer.chunks());
            let mut expected = self.machine.load_line(line.va);
            assert!(round > 0 || expected == Line::default(), "old data at {}: {expected:x?}", line.at);
            if self.machine.below(2) == 0 {
                expected = self.cpu_writes(line);
            }
            buffer.sync(Side::Device, Direction::Bidirectional);
            self.check("device", self.machine.device_load(line.at), expected, line);
            let written = self.device_writes(line);
            buffer.sync(Side::Cpu, Direction::Bidirectional);
            self.check("CPU", self.machine.load_line(line.va), written, line);
        }
        buffer.sync(Side::Device, Direction::Bidirectional);
        self.fill(&buffer);
    }

    /// What begins or ends inside a line cannot be lent to be written.
    fn stream_that_shares_a_line(&mut self) {
        let pages = stream::Pages::new(PAGE_SIZE).unwrap();
        let start = pages.segments()[0].start + LINE * self.machine.below(8);
        let segment = Segment { start, len: LINE * (1 + self.machine.below(8)) };
        let whole = start.is_aligned(2 * LINE) && segment.len.is_multiple_of(2 * LINE);
        let lent =
            stream::map(&self.device, Box::new(Part { segment, _pages: pages }), Direction::FromDevice);
        match lent {
            Ok(_) => assert!(whole, "{segment:?} shares a line"),
            Err(refused) => assert!(!whole && matches!(refused.error, DmaError::SharedLine { .. })),
        }
    }

    fn stream(&mut self) {
        let directions = [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional];
        let direction = directions[self.machine.below(3) as usize];
        let memory = stream::Pages::new(self.pages() * PAGE_SIZE).unwrap();
        let segment = memory.segments()[0];
        let range = AddrRange::new(segment.start, segment.start + segment.len);
        let view = linear::range_of(range);
        self.machine.look_at(frames(Chunk::of_range(range)), None);
        let line = self.line(view, Chunk::of_range(range));
        let other = self.line(view, Chunk::of_range(range));
        let mut expected = self.cpu_writes(line);
        let mut stream = stream::map(&self.device, memory, direction).unwrap();
        for _ in 0..2 {
            self.check("device", self.machine.device_load(line.at), expected, line);
            if direction.device_writes() {
                expected = self.device_writes(line);
            }
            let mine = stream.sync_for_cpu();
            self.check("CPU", self.machine.load_line(line.va), expected, line);
            if direction != Direction::FromDevice {
                expected = self.cpu_writes(line);
            }
            stream = mine.sync_for_device();
        }
        if direction.device_writes() {
            let written = self.device_writes(other);
            drop(stream.unmap().unwrap());
            // Nobody else has had the memory since.
            self.check("CPU", self.machine.load_line(other.va), written, other);
        }
    }
}

/// A part of some pages.
struct Part {
    segment: Segment,
    _pages: Box<stream::Pages>,
}

// SAFETY: memory of pages that it holds, and lends to nobody else.
unsafe impl StreamMemory for Part {
    fn segments(&self) -> &[Segment] {
        std::slice::from_ref(&self.segment)
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// The frames of `chunks`.
fn frames(chunks: impl Iterator<Item = Chunk>) -> impl Iterator<Item = PhysAddr> {
    chunks.flat_map(|chunk| (0..chunk.frames()).map(move |frame| chunk.start() + frame * PAGE_SIZE))
}
