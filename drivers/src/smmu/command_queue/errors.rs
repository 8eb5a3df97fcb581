//! Errors and counters of the command queue.

use core::fmt;
use smmu_spec::Cursor;
use smmu_spec::field::{extract, flag};

/// The completion of a batch was not observed. All of its commands count as not executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// The SMMU did not consume the batch in time.
    TimedOut {
        /// CMDQ_PROD.
        produced: Cursor,
        /// CMDQ_CONS.
        consumed: Cursor,
        /// The opcode of the command at CONS (IHI 0070, 4.1.1).
        opcode: u8,
    },
    /// The SMMU rejected a command (CERROR_ILL). The command was replaced, and the queue continues.
    Illegal {
        /// The words of the command.
        words: [u64; 2],
    },
    /// The SMMU could not read the queue (CERROR_ABT) or stopped for another reason, even after the queue was
    /// reinitialized.
    Stopped {
        /// CMDQ_CONS.ERR.
        code: u8,
    },
    /// The SMMU is in service failure mode (GERROR.SFM_ERR): it executes no commands and aborts all
    /// transactions until it is reset.
    ServiceFailure,
    /// CMDQ_CONS is not between its previous value and CMDQ_PROD.
    InvalidConsumer {
        /// The value read.
        consumed: u32,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { produced, consumed, opcode } => {
                let (prod, cons) = (produced.raw(), consumed.raw());
                write!(f, "timed out at opcode {opcode:#x}: PROD={prod:#x} CONS={cons:#x}")
            }
            Self::Illegal { words: [word0, word1] } => write!(f, "illegal command {word0:#x} {word1:#x}"),
            Self::Stopped { code } => write!(f, "stopped with CERROR {code:#x}"),
            Self::ServiceFailure => f.write_str("service failure mode"),
            Self::InvalidConsumer { consumed } => write!(f, "CONS={consumed:#x} is outside of the queue"),
        }
    }
}

/// The queue stopped without an illegal command; the value is CMDQ_CONS.ERR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stopped(pub u8);

/// Why the queue was not restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotRestarted {
    /// The SMMU cannot read the queue.
    Unreadable(Stopped),
    /// The SMMU is in service failure mode.
    ServiceFailure,
}

impl From<Stopped> for NotRestarted {
    fn from(stopped: Stopped) -> Self {
        Self::Unreadable(stopped)
    }
}

/// Totals of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CommandCounters {
    /// Commands, CMD_SYNCs included.
    pub commands: u64,
    /// CMD_SYNCs.
    pub syncs: u64,
    /// Register writes.
    pub register_writes: u64,
    /// Commands that the SMMU rejected.
    pub illegal: u64,
    /// Waits that timed out.
    pub timeouts: u64,
    /// Reinitializations of the queue after CERROR_ABT.
    pub reinitialized: u64,
}

/// Global errors that were active and are now acknowledged (GERROR's bits). CMDQ_ERR is included when a
/// command was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GlobalErrors {
    /// The register's bits.
    pub bits: u32,
    /// CMDQ_CONS.ERR, if the command queue stopped for another reason than an illegal command.
    pub stopped: Option<u8>,
    /// Whether the command queue was reinitialized since.
    pub reinitialized: bool,
    /// Whether the SMMU has entered service failure mode and was disabled since.
    pub service_failure: bool,
}

/// GERROR.EVENTQ_ABT_ERR.
const EVENTQ_ABT_ERR: u32 = 2;
const GLOBAL_ERRORS: [(u32, &str); 10] = [
    (0, "CMDQ_ERR"),
    (EVENTQ_ABT_ERR, "EVENTQ_ABT_ERR"),
    (3, "PRIQ_ABT_ERR"),
    (4, "MSI_CMDQ_ABT_ERR"),
    (5, "MSI_EVENTQ_ABT_ERR"),
    (6, "MSI_PRIQ_ABT_ERR"),
    (7, "MSI_GERROR_ABT_ERR"),
    (8, "SFM_ERR"),
    (9, "CMDQP_ERR"),
    (10, "DPT_ERR"),
];

impl GlobalErrors {
    /// Whether no error is recorded.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether the SMMU could not write events (EVENTQ_ABT_ERR), and the other errors. QEMU reports a full
    /// event queue in this way only.
    pub fn lost_events(self) -> (bool, Self) {
        let lost = self.has(EVENTQ_ABT_ERR);
        let bits = if lost { self.bits ^ flag(EVENTQ_ABT_ERR, true) as u32 } else { self.bits };
        (lost, Self { bits, ..self })
    }

    fn has(self, bit: u32) -> bool {
        extract(bit, bit, self.bits.into()) != 0
    }
}

impl fmt::Display for GlobalErrors {
    /// `global error CMDQ_ERR, CERROR 0x2: command queue reinitialized`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("global error")?;
        for (_, name) in GLOBAL_ERRORS.iter().filter(|(bit, _)| self.has(*bit)) {
            write!(f, " {name}")?;
        }
        if let Some(code) = self.stopped {
            write!(f, ", CERROR {code:#x}")?;
        }
        if self.reinitialized {
            f.write_str(": command queue reinitialized")?;
        }
        if self.service_failure {
            f.write_str(": disabled in service failure mode, all transactions abort")?;
        }
        Ok(())
    }
}
