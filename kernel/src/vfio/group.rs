//! Isolation groups of functions: the unit that a user owns.

use super::function::BoundFunction;
use super::ioas::{DomainUse, Ioas};
use super::registry;
use crate::devices::pci::{self, PciAddress};
use crate::dma::{Device, OwnerNotification};
use crate::fs::dma_buf::errno;
use crate::iommu::{self, Smmu};
use crate::memory::heap;
use crate::sched::Mutex;
use abi::Errno;
use addr::{AddrRange, Iova, StreamId};
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use drivers::pcie::GroupReason;

/// The name of the driver of functions that are left to user-space drivers.
pub const DRIVER: &str = "vfio-pci";

/// The IOVAs that Linux reserves for the doorbells of messages: a user-space driver expects them there.
const MESSAGE_WINDOW: [Iova; 2] = [Iova::new(0x0800_0000), Iova::new(0x0810_0000)];

/// Returns the window of doorbells.
pub fn message_window() -> AddrRange<Iova> {
    let [start, end] = MESSAGE_WINDOW;
    AddrRange::new(start, end)
}

/// A group of functions.
pub struct IommuGroup {
    pub number: u32,
    pub functions: Vec<PciAddress>,
    pub reason: GroupReason,
    state: Mutex<GroupState>,
}

struct GroupState {
    owner: GroupOwner,
    /// The attachment that the functions of the group share.
    attached: Weak<AttachedGroup>,
}

/// The user of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GroupOwner {
    None,
    /// The open file of the group.
    GroupFile,
    /// This number of bound devices of the iommufd with this address.
    Iommufd(usize, u32),
}

/// The functions of a group in the domain of an I/O address space. Dropping it makes the IOMMU abort their
/// transactions, before the mappings are removed.
pub struct AttachedGroup {
    /// Dropped first.
    devices: Vec<Arc<Device>>,
    domain: DomainUse,
}

impl AttachedGroup {
    pub fn ioas(&self) -> &Arc<Ioas> {
        self.domain.ioas()
    }

    /// Returns the device with this StreamID.
    pub fn device(&self, stream: StreamId) -> Option<&Arc<Device>> {
        self.devices.iter().find(|device| device.stream() == Some(stream))
    }
}

impl IommuGroup {
    pub fn new(number: u32, functions: Vec<PciAddress>, reason: GroupReason) -> Self {
        let state = GroupState { owner: GroupOwner::None, attached: Weak::new() };
        Self { number, functions, reason, state: Mutex::new(state) }
    }

    /// Whether each function has no driver, or is left to user-space drivers. Bridges do no DMA of their own.
    pub fn is_viable(&self) -> bool {
        self.functions.iter().all(|&at| {
            let is_bridge = || {
                let host = pci::host(at.host.into()).map(|host| host.lock());
                host.is_some_and(|host| host.function(at.bdf).is_some_and(|found| found.bridge.is_some()))
            };
            pci::driver_of(at).is_none_or(|driver| driver == DRIVER) || is_bridge()
        })
    }

    /// Claims the group for its file.
    ///
    /// # Errors
    /// `EBUSY` if it has an owner.
    pub fn claim_for_file(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.owner != GroupOwner::None {
            return Err(Errno::EBUSY);
        }
        state.owner = GroupOwner::GroupFile;
        Ok(())
    }

    pub fn release_file(&self) {
        self.state.lock().owner = GroupOwner::None;
    }

