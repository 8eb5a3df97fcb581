//! PSCI (DEN 0022), through the conduit that the device tree names.

use addr::PhysAddr;
pub use smccc::psci::Error;

/// The instruction that calls the firmware (`method` of the device tree's `/psci` node).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// HVC: a hypervisor at EL2.
    Hvc,
    /// SMC: a Secure monitor at EL3.
    Smc,
}

/// Starts the CPU with this affinity at `entry`, with `context` in x0 (CPU_ON).
///
/// # Safety
/// `entry` is [`secondary_entry`](crate::boot::secondary_entry). `context` is the address of a
/// [`SecondaryArgs`](crate::boot::SecondaryArgs) that is cleaned to the point of coherency and stays valid
/// until the CPU runs. Its root maps the image and the stack and is never freed; stack and index belong to
/// this CPU only.
pub unsafe fn cpu_on(
    conduit: Conduit,
    affinity: u64,
    entry: PhysAddr,
    context: PhysAddr,
) -> Result<(), Error> {
    call::cpu_on(conduit, affinity, entry.raw(), context.raw())
}

/// Powers the machine off (SYSTEM_OFF). Returns only on an error.
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
