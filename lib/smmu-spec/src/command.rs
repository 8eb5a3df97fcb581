//! SMMU commands (IHI 0070, 4).

use crate::field::{address, extract, field, flag, is_set, mask};
use addr::{Asid, Iova, StreamId, Vmid};

/// A command of the non-secure command queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// CMD_CFGI_STE: invalidates one cached stream table entry and the context descriptors reached through
    /// it.
    CfgiSte {
        /// The stream.
        stream: StreamId,
        /// The cached first-level descriptor may be kept.
        leaf: bool,
    },
    /// CMD_CFGI_STE_RANGE: invalidates the entries of `2^(range + 1)` streams.
    CfgiSteRange {
        /// Any stream of the aligned range.
        stream: StreamId,
        /// log2 of the number of streams, minus 1.
        range: u8,
    },
    /// CMD_CFGI_ALL: invalidates all configuration. An encoding of CMD_CFGI_STE_RANGE.
    CfgiAll,
    /// CMD_CFGI_CD: invalidates one context descriptor. Illegal without stage 1.
    CfgiCd {
        /// The stream.
        stream: StreamId,
        /// The substream; 0 without substreams.
        substream: u32,
        /// The cached first-level descriptor may be kept.
        leaf: bool,
    },
    /// CMD_CFGI_CD_ALL: invalidates all context descriptors of a stream. Illegal without stage 1.
    CfgiCdAll {
        /// The stream.
        stream: StreamId,
    },
    /// CMD_TLBI_NH_ALL: invalidates all stage 1 translations of a VMID.
    TlbiNhAll {
        /// The VMID.
        vmid: Vmid,
    },
    /// CMD_TLBI_NH_ASID: invalidates the non-global stage 1 translations of an ASID.
    TlbiNhAsid {
        /// The VMID.
        vmid: Vmid,
        /// The ASID.
        asid: Asid,
    },
    /// CMD_TLBI_NH_VA: invalidates stage 1 translations by address and ASID.
    TlbiNhVa {
        /// The VMID.
        vmid: Vmid,
        /// The ASID.
        asid: Asid,
        /// The addresses.
        scope: Scope,
    },
    /// CMD_TLBI_NH_VAA: invalidates stage 1 translations by address, of all ASIDs.
    TlbiNhVaa {
        /// The VMID.
        vmid: Vmid,
        /// The addresses.
        scope: Scope,
    },
    /// CMD_TLBI_S12_VMALL: invalidates all translations of a VMID, of both stages. Illegal without stage 2.
    TlbiS12Vmall {
        /// The VMID.
        vmid: Vmid,
    },
    /// CMD_TLBI_S2_IPA: invalidates stage 2 translations by address. Illegal without stage 2.
    TlbiS2Ipa {
        /// The VMID.
        vmid: Vmid,
        /// The addresses.
        scope: Scope,
    },
    /// CMD_TLBI_NSNH_ALL: invalidates all non-secure translations below EL2. Legal on every SMMU.
    TlbiNsnhAll,
    /// CMD_SYNC: consumed only when all preceding commands are complete. Completion is detected by polling
    /// CONS.
    Sync,
}

/// The addresses of a TLBI by address (IHI 0070, 4.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The first address; the lowest 12 bits are ignored.
    pub start: Iova,
    /// The size of the range.
    pub extent: Extent,
    /// Only last-level entries are invalidated; cached table descriptors may be kept.
    pub leaf: bool,
}

/// The size of a [`Scope`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// The TLB entry that translates the address, of any size (TG = 0).
    Entry,
    /// `(num + 1) << scale` granules of 4 KiB. Only with IDR3.RIL.
    Pages {
        /// 0 to 31.
        num: u8,
        /// 0 to 31.
        scale: u8,
        /// The level of the leaf entries, 1 to 3, or 0 for any level. 0 is reserved for a single granule.
        ttl: u8,
    },
}

impl Extent {
    /// The size in bytes, or `None` for a single TLB entry.
    pub const fn bytes(self) -> Option<u64> {
        match self {
            Self::Entry => None,
            Self::Pages { num, scale, .. } => Some(field(63, 12, num as u64 + 1) << scale),
        }
    }
}

mod opcode {
    pub const CFGI_STE: u64 = 0x03;
    pub const CFGI_STE_RANGE: u64 = 0x04;
    pub const CFGI_CD: u64 = 0x05;
    pub const CFGI_CD_ALL: u64 = 0x06;
    pub const TLBI_NH_ALL: u64 = 0x10;
    pub const TLBI_NH_ASID: u64 = 0x11;
    pub const TLBI_NH_VA: u64 = 0x12;
    pub const TLBI_NH_VAA: u64 = 0x13;
    pub const TLBI_S12_VMALL: u64 = 0x28;
    pub const TLBI_S2_IPA: u64 = 0x2a;
    pub const TLBI_NSNH_ALL: u64 = 0x30;
    pub const SYNC: u64 = 0x46;
}

