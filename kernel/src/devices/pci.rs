//! PCI: enumeration, the binding of drivers to functions, and the attachment of functions to the IOMMU.

use super::driver::{BoundDevice, ProbeError, Probed};
use crate::board::BootArgs;
use crate::dma::Device;
use crate::iommu;
use crate::irq;
use crate::memory::{heap, vmalloc};
use crate::msi::{self, MessageVectors, MsiError};
use crate::sched::Mutex;
use crate::sync::SpinLock;
use addr::{AddrRange, KernelVa, StreamId};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use drivers::mmio::MmioWindow;
use drivers::pcie::{Bdf, ClassCode, Ecam, Function, Host, HostDescription, Phandle, StreamLive};

/// A driver for PCI functions.
pub struct PciDriver {
    /// The name in log lines.
    pub name: &'static str,
    /// The functions that the driver supports: those that match any entry.
    pub matches: &'static [PciMatch],
    /// Initializes a function and binds it.
    pub probe: fn(&mut PciProbe<'_>) -> Probed,
}

/// An entry of a driver's id table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PciMatch {
    /// The vendor and device id.
    Id(u16, u16),
    /// The class code, including the programming interface.
    Class(ClassCode),
}

impl PciMatch {
    fn matches(self, vendor: u16, device: u16, class: ClassCode) -> bool {
        match self {
            Self::Id(own_vendor, own_device) => (own_vendor, own_device) == (vendor, device),
            Self::Class(own) => own == class,
        }
    }
}

/// Returns the first of `drivers` that supports a function with these ids and class code.
fn driver_for(
    drivers: &[&'static PciDriver],
    (vendor, device): (u16, u16),
    class: ClassCode,
) -> Option<&'static PciDriver> {
    let supports = |driver: &&&PciDriver| driver.matches.iter().any(|m| m.matches(vendor, device, class));
    drivers.iter().find(supports).copied()
}

/// A host bridge whose hierarchy has been enumerated.
pub type PciHost = Mutex<Host>;

static HOSTS: SpinLock<Vec<&'static PciHost>> = SpinLock::new(Vec::new());

/// A function, by its host bridge's place in the order of enumeration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PciAddress {
    pub host: u16,
    pub bdf: Bdf,
}

/// The drivers that have bound functions, by name.
static BOUND: SpinLock<BTreeMap<PciAddress, &'static str>> = SpinLock::new(BTreeMap::new());

/// Returns the driver that has bound a function.
pub fn driver_of(at: PciAddress) -> Option<&'static str> {
    BOUND.lock().get(&at).copied()
}

/// Records that a driver has bound a function. Returns `false` if another has.
pub fn set_driver(at: PciAddress, name: &'static str) -> bool {
    let mut bound = BOUND.lock();
    let is_free = !bound.contains_key(&at);
    if is_free {
        bound.insert(at, name);
    }
    is_free
}

/// Records that a function has no driver.
pub fn clear_driver(at: PciAddress) {
    BOUND.lock().remove(&at);
}

/// Returns the number of host bridges.
pub fn host_count() -> usize {
    HOSTS.lock().len()
}

/// Returns a host bridge by its place in the order of enumeration.
pub fn host(index: usize) -> Option<&'static PciHost> {
    HOSTS.lock().get(index).copied()
}

/// Enumerates the functions behind a host bridge, and stops those that are bus masters.
pub fn enumerate(description: &HostDescription) -> Option<&'static PciHost> {
    match open(description) {
        Ok(host) => {
            host.problems().iter().for_each(|problem| log::warn!("pci: {problem}"));
            for at in host.masters() {
                log::warn!("pci: {at}: disabled bus mastering, left enabled by an earlier boot stage");
            }
            log::info!("pci: {} functions, buses {:?}", host.functions().len(), description.buses);
            let host = Box::leak(Box::new(Mutex::new(host)));
            HOSTS.lock().push(host);
            Some(host)
        }
        Err(error) => {
            log::warn!("pci host at {:#x}: ignored: {error}", description.ecam.start());
            None
        }
    }
}

