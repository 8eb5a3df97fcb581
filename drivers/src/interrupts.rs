//! The machine's interrupt controller behind one set of types: a GIC ([`crate::gic`]) or that of a Raspberry
//! Pi 3 ([`crate::bcm2836`]).
//!
//! [`Controller`] is shared by all CPUs, under a lock of the kernel; [`CpuInterface`] needs no lock: it is
//! callable from any CPU and acts on that CPU. Order: open the controller, then [`Controller::init_cpu`] on
//! every CPU for itself, the boot CPU first, then [`Controller::enable`].

use crate::{bcm2836, gic};
use core::fmt;

/// An interrupt of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// An interrupt of a GIC.
    Gic(gic::GicInterrupt),
    /// An interrupt of a Raspberry Pi 3's controllers.
    Bcm2836(bcm2836::InterruptSource),
}

impl From<gic::GicInterrupt> for Interrupt {
    fn from(interrupt: gic::GicInterrupt) -> Self {
        Self::Gic(interrupt)
    }
}

/// The controller refused a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptError {
    /// Error of a GIC.
    Gic(gic::GicError),
    /// Error of a Raspberry Pi 3's controllers.
    Bcm2836(bcm2836::Bcm2836Error),
    /// The interrupt or the CPU belongs to another type of controller.
    Foreign,
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gic(error) => error.fmt(f),
            Self::Bcm2836(error) => error.fmt(f),
            Self::Foreign => write!(f, "the interrupt belongs to another controller"),
        }
    }
}

impl core::error::Error for InterruptError {}

impl From<gic::GicError> for InterruptError {
    fn from(error: gic::GicError) -> Self {
        Self::Gic(error)
    }
}

impl From<bcm2836::Bcm2836Error> for InterruptError {
    fn from(error: bcm2836::Bcm2836Error) -> Self {
        Self::Bcm2836(error)
    }
}

/// A CPU as an interrupt target, created by [`Controller::init_cpu`] on that CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptTarget {
    /// A GIC's.
    Gic(gic::CpuTarget),
    /// A Raspberry Pi 3's.
    Bcm2836(bcm2836::Core),
}

/// Destination of an inter-processor interrupt (IPI).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiTarget {
    /// One CPU.
    One(InterruptTarget),
    /// Every CPU except the sender.
    Others,
}

/// The shared part of the machine's interrupt controller.
pub enum Controller {
    /// A GIC.
    Gic(gic::Gic),
    /// A Raspberry Pi 3's.
    Bcm2836(bcm2836::Bcm2836),
}

impl Controller {
    /// Initializes the calling CPU, whose affinity (MPIDR_EL1) is `affinity`: disables its private interrupts
    /// and enables IPIs.
    ///
    /// # Errors
    /// The controller does not know this CPU.
    pub fn init_cpu(&mut self, affinity: u64) -> Result<InterruptTarget, InterruptError> {
        Ok(match self {
            Self::Gic(gic) => InterruptTarget::Gic(gic.init_cpu(affinity)?),
            Self::Bcm2836(controller) => InterruptTarget::Bcm2836(controller.init_cpu(affinity)?),
        })
    }

    /// Enables `interrupt`, with target `cpu` if the controller supports targets. For a private interrupt
    /// `cpu` must be the caller.
    ///
    /// # Errors
    /// The controller has no such interrupt.
    pub fn enable(&mut self, interrupt: Interrupt, cpu: InterruptTarget) -> Result<(), InterruptError> {
        match (self, interrupt, cpu) {
            (Self::Gic(gic), Interrupt::Gic(interrupt), InterruptTarget::Gic(cpu)) => {
                gic.configure(interrupt, gic::DEFAULT_PRIORITY, cpu)?;
                Ok(gic.enable(interrupt.id, cpu)?)
            }
            (Self::Bcm2836(controller), Interrupt::Bcm2836(source), InterruptTarget::Bcm2836(core)) => {
                Ok(controller.enable(source, core)?)
            }
            _ => Err(InterruptError::Foreign),
        }
    }
}

impl Controller {
    /// The GIC with a CPU of it, if the controller is one.
    ///
    /// # Errors
    /// [`InterruptError::Foreign`].
    pub fn gic(&mut self, cpu: InterruptTarget) -> Result<(&mut gic::Gic, gic::CpuTarget), InterruptError> {
        match (self, cpu) {
            (Self::Gic(gic), InterruptTarget::Gic(cpu)) => Ok((gic, cpu)),
            _ => Err(InterruptError::Foreign),
        }
    }
}

