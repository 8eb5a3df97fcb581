//! The auxiliary vector (`getauxval(3)`).

/// End of the vector.
pub const AT_NULL: u64 = 0;
/// Address of the program headers.
pub const AT_PHDR: u64 = 3;
/// Size of one program header.
pub const AT_PHENT: u64 = 4;
/// Number of program headers.
pub const AT_PHNUM: u64 = 5;
/// Page size in bytes.
pub const AT_PAGESZ: u64 = 6;
/// Base address of the dynamic linker; 0 for a static program.
pub const AT_BASE: u64 = 7;
/// Flags; always 0.
pub const AT_FLAGS: u64 = 8;
/// Entry point of the program.
pub const AT_ENTRY: u64 = 9;
/// Real user ID.
pub const AT_UID: u64 = 11;
/// Effective user ID.
pub const AT_EUID: u64 = 12;
/// Real group ID.
pub const AT_GID: u64 = 13;
/// Effective group ID.
pub const AT_EGID: u64 = 14;
/// Address of the platform name.
pub const AT_PLATFORM: u64 = 15;
/// Processor features (`HWCAP_*`).
pub const AT_HWCAP: u64 = 16;
/// Clock ticks per second of `times(2)`.
pub const AT_CLKTCK: u64 = 17;
/// Secure execution mode (setuid and similar).
pub const AT_SECURE: u64 = 23;
/// Address of sixteen random bytes.
pub const AT_RANDOM: u64 = 25;
/// More processor features (`HWCAP2_*`).
pub const AT_HWCAP2: u64 = 26;
/// Address of the path of the executable.
pub const AT_EXECFN: u64 = 31;
/// Address of the vDSO.
pub const AT_SYSINFO_EHDR: u64 = 33;
/// The bytes that a signal handler's stack must have for the kernel.
pub const AT_MINSIGSTKSZ: u64 = 51;

bitflags::bitflags! {
    /// Processor features (`AT_HWCAP`, Linux `arch/arm64/include/uapi/asm/hwcap.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct HwCap: u64 {
        /// Floating point.
        const FP = 1 << 0;
        /// Advanced SIMD.
        const ASIMD = 1 << 1;
        /// AES instructions.
        const AES = 1 << 3;
        /// PMULL instructions.
        const PMULL = 1 << 4;
        /// SHA-1 instructions.
        const SHA1 = 1 << 5;
        /// SHA-256 instructions.
        const SHA2 = 1 << 6;
        /// CRC32 instructions.
        const CRC32 = 1 << 7;
        /// LSE atomics.
        const ATOMICS = 1 << 8;
        /// Half-precision floating point.
        const FPHP = 1 << 9;
        /// Half-precision SIMD.
        const ASIMDHP = 1 << 10;
        /// ID registers are readable (trapped and emulated); never set by Tessera.
        const CPUID = 1 << 11;
    }
}

bitflags::bitflags! {
    /// More instructions of the processor (`AT_HWCAP2`, Linux `arch/arm64/include/uapi/asm/hwcap.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct HwCap2: u64 {
        /// FEAT_MOPS: memory copy and memory set.
        const MOPS = 1 << 43;
    }
}
