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
    statistics: Statistics,
    leaves: Leaves,
}

impl BufferInfo {
    /// Queries the kernel; `None` if it is not Tessera (`ENOTTY`). IOVAs are valid only while a device is
    /// attached.
    ///
    /// # Errors
    /// Any error other than `ENOTTY`.
    pub fn of(heap: &Heap, buffer: &Buffer) -> io::Result<Option<Self>> {
        let query = || -> io::Result<Self> {
            Ok(Self { chunks: buffer.chunks()?, statistics: heap.statistics()?, leaves: buffer.leaves()? })
        };
        match query() {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTTY.number()) => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Prints one line per figure.
pub fn print(buffer: &Buffer, BufferInfo { chunks, statistics, leaves }: &BufferInfo) {
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
    println!("device table pages: {}", statistics.table_pages.now);
    println!("IOMMU commands: {} ({} CMD_SYNC)", statistics.commands.now, statistics.syncs.now);
    println!("vmalloc bytes: {}", statistics.vmalloc_bytes.now);
    let tables = buffer.bytes().div_ceil(TABLE_SPAN);
    println!(
        "saved by not mapping it in the kernel: {} of vmalloc space, {tables} page-table pages",
        Size(buffer.bytes())
    );
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
    fn chunk_sizes_are_listed_largest_first() {
        let chunk = |len| BufferChunk { iova: 0, pa: 0, len };
        let chunks = [0x1_0000, 0x20_0000, 0x1_0000, 0x1000].map(chunk);
        assert_eq!(sizes(&chunks), "1 x 2 MiB, 2 x 64 KiB, 1 x 4 KiB");
    }
}