/// The value of CMD_CFGI_STE_RANGE.Range that means all streams.
const ALL_STREAMS: u64 = 31;
/// TG: 4 KiB granule.
const GRANULE_4K: u64 = 0b01;

impl Command {
    /// 64-bit words of a command.
    pub const WORDS: usize = 2;
    /// log2 of the bytes of a command.
    pub const LOG2_BYTES: u8 = 4;

    /// The command's two words.
    #[inline(always)] // Most callers encode a constant command.
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::CfgiSte { stream, leaf } => [of_stream(opcode::CFGI_STE, stream), flag(0, leaf)],
            Self::CfgiSteRange { stream, range } => {
                [of_stream(opcode::CFGI_STE_RANGE, stream), field(4, 0, range as u64)]
            }
            Self::CfgiAll => [opcode::CFGI_STE_RANGE, field(4, 0, ALL_STREAMS)],
            Self::CfgiCd { stream, substream, leaf } => {
                [of_stream(opcode::CFGI_CD, stream) | field(31, 12, substream as u64), flag(0, leaf)]
            }
            Self::CfgiCdAll { stream } => [of_stream(opcode::CFGI_CD_ALL, stream), 0],
            Self::TlbiNhAll { vmid } => [opcode::TLBI_NH_ALL | of_vmid(vmid), 0],
            Self::TlbiNhAsid { vmid, asid } => [opcode::TLBI_NH_ASID | of_vmid(vmid) | of_asid(asid), 0],
            Self::TlbiNhVa { vmid, asid, scope } => {
                scope.encode(opcode::TLBI_NH_VA | of_vmid(vmid) | of_asid(asid))
            }
            Self::TlbiNhVaa { vmid, scope } => scope.encode(opcode::TLBI_NH_VAA | of_vmid(vmid)),
            Self::TlbiS12Vmall { vmid } => [opcode::TLBI_S12_VMALL | of_vmid(vmid), 0],
            Self::TlbiS2Ipa { vmid, scope } => scope.encode(opcode::TLBI_S2_IPA | of_vmid(vmid)),
            Self::TlbiNsnhAll => [opcode::TLBI_NSNH_ALL, 0],
            // CS = SIG_NONE: the driver polls CONS.
            Self::Sync => [opcode::SYNC | field(13, 12, 0b00), 0],
        }
    }

    /// The opcode of an encoded command.
    pub const fn opcode(words: [u64; 2]) -> u8 {
        extract(7, 0, words[0]) as u8
    }

    /// Decodes a command; `None` for an opcode that has no variant.
    pub const fn decode(words: [u64; 2]) -> Option<Self> {
        let [word0, word1] = words;
        let stream = StreamId::new(extract(63, 32, word0) as u32);
        let vmid = Vmid::new(extract(47, 32, word0) as u16);
        let asid = Asid::new(extract(63, 48, word0) as u16);
        let leaf = is_set(0, word1);
        Some(match extract(7, 0, word0) {
            opcode::CFGI_STE => Self::CfgiSte { stream, leaf },
            opcode::CFGI_STE_RANGE => match extract(4, 0, word1) {
                ALL_STREAMS => Self::CfgiAll,
                range => Self::CfgiSteRange { stream, range: range as u8 },
            },
            opcode::CFGI_CD => Self::CfgiCd { stream, substream: extract(31, 12, word0) as u32, leaf },
            opcode::CFGI_CD_ALL => Self::CfgiCdAll { stream },
            opcode::TLBI_NH_ALL => Self::TlbiNhAll { vmid },
            opcode::TLBI_NH_ASID => Self::TlbiNhAsid { vmid, asid },
            opcode::TLBI_NH_VA => Self::TlbiNhVa { vmid, asid, scope: Scope::decode(words) },
            opcode::TLBI_NH_VAA => Self::TlbiNhVaa { vmid, scope: Scope::decode(words) },
            opcode::TLBI_S12_VMALL => Self::TlbiS12Vmall { vmid },
            opcode::TLBI_S2_IPA => Self::TlbiS2Ipa { vmid, scope: Scope::decode(words) },
            opcode::TLBI_NSNH_ALL => Self::TlbiNsnhAll,
            opcode::SYNC => Self::Sync,
            _ => return None,
        })
    }
}

