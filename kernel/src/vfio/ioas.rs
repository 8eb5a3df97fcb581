//! I/O address spaces that a program manages: its mappings, and the domains of the devices attached to them.
//!
//! A mapping pins its memory once and is in each domain. Its memory is given up after all domains have
//! completed its invalidation.

use super::group::message_window;
use crate::debug::{self, DebugTag, FailPoint};
use crate::dma::{ChunkedBuffer, Domain};
use crate::fs::dma_buf::errno;
use crate::iommu::{self, Smmu};
use crate::memory::heap;
use crate::sched::{Mutex, MutexGuard};
use crate::vm::pages::PinnedPages;
use crate::vm::registers::DeviceMapping;
use abi::Errno;
use addr::{AddrRange, Chunk, Iova, MemoryType, PAGE_SIZE, PhysAddr};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use dma_api::DmaError;
use memory::RangeMap;
use pagetable::Mapping;

/// The heap memory that mappings leave for other work.
const HEAP_RESERVE: usize = 256 << 10;

/// The memory of a mapping.
pub enum MappedMemory {
    /// Pages of the program.
    Pages(PinnedPages),
    /// Bytes of a buffer.
    Buffer(Arc<ChunkedBuffer>, Range<u64>),
    /// Registers of a device, with the region that they are in: of another function, which then receives
    /// requests of this one.
    Registers(DeviceMapping, AddrRange<PhysAddr>),
}

impl MappedMemory {
    /// Maps the memory at `range`, which is as long.
    ///
    /// # Safety
    /// It is kept until the range is unmapped.
    unsafe fn map(&self, domain: &Domain, range: AddrRange<Iova>, is_written: bool) -> Result<(), DmaError> {
        let mapping = |memory| {
            let memory = domain.device_memory(memory);
            if is_written { Mapping::read_write(memory) } else { Mapping::read_only(memory) }
        };
        let mapped = match self {
            Self::Pages(pages) => {
                let whole = |segment: &dma_api::PhysSegment| -> AddrRange<PhysAddr> {
                    AddrRange::new(segment.start, segment.start + segment.len)
                };
                let runs = pages.segments().iter().map(whole);
                // SAFETY: the pins keep the pages, as the caller promises.
                unsafe { domain.map_at(range, runs, mapping(MemoryType::WriteBack)) }
            }
            Self::Buffer(buffer, part) => {
                // SAFETY: the buffer owns its chunks, as the caller promises.
                unsafe { domain.map_at(range, buffer.chunks_of(part), mapping(buffer.memory())) }
            }
            Self::Registers(users, registers) => {
                let memory = users.memory();
                let mapping =
                    if is_written { Mapping::read_write(memory) } else { Mapping::read_only(memory) };
                // SAFETY: registers are no memory that could be freed.
                unsafe { domain.map_at(range, Chunk::of_range(*registers), mapping) }
            }
        };
        if mapped.is_ok() {
            debug::mapping_added(&DebugTag::new("vfio", range.len(), None), domain.key(), range);
        }
        mapped
    }
}

struct IoMapping {
    memory: MappedMemory,
    /// Whether devices may write.
    is_written: bool,
    /// An IOMMU did not complete the invalidation: the memory is never freed.
    is_lost: bool,
}

/// The part of the mappings that an unmap selects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnmapRule {
    /// Mappings inside the range, none across its ends.
    Whole,
    /// The mapping at the start of the range with all its bytes, and those that follow up to the end of the
    /// range (type1, version 1).
    Coerced,
}

/// An I/O address space.
pub struct Ioas {
    inner: Mutex<IoasState>,
}

struct IoasState {
    mappings: RangeMap<Iova, IoMapping>,
    domains: Vec<AttachedDomain>,
    /// The maximum number of mappings.
    limit: usize,
}

struct AttachedDomain {
    domain: Arc<Domain>,
    end: Iova,
    reserved: Vec<AddrRange<Iova>>,
    /// The attached groups.
    users: usize,
}

/// The domain of an I/O address space for a group; dropping it detaches the group.
pub struct DomainUse {
    ioas: Arc<Ioas>,
    domain: Arc<Domain>,
}

