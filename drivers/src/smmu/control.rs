//! Enables of the SMMU (IHI 0070, 6.3.9 and 6.3.15): each is written, then polled for in its ACK register.

use super::clock::Clock;
use super::registers::{ControlRegisters, bits};
use crate::poll::TimedOut;
use core::fmt;
use tock_registers::interfaces::{Readable, Writeable};

/// A register did not take the expected value in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterTimeout {
    /// The register's name.
    pub register: &'static str,
    /// The last value read.
    pub value: u32,
    /// The expected value.
    pub expected: u32,
}

impl fmt::Display for RegisterTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stays {:#x}, not {:#x}", self.register, self.value, self.expected)
    }
}

/// Treatment of transactions by an SMMU as firmware left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirmwareState {
    /// All transactions bypassed translation.
    Bypassed,
    /// Transactions were translated by tables of an earlier boot stage.
    Translated,
    /// All transactions were aborted.
    Aborted,
}

/// CR0, GBPA and IRQ_CTRL.
pub(super) struct Control<'a> {
    pub registers: &'a ControlRegisters,
    pub clock: Clock,
}

impl Control<'_> {
    pub fn firmware_state(&self) -> FirmwareState {
        if self.registers.cr0.get() & bits::CR0_SMMUEN != 0 {
            FirmwareState::Translated
        } else if self.registers.gbpa.get() & bits::GBPA_ABORT != 0 {
            FirmwareState::Aborted
        } else {
            FirmwareState::Bypassed
        }
    }

    /// Sets GBPA.ABORT: transactions abort while SMMUEN is 0. A write to GBPA needs UPDATE set; the SMMU
    /// clears UPDATE when the value has taken effect (IHI 0070, 6.3.15).
    pub fn abort_while_disabled(&self) -> Result<(), RegisterTimeout> {
        self.wait("GBPA", &self.registers.gbpa, bits::GBPA_UPDATE, 0)?;
        let gbpa = self.registers.gbpa.get();
        self.registers.gbpa.set(gbpa | bits::GBPA_ABORT | bits::GBPA_UPDATE);
        self.wait("GBPA", &self.registers.gbpa, bits::GBPA_UPDATE | bits::GBPA_ABORT, bits::GBPA_ABORT)
    }

    /// Disables translation, both queues and all interrupts.
    pub fn disable(&self) -> Result<(), RegisterTimeout> {
        self.set_interrupts(0)?;
        self.set_enables(0)
    }

    /// Starts to disable translation and both queues, without waiting for the SMMU. GBPA.ABORT must be set:
    /// transactions abort.
    pub fn request_disable(&self) {
        self.registers.cr0.set(0);
    }

    /// Enables or disables the command queue; the other enables keep their values. A disabled queue consumes
    /// nothing.
    pub fn set_command_queue(&self, enabled: bool) -> Result<(), RegisterTimeout> {
        let others = self.registers.cr0.get() & !bits::CR0_CMDQEN;
        self.set_enables(if enabled { others | bits::CR0_CMDQEN } else { others })
    }

    /// Writes CR0.
    pub fn set_enables(&self, enables: u32) -> Result<(), RegisterTimeout> {
        // Tables and queues must be in memory before the SMMU reads them.
        arch::barrier::dsb_sy();
        self.registers.cr0.set(enables);
        self.wait("CR0ACK", &self.registers.cr0ack, ALL, enables)
    }

    /// Writes IRQ_CTRL.
    pub fn set_interrupts(&self, enables: u32) -> Result<(), RegisterTimeout> {
        self.registers.irq_ctrl.set(enables);
        self.wait("IRQ_CTRLACK", &self.registers.irq_ctrl_ack, ALL, enables)
    }

    fn wait(
        &self,
        register: &'static str,
        at: &impl Readable<T = u32>,
        mask: u32,
        expected: u32,
    ) -> Result<(), RegisterTimeout> {
        let poll = || (at.get() & mask == expected).then_some(());
        self.clock.wait(poll).map_err(|TimedOut| RegisterTimeout { register, value: at.get(), expected })
    }
}

/// All bits of an ACK register.
const ALL: u32 = u32::MAX;
