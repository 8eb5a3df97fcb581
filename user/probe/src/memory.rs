//! New memory is zeroed, and freed memory is reusable.

use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;

use dmabuf::{CONTIGUOUS, Heap, Protection, SYSTEM, UNCACHED, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure};

const MIB: usize = 1 << 20;
/// The value that must not reappear in reused memory.
const SECRET: u64 = 0x5ec5_e75e_c5e7_5ec5;

fn expect_content(view: &View, expected: u64) -> ProbeResult {
    match (0..view.words()).find(|&index| view.word(index) != expected) {
        None => Ok(()),
        Some(index) => {
            ensure(false, || format!("word {index} is {:#x}, not {expected:#x}", view.word(index)))
        }
    }
}

fn fill(view: &View, value: u64) {
    (0..view.words()).for_each(|index| view.set_word(index, value));
}

/// Anonymous memory is zeroed, also after reuse.
pub fn anonymous(_: &[String]) -> ProbeResult {
    for _ in 0..iterations(20) {
        let view = View::anonymous(8 * MIB + 4096)?;
        expect_content(&view, 0)?;
        fill(&view, SECRET);
        expect_content(&view, SECRET)?;
    }
    Ok(())
}

/// The allocator of std grows and shrinks the heap (brk and mmap).
pub fn heap_growth(_: &[String]) -> ProbeResult {
    for round in 0..iterations(50) as usize {
        let blocks: Vec<Vec<u8>> = (0..64).map(|n| vec![n as u8; 1 + n * 997 + round * 64]).collect();
        let wrong = blocks.iter().enumerate().find(|(n, block)| block.iter().any(|byte| *byte != *n as u8));
        ensure(wrong.is_none(), || format!("round {round}: block {:?}", wrong.map(|(n, _)| n)))?;
    }
    Ok(())
}

/// Buffers of every heap are zeroed, also after reuse.
pub fn zeroed_buffers(_: &[String]) -> ProbeResult {
    for path in [SYSTEM, UNCACHED, CONTIGUOUS] {
        let heap = Heap::open(path)?;
        for len in [4096, 3 * MIB + 4096, 16 * MIB, 3 * MIB + 4096] {
            let buffer = heap.allocate(len as u64)?;
            let view = buffer.map(Protection::ReadWrite)?;
            expect_content(&view, 0)?;
            fill(&view, SECRET);
            expect_content(&view, SECRET)?;
        }
    }
    Ok(())
}

/// `lseek` returns the size of a buffer, in whole pages.
pub fn buffer_size(_: &[String]) -> ProbeResult {
    let heap = Heap::open(SYSTEM)?;
    for (wanted, given) in [(1, 4096), (4096, 4096), (4097, 8192), (5 << 20, 5 << 20)] {
        let buffer = heap.allocate(wanted)?;
        let mut file = std::fs::File::from(buffer.as_fd().try_clone_to_owned()?);
        let (end, start) = (file.seek(SeekFrom::End(0))?, file.seek(SeekFrom::Start(0))?);
        ensure((end, start) == (given, 0), || format!("{wanted} bytes give {end}, start {start}"))?;
    }
    Ok(())
}

/// A mapping keeps its buffer alive after the descriptor is closed; two mappings share the content.
pub fn view_outlives_descriptor(_: &[String]) -> ProbeResult {
    let buffer = Heap::open(SYSTEM)?.allocate(2 * MIB as u64)?;
    let first = buffer.map(Protection::ReadWrite)?;
    let second = buffer.map(Protection::Read)?;
    drop(buffer);
    fill(&first, SECRET);
    expect_content(&second, SECRET)?;
    drop(first);
    expect_content(&second, SECRET)
}
