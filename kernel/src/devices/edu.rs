//! The driver of QEMU's `edu` device.

use super::dma_engine::DmaEngineDevice;
use super::driver::{ProbeError, Probed};
use super::pci::{Connected, PciDriver, PciMatch, PciProbe};
use crate::fs::char_device::DeviceClass;
use alloc::boxed::Box;
use dma_api::DmaMask;
use drivers::edu::{self, EduEngine};
use drivers::mmio::Mmio;

pub static DRIVER: PciDriver =
    PciDriver { name: "edu", matches: &[PciMatch::Id(edu::PCI_ID.0, edu::PCI_ID.1)], probe };

static CLASS: DeviceClass = DeviceClass { name: "edu", major: 241 };

fn probe(function: &mut PciProbe<'_>) -> Probed {
    let mask = function.args().edu_mask.map_or(DmaMask::up_to(edu::DMA_MASK), DmaMask::bits);
    let at = function.map_bar(0)?;
    // SAFETY: mapped permanently as Device memory; BAR 0 of this PCI id is an edu's registers; no other
    // driver uses them.
    let registers = unsafe { Mmio::new(at.start()) };
    let engine = EduEngine::new(registers, mask.highest().raw()).map_err(ProbeError::device)?;
    let device = function.attach()?;
    device.set_mask(mask).map_err(ProbeError::Dma)?;
    let bound = DmaEngineDevice::new(&CLASS, device, engine).isolated_by(function.isolate_removed());
    let bound: &DmaEngineDevice = Box::leak(Box::new(bound));
    match function.connect_interrupt(bound.device(), bound)? {
        Connected::Message(vectors) => bound.use_messages(vectors),
        Connected::Intx => bound.use_interrupt(),
        Connected::None => {}
    }
    function.enable_bus_master(bound.device())?;
    log::info!("edu {}: {}", function.bdf(), bound.summary());
    Ok(Some(bound))
}
