//! Random workloads of buffers and streaming mappings: each read by the device or the CPU must return the
//! last write, and never data of an earlier owner.

use super::cache_model::{CacheLine, CacheModel, LINE, RAM, RAM_BYTES};
use addr::{AddrRange, Address, Chunk, KernelVa, PAGE_SIZE, PhysAddr};
use dma_api::{Attrs, Direction, DmaError, DmaMask, PhysSegment, StreamMemory};
use drivers::direct::BusWindow;
use kernel::dma::{self, ChunkedBuffer, Device, SyncFor, stream};
use kernel::memory::linear;
use std::rc::Rc;
use std::sync::Arc;

pub struct RandomWorkload {
    model: Rc<CacheModel>,
    device: Arc<Device>,
    seed: u64,
    /// A counter that makes each written pattern unique.
    writes: u64,
}

/// The CPU address and physical address of a line.
#[derive(Clone, Copy)]
struct LineAddress {
    va: KernelVa,
    at: PhysAddr,
}

impl RandomWorkload {
    pub fn new(model: &Rc<CacheModel>, seed: u64) -> Self {
        model.reseed(seed);
        let device = Device::direct("test".into(), false, vec![BusWindow::identity()]);
        if seed.is_multiple_of(2) {
            // Buffers from lowmem, which has a linear alias.
            device.set_mask(DmaMask::up_to(RAM + RAM_BYTES / 2 - 1)).unwrap();
        }
        Self { model: model.clone(), device, seed, writes: 0 }
    }

