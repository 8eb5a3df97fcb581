//! The memory type of a buffer, shared by all its mappings.

/// The memory type of a frame in all CPU mappings. It belongs to the buffer, not to a mapping: mappings of a
/// frame with different types lose coherency (DDI 0487, B2.8 "Mismatched memory attributes"). The SMMU's
/// mappings have the same type, but are non-cacheable for a device that does not snoop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryType {
    /// Normal, inner and outer write-back cacheable, inner shareable.
    WriteBack,
    /// Normal, inner and outer non-cacheable: coherent with devices that do not snoop, writes may gather.
    NonCacheable,
    /// Device-nGnRE: registers.
    Device,
    /// Device-nGnRnE: registers whose writes only the device itself acknowledges, such as PCIe configuration
    /// space, where writes are non-posted.
    DeviceNonPosted,
}
