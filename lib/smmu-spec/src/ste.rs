//! Stream table entries and first-level stream table descriptors (IHI 0070, 5.1 and 5.2).

use crate::coherency::WalkCoherency;
use crate::field::{address, extract, field, flag, is_set, mask};
use addr::{Asid, PhysAddr, Vmid};

/// The tag of a domain's TLB entries in the SMMU. Each set of tables has its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TlbTag {
    /// Stage 1: tagged by ASID, with VMID 0.
    Stage1(Asid),
    /// Stage 2 only: tagged by VMID.
    Stage2(Vmid),
}

/// The VMID of all stage 1 streams. If stage 2 is implemented, S2VMID tags stage 1 translations too and every
/// TLBI must use the same VMID (IHI 0070, 5.2, S2VMID).
pub const STAGE1_VMID: Vmid = Vmid::new(0);

/// Stage 2 translation parameters. They are in the STE, since stage 2 has no context descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Config {
    /// The tag of the translations.
    pub vmid: Vmid,
    /// The root table, 4 KiB granule.
    pub tables: PhysAddr,
    /// The input address size in bits, 25 to 48.
    pub input_bits: u8,
    /// The encoded output address size: [`crate::cd::output_size`].
    pub output_size: u64,
    /// Coherency of table walks.
    pub coherency: WalkCoherency,
    /// Whether faults are recorded; otherwise they abort the transaction without an event (S2R).
    pub records_faults: bool,
}

/// The treatment of a stream's transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamConfig {
    /// Aborted, without an event.
    Abort,
    /// Untranslated, with the incoming attributes.
    Bypass,
    /// Translated by stage 1.
    Stage1 {
        /// The address of the single context descriptor, aligned to 64 bytes.
        context: PhysAddr,
        /// Coherency of descriptor fetches.
        coherency: WalkCoherency,
    },
    /// Translated by stage 2 only.
    Stage2(Stage2Config),
}

/// A stream table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ste(
    /// The eight 64-bit words.
    pub [u64; 8],
);

const VALID: u64 = flag(0, true);
const CONFIG_ABORT: u64 = 0b000;
const CONFIG_BYPASS: u64 = 0b100;
const CONFIG_STAGE1: u64 = 0b101;
const CONFIG_STAGE2: u64 = 0b110;

impl Ste {
    /// An invalid entry: transactions abort with C_BAD_STE.
    pub const INVALID: Self = Self([0; 8]);
    /// Bytes of an entry.
    pub const BYTES: u64 = 64;

    /// The valid entry for `config`.
    pub const fn new(config: StreamConfig) -> Self {
        match config {
            StreamConfig::Abort => Self([VALID | field(3, 1, CONFIG_ABORT), 0, 0, 0, 0, 0, 0, 0]),
            StreamConfig::Bypass => {
                Self([VALID | field(3, 1, CONFIG_BYPASS), INCOMING_ATTRIBUTES, 0, 0, 0, 0, 0, 0])
            }
            StreamConfig::Stage1 { context, coherency } => Self::stage1(context, coherency),
            StreamConfig::Stage2(stage2) => Self::stage2(stage2),
        }
    }

    const fn stage1(context: PhysAddr, coherency: WalkCoherency) -> Self {
        let word0 = VALID
            | field(3, 1, CONFIG_STAGE1)
            | field(5, 4, 0)                // S1Fmt: linear (ignored with one context descriptor)
            | address(55, 6, context.raw()) // S1ContextPtr
            | field(63, 59, 0); // S1CDMax: one context, no substreams
        let word1 = INCOMING_ATTRIBUTES
            | field(1, 0, 0b00)                     // S1DSS: terminate (ignored without substreams)
            | field(3, 2, coherency.cacheability()) // S1CIR
            | field(5, 4, coherency.cacheability()) // S1COR
            | field(7, 6, coherency.shareability()); // S1CSH
        let word2 = field(15, 0, STAGE1_VMID.raw() as u64); // S2VMID tags stage 1 where stage 2 exists
        Self([word0, word1, word2, 0, 0, 0, 0, 0])
    }

