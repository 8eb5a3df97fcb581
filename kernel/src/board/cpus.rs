//! CPUs, their enable methods, PSCI, the watchdog, and the generic timer.

use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use arch::psci::Conduit;
use drivers::interrupts::Interrupt;
use dtoolkit::Node;

/// The affinity fields of MPIDR_EL1 (Aff3 to Aff0).
const AFFINITY: u64 = 0xff_00ff_ffff;

/// The method that starts a secondary CPU (`enable-method`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnableMethod {
    /// PSCI `CPU_ON`.
    Psci,
    /// The CPU polls this 64-bit word for an entry address.
    SpinTable(PhysAddr),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuDescription {
    /// The affinity fields of MPIDR_EL1.
    pub mpidr: u64,
    /// The enable method; `None` if the tree names none.
    pub enable_method: Option<EnableMethod>,
}

/// The interrupts of the generic timer, which are private to each CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerInterrupts {
    /// The non-secure physical timer (CNTP).
    pub physical: Option<Interrupt>,
    /// The virtual timer (CNTV).
    pub virtual_: Option<Interrupt>,
}

/// Errata of the counter, named by properties of the timer's node: a read may return a wrong value (Linux,
/// `Documentation/arch/arm64/silicon-errata.rst`). None has a workaround here.
const COUNTER_ERRATA: [(&str, &str); 3] = [
    ("hisilicon,erratum-161010101", "HiSilicon Hip05 to Hip07, erratum 161010101"),
    ("fsl,erratum-a008585", "Freescale LS1043A and LS2080A, erratum A-008585"),
    ("allwinner,erratum-unknown1", "Allwinner A64, erratum UNKNOWN1"),
];

impl<'a> DeviceTree<'a> {
    /// The CPUs, in the order of the tree.
    pub fn cpus(&self) -> impl Iterator<Item = (TreeNode<'a>, Result<CpuDescription, NodeError>)> + use<'a> {
        let nodes = self.find("/cpus").into_iter().flat_map(|cpus| cpus.children());
        let nodes = nodes.filter(|node| is_cpu(node) && node.is_enabled());
        nodes.map(|node| (node, cpu(&node)))
    }

    /// The conduit for calls to the firmware, if it implements PSCI 0.2 or later.
    pub fn psci(&self) -> Option<Result<Conduit, NodeError>> {
        let node = self.compatible(&["arm,psci-1.0", "arm,psci-0.2"]).next()?;
        Some(match node.text("method") {
            Some("hvc") => Ok(Conduit::Hvc),
            Some("smc") => Ok(Conduit::Smc),
            Some(other) => Err(NodeError::unsupported("method", other)),
            None => Err(NodeError::Missing("method")),
        })
    }

    /// The registers of a Raspberry Pi's watchdog, if the tree names it as the power controller.
    pub fn watchdog(&self) -> Option<(TreeNode<'a>, Result<AddrRange<PhysAddr>, NodeError>)> {
        let mut nodes = self.compatible(&["brcm,bcm2835-pm-wdt"]);
        let node = nodes.find(|node| node.property("system-power-controller").is_some())?;
        let registers = node.reg(0).and_then(|reg| {
            let enough = reg.len() >= size_of::<drivers::bcm2835::watchdog::Registers>() as u64;
            if enough { Ok(reg) } else { Err(NodeError::Malformed("reg")) }
        });
        Some((node, registers))
    }

    /// The generic timer.
    fn timer_node(&self) -> Option<TreeNode<'a>> {
        // The Raspberry Pi 3's tree was written for 32-bit kernels and has only the Armv7 compatible.
        self.compatible(&["arm,armv8-timer", "arm,armv7-timer"]).next()
    }

    /// The erratum because of which reads of the counter may return wrong values: its name.
    pub fn counter_erratum(&self) -> Option<&'static str> {
        let node = self.timer_node()?;
        let found = COUNTER_ERRATA.iter().find(|(property, _)| node.property(property).is_some());
        found.map(|(_, name)| *name)
    }

    /// The generic timer's interrupts.
    pub fn timer(&self) -> Result<TimerInterrupts, NodeError> {
        let node = self.timer_node().ok_or(NodeError::Missing("arm,armv8-timer"))?;
        // Order: secure physical, non-secure physical, virtual, hypervisor.
        let timer = TimerInterrupts {
            physical: self.interrupt(&node, 1).ok(),
            virtual_: self.interrupt(&node, 2).ok(),
        };
        match timer {
            TimerInterrupts { physical: None, virtual_: None } => Err(NodeError::Malformed("interrupts")),
            timer => Ok(timer),
        }
    }
}

/// Identified by `device_type`, or by the node name in a tree without types (`sbsa-ref`).
fn is_cpu(node: &TreeNode<'_>) -> bool {
    match node.text("device_type") {
        Some(kind) => kind == "cpu",
        None => node.fdt_node().name_without_address() == "cpu",
    }
}

