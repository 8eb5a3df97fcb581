//! The bus masters of a Raspberry Pi, which has no IOMMU: the DMA engine (binding `brcm,bcm2835-dma`) and the firmware,
//! which reads messages from memory (`brcm,bcm2835-mbox`).

use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use drivers::bcm2835::dma::{CHANNEL_STRIDE, FIRST_LITE};
use drivers::direct::BusWindow;
use drivers::interrupts::Interrupt;

/// A channel of the DMA engine: the first full (not lite) channel that the firmware does not use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DmaChannelDescription {
    /// The channel number.
    pub channel: u32,
    /// The channel's registers.
    pub registers: AddrRange<PhysAddr>,
    /// The channel's interrupt, if it has a usable one.
    pub interrupt: Option<Interrupt>,
    /// Memory in the engine's bus addresses (`dma-ranges`).
    pub windows: Vec<BusWindow>,
    /// Whether the engine snoops the CPU caches.
    pub coherent: bool,
}

/// The mailbox to the firmware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirmwareMailbox {
    /// The mailbox's registers.
    pub registers: AddrRange<PhysAddr>,
    /// Memory in the firmware's bus addresses.
    pub windows: Vec<BusWindow>,
    /// Whether the firmware snoops the CPU caches.
    pub coherent: bool,
}

impl<'a> DeviceTree<'a> {
    /// The firmware mailbox, if there is one.
    pub fn firmware_mailbox(&self) -> Option<(TreeNode<'a>, Result<FirmwareMailbox, NodeError>)> {
        let node = self.compatible(&["brcm,bcm2835-mbox"]).next()?;
        let read = || {
            let registers = node.reg(0)?;
            if registers.len() < size_of::<drivers::bcm2835::mailbox::Registers>() as u64 {
                return Err(NodeError::Malformed("reg"));
            }
            Ok(FirmwareMailbox { registers, windows: node.dma_windows()?, coherent: node.is_coherent() })
        };
        Some((node, read()))
    }

    /// The channel of the DMA engine that the kernel uses, if there is an engine.
    pub fn dma_channel(&self) -> Option<(TreeNode<'a>, Result<DmaChannelDescription, NodeError>)> {
        let node = self.compatible(&["brcm,bcm2835-dma"]).next()?;
        Some((node, self.read_dma_channel(&node)))
    }

    fn read_dma_channel(&self, node: &TreeNode<'a>) -> Result<DmaChannelDescription, NodeError> {
        const MASK: &str = "brcm,dma-channel-mask";
        let free_mask = node.cell(MASK).ok_or(NodeError::Missing(MASK))?;
        let channel = free_mask.trailing_zeros();
        if channel >= FIRST_LITE {
            return Err(NodeError::Malformed(MASK));
        }
        let all = node.reg(0)?;
        let start = all.start() + u64::from(channel) * CHANNEL_STRIDE;
        let registers = AddrRange::from_len(start, CHANNEL_STRIDE).filter(|own| all.covers(own));
        let interrupt = match self.interrupt_named(node, CHANNEL_NAMES[channel as usize]) {
            Some(named) => named.ok(),
            None => self.interrupt(node, channel as usize).ok(),
        };
        Ok(DmaChannelDescription {
            channel,
            registers: registers.ok_or(NodeError::Malformed("reg"))?,
            interrupt,
            windows: node.dma_windows()?,
            coherent: node.is_coherent(),
        })
    }
}

