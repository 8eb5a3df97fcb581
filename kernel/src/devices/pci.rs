//! PCI functions become devices of the DMA core, and get their drivers.

use super::dma_engine::{DmaEngineDevice, Model};
use crate::dma::Device;
use crate::iommu;
use crate::irq;
use crate::memory::vmalloc::{self, MapRegistersError};
use crate::sync::SpinLock;
use addr::StreamId;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use dma_api::{DmaError, DmaMask};
use drivers::edu;
use drivers::mmio::{Mmio, MmioWindow};
use drivers::pcie::{Ecam, EcamError, Function, Host, HostDescription, MasterError, Phandle, StreamLive};

/// A host bridge whose functions have been found.
pub type PciHost = SpinLock<Host>;

/// Why a host or a function is left out.
enum PciError {
    /// Registers cannot be mapped.
    Map(MapRegistersError),
    /// Configuration space is too short.
    Ecam(EcamError),
    /// The BAR that the driver needs has no address.
    NoBar(u8),
    /// The SMMU in front of it is not in use.
    NoIommu(Phandle),
    /// It cannot be attached.
    Dma(DmaError),
    /// It does not master the bus or interrupt.
    Master(MasterError),
    /// The driver does not want it.
    Edu(edu::EduError),
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Ecam(error) => error.fmt(f),
            Self::NoBar(bar) => write!(f, "BAR {bar} has no address"),
            Self::NoIommu(phandle) => {
                write!(f, "the IOMMU in front of it (phandle {:#x}) is not in use", phandle.0)
            }
            Self::Dma(error) => error.fmt(f),
            Self::Master(error) => error.fmt(f),
            Self::Edu(error) => error.fmt(f),
        }
    }
}

/// Finds the functions behind a host bridge.
pub fn open(description: &HostDescription) -> Option<&'static PciHost> {
    match enumerate(description) {
        Ok(host) => {
            host.problems().iter().for_each(|problem| log::warn!("pci: {problem}"));
            for at in host.masters() {
                log::warn!("pci: {at} came as a bus master: stopped");
            }
            log::info!("pci: {} functions, buses {:?}", host.functions().len(), description.buses);
            Some(Box::leak(Box::new(SpinLock::new(host))))
        }
        Err(error) => {
            log::warn!("pci host at {:#x}: ignored: {error}", description.ecam.start());
            None
        }
    }
}

fn enumerate(description: &HostDescription) -> Result<Host, PciError> {
    let at = vmalloc::map_registers(description.ecam).map_err(PciError::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word configuration space, and used here alone.
    let window = unsafe { MmioWindow::new(at.start(), at.len()) };
    let config = Ecam::new(window, description.buses.clone()).map_err(PciError::Ecam)?;
    Ok(Host::enumerate(config, description.clone()))
}

/// The streams attached so far. Functions that send the same requester id cannot be told apart by the fabric: they are
/// one device to the DMA core, with one domain.
pub struct Streams {
    iommu_off: bool,
    attached: BTreeMap<(Phandle, StreamId), Arc<Device>>,
}

impl Streams {
    /// None yet. With `iommu_off` no function has one.
    pub fn new(iommu_off: bool) -> Self {
        Self { iommu_off, attached: BTreeMap::new() }
    }

    /// The DMA core's device for a function. Its stream is live when this returns.
    fn device(&mut self, host: &Host, function: &Function) -> Result<Arc<Device>, PciError> {
        let (name, coherent) = (function.bdf.to_string(), host.description().coherent);
        let stream = host.stream(function).filter(|_| !self.iommu_off);
        let Some((phandle, stream)) = stream else {
            return Ok(Device::direct(name, coherent, host.description().dma.clone()));
        };
        if let Some(device) = self.attached.get(&(phandle, stream)) {
            return Ok(device.clone());
        }
        let smmu = iommu::find(phandle).ok_or(PciError::NoIommu(phandle))?;
        let device = Device::translated(name, smmu, stream, coherent).map_err(PciError::Dma)?;
        self.attached.insert((phandle, stream), device.clone());
        Ok(device)
    }
}

/// How many functions behind `host`, but for bridges, have their IOMMU at `phandle`.
pub fn devices_behind(host: &PciHost, phandle: Phandle) -> u64 {
    let host = host.lock();
    let devices = host.functions().iter().filter(|function| !function.class.is_bridge());
    devices.filter_map(|device| host.stream(device)).filter(|(iommu, _)| *iommu == phandle).count() as u64
}

/// Starts the driver of every edu device behind `host`, which puts addresses within `mask` on the bus. One that does not
/// start is left out with a warning.
pub fn start_edus(
    host: &'static PciHost,
    streams: &mut Streams,
    mask: DmaMask,
) -> Vec<&'static DmaEngineDevice> {
    let mut host = host.lock();
    let is_edu = |function: &&Function| (function.vendor, function.device) == edu::PCI_ID;
    let functions: Vec<Function> = host.functions().iter().filter(is_edu).cloned().collect();
    let started = functions.iter().filter_map(|function| {
        start_edu(&mut host, function, streams, mask)
            .inspect_err(|error| log::warn!("edu {}: ignored: {error}", function.bdf))
            .ok()
    });
    started.collect()
}

fn start_edu(
    host: &mut Host,
    function: &Function,
    streams: &mut Streams,
    mask: DmaMask,
) -> Result<&'static DmaEngineDevice, PciError> {
    let bar = function.bars[0].and_then(|bar| bar.registers).ok_or(PciError::NoBar(0))?;
    let at = vmalloc::map_registers(bar).map_err(PciError::Map)?;
    // SAFETY: mapped for good as Device memory; BAR 0 of this PCI id is an edu's registers; nothing else drives it.
    let registers = unsafe { Mmio::new(at.start()) };
    let engine = edu::Edu::new(registers, mask.highest().raw()).map_err(PciError::Edu)?;
    let device = streams.device(host, function)?;
    device.set_mask(mask).map_err(PciError::Dma)?;
    let driver: &DmaEngineDevice = Box::leak(Box::new(DmaEngineDevice::new(Model::Edu, device, engine)));
    connect_interrupt(host, function, driver)?;
    // The stream has been attached above, or nothing translates.
    host.enable_bus_master(function.bdf, StreamLive::promise(function.requester))
        .map_err(PciError::Master)?;
    log::info!("edu {}: {}", function.bdf, driver.summary());
    Ok(driver)
}

/// Lets the function interrupt by its pin; without one its driver polls.
fn connect_interrupt(
    host: &mut Host,
    function: &Function,
    driver: &'static DmaEngineDevice,
) -> Result<(), PciError> {
    let Some(interrupt) = host.interrupt(function) else { return Ok(()) };
    match irq::register(interrupt, driver) {
        Ok(()) => {
            host.enable_intx(function.bdf, true).map_err(PciError::Master)?;
            driver.use_interrupt();
        }
        Err(error) => log::warn!("edu {}: polled: {error}", function.bdf),
    }
    Ok(())
}
