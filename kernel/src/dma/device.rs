//! A bus master: its stream, DMA mask, coherency, domain and fault state.

use super::domain::Domain;
use super::fault::{self, FaultState, Quarantine};
use crate::debug;
use crate::iommu::Smmu;
use crate::memory::layout;
use crate::sched;
use addr::{AddrRange, Iova, MemoryType, StreamId};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use dma_api::{Attrs, DmaError, DmaMask};
use drivers::direct::BusWindow;
use smmu_spec::EventRecord;

/// A device that can be a bus master. Dropping it detaches its stream: the SMMU aborts all later
/// transactions.
pub struct Device {
    name: String,
    stream: Option<(&'static Smmu, StreamId)>,
    /// Whether its accesses snoop the CPU caches.
    coherent: bool,
    mask: AtomicU64,
    faults: Arc<FaultState>,
    domain: Arc<Domain>,
    on_faults: FaultAction,
}

/// The quarantine of a device that reaches its fault limit, or overflows the event queue.
enum FaultAction {
    /// Its transactions are aborted.
    Abort,
    /// Its faults are not recorded any more; the others are not disturbed, and its transactions to mapped
    /// memory go on. The owner is told.
    StopRecording(OwnerNotification),
}

/// Tells the owner of a device that it is quarantined. Called in a thread.
pub type OwnerNotification = Box<dyn Fn() + Send + Sync>;

/// Returns the devices that are attached to a translated domain.
pub fn attached_devices() -> Vec<Arc<Device>> {
    let devices = fault::devices().into_iter();
    devices.filter_map(|device| Arc::downcast(device as Arc<dyn Any + Send + Sync>).ok()).collect()
}

impl Device {
    /// Returns a device behind `smmu`, attached to a new domain that never allocates the `unusable`
    /// addresses. From then on bus mastering may be enabled.
    ///
    /// # Errors
    /// [`DmaError::IommuRefused`], [`DmaError::IommuTimeout`], [`DmaError::OutOfTables`].
    pub fn translated(
        name: String,
        smmu: &'static Smmu,
        stream: StreamId,
        coherent: bool,
        unusable: &[AddrRange<Iova>],
    ) -> Result<Arc<Self>, DmaError> {
        let domain = Domain::translated(smmu, coherent, unusable)?;
        Self::in_group(name, smmu, stream, coherent, domain)
    }

    /// Like [`Device::translated`], but in an existing domain, of devices that are equally `coherent`.
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
        Self::attached(name, (smmu, stream), coherent, domain, FaultAction::Abort)
    }

    /// Returns a device of a user-space driver in a [`user_managed`](Domain::user_managed) domain. Faults do
    /// not end its transactions: after too many of them they are not recorded until
    /// [`rearm`](Self::rearm), and `owner` is called.
    ///
    /// # Errors
    /// [`DmaError::IommuRefused`], [`DmaError::IommuTimeout`], [`DmaError::OutOfTables`].
    pub fn user_managed(
        name: String,
        smmu: &'static Smmu,
        stream: StreamId,
        domain: Arc<Domain>,
        owner: OwnerNotification,
    ) -> Result<Arc<Self>, DmaError> {
        Self::attached(name, (smmu, stream), true, domain, FaultAction::StopRecording(owner))
    }

