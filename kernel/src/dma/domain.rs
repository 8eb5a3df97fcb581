//! The IOVA space of a device or a group: allocation, mapping, unmapping and invalidation.

use super::counters;
use super::iova_space::IovaSpace;
use super::request::{MapPlacement, MapRequest};
use super::small_mappings::{SmallMappings, SmallSlot};
use crate::debug::{self, DomainKey, FailPoint};
use crate::iommu::{self, Smmu, Tables};
use crate::memory::leaf_batches;
use crate::sched::Mutex;
use addr::{AddrRange, FrameRun, Iova, MemoryType, PAGE_SIZE, PhysAddr, StreamId};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::{DmaError, DmaMask};
use drivers::direct::{BusAddressError, BusWindow, BusWindows, Direct};
use drivers::smmu::{PagingDomain, Stages, StreamError};
use pagetable::{Leaf, Mapping};
use spin::Once;

/// An IOVA space. Its lock is held during changes of the tables and of the stream table entries that lead to
/// them, and while the SMMU completes their invalidation; a mapping is otherwise invalidated without it. It
/// is a
/// [`Mutex`]: a mapping can have any number of chunks, and an SMMU that does not respond takes seconds.
pub struct Domain {
    translation: DomainTranslation,
}

enum DomainTranslation {
    Smmu(Box<SmmuDomain>),
    /// No IOMMU: bus addresses follow `dma-ranges`.
    Direct(BusWindows),
}

/// A domain behind an SMMU.
struct SmmuDomain {
    smmu: &'static Smmu,
    /// Whether its devices snoop the CPU caches.
    coherent: bool,
    /// Mappings without the domain's lock; created with the first one.
    small: Once<Box<SmallMappings>>,
    iova_space: Mutex<IovaSpace>,
}

impl Domain {
    /// Returns a domain without translation, whose devices access memory through `windows`.
    pub fn direct(windows: Vec<BusWindow>) -> Self {
        Self { translation: DomainTranslation::Direct(BusWindows::new(windows)) }
    }

    /// Returns an empty domain of `smmu`, for devices that snoop the CPU caches if `coherent`, which never
    /// allocates the `unusable` addresses.
    ///
    /// # Errors
    /// See [`Smmu::new_domain`].
    pub(super) fn translated(
        smmu: &'static Smmu,
        coherent: bool,
        unusable: &[AddrRange<Iova>],
    ) -> Result<Arc<Self>, DmaError> {
        let (domain, input_bits) = (smmu.new_domain()?, smmu.features().input_bits());
        let iova_space = Mutex::new(IovaSpace::new(smmu, domain, input_bits, unusable));
        let domain = SmmuDomain { smmu, coherent, small: Once::new(), iova_space };
        Ok(Arc::new(Self { translation: DomainTranslation::Smmu(Box::new(domain)) }))
    }

    /// Returns an empty domain of `smmu` as [`translated`](Self::translated), whose addresses a program
    /// chooses ([`map_at`](Self::map_at)), except those of `doorbells`.
    ///
    /// # Errors
    /// See [`Smmu::new_domain`].
    pub fn user_managed(
        smmu: &'static Smmu,
        coherent: bool,
        doorbells: AddrRange<Iova>,
    ) -> Result<Arc<Self>, DmaError> {
        let (domain, input_bits) = (smmu.new_domain()?, smmu.features().input_bits());
        let iova_space = Mutex::new(IovaSpace::user_managed(smmu, domain, input_bits, doorbells));
        let domain = SmmuDomain { smmu, coherent, small: Once::new(), iova_space };
        Ok(Arc::new(Self { translation: DomainTranslation::Smmu(Box::new(domain)) }))
    }

    /// The SMMU and whether the devices snoop the CPU caches; `None` without translation.
    pub fn translation(&self) -> Option<(&'static Smmu, bool)> {
        match &self.translation {
            DomainTranslation::Smmu(domain) => Some((domain.smmu, domain.coherent)),
            DomainTranslation::Direct(_) => None,
        }
    }

    /// Maps `runs` in order at `range` of a [`user_managed`](Self::user_managed) domain. The range is free,
    /// below [`end`](Self::end), and as long as the runs.
    ///
    /// # Errors
    /// [`DmaError::OutOfTables`], [`DmaError::AboveIommu`]: the domain is unchanged. After
    /// [`DmaError::IommuTimeout`] the caller must leak the memory and the range.
    ///
    /// # Safety
    /// As for [`Domain::map`].
    pub unsafe fn map_at(
        &self,
        range: AddrRange<Iova>,
        runs: impl Iterator<Item: FrameRun>,
        mapping: Mapping,
    ) -> Result<(), DmaError> {
        let DomainTranslation::Smmu(domain) = &self.translation else { return Err(DmaError::IommuRefused) };
        // SAFETY: passed on to the caller.
        unsafe { domain.iova_space.lock().map_at(runs, range.start(), mapping) }?;
        counters::IOVA_RANGES.add(1);
        Ok(())
    }

