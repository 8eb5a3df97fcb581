//! Whatever interrupt controller the machine has, behind one set of types: a GIC ([`crate::gic`]) or a Raspberry Pi 3's
//! own ([`crate::bcm2836`]).
//!
//! [`Controller`] is what all CPUs share, so the kernel keeps it under a lock; [`CpuInterface`] needs none: it may be
//! called from any CPU, and acts on that CPU. Order: open the controller, then [`Controller::init_cpu`] on every CPU,
//! by itself and the boot CPU first, then [`Controller::enable`].

use crate::{bcm2836, gic};
use core::fmt;

/// An interrupt of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// One of a GIC.
    Gic(gic::Interrupt),
    /// One of a Raspberry Pi 3's controllers.
    Bcm2836(bcm2836::InterruptSource),
}

impl From<gic::Interrupt> for Interrupt {
    fn from(interrupt: gic::Interrupt) -> Self {
        Self::Gic(interrupt)
    }
}

/// What a controller cannot do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptError {
    /// A GIC refuses.
    Gic(gic::GicError),
    /// A Raspberry Pi 3's controllers refuse.
    Bcm2836(bcm2836::Bcm2836Error),
    /// The interrupt, or the CPU, is another kind of controller's.
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

/// A CPU, as the controller addresses it: made by [`Controller::init_cpu`] on that CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptTarget {
    /// At a GIC.
    Gic(gic::CpuTarget),
    /// On a Raspberry Pi 3.
    Bcm2836(bcm2836::Core),
}

/// Who gets a software interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiTarget {
    /// This CPU.
    One(InterruptTarget),
    /// Every CPU but the one that sends it.
    Others,
}

/// The shared part of the machine's interrupt controller.
pub enum Controller {
    /// A GIC.
    Gic(gic::Gic),
    /// A Raspberry Pi 3's.
    Bcm2836(bcm2836::Controller),
}

impl Controller {
    /// Readies the CPU that calls this, whose affinity (MPIDR_EL1) this is: its private interrupts are disabled, and
    /// software interrupts reach it.
    ///
    /// # Errors
    /// When the controller does not know this CPU.
    pub fn init_cpu(&mut self, affinity: u64) -> Result<InterruptTarget, InterruptError> {
        Ok(match self {
            Self::Gic(gic) => InterruptTarget::Gic(gic.init_cpu(affinity)?),
            Self::Bcm2836(controller) => InterruptTarget::Bcm2836(controller.init_cpu(affinity)?),
        })
    }

    /// Lets `interrupt` through, to `cpu` if it can be directed. A private one is set up for `cpu`, which must be the
    /// caller.
    ///
    /// # Errors
    /// When the controller has no such interrupt.
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

/// What has arrived at a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceivedInterrupt {
    /// The software interrupt of this number.
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

/// An interrupt that has been taken, to be ended once it has been handled.
#[must_use = "an interrupt that is not ended may block all others"]
pub struct Pending(Taken);

enum Taken {
    Gic(gic::Pending),
    Bcm2836(bcm2836::Pending),
}

impl Pending {
    /// What it is.
    pub fn arrived(&self) -> ReceivedInterrupt {
        match &self.0 {
            Taken::Gic(pending) => match u32::from(pending.id()) {
                number @ 0..16 => ReceivedInterrupt::Software(number),
                _ => ReceivedInterrupt::Gic(pending.id()),
            },
            Taken::Bcm2836(bcm2836::Pending::Software(number)) => ReceivedInterrupt::Software(*number),
            Taken::Bcm2836(bcm2836::Pending::Device(source)) => ReceivedInterrupt::Bcm2836(*source),
        }
    }
}

/// The part of the interrupt controller that each CPU has of its own.
pub enum CpuInterface {
    /// A GIC's.
    Gic(gic::CpuInterface),
    /// A Raspberry Pi 3's.
    Bcm2836(bcm2836::Interface),
}

impl CpuInterface {
    /// Takes an interrupt that waits for this CPU; `None` when there is none. What the handler reads is read after
    /// this.
    pub fn acknowledge(&self) -> Option<Pending> {
        match self {
            Self::Gic(interface) => interface.acknowledge().map(Taken::Gic),
            Self::Bcm2836(interface) => interface.acknowledge().map(Taken::Bcm2836),
        }
        .map(Pending)
    }

    /// Ends a handled interrupt; the device has seen all that the handler wrote.
    pub fn end(&self, pending: Pending) {
        match (self, pending.0) {
            (Self::Gic(interface), Taken::Gic(pending)) => interface.end(pending),
            // A level that has fallen is gone; nothing is to be told.
            _ => arch::barrier::dsb_sy(),
        }
    }

    /// Sends software interrupt `number`, below 16. Memory written before is seen by the handlers.
    ///
    /// # Errors
    /// When the CPU cannot be addressed.
    pub fn send(&self, number: u32, to: IpiTarget) -> Result<(), InterruptError> {
        match (self, to) {
            (Self::Gic(interface), IpiTarget::Others) => Ok(interface.send_sgi(number, gic::SgiTo::Others)?),
            (Self::Gic(interface), IpiTarget::One(InterruptTarget::Gic(cpu))) => {
                Ok(interface.send_sgi(number, gic::SgiTo::One(cpu))?)
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
    fn an_interrupt_of_another_controller_is_refused() {
        let (controller, interface) =
            bcm2836::open(FakeRegisters::new(0x100).window(), FakeRegisters::new(0x200).window()).unwrap();
        let (mut controller, interface) = (Controller::Bcm2836(controller), CpuInterface::Bcm2836(interface));
        let core = controller.init_cpu(0).unwrap();
        let foreign = gic::Interrupt { id: IntId::spi(1), trigger: Trigger::Level };
        assert_eq!(controller.enable(foreign.into(), core), Err(InterruptError::Foreign));
        assert_eq!(interface.send(0, IpiTarget::One(core)), Ok(()));
        assert!(!ReceivedInterrupt::Software(1).is(foreign.into()));
    }
}
