//! The demonstration and default init: a DMA buffer larger than lowmem, made of chunks scattered over
//! highmem.
//!
//! It fragments free memory, allocates the buffer, fills it through `mmap`, lets a device copy across the
//! boundaries of chunks that are not physically adjacent, in each part that it attaches, verifies every byte,
//! and draws the chunks in IOVA order and in physical order. The kernel never maps the buffer, which the line
//! `vmalloc bytes: 0` shows.
//!
//! `mosaic [--color|--plain] [--size=512M]`. On another kernel, or without the device, it performs the steps
//! that are possible and reports the others.

use std::io::{self, IsTerminal};
use std::ops::Range;
use std::process::ExitCode;

use abi::dma::SyncFlags;
use addr::Size;
use dmabuf::{Buffer, Edu, Heap, Protection, SYSTEM, View};

mod boundary;
mod fragment;
mod layout;
mod pattern;
mod progress;
mod size;
mod summary;

use pattern::CopiedBlock;
use progress::Progress;
use summary::BufferInfo;

/// Larger than lowmem with `make run` (2 GiB of RAM, `lowmem=256M`).
const DEFAULT_SIZE: u64 = 512 << 20;
/// The size of a copy: the device's internal buffer. Half of it is on either side of the chunk boundary.
const PIECE: u64 = abi::edu::EDU_BUFFER_BYTES;
/// The largest part of the buffer that is attached at a time: half of the space below the DMA mask of `edu`.
const LARGEST_PART: u64 = 128 << 20;
/// The size of parts is a multiple of a block mapping.
const PART_ALIGN: u64 = 2 << 20;

/// Command-line options.
struct Options {
    size: u64,
    color: bool,
}

