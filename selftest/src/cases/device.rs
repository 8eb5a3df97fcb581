//! The DMA device of the self-tests, and access to memory without a kernel mapping.

use addr::{AddrRange, Address, Chunk, Iova, MemoryType, PAGE_SIZE, Pfn, PhysAddr};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::slice;
use drivers::dma_engine::{Transfer, TransferDirection};
use kernel::devices::dma_engine::DmaEngineDevice;
use kernel::dma::Attachment;
use kernel::memory::window;

/// Returns the first `edu`, or the DMA engine of a board without one.
pub fn edu() -> Option<&'static DmaEngineDevice> {
    kernel::devices::dma_engines().next()
}

/// Lets the device read `len` bytes at `from` into the start of its internal buffer.
pub fn read_in(edu: &DmaEngineDevice, from: Iova, len: u64) -> Result<(), String> {
    transfer(edu, TransferDirection::FromMemory, from, len)
}

/// Lets the device write the first `len` bytes of its internal buffer to `to`.
pub fn write_out(edu: &DmaEngineDevice, to: Iova, len: u64) -> Result<(), String> {
    transfer(edu, TransferDirection::ToMemory, to, len)
}

fn transfer(
    edu: &DmaEngineDevice,
    direction: TransferDirection,
    memory: Iova,
    len: u64,
) -> Result<(), String> {
    // SAFETY: the tests pass memory that is mapped for the device, or behind an IOMMU any address. The test
    // of the poison without an IOMMU lets the device write to a freed page of its own.
    let transfer = unsafe { Transfer::new(direction, AddrRange::new(memory, memory + len), 0) };
    edu.transfer(transfer).map(drop).map_err(|error| format!("{direction:?} {len:#x} at {memory}: {error}"))
}

/// Returns the bytes at `offset` of an attached buffer, read through windows.
pub fn peek(attachment: &Attachment, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = alloc::vec![0; len];
    for_each_run(attachment, offset, len, |at, run| bytes[at..at + run.len()].copy_from_slice(run));
    bytes
}

/// Writes `bytes` at `offset` of an attached buffer, through windows.
pub fn poke(attachment: &Attachment, offset: u64, bytes: &[u8]) {
    for_each_run(attachment, offset, bytes.len(), |at, run| run.copy_from_slice(&bytes[at..at + run.len()]));
}

fn for_each_run(attachment: &Attachment, offset: u64, len: usize, mut f: impl FnMut(usize, &mut [u8])) {
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

/// Returns the frame of byte `offset` of a list of chunks.
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

/// Calls `f` with the bytes of a page, mapped in a window with this memory type.
pub fn with_page(frame: PhysAddr, memory: MemoryType, mut f: impl FnMut(&mut [u8])) {
    let chunk = Chunk::page(Pfn::containing(frame));
    let access = |range: addr::AddrRange<addr::KernelVa>| {
        // SAFETY: the window maps the whole page until the closure returns; the test has the only reference.
        f(unsafe { slice::from_raw_parts_mut(range.start().raw() as *mut u8, PAGE_SIZE as usize) });
    };
    // SAFETY: the callers own the page and pass its memory type.
    unsafe {
        match memory {
            MemoryType::WriteBack => window::with_write_back(chunk, access),
            other => window::with_chunk(chunk, other, access),
        }
    }
}
