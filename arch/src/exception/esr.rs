//! Decoding of ESR_EL1 (D24.2.44).

use super::MemoryOperation;
use core::fmt;

/// A decoded syndrome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syndrome {
    /// Undefined instruction, at this exception level or at all.
    Undefined,
    /// Trapped WFI or WFE.
    Wait,
    /// FP or SIMD access trapped by CPACR_EL1.
    FpAccess,
    /// Trapped SVE or SME access.
    SveAccess,
    /// Branch target exception: no landing pad (BTI) at the target.
    BranchTarget,
    /// Illegal Execution state (PSTATE.IL).
    IllegalState,
    /// SVC, with its immediate.
    Svc(u16),
    /// Trapped MSR, MRS or system instruction.
    SystemRegister(SystemAccess),
    /// Pointer authentication failure.
    PointerAuthentication,
    /// Instruction abort.
    InstructionAbort(Fault),
    /// Data abort.
    DataAbort {
        /// The fault status.
        fault: Fault,
        /// The access that faulted.
        access: DataAccess,
        /// FnV: FAR_EL1 is not valid.
        no_address: bool,
    },
    /// PC alignment fault.
    PcAlignment,
    /// SP alignment fault.
    SpAlignment,
    /// Memory Copy and Memory Set exception, to be resolved by
    /// [`TrapFrame::restart`](super::TrapFrame::restart).
    MemoryOperation(MemoryOperation),
    /// Trapped floating-point exception.
    FpException,
    /// SError, with its syndrome.
    SError(u32),
    /// Hardware breakpoint.
    Breakpoint,
    /// Software step.
    Step,
    /// Watchpoint.
    Watchpoint,
    /// BRK, with its immediate.
    Brk(u16),
    /// An exception class that is not decoded.
    Other {
        /// The exception class (EC).
        class: u8,
        /// The instruction specific syndrome (ISS).
        iss: u32,
    },
}

/// The access that took a data abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataAccess {
    /// A load.
    Read,
    /// A store or an atomic.
    Write,
    /// CM: cache maintenance or address translation. WnR is 1 for these too, though at EL0 they require read
    /// access only (D24.2.44, ISS encoding for an exception from a Data Abort).
    CacheMaintenance,
}

/// The exception class (EC) of SVC in AArch64 state.
const SVC: u8 = 0x15;

/// Whether `esr` has the class of SVC.
#[inline]
pub const fn is_svc(esr: u64) -> bool {
    esr >> 26 & 0x3f == SVC as u64
}

impl DataAccess {
    fn decode(iss: u32) -> Self {
        match (iss >> 8 & 1, iss >> 6 & 1) {
            (1, _) => Self::CacheMaintenance,
            (_, 1) => Self::Write,
            _ => Self::Read,
        }
    }
}

/// A trapped system register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemAccess {
    /// The encoding: op0, op1, CRn, CRm, op2.
    pub register: [u8; 5],
    /// The general-purpose register, 31 for XZR.
    pub rt: u8,
    /// MRS; otherwise MSR or a system instruction.
    pub read: bool,
}

/// A fault status. The level, -1 to 3, is that of the table at which the walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Output address beyond the physical address size.
    AddressSize(i8),
    /// Translation fault: invalid descriptor.
    Translation(i8),
    /// Access flag clear in the descriptor.
    AccessFlag(i8),
    /// Access denied by the descriptor.
    Permission(i8),
    /// Synchronous external abort.
    External,
    /// Synchronous external abort on a table walk.
    ExternalOnWalk(i8),
    /// Parity or ECC error.
    Parity,
    /// Alignment fault: an unaligned access to Device memory, an unaligned exclusive or atomic access, DC ZVA
    /// on Device memory.
    Alignment,
    /// TLB conflict: several entries match an address.
    TlbConflict,
    /// A fault status code that is not decoded.
    Other(u8),
}