    /// Claims the group for a device that is bound to an iommufd.
    ///
    /// # Errors
    /// `EBUSY` if it has another owner, `EPERM` if a function has a kernel driver.
    pub fn claim_for_iommufd(&self, iommufd: usize) -> Result<(), Errno> {
        if !self.is_viable() {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        state.owner = match state.owner {
            GroupOwner::None => GroupOwner::Iommufd(iommufd, 1),
            GroupOwner::Iommufd(owner, devices) if owner == iommufd => {
                GroupOwner::Iommufd(owner, devices + 1)
            }
            GroupOwner::Iommufd(..) | GroupOwner::GroupFile => return Err(Errno::EBUSY),
        };
        Ok(())
    }

    pub fn release_iommufd(&self) {
        let mut state = self.state.lock();
        state.owner = match state.owner {
            GroupOwner::Iommufd(owner, devices) if devices > 1 => GroupOwner::Iommufd(owner, devices - 1),
            _ => GroupOwner::None,
        };
    }

    /// Attaches the functions to an I/O address space; returns the existing attachment if there is one.
    ///
    /// # Errors
    /// `EBUSY` if they are attached to another one, `ENODEV` for a function that no IOMMU isolates; those of
    /// [`Ioas::attach`].
    pub fn attach(&self, ioas: &Arc<Ioas>) -> Result<Arc<AttachedGroup>, Errno> {
        let mut state = self.state.lock();
        if let Some(attached) = state.attached.upgrade() {
            return if Arc::ptr_eq(attached.ioas(), ioas) { Ok(attached) } else { Err(Errno::EBUSY) };
        }
        let streams = self.streams()?;
        let first = streams.first().ok_or(Errno::ENODEV)?;
        let (smmu, coherent) = (first.smmu, first.coherent);
        // The caches of devices that do not snoop would need maintenance by the program.
        if !coherent || streams.iter().any(|stream| !core::ptr::eq(stream.smmu, smmu) || !stream.coherent) {
            return Err(Errno::EINVAL);
        }
        let domain = ioas.attach(smmu, coherent, &self.reserved()?)?;
        let mut devices = Vec::new();
        devices.try_reserve_exact(streams.len()).map_err(|_| Errno::ENOMEM)?;
        for stream in &streams {
            let (name, domain) = (stream.at.bdf.to_string(), domain.domain().clone());
            let device = Device::user_managed(name, smmu, stream.id, domain, self.error_notification()?);
            devices.push(device.map_err(errno)?);
        }
        let attached = heap::try_arc(AttachedGroup { devices, domain }).ok_or(Errno::ENOMEM)?;
        state.attached = Arc::downgrade(&attached);
        Ok(attached)
    }

    /// Returns a function that signals the eventfds for errors of the open functions.
    ///
    /// # Errors
    /// `ENOMEM`
    fn error_notification(&self) -> Result<OwnerNotification, Errno> {
        let number = self.number;
        let notify = heap::try_box(move || {
            registry::functions_of(number).iter().for_each(|function| function.signal_error());
        });
        Ok(notify.ok_or(Errno::ENOMEM)?)
    }

    /// The streams of the functions, each once.
    fn streams(&self) -> Result<Vec<FunctionStream>, Errno> {
        let mut streams: Vec<FunctionStream> = Vec::new();
        streams.try_reserve_exact(self.functions.len()).map_err(|_| Errno::ENOMEM)?;
        for &at in &self.functions {
            let host = pci::host(at.host.into()).ok_or(Errno::ENODEV)?.lock();
            let function = host.function(at.bdf).ok_or(Errno::ENODEV)?;
            if function.bridge.is_some() {
                continue;
            }
            // A bridge before the SMMU that changes addresses would make it translate other ones.
            if host.description().shifts_addresses() {
                return Err(Errno::ENODEV);
            }
            let (phandle, id) = host.stream(function).ok_or(Errno::ENODEV)?;
            let smmu = iommu::find(phandle).ok_or(Errno::ENODEV)?;
            let coherent = host.description().coherent;
            if !streams.iter().any(|stream| stream.id == id && core::ptr::eq(stream.smmu, smmu)) {
                streams.push(FunctionStream { at, smmu, id, coherent });
            }
        }
        Ok(streams)
    }

    /// The IOVAs that the functions cannot use: the window of messages, and addresses that a bridge above
    /// them takes for those of another function.
    fn reserved(&self) -> Result<Vec<AddrRange<Iova>>, Errno> {
        let mut reserved = Vec::new();
        reserved.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        reserved.push(message_window());
        if let Some(host) = self.functions.first().and_then(|at| pci::host(at.host.into())) {
            let host = host.lock();
            match self.reason {
                GroupReason::Bridge(_) => reserved.extend(host.description().unusable_iovas()),
                _ => reserved.extend(&host.description().reserved_iovas),
            }
        }
        Ok(reserved)
    }

    /// Returns the reserved IOVAs for `/sys`.
    pub fn reserved_regions(&self) -> Vec<AddrRange<Iova>> {
        self.reserved().unwrap_or_default()
    }

    /// Whether one of `bound` is a function of the group.
    pub fn has(&self, bound: &BoundFunction) -> bool {
        self.functions.contains(&bound.at)
    }
}

/// A stream of a group.
struct FunctionStream {
    /// A function with the stream.
    at: PciAddress,
    smmu: &'static Smmu,
    id: StreamId,
    coherent: bool,
}
