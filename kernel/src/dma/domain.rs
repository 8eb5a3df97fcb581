//! The addresses of a device, or of a group of devices that the fabric cannot tell apart: which are taken, and what
//! they translate to.

use super::counters;
use super::inject::{self, Step};
use super::iommu::{Smmu, Tables};
use crate::sync::SpinLock;
use addr::{AddrRange, Chunk, Iova, MemoryType, Order, PAGE_SIZE, PhysAddr};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use dma_api::{DmaError, DmaMask};
use drivers::direct::{BusWindow, Direct};
use drivers::iommu::{Domain as _, MapError, Placement};
use drivers::smmu;
use memory::RangeAllocator;
use pagetable::Mapping;

/// An address space for devices. Its lock is held while tables change, not while the IOMMU is waited for.
pub struct Domain {
    state: SpinLock<State>,
}

enum State {
    Translated(Translated),
    /// No IOMMU: addresses are what the bus makes of physical ones.
    Direct(Vec<BusWindow>),
}

struct Translated {
    smmu: &'static Smmu,
    ranges: RangeAllocator<Iova>,
    domain: smmu::Domain,
}

static ALL: SpinLock<Vec<Weak<Domain>>> = SpinLock::new(Vec::new());

/// The domains that an IOMMU translates for, in the order in which they were made.
pub fn all() -> Vec<Arc<Domain>> {
    ALL.lock().iter().filter_map(Weak::upgrade).collect()
}

/// What a mapping has to be like.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// Bytes, whole pages.
    pub len: u64,
    /// The alignment at which the largest descriptors can be used.
    pub align: u64,
    /// What the device can address.
    pub mask: DmaMask,
    /// How much of it the device has to be able to address.
    pub fit: Fit,
    pub mapping: Mapping,
}

/// How much of a mapping has to lie below the device's mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// All.
    Whole,
    /// The start, as long as it goes: a buffer larger than all that the device can address is mapped whole, and the
    /// device is told only of addresses that it can use.
    Start,
}

impl Domain {
    /// A domain without translation. No windows: bus addresses are physical ones.
    pub fn direct(windows: Vec<BusWindow>) -> Self {
        Self { state: SpinLock::new(State::Direct(windows)) }
    }

    /// An empty domain of `smmu`'s.
    pub(super) fn translated(smmu: &'static Smmu, domain: smmu::Domain, input_bits: u8) -> Arc<Self> {
        // Address 0 stays free: drivers and devices take it for "nothing".
        let space = AddrRange::new(Iova::new(PAGE_SIZE), Iova::new(1 << input_bits));
        let translated = Translated { smmu, ranges: RangeAllocator::new(space), domain };
        let domain = Arc::new(Self { state: SpinLock::new(State::Translated(translated)) });
        let mut all = ALL.lock();
        all.retain(|domain| domain.strong_count() > 0);
        all.push(Arc::downgrade(&domain));
        domain
    }

    /// Whether an IOMMU translates: then memory may be anywhere, and in pieces.
    pub fn is_translated(&self) -> bool {
        matches!(*self.state.lock(), State::Translated(_))
    }

    /// The highest physical address that a device with this mask can use.
    pub(super) fn highest(&self, mask: DmaMask) -> PhysAddr {
        match &*self.state.lock() {
            State::Translated(_) => PhysAddr::new(u64::MAX),
            State::Direct(windows) => direct(windows, mask).reach(),
        }
    }

    /// Keeps `range` from everybody: addresses that do not reach the IOMMU (a bridge's windows).
    ///
    /// # Errors
    /// [`DmaError::OutOfIova`] when somebody has some of it already.
    pub fn reserve(&self, range: AddrRange<Iova>) -> Result<(), DmaError> {
        match &mut *self.state.lock() {
            State::Translated(translated) => translated.reserve(range),
            State::Direct(_) => Ok(()),
        }
    }

    /// Lets devices reach `registers` at the very same address: an interrupt controller's doorbell, which devices
    /// write through the IOMMU like memory.
    ///
    /// # Errors
    /// [`DmaError::OutOfIova`], [`DmaError::OutOfTables`], [`DmaError::IommuTimeout`].
    pub fn map_registers(&self, registers: AddrRange<PhysAddr>) -> Result<(), DmaError> {
        match &mut *self.state.lock() {
            State::Translated(translated) => translated.map_registers(registers),
            State::Direct(_) => Ok(()),
        }
    }

