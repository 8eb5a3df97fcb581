//! A buffer, or a part of one, mapped in a device's domain.

use super::Device;
use super::buffer::{ChunkedBuffer, SyncFor};
use super::request::{MapPlacement, MapRequest};
use super::trace::{self, Event};
use crate::debug;
use crate::iommu;
use addr::{AddrRange, Chunk, Iova, MemoryType};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use dma_api::{Attrs, Direction, DmaError};
use pagetable::Mapping;

/// A buffer, or a part of one, mapped in a device's domain; dropping it unmaps the buffer.
#[derive(Debug)]
pub struct Attachment {
    device: Arc<Device>,
    /// `None` only during `drop`.
    buffer: Option<Arc<ChunkedBuffer>>,
    /// The attached bytes of the buffer.
    part: Range<u64>,
    range: AddrRange<Iova>,
}

impl Attachment {
    /// Maps all of `buffer` for `device`.
    ///
    /// # Errors
    /// [`DmaError::PastMask`], [`DmaError::OutOfIova`], [`DmaError::OutOfTables`], [`DmaError::Scattered`]
    /// without IOMMU; without side effects. After [`DmaError::IommuTimeout`] the buffer is leaked.
    pub fn new(
        device: &Arc<Device>,
        buffer: Arc<ChunkedBuffer>,
        placement: MapPlacement,
    ) -> Result<Self, DmaError> {
        let (part, align) = (0..buffer.len(), buffer.alignment());
        Self::with_mapping(device, buffer, part, align, placement, |buffer, _, request| {
            // SAFETY: the buffer owns the chunks. It is dropped after the unmap has returned it, and leaked
            // if the IOMMU does not confirm an invalidation.
            unsafe { device.domain().map(buffer.chunks(), request) }
        })
    }

    /// Maps the bytes `part` of `buffer` for `device`. `part` must be whole pages inside the buffer, and not
    /// empty.
    ///
    /// # Errors
    /// As [`Attachment::new`].
    pub fn of_part(
        device: &Arc<Device>,
        buffer: Arc<ChunkedBuffer>,
        part: Range<u64>,
        placement: MapPlacement,
    ) -> Result<Self, DmaError> {
        let len = part.end - part.start;
        // Chunks are aligned within the buffer: a larger alignment than that of the start is of no use.
        let start = 1u64.checked_shl(part.start.trailing_zeros()).unwrap_or(u64::MAX);
        let align = buffer.alignment().min(start).min(1 << len.ilog2());
        Self::with_mapping(device, buffer, part, align, placement, |buffer, part, request| {
            // SAFETY: as in `new`.
            unsafe { device.domain().map(buffer.chunks_of(part), request) }
        })
    }

    #[inline]
    fn with_mapping(
        device: &Arc<Device>,
        buffer: Arc<ChunkedBuffer>,
        part: Range<u64>,
        align: u64,
        placement: MapPlacement,
        map: impl FnOnce(&ChunkedBuffer, &Range<u64>, &MapRequest) -> Result<AddrRange<Iova>, DmaError>,
    ) -> Result<Self, DmaError> {
        let request = MapRequest {
            len: part.end - part.start,
            align,
            mask: device.mask(),
            placement,
            mapping: mapping(device, &buffer),
        };
        if buffer.memory() == MemoryType::WriteBack && !device.is_coherent() {
            buffer.sync_part(&part, SyncFor::Device, Direction::Bidirectional);
        }
        let range = match map(&buffer, &part, &request) {
            Ok(range) => range,
            Err(error) => {
                if error == DmaError::IommuTimeout {
                    let bytes = buffer.len();
                    iommu::leak(buffer, bytes, error);
                }
                return Err(error);
            }
        };
        debug::mapping_added(buffer.tag(), device.domain().key(), range);
        trace::record("attach", || event(device, &buffer, &part, range));
        trace::chunks(|| buffer.chunks_of(&part));
        Ok(Self { device: device.clone(), buffer: Some(buffer), part, range })
    }

    /// The IOVA range.
    pub fn range(&self) -> AddrRange<Iova> {
        self.range
    }

    /// The chunks of the attached part; those across its ends are split.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + Clone {
        self.buffer().chunks_of(&self.part)
    }

    /// Returns the device addresses of the attached bytes from `offset` to before `end`, in order. More than
    /// one range only without translation ([`MapPlacement::PerChunk`]).
    pub fn bus_ranges(&self, offset: u64, end: u64) -> Vec<AddrRange<Iova>> {
        let domain = self.device.domain();
        if domain.is_translated() {
            let start = self.range.start();
            return Vec::from([AddrRange::new(start + offset, start + end)]);
        }
        let mut at = 0;
        let mut ranges = Vec::new();
        for chunk in self.chunks() {
            let (first, next) = (at.max(offset), (at + chunk.bytes()).min(end));
            if first < next {
                let part = AddrRange::new(chunk.start() + (first - at), chunk.start() + (next - at));
                ranges.extend(domain.bus_addresses(self.device.mask(), part));
            }
            at += chunk.bytes();
        }
        ranges
    }

    /// Returns the device address of `chunk`, a chunk of the buffer at byte `offset`; `None` unless all of it
    /// is attached.
    pub fn address_at(&self, offset: u64, chunk: Chunk) -> Option<Iova> {
        let offset = offset.checked_sub(self.part.start)?;
        if chunk.bytes() > self.range.len().checked_sub(offset)? {
            return None;
        }
        let domain = self.device.domain();
        if domain.is_translated() {
            return Some(self.range.start() + offset);
        }
        domain.bus_addresses(self.device.mask(), chunk.range()).map(|range| range.start())
    }

    /// Returns whether the device addresses of the part are contiguous: [`range`](Self::range). Without
    /// translation, adjacent memory in two windows has separate device addresses.
    pub fn is_contiguous(&self) -> bool {
        let domain = self.device.domain();
        let mut next = Some(self.range.start());
        domain.is_translated()
            || self.chunks().all(|chunk| {
                let addresses = domain.bus_addresses(self.device.mask(), chunk.range());
                let follows = addresses.map(|addresses| addresses.start()) == next;
                next = addresses.map(|addresses| addresses.end());
                follows
            })
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
}

fn event<'a>(
    device: &'a Device,
    buffer: &'a ChunkedBuffer,
    part: &Range<u64>,
    range: AddrRange<Iova>,
) -> Event<'a> {
    Event {
        device: Some(device),
        iova: Some(range.start()),
        len: range.len(),
        chunks: buffer.chunks_of(part).count(),
        ..buffer.event()
    }
}

/// Returns a read-write mapping, for privileged transactions only if requested and supported.
fn mapping(device: &Device, buffer: &ChunkedBuffer) -> Mapping {
    let all = Mapping::read_write(device.domain().device_memory(buffer.memory()));
    let privileged =
        buffer.attrs().contains(Attrs::PRIVILEGED) && device.domain().supports_privileged_mappings();
    if privileged { all.privileged() } else { all }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        trace::record("detach", || event(&self.device, self.buffer(), &self.part, self.range));
        let buffer = self.buffer.take();
        debug::mapping_removed(self.device.domain().key(), self.range);
        // After a timeout, which `unmap` logs, the buffer is leaked.
        let Ok(buffer) = self.device.domain().unmap(self.range, buffer) else { return };
        // CPUs read the device's data next. After the unmap: while the device can still write, speculation
        // could fetch lines that become outdated.
        if let Some(buffer) = buffer.filter(|_| !self.device.is_coherent()) {
            buffer.sync_part(&self.part, SyncFor::Cpu, Direction::Bidirectional);
        }
    }
}
