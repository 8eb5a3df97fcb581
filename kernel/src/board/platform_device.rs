//! Devices outside of PCI, as far as drivers need their device tree nodes.

use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use drivers::direct::BusWindow;
use drivers::interrupts::Interrupt;
use dtoolkit::{Node, Property};

/// The maximum number of interrupts, and of one-cell properties, of a device.
const MAX_ENTRIES: usize = 32;
/// The longest property name (Devicetree specification, 2.2.4.1), applied to interrupt names as well.
const MAX_NAME: usize = 31;

/// A device that a driver supports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlatformDevice {
    /// The node's path.
    pub path: String,
    /// The most specific of the node's `compatible` strings that a driver supports.
    pub compatible: &'static str,
    /// The first register range.
    pub registers: AddrRange<PhysAddr>,
    /// Memory in the device's bus addresses (`dma-ranges`). No windows: all of memory, at physical addresses.
    pub windows: Vec<BusWindow>,
    /// Whether the device snoops the CPU caches.
    pub coherent: bool,
    /// The interrupts up to the first that is not usable.
    interrupts: Vec<Interrupt>,
    interrupt_names: Vec<String>,
    /// The properties of one cell.
    cells: Vec<(String, u32)>,
}

impl PlatformDevice {
    /// A device with registers only, which accesses no memory and raises no interrupt.
    pub fn registers_only(path: &str, compatible: &'static str, registers: AddrRange<PhysAddr>) -> Self {
        Self {
            path: path.to_string(),
            compatible,
            registers,
            windows: Vec::new(),
            coherent: false,
            interrupts: Vec::new(),
            interrupt_names: Vec::new(),
            cells: Vec::new(),
        }
    }

    /// Returns the interrupt with this name in `interrupt-names`, or number `index` if no interrupt has the
    /// name.
    pub fn interrupt(&self, name: &str, index: usize) -> Option<Interrupt> {
        let named = self.interrupt_names.iter().position(|own| own == name);
        self.interrupts.get(named.unwrap_or(index)).copied()
    }

    /// Returns the value of a property of one cell.
    ///
    /// # Errors
    /// [`NodeError::Missing`].
    pub fn cell(&self, name: &'static str) -> Result<u32, NodeError> {
        let found = self.cells.iter().find(|(own, _)| own == name);
        found.map(|&(_, value)| value).ok_or(NodeError::Missing(name))
    }
}

