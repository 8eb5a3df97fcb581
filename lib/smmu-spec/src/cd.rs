//! Context descriptors: stage 1 translation parameters (IHI 0070, 5.4).

use crate::coherency::WalkCoherency;
use crate::field::{address, field, flag, is_set, mask};
use addr::{Asid, PhysAddr};

/// Stage 1 translation parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1Config {
    /// The root table, 4 KiB granule.
    pub tables: PhysAddr,
    /// The input address size in bits, 25 to 48.
    pub input_bits: u8,
    /// The encoded output address size: [`output_size`].
    pub output_size: u64,
    /// The tag of the translations.
    pub asid: Asid,
    /// Coherency of table walks.
    pub coherency: WalkCoherency,
}

/// A context descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextDescriptor(
    /// The eight 64-bit words.
    pub [u64; 8],
);

/// Memory attributes by index, equal to the CPU's MAIR_EL1: 0 Normal write-back read- and write-allocate, 1
/// Normal non-cacheable, 2 Device-nGnRE, 3 Device-nGnRnE.
pub const MAIR: u64 = field(7, 0, 0xff) | field(15, 8, 0x44) | field(23, 16, 0x04) | field(31, 24, 0x00);

/// The encoding of an output address size of `bits` in CD.IPS and STE.S2PS for the 4 KiB granule, rounded
/// down and at most 48 bits (5). Larger sizes (6, 7) need other granules or LPA2, which these tables do not
/// use.
pub const fn output_size(bits: u8) -> u64 {
    match bits {
        48.. => 5,
        44.. => 4,
        42.. => 3,
        40.. => 2,
        36.. => 1,
        _ => 0,
    }
}

impl ContextDescriptor {
    /// An invalid descriptor: transactions abort with C_BAD_CD.
    pub const INVALID: Self = Self([0; 8]);
    /// Bytes of a descriptor.
    pub const BYTES: u64 = 64;

    /// The valid descriptor for `space`: AArch64 tables, TTB0 only; faults abort the transaction and are
    /// recorded.
    pub const fn new(space: Stage1Config) -> Self {
        let word0 = field(5, 0, 64 - space.input_bits as u64) // T0SZ
            | field(7, 6, 0b00)                               // TG0: 4 KiB
            | field(9, 8, space.coherency.cacheability())     // IR0
            | field(11, 10, space.coherency.cacheability())   // OR0
            | field(13, 12, space.coherency.shareability())   // SH0
            | flag(14, false)                                 // EPD0: TTB0 walks enabled
            | flag(15, false)                                 // ENDI: little-endian tables
            | flag(30, true)                                  // EPD1: TTB1 walks disabled
            | flag(31, true)                                  // V
            | field(34, 32, space.output_size)                // IPS
            | flag(35, false)                                 // AFFD: Access flag faults happen
            | field(37, 36, 0b00)                             // WXN, UWXN
            | field(39, 38, 0b00)                             // TBI0, TBI1: the top byte is not ignored
            | flag(40, false)                                 // PAN
            | flag(41, true)                                  // AA64
            | field(43, 42, 0b00)                             // HD, HA: software sets the Access flag
            | flag(44, false)                                 // S: faults terminate, no stalls
            | flag(45, true)                                  // R: faults are recorded
            | flag(46, true)                                  // A: faults abort, not RAZ/WI
            | flag(47, true)                                  // ASET: not affected by broadcast TLBI by ASID
            | field(63, 48, space.asid.raw() as u64); // ASID
        let word1 = address(55, 4, space.tables.raw()); // TTB0; HAD0 = 0
        Self([word0, word1, 0, MAIR, 0, 0, 0, 0])
    }

    /// The index of the word with the flag that [`recording`](Self::recording) sets.
    pub const RECORD_WORD: usize = 0;
    const RECORD: u64 = flag(45, true);

    /// The same descriptor, whose faults are recorded, or abort the transaction without an event (CD.R).
    pub const fn recording(mut self, records: bool) -> Self {
        let word = self.0[Self::RECORD_WORD] & !Self::RECORD;
        self.0[Self::RECORD_WORD] = if records { word | Self::RECORD } else { word };
        self
    }

    /// Whether the descriptor is valid.
    pub const fn is_valid(&self) -> bool {
        is_set(31, self.0[0])
    }

    /// The bits of each word that the SMMU uses with this configuration.
    pub const fn used_bits(&self) -> [u64; 8] {
        if self.is_valid() { [u64::MAX; 8] } else { [mask(31, 31), 0, 0, 0, 0, 0, 0, 0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::extract;

    const SPACE: Stage1Config = Stage1Config {
        tables: PhysAddr::new(0x9_8765_4000),
        input_bits: 48,
        output_size: 4,
        asid: Asid::new(0x1234),
        coherency: WalkCoherency::Coherent,
    };

    #[test]
    fn descriptor_encoding_matches_the_manual() {
        let cd = ContextDescriptor::new(SPACE);
        // T0SZ 16, IR0 = OR0 = 1, SH0 = 3, EPD1, V; IPS 4, AA64, R, A, ASET, ASID.
        assert_eq!(cd.0[0] as u32, 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31);
        assert_eq!((cd.0[0] >> 32) as u32, 4 | 1 << 9 | 1 << 13 | 1 << 14 | 1 << 15 | 0x1234 << 16);
        assert_eq!(cd.0[1..], [0x9_8765_4000, 0, 0x0004_44ff, 0, 0, 0, 0]);
    }

    #[test]
    fn recording_is_one_flag() {
        let cd = ContextDescriptor::new(SPACE);
        assert_eq!(cd.recording(true), cd);
        let silent = cd.recording(false);
        assert_eq!((cd.0[0] ^ silent.0[0], &cd.0[1..]), (1 << 45, &silent.0[1..]));
    }

    #[test]
    fn non_coherent_walks_are_non_cacheable() {
        let cd = ContextDescriptor::new(Stage1Config { coherency: WalkCoherency::NonCoherent, ..SPACE });
        assert_eq!(extract(13, 8, cd.0[0]), 0b10_00_00);
    }

    #[test]
    fn output_size_is_never_a_reserved_encoding() {
        let cases = [(32, 0), (36, 1), (39, 1), (40, 2), (42, 3), (44, 4), (48, 5), (52, 5), (56, 5)];
        for (bits, encoded) in cases {
            assert_eq!(output_size(bits), encoded, "{bits}");
        }
    }
}
