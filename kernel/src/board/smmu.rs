//! SMMUv3 nodes.

use super::{Place, Reason, Tree};
use addr::{AddrRange, PhysAddr};
use drivers::interrupts::Interrupt;
use drivers::pcie::Phandle;

/// An SMMUv3 (binding `arm,smmu-v3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Smmu {
    /// What the `iommu-map`s call it.
    pub phandle: Option<Phandle>,
    /// Its registers, page 0 and page 1.
    pub registers: AddrRange<PhysAddr>,
    /// Raised when the event queue fills.
    pub event_queue: Option<Interrupt>,
    /// Raised on global errors.
    pub global_error: Option<Interrupt>,
    /// Raised by a `CMD_SYNC` that asks for it.
    pub command_sync: Option<Interrupt>,
    /// Raised when the page request queue fills.
    pub page_request: Option<Interrupt>,
    /// One interrupt for all of these.
    pub combined: Option<Interrupt>,
    /// Whether its own accesses (tables, queues) snoop the CPUs' caches.
    pub coherent: bool,
}

/// Page 0 and page 1 of an SMMU's registers, 64 KiB each (IHI 0070, 6.1).
const PAGES: u64 = 2 << 16;

impl<'a> Tree<'a> {
    /// The SMMUs.
    pub fn smmus(&self) -> impl Iterator<Item = (Place<'a>, Result<Smmu, Reason>)> + use<'a> {
        let tree = *self;
        self.compatible(&["arm,smmu-v3"]).map(move |place| (place, tree.smmu(&place)))
    }

    fn smmu(&self, place: &Place<'a>) -> Result<Smmu, Reason> {
        let registers = place.reg(0)?;
        if registers.len() < PAGES {
            return Err(Reason::Malformed("reg"));
        }
        let interrupt = |name| self.interrupt_named(place, name).transpose();
        Ok(Smmu {
            phandle: place.phandle(),
            registers,
            event_queue: interrupt("eventq")?,
            global_error: interrupt("gerror")?,
            command_sync: interrupt("cmdq-sync")?,
            page_request: interrupt("priq")?,
            combined: interrupt("combined")?,
            coherent: place.is_coherent(),
        })
    }
}

impl Place<'_> {
    /// Whether its memory accesses snoop the CPUs' caches: said by the nearest of itself and its parents that says
    /// anything.
    pub fn is_coherent(&self) -> bool {
        self.upward()
            .find_map(|place| match place {
                _ if place.property("dma-coherent").is_some() => Some(true),
                _ if place.property("dma-noncoherent").is_some() => Some(false),
                _ => None,
            })
            .unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use drivers::gic::{self, IntId, Trigger};
    use dtoolkit::model::DeviceTree;

    fn smmus(model: &DeviceTree) -> Vec<Result<Smmu, Reason>> {
        Tree::new(&model.to_dtb()).unwrap().smmus().map(|(_, smmu)| smmu).collect()
    }

    #[test]
    fn interrupts_go_by_their_names() {
        let spi = |number| Some(gic::Interrupt { id: IntId::spi(number), trigger: Trigger::Edge }.into());
        let expected = Smmu {
            phandle: Some(Phandle(fixture::SMMU)),
            registers: AddrRange::from_len(PhysAddr::new(0x905_0000), 0x2_0000).unwrap(),
            event_queue: spi(74),
            global_error: spi(77),
            command_sync: spi(76),
            page_request: spi(75),
            combined: None,
            coherent: true,
        };
        assert_eq!(smmus(&fixture::virt()), [Ok(expected)]);

        let mut model = fixture::virt();
        let node = fixture::find(&mut model, "/smmuv3");
        node.add_property(fixture::text("interrupt-names", "combined"));
        node.add_property(fixture::cells("dma-noncoherent", &[]));
        node.remove_property("dma-coherent");
        let none = Smmu {
            event_queue: None,
            global_error: None,
            command_sync: None,
            page_request: None,
            ..expected
        };
        assert_eq!(smmus(&model), [Ok(Smmu { combined: spi(74), coherent: false, ..none })]);
    }

    #[test]
    fn coherency_is_inherited() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").remove_property("dma-coherent");
        assert!(smmus(&model)[0].unwrap().coherent, "the root says so");
        model.root.remove_property("dma-coherent");
        assert!(!smmus(&model)[0].unwrap().coherent);
    }

    #[test]
    fn a_named_interrupt_that_is_missing_is_an_error() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("interrupts", &[0, 74, 1]));
        assert_eq!(smmus(&model), [Err(Reason::Missing("interrupts"))]);
    }
}
