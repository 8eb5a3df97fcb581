//! An enumerated host bridge: its functions, their interrupts and bus mastering.

use super::address::Bdf;
use super::config::{ConfigSpace, Ecam, Width};
use super::description::{HostDescription, Phandle};
use super::function::{Bridge, COMMAND, Function, INTX_OFF, MASTER, MEMORY};
use super::msi::{self, Message, MsiCapabilityError};
use super::problem::Problem;
use super::{assign, enumerate, groups};
use crate::gic::GicInterrupt;
use addr::StreamId;
use alloc::vec::Vec;
use core::fmt;

/// Promise that a stream is attached (or has no IOMMU, and its devices may access all memory), required by
/// [`Host::enable_bus_master`]. Dropping the value has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLive {
    requester: u16,
}

impl StreamLive {
    /// Promises that the stream of this requester ID is attached.
    ///
    /// # Safety
    /// While a function with this requester ID is a bus master, an IOMMU translates or aborts its
    /// transactions, or it may access all memory.
    pub unsafe fn promise(requester: u16) -> Self {
        Self { requester }
    }
}

/// The function is not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MasterError {
    /// The function does not exist.
    NoSuchFunction(Bdf),
    /// The attached stream is not the function's.
    OtherStream {
        /// Requester ID of the attached stream.
        live: u16,
        /// Requester ID of the function.
        own: u16,
    },
}

impl fmt::Display for MasterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchFunction(at) => write!(f, "no function at {at}"),
            Self::OtherStream { live, own } => write!(f, "requester {live:#x} is live, not {own:#x}"),
        }
    }
}

impl core::error::Error for MasterError {}

/// The requests of a removed function may still reach memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IsolateError {
    /// The function does not exist, and did not at enumeration.
    NoSuchFunction(Bdf),
    /// No bridge above it responds: it was on the root bus, or all of them were removed.
    NoBridge(Bdf),
    /// This function behind the bridge responds, and needs the bridge.
    Present {
        /// The function.
        function: Bdf,
        /// The bridge.
        bridge: Bdf,
    },
    /// The command register of this bridge still has bus mastering enabled, or reads as all ones.
    NotDisabled {
        /// The bridge.
        bridge: Bdf,
        /// Its command register.
        command: u16,
    },
}

impl fmt::Display for IsolateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchFunction(at) => write!(f, "no function at {at}"),
            Self::NoBridge(at) => write!(f, "no bridge above {at} responds"),
            Self::Present { function, bridge } => write!(f, "{function} behind bridge {bridge} is in use"),
            Self::NotDisabled { bridge, command } => {
                write!(f, "bridge {bridge} is a bus master: its command register is {command:#06x}")
            }
        }
    }
}

impl core::error::Error for IsolateError {}

/// An enumerated host bridge.
pub struct Host<C = Ecam> {
    config: C,
    description: HostDescription,
    functions: Vec<Function>,
    problems: Vec<Problem>,
    masters: Vec<Bdf>,
}

impl<C: ConfigSpace> Host<C> {
    /// Enumerates all functions, assigns their BARs, and enables memory decoding of functions with all
    /// addresses assigned. Bus mastering and interrupts are disabled.
    pub fn enumerate(mut config: C, description: HostDescription) -> Self {
        let mut found = enumerate::enumerate(&mut config, description.buses.clone());
        assign::assign(&mut config, &mut found.functions, &description.windows, &mut found.problems);
        for function in found.functions.iter().filter(|function| function.is_assigned()) {
            config.write16(function.bdf, COMMAND, INTX_OFF | MEMORY);
        }
        groups::enable_acs(&mut config, &found.functions);
        let enumerate::Found { functions, problems, masters } = found;
        Self { config, description, functions, problems, masters }
    }

    /// The functions that were bus masters before enumeration, at their addresses of that time. Bus mastering
    /// is disabled now; their transfers in flight have failed.
    pub fn masters(&self) -> &[Bdf] {
        &self.masters
    }

