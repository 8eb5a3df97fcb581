//! From an address of the kernel's to a pointer.

use addr::KernelVa;

/// The pointer to `va`, which the kernel maps. On a host, where the kernel maps nothing, the pointer is into whatever the
/// test has in place of memory ([`fake::map_memory`](crate::fake)).
#[inline]
pub fn to<T>(va: KernelVa) -> *mut T {
    #[cfg(target_os = "none")]
    let address = va.raw();
    #[cfg(not(target_os = "none"))]
    let address = crate::fake::address_of(va);
    core::ptr::with_exposed_provenance_mut(address as usize)
}
