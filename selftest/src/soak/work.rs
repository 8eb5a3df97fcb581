//! Buffers and mappings: allocated, written, attached twice, lent, and given back in any order.

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

/// Buffers that a worker has at most.
const MOST: usize = 24;
/// The largest is of `PAGE_SIZE << (SIZES - 1)` bytes and some pages: 2 MiB.
const SIZES: u64 = 10;
/// A PCI bus on which nothing is: the workers' own streams, 16 for each CPU.
const FIRST_STREAM: u64 = 0x8000;
const STREAMS: u64 = 16;

struct Worker {
    rng: Rng,
    devices: Vec<Arc<Device>>,
    /// With what was written into the first and last words.
    buffers: Vec<(Attachment, u64)>,
    tally: Tally,
    next_mark: u64,
}

/// Works until `end`, and gives everything back.
pub fn run(rng: Rng, end: u64) -> Result<Tally, String> {
    let devices = devices::dma_engines().map(|engine| engine.device().clone()).collect();
    let mut worker =
        Worker { rng, devices, buffers: Vec::new(), tally: Tally::default(), next_mark: time::now() };
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
            9..13 => self.lend(),
            13 => self.attach_again(),
            14 => self.new_device(),
            _ => self.unattached(),
        };
        self.tally.operations += 1;
        match result {
            Ok(()) => Ok(()),
            // What an IOMMU does not answer is no want of memory.
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
        let whole = PAGE_SIZE << self.rng.below(SIZES);
        whole + PAGE_SIZE * self.rng.below(3)
    }

    fn attrs(&mut self) -> Attrs {
        let (view, single, contiguous, combine) = (
            Attrs::NO_KERNEL_MAPPING,
            Attrs::ALLOC_SINGLE_PAGES,
            Attrs::FORCE_CONTIGUOUS,
            Attrs::WRITE_COMBINE,
        );
        let attrs = [view, view, view | single, view | contiguous, view | combine, Attrs::empty(), combine];
        self.rng.pick(&attrs) | Attrs::NO_WARN
    }

    fn allocate(&mut self) -> Result<(), DmaError> {
        if self.is_full() {
            return Ok(());
        }
        let (device, len, attrs) = (self.device(), self.len(), self.attrs());
        let buffer = dma::alloc(&device, len, attrs)?;
        self.keep(buffer);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.buffers.len() >= MOST
    }

    fn keep(&mut self, buffer: Attachment) {
        self.next_mark += 1;
        let mark = self.next_mark;
        poke(&buffer, 0, &mark.to_le_bytes());
        poke(&buffer, buffer.buffer().len() - 8, &mark.to_le_bytes());
        self.buffers.push((buffer, mark));
    }

    /// Frees one, which holds what was written.
    fn free(&mut self) -> Result<(), String> {
        if self.buffers.is_empty() {
            return Ok(());
        }
        let number = self.rng.below(self.buffers.len() as u64) as usize;
        let (buffer, mark) = self.buffers.swap_remove(number);
        for at in [0, buffer.buffer().len() - 8] {
            let found = peek(&buffer, at, 8);
            if found != mark.to_le_bytes() {
                return Err(format!("a buffer at {} holds {found:x?} at {at:#x}", buffer.range().start()));
            }
        }
        self.tally.operations += 1;
        Ok(())
    }

    fn lend(&mut self) -> Result<(), DmaError> {
        let (device, pages) = (self.device(), 1 + self.rng.below(40));
        let direction =
            self.rng.pick(&[Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional]);
        let memory = Pages::new(pages * PAGE_SIZE)?;
        let lent = stream::map(&device, memory, direction).map_err(|refused| refused.error)?;
        lent.unmap().map(drop)
    }

    /// The same memory for another device, while the first one's attachment goes.
    fn attach_again(&mut self) -> Result<(), DmaError> {
        let device = self.device();
        let Some((first, mark)) = self.buffers.pop() else { return Ok(()) };
        match Attachment::new(&device, first.buffer().clone(), MapPlacement::Whole) {
            Ok(second) => {
                drop(first);
                self.buffers.push((second, mark));
                Ok(())
            }
            Err(error) => {
                self.buffers.push((first, mark));
                Err(error)
            }
        }
    }

    /// A stream that nobody uses: attached, given a buffer, and detached.
    fn new_device(&mut self) -> Result<(), DmaError> {
        let Some(smmu) = self.devices[0].smmu() else { return Ok(()) };
        let stream = FIRST_STREAM + arch::cpu::index() as u64 * STREAMS + self.rng.below(STREAMS);
        let name = String::from("soak");
        // Another worker may have had this CPU's number a moment ago, and still has the stream.
        let device = match Device::translated(name, smmu, StreamId::new(stream as u32), true) {
            Err(DmaError::IommuRefused) => return Ok(()),
            device => device?,
        };
        let len = self.len();
        drop(dma::alloc(&device, len, Attrs::NO_KERNEL_MAPPING | Attrs::NO_WARN)?);
        Ok(())
    }

    fn unattached(&mut self) -> Result<(), DmaError> {
        let (len, attrs) = (self.len(), self.attrs());
        let buffer = dma::alloc_unattached(len, attrs)?;
        let device = self.device();
        let attachment = Attachment::new(&device, buffer, MapPlacement::Whole)?;
        if !self.is_full() {
            self.keep(attachment);
        }
        Ok(())
    }
}
