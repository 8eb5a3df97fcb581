//! The whole description of a machine.

use super::sbsa_ref;
use super::{
    Cpu, DmaEngine, FirmwareMailbox, InterruptController, Place, Reason, Reservation, Smmu, Timer, Tree,
    TreeError, Uart, Warning,
};
use addr::{AddrRange, PhysAddr};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::psci::Conduit;
use drivers::pcie::HostDescription;

/// A machine, as its device tree describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// What it calls itself.
    pub model: String,
    /// The memory: ascending, without overlaps, never empty.
    pub memory: Vec<AddrRange<PhysAddr>>,
    /// What of it to leave alone. The tree itself and the initial file system are not in it.
    pub reserved: Vec<Reservation>,
    /// The initial file system.
    pub initrd: Option<AddrRange<PhysAddr>>,
    /// The boot arguments.
    pub bootargs: String,
    /// Random bytes from the boot loader, if it gave any.
    pub rng_seed: Vec<u8>,
    /// The console.
    pub console: Option<Uart>,
    /// How the firmware is called.
    pub psci: Option<Conduit>,
    /// The CPUs, the one that boots among them.
    pub cpus: Vec<Cpu>,
    /// The interrupt controller.
    pub interrupts: Option<InterruptController>,
    /// The registers of a Raspberry Pi's watchdog, which can switch it off.
    pub watchdog: Option<AddrRange<PhysAddr>>,
    /// The controller that switches an `sbsa-ref` off, for the secure side.
    pub embedded_controller: Option<PhysAddr>,
    /// A channel of a Raspberry Pi's DMA engine.
    pub dma_engine: Option<DmaEngine>,
    /// The way to a Raspberry Pi's firmware.
    pub firmware_mailbox: Option<FirmwareMailbox>,
    /// The generic timer.
    pub timer: Option<Timer>,
    /// The PCI host bridges.
    pub pci_hosts: Vec<HostDescription>,
    /// The SMMUs.
    pub smmus: Vec<Smmu>,
    /// What was left out, and why.
    pub warnings: Vec<Warning>,
}

impl Platform {
    /// Reads the whole tree. What makes no sense is left out with a warning; only without any memory there is no
    /// platform.
    pub fn read(tree: &Tree<'_>) -> Result<Self, TreeError> {
        let mut reader = Reader { root: tree.root(), warnings: Vec::new() };
        let memory = merge(reader.each(tree.memory()));
        if memory.is_empty() {
            return Err(TreeError::NoMemory);
        }
        let mut platform = Self {
            model: model(&tree.root()).to_string(),
            memory,
            reserved: reader.each(tree.reservations()),
            initrd: reader.one(tree.initrd()).flatten(),
            bootargs: reader.one(tree.bootargs()).unwrap_or("").to_string(),
            rng_seed: tree.rng_seed().to_vec(),
            console: reader.one(tree.console()),
            psci: tree.psci().and_then(|psci| reader.one(psci)),
            cpus: reader.each(tree.cpus()),
            interrupts: reader.only(
                tree.places().filter_map(|place| Some((place, InterruptController::read(tree, &place)?))),
            ),
            watchdog: tree.watchdog().and_then(|(place, registers)| reader.keep(&place, registers)),
            embedded_controller: None,
            dma_engine: tree.dma_engine().and_then(|(place, engine)| reader.keep(&place, engine)),
            firmware_mailbox: tree.firmware_mailbox().and_then(|(place, found)| reader.keep(&place, found)),
            timer: reader.one(tree.timer()),
            pci_hosts: reader.each(tree.pci_hosts()),
            smmus: reader.each(tree.smmus()),
            warnings: reader.warnings,
        };
        if sbsa_ref::is(tree) {
            sbsa_ref::complete(&mut platform);
        }
        Ok(platform)
    }
}

impl Platform {
    /// Leaves an initial file system out that is not where a loader can have put one: in memory, clear of the kernel's
    /// `image` and of what must not be mapped.
    pub fn check_initrd(&mut self, image: AddrRange<PhysAddr>) {
        let Some(initrd) = self.initrd else { return };
        let unmappable =
            self.reserved.iter().filter(|reserved| reserved.no_map).map(|reserved| reserved.range);
        let in_memory = self.memory.iter().any(|range| range.covers(&initrd));
        let free = unmappable.chain([image]).all(|taken| !taken.overlaps(&initrd));
        if initrd.is_empty() || !in_memory || !free {
            let reason = Reason::Misplaced { start: initrd.start().raw(), len: initrd.len() };
            self.warnings.push(Warning { path: "initramfs".to_string(), reason });
            self.initrd = None;
        }
    }
}

/// What the machine calls itself, or what it is compatible with.
fn model<'a>(root: &Place<'a>) -> &'a str {
    root.text("model").or_else(|| root.text("compatible")).unwrap_or("unknown")
}

