//! The demonstration, and the default init: one buffer, larger than lowmem, made of tiles that lie anywhere in RAM.
//!
//! It scatters free memory on purpose, allocates the buffer, fills it through `mmap`, lets a device copy across the
//! border of two tiles that are not neighbours, checks every byte, and draws the mosaic. The kernel never has a mapping
//! of the buffer: that is what the line `vmalloc bytes: 0` says.
//!
//! `mosaic [--color] [--size=512M]`; on another kernel or without the device it does what can be done, and says so.

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

/// Larger than lowmem on the machine that `make run` starts (2 GiB, `lowmem=256M`).
const DEFAULT_SIZE: u64 = 512 << 20;
/// What edu holds; half of it on either side of a border.
const PIECE: u64 = abi::edu::EDU_BUFFER_BYTES;

/// What the arguments ask for.
struct Options {
    size: u64,
    colour: bool,
}

fn main() -> ExitCode {
    let result = wanted(std::env::args().skip(1)).and_then(|wanted| show(&wanted));
    match result {
        Ok(()) => {
            println!("mosaic: every byte is where it belongs");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("mosaic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wanted(arguments: impl Iterator<Item = String>) -> io::Result<Options> {
    let mut wanted = Options { size: DEFAULT_SIZE, colour: terminal_has_colour() };
    for argument in arguments {
        match argument.split_once('=') {
            None if argument == "--color" => wanted.colour = true,
            None if argument == "--plain" => wanted.colour = false,
            Some(("--size", text)) => {
                wanted.size = size::parse_pages(text)
                    .ok_or_else(|| io::Error::other(format!("--size={text}: not a size")))?;
            }
            _ => {
                return Err(io::Error::other(format!(
                    "{argument}: unknown; [--color|--plain] [--size=512M]"
                )));
            }
        }
    }
    Ok(wanted)
}

/// A serial line looks like a terminal whoever listens, so a kernel that has one sets no `TERM`.
fn terminal_has_colour() -> bool {
    let term = std::env::var("TERM").unwrap_or_default();
    io::stdout().is_terminal() && !term.is_empty() && term != "dumb" && std::env::var_os("NO_COLOR").is_none()
}

fn show(wanted: &Options) -> io::Result<()> {
    let progress = Progress::new(wanted.colour);
    let heap = Heap::open(SYSTEM)?;
    let held = fragment::fragment(&heap, wanted.size, &progress)?;
    let buffer = progress.step(&format!("allocate {} from {SYSTEM}", Size(wanted.size)), || {
        heap.allocate(wanted.size).map_err(too_large)
    })?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&buffer, &view, &progress)?;
    let copied = copy(&heap, &buffer, &view, &progress);
    verify(&buffer, &view, copied.as_ref().ok(), &progress)?;
    let description = match &copied {
        Ok(copied) => &copied.description,
        Err(_) => &BufferInfo::of(&heap, &buffer)?,
    };
    match description {
        Some(description) => {
            println!("\n{}", layout::draw(&description.chunks, wanted.colour));
            summary::print(&buffer, description);
        }
        None => println!("this kernel does not tell where a buffer lies: no picture"),
    }
    drop(held);
    copied.map(drop)
}

/// Says what a person can do about it.
fn too_large(error: io::Error) -> io::Error {
    io::Error::other(format!("{error}; more memory, or --size=, would help"))
}

fn fill(buffer: &Buffer, view: &View, progress: &Progress) -> io::Result<()> {
    buffer.sync(SyncFlags::WRITE)?;
    progress.over("fill it through mmap", view.words(), |words| {
        words.for_each(|index| view.set_word(index, pattern::word(index)));
        Ok(())
    })?;
    buffer.sync(SyncFlags::WRITE | SyncFlags::END)
}

/// What the device did.
struct CopyReport {
    /// It read across this border.
    from: ChunkBoundary,
    /// It wrote across this one.
    to: ChunkBoundary,
    /// The buffer while the device had it.
    description: Option<BufferInfo>,
}

/// Lets edu carry a piece from across one border to across another.
fn copy(heap: &Heap, buffer: &Buffer, view: &View, progress: &Progress) -> io::Result<CopyReport> {
    let edu = Edu::open()?;
    let imported = edu.import(buffer)?;
    let description = BufferInfo::of(heap, buffer)?;
    let chunks = description.as_ref().map_or(&[][..], |description| &description.chunks);
    let (from, to) = boundary::pick_two(chunks, view.bytes() as u64, PIECE)?;
    progress.step(&format!("edu reads {PIECE} bytes across {from}"), || {
        edu.load(imported.address + from.at - PIECE / 2, PIECE, 0)
    })?;
    progress.step(&format!("edu writes them across {to}"), || {
        edu.store(imported.address + to.at - PIECE / 2, PIECE, 0)
    })?;
    Ok(CopyReport { from, to, description: BufferInfo::of(heap, buffer)? })
}

/// Every word of the buffer: the pattern, except for the piece that the device wrote.
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