    /// The end of the IOVAs that the tables translate; `None` without translation.
    pub fn end(&self) -> Option<Iova> {
        match &self.translation {
            DomainTranslation::Smmu(domain) => Some(domain.iova_space.lock().end()),
            DomainTranslation::Direct(_) => None,
        }
    }

    /// The key of the domain in hooks of the checking build.
    pub fn key(&self) -> DomainKey {
        DomainKey(core::ptr::from_ref(self).addr())
    }

    /// Returns whether an IOMMU translates: memory may then be scattered and at any physical address.
    pub fn is_translated(&self) -> bool {
        matches!(self.translation, DomainTranslation::Smmu(..))
    }

    /// Returns whether an IOMMU translates for devices that do not snoop the CPU caches.
    pub fn is_non_coherent(&self) -> bool {
        matches!(&self.translation, DomainTranslation::Smmu(domain) if !domain.coherent)
    }

    /// Returns the memory type of device mappings of memory that is `memory` for the CPUs. A device that does
    /// not snoop accesses it as non-cacheable: a cacheable transaction could hit in a cache on its way, which
    /// the CPUs' maintenance does not reach.
    pub fn device_memory(&self, memory: MemoryType) -> MemoryType {
        if self.is_non_coherent() { MemoryType::NonCacheable } else { memory }
    }

    /// Returns whether the tables can exclude unprivileged transactions: stage 1 can, stage 2 has no encoding
    /// for it (DDI 0487, D8.4, "Stage 2 data access permissions").
    pub fn supports_privileged_mappings(&self) -> bool {
        let DomainTranslation::Smmu(domain) = &self.translation else { return false };
        domain.smmu.features().stages != Stages::Two
    }

    /// Returns the physical addresses that a device with this mask can access, of RAM or not: the output
    /// addresses of an IOMMU, or a part of each window of `dma-ranges`, the highest first.
    pub(super) fn reachable(&self, mask: DmaMask) -> impl Iterator<Item = AddrRange<PhysAddr>> {
        let (all, windows) = match &self.translation {
            DomainTranslation::Smmu(domain) => {
                let end = domain.smmu.features().output().highest() + 1;
                (Some(AddrRange::new(PhysAddr::new(0), end)), None)
            }
            DomainTranslation::Direct(windows) => (None, Some(direct(windows, mask).reachable())),
        };
        all.into_iter().chain(windows.into_iter().flatten())
    }

    /// Checks that a device with this mask can access some of `memory`, which is ascending and not empty.
    ///
    /// # Errors
    /// [`DmaError::OutsideDmaRanges`] if it cannot with any mask, [`DmaError::PastMask`].
    pub(super) fn check_reach(&self, mask: DmaMask, memory: &[AddrRange<PhysAddr>]) -> Result<(), DmaError> {
        let reaches =
            |mask| self.reachable(mask).any(|range| memory.iter().any(|part| part.overlaps(&range)));
        if reaches(mask) {
            return Ok(());
        }
        match memory {
            [first, .., last] | [first @ last] if !reaches(DmaMask::BITS_64) => {
                Err(DmaError::OutsideDmaRanges { memory: AddrRange::new(first.start(), last.end()) })
            }
            _ => Err(DmaError::PastMask { len: PAGE_SIZE, mask }),
        }
    }

    /// Returns the bus addresses of `memory`; `None` in a translated domain, or unless a device with this
    /// mask can access all of it.
    pub(super) fn bus_addresses(
        &self,
        mask: DmaMask,
        memory: AddrRange<PhysAddr>,
    ) -> Option<AddrRange<Iova>> {
        match &self.translation {
            DomainTranslation::Smmu(..) => None,
            DomainTranslation::Direct(windows) => {
                AddrRange::from_len(direct(windows, mask).translate(memory).ok()?, memory.len())
            }
        }
    }