    /// Lets the devices reach `chunks`, one after the other, from some address on.
    ///
    /// # Errors
    /// After [`DmaError::IommuTimeout`] nobody may use the chunks again; after all others everything is as before.
    pub(super) fn map(
        &self,
        chunks: impl Iterator<Item = Chunk> + Clone,
        wish: &Wish,
    ) -> Result<AddrRange<Iova>, DmaError> {
        if wish.fit == Fit::Whole && !wish.mask.holds(wish.len) {
            return Err(DmaError::PastMask { len: wish.len, mask: wish.mask });
        }
        let range = match &mut *self.state.lock() {
            State::Translated(translated) => translated.map(chunks, wish),
            State::Direct(windows) => place_direct(&direct(windows, wish.mask), chunks, wish),
        }?;
        counters::IOVA_RANGES.add(1);
        Ok(range)
    }

    /// Takes `range` from the devices, and returns `held` when none of them can reach it any more.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`]: `held` and the addresses are lost, since a device might still use them.
    pub(super) fn unmap<T>(&self, range: AddrRange<Iova>, held: T) -> Result<T, DmaError> {
        let (smmu, stale) = match &mut *self.state.lock() {
            State::Direct(_) => {
                counters::IOVA_RANGES.sub(1);
                return Ok(held);
            }
            State::Translated(translated) => {
                let commands = &translated.smmu.commands;
                match translated.domain.unmap(&mut Tables, commands, range, held) {
                    Ok(stale) => (translated.smmu, stale),
                    // It was mapped by one call, so no block is cut and no table is needed.
                    Err(refused) => panic!("unmap of {range:?}: {:?}", refused.error),
                }
            }
        };
        let freed = match smmu::Domain::invalidate(&smmu.commands, stale) {
            Ok(freed) => freed,
            Err(unfinished) => {
                log::error!("IOMMU: {:?} stays out of use: {:?}", range, unfinished.error);
                counters::LOST_BYTES.add(range.len());
                // What is stale is never dropped: `held` stays as it is for good.
                return Err(DmaError::IommuTimeout);
            }
        };
        let held = freed.take(&mut Tables);
        self.free(range);
        Ok(held)
    }

    fn free(&self, range: AddrRange<Iova>) {
        if let State::Translated(translated) = &mut *self.state.lock() {
            translated.free(range);
        }
        counters::IOVA_RANGES.sub(1);
    }

    /// Shows every page or block of `range`, lowest first; nothing without translation.
    pub fn leaves(&self, range: AddrRange<Iova>, visit: impl FnMut(pagetable::Leaf<Iova>)) {
        if let State::Translated(translated) = &*self.state.lock() {
            translated.domain.leaves(&Tables, range, visit);
        }
    }

    /// Shows every page or block there is, lowest first.
    pub fn all_leaves(&self, visit: impl FnMut(pagetable::Leaf<Iova>)) {
        let space = match &*self.state.lock() {
            State::Translated(translated) => translated.ranges.space(),
            State::Direct(_) => return,
        };
        self.leaves(AddrRange::new(Iova::new(0), space.end()), visit);
    }

    /// Calls `action` with the SMMU's domain, if there is one.
    pub(super) fn with_smmu<R>(&self, action: impl FnOnce(&mut smmu::Domain) -> R) -> Option<R> {
        match &mut *self.state.lock() {
            State::Translated(translated) => Some(action(&mut translated.domain)),
            State::Direct(_) => None,
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let state = core::mem::replace(self.state.get_mut(), State::Direct(Vec::new()));
        if let State::Translated(Translated { smmu, domain, .. }) = state {
            smmu.destroy(domain);
        }
    }
}

impl Translated {
    fn reserve(&mut self, range: AddrRange<Iova>) -> Result<(), DmaError> {
        let (len, highest) = (range.len(), range.end());
        let full = DmaError::OutOfIova { len, highest };
        let whole = range.align_outward(PAGE_SIZE).ok_or(full)?;
        // What no device can put on the bus needs no reservation.
        match whole.intersection(&self.ranges.space()) {
            Some(inside) => self.ranges.alloc_at(inside).map_err(|_| full),
            None => Ok(()),
        }
    }

