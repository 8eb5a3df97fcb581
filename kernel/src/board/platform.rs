//! The whole description of a machine.

use super::sbsa_ref;
use super::tree::MAX_RESERVATIONS;
use super::warning::Excerpt;
use super::{
    Cpu, DmaEngine, FirmwareMailbox, InterruptController, Place, Reason, Reservation, Smmu, Timer, Tree,
    TreeError, Uart, Warning,
};
use addr::{AddrRange, Address, PhysAddr};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::psci::Conduit;
use drivers::pcie::HostDescription;

/// A machine, as its device tree describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// What it calls itself.
    pub model: String,
    /// The memory: ascending, without overlaps.
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

/// The most of a kind (memory ranges, CPUs, buses ...) that are looked at: more than any machine has, and few enough for
/// the heap that there is before memory is known.
const MAX_EACH: usize = 128;
/// The most bytes of a text, and of a seed. Linux ends boot arguments at 2048.
const MAX_BYTES: usize = 4096;

impl Platform {
    /// Reads the whole tree. What makes no sense is left out with a warning.
    ///
    /// # Errors
    /// [`TreeError::TooManyReservations`]: to leave one out would be to write over it.
    pub fn read(tree: &Tree<'_>) -> Result<Self, TreeError> {
        let mut reader = Reader { root: tree.root(), warnings: Vec::new() };
        let reservations = tree.reservations().count();
        if reservations > MAX_RESERVATIONS {
            return Err(TreeError::TooManyReservations(reservations));
        }
        let seed = tree.rng_seed();
        let mut platform = Self {
            model: Excerpt::of(model(&tree.root())).to_string(),
            memory: merge(reader.each(tree.memory())),
            reserved: tree.reservations().filter_map(|(place, found)| reader.keep(&place, found)).collect(),
            initrd: reader.one(tree.initrd()).flatten(),
            bootargs: reader.one(bootargs(tree)).unwrap_or("").to_string(),
            rng_seed: seed[..seed.len().min(MAX_BYTES)].to_vec(),
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

    /// Leaves memory out that cannot be: where a device's registers are, and where nothing `answers`, asked for the last
    /// word of each range.
    pub fn check_memory(&mut self, answers: impl Fn(PhysAddr) -> bool) {
        let registers = self.registers();
        let mut warnings = Vec::new();
        self.memory.retain(|range| {
            let last = PhysAddr::new(range.end().raw() - 1).align_down(4);
            let reason = match registers.iter().find(|device| device.overlaps(range)) {
                Some(device) => Reason::HoldsRegisters(device.start()),
                None if !answers(last) => Reason::NothingAnswers(last),
                None => return true,
            };
            warnings.push(Warning { path: format!("memory at {}", range.start()), reason });
            false
        });
        self.warnings.append(&mut warnings);
    }

    /// The registers of all devices that the kernel drives.
    fn registers(&self) -> Vec<AddrRange<PhysAddr>> {
        let controllers = self.interrupts.iter().flat_map(InterruptController::registers);
        let one = self.console.map(|uart| uart.registers).into_iter().chain(self.watchdog);
        let raspberry_pi = self.dma_engine.iter().map(|engine| engine.registers);
        let mailbox = self.firmware_mailbox.iter().map(|mailbox| mailbox.registers);
        let hosts = self.pci_hosts.iter().map(|host| host.ecam);
        let smmus = self.smmus.iter().map(|smmu| smmu.registers);
        controllers.chain(one).chain(raspberry_pi).chain(mailbox).chain(hosts).chain(smmus).collect()
    }
}

fn bootargs<'a>(tree: &Tree<'a>) -> Result<&'a str, Reason> {
    tree.bootargs()
        .and_then(|text| if text.len() > MAX_BYTES { Err(Reason::Malformed("bootargs")) } else { Ok(text) })
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
        result.map_err(|reason| self.warn(place, reason)).ok()
    }

    fn warn(&mut self, place: &Place<'_>, reason: Reason) {
        if self.warnings.len() < MAX_EACH {
            self.warnings.push(Warning::new(place, reason));
        }
    }

    fn one<T>(&mut self, result: Result<T, Reason>) -> Option<T> {
        self.keep(&self.root.clone(), result)
    }

    fn each<T>(&mut self, results: impl Iterator<Item = (Place<'a>, Result<T, Reason>)>) -> Vec<T> {
        let mut results = results.fuse();
        let first = results.by_ref().take(MAX_EACH);
        let kept = first.filter_map(|(place, result)| self.keep(&place, result)).collect();
        if let Some((place, _)) = results.next() {
            self.warn(&place, Reason::TooMany(MAX_EACH));
        }
        kept
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
    use dtoolkit::memreserve::MemoryReservation;
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
            "/: ignored: missing arm,armv8-timer",
            "/other/intc@8000000: ignored: only one is supported",
            "/pcie@10000000: ignored: missing ranges",
            "/smmuv3@9050000: ignored: no node has phandle 0x99",
        ];
        assert_eq!(warnings, expected);
        assert_eq!((platform.smmus, platform.pci_hosts, platform.timer), (vec![], vec![], None));
        assert_eq!(
            platform.warnings.iter().filter(|w| w.reason == Reason::NoSuchNode(Phandle(0x99))).count(),
            1
        );
    }

    #[test]
    fn a_tree_may_have_nothing() {
        let mut model = fixture::virt();
        model.root.remove_child("memory@40000000");
        assert_eq!(read(&model).unwrap().memory, []);
        assert!(read(&DeviceTree::new()).is_ok());
    }

    #[test]
    fn memory_without_answer_or_with_registers_in_it_is_none() {
        let mut platform = read(&fixture::virt()).unwrap();
        let [good, missing] = [range(0x4000_0000, 0x8000_0000), range(0x1_0000_0000, 0x2_0000_0000)];
        let devices =
            [range(0, 0x900_0001), range(0x905_f000, 0xa00_0000), range(0x40_0fff_0000, 0x40_1000_1000)];
        platform.memory = [&[good, missing][..], &devices].concat();
        platform.check_memory(|at| at != PhysAddr::new(0x1_ffff_fffc));
        assert_eq!(platform.memory, [good]);
        let reasons: Vec<_> = platform.warnings.iter().map(|warning| warning.reason).collect();
        let at = PhysAddr::new;
        let expected = [
            Reason::NothingAnswers(at(0x1_ffff_fffc)),
            Reason::HoldsRegisters(at(0x800_0000)),
            Reason::HoldsRegisters(at(0x905_0000)),
            Reason::HoldsRegisters(at(0x40_1000_0000)),
        ];
        assert_eq!(reasons, expected);
    }

    #[test]
    fn what_the_first_heap_cannot_hold_is_not_read() {
        let mut model = fixture::virt();
        for number in 0..200_u32 {
            let cpu = fixture::node(&format!("cpu@{number}x")).property(fixture::text("device_type", "cpu"));
            fixture::find(&mut model, "/cpus")
                .add_child(cpu.property(fixture::cells("reg", &[number])).build());
            let odd = fixture::node(&format!("memory@{number}{}", "0".repeat(1000)));
            model.root.add_child(odd.property(fixture::text("device_type", "memory")).build());
        }
        fixture::find(&mut model, "/chosen").add_property(fixture::text("bootargs", &"x".repeat(MAX_BYTES)));
        fixture::find(&mut model, "/pcie").add_property(fixture::cells("iommu-map", &[1; 8000]));
        let platform = read(&model).unwrap();
        assert_eq!((platform.cpus.len(), platform.warnings.len()), (MAX_EACH, MAX_EACH));
        assert!(platform.warnings.iter().all(|warning| warning.path.len() < 200));
        assert_eq!((platform.bootargs.len(), platform.pci_hosts.len()), (MAX_BYTES, 0));
        model.memory_reservations = vec![MemoryReservation::new(0x4000_0000, 1); MAX_RESERVATIONS + 1];
        assert_eq!(read(&model), Err(TreeError::TooManyReservations(MAX_RESERVATIONS + 1)));
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
