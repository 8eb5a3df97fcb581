//! The memory type of a buffer, which all its mappings share.

/// How the processors and devices that map a frame reach it. It belongs to the buffer, never to one mapping: two
/// mappings of a frame with different types lose coherency (DDI 0487, B2.8 "Mismatched memory attributes").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryType {
    /// Normal, inner and outer write-back cacheable, inner shareable.
    WriteBack,
    /// Normal, inner and outer non-cacheable: coherent with devices that do not snoop, writes may gather.
    NonCacheable,
    /// Device-nGnRE: registers.
    Device,
}
