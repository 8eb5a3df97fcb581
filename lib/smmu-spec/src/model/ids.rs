//! Identification register sets of several SMMUs.

/// IDR0 to IDR5, IIDR and AIDR.
#[derive(Clone, Copy, Debug)]
pub struct IdRegisters {
    /// IDR0 to IDR5.
    pub idr: [u32; 6],
    /// IIDR: the implementation.
    pub iidr: u32,
    /// AIDR.
    pub aidr: u32,
}

impl IdRegisters {
    /// Both stages: QEMU 10.0's `virt` machine, with 16-bit StreamIDs.
    pub const NESTED: Self = Self { idr: [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74], iidr: 0, aidr: 1 };
    /// Stage 1 only: QEMU's `virt-9.1`.
    pub const STAGE1: Self = Self { idr: [0x0d44_101a, 0x0273_0010, 0, 0x1404, 0, 0x74], iidr: 0, aidr: 1 };
    /// Stage 2 only.
    pub const STAGE2: Self = Self { idr: [0x0d44_1019, 0x0273_0010, 0, 0x1414, 0, 0x74], iidr: 0, aidr: 1 };
    /// An early, small one: stage 1, linear stream table of 16 streams, 8-bit ASIDs, no range invalidation,
    /// walks that do not snoop, 40 bits of address, queues of 16 entries.
    pub const SMALL: Self = Self { idr: [0x0440_000a, 0x0084_0004, 0, 0, 0, 0x12], iidr: 0, aidr: 0 };

    /// `ids` in an Arm MMU-700.
    pub const fn mmu_700(ids: Self) -> Self {
        Self { iidr: 0x4871_143b, ..ids }
    }

    pub(super) const fn is_mmu_700(&self) -> bool {
        self.iidr & 0xfff0_0fff == 0x4870_043b
    }

    pub(super) const fn has(&self, register: usize, bit: u32) -> bool {
        crate::field::is_set(bit, self.idr[register] as u64)
    }

    pub(super) const fn stage1(&self) -> bool {
        self.has(0, 1)
    }

    pub(super) const fn stage2(&self) -> bool {
        self.has(0, 0)
    }

    pub(super) const fn ranges(&self) -> bool {
        self.has(3, 10)
    }

    pub(super) const fn stream_bits(&self) -> u32 {
        crate::field::extract(5, 0, self.idr[1] as u64) as u32
    }

    pub(super) const fn output_bits(&self) -> u32 {
        [32, 36, 40, 42, 44, 48, 52, 56][crate::field::extract(2, 0, self.idr[5] as u64) as usize]
    }
}
