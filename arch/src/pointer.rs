//! Conversion of a kernel virtual address to a pointer.

use addr::KernelVa;

/// The pointer to `va`. On a host it points into the memory that the test provides
/// ([`fake::map_memory`](crate::fake)).
#[inline]
pub fn to<T>(va: KernelVa) -> *mut T {
    #[cfg(target_os = "none")]
    let address = va.raw();
    #[cfg(not(target_os = "none"))]
    let address = crate::fake::address_of(va);
    core::ptr::with_exposed_provenance_mut(address as usize)
}
