//! The encoding of a 64-bit translation table descriptor (D8.3).

use crate::geometry::LAST_LEVEL;
use crate::{Access, InputAddress, Mapping};
use addr::{MemoryType, PhysAddr};
use core::fmt;

/// `value` in the bits `hi` down to `lo`, as in the manual's tables.
const fn field(hi: u32, lo: u32, value: u64) -> u64 {
    assert!(value >> (hi - lo + 1) == 0, "value too wide for its field");
    value << lo
}

const VALID: u64 = field(0, 0, 1);
/// Table at levels 0 to 2, page at level 3; a block has it clear.
const TABLE_OR_PAGE: u64 = field(1, 1, 1);
const INNER_SHAREABLE: u64 = field(9, 8, 0b11);
const OUTER_SHAREABLE: u64 = field(9, 8, 0b10);
/// AF: always set, so that accesses never take Access flag faults.
const ACCESSED: u64 = field(10, 10, 1);
/// Output address or next table, bits 47 to 12.
const OUTPUT: u64 = field(47, 12, (1 << 36) - 1);
const CONTIGUOUS: u64 = field(52, 52, 1);

/// A translation table entry.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Descriptor(u64);

impl Descriptor {
    /// No translation.
    pub const INVALID: Self = Self(0);

    /// The entry with this bit pattern.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// The bit pattern.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// A table descriptor for `table`, without hierarchical restrictions.
    pub const fn table(table: PhysAddr) -> Self {
        Self(table.raw() & OUTPUT | TABLE_OR_PAGE | VALID)
    }
    /// A page (level 3) or block (levels 1 and 2) at `output`, with attributes from [`Format::attributes`].
    pub const fn leaf(output: PhysAddr, level: u8, attributes: u64) -> Self {
        let kind = if level == LAST_LEVEL { TABLE_OR_PAGE } else { 0 };
        Self(output.raw() | attributes | kind | VALID)
    }
    /// Whether the entry is valid.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }
    /// Whether it is a table descriptor, for an entry of `level`.
    pub const fn is_table(self, level: u8) -> bool {
        level < LAST_LEVEL && self.0 & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }
    /// The output address, or the address of the next table.
    pub const fn output(self) -> PhysAddr {
        PhysAddr::new(self.0 & OUTPUT)
    }
    /// The attributes ([`Format::attributes`]), with the contiguous hint.
    pub const fn attributes(self) -> u64 {
        self.0 & !(OUTPUT | TABLE_OR_PAGE | VALID)
    }
    /// Whether a TLB may cache the aligned group of sixteen entries as one (D8.7.1).
    pub const fn is_contiguous(self) -> bool {
        self.0 & CONTIGUOUS != 0
    }
    /// The same with the contiguous hint.
    pub const fn contiguous(self) -> Self {
        Self(self.0 | CONTIGUOUS)
    }
    /// The same without the contiguous hint.
    pub const fn without_contiguous(self) -> Self {
        Self(self.0 & !CONTIGUOUS)
    }
    /// The same with the attributes replaced; output, size and contiguous hint stay.
    pub const fn with_attributes(self, attributes: u64) -> Self {
        Self(self.0 & (OUTPUT | CONTIGUOUS | TABLE_OR_PAGE | VALID) | attributes)
    }
    /// The same leaf with the output address advanced by `bytes`.
    pub(crate) const fn advanced(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
    /// The same, invalid: walkers see no translation, while software can restore the entry.
    pub const fn broken(self) -> Self {
        Self(self.0 & !VALID)
    }
    /// Whether [`Descriptor::broken`] returned it.
    pub const fn is_broken(self) -> bool {
        self.0 != 0 && !self.is_valid()
    }
    /// The inverse of [`Descriptor::broken`].
    pub const fn restored(self) -> Self {
        Self(self.0 | VALID)
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({:#018x})", self.0)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Stage1 {}
    impl Sealed for super::Stage2 {}
}

/// The attribute bits of one translation stage.
pub trait Format: sealed::Sealed {
    /// The access permission bits, which may change without break-before-make (D8.16.1).
    const RIGHTS: u64;

    /// Whether this stage can encode exactly `access`.
    fn can_express(access: Access) -> bool;
    /// The attribute bits of a leaf, without the contiguous hint.
    fn attributes<A: InputAddress>(mapping: Mapping) -> u64;
    /// The memory type of a leaf.
    fn memory(leaf: Descriptor) -> MemoryType;
    /// The access rights of a leaf.
    fn access<A: InputAddress>(leaf: Descriptor) -> Access;
}

/// Stage 1 of the EL1&0 regime, and of an SMMU context descriptor. MAIR must hold, by index: 0 Normal
/// write-back (0xff), 1 Normal non-cacheable (0x44), 2 Device-nGnRE (0x04), 3 Device-nGnRnE (0x00).
#[derive(Debug)]
pub enum Stage1 {}

/// Stage 2, of a stream table entry. Memory types without FEAT_S2FWB; execute permissions have the same
/// meaning with and without FEAT_XNX.
#[derive(Debug)]
pub enum Stage2 {}

/// SH: the shareability of a memory type. Non-cacheable and Device memory are outer shareable regardless of
/// the field (D8.6); encoding it keeps the attributes of all aliases equal.
const fn shareability(memory: MemoryType) -> u64 {
    match memory {
        MemoryType::WriteBack => INNER_SHAREABLE,
        MemoryType::NonCacheable | MemoryType::Device | MemoryType::DeviceNonPosted => OUTER_SHAREABLE,
    }
}

impl Stage1 {
    const ATTR_INDEX: u64 = field(4, 2, 0b111);
    /// AP\[1\]: unprivileged accesses are permitted.
    const UNPRIVILEGED: u64 = field(6, 6, 1);
    /// AP\[2\].
    const READ_ONLY: u64 = field(7, 7, 1);
    const NOT_GLOBAL: u64 = field(11, 11, 1);
    const PXN: u64 = field(53, 53, 1);
    const UXN: u64 = field(54, 54, 1);

    const fn attr_index(memory: MemoryType) -> u64 {
        match memory {
            MemoryType::WriteBack => field(4, 2, 0),
            MemoryType::NonCacheable => field(4, 2, 1),
            MemoryType::Device => field(4, 2, 2),
            MemoryType::DeviceNonPosted => field(4, 2, 3),
        }
    }
}

impl Format for Stage1 {
    const RIGHTS: u64 = Self::UNPRIVILEGED | Self::READ_ONLY | Self::PXN | Self::UXN;

    fn can_express(access: Access) -> bool {
        access.contains(Access::READ)
    }

    fn attributes<A: InputAddress>(mapping: Mapping) -> u64 {
        let access = mapping.access();
        let privileged = A::PRIVILEGED || access.contains(Access::PRIVILEGED);
        let mut bits = ACCESSED | Self::attr_index(mapping.memory()) | shareability(mapping.memory());
        bits |= Self::PXN | Self::UXN;
        if access.contains(Access::EXECUTE) {
            bits &= !(if privileged { Self::PXN } else { Self::UXN });
        }
        if !privileged {
            bits |= Self::UNPRIVILEGED;
        }
        if !access.contains(Access::WRITE) {
            bits |= Self::READ_ONLY;
        }
        if !A::GLOBAL {
            bits |= Self::NOT_GLOBAL;
        }
        bits
    }

    fn memory(leaf: Descriptor) -> MemoryType {
        match leaf.bits() & Self::ATTR_INDEX {
            index if index == Self::attr_index(MemoryType::WriteBack) => MemoryType::WriteBack,
            index if index == Self::attr_index(MemoryType::NonCacheable) => MemoryType::NonCacheable,
            index if index == Self::attr_index(MemoryType::Device) => MemoryType::Device,
            _ => MemoryType::DeviceNonPosted,
        }
    }

    fn access<A: InputAddress>(leaf: Descriptor) -> Access {
        let bits = leaf.bits();
        let mut access = Access::READ;
        access.set(Access::WRITE, bits & Self::READ_ONLY == 0);
        access.set(Access::PRIVILEGED, !A::PRIVILEGED && bits & Self::UNPRIVILEGED == 0);
        access.set(Access::EXECUTE, bits & (Self::PXN | Self::UXN) != Self::PXN | Self::UXN);
        access
    }
}

impl Stage2 {
    /// MemAttr\[3:0\]: outer attribute in the upper half, inner one in the lower.
    const MEM_ATTR: u64 = field(5, 2, 0b1111);
    /// S2AP\[0\].
    const READ: u64 = field(6, 6, 1);
    /// S2AP\[1\].
    const WRITE: u64 = field(7, 7, 1);
    /// XN\[1:0\], and its value for execute-never at EL0 and EL1, with and without FEAT_XNX.
    const XN: u64 = field(54, 53, 0b11);
    const EXECUTE_NEVER: u64 = field(54, 53, 0b10);

    const fn mem_attr(memory: MemoryType) -> u64 {
        match memory {
            MemoryType::WriteBack => field(5, 2, 0b1111),
            MemoryType::NonCacheable => field(5, 2, 0b0101),
            MemoryType::Device => field(5, 2, 0b0001),
            MemoryType::DeviceNonPosted => field(5, 2, 0b0000),
        }
    }
}

impl Format for Stage2 {
    const RIGHTS: u64 = Self::READ | Self::WRITE | Self::XN;

    fn can_express(access: Access) -> bool {
        !access.contains(Access::PRIVILEGED)
    }

    fn attributes<A: InputAddress>(mapping: Mapping) -> u64 {
        let access = mapping.access();
        let mut bits = ACCESSED | Self::mem_attr(mapping.memory()) | shareability(mapping.memory());
        if access.contains(Access::READ) {
            bits |= Self::READ;
        }
        if access.contains(Access::WRITE) {
            bits |= Self::WRITE;
        }
        if !access.contains(Access::EXECUTE) {
            bits |= Self::EXECUTE_NEVER;
        }
        bits
    }

    fn memory(leaf: Descriptor) -> MemoryType {
        match leaf.bits() & Self::MEM_ATTR {
            attr if attr == Self::mem_attr(MemoryType::WriteBack) => MemoryType::WriteBack,
            attr if attr == Self::mem_attr(MemoryType::NonCacheable) => MemoryType::NonCacheable,
            attr if attr == Self::mem_attr(MemoryType::Device) => MemoryType::Device,
            _ => MemoryType::DeviceNonPosted,
        }
    }

    fn access<A: InputAddress>(leaf: Descriptor) -> Access {
        let bits = leaf.bits();
        let mut access = Access::empty();
        access.set(Access::READ, bits & Self::READ != 0);
        access.set(Access::WRITE, bits & Self::WRITE != 0);
        access.set(Access::EXECUTE, bits & Self::XN == 0);
        access
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{Iova, KernelVa, UserVa};

    const NC: MemoryType = MemoryType::NonCacheable;
    const WB: MemoryType = MemoryType::WriteBack;
    const NP: MemoryType = MemoryType::DeviceNonPosted;

    #[test]
    fn stage_1_attributes_match_the_manual() {
        // AttrIndx 4:2, AP 7:6, SH 9:8, AF 10, nG 11, PXN 53, UXN 54.
        let rw = Mapping::read_write(WB);
        let ro = Mapping::read_only(NC);
        let cases = [
            (Stage1::attributes::<KernelVa>(rw), 0x0060_0000_0000_0700),
            (Stage1::attributes::<KernelVa>(Mapping::code()), 0x0040_0000_0000_0780),
            (Stage1::attributes::<KernelVa>(Mapping::read_write(MemoryType::Device)), 0x0060_0000_0000_0608),
            (Stage1::attributes::<KernelVa>(Mapping::read_write(NP)), 0x0060_0000_0000_060c),
            (Stage1::attributes::<UserVa>(rw), 0x0060_0000_0000_0f40),
            (Stage1::attributes::<UserVa>(Mapping::code()), 0x0020_0000_0000_0fc0),
            (Stage1::attributes::<UserVa>(ro), 0x0060_0000_0000_0ec4),
            (Stage1::attributes::<UserVa>(ro.privileged()), 0x0060_0000_0000_0e84),
            (Stage1::attributes::<Iova>(rw), 0x0060_0000_0000_0f40),
            (Stage1::attributes::<Iova>(rw.privileged()), 0x0060_0000_0000_0f00),
        ];
        for (row, (bits, expected)) in cases.into_iter().enumerate() {
            assert_eq!(bits, expected, "row {row}: {bits:#x}");
        }
    }

    #[test]
    fn stage_2_attributes_match_the_manual() {
        // MemAttr 5:2, S2AP 7:6, SH 9:8, AF 10, XN 54:53.
        let write_only = Mapping::new(NC, Access::WRITE).unwrap();
        let cases = [
            (Stage2::attributes::<Iova>(Mapping::read_write(WB)), 0x0040_0000_0000_07fc),
            (Stage2::attributes::<Iova>(Mapping::read_only(NC)), 0x0040_0000_0000_0654),
            (Stage2::attributes::<Iova>(write_only), 0x0040_0000_0000_0694),
            (Stage2::attributes::<Iova>(Mapping::read_write(MemoryType::Device)), 0x0040_0000_0000_06c4),
            (Stage2::attributes::<Iova>(Mapping::read_write(NP)), 0x0040_0000_0000_06c0),
            (Stage2::attributes::<Iova>(Mapping::code()), 0x0000_0000_0000_077c),
        ];
        for (row, (bits, expected)) in cases.into_iter().enumerate() {
            assert_eq!(bits, expected, "row {row}: {bits:#x}");
        }
    }

    fn all_mappings() -> impl Iterator<Item = Mapping> {
        let types = [WB, NC, MemoryType::Device, NP];
        (0..16)
            .flat_map(move |bits| types.map(|memory| Mapping::new(memory, Access::from_bits_truncate(bits))))
            .flatten()
    }

    fn check_round_trip<F: Format, A: InputAddress>() {
        for mapping in all_mappings().filter(|m| F::can_express(m.access())) {
            let leaf =
                Descriptor::leaf(PhysAddr::new(0xabcd_e000), 3, F::attributes::<A>(mapping)).contiguous();
            let mut access = mapping.access();
            access.set(Access::PRIVILEGED, access.contains(Access::PRIVILEGED) && !A::PRIVILEGED);
            assert_eq!((F::memory(leaf), F::access::<A>(leaf)), (mapping.memory(), access));
            assert_eq!(leaf.output(), PhysAddr::new(0xabcd_e000));
        }
    }

    #[test]
    fn attributes_round_trip() {
        check_round_trip::<Stage1, KernelVa>();
        check_round_trip::<Stage1, UserVa>();
        check_round_trip::<Stage1, Iova>();
        check_round_trip::<Stage2, Iova>();
    }

    #[test]
    fn can_express_rejects_rights_without_an_encoding() {
        assert!(!Stage1::can_express(Access::WRITE) && !Stage1::can_express(Access::empty()));
        assert!(!Stage1::can_express(Access::EXECUTE));
        assert!(!Stage2::can_express(Access::READ | Access::PRIVILEGED));
        assert!(Stage2::can_express(Access::WRITE) && Stage2::can_express(Access::empty()));
    }

    #[test]
    fn descriptor_type_depends_on_the_level() {
        let output = PhysAddr::new(0x4000_0000);
        assert_eq!(Descriptor::leaf(output, 3, 0).bits(), 0x4000_0003);
        assert_eq!(Descriptor::leaf(output, 2, 0).bits(), 0x4000_0001);
        assert_eq!(Descriptor::table(output).bits(), 0x4000_0003);
        assert!(Descriptor::table(output).is_table(2) && !Descriptor::leaf(output, 3, 0).is_table(3));
        assert!(!Descriptor::leaf(output, 1, 0).is_table(1) && !Descriptor::INVALID.is_table(0));
    }

    #[test]
    fn broken_entry_is_invalid_and_restorable() {
        let leaf = Descriptor::leaf(PhysAddr::new(0x20_0000), 2, ACCESSED).contiguous();
        assert_eq!(leaf.bits(), 0x0010_0000_0020_0401);
        assert!(!leaf.broken().is_valid() && leaf.broken().is_broken() && leaf.broken().restored() == leaf);
        assert!(!Descriptor::INVALID.is_broken() && !leaf.is_broken());
    }
}
