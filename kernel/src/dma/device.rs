//! A device as the DMA core knows it.

use super::domain::Domain;
use super::fault::{self, FaultState, Quarantine};
use crate::debug;
use crate::iommu::Smmu;
use crate::memory::layout;
use crate::sched;
use addr::{AddrRange, MemoryType, PhysAddr, StreamId};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use dma_api::{Attrs, DmaError, DmaMask};
use drivers::direct::BusWindow;
use smmu_spec::EventRecord;

/// A device that can be a bus master. Dropping it makes an SMMU abort whatever the device does from then on.
pub struct Device {
    name: String,
    stream: Option<(&'static Smmu, StreamId)>,
    /// Whether its accesses snoop the CPUs' caches.
    coherent: bool,
    mask: AtomicU64,
    faults: Arc<FaultState>,
    domain: Arc<Domain>,
}

impl Device {
    /// A device behind `smmu`, in a domain of its own. Once this returns, it may become a bus master.
    ///
    /// # Errors
    /// [`DmaError::IommuRefused`], [`DmaError::IommuTimeout`], [`DmaError::OutOfTables`].
    pub fn translated(
        name: String,
        smmu: &'static Smmu,
        stream: StreamId,
        coherent: bool,
    ) -> Result<Arc<Self>, DmaError> {
        let domain = Domain::translated(smmu)?;
        Self::in_group(name, smmu, stream, coherent, domain)
    }

    /// The same in the domain of other devices.
    ///
    /// # Errors
    /// [`DmaError::IommuRefused`], [`DmaError::IommuTimeout`], [`DmaError::OutOfTables`].
    pub fn in_group(
        name: String,
        smmu: &'static Smmu,
        stream: StreamId,
        coherent: bool,
        domain: Arc<Domain>,
    ) -> Result<Arc<Self>, DmaError> {
        domain.attach(stream)?;
        let faults = Arc::new(FaultState::default());
        let place = Some((smmu, stream));
        let device = Arc::new(Self { name, stream: place, coherent, mask: default_mask(), faults, domain });
        let quarantine: Arc<dyn Quarantine> = device.clone();
        fault::register(smmu, stream, device.faults.clone(), Arc::downgrade(&quarantine));
        debug::device_attached(smmu.stream_key(stream), device.domain.key(), &device.name);
        Ok(device)
    }

    /// A device without IOMMU, whose bus shows memory through `windows` (none: at its physical addresses).
    pub fn direct(name: String, coherent: bool, windows: Vec<BusWindow>) -> Arc<Self> {
        let domain = Arc::new(Domain::direct(windows));
        let (mask, faults) = (default_mask(), Arc::new(FaultState::default()));
        Arc::new(Self { name, stream: None, coherent, mask, faults, domain })
    }

    /// What traces call it: bus, device and function of a PCI device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the SMMU knows it by, if there is one.
    pub fn stream(&self) -> Option<StreamId> {
        self.stream.map(|(_, stream)| stream)
    }

    /// The SMMU it is behind, if there is one.
    pub fn smmu(&self) -> Option<&'static Smmu> {
        self.stream.map(|(smmu, _)| smmu)
    }

    /// Whether its accesses snoop the CPUs' caches.
    pub fn is_coherent(&self) -> bool {
        self.coherent
    }

    /// Its addresses.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// What it can address.
    pub fn mask(&self) -> DmaMask {
        DmaMask::up_to(self.mask.load(Relaxed))
    }

    /// Whether it reaches any memory at all.
    #[inline]
    pub fn reaches_memory(&self) -> bool {
        // Behind an IOMMU memory may be anywhere.
        self.domain.is_translated() || self.domain.highest(self.mask()) >= lowest_memory()
    }

    /// Says what it can address.
    ///
    /// # Errors
    /// [`DmaError::PastMask`] when that is no memory at all.
    pub fn set_mask(&self, mask: DmaMask) -> Result<(), DmaError> {
        if !mask.holds(addr::PAGE_SIZE) || self.domain.highest(mask).raw() == 0 {
            return Err(DmaError::PastMask { len: addr::PAGE_SIZE, mask });
        }
        self.mask.store(mask.highest().raw(), Relaxed);
        Ok(())
    }