impl Fault {
    /// Decodes DFSC or IFSC, bits 5:0 of the syndrome of an abort.
    fn decode(code: u8) -> Self {
        let level = (code & 3) as i8;
        match code {
            0b00_0000..=0b00_0011 => Self::AddressSize(level),
            0b00_0100..=0b00_0111 => Self::Translation(level),
            0b00_1000..=0b00_1011 => Self::AccessFlag(level),
            0b00_1100..=0b00_1111 => Self::Permission(level),
            0b01_0000 => Self::External,
            0b01_0011 => Self::ExternalOnWalk(-1),
            0b01_0100..=0b01_0111 => Self::ExternalOnWalk(level),
            0b01_1000 | 0b01_1011..=0b01_1111 => Self::Parity,
            0b10_0001 => Self::Alignment,
            0b10_1001 => Self::AddressSize(-1),
            0b10_1011 => Self::Translation(-1),
            0b11_0000 => Self::TlbConflict,
            _ => Self::Other(code),
        }
    }
}

impl Syndrome {
    /// Decodes a value of ESR_EL1.
    pub fn decode(esr: u64) -> Self {
        let class = (esr >> 26 & 0x3f) as u8;
        let iss = (esr & 0x1ff_ffff) as u32;
        let immediate = iss as u16;
        let fault = || Fault::decode((iss & 0x3f) as u8);
        match class {
            0x00 => Self::Undefined,
            0x01 => Self::Wait,
            0x07 => Self::FpAccess,
            0x0d => Self::BranchTarget,
            0x0e => Self::IllegalState,
            SVC => Self::Svc(immediate),
            0x18 => Self::SystemRegister(SystemAccess::decode(iss)),
            0x19 | 0x1d => Self::SveAccess,
            0x1c => Self::PointerAuthentication,
            0x20 | 0x21 => Self::InstructionAbort(fault()),
            0x22 => Self::PcAlignment,
            0x24 | 0x25 => {
                let access = DataAccess::decode(iss);
                Self::DataAbort { fault: fault(), access, no_address: iss >> 10 & 1 != 0 }
            }
            0x26 => Self::SpAlignment,
            0x27 => Self::MemoryOperation(MemoryOperation::decode(iss)),
            0x2c => Self::FpException,
            0x2f => Self::SError(iss),
            0x30 | 0x31 => Self::Breakpoint,
            0x32 | 0x33 => Self::Step,
            0x34 | 0x35 => Self::Watchpoint,
            0x3c => Self::Brk(immediate),
            _ => Self::Other { class, iss },
        }
    }

    /// Whether FAR_EL1 holds the faulting address.
    pub fn has_address(&self) -> bool {
        match self {
            Self::DataAbort { no_address, .. } => !no_address,
            Self::InstructionAbort(_) | Self::PcAlignment | Self::Watchpoint => true,
            _ => false,
        }
    }
}

impl SystemAccess {
    fn decode(iss: u32) -> Self {
        let field = |lsb: u32, bits: u32| (iss >> lsb & ((1 << bits) - 1)) as u8;
        Self {
            register: [field(20, 2), field(14, 3), field(10, 4), field(1, 4), field(17, 3)],
            rt: field(5, 5),
            read: iss & 1 != 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSize(level) => write!(f, "address size fault, level {level}"),
            Self::Translation(level) => write!(f, "translation fault, level {level}"),
            Self::AccessFlag(level) => write!(f, "access flag fault, level {level}"),
            Self::Permission(level) => write!(f, "permission fault, level {level}"),
            Self::External => write!(f, "external abort"),
            Self::ExternalOnWalk(level) => write!(f, "external abort on a table walk, level {level}"),
            Self::Parity => write!(f, "parity or ECC error"),
            Self::Alignment => write!(f, "alignment fault"),
            Self::TlbConflict => write!(f, "TLB conflict"),
            Self::Other(code) => write!(f, "fault status {code:#x}"),
        }
    }
}

impl fmt::Display for DataAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::CacheMaintenance => "cache maintenance",
        })
    }
}