/// The channels' names in `interrupt-names`.
const CHANNEL_NAMES: [&str; FIRST_LITE as usize] = ["dma0", "dma1", "dma2", "dma3", "dma4", "dma5", "dma6"];

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use addr::{Chunk, Iova, Order, Pfn};
    use drivers::bcm2836::InterruptSource;
    use drivers::direct::Direct;
    use dtoolkit::model::DeviceTree as TreeModel;

    fn dma_channel(model: &TreeModel) -> Result<DmaChannelDescription, NodeError> {
        DeviceTree::new(&model.to_dtb()).unwrap().dma_channel().unwrap().1
    }

    /// A board with a DMA engine on a bus with these `ranges` and `dma-ranges`.
    fn board(ranges: &[u32], dma_ranges: &[u32], mask: u32) -> TreeModel {
        let mut model = fixture::virt();
        fixture::add_bcm2836(&mut model);
        model.root.remove_property("dma-coherent");
        let soc = fixture::find(&mut model, "/soc");
        soc.add_property(fixture::cells("ranges", ranges));
        soc.add_property(fixture::cells("dma-ranges", dma_ranges));
        let names = "dma0\0dma1\0dma2\0dma3\0dma4\0dma5";
        let interrupts: Vec<u32> = (16..22).flat_map(|number| [1, number]).collect();
        let node = fixture::node("dma@7e007000")
            .property(fixture::text("compatible", "brcm,bcm2835-dma"))
            .property(fixture::cells("reg", &[0x7e00_7000, 0xf00]))
            .property(fixture::cells("interrupt-parent", &[fixture::BCM2836_PERIPHERALS]))
            .property(fixture::cells("interrupts", &interrupts))
            .property(fixture::text("interrupt-names", names))
            .property(fixture::cells("brcm,dma-channel-mask", &[mask]));
        soc.add_child(node.build());
        model
    }

    const PI_3: (&[u32], &[u32]) =
        (&[0x7e00_0000, 0, 0x3f00_0000, 0x100_0000], &[0xc000_0000, 0, 0, 0x3f00_0000]);
    const PI_4: (&[u32], &[u32]) =
        (&[0x7e00_0000, 0, 0xfe00_0000, 0x180_0000], &[0xc000_0000, 0, 0, 0x4000_0000]);

    #[test]
    fn first_free_channel_is_chosen() {
        let channel = dma_channel(&board(PI_3.0, PI_3.1, 0x7f34)).unwrap();
        assert_eq!((channel.channel, channel.coherent), (2, false));
        assert_eq!(channel.registers, AddrRange::from_len(PhysAddr::new(0x3f00_7200), 0x100).unwrap());
        let interrupt = Interrupt::Bcm2836(InterruptSource::Peripheral { bank: 1, number: 18 });
        assert_eq!(channel.interrupt, Some(interrupt));
    }

    /// An emulator does not check the bus addresses that a real board requires.
    #[test]
    fn memory_is_placed_at_bus_addresses() {
        let page = |at: u64| Chunk::new(Pfn::new(at >> 12), Order::PAGE).unwrap();
        for ((ranges, dma_ranges), memory, bus) in [
            (PI_3, 0, Some(0xc000_0000)),
            (PI_3, 0x1234_5000, Some(0xd234_5000)),
            (PI_3, 0x3eff_f000, Some(0xfeff_f000)),
            (PI_3, 0x3f00_0000, None),
            (PI_4, 0x3fff_f000, Some(0xffff_f000)),
            // The engine does not reach RAM above the first GiB.
            (PI_4, 0x4000_0000, None),
            (PI_4, 0x1_0000_0000, None),
        ] {
            let channel = dma_channel(&board(ranges, dma_ranges, 1)).unwrap();
            let direct = Direct::new(&channel.windows, u32::MAX.into());
            let address = direct.address([page(memory)]).ok();
            assert_eq!(address, bus.map(Iova::new), "{memory:#x}");
        }
    }

    #[test]
    fn firmware_mailbox_uses_the_bus_addresses() {
        let mut model = board(PI_3.0, PI_3.1, 1);
        let mailbox = |len| {
            fixture::node("mailbox@7e00b880")
                .property(fixture::text("compatible", "brcm,bcm2835-mbox"))
                .property(fixture::cells("reg", &[0x7e00_b880, len]))
                .build()
        };
        let found = |model: &TreeModel| {
            let blob = model.to_dtb();
            DeviceTree::new(&blob).unwrap().firmware_mailbox().map(|(_, found)| found)
        };
        assert_eq!(found(&model), None);
        fixture::find(&mut model, "/soc").add_child(mailbox(0x40));
        let mailbox_found = found(&model).unwrap().unwrap();
        assert_eq!(mailbox_found.registers.start(), PhysAddr::new(0x3f00_b880));
        assert_eq!(mailbox_found.windows, dma_channel(&model).unwrap().windows);
        fixture::find(&mut model, "/soc").add_child(mailbox(0x20));
        assert_eq!(found(&model), Some(Err(NodeError::Malformed("reg"))));
    }

    #[test]
    fn engine_without_a_free_full_channel_is_rejected() {
        for mask in [0, 0x7f80] {
            let error = NodeError::Malformed("brcm,dma-channel-mask");
            assert_eq!(dma_channel(&board(PI_3.0, PI_3.1, mask)), Err(error));
        }
        let mut model = board(PI_3.0, PI_3.1, 0x40);
        fixture::find(&mut model, "/soc/dma").add_property(fixture::cells("reg", &[0x7e00_7000, 0x600]));
        assert_eq!(dma_channel(&model), Err(NodeError::Malformed("reg")));
        fixture::find(&mut model, "/soc/dma").remove_property("brcm,dma-channel-mask");
        assert_eq!(dma_channel(&model), Err(NodeError::Missing("brcm,dma-channel-mask")));
    }
}
