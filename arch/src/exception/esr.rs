//! What ESR_EL1 says (D24.2.44), as an enum that prints.

use super::MemoryOperation;
use core::fmt;

/// Why a synchronous exception was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syndrome {
    /// An instruction that does not exist, or not at this exception level.
    Undefined,
    /// A trapped WFI or WFE.
    Wait,
    /// FP or SIMD registers while CPACR_EL1 traps them.
    FpAccess,
    /// SVE or SME registers.
    SveAccess,
    /// A branch to where no landing pad is.
    BranchTarget,
    /// PSTATE.IL was set.
    IllegalState,
    /// A system call, with the instruction's immediate.
    Svc(u16),
    /// A trapped MSR, MRS or system instruction.
    SystemRegister(SystemAccess),
    /// A pointer failed its authentication.
    PointerAuthentication,
    /// A fetch failed.
    InstructionAbort(Fault),
    /// A load or store failed.
    DataAbort {
        /// Why.
        fault: Fault,
        /// A store, or cache maintenance, which counts as one.
        write: bool,
        /// FAR_EL1 does not hold the address.
        no_address: bool,
    },
    /// The program counter is not a multiple of 4.
    PcAlignment,
    /// A load or store through a stack pointer that is not a multiple of 16.
    SpAlignment,
    /// SETM, SETE, CPYM or CPYE after a prologue on a CPU of the other option: to be restarted.
    MemoryOperation(MemoryOperation),
    /// A trapped floating-point exception.
    FpException,
    /// An asynchronous error, with its syndrome.
    SError(u32),
    /// A hardware breakpoint.
    Breakpoint,
    /// Software step.
    Step,
    /// A watchpoint.
    Watchpoint,
    /// A BRK, with its immediate.
    Brk(u16),
    /// Another exception class.
    Other {
        /// The class.
        class: u8,
        /// Its syndrome.
        iss: u32,
    },
}

/// A trapped system register access, by its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemAccess {
    /// The encoding fields: op0, op1, CRn, CRm, op2.
    pub register: [u8; 5],
    /// The general-purpose register, 31 for none.
    pub rt: u8,
    /// MRS, not MSR.
    pub read: bool,
}

/// Why an access failed. The level is that of the table where the walk ended, -1 to 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A descriptor leads past the physical address size.
    AddressSize(i8),
    /// No valid descriptor.
    Translation(i8),
    /// A descriptor without the access flag.
    AccessFlag(i8),
    /// The descriptor forbids it.
    Permission(i8),
    /// The bus answered with an error.
    External,
    /// The bus answered a table walk with an error.
    ExternalOnWalk(i8),
    /// A parity or ECC error.
    Parity,
    /// A misaligned access that must be aligned: to Device memory, exclusive, atomic.
    Alignment,
    /// Several TLB entries for one address.
    TlbConflict,
    /// Another fault status code.
    Other(u8),
}

impl Fault {
    /// Decodes the fault status code, the low six bits of an abort's syndrome.
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
            0x15 => Self::Svc(immediate),
            0x18 => Self::SystemRegister(SystemAccess::decode(iss)),
            0x19 | 0x1d => Self::SveAccess,
            0x1c => Self::PointerAuthentication,
            0x20 | 0x21 => Self::InstructionAbort(fault()),
            0x22 => Self::PcAlignment,
            0x24 | 0x25 => {
                Self::DataAbort { fault: fault(), write: iss >> 6 & 1 != 0, no_address: iss >> 10 & 1 != 0 }
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

    /// Whether FAR_EL1 holds the address it happened at.
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
            Self::DataAbort { fault, write: false, .. } => write!(f, "data abort on read: {fault}"),
            Self::DataAbort { fault, write: true, .. } => write!(f, "data abort on write: {fault}"),
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
    fn syndromes_print_what_they_mean() {
        let cases = [
            (0x0200_0000, "undefined instruction"),
            (0x5600_0000, "svc #0x0"),
            (0xf200_03e8, "brk #0x3e8"),
            (0x9600_0045, "data abort on write: translation fault, level 1"),
            (0x9200_000f, "data abort on read: permission fault, level 3"),
            (0x9600_0050, "data abort on write: external abort"),
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
    fn an_abort_says_whether_its_address_is_known() {
        assert!(Syndrome::decode(0x9600_0045).has_address());
        assert!(!Syndrome::decode(0x9600_0410).has_address(), "FnV");
        assert!(!Syndrome::decode(0x5600_0000).has_address());
    }

    #[test]
    fn every_fault_status_decodes_to_one_fault() {
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
