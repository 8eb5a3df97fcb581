//! SMMUv3 nodes.

use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use drivers::interrupts::Interrupt;
use drivers::pcie::Phandle;

/// An SMMUv3 (binding `arm,smmu-v3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmmuDescription {
    /// The phandle that `iommu-map` refers to.
    pub phandle: Option<Phandle>,
    /// The registers: page 0 and page 1.
    pub registers: AddrRange<PhysAddr>,
    /// The event queue interrupt.
    pub event_queue: Option<Interrupt>,
    /// The global error interrupt (GERROR).
    pub global_error: Option<Interrupt>,
    /// The interrupt that combines those of all sources.
    pub combined: Option<Interrupt>,
    /// Whether the SMMU's own accesses (tables, queues) snoop the CPU caches.
    pub coherent: bool,
    /// Why the implementation is not used: the driver would drive it wrongly.
    pub unsupported: Option<&'static str>,
}

/// Implementations that the driver would drive wrongly: the `compatible` string or the property that
/// identifies their nodes, and the reason (Linux, `Documentation/arch/arm64/silicon-errata.rst`).
const UNSUPPORTED: [(&str, &str); 2] = [
    ("nvidia,tegra264-smmu", "NVIDIA Tegra264: TLB entries may survive their invalidation"),
    (
        "cavium,cn9900-broken-page1-regspace",
        "Cavium ThunderX2: the registers of page 1 are in page 0 (erratum 74), and all sources share an \
         interrupt (erratum 126)",
    ),
];

/// The size of register page 0 and page 1, 64 KiB each (IHI 0070, 6.1).
const PAGES: u64 = 2 << 16;

impl<'a> DeviceTree<'a> {
    pub fn smmus(
        &self,
    ) -> impl Iterator<Item = (TreeNode<'a>, Result<SmmuDescription, NodeError>)> + use<'a> {
        let tree = *self;
        self.compatible(&["arm,smmu-v3"]).map(move |node| (node, tree.smmu(&node)))
    }

    fn smmu(&self, node: &TreeNode<'a>) -> Result<SmmuDescription, NodeError> {
        let registers = node.reg(0)?;
        if registers.len() < PAGES {
            return Err(NodeError::Malformed("reg"));
        }
        let interrupt = |name| self.interrupt_named(node, name).transpose();
        let unsupported = UNSUPPORTED.iter().find(|(name, _)| {
            node.is_compatible(core::slice::from_ref(name)) || node.property(name).is_some()
        });
        Ok(SmmuDescription {
            phandle: node.phandle(),
            registers,
            event_queue: interrupt("eventq")?,
            global_error: interrupt("gerror")?,
            combined: interrupt("combined")?,
            coherent: node.is_coherent(),
            unsupported: unsupported.map(|(_, reason)| *reason),
        })
    }
}

impl TreeNode<'_> {
    /// Whether the device's memory accesses snoop the CPU caches: `dma-coherent` or `dma-noncoherent` of the
    /// node or of its nearest ancestor that has either.
    pub fn is_coherent(&self) -> bool {
        self.ancestors()
            .find_map(|node| match node {
                _ if node.property("dma-coherent").is_some() => Some(true),
                _ if node.property("dma-noncoherent").is_some() => Some(false),
                _ => None,
            })
            .unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use drivers::gic::{GicInterrupt, IntId, Trigger};
    use dtoolkit::model::DeviceTree as TreeModel;

    fn smmus(model: &TreeModel) -> Vec<Result<SmmuDescription, NodeError>> {
        DeviceTree::new(&model.to_dtb()).unwrap().smmus().map(|(_, smmu)| smmu).collect()
    }

    #[test]
    fn interrupts_are_found_by_name() {
        let spi = |number| Some(GicInterrupt { id: IntId::spi(number), trigger: Trigger::Edge }.into());
        let expected = SmmuDescription {
            phandle: Some(Phandle(fixture::SMMU)),
            registers: AddrRange::from_len(PhysAddr::new(0x905_0000), 0x2_0000).unwrap(),
            event_queue: spi(74),
            global_error: spi(77),
            combined: None,
            coherent: true,
            unsupported: None,
        };
        assert_eq!(smmus(&fixture::virt()), [Ok(expected)]);

        let mut model = fixture::virt();
        let node = fixture::find(&mut model, "/smmuv3");
        node.add_property(fixture::text("interrupt-names", "combined"));
        node.add_property(fixture::cells("dma-noncoherent", &[]));
        node.remove_property("dma-coherent");
        let none = SmmuDescription { event_queue: None, global_error: None, ..expected };
        assert_eq!(smmus(&model), [Ok(SmmuDescription { combined: spi(74), coherent: false, ..none })]);
    }

    #[test]
    fn unsupported_implementation_is_identified_by_compatible() {
        let mut model = fixture::virt();
        let node = fixture::find(&mut model, "/smmuv3");
        node.add_property(fixture::text("compatible", "nvidia,tegra264-smmu\0arm,smmu-v3"));
        assert!(smmus(&model)[0].unwrap().unsupported.unwrap().starts_with("NVIDIA Tegra264"));
    }

    #[test]
    fn unsupported_implementation_is_identified_by_a_property_with_a_long_name() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("placeholder", &[]));
        let name = "cavium,cn9900-broken-page1-regspace";
        let blob = fixture::rename_property(model.to_dtb(), "placeholder", name);
        let smmu = DeviceTree::new(&blob).unwrap().smmus().next().unwrap().1.unwrap();
        assert!(smmu.unsupported.unwrap().starts_with("Cavium ThunderX2"));
    }

    #[test]
    fn coherency_is_inherited_from_the_nearest_ancestor() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").remove_property("dma-coherent");
        assert!(smmus(&model)[0].unwrap().coherent, "inherited from the root");
        model.root.remove_property("dma-coherent");
        assert!(!smmus(&model)[0].unwrap().coherent);
    }

    #[test]
    fn missing_specifier_of_a_named_interrupt_is_an_error() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("interrupts", &[0, 74, 1]));
        assert_eq!(smmus(&model), [Err(NodeError::Missing("interrupts"))]);
    }
}
