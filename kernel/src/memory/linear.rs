//! The linear map: lowmem at a fixed offset, in 4 KiB pages, so that a single page can be unmapped.
//!
//! A lowmem frame that becomes non-cacheable must lose its cacheable alias first, since the CPU may access
//! any valid mapping speculatively (DDI 0487, B2.8, mismatched memory attributes). [`remove_alias`]
//! invalidates the descriptors and the TLBs of all CPUs; then the caller cleans and invalidates the data
//! cache through another mapping. [`restore_alias`] maps the same pages again.

use crate::memory::kernel_tables;
use addr::{AddrRange, Chunk, KernelVa, MemoryType, PhysAddr};
use pagetable::{MapError, Mapping};

/// One past the highest physical address that the linear map can hold.
pub const LIMIT: u64 = 1 << 46;

/// The linear-map address of `address`, which is lowmem.
pub fn address_of(address: PhysAddr) -> KernelVa {
    debug_assert!(address.raw() < LIMIT);
    arch::boot::LINEAR_BASE + address.raw()
}

/// The linear-map range of `range`, which is lowmem.
pub fn range_of(range: AddrRange<PhysAddr>) -> AddrRange<KernelVa> {
    AddrRange::new(address_of(range.start()), address_of(range.end()))
}

/// Maps all of `lowmem`, readable and writable.
///
/// # Safety
/// `lowmem` is RAM, and all other mappings of it are write-back.
pub unsafe fn init(lowmem: impl Iterator<Item = AddrRange<PhysAddr>>) -> Result<(), MapError<KernelVa>> {
    for range in lowmem {
        // SAFETY: passed on to the caller; only the linear map uses its addresses.
        unsafe { kernel_tables::map(address_of(range.start()), Chunk::of_range(range), mapping()) }?;
    }
    Ok(())
}

/// Unmaps the alias of `chunk` and invalidates it in the TLBs of all CPUs. Its lines may still be in the data
/// caches.
///
/// # Safety
/// The caller owns `chunk`, and the alias is not accessed before [`restore_alias`].
pub unsafe fn remove_alias(chunk: Chunk) {
    // SAFETY: passed on to the caller.
    unsafe { kernel_tables::unmap_keeping_tables(range_of(chunk.range())) };
}

/// Maps the alias of `chunk` again. Allocates nothing, since [`remove_alias`] keeps the tables.
///
/// # Safety
/// The caller owns `chunk`, whose alias [`remove_alias`] removed. All mappings of it that are not write-back
/// are removed, and invalidated in all TLBs and IOTLBs.
pub unsafe fn restore_alias(chunk: Chunk) {
    let at = address_of(chunk.start());
    // SAFETY: passed on to the caller; only the linear map uses its addresses.
    let restored = unsafe { kernel_tables::map(at, core::iter::once(chunk), mapping()) };
    if let Err(error) = restored {
        panic!("restoring the linear alias of {chunk:?}: {error:?}");
    }
}

fn mapping() -> Mapping {
    Mapping::read_write(MemoryType::WriteBack).pages_only()
}
