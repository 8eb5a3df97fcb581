//! What of a Raspberry Pi is a bus master without an IOMMU: its DMA engine (binding `brcm,bcm2835-dma`) and its firmware,
//! which reads messages from memory (`brcm,bcm2835-mbox`).

use super::{Place, Reason, Tree};
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use drivers::bcm2835::dma::{CHANNEL_STRIDE, FIRST_LITE};
use drivers::direct::BusWindow;
use drivers::interrupts::Interrupt;

/// One of its channels: the first whole one that the firmware does not use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DmaEngine {
    /// Its number.
    pub channel: u32,
    /// Its registers.
    pub registers: AddrRange<PhysAddr>,
    /// Its interrupt, if it has a usable one.
    pub interrupt: Option<Interrupt>,
    /// What it calls memory: `dma-ranges`.
    pub windows: Vec<BusWindow>,
    /// Whether it sees the CPUs' caches.
    pub coherent: bool,
}

/// The mailbox to the firmware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirmwareMailbox {
    /// Its registers.
    pub registers: AddrRange<PhysAddr>,
    /// What the firmware calls memory.
    pub windows: Vec<BusWindow>,
    /// Whether it sees the CPUs' caches.
    pub coherent: bool,
}

impl<'a> Tree<'a> {
    /// The mailbox to the firmware, if there is one.
    pub fn firmware_mailbox(&self) -> Option<(Place<'a>, Result<FirmwareMailbox, Reason>)> {
        let place = self.compatible(&["brcm,bcm2835-mbox"]).next()?;
        let read = || {
            let registers = place.reg(0)?;
            if registers.len() < size_of::<drivers::bcm2835::mailbox::Registers>() as u64 {
                return Err(Reason::Malformed("reg"));
            }
            Ok(FirmwareMailbox { registers, windows: place.dma_windows()?, coherent: place.is_coherent() })
        };
        Some((place, read()))
    }

    /// The DMA engine, if there is one.
    pub fn dma_engine(&self) -> Option<(Place<'a>, Result<DmaEngine, Reason>)> {
        let place = self.compatible(&["brcm,bcm2835-dma"]).next()?;
        Some((place, self.channel_of(&place)))
    }

    fn channel_of(&self, place: &Place<'a>) -> Result<DmaEngine, Reason> {
        const MASK: &str = "brcm,dma-channel-mask";
        let free = place.cell(MASK).ok_or(Reason::Missing(MASK))?;
        let channel = free.trailing_zeros();
        if channel >= FIRST_LITE {
            return Err(Reason::Malformed(MASK));
        }
        let all = place.reg(0)?;
        let start = all.start() + u64::from(channel) * CHANNEL_STRIDE;
        let registers = AddrRange::from_len(start, CHANNEL_STRIDE).filter(|own| all.covers(own));
        let interrupt = match self.interrupt_named(place, CHANNEL_NAMES[channel as usize]) {
            Some(named) => named.ok(),
            None => self.interrupt(place, channel as usize).ok(),
        };
        Ok(DmaEngine {
            channel,
            registers: registers.ok_or(Reason::Malformed("reg"))?,
            interrupt,
            windows: place.dma_windows()?,
            coherent: place.is_coherent(),
        })
    }
}

/// What the tree calls the channels' interrupts.
const CHANNEL_NAMES: [&str; FIRST_LITE as usize] = ["dma0", "dma1", "dma2", "dma3", "dma4", "dma5", "dma6"];

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use addr::{Chunk, Iova, Order, Pfn};
    use drivers::bcm2836::InterruptSource;
    use drivers::direct::Direct;
    use drivers::iommu::{Domain, Placement};
    use dtoolkit::model::DeviceTree;

    fn engine(model: &DeviceTree) -> Result<DmaEngine, Reason> {
        Tree::new(&model.to_dtb()).unwrap().dma_engine().unwrap().1
    }

    /// The engine of a board whose bus has these `ranges` and `dma-ranges`.
    fn board(ranges: &[u32], dma_ranges: &[u32], mask: u32) -> DeviceTree {
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
    fn the_first_free_channel_is_taken() {
        let engine = engine(&board(PI_3.0, PI_3.1, 0x7f34)).unwrap();
        assert_eq!((engine.channel, engine.coherent), (2, false));
        assert_eq!(engine.registers, AddrRange::from_len(PhysAddr::new(0x3f00_7200), 0x100).unwrap());
        let interrupt = Interrupt::Bcm2836(InterruptSource::Peripheral { bank: 1, number: 18 });
        assert_eq!(engine.interrupt, Some(interrupt));
    }

    /// What a real board's engine has to be told, which an emulator does not check.
    #[test]
    fn memory_has_the_addresses_of_the_bus() {
        let page = |at: u64| Chunk::new(Pfn::new(at >> 12), Order::PAGE).unwrap();
        for ((ranges, dma_ranges), memory, bus) in [
            (PI_3, 0, Some(0xc000_0000)),
            (PI_3, 0x1234_5000, Some(0xd234_5000)),
            (PI_3, 0x3eff_f000, Some(0xfeff_f000)),
            (PI_3, 0x3f00_0000, None),
            (PI_4, 0x3fff_f000, Some(0xffff_f000)),
            // RAM above the first GiB is beyond the engine.
            (PI_4, 0x4000_0000, None),
            (PI_4, 0x1_0000_0000, None),
        ] {
            let engine = engine(&board(ranges, dma_ranges, 1)).unwrap();
            let direct = Direct::new(engine.windows, u32::MAX.into());
            let placed = direct.placement([page(memory)]).ok();
            assert_eq!(placed, bus.map(|bus| Placement::At(Iova::new(bus))), "{memory:#x}");
        }
    }

    #[test]
    fn the_firmware_has_the_buss_addresses_too() {
        let mut model = board(PI_3.0, PI_3.1, 1);
        let mailbox = |len| {
            fixture::node("mailbox@7e00b880")
                .property(fixture::text("compatible", "brcm,bcm2835-mbox"))
                .property(fixture::cells("reg", &[0x7e00_b880, len]))
                .build()
        };
        let found = |model: &DeviceTree| {
            let blob = model.to_dtb();
            Tree::new(&blob).unwrap().firmware_mailbox().map(|(_, found)| found)
        };
        assert_eq!(found(&model), None);
        fixture::find(&mut model, "/soc").add_child(mailbox(0x40));
        let mailbox_found = found(&model).unwrap().unwrap();
        assert_eq!(mailbox_found.registers.start(), PhysAddr::new(0x3f00_b880));
        assert_eq!(mailbox_found.windows, engine(&model).unwrap().windows);
        fixture::find(&mut model, "/soc").add_child(mailbox(0x20));
        assert_eq!(found(&model), Some(Err(Reason::Malformed("reg"))));
    }

    #[test]
    fn an_engine_without_a_whole_channel_is_left_out() {
        for mask in [0, 0x7f80] {
            let reason = Reason::Malformed("brcm,dma-channel-mask");
            assert_eq!(engine(&board(PI_3.0, PI_3.1, mask)), Err(reason));
        }
        let mut model = board(PI_3.0, PI_3.1, 0x40);
        fixture::find(&mut model, "/soc/dma").add_property(fixture::cells("reg", &[0x7e00_7000, 0x600]));
        assert_eq!(engine(&model), Err(Reason::Malformed("reg")));
        fixture::find(&mut model, "/soc/dma").remove_property("brcm,dma-channel-mask");
        assert_eq!(engine(&model), Err(Reason::Missing("brcm,dma-channel-mask")));
    }
}