    fn map_registers(&mut self, registers: AddrRange<PhysAddr>) -> Result<(), DmaError> {
        let pages = registers.align_outward(PAGE_SIZE).ok_or(DmaError::TooLong { len: registers.len() })?;
        let range = AddrRange::new(Iova::new(pages.start().raw()), Iova::new(pages.end().raw()));
        self.reserve(range)?;
        let mapping = Mapping::read_write(MemoryType::Device);
        self.fill(Chunk::of_range(pages), range, mapping)
    }

    fn map(&mut self, chunks: impl Iterator<Item = Chunk>, wish: &Wish) -> Result<AddrRange<Iova>, DmaError> {
        let range = self.place(wish)?;
        self.fill(chunks, range, wish.mapping)?;
        Ok(range)
    }

    /// Addresses for a mapping: aligned as wished, or less where the space below the mask is too small for that.
    fn place(&mut self, wish: &Wish) -> Result<AddrRange<Iova>, DmaError> {
        let highest = wish.mask.highest();
        let full = DmaError::OutOfIova { len: wish.len, highest };
        if inject::fails(Step::Iova) {
            return Err(full);
        }
        let limit = match wish.fit {
            Fit::Whole => highest,
            // Its first page is reachable then.
            Fit::Start => Iova::new(highest.raw().saturating_add(wish.len - PAGE_SIZE)),
        };
        let smaller = [Order::BLOCK_2M, Order::CONTIGUOUS, Order::PAGE].map(Order::bytes);
        let aligns =
            core::iter::once(wish.align).chain(smaller.into_iter().filter(|&align| align < wish.align));
        for align in aligns {
            if let Ok(range) = self.ranges.alloc(wish.len, align, limit) {
                return Ok(range);
            }
        }
        Err(full)
    }

    /// Maps `chunks` to `range`; on failure the range is free again, unless the IOMMU might still know some of it.
    fn fill(
        &mut self,
        chunks: impl Iterator<Item = Chunk>,
        range: AddrRange<Iova>,
        mapping: Mapping,
    ) -> Result<(), DmaError> {
        let commands = &self.smmu.commands;
        let error = match self.domain.map(&mut Tables, commands, range.start(), chunks, mapping) {
            Ok(()) => return Ok(()),
            Err(MapError::NotForgotten { error, .. }) => {
                log::error!("IOMMU: {range:?} stays out of use: {error:?}");
                return Err(DmaError::IommuTimeout);
            }
            Err(MapError::Table(pagetable::MapError::OutOfTables)) => DmaError::OutOfTables,
            Err(MapError::Table(pagetable::MapError::OutputTooLarge(_))) => {
                DmaError::TooLong { len: range.len() }
            }
            // The range was free, aligned and inside; an error here is a broken invariant.
            Err(error) => panic!("map of {range:?}: {error:?}"),
        };
        self.free(range);
        Err(error)
    }

    fn free(&mut self, range: AddrRange<Iova>) {
        if let Err(error) = self.ranges.free(range) {
            panic!("device addresses {range:?} freed: {error:?}");
        }
    }
}

fn direct(windows: &[BusWindow], mask: DmaMask) -> Direct {
    Direct::new(windows.to_vec(), mask.highest().raw())
}

/// Where the bus shows `chunks`, if in one run and below the mask.
fn place_direct(
    direct: &Direct,
    chunks: impl Iterator<Item = Chunk> + Clone,
    wish: &Wish,
) -> Result<AddrRange<Iova>, DmaError> {
    match direct.placement(chunks.clone()) {
        Ok(Placement::At(at)) => {
            AddrRange::from_len(at, wish.len).ok_or(DmaError::PastMask { len: wish.len, mask: wish.mask })
        }
        Err(MapError::NotContiguous(_)) => Err(DmaError::Scattered { runs: runs(chunks) }),
        _ => Err(DmaError::PastMask { len: wish.len, mask: wish.mask }),
    }
}

/// The number of runs that chunks form.
fn runs(chunks: impl Iterator<Item = Chunk>) -> usize {
    let mut end = None;
    chunks.filter(|chunk| end.replace(chunk.range().end()) != Some(chunk.start())).count()
}