const fn of_stream(opcode: u64, stream: StreamId) -> u64 {
    opcode | field(63, 32, stream.raw() as u64)
}

const fn of_vmid(vmid: Vmid) -> u64 {
    field(47, 32, vmid.raw() as u64)
}

const fn of_asid(asid: Asid) -> u64 {
    field(63, 48, asid.raw() as u64)
}

impl Scope {
    const fn encode(self, word0: u64) -> [u64; 2] {
        let word1 = address(63, 12, self.start.raw() & mask(63, 12)) | flag(0, self.leaf);
        match self.extent {
            Extent::Entry => [word0, word1],
            Extent::Pages { num, scale, ttl } => [
                word0 | field(16, 12, num as u64) | field(24, 20, scale as u64),
                word1 | field(9, 8, ttl as u64) | field(11, 10, GRANULE_4K),
            ],
        }
    }

    const fn decode([word0, word1]: [u64; 2]) -> Self {
        let extent = match extract(11, 10, word1) {
            0 => Extent::Entry,
            _ => Extent::Pages {
                num: extract(16, 12, word0) as u8,
                scale: extract(24, 20, word0) as u8,
                ttl: extract(9, 8, word1) as u8,
            },
        };
        Self { start: Iova::new(word1 & mask(63, 12)), extent, leaf: is_set(0, word1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId::new(0x1_0008);
    const VMID: Vmid = Vmid::new(0x2222);
    const ASID: Asid = Asid::new(0x1111);

    fn scope(extent: Extent) -> Scope {
        Scope { start: Iova::new(0xffff_1234_5000), extent, leaf: true }
    }

    /// Each command with its words according to the figures of IHI 0070, 4.3, 4.4 and 4.7.
    fn cases() -> Vec<(Command, [u64; 2])> {
        let pages = Extent::Pages { num: 31, scale: 17, ttl: 2 };
        vec![
            (Command::CfgiSte { stream: STREAM, leaf: true }, [0x0001_0008_0000_0003, 1]),
            (Command::CfgiSte { stream: STREAM, leaf: false }, [0x0001_0008_0000_0003, 0]),
            (Command::CfgiSteRange { stream: STREAM, range: 5 }, [0x0001_0008_0000_0004, 5]),
            (Command::CfgiAll, [0x04, 31]),
            (Command::CfgiCd { stream: STREAM, substream: 0xfedcb, leaf: true }, [0x0001_0008_fedc_b005, 1]),
            (Command::CfgiCdAll { stream: STREAM }, [0x0001_0008_0000_0006, 0]),
            (Command::TlbiNhAll { vmid: VMID }, [0x0000_2222_0000_0010, 0]),
            (Command::TlbiNhAsid { vmid: VMID, asid: ASID }, [0x1111_2222_0000_0011, 0]),
            (
                Command::TlbiNhVa { vmid: VMID, asid: ASID, scope: scope(Extent::Entry) },
                [0x1111_2222_0000_0012, 0xffff_1234_5001],
            ),
            (
                Command::TlbiNhVa { vmid: VMID, asid: ASID, scope: scope(pages) },
                [0x1111_2222_0111_f012, 0xffff_1234_5601],
            ),
            (
                Command::TlbiNhVaa { vmid: VMID, scope: scope(Extent::Entry) },
                [0x0000_2222_0000_0013, 0xffff_1234_5001],
            ),
            (Command::TlbiS12Vmall { vmid: VMID }, [0x0000_2222_0000_0028, 0]),
            (
                Command::TlbiS2Ipa { vmid: VMID, scope: scope(pages) },
                [0x0000_2222_0111_f02a, 0xffff_1234_5601],
            ),
            (Command::TlbiNsnhAll, [0x30, 0]),
            (Command::Sync, [0x46, 0]),
        ]
    }

    #[test]
    fn encoding_matches_the_manual() {
        for (command, words) in cases() {
            assert_eq!(command.encode(), words, "{command:?}");
        }
    }

    #[test]
    fn decode_inverts_encode() {
        for (command, words) in cases() {
            assert_eq!(Command::decode(words), Some(command));
        }
        for opcode in [0x00, 0x07, 0x18, 0x40, 0xff] {
            assert_eq!(Command::decode([opcode, 0]), None, "{opcode:#x}");
        }
    }

    #[test]
    fn extent_size_in_bytes() {
        assert_eq!(Extent::Entry.bytes(), None);
        assert_eq!(Extent::Pages { num: 0, scale: 0, ttl: 3 }.bytes(), Some(0x1000));
        assert_eq!(Extent::Pages { num: 31, scale: 13, ttl: 0 }.bytes(), Some(1 << 30));
    }
}