    /// Makes an SMMU abort whatever the device does, until [`unblock`](Self::unblock). Its buffers stay.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`] when it is blocked or in quarantine already.
    pub fn block(&self) -> Result<(), DmaError> {
        self.faults.block(|| self.detach()).unwrap_or(Err(DmaError::IommuRefused))
    }

    /// Lets the device that its driver blocked reach its buffers again.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`] when its driver has not blocked it (a quarantine is ended by
    /// [`rearm`](Self::rearm) alone), [`DmaError::OutOfTables`].
    pub fn unblock(&self) -> Result<(), DmaError> {
        self.faults.unblock(|| self.attach()).unwrap_or(Err(DmaError::IommuRefused))
    }

    fn attach(&self) -> Result<(), DmaError> {
        self.stream().map_or(Ok(()), |stream| self.domain.attach(stream))
    }

    fn detach(&self) -> Result<(), DmaError> {
        self.stream().map_or(Ok(()), |stream| self.domain.detach(stream))
    }

    /// Accesses of it that the SMMU aborted and recorded, since it was armed.
    pub fn faults(&self) -> u64 {
        if let Some(smmu) = self.smmu() {
            smmu.service();
        }
        self.faults.count()
    }

    /// The first of them.
    pub fn first_fault(&self) -> Option<EventRecord> {
        self.faults.first()
    }

    /// The same, all there ever were: a count that never falls.
    pub fn total_faults(&self) -> u64 {
        if let Some(smmu) = self.smmu() {
            smmu.service();
        }
        self.faults.total()
    }

    /// Says after how many faults it is blocked; at least 1. [`fault::DEFAULT_LIMIT`] if nobody does.
    pub fn set_fault_limit(&self, limit: u64) {
        self.faults.set_limit(limit);
    }

    /// Which time it is that it may do DMA; `None` while it may not, or is about not to. Where this is the same before and
    /// after, all that was aborted in between is among [`Device::total_faults`].
    pub fn arm_generation(&self) -> Option<u64> {
        self.faults.arm_generation()
    }

    /// Whether it is blocked because it had too many faults.
    pub fn is_quarantined(&self) -> bool {
        self.faults.is_quarantined()
    }

    /// Lets a device that is in quarantine reach its buffers again, after its driver has made it stop what it did. The
    /// count of its faults starts from 0. Sleeps, up to a second, if its events left no room for those of others.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`] (also when the program that this is done for is being ended),
    /// [`DmaError::OutOfTables`]; it stays in quarantine then.
    pub fn rearm(&self) -> Result<(), DmaError> {
        if self.is_quarantined() {
            sched::sleep_until(self.faults.earliest_rearm()).map_err(|_| DmaError::IommuRefused)?;
            // What it did before is no new fault.
            self.smmu().into_iter().for_each(Smmu::service);
        }
        self.faults.rearm(|| self.attach())
    }

    /// The memory type of a coherent buffer for it.
    pub fn memory_type(&self, attrs: Attrs) -> MemoryType {
        if self.coherent && !attrs.contains(Attrs::WRITE_COMBINE) {
            MemoryType::WriteBack
        } else {
            MemoryType::NonCacheable
        }
    }
}

/// The first byte of RAM.
fn lowest_memory() -> PhysAddr {
    layout().lowmem.first().map_or(PhysAddr::new(0), AddrRange::start)
}

fn default_mask() -> AtomicU64 {
    AtomicU64::new(DmaMask::BITS_32.highest().raw())
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Some((smmu, stream)) = self.stream else { return };
        fault::unregister(smmu, stream);
        debug::device_removed(smmu.stream_key(stream));
        if self.faults.is_detached() {
            return;
        }
        if let Err(error) = self.domain.detach(stream) {
            log::error!("{}: {error}", self.name);
        }
    }
}

impl Quarantine for Device {
    fn quarantine(&self) {
        match self.faults.quarantine(|| self.detach()) {
            Some(Ok(())) => {
                let faults = self.faults.count();
                let overflow = self.faults.earliest_rearm() > sched::time::now();
                let reason = if overflow { ", and the event queue overflowed" } else { "" };
                log::warn!(
                    "{}: quarantined after {faults} faults{reason}; the IOMMU aborts its transactions",
                    self.name
                );
            }
            Some(Err(error)) => log::error!("{}: too many faults, and the detach failed: {error}", self.name),
            None => {}
        }
    }
}
