//! Coherency of the SMMU's own accesses to tables, descriptors and queues.

/// Whether the SMMU's table walks and queue accesses snoop the CPU caches (IDR0.COHACC, or the device tree's
/// `dma-coherent`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkCoherency {
    /// Accesses snoop: cacheable, inner shareable, no cache maintenance.
    Coherent,
    /// Accesses do not snoop: non-cacheable, outer shareable; the CPU cleans its writes to the point of
    /// coherency.
    NonCoherent,
}

/// Normal non-cacheable, in every two-bit cacheability field of the architecture.
const NON_CACHEABLE: u64 = 0b00;
/// Normal write-back, read-allocate.
const WRITE_BACK: u64 = 0b01;
const OUTER_SHAREABLE: u64 = 0b10;
const INNER_SHAREABLE: u64 = 0b11;

impl WalkCoherency {
    /// The two-bit inner and outer cacheability (S1CIR, S1COR, IR0, OR0, S2IR0, S2OR0, CR1's *_IC and *_OC):
    /// write-back read-allocate, or non-cacheable.
    pub const fn cacheability(self) -> u64 {
        match self {
            Self::Coherent => WRITE_BACK,
            Self::NonCoherent => NON_CACHEABLE,
        }
    }

    /// The two-bit shareability (S1CSH, SH0, S2SH0, CR1's *_SH): inner, or outer, as for non-cacheable
    /// memory.
    pub const fn shareability(self) -> u64 {
        match self {
            Self::Coherent => INNER_SHAREABLE,
            Self::NonCoherent => OUTER_SHAREABLE,
        }
    }
}