impl fmt::Display for SystemAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [op0, op1, crn, crm, op2] = self.register;
        let name = if self.read { "mrs" } else { "msr" };
        write!(f, "trapped {name} S{op0}_{op1}_C{crn}_C{crm}_{op2}, x{}", self.rt)
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => write!(f, "undefined instruction"),
            Self::Wait => write!(f, "trapped wfi or wfe"),
            Self::FpAccess => write!(f, "trapped FP/SIMD access"),
            Self::SveAccess => write!(f, "trapped SVE or SME access"),
            Self::BranchTarget => write!(f, "branch target exception"),
            Self::IllegalState => write!(f, "illegal execution state"),
            Self::Svc(immediate) => write!(f, "svc #{immediate:#x}"),
            Self::SystemRegister(access) => access.fmt(f),
            Self::PointerAuthentication => write!(f, "pointer authentication failure"),
            Self::InstructionAbort(fault) => write!(f, "instruction abort: {fault}"),
            Self::DataAbort { fault, access, .. } => write!(f, "data abort on {access}: {fault}"),
            Self::PcAlignment => write!(f, "misaligned program counter"),
            Self::SpAlignment => write!(f, "misaligned stack pointer"),
            Self::MemoryOperation(_) => write!(f, "memory copy or memory set of the other option"),
            Self::FpException => write!(f, "floating-point exception"),
            Self::SError(iss) => write!(f, "SError, syndrome {iss:#x}"),
            Self::Breakpoint => write!(f, "breakpoint"),
            Self::Step => write!(f, "software step"),
            Self::Watchpoint => write!(f, "watchpoint"),
            Self::Brk(immediate) => write!(f, "brk #{immediate:#x}"),
            Self::Other { class, iss } => write!(f, "exception class {class:#x}, syndrome {iss:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn syndromes_are_decoded_and_printed() {
        let cases = [
            (0x0200_0000, "undefined instruction"),
            (0x5600_0000, "svc #0x0"),
            (0xf200_03e8, "brk #0x3e8"),
            (0x9600_0045, "data abort on write: translation fault, level 1"),
            (0x9200_000f, "data abort on read: permission fault, level 3"),
            (0x9600_0050, "data abort on write: external abort"),
            (0x9200_0147, "data abort on cache maintenance: translation fault, level 3"),
            (0x9600_0021, "data abort on read: alignment fault"),
            (0x9600_0014, "data abort on read: external abort on a table walk, level 0"),
            (0x9600_002b, "data abort on read: translation fault, level -1"),
            (0x8600_000e, "instruction abort: permission fault, level 2"),
            (0x1e00_0000, "trapped FP/SIMD access"),
            (0x8a00_0000, "misaligned program counter"),
            (0x9e01_0c43, "memory copy or memory set of the other option"),
            (0xbf00_0011, "SError, syndrome 0x1000011"),
            (0x6230_0001, "trapped mrs S3_0_C0_C0_0, x0"),
            (0xfe00_0000, "exception class 0x3f, syndrome 0x0"),
        ];
        for (esr, text) in cases {
            assert_eq!(format!("{}", Syndrome::decode(esr)), text, "{esr:#x}");
        }
    }

    #[test]
    fn fault_address_validity_follows_class_and_fnv() {
        assert!(Syndrome::decode(0x9600_0045).has_address());
        assert!(!Syndrome::decode(0x9600_0410).has_address(), "FnV");
        assert!(!Syndrome::decode(0x5600_0000).has_address());
        assert!(Syndrome::decode(0xd200_0022).has_address(), "watchpoint");
    }

    #[test]
    fn only_class_0x15_is_a_system_call() {
        let found: std::vec::Vec<u64> = (0..64).filter(|class| is_svc(class << 26)).collect();
        assert_eq!(found, [0x15]);
    }

    #[test]
    fn fault_status_codes_are_decoded() {
        for level in 0..4 {
            let code = level as u8;
            assert_eq!(Fault::decode(code), Fault::AddressSize(level));
            assert_eq!(Fault::decode(4 | code), Fault::Translation(level));
            assert_eq!(Fault::decode(8 | code), Fault::AccessFlag(level));
            assert_eq!(Fault::decode(12 | code), Fault::Permission(level));
            assert_eq!(Fault::decode(0x14 | code), Fault::ExternalOnWalk(level));
        }
        assert_eq!(Fault::decode(0x13), Fault::ExternalOnWalk(-1));
        assert_eq!(Fault::decode(0x30), Fault::TlbConflict);
        assert_eq!(Fault::decode(0x3f), Fault::Other(0x3f));
    }
}
