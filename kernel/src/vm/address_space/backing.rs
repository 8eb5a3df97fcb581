//! The backing of a VMA, and the descriptor attributes for its protection.

use crate::dma::ChunkedBuffer;
use crate::vm::shared_memory::MemoryMapping;
use abi::Errno;
use abi::memory::Prot;
use addr::MemoryType;
use alloc::sync::Arc;
use pagetable::{Access, Mapping};
use program::MappedObject;

/// The bytes of a file, by the node that has them. A thin pointer, which keeps a VMA as small as for the
/// other kinds of memory: every change of a mapping moves VMAs.
pub type FileContent = &'static &'static [u8];

/// The memory behind a VMA.
#[derive(Clone)]
pub enum VmaBacking {
    /// Private anonymous memory: zeroed frames, allocated on demand.
    Anonymous,
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
}

impl MappedObject for VmaBacking {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anonymous, Self::Anonymous) => true,
            (Self::Memory(one), Self::Memory(two)) => one.is_same(two),
            (Self::Shared(one, one_max), Self::Shared(two, two_max)) => {
                Arc::ptr_eq(one, two) && one_max == two_max
            }
            (Self::File { content: one, is_shared }, Self::File { content: two, is_shared: other }) => {
                core::ptr::eq(*one, *two) && is_shared == other
            }
            _ => false,
        }
    }
}

impl VmaBacking {
    /// Whether each entry is an owner of its frame, as those of anonymous memory are.
    pub fn owns_frames(&self) -> bool {
        !matches!(self, Self::Shared(..))
    }

    /// Whether a fork copies the content: the writes of a process are not visible to others.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Anonymous => true,
            Self::File { is_shared, .. } => !is_shared,
            Self::Memory(mapping) => !mapping.is_shared(),
            Self::Shared(..) => false,
        }
    }

    /// The maximum protection (`VM_MAYWRITE` and so on of Linux).
    pub(super) fn max_prot(&self) -> Prot {
        match self {
            Self::Anonymous | Self::File { is_shared: false, .. } => Prot::all(),
            Self::Memory(mapping) => mapping.max_prot(),
            Self::File { is_shared: true, .. } => Prot::READ | Prot::EXEC,
            Self::Shared(_, max) => *max,
        }
    }

    /// The mapping with protection `prot`.
    pub(super) fn mapping(&self, prot: Prot) -> Mapping {
        match self {
            // Pages only: unmapping or protecting one splits no block, so its neighbours cause no faults
            // meanwhile.
            Self::Anonymous | Self::File { .. } | Self::Memory(_) => {
                access_mapping(MemoryType::WriteBack, prot).pages_only()
            }
            Self::Shared(shared, _) => access_mapping(shared.memory(), prot),
        }
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