/// An interrupt received by a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceivedInterrupt {
    /// The IPI with this number.
    Software(u32),
    /// A GIC's interrupt.
    Gic(gic::IntId),
    /// A Raspberry Pi 3's.
    Bcm2836(bcm2836::InterruptSource),
}

impl ReceivedInterrupt {
    /// Whether it is `interrupt`.
    pub fn is(self, interrupt: Interrupt) -> bool {
        match (self, interrupt) {
            (Self::Gic(id), Interrupt::Gic(other)) => id == other.id,
            (Self::Bcm2836(source), Interrupt::Bcm2836(other)) => source == other,
            _ => false,
        }
    }
}

/// An acknowledged interrupt, to be ended after it was handled.
#[must_use = "an interrupt that is not ended may block all others"]
pub struct Pending(PendingSource);

enum PendingSource {
    Gic(gic::GicPending),
    Bcm2836(bcm2836::Bcm2836Pending),
}

impl Pending {
    /// The received interrupt.
    pub fn received(&self) -> ReceivedInterrupt {
        match &self.0 {
            PendingSource::Gic(pending) => match u32::from(pending.id()) {
                number @ 0..16 => ReceivedInterrupt::Software(number),
                _ => ReceivedInterrupt::Gic(pending.id()),
            },
            PendingSource::Bcm2836(bcm2836::Bcm2836Pending::Software(number)) => {
                ReceivedInterrupt::Software(*number)
            }
            PendingSource::Bcm2836(bcm2836::Bcm2836Pending::Device(source)) => {
                ReceivedInterrupt::Bcm2836(*source)
            }
        }
    }
}

/// The per-CPU part of the interrupt controller.
pub enum CpuInterface {
    /// A GIC's.
    Gic(gic::GicInterface),
    /// A Raspberry Pi 3's.
    Bcm2836(bcm2836::Bcm2836Interface),
}

impl CpuInterface {
    /// Acknowledges a pending interrupt of this CPU, if any. Later reads are not performed before the
    /// acknowledgement.
    pub fn acknowledge(&self) -> Option<Pending> {
        match self {
            Self::Gic(interface) => interface.acknowledge().map(PendingSource::Gic),
            Self::Bcm2836(interface) => interface.acknowledge().map(PendingSource::Bcm2836),
        }
        .map(Pending)
    }

    /// Ends a handled interrupt, after all stores of the handler have reached the device.
    pub fn end(&self, pending: Pending) {
        match (self, pending.0) {
            (Self::Gic(interface), PendingSource::Gic(pending)) => interface.end(pending),
            // A deasserted level-triggered interrupt needs no end of interrupt.
            _ => arch::barrier::dsb_sy(),
        }
    }

    /// Sends IPI `number`, below 16. The handlers observe all earlier stores.
    ///
    /// # Errors
    /// The CPU cannot be addressed.
    pub fn send(&self, number: u32, to: IpiTarget) -> Result<(), InterruptError> {
        match (self, to) {
            (Self::Gic(interface), IpiTarget::Others) => {
                Ok(interface.send_sgi(number, gic::SgiDestination::Others)?)
            }
            (Self::Gic(interface), IpiTarget::One(InterruptTarget::Gic(cpu))) => {
                Ok(interface.send_sgi(number, gic::SgiDestination::One(cpu))?)
            }
            (Self::Bcm2836(interface), IpiTarget::Others) => {
                interface.send_to_others(number);
                Ok(())
            }
            (Self::Bcm2836(interface), IpiTarget::One(InterruptTarget::Bcm2836(core))) => {
                interface.send(number, core);
                Ok(())
            }
            _ => Err(InterruptError::Foreign),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use gic::{IntId, Trigger};

    #[test]
    fn interrupt_of_another_controller_is_refused() {
        let (controller, interface) =
            bcm2836::open(FakeRegisters::new(0x100).window(), FakeRegisters::new(0x200).window()).unwrap();
        let (mut controller, interface) = (Controller::Bcm2836(controller), CpuInterface::Bcm2836(interface));
        let core = controller.init_cpu(0).unwrap();
        let foreign = gic::GicInterrupt { id: IntId::spi(1), trigger: Trigger::Level };
        assert_eq!(controller.enable(foreign.into(), core), Err(InterruptError::Foreign));
        assert_eq!(interface.send(0, IpiTarget::One(core)), Ok(()));
        assert!(!ReceivedInterrupt::Software(1).is(foreign.into()));
    }
}
