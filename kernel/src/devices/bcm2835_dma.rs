//! The driver of a Raspberry Pi's DMA engine (binding `brcm,bcm2835-dma`), which is not behind an IOMMU. One
//! channel is used.

use super::dma_engine::DmaEngineDevice;
use super::driver::{ProbeError, Probed};
use super::platform::{PlatformDriver, PlatformProbe};
use crate::board::{NodeError, PlatformDevice};
use crate::fs::char_device::DeviceClass;
use crate::irq;
use addr::{AddrRange, PhysAddr};
use alloc::boxed::Box;
use drivers::bcm2835::dma::{CHANNEL_STRIDE, DmaChannel, FIRST_LITE};
use drivers::interrupts::Interrupt;
use drivers::mmio::Mmio;

pub static DRIVER: PlatformDriver =
    PlatformDriver { name: "bcm2835-dma", compatible: &["brcm,bcm2835-dma"], probe };

static CLASS: DeviceClass = DeviceClass { name: "bcm2835-dma", major: 243 };

/// The channels' names in `interrupt-names`.
const CHANNEL_NAMES: [&str; FIRST_LITE as usize] = ["dma0", "dma1", "dma2", "dma3", "dma4", "dma5", "dma6"];

/// The first full (not lite) channel that the firmware does not use.
#[derive(PartialEq, Eq, Debug)]
struct Channel {
    number: u32,
    registers: AddrRange<PhysAddr>,
    interrupt: Option<Interrupt>,
}

impl Channel {
    fn choose(engine: &PlatformDevice) -> Result<Self, NodeError> {
        const MASK: &str = "brcm,dma-channel-mask";
        let number = engine.cell(MASK)?.trailing_zeros();
        let Some(name) = CHANNEL_NAMES.get(number as usize) else { return Err(NodeError::Malformed(MASK)) };
        let start = engine.registers.start() + u64::from(number) * CHANNEL_STRIDE;
        let registers = AddrRange::from_len(start, CHANNEL_STRIDE);
        let registers = registers.filter(|own| engine.registers.covers(own));
        Ok(Self {
            number,
            registers: registers.ok_or(NodeError::Malformed("reg"))?,
            interrupt: engine.interrupt(name, number as usize),
        })
    }
}

fn probe(engine: &PlatformProbe<'_>) -> Probed {
    let channel = Channel::choose(engine.device).map_err(ProbeError::Node)?;
    // SAFETY: a channel that the mask reserves for the kernel; its first register is a control register.
    let at = unsafe { engine.map(channel.registers) }?;
    // SAFETY: mapped permanently as Device memory; a channel's registers according to the device tree, whose
    // mask reserves the channel for the kernel; no other driver uses them.
    let registers = unsafe { Mmio::new(at.start()) };
    let device = engine.dma_device("bcm2835-dma");
    let driver = DmaChannel::new(registers, &crate::dma::Space::new(device.clone()));
    let driver = driver.map_err(ProbeError::device)?;
    let bound: &DmaEngineDevice = Box::leak(Box::new(DmaEngineDevice::new(&CLASS, device, driver)));
    match channel.interrupt.map(|interrupt| irq::register(interrupt, bound)) {
        Some(Ok(())) => bound.use_interrupt(),
        Some(Err(error)) => log::warn!("bcm2835-dma: polled: {error}"),
        None => {}
    }
    log::info!("bcm2835-dma channel {}: {}", channel.number, bound.summary());
    Ok(Some(bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::DeviceTree;
    use crate::board::tests::fixture;
    use drivers::bcm2836::InterruptSource;
    use dtoolkit::model::DeviceTree as TreeModel;

    fn channel(model: &TreeModel) -> Result<Channel, NodeError> {
        let blob = model.to_dtb();
        let (_, device) = DeviceTree::new(&blob).unwrap().platform_devices(DRIVER.compatible).next().unwrap();
        Channel::choose(&device.unwrap())
    }

    #[test]
    fn first_free_channel_is_chosen() {
        let model = fixture::raspberry_pi_3(0x7f34);
        let channel = channel(&model).unwrap();
        assert_eq!(channel.number, 2);
        assert_eq!(channel.registers, AddrRange::from_len(PhysAddr::new(0x3f00_7200), 0x100).unwrap());
        let interrupt = Interrupt::Bcm2836(InterruptSource::Peripheral { bank: 1, number: 18 });
        assert_eq!(channel.interrupt, Some(interrupt));
    }

    #[test]
    fn engine_without_a_free_full_channel_is_rejected() {
        for mask in [0, 0x7f80] {
            let error = NodeError::Malformed("brcm,dma-channel-mask");
            assert_eq!(channel(&fixture::raspberry_pi_3(mask)), Err(error));
        }
        let mut model = fixture::raspberry_pi_3(0x40);
        fixture::find(&mut model, "/soc/dma").add_property(fixture::cells("reg", &[0x7e00_7000, 0x600]));
        assert_eq!(channel(&model), Err(NodeError::Malformed("reg")));
        fixture::find(&mut model, "/soc/dma").remove_property("brcm,dma-channel-mask");
        assert_eq!(channel(&model), Err(NodeError::Missing("brcm,dma-channel-mask")));
    }
}
