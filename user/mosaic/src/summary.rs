//! Summary: resource usage of the buffer, and the cost of a kernel mapping of it.

use std::collections::BTreeMap;
use std::io;

use abi::Errno;
use abi::dma::{BufferChunk, Leaves, Statistics};
use addr::Size;
use dmabuf::{Buffer, Heap};

use crate::size;

/// Bytes mapped by a last-level table.
const TABLE_SPAN: u64 = 2 << 20;

/// Chunks, mappings and resource usage of a buffer, from Tessera's ioctls.
pub struct BufferInfo {
    /// The chunks in buffer order.
    pub chunks: Vec<BufferChunk>,
    /// The bytes of the buffer that were attached to the device.
    attached: u64,
    statistics: Statistics,
    leaves: Leaves,
}

impl BufferInfo {
    /// Queries the kernel; `None` if it is not Tessera (`ENOTTY`). `attached` bytes are attached to the
    /// device now. IOVAs are valid only while a device is attached.
    ///
    /// # Errors
    /// Any error other than `ENOTTY`.
    pub fn of(heap: &Heap, buffer: &Buffer, attached: u64) -> io::Result<Option<Self>> {
        let query = || -> io::Result<Self> {
            let (chunks, statistics, leaves) = (buffer.chunks()?, heap.statistics()?, buffer.leaves()?);
            Ok(Self { chunks, attached, statistics, leaves })
        };
        match query() {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTTY.number()) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Prints one line per figure.
pub fn print(buffer: &Buffer, BufferInfo { chunks, attached, statistics, leaves }: &BufferInfo) {
    let of = |pick: fn(u64, u64) -> u64| chunks.iter().map(|chunk| chunk.len).reduce(pick).unwrap_or(0);
    println!("buffer: {} in {} chunks ({})", Size(buffer.bytes()), chunks.len(), sizes(chunks));
    println!("largest chunk: {}, smallest chunk: {}", Size(of(u64::max)), Size(of(u64::min)));
    println!(
        "user mapping: {} blocks of 2 MiB, {} pages with the contiguous hint, {} other pages",
        leaves.blocks_2m + leaves.blocks_1g * 512,
        leaves.contiguous_pages,
        leaves.pages
    );
    println!(
        "all buffers: {} in highmem, {} in lowmem",
        size::about(statistics.high_bytes.now),
        size::about(statistics.low_bytes.now)
    );
    println!("{}", device_tables(statistics.table_pages.now, *attached));
    println!("IOMMU commands: {} ({} CMD_SYNC)", statistics.commands.now, statistics.syncs.now);
    println!("vmalloc bytes: {}", statistics.vmalloc_bytes.now);
    let tables = buffer.bytes().div_ceil(TABLE_SPAN);
    println!(
        "saved by not mapping it in the kernel: {} of vmalloc space, {tables} page-table pages",
        Size(buffer.bytes())
    );
}

/// The page tables of the devices, and the bytes of the buffer that they mapped.
fn device_tables(pages: u64, attached: u64) -> String {
    match attached {
        0 => format!("device table pages: {pages} (buffer not attached)"),
        _ => format!("device table pages: {pages} ({} of the buffer attached)", Size(attached)),
    }
}

/// `3 x 2 MiB, 1 x 64 KiB`, largest first.
fn sizes(chunks: &[BufferChunk]) -> String {
    let mut counts = BTreeMap::<u64, usize>::new();
    chunks.iter().for_each(|chunk| *counts.entry(chunk.len).or_default() += 1);
    let shown = counts.iter().rev().map(|(len, count)| format!("{count} x {}", Size(*len)));
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_tables_are_shown_with_what_they_mapped() {
        assert_eq!(device_tables(4, 128 << 20), "device table pages: 4 (128 MiB of the buffer attached)");
        assert_eq!(device_tables(0, 0), "device table pages: 0 (buffer not attached)");
    }

    #[test]
    fn chunk_sizes_are_listed_largest_first() {
        let chunk = |len| BufferChunk { iova: 0, pa: 0, len };
        let chunks = [0x1_0000, 0x20_0000, 0x1_0000, 0x1000].map(chunk);
        assert_eq!(sizes(&chunks), "1 x 2 MiB, 2 x 64 KiB, 1 x 4 KiB");
    }
}
