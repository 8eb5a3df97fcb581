//! The device that self-tests move bytes with, and looking at memory that the kernel does not map.

use addr::{Address, Chunk, Iova, MemoryType, PAGE_SIZE, Pfn, PhysAddr};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::slice;
use drivers::dma_engine::{Transfer, TransferDirection};
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::dma::Attachment;
use kernel::memory::window;

/// The first `edu`, or what stands in for it elsewhere; without one there is nothing that moves bytes.
pub fn edu() -> Option<&'static DmaEngineDevice> {
    kernel::devices::dma_engines().next()
}

/// The device reads `len` bytes at `from` into the start of its buffer.
pub fn read_in(edu: &DmaEngineDevice, from: Iova, len: u64) -> Result<(), String> {
    transfer(edu, TransferDirection::FromMemory, from, len)
}

/// The device writes the first `len` bytes of its buffer to `to`.
pub fn write_out(edu: &DmaEngineDevice, to: Iova, len: u64) -> Result<(), String> {
    transfer(edu, TransferDirection::ToMemory, to, len)
}

fn transfer(
    edu: &DmaEngineDevice,
    direction: TransferDirection,
    memory: Iova,
    len: u64,
) -> Result<(), String> {
    edu.transfer(Transfer { direction, memory, offset: 0, len })
        .map(drop)
        .map_err(|error| format!("{direction:?} {len:#x} at {memory}: {error}"))
}

/// The bytes at `offset` of an attached buffer, through windows: the test looks where the kernel otherwise never does.
pub fn peek(attachment: &Attachment, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = alloc::vec![0; len];
    at_each_byte_run(attachment, offset, len, |at, run| bytes[at..at + run.len()].copy_from_slice(run));
    bytes
}

/// Writes `bytes` at `offset` of an attached buffer, through windows.
pub fn poke(attachment: &Attachment, offset: u64, bytes: &[u8]) {
    at_each_byte_run(attachment, offset, bytes.len(), |at, run| {
        run.copy_from_slice(&bytes[at..at + run.len()])
    });
}

fn at_each_byte_run(attachment: &Attachment, offset: u64, len: usize, mut f: impl FnMut(usize, &mut [u8])) {
    let memory = attachment.buffer().memory();
    let mut done = 0;
    while done < len {
        let here = offset + done as u64;
        let Some(frame) = frame_at(attachment.buffer().chunks(), here) else { return };
        let start = (here % PAGE_SIZE) as usize;
        let run = (PAGE_SIZE as usize - start).min(len - done);
        with_page(frame, memory, |page| f(done, &mut page[start..start + run]));
        done += run;
    }
}

/// The frame that holds byte `offset` of a list of chunks.
pub fn frame_at(chunks: impl Iterator<Item = Chunk>, offset: u64) -> Option<PhysAddr> {
    let mut start = 0;
    for chunk in chunks {
        if offset < start + chunk.bytes() {
            return Some((chunk.start() + (offset - start)).align_down(PAGE_SIZE));
        }
        start += chunk.bytes();
    }
    None
}

/// Shows one page of memory of this type.
pub fn with_page(frame: PhysAddr, memory: MemoryType, mut f: impl FnMut(&mut [u8])) {
    let chunk = Chunk::page(Pfn::containing(frame));
    let show = |range: addr::AddrRange<addr::KernelVa>| {
        // SAFETY: the window maps this whole page until the closure returns, and the test is the only one that looks.
        f(unsafe { slice::from_raw_parts_mut(range.start().raw() as *mut u8, PAGE_SIZE as usize) });
    };
    // SAFETY: the callers pass pages of a buffer of their own, with its memory type.
    unsafe {
        match memory {
            MemoryType::WriteBack => window::with_write_back(chunk, show),
            other => window::with_chunk(chunk, other, show),
        }
    }
}
