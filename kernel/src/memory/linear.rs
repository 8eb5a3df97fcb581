//! The linear map: lowmem at a fixed distance, in 4 KiB pages, so that a page can be taken out alone.
//!
//! A low frame that becomes non-cacheable must lose its cacheable alias first, since the CPU may read through any
//! valid mapping by speculation (DDI 0487, B2.8, mismatched memory attributes): [`remove_alias`] makes the entries
//! invalid, waits for the TLBs of all CPUs, and only then is the data cleaned and invalidated from the caches
//! through another mapping. [`restore_alias`] puts the same entries back.

use crate::memory::kernel_tables;
use addr::{AddrRange, Chunk, KernelVa, MemoryType, PhysAddr};
use pagetable::{MapError, Mapping};

/// One past the highest physical address that fits.
pub const LIMIT: u64 = 1 << 46;

/// Where the linear map has `address`, which is lowmem.
pub fn address_of(address: PhysAddr) -> KernelVa {
    debug_assert!(address.raw() < LIMIT);
    arch::boot::LINEAR_BASE + address.raw()
}

/// Where the linear map has all of `range`.
pub fn range_of(range: AddrRange<PhysAddr>) -> AddrRange<KernelVa> {
    AddrRange::new(address_of(range.start()), address_of(range.end()))
}

/// Maps all of `lowmem`, less what `holes` name, readable and writable.
///
/// # Safety
/// `lowmem` is RAM, mapped nowhere else as anything but write-back memory.
pub unsafe fn init(lowmem: impl Iterator<Item = AddrRange<PhysAddr>>) -> Result<(), MapError<KernelVa>> {
    for range in lowmem {
        // SAFETY: passed on to the caller; the linear map alone uses its addresses.
        unsafe { kernel_tables::map(address_of(range.start()), Chunk::of_range(range), mapping()) }?;
    }
    Ok(())
}

/// Takes the alias of `chunk` away and returns when no CPU has it any more. Its lines may still be in the caches.
///
/// # Safety
/// The caller owns `chunk`, and nothing uses the alias before [`restore_alias`].
pub unsafe fn remove_alias(chunk: Chunk) {
    // SAFETY: passed on to the caller.
    unsafe { kernel_tables::unmap_keeping_tables(range_of(chunk.range())) };
}

/// Puts the alias of `chunk` back, which [`remove_alias`] took. Every other mapping of it that is not write-back is gone
/// already, everywhere. Needs no memory, since the tables have stayed.
///
/// # Safety
/// The caller owns `chunk`, whose alias [`remove_alias`] removed. No mapping of it with another memory type is left.
pub unsafe fn restore_alias(chunk: Chunk) {
    let at = address_of(chunk.start());
    // SAFETY: passed on to the caller; the linear map alone uses its addresses.
    let restored = unsafe { kernel_tables::map(at, core::iter::once(chunk), mapping()) };
    if let Err(error) = restored {
        panic!("alias of {chunk:?}: {error:?}");
    }
}

fn mapping() -> Mapping {
    Mapping::read_write(MemoryType::WriteBack).pages_only()
}