    /// The functions, bridges before the functions behind them.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Problems of the enumeration.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The host's description in the device tree.
    pub fn description(&self) -> &HostDescription {
        &self.description
    }

    /// The bridge above a function; `None` on a root bus.
    pub fn bridge_above(&self, function: &Function) -> Option<Bdf> {
        function.parent.map(|parent| self.functions[parent].bdf)
    }

    /// Configuration space, for reading.
    pub fn config(&self) -> &C {
        &self.config
    }

    pub(super) fn config_mut(&mut self) -> &mut C {
        &mut self.config
    }

    pub(super) fn write_command(&mut self, bdf: Bdf, value: u16) {
        self.config.write16(bdf, COMMAND, value);
    }

    /// Writes a register of a function that a user-space driver owns: one of those that
    /// [`UserConfig`](super::UserConfig) passes on.
    ///
    /// # Errors
    /// [`MasterError`] if the value enables bus mastering and the stream is not the function's.
    pub fn write_for_user(
        &mut self,
        bdf: Bdf,
        offset: u16,
        width: Width,
        value: u32,
        live: StreamLive,
    ) -> Result<(), MasterError> {
        if offset <= COMMAND
            && COMMAND < offset + width as u16
            && value >> (8 * (COMMAND - offset)) & u32::from(MASTER) != 0
        {
            // Of the bridges upstream too.
            self.enable_bus_master(bdf, live)?;
        }
        self.config.write(bdf, offset, width, value);
        Ok(())
    }

    /// The function at `bdf`.
    pub fn function(&self, bdf: Bdf) -> Option<&Function> {
        self.functions.iter().find(|function| function.bdf == bdf)
    }