    const fn stage2(stage2: Stage2Config) -> Self {
        let word2 = field(15, 0, stage2.vmid.raw() as u64)   // S2VMID
            | field(37, 32, 64 - stage2.input_bits as u64)   // S2T0SZ
            | field(39, 38, stage2_start(stage2.input_bits)) // S2SL0
            | field(41, 40, stage2.coherency.cacheability()) // S2IR0
            | field(43, 42, stage2.coherency.cacheability()) // S2OR0
            | field(45, 44, stage2.coherency.shareability()) // S2SH0
            | field(47, 46, 0b00)                            // S2TG: 4 KiB
            | field(50, 48, stage2.output_size)              // S2PS
            | flag(51, true)                                 // S2AA64
            | flag(52, false)                                // S2ENDI: little-endian tables
            | flag(53, false)                                // S2AFFD: Access flag faults happen
            | flag(54, false)                                // S2PTW: no stage 1 walks to protect
            | field(56, 55, 0b00)                            // S2HD, S2HA: software sets the Access flag
            | flag(57, false)                                // S2S: faults terminate, no stalls
            | flag(58, stage2.records_faults); // S2R
        let word3 = address(55, 4, stage2.tables.raw()); // S2TTB
        Self([VALID | field(3, 1, CONFIG_STAGE2), INCOMING_ATTRIBUTES, word2, word3, 0, 0, 0, 0])
    }

    /// Whether the entry is valid.
    pub const fn is_valid(&self) -> bool {
        is_set(0, self.0[0])
    }

    /// The bits of each word that the SMMU uses with this configuration; all other bits may change while the
    /// entry is live. Reserved Config encodings abort like 0b000 (IHI 0070, 5.2, Config).
    pub const fn used_bits(&self) -> [u64; 8] {
        let config = extract(3, 1, self.0[0]);
        if !self.is_valid() {
            return [mask(0, 0), 0, 0, 0, 0, 0, 0, 0];
        }
        match config {
            CONFIG_BYPASS => [mask(3, 0), mask(63, 8), 0, 0, 0, 0, 0, 0],
            CONFIG_STAGE1 => [u64::MAX, u64::MAX, mask(15, 0), 0, 0, 0, 0, 0],
            CONFIG_STAGE2 => [mask(3, 0), mask(63, 8), u64::MAX, u64::MAX, 0, 0, 0, 0],
            // Nested: all bits.
            0b111 => [u64::MAX; 8],
            _ => [mask(3, 0), mask(16, 13), 0, 0, 0, 0, 0, 0],
        }
    }
}

/// Word 1 of every entry that does not abort: memory type, allocation hints, shareability, privilege and
/// instruction attributes are the incoming ones.
const INCOMING_ATTRIBUTES: u64 = flag(19, false) // MEV: each event has its own record
    | flag(27, false)     // S1STALLD: no stalls, since CD.S is 0
    | field(29, 28, 0b00) // EATS: ATS requests abort
    | field(31, 30, 0b00) // STRW: NS-EL1, tagged by ASID and VMID
    | field(35, 32, 0)    // MemAttr: ignored as MTCFG is 0
    | flag(36, false)     // MTCFG: incoming memory type
    | field(40, 37, 0)    // ALLOCCFG: incoming allocation hints
    | field(45, 44, 0b01) // SHCFG: incoming shareability
    | field(47, 46, 0b00) // NSCFG: incoming (the only value for non-secure streams)
    | field(49, 48, 0b00) // PRIVCFG: incoming
    | field(51, 50, 0b00); // INSTCFG: incoming

/// S2SL0 for the 4 KiB granule: the start level for `input_bits` without concatenated tables.
const fn stage2_start(input_bits: u8) -> u64 {
    match input_bits {
        40..=48 => 0b10,
        31..=39 => 0b01,
        _ => 0b00,
    }
}

/// A first-level stream table descriptor (IHI 0070, 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L1Descriptor(
    /// The 64-bit word.
    pub u64,
);

impl L1Descriptor {
    /// No second-level table: the streams abort with C_BAD_STREAMID.
    pub const NONE: Self = Self(0);

