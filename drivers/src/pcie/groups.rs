//! Isolation groups: the functions whose requests to each other may pass the IOMMU.
//!
//! Functions with one requester ID cannot be told apart. A bridge or a device of several functions forwards
//! requests between the functions behind it, unless it has access control services (ACS, PCIe 5.0, 6.12) that
//! validate the source and redirect requests and completions upstream. Endpoints of the root complex need
//! none.

use super::address::Bdf;
use super::capabilities::{Capabilities, Capability, ExtendedCapability, extended};
use super::config::{CONFIG_BYTES, ConfigSpace};
use super::function::Function;
use alloc::vec::Vec;
use core::fmt;

/// Source validation, request and completion redirect, and upstream forwarding.
const REQUIRED: u16 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4;

/// Device/port types (PCI Express capabilities register).
const ROOT_PORT: u16 = 4;
const DOWNSTREAM: u16 = 6;
const EXPRESS_TO_PCI: u16 = 7;
const PCI_TO_EXPRESS: u16 = 8;

/// Why functions are in one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupReason {
    /// A single function that is isolated from all others.
    Isolated,
    /// This bridge does not isolate the functions behind it.
    Bridge(Bdf),
    /// Functions of one device without access control services.
    Multifunction,
}

impl fmt::Display for GroupReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolated => write!(f, "isolated"),
            Self::Bridge(bridge) => write!(f, "bridge {bridge} does not isolate the functions behind it"),
            Self::Multifunction => write!(f, "functions of a device without ACS"),
        }
    }
}

/// Functions that only one user can own, together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsolationGroup {
    /// In the order of enumeration, bridges included.
    pub functions: Vec<Bdf>,
    /// Why they are together.
    pub reason: GroupReason,
}

/// Enables the access control services of all functions that have them.
pub(super) fn enable_acs(config: &mut impl ConfigSpace, functions: &[Function]) {
    for function in functions {
        let Some(at) = acs(config, function.bdf) else { continue };
        let (supported, control) = (config.read16(function.bdf, at + 4), config.read16(function.bdf, at + 6));
        config.write16(function.bdf, at + 6, control | supported & REQUIRED);
    }
}