    /// The functions with this requester ID, which share a domain.
    pub fn group(&self, requester: u16) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(move |function| function.requester == requester)
    }

    /// The isolation groups of all functions.
    pub fn isolation_groups(&self) -> Vec<groups::IsolationGroup> {
        groups::groups(&self.config, &self.functions)
    }

    /// The function's IOMMU and its stream there; `None` without an IOMMU.
    pub fn stream(&self, function: &Function) -> Option<(Phandle, StreamId)> {
        let (iommu, stream) = self.description.iommu.lookup(function.requester)?;
        Some((iommu, StreamId::new(stream)))
    }

    /// The interrupt of the function's INTx pin.
    pub fn interrupt(&self, function: &Function) -> Option<GicInterrupt> {
        let (root, pin) = function.intx?;
        self.description.interrupts.lookup(root, pin)
    }

    /// Enables bus mastering, first of the bridges upstream, then of the function. All functions of its group
    /// must be allowed to use the stream.
    ///
    /// # Errors
    /// [`MasterError`].
    pub fn enable_bus_master(&mut self, bdf: Bdf, live: StreamLive) -> Result<(), MasterError> {
        let index = self.index(bdf)?;
        let own = self.functions[index].requester;
        if live.requester != own {
            return Err(MasterError::OtherStream { live: live.requester, own });
        }
        let parent = |&index: &usize| self.functions[index].parent;
        let path: Vec<_> = core::iter::successors(Some(index), parent).collect();
        for &index in path.iter().rev() {
            self.change_command(self.functions[index].bdf, MASTER, 0);
        }
        Ok(())
    }

    /// Disables bus mastering of the nearest bridge above a removed function that responds, and returns the
    /// bridge. From then on no request of the function reaches memory: the bridge rejects those that arrive
    /// (PCIe 5.0, 7.5.1.1.3), and its completion does not pass the requests that it forwarded before (2.4.1).
    /// A function that does not respond may still have requests on their way to the bridge.
    ///
    /// # Errors
    /// [`IsolateError`]; a bridge with a function that responds is not changed.
    pub fn isolate_removed(&mut self, bdf: Bdf) -> Result<Bdf, IsolateError> {
        let index = self.index(bdf).map_err(|_| IsolateError::NoSuchFunction(bdf))?;
        let above = |&index: &usize| self.functions[index].parent;
        let mut bridges = core::iter::successors(above(&index), above).filter_map(|index| {
            let Function { bdf, bridge, .. } = self.functions[index];
            bridge.map(|Bridge { secondary, subordinate, .. }| (bdf, secondary..=subordinate))
        });
        let nearest = bridges.find(|(bridge, _)| self.is_present(*bridge));
        let (bridge, buses) = nearest.ok_or(IsolateError::NoBridge(bdf))?;
        let mut behind = self.functions.iter().filter(|function| buses.contains(&function.bdf.bus()));
        if let Some(present) = behind.find(|function| self.is_present(function.bdf)) {
            return Err(IsolateError::Present { function: present.bdf, bridge });
        }
        self.change_command(bridge, 0, MASTER);
        // All ones if the bridge was removed meanwhile.
        match self.config.read16(bridge, COMMAND) {
            command if command & MASTER != 0 => Err(IsolateError::NotDisabled { bridge, command }),
            _ => Ok(bridge),
        }
    }

    fn is_present(&self, at: Bdf) -> bool {
        enumerate::is_present(&self.config, at)
    }

    /// The controller of the function's messages and its device ID there; `None` without a controller.
    pub fn message_controller(&self, function: &Function) -> Option<(Phandle, u32)> {
        self.description.msi.lookup(function.requester)
    }

    /// Whether the function can send messages.
    pub fn has_msi(&self, function: &Function) -> bool {
        msi::capability(&self.config, function.bdf).is_some()
    }

    /// Makes the function send `message` in place of INTx, as soon as it is a bus master.
    ///
    /// # Errors
    /// [`MsiCapabilityError`]; nothing is changed.
    pub fn enable_msi(&mut self, bdf: Bdf, message: Message) -> Result<(), MsiCapabilityError> {
        msi::enable(&mut self.config, bdf, message)?;
        self.change_command(bdf, INTX_OFF, 0);
        Ok(())
    }

    /// Disables the messages of the function's MSI capability.
    pub fn disable_msi(&mut self, bdf: Bdf) {
        msi::disable_all(&mut self.config, bdf);
    }

    /// Enables or disables the function's INTx.
    ///
    /// # Errors
    /// [`MasterError::NoSuchFunction`].
    pub fn enable_intx(&mut self, bdf: Bdf, enable: bool) -> Result<(), MasterError> {
        self.index(bdf)?;
        if enable {
            self.change_command(bdf, 0, INTX_OFF)
        } else {
            self.change_command(bdf, INTX_OFF, 0)
        }
        Ok(())
    }

    fn index(&self, bdf: Bdf) -> Result<usize, MasterError> {
        let found = self.functions.iter().position(|function| function.bdf == bdf);
        found.ok_or(MasterError::NoSuchFunction(bdf))
    }

    fn change_command(&mut self, bdf: Bdf, set: u16, clear: u16) {
        let command = self.config.read16(bdf, COMMAND);
        self.config.write16(bdf, COMMAND, command & !clear | set);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fake::{BUSES, FakeBus, FakeFunction};
    use super::super::{HostWindow, InterruptMap, InterruptRoute, PciSpace, RequesterMap, RequesterRange};
    use super::*;
    use crate::direct::BusWindow;
    use crate::gic::{IntId, Trigger};
    use addr::{AddrRange, PhysAddr};

    fn description() -> HostDescription {
        let route = |device: u16, pin| InterruptRoute {
            requester: device << 3,
            pin,
            interrupt: GicInterrupt {
                id: IntId::spi(3 + (u32::from(device) + u32::from(pin) - 1) % 4),
                trigger: Trigger::Level,
            },
        };
        HostDescription {
            ecam: AddrRange::new(PhysAddr::new(0), PhysAddr::new(256 << 20)),
            buses: BUSES,
            domain: 0,
            windows: vec![HostWindow {
                space: PciSpace::Memory32,
                prefetchable: false,
                bus: 0x1000_0000,
                cpu: PhysAddr::new(0x1000_0000),
                len: 2 << 20,
            }],
            interrupts: InterruptMap {
                requester_mask: 0x18,
                pin_mask: 7,
                routes: (0..4).flat_map(|device| (1..=4).map(move |pin| route(device, pin))).collect(),
            },
            iommu: RequesterMap {
                mask: u16::MAX,
                ranges: vec![RequesterRange { first: 0, len: 0x200, controller: Phandle(5), base: 0x1000 }],
            },
            msi: RequesterMap::default(),
            dma: vec![BusWindow::identity()],
            reserved_iovas: vec![],
            coherent: true,
        }
    }

    /// A host bridge with these functions.
    pub fn host_of(functions: impl IntoIterator<Item = FakeFunction>) -> Host<FakeBus> {
        Host::enumerate(FakeBus::new(functions), description())
    }

    /// 00:00.0 a device, 00:01.0 a legacy bridge with 01:00.0 and 01:01.0.
    fn host() -> Host<FakeBus> {
        let device = |id, size| FakeFunction::endpoint(0x1234, id).bar(0, 0, size).pin(1);
        let behind = FakeFunction::bridge([device(2, 4096), device(3, 1 << 30)]);
        Host::enumerate(FakeBus::new([device(0x11e8, 1 << 20), behind]), description())
    }

    fn command(host: &mut Host<FakeBus>, bus: u8, device: u8) -> u16 {
        host.config().read16(Bdf::new(bus, device, 0), COMMAND)
    }

    #[test]
    fn enumeration_enables_only_memory_decoding() {
        let mut host = host();
        assert_eq!(host.problems(), [Problem::NoRoom { at: Bdf::new(0, 1, 0), size: (1 << 30) + (1 << 20) }]);
        assert_eq!(command(&mut host, 0, 0), INTX_OFF | MEMORY);
        assert_eq!((command(&mut host, 1, 0), command(&mut host, 1, 1)), (INTX_OFF, INTX_OFF));
    }

    fn live(requester: u16) -> StreamLive {
        // SAFETY: the functions of a `FakeBus` access no memory.
        unsafe { StreamLive::promise(requester) }
    }

    #[test]
    fn bus_mastering_requires_the_functions_own_stream() {
        let mut host = host();
        let (edu, behind) = (Bdf::new(0, 0, 0), Bdf::new(1, 1, 0));
        let own = Bdf::new(0, 1, 0).requester();
        assert_eq!(
            host.enable_bus_master(behind, live(behind.requester())),
            Err(MasterError::OtherStream { live: behind.requester(), own })
        );
        assert_eq!(command(&mut host, 1, 1) & MASTER, 0);
        host.enable_bus_master(behind, live(own)).unwrap();
        assert_eq!((command(&mut host, 1, 1) & MASTER, command(&mut host, 0, 1) & MASTER), (MASTER, MASTER));
        assert_eq!((command(&mut host, 0, 0) & MASTER, command(&mut host, 1, 0) & MASTER), (0, 0));
        host.enable_bus_master(edu, live(0)).unwrap();
        assert_eq!(command(&mut host, 0, 0), INTX_OFF | MEMORY | MASTER);
        let absent = Bdf::new(9, 0, 0);
        assert_eq!(host.enable_bus_master(absent, live(0)), Err(MasterError::NoSuchFunction(absent)));
    }

    /// 00:00.0 a device, and 00:01.0 a root port with a switch: 02:00.0 a port with the two functions of a
    /// device, 02:01.0 one with another device.
    fn host_with_switch() -> (Host<FakeBus>, [Bdf; 3]) {
        let device = |id| FakeFunction::endpoint(0x1234, id);
        let ports = [
            FakeFunction::express(6, [device(2).beside([device(3)])]),
            FakeFunction::express(6, [device(4)]),
        ];
        let root_port = FakeFunction::express(4, [FakeFunction::express(5, ports)]);
        let mut host = Host::enumerate(FakeBus::new([device(1), root_port]), description());
        let devices = [Bdf::new(3, 0, 0), Bdf::new(3, 0, 1), Bdf::new(4, 0, 0)];
        for at in devices {
            host.enable_bus_master(at, live(at.requester())).unwrap();
        }
        (host, devices)
    }

    #[test]
    fn removed_function_is_isolated_by_the_nearest_bridge_that_responds() {
        let (mut host, [first, second, other]) = host_with_switch();
        let (root, switch) = (Bdf::new(0, 1, 0), Bdf::new(1, 0, 0));
        let (port, other_port) = (Bdf::new(2, 0, 0), Bdf::new(2, 1, 0));
        let is_master = |host: &mut Host<FakeBus>, at| host.config().read16(at, COMMAND) & MASTER != 0;
        let present = |function| Err(IsolateError::Present { function, bridge: port });
        assert_eq!(host.isolate_removed(first), present(first), "not removed");
        host.config.remove(first);
        assert_eq!(host.isolate_removed(first), present(second), "the other function is in use");
        assert!(is_master(&mut host, port));
        host.config.remove(second);
        assert_eq!(host.isolate_removed(first), Ok(port));
        assert!(!is_master(&mut host, port));
        assert!([switch, root, other_port, other].into_iter().all(|at| is_master(&mut host, at)));
        host.config.remove(switch);
        assert_eq!(host.isolate_removed(other), Ok(root), "with all of the switch");
        assert!(!is_master(&mut host, root));
        host.config.remove(root);
        assert_eq!(host.isolate_removed(other), Err(IsolateError::NoBridge(other)));
    }

    #[test]
    fn removed_function_on_the_root_bus_is_not_isolated() {
        let (mut host, _) = host_with_switch();
        let device = Bdf::new(0, 0, 0);
        host.config.remove(device);
        assert_eq!(host.isolate_removed(device), Err(IsolateError::NoBridge(device)));
        let absent = Bdf::new(0, 9, 0);
        assert_eq!(host.isolate_removed(absent), Err(IsolateError::NoSuchFunction(absent)));
    }

    #[test]
    fn bridge_whose_bus_mastering_cannot_be_disabled_isolates_no_function() {
        let mut port = FakeFunction::express(4, [FakeFunction::endpoint(0x1234, 2)]).read_only8(COMMAND);
        port.set8(COMMAND, MASTER as u8);
        let mut host = Host::enumerate(FakeBus::new([port]), description());
        let (bridge, device) = (Bdf::new(0, 0, 0), Bdf::new(1, 0, 0));
        host.config.remove(device);
        let error = IsolateError::NotDisabled { bridge, command: MASTER | INTX_OFF };
        assert_eq!(host.isolate_removed(device), Err(error));
    }

    #[test]
    fn intx_is_disabled_until_enabled() {
        let mut host = host();
        host.enable_intx(Bdf::new(0, 0, 0), true).unwrap();
        assert_eq!(command(&mut host, 0, 0) & INTX_OFF, 0);
        host.enable_intx(Bdf::new(0, 0, 0), false).unwrap();
        assert_eq!(command(&mut host, 0, 0) & INTX_OFF, INTX_OFF);
    }

    #[test]
    fn streams_interrupts_and_groups_follow_the_topology() {
        let host = host();
        let function = |bus, device| host.function(Bdf::new(bus, device, 0)).unwrap();
        assert_eq!(host.stream(function(0, 0)), Some((Phandle(5), StreamId::new(0x1000))));
        assert_eq!(host.stream(function(1, 0)), Some((Phandle(5), StreamId::new(0x1008))));
        let spi = |number| Some(GicInterrupt { id: IntId::spi(number), trigger: Trigger::Level });
        assert_eq!((host.interrupt(function(0, 0)), host.interrupt(function(1, 0))), (spi(3), spi(4)));
        assert_eq!(host.interrupt(function(1, 1)), spi(5), "INTA of device 1 is INTB at the bridge");
        assert_eq!(host.interrupt(function(0, 1)), None);
        let group: Vec<_> =
            host.group(Bdf::new(0, 1, 0).requester()).map(|function| function.device).collect();
        assert_eq!(group, [1, 2, 3]);
    }
}
