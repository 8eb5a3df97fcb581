//! What a mapping allows: memory type and rights.

use addr::MemoryType;

bitflags::bitflags! {
    /// What may be done through a mapping.
    ///
    /// *Who* may do it follows from the address space ([`InputAddress`](crate::InputAddress)): through a `KernelVa`
    /// only EL1; through a `UserVa` EL0, and EL1 as far as PAN lets it; through an `Iova` any transaction of an
    /// attached device.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Access: u8 {
        /// Loads. Stage 1 cannot say anything without it.
        const READ = 1 << 0;
        /// Stores. Stage 1 also needs `READ`; stage 2 can do without.
        const WRITE = 1 << 1;
        /// Instruction fetches, by whom the mapping is for: a page is never executable by EL0 and EL1 both.
        /// Excludes `WRITE`.
        const EXECUTE = 1 << 2;
        /// Only privileged accesses: EL1 through a `UserVa` (a program's `PROT_NONE` page), privileged transactions
        /// through an `Iova`. Implied by `KernelVa`, impossible in stage 2.
        const PRIVILEGED = 1 << 3;
    }
}

/// A combination that is never mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingError {
    /// Writable and executable.
    WritableExecutable,
    /// Executable device memory: a speculative fetch would read registers.
    ExecutableDevice,
}

/// How a range is mapped. No value of it is writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    memory: MemoryType,
    access: Access,
    pages_only: bool,
}

impl Mapping {
    /// The mapping with this memory type and these rights, in descriptors as large as fit.
    pub const fn new(memory: MemoryType, access: Access) -> Result<Self, MappingError> {
        if access.contains(Access::EXECUTE) {
            if access.contains(Access::WRITE) {
                return Err(MappingError::WritableExecutable);
            }
            if matches!(memory, MemoryType::Device) {
                return Err(MappingError::ExecutableDevice);
            }
        }
        Ok(Self { memory, access, pages_only: false })
    }
    /// Loads only.
    pub const fn read_only(memory: MemoryType) -> Self {
        Self { memory, access: Access::READ, pages_only: false }
    }
    /// Loads and stores.
    pub const fn read_write(memory: MemoryType) -> Self {
        Self { memory, access: Access::READ.union(Access::WRITE), pages_only: false }
    }
    /// Code: loads and instruction fetches from write-back memory.
    pub const fn code() -> Self {
        let access = Access::READ.union(Access::EXECUTE);
        Self { memory: MemoryType::WriteBack, access, pages_only: false }
    }
    /// The same for privileged accesses only ([`Access::PRIVILEGED`]).
    pub const fn privileged(self) -> Self {
        Self { access: self.access.union(Access::PRIVILEGED), ..self }
    }
    /// The same in 4 KiB pages alone, no blocks and no contiguous hint: any single page of it can be unmapped and
    /// protected without break-before-make, so its neighbours never fault for a moment.
    pub const fn pages_only(self) -> Self {
        Self { pages_only: true, ..self }
    }
    /// The memory type.
    pub const fn memory(self) -> MemoryType {
        self.memory
    }
    /// The rights.
    pub const fn access(self) -> Access {
        self.access
    }
    /// Whether blocks and contiguous groups are left out.
    pub const fn is_pages_only(self) -> bool {
        self.pages_only
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_writable_and_executable() {
        let all = Access::READ | Access::WRITE | Access::EXECUTE;
        assert_eq!(Mapping::new(MemoryType::WriteBack, all), Err(MappingError::WritableExecutable));
        let fetch = Access::READ | Access::EXECUTE;
        assert_eq!(Mapping::new(MemoryType::Device, fetch), Err(MappingError::ExecutableDevice));
        assert_eq!(Mapping::new(MemoryType::WriteBack, fetch), Ok(Mapping::code()));
    }
}