/// Returns the groups of all functions, in the order of their first functions.
pub(super) fn groups(config: &impl ConfigSpace, functions: &[Function]) -> Vec<IsolationGroup> {
    let mut groups: Vec<(usize, IsolationGroup)> = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        let (key, reason) = key(config, functions, index);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => {
                group.functions.push(function.bdf);
                if group.reason == GroupReason::Isolated {
                    group.reason = reason;
                }
            }
            None => groups.push((key, IsolationGroup { functions: Vec::from([function.bdf]), reason })),
        }
    }
    for (_, group) in groups.iter_mut().filter(|(_, group)| group.functions.len() == 1) {
        group.reason = GroupReason::Isolated;
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Returns the index of the function that identifies the group of `function`.
fn key(config: &impl ConfigSpace, functions: &[Function], function: usize) -> (usize, GroupReason) {
    let above = |&index: &usize| functions[index].parent;
    let bridges = core::iter::successors(above(&function), above);
    // The highest bridge that does not isolate: all functions behind it are together.
    let sharing = bridges.filter(|&bridge| !isolates(config, functions, bridge)).last();
    let (top, mut reason) = match sharing {
        Some(bridge) => (bridge, GroupReason::Bridge(functions[bridge].bdf)),
        None => (function, GroupReason::Isolated),
    };
    if isolates(config, functions, top) || !is_multifunction(functions, top) {
        return (top, reason);
    }
    let is_beside = |other: &Function| {
        let (one, two) = (other.bdf, functions[top].bdf);
        (one.bus(), one.device()) == (two.bus(), two.device())
    };
    let first = functions
        .iter()
        .enumerate()
        .position(|(index, other)| is_beside(other) && !isolates(config, functions, index))
        .unwrap_or(top);
    if reason == GroupReason::Isolated {
        reason = GroupReason::Multifunction;
    }
    (first, reason)
}

fn is_multifunction(functions: &[Function], index: usize) -> bool {
    let at = functions[index].bdf;
    let beside = |other: &&Function| (other.bdf.bus(), other.bdf.device()) == (at.bus(), at.device());
    functions.iter().filter(beside).count() > 1
}

/// Whether requests between functions pass the IOMMU: those behind a bridge, or those of one device.
fn isolates(config: &impl ConfigSpace, functions: &[Function], index: usize) -> bool {
    let at = functions[index].bdf;
    let express = Capabilities::of(config, at).find(|found| found.id == Capability::EXPRESS);
    let Some(express) = express else {
        // Conventional PCI has no such services.
        return false;
    };
    match config.read16(at, (express.offset + 2) & 0xfe) >> 4 & 0xf {
        EXPRESS_TO_PCI | PCI_TO_EXPRESS => false,
        ROOT_PORT | DOWNSTREAM => has_services(config, at),
        _ => !is_multifunction(functions, index) || has_services(config, at),
    }
}

/// Whether the required services are enabled. One that is missing from the capability is needed for no
/// request of the function (6.12.1.1: required "if" the function can be the source of such a request).
fn has_services(config: &impl ConfigSpace, at: Bdf) -> bool {
    acs(config, at).is_some_and(|acs| {
        let required = config.read16(at, acs + 4) & REQUIRED;
        config.read16(at, acs + 6) & required == required
    })
}

/// Returns the offset of the ACS capability.
fn acs(config: &impl ConfigSpace, at: Bdf) -> Option<u16> {
    Capabilities::of(config, at).find(|found| found.id == Capability::EXPRESS)?;
    let found = extended(config, at).find(|found| found.id == ExtendedCapability::ACS)?;
    (found.offset + 6 < CONFIG_BYTES).then_some(found.offset)
}

#[cfg(test)]
mod tests {
    use super::super::enumerate;
    use super::super::fake::{BUSES, FakeBus, FakeFunction};
    use super::*;

    const ENDPOINT: u8 = 0;
    const ROOT_ENDPOINT: u8 = 9;
    const ALL: u32 = 0x1d;

    fn endpoint(kind: u8) -> FakeFunction {
        FakeFunction::endpoint(1, 2).with_express(kind)
    }

    /// Adds the capability with these services; none for 0.
    fn with_acs(function: FakeFunction, supported: u32) -> FakeFunction {
        if supported == 0 { function } else { function.extended(0x100, 0xd, 0, [supported, 0]) }
    }

    fn port(kind: u8, supported: u32, behind: impl IntoIterator<Item = FakeFunction>) -> FakeFunction {
        with_acs(FakeFunction::express(kind, behind), supported)
    }

    fn found(functions: impl IntoIterator<Item = FakeFunction>) -> Vec<(Vec<String>, GroupReason)> {
        let mut bus = FakeBus::new(functions);
        let functions = enumerate::enumerate(&mut bus, BUSES).functions;
        enable_acs(&mut bus, &functions);
        let groups = groups(&bus, &functions).into_iter();
        groups.map(|group| (group.functions.iter().map(Bdf::to_string).collect(), group.reason)).collect()
    }

    fn members(functions: impl IntoIterator<Item = FakeFunction>) -> Vec<String> {
        found(functions).into_iter().map(|(members, _)| members.join(" ")).collect()
    }

    #[test]
    fn single_functions_on_the_root_bus_are_isolated() {
        let conventional = FakeFunction::endpoint(0x1234, 0x11e8);
        assert_eq!(
            found([conventional, endpoint(ROOT_ENDPOINT)]),
            [
                (vec!["00:00.0".into()], GroupReason::Isolated),
                (vec!["00:01.0".into()], GroupReason::Isolated)
            ]
        );
    }

    #[test]
    fn ports_with_acs_isolate_the_functions_behind_them() {
        let two = || [endpoint(ENDPOINT), endpoint(ENDPOINT)];
        assert_eq!(members([port(4, ALL, [endpoint(ENDPOINT)])]), ["00:00.0", "01:00.0"]);
        assert_eq!(members([port(4, ALL, two())]), ["00:00.0", "01:00.0", "01:01.0"]);
        let without = found([port(4, 0, two())]);
        let bridge = Bdf::new(0, 0, 0);
        let all = ["00:00.0", "01:00.0", "01:01.0"].map(String::from);
        assert_eq!(without, [(all.to_vec(), GroupReason::Bridge(bridge))]);
    }

    #[test]
    fn each_required_service_is_needed() {
        for missing in [1, 4, 8, 16] {
            // A control bit that stays clear.
            let port = port(4, ALL, [endpoint(ENDPOINT)]).writable32(0x104, !(missing << 16));
            assert_eq!(members([port]), ["00:00.0 01:00.0"], "{missing:#x}");
            let port = self::port(4, ALL & !missing, [endpoint(ENDPOINT)]);
            assert_eq!(members([port]), ["00:00.0", "01:00.0"], "{missing:#x} is not supported");
        }
    }

    #[test]
    fn highest_bridge_without_acs_decides() {
        let switch = |upper, lower| {
            let downstream = |supported| port(6, supported, [endpoint(ENDPOINT)]);
            port(4, upper, [FakeFunction::express(5, [downstream(lower), downstream(ALL)])])
        };
        let isolated = ["00:00.0", "01:00.0", "02:00.0", "03:00.0", "02:01.0", "04:00.0"];
        assert_eq!(members([switch(ALL, ALL)]), isolated);
        let lower = ["00:00.0", "01:00.0", "02:00.0 03:00.0", "02:01.0", "04:00.0"];
        assert_eq!(members([switch(ALL, 0)]), lower);
        assert_eq!(members([switch(0, ALL)]), ["00:00.0 01:00.0 02:00.0 03:00.0 02:01.0 04:00.0"]);
    }

    #[test]
    fn conventional_bus_is_one_group() {
        let bus = || [FakeFunction::endpoint(1, 2), FakeFunction::endpoint(1, 2)];
        assert_eq!(members([FakeFunction::bridge(bus())]), ["00:00.0 01:00.0 01:01.0"]);
        assert_eq!(members([FakeFunction::express(7, bus())]), ["00:00.0 01:00.0 01:01.0"]);
    }

    #[test]
    fn functions_of_a_device_without_acs_are_together() {
        let device = |kind, supported| {
            let function = || with_acs(endpoint(kind), supported);
            function().beside([function(), function()])
        };
        let together = ["00:00.0", "00:00.1", "00:00.2"].map(String::from).to_vec();
        assert_eq!(found([device(ROOT_ENDPOINT, 0)]), [(together, GroupReason::Multifunction)]);
        assert_eq!(members([device(ROOT_ENDPOINT, ALL)]), ["00:00.0", "00:00.1", "00:00.2"]);
        let conventional = FakeFunction::endpoint(1, 2).beside([FakeFunction::endpoint(1, 2)]);
        assert_eq!(members([conventional]), ["00:00.0 00:00.1"]);
    }
}