fn open(description: &HostDescription) -> Result<Host, ProbeError> {
    // SAFETY: configuration space according to the device tree, whose first register is an ID.
    let at = unsafe { vmalloc::map_non_posted_registers(description.ecam) }.map_err(ProbeError::Map)?;
    // SAFETY: mapped permanently as Device memory, nGnRnE; configuration space according to the device tree,
    // used by this host only.
    let window = unsafe { MmioWindow::new(at.start(), at.len()) };
    let config = Ecam::new(window, description.buses.clone()).map_err(ProbeError::Ecam)?;
    Ok(Host::enumerate(config, description.clone()))
}

/// Returns the number of functions behind `host`, other than bridges, whose IOMMU is `phandle`.
pub fn devices_behind(host: &PciHost, phandle: Phandle) -> u64 {
    let host = host.lock();
    let devices = host.functions().iter().filter(|function| !function.class.is_bridge());
    devices.filter_map(|device| host.stream(device)).filter(|(iommu, _)| *iommu == phandle).count() as u64
}

/// The attached streams. Functions with the same requester id cannot be isolated from each other by the
/// fabric: they are one device of the DMA core, with one domain.
pub struct Streams {
    iommu_off: bool,
    attached: BTreeMap<(Phandle, StreamId), Arc<Device>>,
}

impl Streams {
    /// With `iommu_off` no function has a stream.
    pub fn new(iommu_off: bool) -> Self {
        Self { iommu_off, attached: BTreeMap::new() }
    }

    /// Returns `stream` if it is to be attached.
    ///
    /// # Errors
    /// [`ProbeError::ShiftedAddresses`].
    fn attachable(
        &self,
        host: &HostDescription,
        stream: Option<(Phandle, StreamId)>,
    ) -> Result<Option<(Phandle, StreamId)>, ProbeError> {
        match stream.filter(|_| !self.iommu_off) {
            Some(_) if host.shifts_addresses() => Err(ProbeError::ShiftedAddresses),
            stream => Ok(stream),
        }
    }

    fn device(&mut self, host: &Host, function: &Function) -> Result<Arc<Device>, ProbeError> {
        let (name, coherent) = (function.bdf.to_string(), host.description().coherent);
        let Some((phandle, stream)) = self.attachable(host.description(), host.stream(function))? else {
            return Ok(Device::direct(name, coherent, host.description().dma.clone()));
        };
        if let Some(device) = self.attached.get(&(phandle, stream)) {
            return Ok(device.clone());
        }
        let smmu = iommu::find(phandle).ok_or(ProbeError::NoIommu(phandle))?;
        let unusable = host.description().unusable_iovas();
        let device = Device::translated(name, smmu, stream, coherent, &unusable).map_err(ProbeError::Dma)?;
        self.attached.insert((phandle, stream), device.clone());
        Ok(device)
    }
}

/// Probes every function behind `host` that one of `drivers` supports. A function whose probe fails is left
/// out with a warning.
pub fn probe(
    host: &'static PciHost,
    drivers: &[&'static PciDriver],
    streams: &mut Streams,
    args: &BootArgs<'_>,
) -> Vec<&'static dyn BoundDevice> {
    let index = HOSTS.lock().iter().position(|&other| core::ptr::eq(other, host));
    let mut locked = host.lock();
    let functions = locked.functions().to_vec();
    let bound = functions.iter().filter_map(|function| {
        if args.vfio_ids.contains(function.vendor, function.device) {
            return None;
        }
        let driver = driver_for(drivers, (function.vendor, function.device), function.class)?;
        if let Some(index) = index {
            set_driver(PciAddress { host: index as u16, bdf: function.bdf }, driver.name);
        }
        let mut probe = PciProbe { shared: host, host: &mut locked, function, streams, args };
        (driver.probe)(&mut probe).unwrap_or_else(|error| {
            log::warn!("{} {}: ignored: {error}", driver.name, function.bdf);
            None
        })
    });
    bound.collect()
}

/// The interrupt of a function.
pub enum Connected {
    /// A message.
    Message(MessageVectors),
    /// INTx.
    Intx,
    /// None.
    None,
}

