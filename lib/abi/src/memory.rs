//! Memory system calls: `mmap` and related.

use bitflags::bitflags;

bitflags! {
    /// Page protection (`PROT_*`); empty for a guard page.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Prot: u32 {
        /// Readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Executable.
        const EXEC = 4;
    }
}

/// Protection: usable for atomic operations. Without effect on Arm.
pub const PROT_SEM: u32 = 8;

bitflags! {
    /// Flags of `mmap` (`MAP_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MapFlags: u32 {
        /// Writes are visible to all mappings of the object.
        const SHARED = 0x1;
        /// Copy-on-write.
        const PRIVATE = 0x2;
        /// Exactly at the address; replaces existing mappings.
        const FIXED = 0x10;
        /// Zero-filled memory without a file.
        const ANONYMOUS = 0x20;
        /// Ignored, as in Linux.
        const DENYWRITE = 0x800;
        /// Ignored, as in Linux.
        const EXECUTABLE = 0x1000;
        /// Resident; a hint, since there is no swap.
        const LOCKED = 0x2000;
        /// No reservation; ignored, since there is no commit limit.
        const NORESERVE = 0x4000;
        /// `mmap` populates the page tables.
        const POPULATE = 0x8000;
        /// With `POPULATE`: only pages that are already in memory.
        const NONBLOCK = 0x10000;
        /// For a stack, which is mapped with pages.
        const STACK = 0x20000;
        /// Huge pages, of the size in [`huge_page_shift`](Self::huge_page_shift).
        const HUGETLB = 0x40000;
        /// Exactly at the address; `EEXIST` if already mapped.
        const FIXED_NOREPLACE = 0x10_0000;
    }
}

/// The position of the size of a huge page in the flags.
const MAP_HUGE_SHIFT: u32 = 26;
/// The bits of the size.
const MAP_HUGE_MASK: u32 = 0x3f;

impl MapFlags {
    /// The logarithm of the size of a huge page (`MAP_HUGE_2MB`, `MAP_HUGE_1GB`); 0 for the default size.
    pub const fn huge_page_shift(self) -> u32 {
        self.bits() >> MAP_HUGE_SHIFT & MAP_HUGE_MASK
    }
}

/// `mremap`: the mapping may move.
pub const MREMAP_MAYMOVE: u64 = 1;
/// `mremap`: the mapping moves to the given address, and replaces existing mappings.
pub const MREMAP_FIXED: u64 = 2;

/// `mlock2`: pages are locked when they are first accessed.
pub const MLOCK_ONFAULT: u64 = 1;

bitflags! {
    /// Flags of `mlockall` (`MCL_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct LockFlags: u64 {
        /// The mappings that exist.
        const CURRENT = 1;
        /// Mappings that are added later.
        const FUTURE = 2;
        /// Pages are locked when they are first accessed.
        const ONFAULT = 4;
    }
}

bitflags! {
    /// Flags of `msync` (`MS_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SyncFlags: u64 {
        /// Starts to write.
        const ASYNC = 1;
        /// Other mappings of the file see the content.
        const INVALIDATE = 2;
        /// Writes, and waits for the end.
        const SYNC = 4;
    }
}

/// The advice of `madvise`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// A hint without effect: access pattern, core dumps, reclaim.
    Hint,
    /// `MADV_HUGEPAGE` (`true`), `MADV_NOHUGEPAGE`: whether anonymous memory uses blocks.
    Blocks(bool),
    /// `MADV_DONTNEED`: discards the content; private anonymous pages read as zero afterwards.
    DontNeed,
    /// `MADV_FREE`: the kernel may discard the content at any time.
    Free,
    /// `MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`: populates the page tables.
    Populate(Prot),
}

impl Advice {
    /// Decodes the number; `None` for others (`EINVAL`): those that Linux does not define either, and those
    /// that are not implemented, such as guard regions.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            // NORMAL, RANDOM, SEQUENTIAL, WILLNEED; DONTDUMP, DODUMP; COLD, PAGEOUT.
            0..=3 | 16 | 17 | 20 | 21 => Some(Self::Hint),
            14 => Some(Self::Blocks(true)),
            15 => Some(Self::Blocks(false)),
            4 => Some(Self::DontNeed),
            8 => Some(Self::Free),
            22 => Some(Self::Populate(Prot::READ)),
            23 => Some(Self::Populate(Prot::WRITE)),
            _ => None,
        }
    }
}
