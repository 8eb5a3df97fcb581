//! The complete description of a machine.

use super::device_tree::MAX_RESERVATIONS;
use super::node_error::Excerpt;
use super::sbsa_ref;
use super::{
    CpuDescription, DeviceTree, DeviceTreeError, InterruptController, NodeError, PlatformDevice, Reservation,
    SmmuDescription, TimerInterrupts, TreeNode, Uart,
};
use addr::{AddrRange, Address, PhysAddr};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::psci::Conduit;
use core::fmt;
use drivers::pcie::HostDescription;

/// A part of the device tree that is ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The node's path, or the name of the memory range or file.
    pub subject: String,
    /// The reason.
    pub error: NodeError,
}

impl Warning {
    fn of(node: &TreeNode<'_>, error: NodeError) -> Self {
        Self { subject: node.to_string(), error }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ignored: {}", self.subject, self.error)
    }
}

/// The machine as described by its device tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// The machine's name.
    pub model: String,
    /// The memory ranges: ascending, neither overlapping nor adjacent.
    pub memory: Vec<AddrRange<PhysAddr>>,
    /// The reserved ranges; they do not include the device tree itself and the initramfs.
    pub reserved: Vec<Reservation>,
    /// The initramfs.
    pub initrd: Option<AddrRange<PhysAddr>>,
    /// The boot arguments.
    pub bootargs: Result<String, NodeError>,
    /// Random bytes from the boot loader; may be empty.
    pub rng_seed: Vec<u8>,
    pub console: Option<Uart>,
    /// The PSCI conduit.
    pub psci: Option<Conduit>,
    /// The CPUs of the device tree, which may omit the boot CPU.
    pub cpus: Vec<CpuDescription>,
    /// The interrupt controller.
    pub interrupts: Option<InterruptController>,
    /// The registers of a Raspberry Pi's watchdog, which can power it off.
    pub watchdog: Option<AddrRange<PhysAddr>>,
    /// The embedded controller that powers an `sbsa-ref` off; accessible in the Secure state only.
    pub embedded_controller: Option<PhysAddr>,
    /// The devices outside of PCI that drivers support.
    pub devices: Vec<PlatformDevice>,
    /// The generic timer.
    pub timer: Option<TimerInterrupts>,
    /// The erratum because of which reads of the counter may return wrong values.
    pub counter_erratum: Option<&'static str>,
    /// The PCI host bridges.
    pub pci_hosts: Vec<HostDescription>,
    pub smmus: Vec<SmmuDescription>,
    /// The ignored parts of the tree.
    pub warnings: Vec<Warning>,
}

/// The maximum number of nodes of a kind (memory ranges, CPUs, host bridges ...): more than any machine has,
/// and few enough for the early heap.
const MAX_OF_KIND: usize = 128;
/// The maximum length of the boot arguments and of the random seed in bytes. Linux's limit for boot arguments
/// is 2048.
const MAX_BYTES: usize = 4096;