impl DomainUse {
    pub fn ioas(&self) -> &Arc<Ioas> {
        &self.ioas
    }

    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }
}

impl Ioas {
    /// # Errors
    /// `ENOMEM`
    pub fn new(limit: usize) -> Result<Arc<Self>, Errno> {
        let inner = IoasState { mappings: RangeMap::new(), domains: Vec::new(), limit };
        heap::try_arc(Self { inner: Mutex::new(inner) }).ok_or(Errno::ENOMEM)
    }

    /// # Errors
    /// `EINTR` if the process is being terminated.
    fn lock(&self) -> Result<MutexGuard<'_, IoasState>, Errno> {
        self.inner.lock_killable().map_err(|_| Errno::EINTR)
    }

    /// Maps memory at `range`.
    ///
    /// # Errors
    /// `EEXIST` if it overlaps a mapping, `EINVAL` outside of the usable addresses, `ENOSPC` with too many
    /// mappings, `ENOMEM`.
    pub fn map(&self, range: AddrRange<Iova>, memory: MappedMemory, is_written: bool) -> Result<(), Errno> {
        self.lock()?.map(range, memory, is_written)
    }

    /// Checks that a mapping at `range` is possible, before its memory is pinned.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn check(&self, range: AddrRange<Iova>) -> Result<(), Errno> {
        self.lock()?.check(range)
    }

    /// Maps memory at a free range of `len` bytes, and returns it.
    ///
    /// # Errors
    /// `ENOSPC` without a range; those of [`map`](Self::map).
    pub fn map_anywhere(&self, len: u64, memory: MappedMemory, is_written: bool) -> Result<Iova, Errno> {
        let mut inner = self.lock()?;
        let range = inner.find_gap(len).ok_or(Errno::ENOSPC)?;
        inner.map(range, memory, is_written)?;
        Ok(range.start())
    }

    /// Unmaps the mappings that `rule` selects, and returns their bytes.
    ///
    /// # Errors
    /// `EINVAL` if [`UnmapRule::Whole`] finds one across an end of the range; nothing is unmapped. `EIO` if
    /// the IOMMU does not complete the invalidation: the memory stays in use for ever.
    pub fn unmap(&self, range: AddrRange<Iova>, rule: UnmapRule) -> Result<u64, Errno> {
        let mut inner = self.lock()?;
        if rule == UnmapRule::Whole && inner.mappings.first_split(range).is_some() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = 0;
        while let Some(found) = inner.mappings.first_overlap(range) {
            if rule == UnmapRule::Coerced && range.start() > found.start() {
                break;
            }
            inner.unmap(found.start())?;
            bytes += found.len();
        }
        Ok(bytes)
    }

    /// Unmaps everything, and returns the bytes.
    ///
    /// # Errors
    /// `EIO` as [`unmap`](Self::unmap).
    pub fn unmap_all(&self) -> Result<u64, Errno> {
        let mut inner = self.lock()?;
        let mut bytes = 0;
        while let Some(range) = inner.mappings.first() {
            inner.unmap(range.start())?;
            bytes += range.len();
        }
        Ok(bytes)
    }

    /// Returns the usable addresses, the last of each range included: all until a group is attached.
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`.
    pub fn usable(&self) -> Result<Vec<(u64, u64)>, Errno> {
        let inner = self.lock()?;
        let last = inner.domains.iter().map(|attached| attached.end.raw() - 1).min().unwrap_or(u64::MAX);
        let mut reserved: Vec<AddrRange<Iova>> = Vec::new();
        let all = || inner.domains.iter().flat_map(|attached| &attached.reserved);
        let mut usable = Vec::new();
        reserved.try_reserve_exact(all().count()).map_err(|_| Errno::ENOMEM)?;
        usable.try_reserve_exact(all().count() + 1).map_err(|_| Errno::ENOMEM)?;
        reserved.extend(all());
        reserved.sort_unstable_by_key(|range| range.start());
        let mut at = 0;
        for range in reserved.iter().take_while(|range| range.start().raw() <= last) {
            if range.start().raw() > at {
                usable.push((at, (range.start().raw() - 1).min(last)));
            }
            at = at.max(range.end().raw());
        }
        if at <= last {
            usable.push((at, last));
        }
        Ok(usable)
    }

    /// Whether a group is attached.
    ///
    /// # Errors
    /// `EINTR`
    pub fn is_attached(&self) -> Result<bool, Errno> {
        Ok(!self.lock()?.domains.is_empty())
    }

    /// The number of further mappings.
    ///
    /// # Errors
    /// `EINTR`
    pub fn available(&self) -> Result<usize, Errno> {
        let inner = self.lock()?;
        Ok(inner.limit - inner.mappings.len())
    }

    /// Returns the domain for a group behind `smmu`, with all mappings. The group cannot use the `reserved`
    /// addresses.
    ///
    /// # Errors
    /// `EADDRINUSE` if a mapping is at an address that the group cannot use; `ENOMEM`, `EIO`. Nothing is
    /// attached.
    pub fn attach(
        self: &Arc<Self>,
        smmu: &'static Smmu,
        coherent: bool,
        reserved: &[AddrRange<Iova>],
    ) -> Result<DomainUse, Errno> {
        let mut inner = self.lock()?;
        if reserved.iter().any(|range| inner.mappings.first_overlap(*range).is_some()) {
            return Err(Errno::EADDRINUSE);
        }
        let is_same = |attached: &&mut AttachedDomain| {
            attached.domain.translation().is_some_and(|(other, snoops)| {
                core::ptr::eq(other, smmu) && snoops == coherent && attached.reserved == reserved
            })
        };
        let existing = inner.domains.iter_mut().find(is_same).map(|attached| {
            attached.users += 1;
            attached.domain.clone()
        });
        let domain = match existing {
            Some(domain) => domain,
            None => inner.add_domain(smmu, coherent, reserved)?,
        };
        Ok(DomainUse { ioas: self.clone(), domain })
    }
}

impl Drop for DomainUse {
    fn drop(&mut self) {
        let removed = self.ioas.inner.lock().release(&self.domain);
        // Destroyed without the lock.
        drop(removed);
    }
}

impl IoasState {
    /// Returns a gap of `len` bytes; page 0 is left out, since programs take it for none.
    fn find_gap(&self, len: u64) -> Option<AddrRange<Iova>> {
        let end = self.domains.iter().map(|attached| attached.end).min().unwrap_or(Iova::new(1 << 48));
        let space = AddrRange::new(Iova::new(PAGE_SIZE), end);
        let align = if len >= 2 << 20 { 2 << 20 } else { PAGE_SIZE };
        let all = || self.domains.iter().flat_map(|attached| &attached.reserved);
        let mut reserved = Vec::new();
        reserved.try_reserve_exact(all().count()).ok()?;
        reserved.extend(all().copied());
        self.mappings.find_gap(space, len, align, &reserved)
    }

    fn is_usable(&self, range: AddrRange<Iova>) -> bool {
        self.domains.iter().all(|attached| {
            range.end() <= attached.end && !attached.reserved.iter().any(|other| other.overlaps(&range))
        })
    }

    fn check(&self, range: AddrRange<Iova>) -> Result<(), Errno> {
        if self.mappings.first_overlap(range).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.mappings.len() == self.limit {
            return Err(Errno::ENOSPC);
        }
        if self.is_usable(range) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn map(&mut self, range: AddrRange<Iova>, memory: MappedMemory, is_written: bool) -> Result<(), Errno> {
        self.check(range)?;
        if debug::fail_point(FailPoint::Heap) || !heap::has_room(HEAP_RESERVE) {
            return Err(Errno::ENOMEM);
        }
        for done in 0..self.domains.len() {
            // SAFETY: the mapping below keeps the memory; `unmap` removes it from each domain before.
            let mapped = unsafe { memory.map(&self.domains[done].domain, range, is_written) };
            if let Err(error) = mapped {
                match self.unmap_first(done, range, memory) {
                    // A part of the failed mapping may still be in the IOTLB.
                    Ok(memory) if error == DmaError::IommuTimeout => iommu::leak(memory, range.len(), error),
                    _ => {}
                }
                return Err(errno(error));
            }
        }
        let mapping = IoMapping { memory, is_written, is_lost: false };
        if self.mappings.insert(range, mapping).is_err() {
            unreachable!("{range:?} was free");
        }
        Ok(())
    }

    /// Unmaps the mapping at `start`, and gives up its memory.
    fn unmap(&mut self, start: Iova) -> Result<(), Errno> {
        let Some((range, mapping)) = self.mappings.remove(start) else { return Ok(()) };
        let is_lost = mapping.is_lost;
        let memory = self.unmap_first(self.domains.len(), range, mapping.memory).map_err(errno)?;
        if is_lost {
            iommu::leak(memory, range.len(), format_args!("{range:?} is not invalidated"));
            return Err(Errno::EIO);
        }
        Ok(())
    }

    /// Unmaps a range in the first domains, and returns its memory after their invalidation.
    ///
    /// # Errors
    /// The memory is leaked: a device may still access it.
    fn unmap_first(
        &self,
        domains: usize,
        range: AddrRange<Iova>,
        memory: MappedMemory,
    ) -> Result<MappedMemory, DmaError> {
        let mut result = Ok(());
        for attached in &self.domains[..domains] {
            debug::mapping_removed(attached.domain.key(), range);
            result = result.and(attached.domain.unmap(range, ()));
        }
        match result {
            Ok(()) => Ok(memory),
            Err(error) => {
                iommu::leak(memory, range.len(), format_args!("{range:?} is not invalidated"));
                Err(error)
            }
        }
    }

    fn add_domain(
        &mut self,
        smmu: &'static Smmu,
        coherent: bool,
        reserved: &[AddrRange<Iova>],
    ) -> Result<Arc<Domain>, Errno> {
        let domain = Domain::user_managed(smmu, coherent, message_window()).map_err(errno)?;
        let end = domain.end().unwrap_or(Iova::new(0));
        let mut kept = Vec::new();
        let is_full = self.domains.try_reserve(1).is_err() || kept.try_reserve_exact(reserved.len()).is_err();
        if is_full || debug::fail_point(FailPoint::Heap) {
            return Err(Errno::ENOMEM);
        }
        kept.extend_from_slice(reserved);
        if self.mappings.iter().any(|(range, _)| range.end() > end) {
            return Err(Errno::EADDRINUSE);
        }
        for (range, mapping) in self.mappings.iter() {
            // SAFETY: the mapping keeps the memory; `unmap` removes it from each domain before, and
            // `release` all of a domain that goes.
            let mapped = unsafe { mapping.memory.map(&domain, range, mapping.is_written) };
            if let Err(error) = mapped {
                let before = self.mappings.iter().take_while(|(other, _)| other.start() < range.start());
                // No device has used the domain, so no IOTLB has the mappings.
                before.for_each(|(other, _)| {
                    debug::mapping_removed(domain.key(), other);
                    let _ = domain.unmap(other, ());
                });
                return Err(errno(error));
            }
        }
        self.domains.push(AttachedDomain { domain: domain.clone(), end, reserved: kept, users: 1 });
        Ok(domain)
    }

    /// Removes a user of a domain; the last one removes the domain, which is returned.
    fn release(&mut self, domain: &Arc<Domain>) -> Option<AttachedDomain> {
        let at = self.domains.iter().position(|attached| Arc::ptr_eq(&attached.domain, domain))?;
        self.domains[at].users -= 1;
        if self.domains[at].users > 0 {
            return None;
        }
        let removed = self.domains.swap_remove(at);
        for (range, mapping) in self.mappings.iter_mut() {
            debug::mapping_removed(domain.key(), range);
            mapping.is_lost |= domain.unmap(range, ()).is_err();
        }
        Some(removed)
    }
}

impl Drop for Ioas {
    fn drop(&mut self) {
        // No group is attached: a `DomainUse` keeps the address space.
        let IoasState { mappings, .. } = self.inner.get_mut();
        while let Some(range) = mappings.first() {
            let removed = mappings.remove(range.start());
            let is_lost = removed.as_ref().is_some_and(|(_, mapping)| mapping.is_lost);
            if is_lost {
                iommu::leak(removed, range.len(), format_args!("{range:?} is not invalidated"));
            }
        }
    }
}