/// Keeps what is good, and a warning for what is not.
struct Reader<'a> {
    root: Place<'a>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn keep<T>(&mut self, place: &Place<'_>, result: Result<T, Reason>) -> Option<T> {
        result.map_err(|reason| self.warnings.push(Warning::new(place, reason))).ok()
    }

    fn one<T>(&mut self, result: Result<T, Reason>) -> Option<T> {
        self.keep(&self.root.clone(), result)
    }

    fn each<T>(&mut self, results: impl Iterator<Item = (Place<'a>, Result<T, Reason>)>) -> Vec<T> {
        results.filter_map(|(place, result)| self.keep(&place, result)).collect()
    }

    /// The first that is good; the kernel has no use for another.
    fn only<T>(&mut self, results: impl Iterator<Item = (Place<'a>, Result<T, Reason>)>) -> Option<T> {
        let mut first = None;
        for (place, result) in results {
            let result = if first.is_none() { result } else { Err(Reason::Second) };
            first = self.keep(&place, result).or(first);
        }
        first
    }
}

/// The same memory in ascending ranges that neither touch nor overlap.
fn merge(mut ranges: Vec<AddrRange<PhysAddr>>) -> Vec<AddrRange<PhysAddr>> {
    ranges.sort_by_key(|range| range.start());
    let mut merged: Vec<AddrRange<PhysAddr>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = AddrRange::new(last.start(), last.end().max(range.end()));
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use drivers::pcie::Phandle;
    use dtoolkit::model::DeviceTree;

    fn read(model: &DeviceTree) -> Result<Platform, TreeError> {
        Platform::read(&Tree::new(&model.to_dtb()).unwrap())
    }

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
    }

    #[test]
    fn the_virt_board_is_whole() {
        let platform = read(&fixture::virt()).unwrap();
        assert_eq!(platform.warnings, []);
        assert_eq!(platform.memory, [range(0x4000_0000, 0x8000_0000)]);
        assert_eq!((platform.cpus.len(), platform.smmus.len(), platform.pci_hosts.len()), (2, 1, 1));
        assert_eq!((platform.model.as_str(), platform.psci), ("linux,dummy-virt", Some(Conduit::Smc)));
        assert!(platform.interrupts.is_some() && platform.console.is_some() && platform.timer.is_some());
    }

    #[test]
    fn odd_nodes_are_left_out_with_a_reason() {
        let mut model = fixture::virt();
        fixture::find(&mut model, "/smmuv3").add_property(fixture::cells("interrupt-parent", &[0x99]));
        fixture::find(&mut model, "/pcie").remove_property("ranges");
        model.root.remove_child("timer");
        let second = fixture::find(&mut model, "/intc").clone();
        let other = fixture::node("other").property(fixture::cells("#address-cells", &[2]));
        let other =
            other.property(fixture::cells("#size-cells", &[2])).property(fixture::cells("ranges", &[]));
        model.root.add_child(other.child(second).build());
        let platform = read(&model).unwrap();
        let mut warnings: Vec<_> = platform.warnings.iter().map(Warning::to_string).collect();
        warnings.sort();
        let expected = [
            "/: left out: no arm,armv8-timer",
            "/other/intc@8000000: left out: a second one",
            "/pcie@10000000: left out: no ranges",
            "/smmuv3@9050000: left out: no node has the phandle 0x99",
        ];
        assert_eq!(warnings, expected);
        assert_eq!((platform.smmus, platform.pci_hosts, platform.timer), (vec![], vec![], None));
        assert_eq!(
            platform.warnings.iter().filter(|w| w.reason == Reason::NoSuchNode(Phandle(0x99))).count(),
            1
        );
    }

    #[test]
    fn without_memory_there_is_no_platform() {
        let mut model = fixture::virt();
        model.root.remove_child("memory@40000000");
        assert_eq!(read(&model), Err(TreeError::NoMemory));
        assert_eq!(read(&DeviceTree::new()), Err(TreeError::NoMemory));
    }

    #[test]
    fn an_initrd_must_be_in_memory_and_clear_of_the_kernel() {
        let platform = read(&fixture::virt()).unwrap();
        let image = range(0x4020_0000, 0x4100_0000);
        let secret = Reservation { range: range(0x5000_0000, 0x5010_0000), no_map: true };
        for (initrd, good) in [
            (range(0x4800_0000, 0x4800_0001), true),
            (range(0x4100_0000, 0x5000_0000), true),
            (range(0x4800_0000, 0x4800_0000), false),
            (range(0x40ff_ffff, 0x4800_0000), false),
            (range(0x500f_ffff, 0x5800_0000), false),
            (range(0x7fff_0000, 0x8000_0001), false),
            (range(0x70_0000_0000, 0x70_0010_0000), false),
            (range(0x4800_0000, 0x7fff_ffff_0000_0000), false),
        ] {
            let mut platform = Platform { initrd: Some(initrd), reserved: vec![secret], ..platform.clone() };
            platform.check_initrd(image);
            assert_eq!((platform.initrd.is_some(), platform.warnings.is_empty()), (good, good), "{initrd:?}");
        }
    }

    #[test]
    fn memory_is_merged_and_sorted() {
        let cases = [
            (vec![], vec![]),
            (vec![range(8, 9), range(0, 4), range(4, 6)], vec![range(0, 6), range(8, 9)]),
            (vec![range(0, 10), range(2, 3), range(5, 12)], vec![range(0, 12)]),
        ];
        for (given, merged) in cases {
            assert_eq!(merge(given), merged);
        }
    }
}
