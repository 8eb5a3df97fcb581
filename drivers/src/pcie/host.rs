//! A host bridge at work: its functions, and what each may do.

use super::function::{COMMAND, INTX_OFF, MASTER, MEMORY};
use super::{Bdf, ConfigSpace, Ecam, Function, HostDescription, Phandle, assign, enumerate};
use crate::gic::Interrupt;
use addr::StreamId;
use alloc::vec::Vec;
use core::fmt;

/// What was left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The buses behind this bridge got no number: there are too many.
    NoBusNumber(Bdf),
    /// The buses behind this bridge were not searched: too many bridges are above it.
    TooDeep(Bdf),
    /// This function's header has a type that nobody uses any more.
    UnknownHeader {
        /// The function.
        at: Bdf,
        /// The type.
        header: u8,
    },
    /// The address bits of this BAR make no size.
    BadBar {
        /// The function.
        at: Bdf,
        /// The BAR's number.
        bar: u8,
        /// Its writable address bits.
        writable: u64,
    },
    /// No window has room for this function's BAR, or for all that is behind this bridge.
    NoRoom {
        /// The function.
        at: Bdf,
        /// The bytes it wants.
        size: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBusNumber(at) => write!(f, "{at}: no bus number left for what is behind it"),
            Self::TooDeep(at) => write!(f, "{at}: behind too many bridges"),
            Self::UnknownHeader { at, header } => write!(f, "{at}: unknown header type {header:#x}"),
            Self::BadBar { at, bar, writable } => {
                write!(f, "{at}: BAR {bar} has the address bits {writable:#x}")
            }
            Self::NoRoom { at, size } => write!(f, "{at}: no window has {size:#x} bytes left"),
        }
    }
}

/// The word of whoever attached a stream that its IOMMU now translates (or that it has none, and its devices may reach
/// all memory): what [`Host::enable_bus_master`] asks for. Dropping it means nothing; the promise is that the stream
/// stays so until [`Host::disable_bus_master`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLive {
    requester: u16,
}

impl StreamLive {
    /// The stream of this requester id is live.
    pub fn promise(requester: u16) -> Self {
        Self { requester }
    }
}