    /// A descriptor of a second-level table of `2^log2` entries, aligned to its size.
    pub const fn new(table: PhysAddr, log2: u8) -> Self {
        assert!(log2 <= 10 && table.raw() & ((Ste::BYTES << log2) - 1) == 0, "unaligned second-level table");
        Self(address(55, 6, table.raw()) | field(4, 0, log2 as u64 + 1))
    }

    /// The second-level table and the log2 of its number of entries, unless Span is 0 or reserved.
    pub const fn table(self) -> Option<(PhysAddr, u8)> {
        match extract(4, 0, self.0) {
            span @ 1..=11 => {
                let table = self.0 & mask(55, 6) & !((Ste::BYTES << (span - 1)) - 1);
                Some((PhysAddr::new(table), span as u8 - 1))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage1_entry_encoding_matches_the_manual() {
        let config = StreamConfig::Stage1 {
            context: PhysAddr::new(0x1234_5678_9a40),
            coherency: WalkCoherency::Coherent,
        };
        let ste = Ste::new(config);
        assert_eq!(ste.0[0], 0x1234_5678_9a40 | 0b1011);
        // S1CIR = S1COR = 0b01, S1CSH = 0b11; SHCFG (bits [109:108]) = 0b01.
        assert_eq!(ste.0[1], 0b1101_0100 | 1 << 44);
        assert_eq!(&ste.0[2..], &[0; 6]);
    }

    #[test]
    fn non_coherent_context_fetches_are_non_cacheable() {
        let config =
            StreamConfig::Stage1 { context: PhysAddr::new(0x1000), coherency: WalkCoherency::NonCoherent };
        assert_eq!(Ste::new(config).0[1], 0b10 << 6 | 1 << 44);
    }

    #[test]
    fn stage2_entry_encoding_matches_the_manual() {
        let ste = Ste::new(StreamConfig::Stage2(Stage2Config {
            vmid: Vmid::new(0xabcd),
            tables: PhysAddr::new(0x8_0000_1000),
            input_bits: 44,
            output_size: 4,
            coherency: WalkCoherency::Coherent,
            records_faults: true,
        }));
        assert_eq!(ste.0[0], 0b1101);
        assert_eq!(ste.0[1], 1 << 44);
        // S2VMID, S2T0SZ = 20, S2SL0 = 2, S2IR0 = S2OR0 = 1, S2SH0 = 3, S2PS = 4, S2AA64, S2R.
        let vtcr = 20 | 2 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 4 << 16 | 1 << 19 | 1 << 26;
        assert_eq!(ste.0[2], 0xabcd | vtcr << 32);
        assert_eq!((ste.0[3], &ste.0[4..]), (0x8_0000_1000, &[0; 4][..]));
    }

    #[test]
    fn stage2_start_level_follows_the_input_size() {
        for (bits, start) in [(25, 0), (30, 0), (31, 1), (39, 1), (40, 2), (48, 2)] {
            assert_eq!(stage2_start(bits), start, "{bits}");
        }
    }

    #[test]
    fn abort_and_bypass_are_valid_entries() {
        assert_eq!(Ste::new(StreamConfig::Abort).0, [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Ste::new(StreamConfig::Bypass).0, [0b1001, 1 << 44, 0, 0, 0, 0, 0, 0]);
        assert!(!Ste::INVALID.is_valid());
    }

    #[test]
    fn first_level_descriptor_encodes_span_and_table() {
        let table = PhysAddr::new(0x4_0000_4000);
        assert_eq!(L1Descriptor::new(table, 8).0, 0x4_0000_4000 | 9);
        assert_eq!(L1Descriptor::new(table, 8).table(), Some((table, 8)));
        // The SMMU ignores address bits below the table size; spans of 0 and above 11 have no table.
        assert_eq!(L1Descriptor(0x4_0000_4040 | 9).table(), Some((table, 8)));
        assert_eq!((L1Descriptor::NONE.table(), L1Descriptor(0x1000 | 12).table()), (None, None));
    }
}