    fn attached(
        name: String,
        (smmu, stream): (&'static Smmu, StreamId),
        coherent: bool,
        domain: Arc<Domain>,
        on_faults: FaultAction,
    ) -> Result<Arc<Self>, DmaError> {
        domain.attach(stream)?;
        let faults = Arc::new(FaultState::default());
        let (translation, mask) = (Some((smmu, stream)), default_mask());
        let device = Arc::new(Self { name, stream: translation, coherent, mask, faults, domain, on_faults });
        let quarantine: Arc<dyn Quarantine> = device.clone();
        fault::register(smmu, stream, device.faults.clone(), Arc::downgrade(&quarantine));
        debug::device_attached(smmu.stream_key(stream), device.domain.key(), &device.name);
        Ok(device)
    }

    /// Returns a device without IOMMU, which accesses memory through `windows`.
    pub fn direct(name: String, coherent: bool, windows: Vec<BusWindow>) -> Arc<Self> {
        let domain = Arc::new(Domain::direct(windows));
        let (mask, faults) = (default_mask(), Arc::new(FaultState::default()));
        Arc::new(Self { name, stream: None, coherent, mask, faults, domain, on_faults: FaultAction::Abort })
    }

    /// The name in traces: bus, device and function of a PCI device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The StreamID; `None` without an SMMU.
    pub fn stream(&self) -> Option<StreamId> {
        self.stream.map(|(_, stream)| stream)
    }

    /// The SMMU that translates its accesses, if any.
    pub fn smmu(&self) -> Option<&'static Smmu> {
        self.stream.map(|(smmu, _)| smmu)
    }

    /// Returns whether its accesses snoop the CPU caches.
    pub fn is_coherent(&self) -> bool {
        self.coherent
    }

    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// The DMA mask.
    pub fn mask(&self) -> DmaMask {
        DmaMask::up_to(self.mask.load(Relaxed))
    }

    /// Returns whether the device can access any RAM.
    pub fn reaches_memory(&self) -> bool {
        self.check_reach().is_ok()
    }

    /// Checks that the device can access any RAM.
    ///
    /// # Errors
    /// The limit that prevents it: [`DmaError::PastMask`] or [`DmaError::OutsideDmaRanges`].
    pub(super) fn check_reach(&self) -> Result<(), DmaError> {
        self.domain.check_reach(self.mask(), &layout().ram)
    }

    /// Sets the DMA mask.
    ///
    /// # Errors
    /// [`DmaError::PastMask`] if all windows of `dma-ranges` are above it.
    pub fn set_mask(&self, mask: DmaMask) -> Result<(), DmaError> {
        if !mask.holds(addr::PAGE_SIZE) || self.domain.reachable(mask).next().is_none() {
            return Err(DmaError::PastMask { len: addr::PAGE_SIZE, mask });
        }
        self.mask.store(mask.highest().raw(), Relaxed);
        Ok(())
    }

    /// Makes the SMMU abort all transactions of the device until [`unblock`](Self::unblock). Its buffers stay
    /// mapped.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`] if it is already blocked or quarantined.
    pub fn block(&self) -> Result<(), DmaError> {
        self.faults.block(|| self.detach()).unwrap_or(Err(DmaError::IommuRefused))
    }

    /// Makes the SMMU abort all transactions of a quarantined device of a user-space driver until
    /// [`rearm`](Self::rearm).
    pub fn abort(&self) {
        if let Err(error) = self.detach() {
            log::error!("{}: {error}", self.name);
        }
    }

    /// Attaches the blocked device again.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::OutOfTables`], [`DmaError::IommuRefused`] if its driver has
    /// not blocked it: only [`rearm`](Self::rearm) ends a quarantine.
    pub fn unblock(&self) -> Result<(), DmaError> {
        self.faults.unblock(|| self.attach()).unwrap_or(Err(DmaError::IommuRefused))
    }

    /// Attaches the stream. After an attach or a detach that failed it may still count as attached.
    fn attach(&self) -> Result<(), DmaError> {
        self.detach()?;
        self.stream().map_or(Ok(()), |stream| self.domain.attach(stream))
    }

    /// Detaches the stream unless it is detached.
    fn detach(&self) -> Result<(), DmaError> {
        let Some(stream) = self.stream() else { return Ok(()) };
        match self.domain.detach(stream) {
            // Not attached: the stream belongs to this device, so no other domain has attached it.
            Err(DmaError::IommuRefused) => Ok(()),
            result => result,
        }
    }

    /// Drains the event queue, and returns the faults that the SMMU recorded since the device was armed.
    pub fn service_faults(&self) -> u64 {
        if let Some(smmu) = self.smmu() {
            smmu.service();
        }
        self.faults.count()
    }