    /// Allocates an IOVA range and maps `chunks` there in order.
    ///
    /// # Errors
    /// After [`DmaError::IommuTimeout`] the caller must leak the chunks: the SMMU may still translate to
    /// them. Any other error leaves the domain unchanged.
    ///
    /// # Safety
    /// Until [`Domain::unmap`] has returned, the caller keeps the chunks, and any content of them is valid at
    /// any time: devices write there. If an unmap does not confirm the invalidation, they are leaked.
    pub(super) unsafe fn map(
        &self,
        chunks: impl Iterator<Item: FrameRun> + Clone,
        request: &MapRequest,
    ) -> Result<AddrRange<Iova>, DmaError> {
        if !request.mask.holds(request.len) {
            return Err(DmaError::PastMask { len: request.len, mask: request.mask });
        }
        let range = match &self.translation {
            // SAFETY: passed on to the caller.
            DomainTranslation::Smmu(domain) => unsafe { domain.map(chunks, request) },
            DomainTranslation::Direct(windows) if request.placement == MapPlacement::PerChunk => {
                per_chunk_range(direct(windows, request.mask), chunks, request)
            }
            DomainTranslation::Direct(windows) => {
                direct_range(direct(windows, request.mask), chunks, request)
            }
        }?;
        counters::IOVA_RANGES.add(1);
        Ok(range)
    }

    /// The fast path of [`Domain::map`] for one run of write-back memory, at most
    /// [`SmallMappings::MAX_BYTES`]. `None` if the slow path must be taken, which also determines the error,
    /// if any. Read-only for the devices unless `is_written`. Saves 177 of 386 instructions of a `map_single`
    /// of 4 KiB.
    ///
    /// # Safety
    /// As for [`Domain::map`].
    #[inline]
    pub(super) unsafe fn map_run(
        &self,
        run: &impl FrameRun,
        mask: DmaMask,
        is_written: bool,
    ) -> Option<AddrRange<Iova>> {
        let DomainTranslation::Smmu(domain) = &self.translation else { return None };
        if mask.highest() < SmallMappings::HIGHEST_IOVA {
            return None;
        }
        // SAFETY: passed on to the caller.
        let range = unsafe { domain.small.get()?.map_run(run, is_written) }?;
        counters::IOVA_RANGES.add(1);
        Some(range)
    }

    /// Unmaps `range`, and returns `held` after the completion of the invalidation.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`]: `held` and the range are leaked, since a device may still access them.
    pub fn unmap<T>(&self, range: AddrRange<Iova>, held: T) -> Result<T, DmaError> {
        counters::IOVA_RANGES.sub(1);
        match &self.translation {
            DomainTranslation::Smmu(domain) => domain.unmap(range, held),
            DomainTranslation::Direct(_) => Ok(held),
        }
    }

    /// Returns the address of a doorbell for the devices of the domain: the register at physical address
    /// `doorbell`, mapped until the domain is dropped.
    ///
    /// # Errors
    /// [`DmaError::OutOfIova`], [`DmaError::OutOfTables`], [`DmaError::AboveIommu`],
    /// [`DmaError::IommuTimeout`].
    ///
    /// # Safety
    /// Devices may write to the doorbell, and to the other registers in its page.
    pub unsafe fn doorbell(&self, doorbell: PhysAddr) -> Result<u64, DmaError> {
        let DomainTranslation::Smmu(domain) = &self.translation else { return Ok(doorbell.raw()) };
        let offset = doorbell.raw() % PAGE_SIZE;
        let page = PhysAddr::new(doorbell.raw() - offset);
        // SAFETY: passed on to the caller.
        let at = unsafe { domain.iova_space.lock().map_doorbell(page) }?;
        Ok(at.raw() + offset)
    }

    /// Calls `visit` for each leaf descriptor of `range` in ascending order; never without translation.
    pub fn leaves(&self, range: AddrRange<Iova>, mut visit: impl FnMut(Leaf<Iova>)) {
        if let DomainTranslation::Smmu(domain) = &self.translation {
            leaf_batches::visit(
                range,
                |rest, read| domain.iova_space.lock().leaves_until(rest, |leaf| read(leaf, ())),
                |leaf, ()| visit(leaf),
            );
        }
    }

