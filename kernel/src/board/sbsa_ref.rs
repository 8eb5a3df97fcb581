//! QEMU's `sbsa-ref`: its device tree describes only CPUs and memory, and firmware describes the rest. This
//! table, selected by the root's `compatible`, lists the devices at their fixed addresses (QEMU,
//! `hw/arm/sbsa-ref.c`).
//!
//! All RAM is above 4 GiB: a device with 32 address bits reaches memory only through the SMMU.

use super::{
    DeviceTree, GicDescription, InterruptController, ItsDescription, NodeError, Platform, PlatformDevice,
    SmmuDescription, TimerInterrupts, Uart, UartKind,
};
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use drivers::direct::BusWindow;
use drivers::gic::its::ItsIntegration;
use drivers::gic::{GicInterrupt, IntId, Trigger};
use drivers::pcie::{
    HostDescription, HostWindow, InterruptMap, InterruptRoute, PciSpace, Phandle, RequesterMap,
    RequesterRange,
};

const COMPATIBLE: &str = "linux,sbsa-ref";
// Phandles for use within the table; the tree has none.
const SMMU: Phandle = Phandle(u32::MAX - 1);
const ITS: Phandle = Phandle(u32::MAX - 2);
/// The embedded controller that powers the machine off; it is accessible only in the Secure state.
const EMBEDDED_CONTROLLER: PhysAddr = PhysAddr::new(0x5000_0000);
/// The first of the four SPIs of INTA to INTD.
const FIRST_INTX: u32 = 3;

/// Whether `tree` describes an `sbsa-ref`.
pub(super) fn is(tree: &DeviceTree<'_>) -> bool {
    tree.root().is_compatible(&[COMPATIBLE])
}

/// Adds the devices that the tree does not describe, and removes the warnings about their absence.
pub(super) fn complete(platform: &mut Platform) {
    platform.console = Some(Uart {
        kind: UartKind::Pl011,
        registers: range(0x6000_0000, 0x1000),
        interrupt: Some(spi(1, Trigger::Level).into()),
        baud: None,
    });
    platform.interrupts = Some(InterruptController::Gic(GicDescription::V3 {
        distributor: range(0x4006_0000, 0x1_0000),
        redistributors: Vec::from([range(0x4008_0000, 0x400_0000)]),
        its: Vec::from([ItsDescription {
            phandle: Some(ITS),
            registers: range(0x4408_1000, 0x2_0000),
            integration: ItsIntegration::default(),
        }]),
    }));
    let ppi = |number| Some(GicInterrupt { id: IntId::ppi(number), trigger: Trigger::Level }.into());
    platform.timer = Some(TimerInterrupts { physical: ppi(14), virtual_: ppi(11) });
    platform.smmus = Vec::from([smmu()]);
    platform.pci_hosts = Vec::from([pci_host()]);
    platform.devices.push(PlatformDevice::registers_only("rtc", "arm,pl031", range(0x6001_0000, 0x1000)));
    platform.embedded_controller = Some(EMBEDDED_CONTROLLER);
    let expected = [NodeError::Missing("stdout-path"), NodeError::Missing("arm,armv8-timer")];
    platform.warnings.retain(|warning| !expected.contains(&warning.error));
}

fn range(start: u64, len: u64) -> AddrRange<PhysAddr> {
    AddrRange::new(PhysAddr::new(start), PhysAddr::new(start + len))
}

fn spi(number: u32, trigger: Trigger) -> GicInterrupt {
    GicInterrupt { id: IntId::spi(number), trigger }
}

fn smmu() -> SmmuDescription {
    let interrupt = |number| Some(spi(number, Trigger::Edge).into());
    SmmuDescription {
        phandle: Some(SMMU),
        registers: range(0x6005_0000, 0x2_0000),
        event_queue: interrupt(12),
        global_error: interrupt(15),
        combined: None,
        coherent: true,
        unsupported: None,
    }
}