impl<'a> DeviceTree<'a> {
    /// The enabled nodes that are compatible with one of `names`.
    pub fn platform_devices(
        &self,
        names: &[&'static str],
    ) -> impl Iterator<Item = (TreeNode<'a>, Result<PlatformDevice, NodeError>)> {
        self.nodes().filter_map(|node| {
            let compatible =
                node.strings("compatible").find_map(|own| names.iter().find(|name| **name == own))?;
            node.is_enabled().then(|| (node, self.platform_device(&node, compatible)))
        })
    }

    fn platform_device(
        &self,
        node: &TreeNode<'a>,
        compatible: &'static str,
    ) -> Result<PlatformDevice, NodeError> {
        let interrupts = (0..MAX_ENTRIES).map_while(|index| self.interrupt(node, index).ok());
        let names = node.strings("interrupt-names").map(|name| if name.len() > MAX_NAME { "" } else { name });
        let cells = node.fdt_node().properties().filter_map(|property| {
            let value = property.value_as::<u32>().ok()?;
            (property.name().len() <= MAX_NAME).then(|| (property.name().to_string(), value))
        });
        Ok(PlatformDevice {
            path: node.to_string(),
            compatible,
            registers: node.reg(0)?,
            windows: node.dma_windows()?,
            coherent: node.is_coherent(),
            interrupts: interrupts.collect(),
            interrupt_names: names.take(MAX_ENTRIES).map(str::to_string).collect(),
            cells: cells.take(MAX_ENTRIES).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use addr::{Chunk, Iova, Order, Pfn};
    use drivers::bcm2836::InterruptSource;
    use drivers::direct::{BusWindows, Direct};
    use dtoolkit::model::DeviceTree as TreeModel;

    const NAMES: &[&str] = &["brcm,bcm2835-dma", "brcm,bcm2835-mbox"];

    fn devices(model: &TreeModel) -> Vec<Result<PlatformDevice, NodeError>> {
        let blob = model.to_dtb();
        DeviceTree::new(&blob).unwrap().platform_devices(NAMES).map(|(_, found)| found).collect()
    }

    #[test]
    fn supported_devices_are_found_and_disabled_ones_are_not() {
        let mut model = fixture::raspberry_pi_3(1);
        let found: Vec<_> = devices(&model).into_iter().map(|device| device.unwrap().path).collect();
        assert_eq!(found, ["/soc/dma@7e007000", "/soc/mailbox@7e00b880"]);
        fixture::find(&mut model, "/soc/dma").add_property(fixture::text("status", "disabled"));
        fixture::find(&mut model, "/soc/mailbox").add_property(fixture::text("compatible", "brcm,other"));
        assert_eq!(devices(&model), []);
    }

    #[test]
    fn most_specific_supported_compatible_string_is_kept() {
        let mut model = fixture::raspberry_pi_3(1);
        let both = "brcm,bcm2711-mbox\0brcm,bcm2835-mbox\0brcm,bcm2835-dma";
        fixture::find(&mut model, "/soc/mailbox").add_property(fixture::text("compatible", both));
        assert_eq!(devices(&model)[1].as_ref().unwrap().compatible, "brcm,bcm2835-mbox");
    }

    #[test]
    fn interrupts_are_found_by_name_or_else_by_index() {
        let mut model = fixture::raspberry_pi_3(1);
        let numbered = |number| Some(Interrupt::Bcm2836(InterruptSource::Peripheral { bank: 1, number }));
        let device = devices(&model).remove(0).unwrap();
        assert_eq!((device.interrupt("dma2", 0), device.interrupt("none", 1)), (numbered(18), numbered(17)));
        assert_eq!(device.interrupt("none", 6), None);
        fixture::find(&mut model, "/soc/dma").remove_property("interrupt-names");
        assert_eq!(devices(&model).remove(0).unwrap().interrupt("dma2", 3), numbered(19));
    }

    #[test]
    fn only_properties_of_one_cell_are_kept() {
        let device = devices(&fixture::raspberry_pi_3(0x7f34)).remove(0).unwrap();
        assert_eq!(device.cell("brcm,dma-channel-mask"), Ok(0x7f34));
        assert_eq!(device.cell("interrupts"), Err(NodeError::Missing("interrupts")));
    }

    /// An emulator does not check the bus addresses that a real board requires.
    #[test]
    fn memory_is_placed_at_bus_addresses() {
        let page = |at: u64| Chunk::new(Pfn::new(at >> 12), Order::PAGE).unwrap();
        let boards = [fixture::raspberry_pi_3(1), fixture::raspberry_pi_4(1)].map(|model| devices(&model));
        for (board, memory, bus) in [
            (0, 0, Some(0xc000_0000)),
            (0, 0x1234_5000, Some(0xd234_5000)),
            (0, 0x3eff_f000, Some(0xfeff_f000)),
            (0, 0x3f00_0000, None),
            (1, 0x3fff_f000, Some(0xffff_f000)),
            // The engine does not reach RAM above the first GiB.
            (1, 0x4000_0000, None),
            (1, 0x1_0000_0000, None),
        ] {
            for device in &boards[board] {
                let device = device.as_ref().unwrap();
                assert!(!device.coherent);
                let windows = BusWindows::new(device.windows.clone());
                let direct = Direct::new(&windows, u32::MAX.into());
                let address = direct.address([page(memory)]).ok();
                assert_eq!(address, bus.map(Iova::new), "{memory:#x}");
            }
        }
    }

    #[test]
    fn device_without_registers_is_an_error() {
        let mut model = fixture::raspberry_pi_3(1);
        fixture::find(&mut model, "/soc/mailbox").remove_property("reg");
        assert_eq!(devices(&model)[1], Err(NodeError::Missing("reg")));
    }
}
