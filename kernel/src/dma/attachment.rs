//! A buffer mapped in a device's domain.

use super::Device;
use super::buffer::{ChunkedBuffer, SyncFor};
use super::request::{MapPlacement, MapRequest};
use super::trace::{self, Event};
use crate::debug;
use crate::iommu::LOST_BYTES;
use addr::{AddrRange, Chunk, Iova, MemoryType};
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::{Attrs, Direction, DmaError};
use pagetable::Mapping;

/// A buffer mapped in a device's domain; dropping it unmaps the buffer.
#[derive(Debug)]
pub struct Attachment {
    device: Arc<Device>,
    /// `None` only during `drop`.
    buffer: Option<Arc<ChunkedBuffer>>,
    range: AddrRange<Iova>,
}

impl Attachment {
    /// Maps all of `buffer` for `device`.
    ///
    /// # Errors
    /// [`DmaError::PastMask`] (with [`MapPlacement::Whole`]), [`DmaError::OutOfIova`],
    /// [`DmaError::OutOfTables`], [`DmaError::Scattered`] without IOMMU; without side effects. After
    /// [`DmaError::IommuTimeout`] the buffer is leaked.
    pub fn new(
        device: &Arc<Device>,
        buffer: Arc<ChunkedBuffer>,
        placement: MapPlacement,
    ) -> Result<Self, DmaError> {
        let request = MapRequest {
            len: buffer.len(),
            align: buffer.alignment(),
            mask: device.mask(),
            placement,
            mapping: mapping(device, &buffer),
        };
        if buffer.memory() == MemoryType::WriteBack && !device.is_coherent() {
            buffer.sync(SyncFor::Device, Direction::Bidirectional);
        }
        // SAFETY: the buffer owns the chunks. It is dropped after the unmap has returned it, and leaked if
        // the IOMMU does not confirm an invalidation.
        let range = match unsafe { device.domain().map(buffer.chunks(), &request) } {
            Ok(range) => range,
            Err(error) => {
                if error == DmaError::IommuTimeout {
                    LOST_BYTES.add(buffer.len());
                    core::mem::forget(buffer);
                }
                return Err(error);
            }
        };
        debug::mapping_added(buffer.tag(), device.domain().key(), range);
        let this = Self { device: device.clone(), buffer: Some(buffer), range };
        trace::record("attach", || this.event());
        trace::chunks(this.buffer().chunks());
        Ok(this)
    }

    /// The IOVA range.
    pub fn range(&self) -> AddrRange<Iova> {
        self.range
    }

    /// Returns the device addresses of the bytes from `offset` to before `end`, in order. More than one range
    /// only without translation ([`MapPlacement::PerChunk`]).
    pub fn bus_ranges(&self, offset: u64, end: u64) -> Vec<AddrRange<Iova>> {
        let domain = self.device.domain();
        if domain.is_translated() {
            let start = self.range.start();
            return Vec::from([AddrRange::new(start + offset, start + end)]);
        }
        let mut at = 0;
        let mut ranges = Vec::new();
        for chunk in self.buffer().chunks() {
            let (first, next) = (at.max(offset), (at + chunk.bytes()).min(end));
            if first < next {
                let part = AddrRange::new(chunk.start() + (first - at), chunk.start() + (next - at));
                ranges.extend(domain.bus_addresses(self.device.mask(), part));
            }
            at += chunk.bytes();
        }
        ranges
    }

    /// Returns the device address of `chunk`, a chunk of the buffer at byte `offset`.
    pub fn address_at(&self, offset: u64, chunk: Chunk) -> Option<Iova> {
        let domain = self.device.domain();
        if domain.is_translated() {
            return Some(self.range.start() + offset);
        }
        domain.bus_addresses(self.device.mask(), chunk.range()).map(|range| range.start())
    }

    /// Returns whether the device addresses of the buffer are contiguous: [`range`](Self::range).
    pub fn is_contiguous(&self) -> bool {
        let mut next = None;
        let follows = |chunk: Chunk| {
            let fits = next.is_none_or(|next| next == chunk.start());
            next = Some(chunk.range().end());
            fits
        };
        self.device.domain().is_translated() || self.buffer().chunks().all(follows)
    }

    /// The part of [`range`](Self::range) below the device's mask.
    pub fn reachable(&self) -> AddrRange<Iova> {
        let end = self.device.mask().highest().raw().saturating_add(1);
        AddrRange::new(self.range.start(), self.range.end().min(Iova::new(end)).max(self.range.start()))
    }

    pub fn buffer(&self) -> &Arc<ChunkedBuffer> {
        match &self.buffer {
            Some(buffer) => buffer,
            None => unreachable!("only `drop` removes it"),
        }
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    fn event(&self) -> Event<'_> {
        Event { device: Some(&self.device), iova: Some(self.range.start()), ..self.buffer().event() }
    }
}

/// Returns a read-write mapping, for privileged transactions only if requested and supported.
fn mapping(device: &Device, buffer: &ChunkedBuffer) -> Mapping {
    let all = Mapping::read_write(buffer.memory());
    let privileged =
        buffer.attrs().contains(Attrs::PRIVILEGED) && device.domain().supports_privileged_mappings();
    if privileged { all.privileged() } else { all }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        trace::record("detach", || self.event());
        let buffer = self.buffer.take();
        debug::mapping_removed(self.device.domain().key(), self.range);
        // After a timeout, which `unmap` logs, the buffer is leaked.
        let Ok(buffer) = self.device.domain().unmap(self.range, buffer) else { return };
        // CPUs read the device's data next. After the unmap: while the device can still write, speculation
        // could fetch lines that become outdated.
        if let Some(buffer) = buffer.filter(|_| !self.device.is_coherent()) {
            buffer.sync(SyncFor::Cpu, Direction::Bidirectional);
        }
    }
}
