//! Mounting the initramfs.

use super::root;
use crate::memory::vmalloc::{self, VmallocError};
use addr::{AddrRange, Chunk, MemoryType, PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::fmt;
use pagetable::Mapping;
use program::InitramfsError;

/// Why there are no files.
#[derive(Debug)]
pub enum MountError {
    /// The archive cannot be mapped.
    Map(VmallocError),
    /// The archive is damaged.
    Initramfs(InitramfsError),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "cannot be mapped: {error:?}"),
            Self::Initramfs(error) => error.fmt(f),
        }
    }
}

/// Mounts the archive in this part of RAM, which neither zone has.
pub fn mount(archive: AddrRange<PhysAddr>) -> Result<(), MountError> {
    // Mapped on its own: it may be in highmem.
    let pages = archive.align_outward(PAGE_SIZE).unwrap_or(archive);
    let mapping = Mapping::read_only(MemoryType::WriteBack);
    // SAFETY: the archive is reserved RAM, which nothing writes; where it is lowmem, its linear alias is write-back too.
    let mapped = unsafe { vmalloc::REGISTERS.map(chunks(pages).iter().copied(), PAGE_SIZE, mapping) };
    let mapped = mapped.map_err(MountError::Map)?.leak();
    let start = mapped.start().raw() + (archive.start().raw() - pages.start().raw());
    // SAFETY: mapped for good just now, with everything from `archive.start()` to its end; boot took it out of both
    // zones, so nothing ever writes it.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, archive.len() as usize) };
    root::mount(bytes).map_err(MountError::Initramfs)
}

fn chunks(pages: AddrRange<PhysAddr>) -> Vec<Chunk> {
    Chunk::of_range(pages).collect()
}