/// Why a function does not become a bus master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MasterError {
    /// There is no such function.
    NoSuchFunction(Bdf),
    /// Another stream is live, not the function's.
    OtherStream {
        /// The requester id of the live stream.
        live: u16,
        /// The function's.
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

/// A host bridge whose functions have been found.
pub struct Host<C = Ecam> {
    config: C,
    description: HostDescription,
    functions: Vec<Function>,
    problems: Vec<Problem>,
    masters: Vec<Bdf>,
}

impl<C: ConfigSpace> Host<C> {
    /// Finds all functions, assigns their BARs, and lets those decode memory that have all their addresses. None
    /// masters the bus or interrupts.
    pub fn enumerate(mut config: C, description: HostDescription) -> Self {
        let mut found = enumerate::enumerate(&mut config, description.buses.clone());
        assign::assign(&mut config, &mut found.functions, &description.windows, &mut found.problems);
        for function in found.functions.iter().filter(|function| function.is_assigned()) {
            config.write16(function.bdf, COMMAND, INTX_OFF | MEMORY);
        }
        let enumerate::Found { functions, problems, masters } = found;
        Self { config, description, functions, problems, masters }
    }

    /// The functions that mastered the bus before they were found, at the numbers that they had then. They do not any
    /// more; a transfer that they were at has failed for them.
    pub fn masters(&self) -> &[Bdf] {
        &self.masters
    }

    /// The functions, bridges before what is behind them.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// What was left out.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What the device tree says of the host.
    pub fn description(&self) -> &HostDescription {
        &self.description
    }

    /// Configuration space, for what a device's driver needs there.
    pub fn config(&mut self) -> &mut C {
        &mut self.config
    }

    /// The function at `bdf`.
    pub fn function(&self, bdf: Bdf) -> Option<&Function> {
        self.functions.iter().find(|function| function.bdf == bdf)
    }

    /// The functions that send this requester id: one domain holds them all.
    pub fn group(&self, requester: u16) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(move |function| function.requester == requester)
    }

    /// The IOMMU that translates for the function, and its stream there; `None` when none does.
    pub fn stream(&self, function: &Function) -> Option<(Phandle, StreamId)> {
        let (iommu, stream) = self.description.iommu.lookup(function.requester)?;
        Some((iommu, StreamId::new(stream)))
    }

    /// The interrupt that the function's pin raises.
    pub fn interrupt(&self, function: &Function) -> Option<Interrupt> {
        let (root, pin) = function.intx?;
        self.description.interrupts.lookup(root, pin)
    }

    /// Lets the function master the bus: bridges above it first, then itself. Enable one function of a group only
    /// when all of its functions may use the stream.
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

    /// Stops the function from mastering the bus. What it has sent may still be on its way until a read from the
    /// device has returned, which this does.
    pub fn disable_bus_master(&mut self, bdf: Bdf) -> Result<(), MasterError> {
        self.index(bdf)?;
        self.change_command(bdf, 0, MASTER);
        self.config.read16(bdf, COMMAND);
        Ok(())
    }

    /// Whether the function may interrupt by its pin.
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
mod tests {
    use super::super::fake::{BUSES, FakeBus, FakeFunction};
    use super::super::{HostWindow, InterruptMap, InterruptRoute, PciSpace, RequesterMap, RequesterRange};
    use super::*;
    use crate::gic::{IntId, Trigger};
    use addr::{AddrRange, PhysAddr};

    fn description() -> HostDescription {
        let route = |device: u16, pin| InterruptRoute {
            requester: device << 3,
            pin,
            interrupt: Interrupt {
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
            dma: vec![],
            coherent: true,
        }
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
    fn functions_decode_when_they_have_their_addresses_and_do_nothing_else() {
        let mut host = host();
        assert_eq!(host.problems(), [Problem::NoRoom { at: Bdf::new(0, 1, 0), size: (1 << 30) + (1 << 20) }]);
        assert_eq!(command(&mut host, 0, 0), INTX_OFF | MEMORY);
        assert_eq!((command(&mut host, 1, 0), command(&mut host, 1, 1)), (INTX_OFF, INTX_OFF));
    }

    #[test]
    fn mastering_needs_the_functions_own_stream() {
        let mut host = host();
        let (edu, behind) = (Bdf::new(0, 0, 0), Bdf::new(1, 1, 0));
        let own = Bdf::new(0, 1, 0).requester();
        assert_eq!(
            host.enable_bus_master(behind, StreamLive::promise(behind.requester())),
            Err(MasterError::OtherStream { live: behind.requester(), own })
        );
        assert_eq!(command(&mut host, 1, 1) & MASTER, 0);
        host.enable_bus_master(behind, StreamLive::promise(own)).unwrap();
        assert_eq!((command(&mut host, 1, 1) & MASTER, command(&mut host, 0, 1) & MASTER), (MASTER, MASTER));
        assert_eq!((command(&mut host, 0, 0) & MASTER, command(&mut host, 1, 0) & MASTER), (0, 0));
        host.disable_bus_master(behind).unwrap();
        assert_eq!(command(&mut host, 1, 1) & MASTER, 0);
        host.enable_bus_master(edu, StreamLive::promise(0)).unwrap();
        assert_eq!(command(&mut host, 0, 0), INTX_OFF | MEMORY | MASTER);
        let nobody = Bdf::new(9, 0, 0);
        assert_eq!(
            host.enable_bus_master(nobody, StreamLive::promise(0)),
            Err(MasterError::NoSuchFunction(nobody))
        );
    }

    #[test]
    fn pins_are_quiet_until_asked() {
        let mut host = host();
        host.enable_intx(Bdf::new(0, 0, 0), true).unwrap();
        assert_eq!(command(&mut host, 0, 0) & INTX_OFF, 0);
        host.enable_intx(Bdf::new(0, 0, 0), false).unwrap();
        assert_eq!(command(&mut host, 0, 0) & INTX_OFF, INTX_OFF);
    }

    #[test]
    fn streams_interrupts_and_groups_follow_the_tree() {
        let host = host();
        let function = |bus, device| host.function(Bdf::new(bus, device, 0)).unwrap();
        assert_eq!(host.stream(function(0, 0)), Some((Phandle(5), StreamId::new(0x1000))));
        assert_eq!(host.stream(function(1, 0)), Some((Phandle(5), StreamId::new(0x1008))));
        let spi = |number| Some(Interrupt { id: IntId::spi(number), trigger: Trigger::Level });
        assert_eq!((host.interrupt(function(0, 0)), host.interrupt(function(1, 0))), (spi(3), spi(4)));
        assert_eq!(host.interrupt(function(1, 1)), spi(5), "INTA of device 1 is INTB at the bridge");
        assert_eq!(host.interrupt(function(0, 1)), None);
        let group: Vec<_> =
            host.group(Bdf::new(0, 1, 0).requester()).map(|function| function.device).collect();
        assert_eq!(group, [1, 2, 3]);
    }
}
