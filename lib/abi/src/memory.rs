//! Memory: what `mmap` and its relatives take.

use bitflags::bitflags;

bitflags! {
    /// What may be done with pages (`PROT_*`); none is a guard.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Prot: u32 {
        /// Reading.
        const READ = 1;
        /// Writing.
        const WRITE = 2;
        /// Executing.
        const EXEC = 4;
    }
}

bitflags! {
    /// Flags of `mmap`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MapFlags: u32 {
        /// Writes are seen by all who map it.
        const SHARED = 0x1;
        /// Writes stay here.
        const PRIVATE = 0x2;
        /// Exactly at the address, over what is there.
        const FIXED = 0x10;
        /// Zeroes, no file.
        const ANONYMOUS = 0x20;
        /// Ignored, as in Linux.
        const DENYWRITE = 0x800;
        /// Ignored, as in Linux.
        const EXECUTABLE = 0x1000;
        /// Stay resident; a hint here, since there is no swap.
        const LOCKED = 0x2000;
        /// Do not count it against a limit; there is none.
        const NORESERVE = 0x4000;
        /// Fill it in at once.
        const POPULATE = 0x8000;
        /// Together with `POPULATE`: only what is there already.
        const NONBLOCK = 0x10000;
        /// For a stack; a hint.
        const STACK = 0x20000;
        /// Exactly at the address, or `EEXIST`.
        const FIXED_NOREPLACE = 0x10_0000;
    }
}

/// `mremap`: it may be somewhere else afterwards.
pub const MREMAP_MAYMOVE: u64 = 1;

/// `madvise`: the content is not needed any more; anonymous pages read as zero afterwards.
pub const MADV_DONTNEED: u64 = 4;
/// `madvise`: the content may go, when the kernel likes.
pub const MADV_FREE: u64 = 8;
