//! Enumeration of functions.
//!
//! 1. Disables bus mastering, decoding and interrupts of all functions that respond, and resets the bus
//!    numbers of all bridges.
//! 2. Buses that still respond are root buses: the first one, and those of expander bridges (`pxb-pcie`),
//!    which no device tree describes.
//! 3. The bridges of each root get the bus numbers below the next root, depth first. A bridge forwards all
//!    remaining numbers while the buses behind it are enumerated, and then only those in use.

use super::address::Bdf;
use super::bar;
use super::capabilities::{Capabilities, Capability, ExtendedCapability, extended};
use super::config::{CONFIG_BYTES, ConfigSpace};
use super::function::{Bridge, COMMAND, Function, HEADER_TYPE, INTX_OFF, MASTER};
use super::problem::Problem;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// Primary, secondary and subordinate bus number, and the secondary latency timer, which PCI Express ignores.
const BUS_NUMBERS: u16 = 0x18;
const PREFETCHABLE: u16 = 0x24;
const MULTIFUNCTION: u8 = 0x80;
/// Maximum nesting of bridges; each level is a level of recursion.
const MAX_DEPTH: usize = 16;

/// The result of enumeration: functions, bridges before the functions behind them, and problems.
#[derive(Default)]
pub(super) struct Found {
    pub functions: Vec<Function>,
    pub problems: Vec<Problem>,
    /// Functions that were bus masters before, at their addresses of that time.
    pub masters: Vec<Bdf>,
}

/// Enumerates all functions on `buses`. BARs are sized but not assigned.
pub(super) fn enumerate(config: &mut impl ConfigSpace, buses: RangeInclusive<u8>) -> Found {
    let mut found = Found { masters: disable_all(config, buses.clone()), ..Found::default() };
    let roots: Vec<u8> =
        buses.clone().filter(|&bus| bus == *buses.start() || !functions_on(config, bus).is_empty()).collect();
    for (index, &root) in roots.iter().enumerate() {
        let last = roots.get(index + 1).map_or(*buses.end(), |next| next - 1);
        Search { config, found: &mut found, last }.bus(root, &[]);
    }
    found
}

/// Step 1. Returns the functions that were bus masters; their transfers have ended.
fn disable_all(config: &mut impl ConfigSpace, buses: RangeInclusive<u8>) -> Vec<Bdf> {
    // Firmware numbered buses behind bridges with lower numbers, which must be reset after them.
    let all: Vec<_> = buses.flat_map(|bus| functions_on(config, bus)).collect();
    let masters = all.iter().copied().filter(|&at| config.read16(at, COMMAND) & MASTER != 0).collect();
    for at in all.into_iter().rev() {
        quiesce(config, at);
        if config.read8(at, HEADER_TYPE) & !MULTIFUNCTION == 1 {
            config.write32(at, BUS_NUMBERS, 0);
        }
    }
    masters
}

/// Disables memory and I/O decoding, bus mastering, INTx and messages, and the address translation services
/// that firmware enabled: with ATS, a function may send addresses that the SMMU takes for translated.
fn quiesce(config: &mut impl ConfigSpace, at: Bdf) {
    config.write16(at, COMMAND, INTX_OFF);
    super::msi::disable_all(config, at);
    if !Capabilities::of(config, at).any(|found| found.id == Capability::EXPRESS) {
        return;
    }
    // PASID must not change while ATS is enabled (PCIe 4.0, 10.5.1.3).
    for (id, register, enable) in [
        (ExtendedCapability::PRI, 4, 1),
        (ExtendedCapability::ATS, 6, 1 << 15),
        (ExtendedCapability::PASID, 6, 1),
    ] {
        let Some(found) = extended(config, at).find(|found| found.id == id) else { continue };
        let control = found.offset + register;
        if control >= CONFIG_BYTES {
            continue;
        }
        let value = config.read16(at, control);
        if value & enable != 0 {
            config.write16(at, control, value & !enable);
        }
    }
}

/// The functions on a bus. Functions other than 0 exist only in a multi-function device.
fn functions_on(config: &impl ConfigSpace, bus: u8) -> Vec<Bdf> {
    let mut functions = Vec::new();
    for first in (0..Bdf::DEVICES).map(|device| Bdf::new(bus, device, 0)).filter(|&at| is_present(config, at))
    {
        functions.push(first);
        if config.read8(first, HEADER_TYPE) & MULTIFUNCTION != 0 {
            let others = (1..Bdf::FUNCTIONS).map(|function| Bdf::new(bus, first.device(), function));
            functions.extend(others.filter(|&at| is_present(config, at)));
        }
    }
    functions
}