/// A function whose driver is being probed.
pub struct PciProbe<'a> {
    /// The mutex that `host` is locked by.
    shared: &'static PciHost,
    host: &'a mut Host,
    function: &'a Function,
    streams: &'a mut Streams,
    args: &'a BootArgs<'a>,
}

impl PciProbe<'_> {
    /// Returns the function's address.
    pub fn bdf(&self) -> Bdf {
        self.function.bdf
    }

    /// The boot arguments.
    pub fn args(&self) -> &BootArgs<'_> {
        self.args
    }

    /// Maps the registers of memory BAR `bar` permanently, as Device memory. No other driver uses them.
    ///
    /// # Errors
    /// [`ProbeError::NoBar`], [`ProbeError::Map`].
    pub fn map_bar(&self, bar: u8) -> Result<AddrRange<KernelVa>, ProbeError> {
        let found = self.function.bars.get(usize::from(bar)).copied().flatten();
        let registers = found.and_then(|found| found.registers).ok_or(ProbeError::NoBar(bar))?;
        // SAFETY: this function's BAR, passed to its driver. Devices whose first register has a read side
        // effect have no driver here.
        unsafe { vmalloc::map_registers(registers) }.map_err(ProbeError::Map)
    }

    /// Attaches the function to its IOMMU, if it has one, and returns its device of the DMA core. The stream
    /// is live when this returns.
    ///
    /// # Errors
    /// [`ProbeError::NoIommu`], [`ProbeError::Dma`].
    pub fn attach(&mut self) -> Result<Arc<Device>, ProbeError> {
        self.streams.device(self.host, self.function)
    }

    /// Connects the function's interrupt to `handler`: a message, which is a transaction of `device`, or else
    /// INTx. Without an interrupt the driver must poll.
    ///
    /// # Errors
    /// [`ProbeError::Master`].
    pub fn connect_interrupt(
        &mut self,
        device: &Arc<Device>,
        handler: &'static (dyn irq::Handler + Send),
    ) -> Result<Connected, ProbeError> {
        match self.connect_msi(device, handler) {
            Ok(vectors) => return Ok(Connected::Message(vectors)),
            Err(None) => {}
            Err(Some(error)) => log::warn!("{}: no messages: {error}", self.function.bdf),
        }
        Ok(if self.connect_intx(handler)? { Connected::Intx } else { Connected::None })
    }

    /// Allocates a message for the function and enables it. `None` without a controller or a capability.
    fn connect_msi(
        &mut self,
        device: &Arc<Device>,
        handler: &'static (dyn irq::Handler + Send),
    ) -> Result<MessageVectors, Option<Box<dyn fmt::Display>>> {
        let (phandle, id) = self.host.message_controller(self.function).ok_or(None)?;
        if !self.host.has_msi(self.function) {
            return Err(None);
        }
        let boxed = |error: MsiError| Some(Box::new(error) as _);
        let vectors = match msi::alloc(phandle, id, 1, device) {
            Err(MsiError::NoController(_)) => return Err(None),
            result => result.map_err(boxed)?,
        };
        let handler = heap::try_arc(handler).ok_or_else(|| boxed(MsiError::OutOfMemory))?;
        vectors.set_handler(0, Some(handler));
        vectors.unmask(0).map_err(boxed)?;
        let enabled = self.host.enable_msi(self.function.bdf, vectors.message(0));
        enabled.map_err(|error| Some(Box::new(error) as _))?;
        Ok(vectors)
    }

    /// Connects INTx to `handler`. Returns `false` if there is no interrupt and the driver must poll.
    ///
    /// # Errors
    /// [`ProbeError::Master`].
    pub fn connect_intx(&mut self, handler: &'static dyn irq::Handler) -> Result<bool, ProbeError> {
        let Some(interrupt) = self.host.interrupt(self.function) else { return Ok(false) };
        if let Err(error) = irq::register(interrupt, handler) {
            log::warn!("{}: polled: {error}", self.function.bdf);
            return Ok(false);
        }
        self.host.enable_intx(self.function.bdf, true).map_err(ProbeError::Master)?;
        Ok(true)
    }

    /// Lets the function master the bus. `_attached` is the device that [`attach`](Self::attach) returned for
    /// it.
    ///
    /// # Errors
    /// [`ProbeError::Master`].
    pub fn enable_bus_master(&mut self, _attached: &Device) -> Result<(), ProbeError> {
        // SAFETY: since `attach`, the SMMU translates the transactions of the stream, or aborts them after a
        // detach; without an SMMU, buffers are where the device may access memory.
        let live = unsafe { StreamLive::promise(self.function.requester) };
        self.host.enable_bus_master(self.function.bdf, live).map_err(ProbeError::Master)
    }

    /// Returns a function for the time after the probe: if the PCI function was removed, it makes the nearest
    /// bridge above it reject its requests, and returns whether the bridge does. Must not be called with a
    /// spin lock held.
    pub fn isolate_removed(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (host, bdf, warned) = (self.shared, self.function.bdf, AtomicBool::new(false));
        move || {
            let isolated = host.lock().isolate_removed(bdf);
            match &isolated {
                Ok(bridge) => log::info!("{bdf}: isolated: bus mastering of bridge {bridge} is disabled"),
                Err(error) if !warned.swap(true, Relaxed) => log::warn!("{bdf}: not isolated: {error}"),
                Err(_) => {}
            }
            isolated.is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Iova, PhysAddr};
    use drivers::direct::BusWindow;
    use drivers::pcie::{InterruptMap, RequesterMap};

    const NVME: ClassCode = ClassCode::new(1, 8, 2);
    const OTHER: ClassCode = ClassCode::new(0, 0xff, 0);

    static BY_ID: PciDriver =
        PciDriver { name: "id", matches: &[PciMatch::Id(0x1234, 0x11e8), PciMatch::Id(1, 2)], probe };
    static BY_CLASS: PciDriver = PciDriver { name: "class", matches: &[PciMatch::Class(NVME)], probe };

    fn probe(_: &mut PciProbe<'_>) -> Probed {
        Ok(None)
    }

    #[test]
    fn drivers_match_by_id_or_by_class() {
        let name = |id, class| driver_for(&[&BY_ID, &BY_CLASS], id, class).map(|driver| driver.name);
        assert_eq!(name((0x1234, 0x11e8), OTHER), Some("id"));
        assert_eq!(name((1, 2), OTHER), Some("id"));
        assert_eq!(name((0x1234, 2), OTHER), None, "both halves of the id must match");
        assert_eq!(name((0x1b36, 0x10), NVME), Some("class"));
        assert_eq!(name((0x1b36, 0x10), ClassCode::new(1, 8, 1)), None, "another programming interface");
    }

    /// A bridge before the IOMMU that changes addresses would make it translate other ones.
    #[test]
    fn stream_behind_a_bridge_that_shifts_addresses_is_not_attached() {
        let memory = AddrRange::new(PhysAddr::new(0x8000_0000), PhysAddr::new(0x9000_0000));
        let stream = Some((Phandle(1), StreamId::new(8)));
        for (bus, iommu_off, expected) in [
            (0x8000_0000, false, Some(stream)),
            (0, false, None),
            (0, true, Some(None)),
            (0x8000_0000, true, Some(None)),
        ] {
            let host = HostDescription {
                ecam: AddrRange::EMPTY,
                buses: 0..=0,
                domain: 0,
                windows: Vec::new(),
                interrupts: InterruptMap::default(),
                iommu: RequesterMap::default(),
                msi: RequesterMap::default(),
                dma: Vec::from([BusWindow { memory, bus: Iova::new(bus) }]),
                reserved_iovas: Vec::new(),
                coherent: true,
            };
            let streams = Streams::new(iommu_off);
            assert_eq!(streams.attachable(&host, stream).ok(), expected, "{bus:#x} {iommu_off}");
            assert_eq!(streams.attachable(&host, None).ok(), Some(None), "without a stream");
        }
    }

    #[test]
    fn first_matching_driver_of_the_table_is_chosen() {
        let name = |drivers| driver_for(drivers, (1, 2), NVME).map(|driver| driver.name);
        assert_eq!((name(&[&BY_ID, &BY_CLASS]), name(&[&BY_CLASS, &BY_ID])), (Some("id"), Some("class")));
    }
}
