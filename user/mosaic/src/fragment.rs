//! Makes free memory look as it does after a long day: many holes of 64 KiB to 2 MiB, none of them neighbours.

use std::io;

use dmabuf::{Buffer, Heap};

use crate::progress::Progress;
use crate::size;

const SMALLEST: u64 = 64 << 10;
/// Doublings of the smallest: up to 2 MiB.
const SIZES: u64 = 6;
/// How much is scattered where nobody says how much memory there is.
const UNMEASURED: u64 = 128 << 20;
/// Percent of holes beyond what the buffer needs, so that it need not take the very last.
const SPARE: u64 = 3;

/// What keeps the holes apart; dropped, memory is whole again.
pub struct FragmentedMemory {
    _buffers: Vec<Buffer>,
}

/// Fills highmem with small buffers and frees every second one, until the holes hold `wanted` bytes and a little more.
pub fn fragment(heap: &Heap, wanted: u64, progress: &Progress) -> io::Result<FragmentedMemory> {
    let mut all = progress.step("fill highmem with small buffers", || fill(heap))?;
    let (count, bytes) = (all.len(), total(&all));
    let holes = punch(&mut all, wanted + wanted * SPARE / 100);
    let which = if holes.0 <= count.div_ceil(2) { "every second one" } else { "most of them" };
    println!(
        "  {count} buffers, {}; freed {which}: {} holes, {}",
        size::about(bytes),
        holes.0,
        size::about(holes.1)
    );
    Ok(FragmentedMemory { _buffers: all })
}

/// Small buffers until highmem is used up: the first one in lowmem is the sign, and goes back.
fn fill(heap: &Heap) -> io::Result<Vec<Buffer>> {
    let low = |heap: &Heap| heap.statistics().ok().map(|statistics| statistics.low_bytes.now);
    let before = low(heap);
    let mut all: Vec<Buffer> = Vec::new();
    let mut dice = 0x7e55_e4a5_u64;
    loop {
        let buffer = match heap.allocate(roll(&mut dice)) {
            Ok(buffer) => buffer,
            Err(_) if !all.is_empty() => return Ok(all),
            Err(error) => return Err(error),
        };
        let enough = match before {
            Some(before) => low(heap) > Some(before),
            None => total(&all) > UNMEASURED,
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

/// 64 KiB to 2 MiB, each as likely as the other (xorshift: the same holes in every run).
fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    SMALLEST << ((*dice >> 32) % SIZES)
}

/// The buffers that are freed, of any eight in a row: every second one, and others only if these are not enough.
const FREED: [usize; 7] = [0, 2, 4, 6, 1, 5, 3];

/// Frees buffers, in rounds over all of memory, until `wanted` bytes are free; how many, how much.
fn punch(all: &mut Vec<Buffer>, wanted: u64) -> (usize, u64) {
    let mut slots: Vec<Option<Buffer>> = all.drain(..).map(Some).collect();
    let (mut holes, mut bytes, count) = (0, 0, slots.len());
    for index in FREED.into_iter().flat_map(|first| (first..count).step_by(8)) {
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
    fn every_size_between_64_kib_and_2_mib_comes_up() {
        let mut dice = 0x7e55_e4a5;
        let sizes: BTreeSet<u64> = (0..200).map(|_| roll(&mut dice)).collect();
        assert_eq!(sizes, (16..22).map(|shift| 1 << shift).collect());
    }
}