    /// Calls `visit` for each leaf descriptor of the domain in ascending order, with whether its first and
    /// its last page are allocated, or it is a doorbell's.
    pub fn all_leaves(&self, visit: impl FnMut(Leaf<Iova>, bool)) {
        let DomainTranslation::Smmu(domain) = &self.translation else { return };
        let (small, end) = (domain.small.get(), domain.iova_space.lock().end());
        leaf_batches::visit(
            AddrRange::new(Iova::new(0), end),
            |rest, read| {
                let iova_space = domain.iova_space.lock();
                let is_allocated = |at| {
                    let small = small.and_then(|small| small.is_allocated(at));
                    small.unwrap_or_else(|| iova_space.is_allocated(at))
                };
                iova_space.leaves_until(rest, |leaf| {
                    let last = leaf.at + (leaf.bytes - PAGE_SIZE);
                    let is_allocated = is_allocated(leaf.at) && is_allocated(last);
                    read(leaf, is_allocated || iova_space.is_doorbell(&leaf))
                });
            },
            visit,
        );
    }

    /// Calls `show` for each page-table frame of the domain; never without translation.
    pub fn each_table(&self, show: impl FnMut(PhysAddr)) {
        if let DomainTranslation::Smmu(domain) = &self.translation {
            domain.iova_space.lock().each_table(show);
        }
    }

    /// Attaches `stream`; no operation without an IOMMU.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`], [`DmaError::OutOfTables`].
    pub(super) fn attach(&self, stream: StreamId) -> Result<(), DmaError> {
        let DomainTranslation::Smmu(domain) = &self.translation else { return Ok(()) };
        let result = domain.smmu.attach(stream, domain.iova_space.lock().paging_domain());
        result.map_err(|error| {
            log::error!("IOMMU: stream {stream}: {error:?}");
            if let StreamError::Command(_) = error {
                // The stream counts as attached. If the detach fails too, the domain cannot be destroyed and
                // is leaked.
                _ = self.detach(stream);
            }
            stream_error(error)
        })
    }

    /// Adds (`silences`) or removes a device because of which faults of the domain are not recorded, those of
    /// its other devices neither.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`]; the device is not added or removed.
    pub(super) fn silence(&self, silences: bool) -> Result<(), DmaError> {
        let DomainTranslation::Smmu(domain) = &self.translation else { return Ok(()) };
        let mut space = domain.iova_space.lock();
        let old = *space.silencers();
        let new = if silences { old + 1 } else { old.saturating_sub(1) };
        if (old == 0) != (new == 0) {
            domain.smmu.set_recording(space.paging_domain(), new == 0).map_err(stream_error)?;
        }
        *space.silencers() = new;
        Ok(())
    }

    /// Makes the SMMU abort all transactions of `stream`. After a timeout the command is repeated once: the
    /// STE in memory already aborts, but the stream still counts as attached and cannot be attached again.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`].
    pub(super) fn detach(&self, stream: StreamId) -> Result<(), DmaError> {
        let DomainTranslation::Smmu(domain) = &self.translation else { return Ok(()) };
        let detach = || domain.smmu.detach(stream, domain.iova_space.lock().paging_domain());
        let result = match detach() {
            Err(StreamError::Command(_)) => detach(),
            result => result,
        };
        result.map_err(stream_error)
    }
}

impl SmmuDomain {
    /// # Safety
    /// As for [`Domain::map`].
    #[inline]
    unsafe fn map(
        &self,
        chunks: impl Iterator<Item: FrameRun> + Clone,
        request: &MapRequest,
    ) -> Result<AddrRange<Iova>, DmaError> {
        if debug::fail_point(FailPoint::Iova) {
            return Err(DmaError::OutOfIova { len: request.len, highest: request.mask.highest() });
        }
        let is_small =
            request.len <= SmallMappings::MAX_BYTES && request.mask.highest() >= SmallMappings::HIGHEST_IOVA;
        if is_small
            && let Some(small) = self.small.get()
            && let Some(slot) = small.alloc(request.len)
        {
            // SAFETY: passed on to the caller.
            return Ok(unsafe { small.map(slot, chunks, request.mapping) });
        }
        // SAFETY: passed on to the caller.
        unsafe { self.map_slow_path(chunks, request, is_small) }
    }

    /// Maps a small request without a free slot, or a large one.
    ///
    /// # Safety
    /// As for [`Domain::map`].
    #[inline(never)] // Keeps its stack frame and saved registers out of the fast path.
    unsafe fn map_slow_path(
        &self,
        chunks: impl Iterator<Item: FrameRun> + Clone,
        request: &MapRequest,
        is_small: bool,
    ) -> Result<AddrRange<Iova>, DmaError> {
        if is_small && let Some((small, slot)) = self.grow_small(request)? {
            // SAFETY: passed on to the caller.
            return Ok(unsafe { small.map(slot, chunks, request.mapping) });
        }
        // SAFETY: passed on to the caller.
        unsafe { self.iova_space.lock().map(chunks, request) }
    }

