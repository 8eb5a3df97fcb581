//! The demonstration and default init: a DMA buffer larger than lowmem, made of chunks scattered over
//! highmem.
//!
//! It fragments free memory, allocates the buffer, fills it through `mmap`, lets a device copy across the
//! boundaries of chunks that are not physically adjacent, verifies every byte, and draws the chunks in IOVA
//! order and in physical order. The kernel never maps the buffer, which the line `vmalloc bytes: 0` shows.
//!
//! `mosaic [--color|--plain] [--size=512M]`. On another kernel, or without the device, it performs the steps
//! that are possible and reports the others.

use std::io::{self, IsTerminal};
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

use boundary::ChunkBoundary;
use progress::Progress;
use summary::BufferInfo;

/// Larger than lowmem with `make run` (2 GiB of RAM, `lowmem=256M`).
const DEFAULT_SIZE: u64 = 512 << 20;
/// The size of a copy: the device's internal buffer. Half of it is on either side of the chunk boundary.
const PIECE: u64 = abi::edu::EDU_BUFFER_BYTES;

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
    let copied = copy(&heap, &buffer, &view, &progress);
    verify(&buffer, &view, copied.as_ref().ok(), &progress)?;
    let info = match &copied {
        Ok(copied) => &copied.info,
        Err(_) => &BufferInfo::of(&heap, &buffer)?,
    };
    match info {
        Some(info) => {
            println!("\n{}", layout::draw(&info.chunks, options.color));
            summary::print(&buffer, info);
        }
        None => println!("no chunk information from this kernel: layout not shown"),
    }
    drop(fragmentation);
    copied.map(drop)
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

/// The device's copy.
struct CopyReport {
    /// The source, centred on this boundary.
    from: ChunkBoundary,
    /// The destination, centred on this boundary.
    to: ChunkBoundary,
    /// The buffer while attached to the device.
    info: Option<BufferInfo>,
}

/// Lets the device copy a block across a chunk boundary to another boundary.
fn copy(heap: &Heap, buffer: &Buffer, view: &View, progress: &Progress) -> io::Result<CopyReport> {
    let edu = Edu::open()?;
    let imported = edu.import(buffer)?;
    let info = BufferInfo::of(heap, buffer)?;
    let chunks = info.as_ref().map_or(&[][..], |info| &info.chunks);
    let (from, to) = boundary::pick_two(chunks, view.bytes() as u64, PIECE)?;
    progress.step(&format!("device reads {PIECE} bytes across {from}"), || {
        edu.load(imported.address + from.at - PIECE / 2, PIECE, 0)
    })?;
    progress.step(&format!("device writes them across {to}"), || {
        edu.store(imported.address + to.at - PIECE / 2, PIECE, 0)
    })?;
    Ok(CopyReport { from, to, info: BufferInfo::of(heap, buffer)? })
}

/// Verifies every word of the buffer: the fill pattern, except for the block written by the device.
fn verify(buffer: &Buffer, view: &View, copied: Option<&CopyReport>, progress: &Progress) -> io::Result<()> {
    let start = |boundary: ChunkBoundary| ((boundary.at - PIECE / 2) / 8) as usize;
    let words = (PIECE / 8) as usize;
    let moved =
        copied.map(|copied| pattern::CopiedBlock { from: start(copied.from), to: start(copied.to), words });
    buffer.sync(SyncFlags::READ)?;
    progress.over("verify every byte", view.words(), |words| {
        for index in words {
            let expected = pattern::expected(index, moved);
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