fn pci_host() -> HostDescription {
    let window =
        |space, bus, cpu, len| HostWindow { space, prefetchable: false, bus, cpu: PhysAddr::new(cpu), len };
    let identity_map = |controller| RequesterMap {
        mask: u16::MAX,
        ranges: Vec::from([RequesterRange { first: 0, len: 0x1_0000, controller, base: 0 }]),
    };
    HostDescription {
        ecam: range(0xf000_0000, 0x1000_0000),
        buses: 0..=255,
        domain: 0,
        windows: Vec::from([
            window(PciSpace::Io, 0, 0x7fff_0000, 0x1_0000),
            window(PciSpace::Memory32, 0x8000_0000, 0x8000_0000, 0x7000_0000),
            window(PciSpace::Memory64, 0x1_0000_0000, 0x1_0000_0000, 0xff_0000_0000),
        ]),
        interrupts: interrupt_map(),
        iommu: identity_map(SMMU),
        msi: identity_map(ITS),
        dma: Vec::from([BusWindow::identity()]),
        reserved_iovas: Vec::new(),
        coherent: true,
    }
}

/// The standard swizzle: pin and slot select the SPI, so that INTA of neighbouring slots differs.
fn interrupt_map() -> InterruptMap {
    let pins = |slot: u16| (1..=4u8).map(move |pin| (slot, pin));
    let route = |(slot, pin): (u16, u8)| InterruptRoute {
        requester: slot << 3,
        pin,
        interrupt: spi(FIRST_INTX + (u32::from(slot) + u32::from(pin) - 1) % 4, Trigger::Level),
    };
    InterruptMap { requester_mask: 3 << 3, pin_mask: 7, routes: (0..4).flat_map(pins).map(route).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use drivers::pcie::Bdf;
    use dtoolkit::model::DeviceTree as TreeModel;

    /// The parts of QEMU's tree that the kernel reads.
    fn tree() -> TreeModel {
        let mut tree = TreeModel::new();
        for property in [
            fixture::text("compatible", COMPATIBLE),
            fixture::cells("#address-cells", &[2]),
            fixture::cells("#size-cells", &[2]),
        ] {
            tree.root.add_property(property);
        }
        let memory = fixture::node("memory@10000000000")
            .property(fixture::text("device_type", "memory"))
            .property(fixture::cells("reg", &[0x100, 0, 0, 0x4000_0000]));
        let cpu = fixture::node("cpu@0").property(fixture::cells("reg", &[0, 0]));
        let cpus = fixture::node("cpus")
            .property(fixture::cells("#address-cells", &[2]))
            .property(fixture::cells("#size-cells", &[0]));
        tree.root.add_child(memory.build());
        tree.root.add_child(cpus.child(cpu.build()).build());
        tree
    }

    #[test]
    fn table_adds_the_devices_missing_in_the_tree() {
        let blob = tree().to_dtb();
        let platform = Platform::read(&DeviceTree::new(&blob).unwrap(), &[]).unwrap();
        assert_eq!((platform.warnings.as_slice(), platform.cpus.len()), (&[][..], 1));
        assert_eq!(platform.memory, [range(0x100_0000_0000, 0x4000_0000)]);
        assert!(platform.console.is_some() && platform.timer.is_some() && platform.interrupts.is_some());
        let host = &platform.pci_hosts[0];
        assert_eq!(host.iommu.lookup(0x10), Some((SMMU, 0x10)));
        assert_eq!(platform.smmus[0].phandle, Some(SMMU));
        let clock = &platform.devices[0];
        assert_eq!((clock.compatible, clock.registers), ("arm,pl031", range(0x6001_0000, 0x1000)));
        let slot_3 = Bdf::new(0, 3, 0);
        assert_eq!(host.interrupts.lookup(slot_3, 1), Some(spi(6, Trigger::Level)));
        assert_eq!(host.interrupts.lookup(slot_3, 2), Some(spi(3, Trigger::Level)));
    }

    #[test]
    fn table_is_not_applied_to_other_boards() {
        let blob = fixture::virt().to_dtb();
        assert!(!is(&DeviceTree::new(&blob).unwrap()));
        let platform = Platform::read(&DeviceTree::new(&blob).unwrap(), &[]).unwrap();
        assert_eq!(platform.embedded_controller, None);
    }
}
