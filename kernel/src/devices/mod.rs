//! The devices that this machine has and this kernel drives, in the order in which they were found.
//!
//! Order matters: nothing masters the bus that an earlier stage left running, buses are numbered before an SMMU sees its first command (stream ids hang on bus numbers), and a
//! device masters the bus only once its stream is live.

mod bcm2835;
pub mod dma_engine;
mod loopback;
mod pci;

use crate::board::{BootArgs, Platform};
use crate::dma;
use crate::iommu;
use alloc::vec::Vec;
use dma_api::DmaMask;
use dma_engine::DmaEngineDevice;
use drivers::edu;
use spin::Once;

static DMA_ENGINES: Once<Vec<&'static DmaEngineDevice>> = Once::new();

/// The host bridges whose functions have been found, and do nothing yet.
pub struct Found(Vec<&'static pci::PciHost>);

/// Finds what is behind the host bridges, and ends the DMA that an earlier stage left running there: no function masters
/// the bus any more. To be called as soon as registers can be mapped for good; where there is an SMMU it aborts already
/// ([`iommu::abort_all`]).
pub fn find(platform: &Platform) -> Found {
    Found(platform.pci_hosts.iter().filter_map(pci::open).collect())
}

/// Devices whose drivers have started, and that nobody uses yet.
pub struct Started(Vec<&'static DmaEngineDevice>);

/// Starts the drivers. With `iommu=off` the SMMUs are left alone, and devices get physical addresses.
pub fn init(platform: &Platform, Found(hosts): Found, args: &BootArgs<'_>) -> Started {
    if !args.iommu_off {
        let devices = |smmu| hosts.iter().map(|host| pci::devices_behind(host, smmu)).sum();
        iommu::init(&platform.smmus, devices, args.iommu_events);
        if dma::fault::start().is_err() {
            log::warn!("no memory for a thread: devices that keep faulting are not blocked");
        }
    }
    let mut streams = pci::Streams::new(args.iommu_off);
    let edu_mask = args.edu_mask.map_or(DmaMask::up_to(edu::DMA_MASK), DmaMask::bits);
    let edus = hosts.iter().flat_map(|host| pci::start_edus(host, &mut streams, edu_mask));
    if let Some(mailbox) = &platform.firmware_mailbox {
        bcm2835::ask_firmware(mailbox, &platform.memory);
    }
    let engine = platform.dma_channel.as_ref().and_then(bcm2835::start_dma);
    Started(edus.chain(engine).collect())
}

impl Started {
    /// Lets the devices be used, those that pass a `trial` if there is to be one. Only in a thread, once.
    pub fn admit(self, trial: bool) {
        let mut engines = self.0;
        engines.retain(|engine| !trial || passes(engine));
        DMA_ENGINES.call_once(|| engines);
    }
}

fn passes(engine: &DmaEngineDevice) -> bool {
    let tried = dma::trace::without(|| loopback::check(engine));
    tried.inspect_err(|failed| log::warn!("{}: ignored: {failed}", engine.device().name())).is_ok()
}

/// The devices that copy and may be used, `edu`s first.
pub fn dma_engines() -> &'static [&'static DmaEngineDevice] {
    DMA_ENGINES.get().map_or(&[], Vec::as_slice)
}
