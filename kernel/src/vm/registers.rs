//! Registers of a device that programs map (BARs of functions with user-space drivers).
//!
//! Pages are mapped by the first access. The driver disables the region before the registers do not respond,
//! as during a reset, and removes its pages from all address spaces
//! ([`AddressSpace::revoke`](super::address_space::AddressSpace::revoke)): an access then ends with SIGBUS.

use crate::memory::heap;
use addr::{AddrRange, MemoryType, PhysAddr};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Registers that a program can map, whole pages.
#[derive(Debug)]
pub struct RegisterRegion {
    range: AddrRange<PhysAddr>,
    memory: MemoryType,
    is_enabled: AtomicBool,
    /// Mappings for other devices.
    device_mappings: AtomicU32,
}

/// A mapping of registers for another device, which their next user waits for.
#[derive(Debug)]
pub struct DeviceMapping(Arc<RegisterRegion>);

impl DeviceMapping {
    /// `None` if the region is disabled.
    pub fn new(region: Arc<RegisterRegion>) -> Option<Self> {
        // Counted before the test: a driver disables the region and then reads the count.
        region.device_mappings.fetch_add(1, Ordering::SeqCst);
        let mapping = Self(region);
        mapping.0.is_enabled.load(Ordering::SeqCst).then_some(mapping)
    }

    pub fn memory(&self) -> MemoryType {
        self.0.memory
    }
}

impl Drop for DeviceMapping {
    fn drop(&mut self) {
        self.0.device_mappings.fetch_sub(1, Ordering::SeqCst);
    }
}

impl RegisterRegion {
    /// A region that is enabled. `None` without memory.
    ///
    /// # Safety
    /// The range has no RAM, and the caller's user may access the registers as long as the region is enabled;
    /// all mappings of them have this memory type.
    pub unsafe fn new(range: AddrRange<PhysAddr>, memory: MemoryType) -> Option<Arc<Self>> {
        let (is_enabled, device_mappings) = (AtomicBool::new(true), AtomicU32::new(0));
        heap::try_arc(Self { range, memory, is_enabled, device_mappings })
    }

    pub fn range(&self) -> AddrRange<PhysAddr> {
        self.range
    }

    pub fn memory(&self) -> MemoryType {
        self.memory
    }

    pub fn is_enabled(&self) -> bool {
        self.is_enabled.load(Ordering::Acquire)
    }

    /// Enables or disables the region. The pages of a disabled one are still mapped until they are revoked;
    /// none is mapped again: page faults read the state with the lock of the address space, which a
    /// revocation takes later.
    pub fn set_enabled(&self, is_enabled: bool) {
        self.is_enabled.store(is_enabled, Ordering::SeqCst);
    }

    /// Whether other devices have the registers mapped.
    pub fn is_mapped_for_devices(&self) -> bool {
        self.device_mappings.load(Ordering::SeqCst) > 0
    }

    /// Returns `len` bytes from `offset` on; `None` unless they are inside.
    pub fn part(&self, offset: u64, len: u64) -> Option<AddrRange<PhysAddr>> {
        let start = self.range.start().raw().checked_add(offset)?;
        let part = AddrRange::from_len(PhysAddr::new(start), len)?;
        self.range.covers(&part).then_some(part)
    }
}