/// Whether a function responds.
pub(super) fn is_present(config: &impl ConfigSpace, at: Bdf) -> bool {
    !matches!(config.read16(at, 0), 0xffff | 0)
}

/// The enumeration below one root.
struct Search<'s, C> {
    config: &'s mut C,
    found: &'s mut Found,
    /// The last bus number this root may use.
    last: u8,
}

impl<C: ConfigSpace> Search<'_, C> {
    /// Enumerates `bus`, which is behind `bridges` (indices, the outermost first). Returns the last bus
    /// number in use.
    fn bus(&mut self, bus: u8, bridges: &[usize]) -> u8 {
        let mut used = bus;
        for at in functions_on(self.config, bus) {
            used = self.function(at, bridges, used);
        }
        used
    }

    /// Reads a function, and enumerates the buses behind a bridge. Returns the last bus number in use.
    fn function(&mut self, at: Bdf, bridges: &[usize], used: u8) -> u8 {
        quiesce(self.config, at);
        let header = self.config.read8(at, HEADER_TYPE) & !MULTIFUNCTION;
        let bars = match header {
            0 => 6,
            1 => 2,
            other => {
                self.found.problems.push(Problem::UnknownHeader { at, header: other });
                return used;
            }
        };
        let mut function = Function::read(self.config, at);
        let problems = &mut self.found.problems;
        function.bars = bar::size_all(self.config, at, bars, |bad| {
            problems.push(Problem::BadBar { at, bar: bad.index, writable: bad.writable });
        });
        function.parent = bridges.last().copied();
        for &bridge in bridges.iter().rev() {
            function.pass(&self.found.functions[bridge]);
        }
        self.found.functions.push(function);
        if header == 1 { self.bridge(at, bridges, used) } else { used }
    }

    /// Assigns a bus number to the bridge found last and enumerates that bus. Returns the last bus number in
    /// use.
    fn bridge(&mut self, at: Bdf, bridges: &[usize], used: u8) -> u8 {
        if bridges.len() == MAX_DEPTH {
            self.found.problems.push(Problem::TooDeep(at));
            return used;
        }
        if used >= self.last {
            self.found.problems.push(Problem::NoBusNumber(at));
            return used;
        }
        let index = self.found.functions.len() - 1;
        let secondary = used + 1;
        let is_64bit =
            self.forwards_64bit(at) && bridges.last().is_none_or(|&above| self.bridge_at(above).is_64bit);
        self.found.functions[index].bridge = Some(Bridge { secondary, subordinate: self.last, is_64bit });
        self.forward(at, secondary, self.last);
        let subordinate = self.bus(secondary, &[bridges, &[index]].concat());
        self.forward(at, secondary, subordinate);
        self.found.functions[index].bridge = Some(Bridge { secondary, subordinate, is_64bit });
        subordinate
    }

    fn bridge_at(&self, index: usize) -> Bridge {
        self.found.functions[index].bridge.expect("only bridges are above others")
    }

    fn forward(&mut self, at: Bdf, secondary: u8, subordinate: u8) {
        self.config.write32(at, BUS_NUMBERS, u32::from_le_bytes([at.bus(), secondary, subordinate, 0]));
    }

    /// Whether the bridge has a prefetchable window with 64-bit addresses (PCI-to-PCI Bridge 1.2, 3.2.5.9).
    fn forwards_64bit(&mut self, at: Bdf) -> bool {
        self.config.read16(at, PREFETCHABLE) & 0xf == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Width;
    use super::super::fake::{BUSES, FakeBus, FakeFunction};
    use super::*;

    fn endpoint(device: u16) -> FakeFunction {
        FakeFunction::endpoint(0x1234, device).pin(1)
    }

    fn places(found: &Found) -> Vec<(u16, String)> {
        found.functions.iter().map(|function| (function.device, function.bdf.to_string())).collect()
    }

    #[test]
    fn buses_are_numbered_depth_first() {
        let inner = FakeFunction::express(6, [endpoint(1)]);
        let mut config = FakeBus::new([
            endpoint(2),
            FakeFunction::express(
                4,
                [FakeFunction::express(5, [inner, FakeFunction::express(6, [endpoint(3)])])],
            ),
            FakeFunction::express(4, [endpoint(4)]),
        ]);
        let found = enumerate(&mut config, BUSES);
        assert_eq!(found.problems, []);
        let expected = [
            (2, "00:00.0"),
            (1, "00:01.0"),
            (1, "01:00.0"),
            (1, "02:00.0"),
            (1, "03:00.0"),
            (1, "02:01.0"),
            (3, "04:00.0"),
            (1, "00:02.0"),
            (4, "05:00.0"),
        ];
        assert_eq!(places(&found), expected.map(|(device, at)| (device, at.to_string())));
        let bridges: Vec<_> =
            found.functions.iter().filter_map(|f| f.bridge.map(|b| (b.secondary, b.subordinate))).collect();
        assert_eq!(bridges, [(1, 4), (2, 4), (3, 3), (4, 4), (5, 5)]);
        assert_eq!(config.read32(Bdf::new(0, 1, 0), BUS_NUMBERS), 0x0004_0100);
        assert_eq!(found.functions[6].to_string(), "04:00.0 000000 1234:0003");
    }

    #[test]
    #[cfg_attr(miri, ignore = "256 buses; the other tests use 18")]
    fn expander_roots_keep_their_numbers() {
        let mut config = FakeBus::new([FakeFunction::express(4, [endpoint(2)])])
            .root(2, [FakeFunction::express(4, [endpoint(3)])])
            .root(0x80, [FakeFunction::express(4, [endpoint(4)])]);
        let found = enumerate(&mut config, 0..=255);
        let devices: Vec<_> = places(&found).into_iter().filter(|(device, _)| *device != 1).collect();
        assert_eq!(
            devices,
            [(2, "01:00.0"), (3, "03:00.0"), (4, "81:00.0")].map(|(d, at)| (d, at.to_string()))
        );
    }

    #[test]
    fn bus_numbers_of_firmware_are_reset() {
        let mut bridge = FakeFunction::express(4, [endpoint(2)]);
        bridge.set32(BUS_NUMBERS, 0x0050_5000);
        bridge.set8(COMMAND, 7);
        let mut config = FakeBus::new([bridge]);
        let found = enumerate(&mut config, BUSES);
        assert_eq!(places(&found), [(1, "00:00.0".to_string()), (2, "01:00.0".to_string())]);
        assert_eq!(config.read16(Bdf::new(0, 0, 0), COMMAND), INTX_OFF);
    }

    #[test]
    fn bus_masters_behind_bridges_are_disabled() {
        let mut running = endpoint(2);
        running.set8(COMMAND, 6);
        let mut bridge = FakeFunction::express(4, [running]);
        bridge.set32(BUS_NUMBERS, 0x0003_0300);
        let mut config = FakeBus::new([bridge]);
        assert_eq!(
            disable_all(&mut config, BUSES),
            [Bdf::new(3, 0, 0)],
            "the device was a bus master, the bridge was not"
        );
        config.write32(Bdf::new(0, 0, 0), BUS_NUMBERS, 0x0003_0300);
        assert_eq!(config.read16(Bdf::new(3, 0, 0), COMMAND), INTX_OFF);
    }

    #[test]
    fn address_translation_services_of_firmware_are_disabled() {
        let enabled = || {
            endpoint(2)
                .with_express(0)
                .extended(0x100, ExtendedCapability::ATS, 0x140, [0x8003_0020, 0])
                .extended(0x140, ExtendedCapability::PRI, 0x180, [1, 0])
                .extended(0x180, ExtendedCapability::PASID, 0, [0x0003_0606, 0])
        };
        let truncated = endpoint(3).with_express(0).extended(0x100, 0, 0xffc, [0; 2]).header(0xffc, 0xf);
        let mut config = FakeBus::new([enabled(), FakeFunction::express(4, [enabled()]), truncated]);
        enumerate(&mut config, BUSES);
        for at in [Bdf::new(0, 0, 0), Bdf::new(1, 0, 0)] {
            assert_eq!(config.read32(at, 0x104), 0x0003_0020, "{at}: ATS off, the rest as before");
            assert_eq!(config.read16(at, 0x144), 0, "{at}: PRI");
            assert_eq!(config.read16(at, 0x186), 2, "{at}: PASID off, the rest as before");
        }
    }

    /// A configuration space that logs the offsets of writes.
    struct LoggingBus(FakeBus, Vec<u16>);

    impl ConfigSpace for LoggingBus {
        fn read(&self, at: Bdf, offset: u16, width: Width) -> u32 {
            self.0.read(at, offset, width)
        }
        fn write(&mut self, at: Bdf, offset: u16, width: Width, value: u32) {
            self.1.push(offset);
            self.0.write(at, offset, width, value);
        }
    }

    /// The end result is the same in any order, but PASID must not change while ATS is enabled.
    #[test]
    fn pri_is_disabled_before_ats_and_ats_before_pasid() {
        let (ats, pri, pasid) = ([0x8000_0000, 0], [1, 0], [0x0001_0000, 0]);
        let enabled = endpoint(2)
            .with_express(0)
            .extended(0x100, ExtendedCapability::PASID, 0x140, pasid)
            .extended(0x140, ExtendedCapability::ATS, 0x180, ats)
            .extended(0x180, ExtendedCapability::PRI, 0, pri);
        let mut config = LoggingBus(FakeBus::new([enabled]), Vec::new());
        quiesce(&mut config, Bdf::new(0, 0, 0));
        assert_eq!(config.1, [COMMAND, 0x184, 0x146, 0x106], "bus mastering, PRI, ATS, PASID");
    }

    #[test]
    fn multi_function_devices_are_enumerated() {
        let mut config = FakeBus::new([
            endpoint(2).beside([endpoint(3), FakeFunction::endpoint(0xffff, 0), endpoint(4)]),
            endpoint(5).beside([endpoint(6)]),
        ]);
        let mut single = endpoint(7).beside([endpoint(8)]);
        single.set8(HEADER_TYPE, 0);
        config = config.root(9, [single]);
        let found = enumerate(&mut config, BUSES);
        let expected =
            [(2, "00:00.0"), (3, "00:00.1"), (4, "00:00.3"), (5, "00:01.0"), (6, "00:01.1"), (7, "09:00.0")];
        assert_eq!(places(&found), expected.map(|(device, at)| (device, at.to_string())));
    }

    #[test]
    fn bridge_without_bus_number_is_reported() {
        let mut config =
            FakeBus::new([FakeFunction::express(4, [endpoint(2)]), FakeFunction::express(4, [endpoint(3)])]);
        let found = enumerate(&mut config, 0..=1);
        assert_eq!(found.problems, [Problem::NoBusNumber(Bdf::new(0, 1, 0))]);
        assert_eq!(found.functions.len(), 3);
    }

    #[test]
    fn too_deep_bridge_is_reported() {
        let chain = (0..20).fold(endpoint(2), |below, _| FakeFunction::express(4, [below]));
        let found = enumerate(&mut FakeBus::new([chain]), BUSES);
        assert_eq!(found.problems, [Problem::TooDeep(Bdf::new(16, 0, 0))]);
        assert_eq!(found.functions.len(), MAX_DEPTH + 1);
    }

    #[test]
    fn bridges_replace_requester_ids() {
        let legacy = FakeFunction::bridge([endpoint(2), endpoint(3)]);
        let nested = FakeFunction::express(7, [endpoint(4), FakeFunction::bridge([endpoint(5)])]);
        let port = FakeFunction::express(4, [endpoint(6).with_express(0)]);
        let found = enumerate(&mut FakeBus::new([legacy, nested, port, endpoint(7)]), BUSES);
        let requester =
            |device| found.functions.iter().find(|function| function.device == device).unwrap().requester;
        // Bus 1 is behind the legacy bridge 00:00.0, 2 behind the PCI Express one, 3 behind a legacy one
        // there, 4 behind the port.
        assert_eq!([2, 3].map(requester), [0x0000, 0x0000], "the legacy bridge's own");
        assert_eq!([4, 5].map(requester), [0x0200, 0x0200], "the secondary bus of the express bridge");
        assert_eq!([6, 7].map(requester), [0x0400, 0x0018], "their own");
    }

    #[test]
    fn pins_are_swizzled_by_every_bridge() {
        let at = |device: u8| (0..device).map(|_| FakeFunction::endpoint(0xffff, 0));
        let deep = FakeFunction::express(7, at(2).chain([endpoint(2)]));
        let bus = FakeBus::new(at(5).chain([FakeFunction::express(4, [deep])]));
        let found = enumerate(&mut { bus }, BUSES);
        let function = found.functions.iter().find(|function| function.device == 2).unwrap();
        assert_eq!(function.bdf, Bdf::new(2, 2, 0));
        // INTA of device 2 is INTC behind the inner bridge (device 0), and stays so above it.
        assert_eq!(function.intx, Some((Bdf::new(0, 5, 0), 3)));
    }

    #[test]
    fn unknown_header_type_is_reported() {
        let mut odd = endpoint(2);
        odd.set8(HEADER_TYPE, 2);
        let found = enumerate(&mut FakeBus::new([odd]), BUSES);
        assert_eq!(found.problems, [Problem::UnknownHeader { at: Bdf::new(0, 0, 0), header: 2 }]);
        assert!(found.functions.is_empty());
    }
}