    pub fn run(mut self, steps: u64) {
        for _ in 0..steps {
            match self.model.below(6) {
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
        [1, 1, 2, 3, 8, 17][self.model.below(6) as usize]
    }

    /// A random line of `view`, which maps `chunks` contiguously.
    fn random_line(&self, view: AddrRange<KernelVa>, chunks: impl Iterator<Item = Chunk>) -> LineAddress {
        let offset = LINE * self.model.below(view.len() / LINE);
        let mut before = 0;
        for chunk in chunks {
            if offset - before < chunk.bytes() {
                return LineAddress { va: view.start() + offset, at: chunk.start() + (offset - before) };
            }
            before += chunk.bytes();
        }
        panic!("{view:?} is longer than its chunks");
    }

    fn watch(&self, buffer: &ChunkedBuffer, view: Option<AddrRange<KernelVa>>) {
        self.model.assert_zeroes_ordered();
        self.model.watch(frames(buffer.chunks()), view);
    }

    /// A unique pattern, different in every word.
    fn unique_pattern(&mut self) -> CacheLine {
        self.writes += 1;
        std::array::from_fn(|word| self.seed << 32 | self.writes << 8 | word as u64 | 0x80)
    }

    fn cpu_writes(&mut self, line: LineAddress) -> CacheLine {
        let pattern = self.unique_pattern();
        self.model.store_line(line.va, pattern);
        pattern
    }

    fn device_writes(&mut self, line: LineAddress) -> CacheLine {
        let pattern = self.unique_pattern();
        self.model.device_store(line.at, pattern);
        pattern
    }

    fn check(&self, observer: &str, seen: CacheLine, expected: CacheLine, line: LineAddress) {
        assert!(seen == expected, "{observer} sees {:x} at {}, not {:x}", seen[0], line.at, expected[0]);
    }

    /// A few rounds of concurrent reads and writes by both, without any synchronization.
    fn share(&mut self, view: AddrRange<KernelVa>, buffer: &ChunkedBuffer) {
        for _ in 0..4 {
            let line = self.random_line(view, buffer.chunks());
            let zero = self.model.device_load(line.at);
            self.check("CPU", self.model.load_line(line.va), zero, line);
            let written = self.cpu_writes(line);
            self.check("device", self.model.device_load(line.at), written, line);
            let written = self.device_writes(line);
            self.check("CPU", self.model.load_line(line.va), written, line);
        }
        self.leave_data(buffer);
    }

    /// Leaves data that the next owner must not see.
    fn leave_data(&mut self, buffer: &ChunkedBuffer) {
        for frame in frames(buffer.chunks()) {
            let line = LINE * self.model.below(PAGE_SIZE / LINE);
            self.model.device_store(frame + line, [0x0ddd_a7a0; 8]);
        }
    }

    fn check_zero(&self, buffer: &ChunkedBuffer) {
        for frame in frames(buffer.chunks()) {
            for line in (0..PAGE_SIZE).step_by(4 * LINE as usize) {
                let seen = self.model.device_load(frame + line);
                assert!(seen == CacheLine::default(), "old data at {}: {:x}", frame + line, seen[0]);
            }
        }
    }

    fn coherent_buffer(&mut self) {
        let attachment = dma::alloc(&self.device, self.pages() * PAGE_SIZE, Attrs::empty()).unwrap();
        let buffer = attachment.buffer();
        let view = buffer.kernel_view().unwrap();
        self.watch(buffer, Some(view));
        self.check_zero(buffer);
        self.share(view, buffer);
    }

    fn uncached_buffer_for_later(&mut self) {
        let attrs =
            Attrs::WRITE_COMBINE | [Attrs::empty(), Attrs::ALLOC_SINGLE_PAGES][self.model.below(2) as usize];
        let buffer = dma::alloc_unattached(self.pages() * PAGE_SIZE, attrs).unwrap();
        self.watch(&buffer, None);
        self.check_zero(&buffer);
        let view = buffer.make_kernel_view().unwrap();
        self.watch(&buffer, Some(view));
        self.share(view, &buffer);
    }

    fn cached_buffer_with_syncs(&mut self) {
        let buffer = dma::alloc_unattached(self.pages() * PAGE_SIZE, Attrs::empty()).unwrap();
        let view = buffer.make_kernel_view().unwrap();
        self.watch(&buffer, Some(view));
        if self.model.below(4) == 0 {
            // The device has written nothing: the CPU's zeroes must be preserved.
            buffer.sync(SyncFor::Cpu, Direction::FromDevice);
            // Every line is checked: an earlier owner left data in one line of a frame.
            for offset in (0..view.len()).step_by(LINE as usize) {
                let seen = self.model.load_line(view.start() + offset);
                assert!(seen == CacheLine::default(), "old data at {}: {seen:x?}", view.start() + offset);
            }
        }
        for round in 0..4 {
            let line = self.random_line(view, buffer.chunks());
            let mut expected = self.model.load_line(line.va);
            assert!(round > 0 || expected == CacheLine::default(), "old data at {}: {expected:x?}", line.at);
            if self.model.below(2) == 0 {
                expected = self.cpu_writes(line);
            }
            buffer.sync(SyncFor::Device, Direction::Bidirectional);
            self.check("device", self.model.device_load(line.at), expected, line);
            let written = self.device_writes(line);
            buffer.sync(SyncFor::Cpu, Direction::Bidirectional);
            self.check("CPU", self.model.load_line(line.va), written, line);
        }
        buffer.sync(SyncFor::Device, Direction::Bidirectional);
        self.leave_data(&buffer);
    }

    /// A segment that shares a cache line cannot be mapped for device writes.
    fn stream_that_shares_a_line(&mut self) {
        let pages = stream::Pages::new(PAGE_SIZE).unwrap();
        let start = pages.segments()[0].start + LINE * self.model.below(8);
        let segment = PhysSegment { start, len: LINE * (1 + self.model.below(8)) };
        let whole = start.is_aligned(2 * LINE) && segment.len.is_multiple_of(2 * LINE);
        let mapped = stream::map(
            &self.device,
            Box::new(PartialPages { segment, _pages: pages }),
            Direction::FromDevice,
        );
        match mapped {
            Ok(_) => assert!(whole, "{segment:?} shares a line"),
            Err(rejected) => assert!(!whole && matches!(rejected.error, DmaError::SharedLine { .. })),
        }
    }

    fn stream(&mut self) {
        let directions = [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional];
        let direction = directions[self.model.below(3) as usize];
        let memory = stream::Pages::new(self.pages() * PAGE_SIZE).unwrap();
        let segment = memory.segments()[0];
        let range = AddrRange::new(segment.start, segment.start + segment.len);
        let view = linear::range_of(range);
        self.model.watch(frames(Chunk::of_range(range)), None);
        let line = self.random_line(view, Chunk::of_range(range));
        let other = self.random_line(view, Chunk::of_range(range));
        let mut expected = self.cpu_writes(line);
        let mut stream = stream::map(&self.device, memory, direction).unwrap();
        for _ in 0..2 {
            self.check("device", self.model.device_load(line.at), expected, line);
            if direction.device_writes() {
                expected = self.device_writes(line);
            }
            let cpu_stream = stream.sync_for_cpu();
            self.check("CPU", self.model.load_line(line.va), expected, line);
            if direction != Direction::FromDevice {
                expected = self.cpu_writes(line);
            }
            stream = cpu_stream.sync_for_device();
        }
        if direction.device_writes() {
            let written = self.device_writes(other);
            drop(stream.unmap().unwrap());
            // The memory still belongs to this workload.
            self.check("CPU", self.model.load_line(other.va), written, other);
        }
    }
}

/// A segment inside pages, which it keeps allocated.
struct PartialPages {
    segment: PhysSegment,
    _pages: Box<stream::Pages>,
}

// SAFETY: the segment is part of pages that the value owns and that have no other user.
unsafe impl StreamMemory for PartialPages {
    fn segments(&self) -> &[PhysSegment] {
        std::slice::from_ref(&self.segment)
    }
    fn bytes(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// The frames of `chunks`.
pub fn frames(chunks: impl Iterator<Item = Chunk>) -> impl Iterator<Item = PhysAddr> {
    chunks.flat_map(|chunk| (0..chunk.frames()).map(move |frame| chunk.start() + frame * PAGE_SIZE))
}
