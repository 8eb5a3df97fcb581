//! Fragmentation of free memory, as after a long uptime: many non-adjacent holes of 64 KiB to 2 MiB.

use std::io;

use dmabuf::{Buffer, Heap};

use crate::progress::Progress;
use crate::size;

const SMALLEST: u64 = 64 << 10;
/// The number of sizes, each twice the previous one: up to 2 MiB.
const SIZES: u64 = 6;
/// Bytes to allocate if the kernel does not report its memory use.
const DEFAULT_FILL: u64 = 128 << 20;
/// Extra free memory in percent of the buffer, so that it does not need every hole.
const RESERVE_PERCENT: u64 = 3;

/// The buffers between the holes; dropping them ends the fragmentation.
pub struct FragmentedMemory {
    _buffers: Vec<Buffer>,
}

/// Fills highmem with small buffers and frees every second one until `wanted` bytes and a reserve are free.
pub fn fragment(heap: &Heap, wanted: u64, progress: &Progress) -> io::Result<FragmentedMemory> {
    let mut all = progress.step("fill highmem with small buffers", || fill(heap))?;
    let (count, bytes) = (all.len(), total(&all));
    let holes = punch_holes(&mut all, wanted + wanted * RESERVE_PERCENT / 100);
    let which = if holes.0 <= count.div_ceil(2) { "every second buffer" } else { "most buffers" };
    println!(
        "  {count} buffers, {}; freed {which}: {} holes, {}",
        size::about(bytes),
        holes.0,
        size::about(holes.1)
    );
    Ok(FragmentedMemory { _buffers: all })
}

/// Allocates small buffers until highmem is exhausted, which shows as the first buffer in lowmem; that one is
/// freed.
fn fill(heap: &Heap) -> io::Result<Vec<Buffer>> {
    let low = |heap: &Heap| heap.statistics().ok().map(|statistics| statistics.low_bytes.now);
    let before = low(heap);
    let mut all: Vec<Buffer> = Vec::new();
    let mut state = 0x7e55_e4a5_u64;
    loop {
        let buffer = match heap.allocate(random_size(&mut state)) {
            Ok(buffer) => buffer,
            Err(_) if !all.is_empty() => return Ok(all),
            Err(error) => return Err(error),
        };
        let enough = match before {
            Some(before) => low(heap) > Some(before),
            None => total(&all) > DEFAULT_FILL,
        };
        if enough {
            return Ok(all);
        }
        all.push(buffer);
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(Buffer::bytes).sum()
}

/// A random size from 64 KiB to 2 MiB, uniform over the powers of two (xorshift: the same sizes in every
/// run).
fn random_size(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    SMALLEST << ((*state >> 32) % SIZES)
}

/// The order in which the buffers of each group of eight are freed: every second one first.
const FREE_ORDER: [usize; 7] = [0, 2, 4, 6, 1, 5, 3];

/// Frees buffers, spread over all of memory, until `wanted` bytes are free. Returns the number of holes and
/// of bytes.
fn punch_holes(all: &mut Vec<Buffer>, wanted: u64) -> (usize, u64) {
    let mut slots: Vec<Option<Buffer>> = all.drain(..).map(Some).collect();
    let (mut holes, mut bytes, count) = (0, 0, slots.len());
    for index in FREE_ORDER.into_iter().flat_map(|first| (first..count).step_by(8)) {
        if bytes >= wanted {
            break;
        }
        if let Some(buffer) = slots[index].take() {
            holes += 1;
            bytes += buffer.bytes();
        }
    }
    all.extend(slots.into_iter().flatten());
    (holes, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_sizes_from_64_kib_to_2_mib_occur() {
        let mut state = 0x7e55_e4a5;
        let sizes: BTreeSet<u64> = (0..200).map(|_| random_size(&mut state)).collect();
        assert_eq!(sizes, (16..22).map(|shift| 1 << shift).collect());
    }
}
