//! CPUs, how they are started, and their timers.

use super::{Place, Reason, Tree};
use addr::{AddrRange, PhysAddr};
use arch::psci::Conduit;
use drivers::interrupts::Interrupt;
use dtoolkit::Node;

/// The bits of MPIDR_EL1 that say which CPU it is (Aff3 to Aff0).
const AFFINITY: u64 = 0xff_00ff_ffff;

/// How a CPU that does not run yet is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// PSCI's `CPU_ON`.
    Psci,
    /// It waits for an entry address in this 64-bit word.
    SpinTable(PhysAddr),
}

/// A CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// The affinity fields of its MPIDR_EL1.
    pub mpidr: u64,
    /// How it is started; `None` when nothing says.
    pub start: Option<Start>,
}

/// The generic timer's interrupts, each private to a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer {
    /// Of the non-secure physical timer (CNTP).
    pub physical: Option<Interrupt>,
    /// Of the virtual timer (CNTV).
    pub virtual_: Option<Interrupt>,
}

impl<'a> Tree<'a> {
    /// The CPUs, in the tree's order.
    pub fn cpus(&self) -> impl Iterator<Item = (Place<'a>, Result<Cpu, Reason>)> + use<'a> {
        let nodes = self.find("/cpus").into_iter().flat_map(|cpus| cpus.children());
        let nodes = nodes.filter(|place| is_cpu(place) && place.is_enabled());
        nodes.map(|place| (place, cpu(&place)))
    }

    /// How the firmware is called, if it implements PSCI 0.2 or later.
    pub fn psci(&self) -> Option<Result<Conduit, Reason>> {
        let place = self.compatible(&["arm,psci-1.0", "arm,psci-0.2"]).next()?;
        Some(match place.text("method") {
            Some("hvc") => Ok(Conduit::Hvc),
            Some("smc") => Ok(Conduit::Smc),
            Some(other) => Err(Reason::unknown("method", other)),
            None => Err(Reason::Missing("method")),
        })
    }

    /// The registers of the watchdog that switches a Raspberry Pi off, if the tree gives it that task.
    pub fn watchdog(&self) -> Option<(Place<'a>, Result<AddrRange<PhysAddr>, Reason>)> {
        let mut places = self.compatible(&["brcm,bcm2835-pm-wdt"]);
        let place = places.find(|place| place.property("system-power-controller").is_some())?;
        let registers = place.reg(0).and_then(|reg| {
            let enough = reg.len() >= size_of::<drivers::bcm2835::watchdog::Registers>() as u64;
            if enough { Ok(reg) } else { Err(Reason::Malformed("reg")) }
        });
        Some((place, registers))
    }

    /// The generic timer's interrupts.
    pub fn timer(&self) -> Result<Timer, Reason> {
        // A Raspberry Pi 3's tree was written for 32-bit kernels, and names the older one.
        let place = self.compatible(&["arm,armv8-timer", "arm,armv7-timer"]).next();
        let place = place.ok_or(Reason::Missing("arm,armv8-timer"))?;
        // Secure physical, non-secure physical, virtual, hypervisor.
        let timer =
            Timer { physical: self.interrupt(&place, 1).ok(), virtual_: self.interrupt(&place, 2).ok() };
        match timer {
            Timer { physical: None, virtual_: None } => Err(Reason::Malformed("interrupts")),
            timer => Ok(timer),
        }
    }
}

/// By its type; by its name where a tree has no types (`sbsa-ref`'s).
fn is_cpu(place: &Place<'_>) -> bool {
    match place.text("device_type") {
        Some(kind) => kind == "cpu",
        None => place.node().name_without_address() == "cpu",
    }
}

fn cpu(place: &Place<'_>) -> Result<Cpu, Reason> {
    let mpidr = place.number("reg").ok_or(Reason::Malformed("reg"))?;
    if mpidr & !AFFINITY != 0 {
        return Err(Reason::Malformed("reg"));
    }
    let start = match place.text("enable-method") {
        None => None,
        Some("psci") => Some(Start::Psci),
        Some("spin-table") => {
            let release = place.number("cpu-release-addr").ok_or(Reason::Missing("cpu-release-addr"))?;
            Some(Start::SpinTable(PhysAddr::new(release)))
        }
        Some(other) => return Err(Reason::unknown("enable-method", other)),
    };
    Ok(Cpu { mpidr, start })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use drivers::gic::{self, IntId, Trigger};
    use dtoolkit::model::DeviceTree;

    fn with<R>(model: &DeviceTree, then: impl FnOnce(&Tree<'_>) -> R) -> R {
        then(&Tree::new(&model.to_dtb()).unwrap())
    }

    #[test]
    fn cpus_start_as_the_tree_says() {
        let mut model = fixture::virt();
        let one = fixture::find(&mut model, "/cpus/cpu@1");
        one.add_property(fixture::text("enable-method", "spin-table"));
        one.add_property(fixture::cells("cpu-release-addr", &[0, 0xe0]));
        let found: Vec<_> = with(&model, |tree| tree.cpus().map(|(_, cpu)| cpu).collect());
        let zero = Cpu { mpidr: 0, start: Some(Start::Psci) };
        let one = Cpu { mpidr: 1, start: Some(Start::SpinTable(PhysAddr::new(0xe0))) };
        assert_eq!(found, [Ok(zero), Ok(one)]);
    }

    #[test]
    fn a_tree_without_types_has_cpus_by_name() {
        let mut model = fixture::virt();
        for cpu in ["/cpus/cpu@0", "/cpus/cpu@1"] {
            fixture::find(&mut model, cpu).remove_property("device_type");
        }
        assert_eq!(with(&model, |tree| tree.cpus().count()), 2, "but cpu-map and its kind are none");
    }

    #[test]
    fn odd_cpus_are_refused() {
        let cases = [
            (fixture::cells("reg", &[0x8000_0001, 0]), Reason::Malformed("reg")),
            (fixture::cells("reg", &[]), Reason::Malformed("reg")),
            (fixture::text("enable-method", "spin-table"), Reason::Missing("cpu-release-addr")),
            (fixture::text("enable-method", "magic"), Reason::unknown("enable-method", "magic")),
        ];
        for (property, reason) in cases {
            let mut model = fixture::virt();
            fixture::find(&mut model, "/cpus/cpu@1").add_property(property);
            assert_eq!(with(&model, |tree| tree.cpus().last().unwrap().1), Err(reason));
        }
    }

    #[test]
    fn the_firmware_is_called_as_it_asks() {
        let mut model = fixture::virt();
        assert_eq!(with(&model, |tree| tree.psci()), Some(Ok(Conduit::Smc)));
        let psci = fixture::find(&mut model, "/psci");
        psci.add_property(fixture::text("method", "hvc"));
        assert_eq!(with(&model, |tree| tree.psci()), Some(Ok(Conduit::Hvc)));
        fixture::find(&mut model, "/psci").remove_property("method");
        assert_eq!(with(&model, |tree| tree.psci()), Some(Err(Reason::Missing("method"))));
        model.root.remove_child("psci");
        assert_eq!(with(&model, |tree| tree.psci()), None);
    }

    #[test]
    fn a_watchdog_switches_off_if_it_is_told_to() {
        let mut model = fixture::virt();
        let node = fixture::node("watchdog@7e100000")
            .property(fixture::text("compatible", "brcm,bcm2835-pm\0brcm,bcm2835-pm-wdt"))
            .property(fixture::cells("reg", &[0, 0x3f10_0000, 0, 0x114, 0, 0x3f00_a000, 0, 0x24]));
        model.root.add_child(node.build());
        let found = |model: &DeviceTree| with(model, |tree| tree.watchdog().map(|(_, found)| found));
        assert_eq!(found(&model), None);
        let node = fixture::find(&mut model, "/watchdog");
        node.add_property(fixture::cells("system-power-controller", &[]));
        let registers = AddrRange::from_len(PhysAddr::new(0x3f10_0000), 0x114).unwrap();
        assert_eq!(found(&model), Some(Ok(registers)));
        let node = fixture::find(&mut model, "/watchdog");
        node.add_property(fixture::cells("reg", &[0, 0x3f10_0000, 0, 0x24]));
        assert_eq!(found(&model), Some(Err(Reason::Malformed("reg"))));
    }

    #[test]
    fn the_timer_has_two_interrupts_for_us() {
        let ppi = |number| Some(gic::Interrupt { id: IntId::ppi(number), trigger: Trigger::Level }.into());
        let mut model = fixture::virt();
        assert_eq!(with(&model, |tree| tree.timer()), Ok(Timer { physical: ppi(14), virtual_: ppi(11) }));
        fixture::find(&mut model, "/timer").remove_property("interrupts");
        assert_eq!(with(&model, |tree| tree.timer()), Err(Reason::Malformed("interrupts")));
        model.root.remove_child("timer");
        assert_eq!(with(&model, |tree| tree.timer()), Err(Reason::Missing("arm,armv8-timer")));
    }
}