    /// Adds a pinned table and returns a slot of it; `None` if no table can be added.
    fn grow_small(&self, request: &MapRequest) -> Result<Option<(&SmallMappings, SmallSlot)>, DmaError> {
        let small = self.small.call_once(|| Box::new(SmallMappings::new()));
        if small.is_exhausted() {
            return Ok(None);
        }
        let mut iova_space = self.iova_space.lock();
        // Another CPU may have added a table in the meantime.
        if let Some(slot) = small.alloc(request.len) {
            return Ok(Some((small, slot)));
        }
        // SAFETY: only `small` uses the tables, and not after `drop`, which destroys the tree.
        small.grow(|at| unsafe { iova_space.pin(at) })?;
        Ok(small.alloc(request.len).map(|slot| (&**small, slot)))
    }

    #[inline]
    fn unmap<T>(&self, range: AddrRange<Iova>, held: T) -> Result<T, DmaError> {
        let small = self.small.get().and_then(|small| Some((small, small.table_of(range)?)));
        let stale = match small {
            Some((_, (_, table))) => table.pinned().unmap(&Tables, range, held),
            None => self.iova_space.lock().unmap(range, held),
        };
        let freed = match PagingDomain::invalidate(self.smmu.command_queue(), stale) {
            Ok(freed) => freed,
            Err(unfinished) => {
                iommu::leak(unfinished.stale, range.len(), format_args!("{range:?}: {}", unfinished.error));
                return Err(DmaError::IommuTimeout);
            }
        };
        let held = freed.take(&mut Tables);
        match small {
            Some((small, table)) => small.free(table, range),
            None => self.iova_space.lock().free(range),
        }
        Ok(held)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let translation =
            core::mem::replace(&mut self.translation, DomainTranslation::Direct(BusWindows::default()));
        if let DomainTranslation::Smmu(domain) = translation {
            let SmmuDomain { smmu, iova_space, .. } = *domain;
            smmu.destroy(iova_space.into_inner().into_paging_domain());
        }
    }
}

fn direct(windows: &BusWindows, mask: DmaMask) -> Direct<'_> {
    Direct::new(windows, mask.highest().raw())
}

fn stream_error(error: StreamError) -> DmaError {
    match error {
        StreamError::Command(_) => DmaError::IommuTimeout,
        StreamError::OutOfMemory(_) => DmaError::OutOfTables,
        StreamError::OutOfRange(_) | StreamError::AlreadyAttached(_) | StreamError::NotAttached(_) => {
            DmaError::IommuRefused
        }
    }
}

/// Returns the bus addresses of `chunks`, which must be contiguous, in one window, and below the mask.
fn direct_range(
    direct: Direct<'_>,
    chunks: impl Iterator<Item: FrameRun> + Clone,
    request: &MapRequest,
) -> Result<AddrRange<Iova>, DmaError> {
    match direct.address(chunks.clone()) {
        Ok(at) => AddrRange::from_len(at, request.len).ok_or(past_mask(request)),
        Err(BusAddressError::NotContiguous(_)) => Err(DmaError::Scattered { runs: run_count(chunks) }),
        Err(error) => Err(unreachable_memory(error, request)),
    }
}

/// Returns a range of the total length from the bus address of the first chunk; every chunk must be in a
/// window and below the mask.
fn per_chunk_range(
    direct: Direct<'_>,
    chunks: impl Iterator<Item: FrameRun> + Clone,
    request: &MapRequest,
) -> Result<AddrRange<Iova>, DmaError> {
    let mut first = None;
    for chunk in chunks {
        let address = direct.translate(AddrRange::new(chunk.start(), chunk.end()));
        first.get_or_insert(address.map_err(|error| unreachable_memory(error, request))?);
    }
    first.and_then(|first| AddrRange::from_len(first, request.len)).ok_or(past_mask(request))
}

fn past_mask(request: &MapRequest) -> DmaError {
    DmaError::PastMask { len: request.len, mask: request.mask }
}

/// Returns the limit that memory without a bus address exceeds.
fn unreachable_memory(error: BusAddressError, request: &MapRequest) -> DmaError {
    match error {
        BusAddressError::OutsideWindows(memory) => DmaError::OutsideDmaRanges { memory },
        _ => past_mask(request),
    }
}

/// Returns the number of physically contiguous runs.
fn run_count(chunks: impl Iterator<Item: FrameRun>) -> usize {
    let mut end = None;
    chunks.filter(|chunk| end.replace(chunk.end()) != Some(chunk.start())).count()
}
