//! Mounting the initramfs.

use super::root;
use crate::memory::vmalloc::{self, VmallocError};
use addr::{AddrRange, Chunk, MemoryType, PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::fmt;
use pagetable::Mapping;
use program::ArchiveError;

/// Why the initramfs is not mounted.
#[derive(Debug)]
pub enum MountError {
    /// The archive cannot be mapped.
    Map(VmallocError),
    /// The archive is invalid.
    Initramfs(ArchiveError),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "cannot be mapped: {error:?}"),
            Self::Initramfs(error) => error.fmt(f),
        }
    }
}

/// Mounts the archive in this range of RAM.
///
/// # Safety
/// The range was reserved at boot: it is RAM in no zone, and nothing writes it.
pub unsafe fn mount(archive: AddrRange<PhysAddr>) -> Result<(), MountError> {
    // It may be in highmem, outside of the linear map.
    let pages = archive.align_outward(PAGE_SIZE).unwrap_or(archive);
    let mapping = Mapping::read_only(MemoryType::WriteBack);
    // SAFETY: the archive is reserved RAM (the caller's promise); where it is lowmem, its linear alias is
    // write-back too.
    let mapped = unsafe { vmalloc::REGISTERS.map(chunks(pages).iter().copied(), PAGE_SIZE, mapping) };
    let mapped = mapped.map_err(MountError::Map)?.leak();
    let start = mapped.start().raw() + (archive.start().raw() - pages.start().raw());
    // SAFETY: mapped permanently above, from `archive.start()` to its end; reserved at boot, so no zone has
    // it and nothing writes it.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, archive.len() as usize) };
    root::mount(bytes).map_err(MountError::Initramfs)
}

fn chunks(pages: AddrRange<PhysAddr>) -> Vec<Chunk> {
    Chunk::of_range(pages).collect()
}