fn cpu(node: &TreeNode<'_>) -> Result<CpuDescription, NodeError> {
    let mpidr = node.number("reg").ok_or(NodeError::Malformed("reg"))?;
    if mpidr & !AFFINITY != 0 {
        return Err(NodeError::Malformed("reg"));
    }
    let enable_method = match node.text("enable-method") {
        None => None,
        Some("psci") => Some(EnableMethod::Psci),
        Some("spin-table") => {
            let release = node.number("cpu-release-addr").ok_or(NodeError::Missing("cpu-release-addr"))?;
            Some(EnableMethod::SpinTable(PhysAddr::new(release)))
        }
        Some(other) => return Err(NodeError::unsupported("enable-method", other)),
    };
    Ok(CpuDescription { mpidr, enable_method })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use drivers::gic::{GicInterrupt, IntId, Trigger};
    use dtoolkit::model::DeviceTree as TreeModel;

    fn with_tree<R>(model: &TreeModel, then: impl FnOnce(&DeviceTree<'_>) -> R) -> R {
        then(&DeviceTree::new(&model.to_dtb()).unwrap())
    }

    #[test]
    fn enable_methods_are_read() {
        let mut model = fixture::virt();
        let one = fixture::find(&mut model, "/cpus/cpu@1");
        one.add_property(fixture::text("enable-method", "spin-table"));
        one.add_property(fixture::cells("cpu-release-addr", &[0, 0xe0]));
        let found: Vec<_> = with_tree(&model, |tree| tree.cpus().map(|(_, cpu)| cpu).collect());
        let zero = CpuDescription { mpidr: 0, enable_method: Some(EnableMethod::Psci) };
        let one =
            CpuDescription { mpidr: 1, enable_method: Some(EnableMethod::SpinTable(PhysAddr::new(0xe0))) };
        assert_eq!(found, [Ok(zero), Ok(one)]);
    }

    #[test]
    fn cpus_without_device_type_are_found_by_name() {
        let mut model = fixture::virt();
        for cpu in ["/cpus/cpu@0", "/cpus/cpu@1"] {
            fixture::find(&mut model, cpu).remove_property("device_type");
        }
        assert_eq!(with_tree(&model, |tree| tree.cpus().count()), 2, "cpu-map is not a CPU");
    }

    #[test]
    fn invalid_cpus_are_rejected() {
        let cases = [
            (fixture::cells("reg", &[0x8000_0001, 0]), NodeError::Malformed("reg")),
            (fixture::cells("reg", &[]), NodeError::Malformed("reg")),
            (fixture::text("enable-method", "spin-table"), NodeError::Missing("cpu-release-addr")),
            (fixture::text("enable-method", "magic"), NodeError::unsupported("enable-method", "magic")),
        ];
        for (property, error) in cases {
            let mut model = fixture::virt();
            fixture::find(&mut model, "/cpus/cpu@1").add_property(property);
            assert_eq!(with_tree(&model, |tree| tree.cpus().last().unwrap().1), Err(error));
        }
    }

    #[test]
    fn psci_conduit_is_read_from_method() {
        let mut model = fixture::virt();
        assert_eq!(with_tree(&model, |tree| tree.psci()), Some(Ok(Conduit::Smc)));
        let psci = fixture::find(&mut model, "/psci");
        psci.add_property(fixture::text("method", "hvc"));
        assert_eq!(with_tree(&model, |tree| tree.psci()), Some(Ok(Conduit::Hvc)));
        fixture::find(&mut model, "/psci").remove_property("method");
        assert_eq!(with_tree(&model, |tree| tree.psci()), Some(Err(NodeError::Missing("method"))));
        model.root.remove_child("psci");
        assert_eq!(with_tree(&model, |tree| tree.psci()), None);
    }

    #[test]
    fn watchdog_is_used_only_as_system_power_controller() {
        let mut model = fixture::virt();
        let node = fixture::node("watchdog@7e100000")
            .property(fixture::text("compatible", "brcm,bcm2835-pm\0brcm,bcm2835-pm-wdt"))
            .property(fixture::cells("reg", &[0, 0x3f10_0000, 0, 0x114, 0, 0x3f00_a000, 0, 0x24]));
        model.root.add_child(node.build());
        let found = |model: &TreeModel| with_tree(model, |tree| tree.watchdog().map(|(_, found)| found));
        assert_eq!(found(&model), None);
        let node = fixture::find(&mut model, "/watchdog");
        node.add_property(fixture::cells("system-power-controller", &[]));
        let registers = AddrRange::from_len(PhysAddr::new(0x3f10_0000), 0x114).unwrap();
        assert_eq!(found(&model), Some(Ok(registers)));
        let node = fixture::find(&mut model, "/watchdog");
        node.add_property(fixture::cells("reg", &[0, 0x3f10_0000, 0, 0x24]));
        assert_eq!(found(&model), Some(Err(NodeError::Malformed("reg"))));
    }

    #[test]
    fn errata_of_the_counter_are_named() {
        let found = |model: &TreeModel| with_tree(model, |tree| tree.counter_erratum());
        assert_eq!(found(&fixture::virt()), None);
        for (property, name) in COUNTER_ERRATA {
            let mut model = fixture::virt();
            fixture::find(&mut model, "/timer").add_property(fixture::cells(property, &[]));
            assert_eq!(found(&model), Some(name));
            fixture::find(&mut model, "/timer").add_property(fixture::text("compatible", "other"));
            assert_eq!(found(&model), None);
        }
    }

    #[test]
    fn physical_and_virtual_timer_interrupts_are_read() {
        let ppi = |number| Some(GicInterrupt { id: IntId::ppi(number), trigger: Trigger::Level }.into());
        let mut model = fixture::virt();
        assert_eq!(
            with_tree(&model, |tree| tree.timer()),
            Ok(TimerInterrupts { physical: ppi(14), virtual_: ppi(11) })
        );
        fixture::find(&mut model, "/timer").remove_property("interrupts");
        assert_eq!(with_tree(&model, |tree| tree.timer()), Err(NodeError::Malformed("interrupts")));
        model.root.remove_child("timer");
        assert_eq!(with_tree(&model, |tree| tree.timer()), Err(NodeError::Missing("arm,armv8-timer")));
    }
}
