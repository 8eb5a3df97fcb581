//! The backing of a VMA, and the descriptor attributes for its protection.

use crate::dma::ChunkedBuffer;
use crate::vm::huge_pages::HugePages;
use crate::vm::registers::RegisterRegion;
use crate::vm::shared_memory::MemoryMapping;
use abi::Errno;
use abi::memory::Prot;
use addr::{MemoryType, Order, PAGE_SIZE};
use alloc::sync::Arc;
use pagetable::{Access, LeafSize, Mapping};
use program::{HugePageSize, MappedObject};

/// The bytes of a block of anonymous memory.
pub(super) const BLOCK: u64 = Order::BLOCK_2M.bytes();

/// The bytes of a file, by the node that has them. A thin pointer, which keeps a VMA as small as for the
/// other kinds of memory: every change of a mapping moves VMAs.
pub type FileContent = &'static &'static [u8];

/// The memory behind a VMA.
#[derive(Clone)]
pub enum VmaBacking {
    /// Private anonymous memory: zeroed frames, allocated on demand.
    Anonymous {
        /// Whether page faults use blocks of 2 MiB where possible (Linux's THP).
        uses_blocks: bool,
    },
    /// Huge pages (`MAP_HUGETLB`), mapped by blocks of their size.
    Huge(Arc<HugePages>),
    /// Pages of a memory object, which is also that of shared anonymous memory. A private mapping copies a
    /// page when it is written.
    Memory(MemoryMapping),
    /// Frames with a copy of a file, allocated on demand.
    File {
        content: FileContent,
        /// `MAP_SHARED`. No file can change, so the copies are the same; they must not be written.
        is_shared: bool,
    },
    /// A buffer, and the maximum protection that its file descriptor permits.
    Shared(Arc<ChunkedBuffer>, Prot),
    /// Registers of a device, mapped by page faults while they are enabled, and the maximum protection.
    Registers(Arc<RegisterRegion>, Prot),
}

impl MappedObject for VmaBacking {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anonymous { uses_blocks: one }, Self::Anonymous { uses_blocks: two }) => one == two,
            (Self::Huge(one), Self::Huge(two)) => Arc::ptr_eq(one, two),
            (Self::Memory(one), Self::Memory(two)) => one.is_same(two),
            (Self::Shared(one, one_max), Self::Shared(two, two_max)) => {
                Arc::ptr_eq(one, two) && one_max == two_max
            }
            (Self::File { content: one, is_shared }, Self::File { content: two, is_shared: other }) => {
                core::ptr::eq(*one, *two) && is_shared == other
            }
            (Self::Registers(one, one_max), Self::Registers(two, two_max)) => {
                Arc::ptr_eq(one, two) && one_max == two_max
            }
            _ => false,
        }
    }
}

impl VmaBacking {
    /// Whether each entry is an owner of its frame, as those of anonymous memory are.
    pub fn owns_frames(&self) -> bool {
        !matches!(self, Self::Shared(..) | Self::Registers(..))
    }

    /// Whether it is a reference, whose drop can free memory: not under the lock of the address space.
    pub(super) fn is_counted(&self) -> bool {
        matches!(self, Self::Shared(..) | Self::Memory(_) | Self::Huge(_) | Self::Registers(..))
    }

    /// Whether a fork copies the content: the writes of a process are not visible to others.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Anonymous { .. } => true,
            Self::Huge(pages) => !pages.is_shared(),
            Self::File { is_shared, .. } => !is_shared,
            Self::Memory(mapping) => !mapping.is_shared(),
            Self::Shared(..) | Self::Registers(..) => false,
        }
    }

    /// The maximum protection (`VM_MAYWRITE` and so on of Linux).
    pub(super) fn max_prot(&self) -> Prot {
        match self {
            Self::Anonymous { .. } | Self::Huge(_) | Self::File { is_shared: false, .. } => Prot::all(),
            Self::Memory(mapping) => mapping.max_prot(),
            Self::File { is_shared: true, .. } => Prot::READ | Prot::EXEC,
            Self::Shared(_, max) | Self::Registers(_, max) => *max,
        }
    }

    /// Whether the memory is private anonymous memory of pages, and blocks that can be split.
    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous { .. })
    }

    /// The size of the huge pages, if it has any.
    pub(super) fn huge_page_size(&self) -> Option<HugePageSize> {
        if let Self::Huge(pages) = self { Some(pages.size()) } else { None }
    }

    /// The mapping with protection `prot`; of memory that owns its frames, the one for pages or huge pages.
    pub(super) fn mapping(&self, prot: Prot) -> Mapping {
        match self {
            // Pages without the contiguous hint: unmapping or protecting one breaks no other entry, so its
            // neighbours cause no faults meanwhile.
            Self::Anonymous { .. } | Self::File { .. } | Self::Memory(_) => {
                access_mapping(MemoryType::WriteBack, prot).pages_only()
            }
            Self::Huge(pages) => {
                access_mapping(MemoryType::WriteBack, prot).only(leaf_size(pages.size().bytes()))
            }
            Self::Shared(shared, _) => access_mapping(shared.memory(), prot),
            Self::Registers(region, _) => access_mapping(region.memory(), prot),
        }
    }
}

/// The size of leaves of `bytes`.
pub(super) fn leaf_size(bytes: u64) -> LeafSize {
    match bytes {
        PAGE_SIZE => LeafSize::Page,
        BLOCK => LeafSize::Block2M,
        _ => LeafSize::Block1G,
    }
}

/// The mapping with the closest protection that Arm descriptors can express: write and execute permission
/// imply read. `PROT_NONE` is accessible to the kernel only.
pub(super) fn access_mapping(memory: MemoryType, prot: Prot) -> Mapping {
    if prot.contains(Prot::WRITE) {
        Mapping::read_write(memory)
    } else if prot.contains(Prot::EXEC) {
        Mapping::new(memory, Access::READ | Access::EXECUTE).unwrap_or(Mapping::read_only(memory))
    } else if prot.contains(Prot::READ) {
        Mapping::read_only(memory)
    } else {
        Mapping::read_only(memory).privileged()
    }
}

/// `prot` with the read permission that the others imply in Arm descriptors.
pub(super) fn with_implied_read(prot: Prot) -> Prot {
    if prot.is_empty() { prot } else { prot | Prot::READ }
}

/// `prot` without the permission to write: that of a frame which is copied on write.
pub(super) fn without_write(prot: Prot) -> Prot {
    if prot.is_empty() { prot } else { prot.difference(Prot::WRITE) | Prot::READ }
}

/// Rejects memory that is both writable and executable.
///
/// # Errors
/// `EACCES`.
pub(super) fn check_write_xor_execute(prot: Prot) -> Result<(), Errno> {
    if prot.contains(Prot::WRITE | Prot::EXEC) { Err(Errno::EACCES) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_selects_the_descriptor_access() {
        let of = |prot| access_mapping(MemoryType::WriteBack, prot).access();
        assert_eq!(of(Prot::empty()), Access::READ | Access::PRIVILEGED);
        assert_eq!(of(Prot::WRITE), Access::READ | Access::WRITE);
        assert_eq!(of(Prot::EXEC), Access::READ | Access::EXECUTE);
        assert_eq!(check_write_xor_execute(Prot::all()), Err(Errno::EACCES));
    }
}