    /// Returns the first fault since the device was armed.
    pub fn first_fault(&self) -> Option<EventRecord> {
        self.faults.first()
    }

    /// Drains the event queue, and returns all faults that the SMMU ever recorded: a count that never
    /// decreases.
    pub fn service_total_faults(&self) -> u64 {
        if let Some(smmu) = self.smmu() {
            smmu.service();
        }
        self.faults.total()
    }

    /// Sets the number of faults after which the device is quarantined, at least 1; [`fault::DEFAULT_LIMIT`]
    /// by default.
    pub fn set_fault_limit(&self, limit: u64) {
        self.faults.set_limit(limit);
    }

    /// Returns the generation of the arming; `None` unless the device is armed. If it is the same before and
    /// after an operation, the device was attached to its domain all the time in between, and the SMMU
    /// aborted none of its accesses to memory that stayed mapped, whether or not events were lost.
    pub fn arm_generation(&self) -> Option<u64> {
        self.faults.arm_generation()
    }

    /// Returns whether only [`rearm`](Self::rearm) makes the device usable: the SMMU aborts its transactions
    /// because of its faults, or did not confirm that it does.
    pub fn is_quarantined(&self) -> bool {
        self.faults.is_quarantined()
    }

    /// Quarantines the device.
    #[cfg(test)]
    pub fn quarantine(&self) {
        self.faults.quarantine_until(0);
        assert_eq!(self.faults.quarantine(|| Ok::<_, DmaError>(())), Some(Ok(())));
    }

    /// Ends the quarantine and resets the fault count. The driver must have stopped the faulting DMA. After
    /// an overflow of the event queue it sleeps until the minimum duration of the quarantine is over, up to a
    /// second.
    ///
    /// # Errors
    /// [`DmaError::IommuTimeout`], [`DmaError::IommuRefused`] (also if the calling program is being killed),
    /// [`DmaError::OutOfTables`]; the device stays quarantined.
    pub fn rearm(&self) -> Result<(), DmaError> {
        if self.is_quarantined() {
            sched::sleep_until(self.faults.earliest_rearm()).map_err(|_| DmaError::IommuRefused)?;
        }
        self.faults.rearm(
            || self.smmu().into_iter().for_each(Smmu::service),
            || match self.on_faults {
                FaultAction::Abort => self.attach(),
                FaultAction::StopRecording(_) => {
                    // It may have been aborted meanwhile.
                    self.attach()?;
                    self.domain.silence(false)
                }
            },
        )
    }

    /// Returns the memory type of a coherent buffer of the device.
    pub fn memory_type(&self, attrs: Attrs) -> MemoryType {
        if self.coherent && !attrs.contains(Attrs::WRITE_COMBINE) {
            MemoryType::WriteBack
        } else {
            MemoryType::NonCacheable
        }
    }
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
        self.abort();
        if self.is_quarantined() && matches!(self.on_faults, FaultAction::StopRecording(_)) {
            let _ = self.domain.silence(false);
        }
    }
}

impl Quarantine for Device {
    fn quarantine(&self) {
        let quarantined = self.faults.quarantine(|| match self.on_faults {
            FaultAction::Abort => self.detach(),
            FaultAction::StopRecording(_) => self.domain.silence(true),
        });
        match quarantined {
            Some(Ok(())) => {
                let faults = self.faults.count();
                let overflow = self.faults.earliest_rearm() > sched::time::now();
                let reason = if overflow { ", and the event queue overflowed" } else { "" };
                let effect = match &self.on_faults {
                    FaultAction::Abort => "the IOMMU aborts its transactions",
                    FaultAction::StopRecording(owner) => {
                        owner();
                        "further faults are not recorded"
                    }
                };
                log::warn!("{}: quarantined after {faults} faults{reason}; {effect}", self.name);
            }
            Some(Err(error)) => log::error!("{}: too many faults, and the detach failed: {error}", self.name),
            None => {}
        }
    }
}
