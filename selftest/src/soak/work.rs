//! Random operations on buffers and mappings: allocate, write, attach twice, map for streaming, and free in
//! any order.

use super::rng::Rng;
use super::round::Tally;
use crate::cases::device::{peek, poke};
use addr::{PAGE_SIZE, StreamId};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::{Attrs, Direction, DmaError};
use kernel::devices;
use kernel::dma::stream::{self, Pages};
use kernel::dma::{self, Attachment, Device, MapPlacement};
use kernel::sched::{self, time};

/// The most buffers of a worker.
const MAX_BUFFERS: usize = 24;
/// Buffer sizes: from one page to `PAGE_SIZE << (SIZES - 1)` bytes, 2 MiB, plus up to two pages.
const SIZES: u64 = 10;
/// The first stream of the workers, on an unused PCI bus.
const FIRST_STREAM: u64 = 0x8000;
const STREAMS_PER_CPU: u64 = 16;

struct Worker {
    rng: Rng,
    devices: Vec<Arc<Device>>,
    /// With the marker in the first and last words.
    buffers: Vec<(Attachment, u64)>,
    tally: Tally,
    next_marker: u64,
}

/// Performs random operations until `end`, and then frees all buffers.
pub fn run(rng: Rng, end: u64) -> Result<Tally, String> {
    let devices = devices::dma_engines().map(|engine| engine.device().clone()).collect();
    let mut worker =
        Worker { rng, devices, buffers: Vec::new(), tally: Tally::default(), next_marker: time::now() };
    while !worker.devices.is_empty() && time::now() < end {
        worker.step()?;
        sched::yield_now();
    }
    while !worker.buffers.is_empty() {
        worker.free()?;
    }
    Ok(worker.tally)
}

impl Worker {
    fn step(&mut self) -> Result<(), String> {
        let result = match self.rng.below(16) {
            0..5 => self.allocate(),
            5..9 => return self.free(),
            9..13 => self.map_streaming(),
            13 => self.attach_again(),
            14 => self.attach_new_stream(),
            _ => self.allocate_unattached(),
        };
        self.tally.operations += 1;
        match result {
            Ok(()) => Ok(()),
            // These are failures of the IOMMU, not a lack of memory.
            Err(error @ (DmaError::IommuTimeout | DmaError::IommuRefused)) => Err(format!("{error}")),
            Err(_) => {
                self.tally.refused += 1;
                Ok(())
            }
        }
    }

    fn device(&mut self) -> Arc<Device> {
        let number = self.rng.below(self.devices.len() as u64);
        self.devices[number as usize].clone()
    }

    fn len(&mut self) -> u64 {
        let power_of_two = PAGE_SIZE << self.rng.below(SIZES);
        power_of_two + PAGE_SIZE * self.rng.below(3)
    }

    fn attrs(&mut self) -> Attrs {
        let (no_view, single, contiguous, combine) = (
            Attrs::NO_KERNEL_MAPPING,
            Attrs::ALLOC_SINGLE_PAGES,
            Attrs::FORCE_CONTIGUOUS,
            Attrs::WRITE_COMBINE,
        );
        let attrs = [
            no_view,
            no_view,
            no_view | single,
            no_view | contiguous,
            no_view | combine,
            Attrs::empty(),
            combine,
        ];
        self.rng.pick(&attrs) | Attrs::NO_WARN
    }

    fn allocate(&mut self) -> Result<(), DmaError> {
        if self.is_full() {
            return Ok(());
        }
        let (device, len, attrs) = (self.device(), self.len(), self.attrs());
        let buffer = dma::alloc(&device, len, attrs)?;
        self.mark_and_keep(buffer);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.buffers.len() >= MAX_BUFFERS
    }

    fn mark_and_keep(&mut self, buffer: Attachment) {
        self.next_marker += 1;
        let marker = self.next_marker;
        poke(&buffer, 0, &marker.to_le_bytes());
        poke(&buffer, buffer.buffer().len() - 8, &marker.to_le_bytes());
        self.buffers.push((buffer, marker));
    }

    /// Frees a random buffer, after checking its markers.
    fn free(&mut self) -> Result<(), String> {
        if self.buffers.is_empty() {
            return Ok(());
        }
        let number = self.rng.below(self.buffers.len() as u64) as usize;
        let (buffer, marker) = self.buffers.swap_remove(number);
        for at in [0, buffer.buffer().len() - 8] {
            let found = peek(&buffer, at, 8);
            if found != marker.to_le_bytes() {
                return Err(format!(
                    "buffer at {} holds {found:x?} at {at:#x}, not its marker",
                    buffer.range().start()
                ));
            }
        }
        self.tally.operations += 1;
        Ok(())
    }

    fn map_streaming(&mut self) -> Result<(), DmaError> {
        let (device, pages) = (self.device(), 1 + self.rng.below(40));
        let direction =
            self.rng.pick(&[Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional]);
        let memory = Pages::new(pages * PAGE_SIZE)?;
        let mapping = stream::map(&device, memory, direction).map_err(|refused| refused.error)?;
        mapping.unmap().map(drop)
    }

    /// Attaches a buffer to another device and detaches it from the first.
    fn attach_again(&mut self) -> Result<(), DmaError> {
        let device = self.device();
        let Some((first, marker)) = self.buffers.pop() else { return Ok(()) };
        match Attachment::new(&device, first.buffer().clone(), MapPlacement::Whole) {
            Ok(second) => {
                drop(first);
                self.buffers.push((second, marker));
                Ok(())
            }
            Err(error) => {
                self.buffers.push((first, marker));
                Err(error)
            }
        }
    }

    /// Attaches a stream without a device behind it, allocates a buffer for it, and detaches it.
    fn attach_new_stream(&mut self) -> Result<(), DmaError> {
        let Some(smmu) = self.devices[0].smmu() else { return Ok(()) };
        let stream =
            FIRST_STREAM + arch::cpu::index() as u64 * STREAMS_PER_CPU + self.rng.below(STREAMS_PER_CPU);
        let name = String::from("soak");
        // Another worker may still use the stream, allocated before it moved to another CPU.
        let device = match Device::translated(name, smmu, StreamId::new(stream as u32), true, &[]) {
            Err(DmaError::IommuRefused) => return Ok(()),
            device => device?,
        };
        let len = self.len();
        drop(dma::alloc(&device, len, Attrs::NO_KERNEL_MAPPING | Attrs::NO_WARN)?);
        Ok(())
    }

    fn allocate_unattached(&mut self) -> Result<(), DmaError> {
        let (len, attrs) = (self.len(), self.attrs());
        let buffer = dma::alloc_unattached(len, attrs)?;
        let device = self.device();
        let attachment = Attachment::new(&device, buffer, MapPlacement::Whole)?;
        if !self.is_full() {
            self.mark_and_keep(attachment);
        }
        Ok(())
    }
}