fn main() -> ExitCode {
    let result = parse_options(std::env::args().skip(1)).and_then(|options| run(&options));
    match result {
        Ok(()) => {
            println!("mosaic: all data verified");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("mosaic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse_options(arguments: impl Iterator<Item = String>) -> io::Result<Options> {
    let mut options = Options { size: DEFAULT_SIZE, color: terminal_has_color() };
    for argument in arguments {
        match argument.split_once('=') {
            None if argument == "--color" => options.color = true,
            None if argument == "--plain" => options.color = false,
            Some(("--size", text)) => {
                options.size = size::parse_pages(text)
                    .ok_or_else(|| io::Error::other(format!("--size={text}: invalid size")))?;
            }
            _ => {
                return Err(io::Error::other(format!(
                    "unknown argument {argument}; usage: mosaic [--color|--plain] [--size=512M]"
                )));
            }
        }
    }
    Ok(options)
}

/// Whether stdout is a terminal with colours. A serial console is always a terminal, so the kernel leaves
/// `TERM` unset.
fn terminal_has_color() -> bool {
    let term = std::env::var("TERM").unwrap_or_default();
    io::stdout().is_terminal() && !term.is_empty() && term != "dumb" && std::env::var_os("NO_COLOR").is_none()
}

fn run(options: &Options) -> io::Result<()> {
    let progress = Progress::new(options.color);
    let heap = Heap::open(SYSTEM)?;
    let fragmentation = fragment::fragment(&heap, options.size, &progress)?;
    let buffer = progress.step(&format!("allocate {} from {SYSTEM}", Size(options.size)), || {
        heap.allocate(options.size).map_err(with_hint)
    })?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&buffer, &view, &progress)?;
    let mut report = CopyReport::default();
    let copied = copy(&heap, &buffer, &progress, &mut report);
    verify(&buffer, &view, &report.blocks, &progress)?;
    let info = match report.info {
        Some(info) => Some(info),
        None => BufferInfo::of(&heap, &buffer, 0)?,
    };
    match &info {
        Some(info) => {
            println!("\n{}", layout::draw(&info.chunks, options.color));
            summary::print(&buffer, info);
        }
        None => println!("no chunk information from this kernel: layout not shown"),
    }
    drop(fragmentation);
    copied
}

/// Adds a hint to an allocation error.
fn with_hint(error: io::Error) -> io::Error {
    io::Error::other(format!("{error}; use more memory (MEM=) or a smaller buffer (--size=)"))
}

fn fill(buffer: &Buffer, view: &View, progress: &Progress) -> io::Result<()> {
    buffer.sync(SyncFlags::WRITE)?;
    progress.over("fill the buffer through mmap", view.words(), |words| {
        words.for_each(|index| view.set_word(index, pattern::word(index)));
        Ok(())
    })?;
    buffer.sync(SyncFlags::WRITE | SyncFlags::END)
}

/// The device's copies.
#[derive(Default)]
struct CopyReport {
    /// One block per part, in ascending order.
    blocks: Vec<CopiedBlock>,
    /// The buffer while its first part is attached to the device.
    info: Option<BufferInfo>,
}

/// The parts of a buffer of `bytes` that are attached in order, of about the same size.
fn parts(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let size = bytes.div_ceil(bytes.div_ceil(LARGEST_PART)).next_multiple_of(PART_ALIGN);
    (0..bytes).step_by(size as usize).map(move |start| start..bytes.min(start + size))
}

/// Attaches the buffer to the device part by part, and lets the device copy a block across a chunk boundary
/// to another boundary of the part.
fn copy(heap: &Heap, buffer: &Buffer, progress: &Progress, report: &mut CopyReport) -> io::Result<()> {
    let edu = Edu::open()?;
    for part in parts(buffer.bytes()) {
        let bytes = part.end - part.start;
        let imported = edu.import_range(buffer, part.start, bytes)?;
        let info = BufferInfo::of(heap, buffer, bytes)?;
        let chunks = info.as_ref().map_or(&[][..], |info| &info.chunks);
        let (from, to) = boundary::pick_two(chunks, &part, PIECE)?;
        let address = |at: u64| imported.address + (at - PIECE / 2 - part.start);
        progress.step(&format!("device reads {PIECE} bytes across {from}"), || {
            edu.load(address(from.at), PIECE, 0)
        })?;
        progress.step(&format!("device writes them across {to}"), || edu.store(address(to.at), PIECE, 0))?;
        let word = |at: u64| ((at - PIECE / 2) / 8) as usize;
        let words = (PIECE / 8) as usize;
        report.blocks.push(CopiedBlock { from: word(from.at), to: word(to.at), words });
        if report.info.is_none() {
            report.info = BufferInfo::of(heap, buffer, bytes)?;
        }
    }
    Ok(())
}

/// Verifies every word of the buffer: the fill pattern, except for the blocks written by the device.
fn verify(buffer: &Buffer, view: &View, copied: &[CopiedBlock], progress: &Progress) -> io::Result<()> {
    let mut copied = copied.iter().copied().peekable();
    buffer.sync(SyncFlags::READ)?;
    progress.over("verify every byte", view.words(), |words| {
        for index in words {
            while copied.next_if(|block| block.to + block.words <= index).is_some() {}
            let expected = pattern::expected(index, copied.peek().copied());
            if view.word(index) != expected {
                let (at, found) = (index * 8, view.word(index));
                return Err(io::Error::other(format!(
                    "at {at:#x}: {found:#018x} instead of {expected:#018x}"
                )));
            }
        }
        Ok(())
    })?;
    buffer.sync(SyncFlags::READ | SyncFlags::END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_buffer_and_none_is_small() {
        const MIB: u64 = 1 << 20;
        for (bytes, sizes) in [
            (512 * MIB, vec![128 * MIB; 4]),
            (256 * MIB, vec![128 * MIB; 2]),
            (130 * MIB, vec![66 * MIB, 64 * MIB]),
            (68 << 10, vec![68 << 10]),
        ] {
            let found: Vec<_> = parts(bytes).collect();
            assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start), "{found:?}");
            assert_eq!(found.iter().map(|part| part.end - part.start).collect::<Vec<_>>(), sizes);
        }
    }
}