impl Platform {
    /// Reads the whole tree. Invalid nodes are ignored with a warning. `compatible` are the strings that
    /// drivers of platform devices support.
    ///
    /// # Errors
    /// [`DeviceTreeError::TooManyReservations`]: an ignored reservation would be overwritten.
    pub fn read(tree: &DeviceTree<'_>, compatible: &[&'static str]) -> Result<Self, DeviceTreeError> {
        let mut reader = PlatformReader { root: tree.root(), warnings: Vec::new() };
        let reservations = tree.reservations().count();
        if reservations > MAX_RESERVATIONS {
            return Err(DeviceTreeError::TooManyReservations(reservations));
        }
        let seed = tree.rng_seed();
        let mut platform = Self {
            model: Excerpt::of(model(&tree.root())).to_string(),
            memory: merge_ranges(reader.each(tree.memory())),
            reserved: tree.reservations().filter_map(|(node, found)| reader.keep(&node, found)).collect(),
            initrd: reader.one(tree.initrd()).flatten(),
            bootargs: bootargs(tree).map(str::to_string),
            rng_seed: seed[..seed.len().min(MAX_BYTES)].to_vec(),
            console: reader.one(tree.console()),
            psci: tree.psci().and_then(|psci| reader.one(psci)),
            cpus: reader.each(tree.cpus()),
            interrupts: reader
                .first(tree.nodes().filter_map(|node| Some((node, InterruptController::read(tree, &node)?)))),
            watchdog: tree.watchdog().and_then(|(node, registers)| reader.keep(&node, registers)),
            embedded_controller: None,
            devices: reader.each(tree.platform_devices(compatible)),
            timer: reader.one(tree.timer()),
            counter_erratum: tree.counter_erratum(),
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
    /// Ignores an initramfs that is not in memory or that overlaps the kernel's `image` or a range that must
    /// not be mapped.
    pub fn check_initrd(&mut self, image: AddrRange<PhysAddr>) {
        let Some(initrd) = self.initrd else { return };
        let unmappable =
            self.reserved.iter().filter(|reserved| reserved.no_map).map(|reserved| reserved.range);
        let in_memory = self.memory.iter().any(|range| range.covers(&initrd));
        let free = unmappable.chain([image]).all(|reserved| !reserved.overlaps(&initrd));
        if initrd.is_empty() || !in_memory || !free {
            let error = NodeError::NotInFreeMemory { start: initrd.start().raw(), len: initrd.len() };
            self.warnings.push(Warning { subject: "initramfs".to_string(), error });
            self.initrd = None;
        }
    }

    /// Ignores memory ranges that overlap device registers, that end above `physical_bits` bits of address,
    /// and ranges whose last word does not respond. `responds` probes an address.
    pub fn check_memory(&mut self, physical_bits: u32, responds: impl Fn(PhysAddr) -> bool) {
        let registers = self.registers();
        let mut warnings = Vec::new();
        self.memory.retain(|range| {
            let last = PhysAddr::new(range.end().raw() - 1);
            let word = last.align_down(4);
            let error = match registers.iter().find(|device| device.overlaps(range)) {
                Some(device) => NodeError::OverlapsRegisters(device.start()),
                None if last.raw() >> physical_bits != 0 => {
                    NodeError::AboveAddressSize { last, bits: physical_bits }
                }
                None if !responds(word) => NodeError::NoResponse(word),
                None => return true,
            };
            warnings.push(Warning { subject: format!("memory at {}", range.start()), error });
            false
        });
        self.warnings.append(&mut warnings);
    }

    /// The register ranges of all devices with a driver.
    fn registers(&self) -> Vec<AddrRange<PhysAddr>> {
        let controllers = self.interrupts.iter().flat_map(InterruptController::registers);
        let uart = self.console.map(|uart| uart.registers);
        let devices = self.devices.iter().map(|device| device.registers);
        let hosts = self.pci_hosts.iter().map(|host| host.ecam);
        let smmus = self.smmus.iter().map(|smmu| smmu.registers);
        controllers.chain(uart).chain(self.watchdog).chain(devices).chain(hosts).chain(smmus).collect()
    }
}

fn bootargs<'a>(tree: &DeviceTree<'a>) -> Result<&'a str, NodeError> {
    tree.bootargs().and_then(|text| {
        let too_long = NodeError::TooLong { property: "bootargs", len: text.len(), limit: MAX_BYTES };
        if text.len() > MAX_BYTES { Err(too_long) } else { Ok(text) }
    })
}

/// The root's `model`, or else its first `compatible`.
fn model<'a>(root: &TreeNode<'a>) -> &'a str {
    root.text("model").or_else(|| root.text("compatible")).unwrap_or("unknown")
}

/// Collects valid descriptions, and a warning for each invalid one.
struct PlatformReader<'a> {
    root: TreeNode<'a>,
    warnings: Vec<Warning>,
}

impl<'a> PlatformReader<'a> {
    fn keep<T>(&mut self, node: &TreeNode<'_>, result: Result<T, NodeError>) -> Option<T> {
        result.map_err(|error| self.warn(node, error)).ok()
    }

    fn warn(&mut self, node: &TreeNode<'_>, error: NodeError) {
        if self.warnings.len() < MAX_OF_KIND {
            self.warnings.push(Warning::of(node, error));
        }
    }

    fn one<T>(&mut self, result: Result<T, NodeError>) -> Option<T> {
        self.keep(&self.root.clone(), result)
    }

