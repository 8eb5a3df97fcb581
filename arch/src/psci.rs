//! The firmware's power interface (DEN 0022), by the conduit that the device tree names.

use addr::PhysAddr;
pub use smccc::psci::Error;

/// How the firmware is called (`method` in the device tree's `/psci`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// A hypervisor at EL2.
    Hvc,
    /// A monitor at EL3.
    Smc,
}

/// Starts the CPU with this affinity at `entry`, which finds `context` in x0.
pub fn cpu_on(conduit: Conduit, affinity: u64, entry: PhysAddr, context: PhysAddr) -> Result<(), Error> {
    call::cpu_on(conduit, affinity, entry.raw(), context.raw())
}

/// Turns the machine off. Returns only when the firmware refuses.
pub fn system_off(conduit: Conduit) -> Result<(), Error> {
    call::system_off(conduit)
}

#[cfg(target_os = "none")]
mod call {
    use super::*;
    use smccc::{Hvc, Smc, psci};

    pub fn cpu_on(conduit: Conduit, affinity: u64, entry: u64, context: u64) -> Result<(), Error> {
        match conduit {
            Conduit::Hvc => psci::cpu_on::<Hvc>(affinity, entry, context),
            Conduit::Smc => psci::cpu_on::<Smc>(affinity, entry, context),
        }
    }

    pub fn system_off(conduit: Conduit) -> Result<(), Error> {
        match conduit {
            Conduit::Hvc => psci::system_off::<Hvc>(),
            Conduit::Smc => psci::system_off::<Smc>(),
        }
    }
}

#[cfg(not(target_os = "none"))]
mod call {
    use super::*;
    use crate::fake::{Instruction, record};

    pub fn cpu_on(_: Conduit, _: u64, _: u64, _: u64) -> Result<(), Error> {
        record(Instruction::Psci("cpu_on"));
        Ok(())
    }

    pub fn system_off(_: Conduit) -> Result<(), Error> {
        record(Instruction::Psci("system_off"));
        Ok(())
    }
}
