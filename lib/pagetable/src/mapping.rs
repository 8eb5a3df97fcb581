//! Attributes of a mapping: memory type and access rights.

use addr::MemoryType;

bitflags::bitflags! {
    /// Access rights.
    ///
    /// They apply to the accesses that the address space implies ([`InputAddress`](crate::InputAddress)):
    /// `KernelVa` to EL1 only; `UserVa` to EL0, and to EL1 unless PAN prevents it; `Iova` to all transactions
    /// of an attached device.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Access: u8 {
        /// Loads. Required in stage 1.
        const READ = 1 << 0;
        /// Stores. In stage 1 only together with `READ`.
        const WRITE = 1 << 1;
        /// Instruction fetches at the exception level of the address space: no page is executable at both EL0
        /// and EL1. Excludes `WRITE`.
        const EXECUTE = 1 << 2;
        /// Privileged accesses only: EL1 for a `UserVa` (a program's `PROT_NONE` page), privileged
        /// transactions for an `Iova`. Implied by `KernelVa`, not supported in stage 2.
        const PRIVILEGED = 1 << 3;
    }
}

/// A rejected combination of attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingError {
    /// Writable and executable.
    WritableExecutable,
    /// Executable device memory: a speculative fetch would read registers.
    ExecutableDevice,
}

/// The attributes of a mapping. It is never both writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    memory: MemoryType,
    access: Access,
    leaves: LeafSize,
}

/// The leaves that a [`Mapping`] uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafSize {
    /// The largest that fit, and the contiguous hint.
    Largest,
    /// Pages of 4 KiB without the contiguous hint.
    Page,
    /// Blocks of 2 MiB without the contiguous hint.
    Block2M,
    /// Blocks of 1 GiB.
    Block1G,
}

impl Mapping {
    /// A mapping with this memory type and these rights, in the largest descriptors that fit.
    pub const fn new(memory: MemoryType, access: Access) -> Result<Self, MappingError> {
        if access.contains(Access::EXECUTE) {
            if access.contains(Access::WRITE) {
                return Err(MappingError::WritableExecutable);
            }
            if matches!(memory, MemoryType::Device | MemoryType::DeviceNonPosted) {
                return Err(MappingError::ExecutableDevice);
            }
        }
        Ok(Self { memory, access, leaves: LeafSize::Largest })
    }
    /// Read-only.
    pub const fn read_only(memory: MemoryType) -> Self {
        Self { memory, access: Access::READ, leaves: LeafSize::Largest }
    }
    /// Readable and writable.
    pub const fn read_write(memory: MemoryType) -> Self {
        Self { memory, access: Access::READ.union(Access::WRITE), leaves: LeafSize::Largest }
    }
    /// Code: readable and executable write-back memory.
    pub const fn code() -> Self {
        let access = Access::READ.union(Access::EXECUTE);
        Self { memory: MemoryType::WriteBack, access, leaves: LeafSize::Largest }
    }
    /// The same for privileged accesses only ([`Access::PRIVILEGED`]).
    pub const fn privileged(self) -> Self {
        Self { access: self.access.union(Access::PRIVILEGED), ..self }
    }
    /// The same in 4 KiB pages, without blocks and contiguous hints: each page can be unmapped and protected
    /// without break-before-make, so that accesses to its neighbours never fault temporarily.
    pub const fn pages_only(self) -> Self {
        self.only(LeafSize::Page)
    }
    /// The same in leaves of this size, and in pages where they do not fit.
    pub const fn only(self, leaves: LeafSize) -> Self {
        Self { leaves, ..self }
    }
    /// The memory type.
    pub const fn memory(self) -> MemoryType {
        self.memory
    }
    /// The access rights.
    pub const fn access(self) -> Access {
        self.access
    }
    /// The leaves.
    pub const fn leaf_size(self) -> LeafSize {
        self.leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writable_executable_and_executable_device_memory_are_rejected() {
        let all = Access::READ | Access::WRITE | Access::EXECUTE;
        assert_eq!(Mapping::new(MemoryType::WriteBack, all), Err(MappingError::WritableExecutable));
        let fetch = Access::READ | Access::EXECUTE;
        for device in [MemoryType::Device, MemoryType::DeviceNonPosted] {
            assert_eq!(Mapping::new(device, fetch), Err(MappingError::ExecutableDevice));
        }
        assert_eq!(Mapping::new(MemoryType::WriteBack, fetch), Ok(Mapping::code()));
    }
}