    fn each<T>(&mut self, results: impl Iterator<Item = (TreeNode<'a>, Result<T, NodeError>)>) -> Vec<T> {
        let mut results = results.fuse();
        let first = results.by_ref().take(MAX_OF_KIND);
        let kept = first.filter_map(|(node, result)| self.keep(&node, result)).collect();
        if let Some((node, _)) = results.next() {
            self.warn(&node, NodeError::TooMany(MAX_OF_KIND));
        }
        kept
    }

    /// The first valid description; the kernel supports only one.
    fn first<T>(&mut self, results: impl Iterator<Item = (TreeNode<'a>, Result<T, NodeError>)>) -> Option<T> {
        let mut first = None;
        for (node, result) in results {
            let result = if first.is_none() { result } else { Err(NodeError::Duplicate) };
            first = self.keep(&node, result).or(first);
        }
        first
    }
}

/// Merges overlapping and adjacent ranges; the result is ascending.
pub fn merge_ranges(mut ranges: Vec<AddrRange<PhysAddr>>) -> Vec<AddrRange<PhysAddr>> {
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
    use super::super::tests::fixture;
    use super::*;
    use drivers::pcie::Phandle;
    use dtoolkit::memreserve::MemoryReservation;
    use dtoolkit::model::DeviceTree as TreeModel;

    fn read(model: &TreeModel) -> Result<Platform, DeviceTreeError> {
        Platform::read(&DeviceTree::new(&model.to_dtb()).unwrap(), &[])
    }

    fn range(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
    }

    #[test]
    fn virt_board_is_read_without_warnings() {
        let platform = read(&fixture::virt()).unwrap();
        assert_eq!(platform.warnings, []);
        assert_eq!(platform.memory, [range(0x4000_0000, 0x8000_0000)]);
        assert_eq!((platform.cpus.len(), platform.smmus.len(), platform.pci_hosts.len()), (2, 1, 1));
        assert_eq!((platform.model.as_str(), platform.psci), ("linux,dummy-virt", Some(Conduit::Smc)));
        assert!(platform.interrupts.is_some() && platform.console.is_some() && platform.timer.is_some());
    }

    #[test]
    fn invalid_nodes_are_ignored_with_a_reason() {
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
            "/: ignored: missing arm,armv8-timer",
            "/other/intc@8000000: ignored: only one is supported",
            "/pcie@10000000: ignored: missing ranges",
            "/smmuv3@9050000: ignored: no node has phandle 0x99",
        ];
        assert_eq!(warnings, expected);
        assert_eq!((platform.smmus, platform.pci_hosts, platform.timer), (vec![], vec![], None));
        assert_eq!(
            platform.warnings.iter().filter(|w| w.error == NodeError::DanglingPhandle(Phandle(0x99))).count(),
            1
        );
    }

    #[test]
    fn tree_without_memory_or_any_node_is_read() {
        let mut model = fixture::virt();
        model.root.remove_child("memory@40000000");
        assert_eq!(read(&model).unwrap().memory, []);
        assert!(read(&TreeModel::new()).is_ok());
    }

    #[test]
    fn memory_that_cannot_be_accessed_and_memory_over_registers_are_ignored() {
        let mut platform = read(&fixture::virt()).unwrap();
        let [good, missing] = [range(0x4000_0000, 0x8000_0000), range(0x1_0000_0000, 0x2_0000_0000)];
        let devices =
            [range(0, 0x900_0001), range(0x905_f000, 0xa00_0000), range(0x40_0fff_0000, 0x40_1000_1000)];
        let far = range(0x7f_ffff_0000, 0x80_0001_0000);
        platform.memory = [&[good, missing, far][..], &devices].concat();
        platform.check_memory(39, |at| at != PhysAddr::new(0x1_ffff_fffc));
        assert_eq!(platform.memory, [good]);
        let errors: Vec<_> = platform.warnings.iter().map(|warning| warning.error).collect();
        let at = PhysAddr::new;
        let expected = [
            NodeError::NoResponse(at(0x1_ffff_fffc)),
            NodeError::AboveAddressSize { last: at(0x80_0000_ffff), bits: 39 },
            NodeError::OverlapsRegisters(at(0x800_0000)),
            NodeError::OverlapsRegisters(at(0x905_0000)),
            NodeError::OverlapsRegisters(at(0x40_1000_0000)),
        ];
        assert_eq!(errors, expected);
    }

    #[test]
    fn nodes_beyond_the_early_heap_limits_are_ignored() {
        let mut model = fixture::virt();
        for number in 0..200_u32 {
            let cpu = fixture::node(&format!("cpu@{number}x")).property(fixture::text("device_type", "cpu"));
            fixture::find(&mut model, "/cpus")
                .add_child(cpu.property(fixture::cells("reg", &[number])).build());
            let odd = fixture::node(&format!("memory@{number}{}", "0".repeat(1000)));
            model.root.add_child(odd.property(fixture::text("device_type", "memory")).build());
        }
        let text = fixture::text("bootargs", &"x".repeat(MAX_BYTES));
        fixture::find(&mut model, "/chosen").add_property(text);
        fixture::find(&mut model, "/pcie").add_property(fixture::cells("iommu-map", &[1; 8000]));
        let platform = read(&model).unwrap();
        assert_eq!((platform.cpus.len(), platform.warnings.len()), (MAX_OF_KIND, MAX_OF_KIND));
        assert!(platform.warnings.iter().all(|warning| warning.subject.len() < 200));
        assert_eq!((platform.bootargs.unwrap().len(), platform.pci_hosts.len()), (MAX_BYTES, 0));
        model.memory_reservations = vec![MemoryReservation::new(0x4000_0000, 1); MAX_RESERVATIONS + 1];
        assert_eq!(read(&model), Err(DeviceTreeError::TooManyReservations(MAX_RESERVATIONS + 1)));
    }

    #[test]
    fn bootargs_beyond_the_limit_are_an_error() {
        let mut model = fixture::virt();
        let text = fixture::text("bootargs", &"x".repeat(MAX_BYTES + 1));
        fixture::find(&mut model, "/chosen").add_property(text);
        let error = NodeError::TooLong { property: "bootargs", len: MAX_BYTES + 1, limit: MAX_BYTES };
        assert_eq!(read(&model).unwrap().bootargs, Err(error));
    }

    #[test]
    fn initrd_outside_memory_or_over_reserved_memory_is_ignored() {
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
    fn memory_ranges_are_merged_and_sorted() {
        let cases = [
            (vec![], vec![]),
            (vec![range(8, 9), range(0, 4), range(4, 6)], vec![range(0, 6), range(8, 9)]),
            (vec![range(0, 10), range(2, 3), range(5, 12)], vec![range(0, 12)]),
        ];
        for (given, merged) in cases {
            assert_eq!(merge_ranges(given), merged);
        }
    }
}
