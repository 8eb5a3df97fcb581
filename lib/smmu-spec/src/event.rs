//! Event records of the event queue (IHI 0070, 7.3).

use crate::field::{extract, is_set, mask};
use addr::StreamId;
use core::fmt;

/// The event type, named as in the manual.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// F_UUT: unsupported upstream transaction.
    UnsupportedTransaction,
    /// C_BAD_STREAMID: the StreamID is outside of the stream table.
    BadStreamId,
    /// F_STE_FETCH: external abort on the fetch of the stream table entry.
    SteFetch,
    /// C_BAD_STE: the entry is invalid or illegal.
    BadSte,
    /// F_BAD_ATS_TREQ: disallowed ATS translation request.
    BadAtsRequest,
    /// F_STREAM_DISABLED: a required substream is missing.
    StreamDisabled,
    /// F_TRANSL_FORBIDDEN: disallowed translated ATS transaction.
    TranslationForbidden,
    /// C_BAD_SUBSTREAMID: the substream is out of range or not allowed.
    BadSubstreamId,
    /// F_CD_FETCH: external abort on the fetch of the context descriptor.
    CdFetch,
    /// C_BAD_CD: the descriptor is invalid or illegal.
    BadCd,
    /// F_WALK_EABT: external abort on a translation table walk.
    WalkExternalAbort,
    /// F_TRANSLATION: the address is not mapped.
    Translation,
    /// F_ADDR_SIZE: an output address exceeds the output size.
    AddressSize,
    /// F_ACCESS: the Access flag is clear.
    AccessFlag,
    /// F_PERMISSION: the mapping does not allow this access.
    Permission,
    /// F_TLB_CONFLICT: multiple TLB entries matched.
    TlbConflict,
    /// F_CFG_CONFLICT: multiple configuration cache entries matched.
    ConfigConflict,
    /// E_PAGE_REQUEST: a hint that addresses will be accessed soon.
    PageRequest,
    /// F_VMS_FETCH: external abort on the fetch of a VM structure.
    VmsFetch,
    /// IMPDEF_EVENTn and reserved event numbers.
    Other(u8),
}

/// Event number, kind and name.
const KINDS: [(u8, EventKind, &str); 19] = [
    (0x01, EventKind::UnsupportedTransaction, "F_UUT"),
    (0x02, EventKind::BadStreamId, "C_BAD_STREAMID"),
    (0x03, EventKind::SteFetch, "F_STE_FETCH"),
    (0x04, EventKind::BadSte, "C_BAD_STE"),
    (0x05, EventKind::BadAtsRequest, "F_BAD_ATS_TREQ"),
    (0x06, EventKind::StreamDisabled, "F_STREAM_DISABLED"),
    (0x07, EventKind::TranslationForbidden, "F_TRANSL_FORBIDDEN"),
    (0x08, EventKind::BadSubstreamId, "C_BAD_SUBSTREAMID"),
    (0x09, EventKind::CdFetch, "F_CD_FETCH"),
    (0x0a, EventKind::BadCd, "C_BAD_CD"),
    (0x0b, EventKind::WalkExternalAbort, "F_WALK_EABT"),
    (0x10, EventKind::Translation, "F_TRANSLATION"),
    (0x11, EventKind::AddressSize, "F_ADDR_SIZE"),
    (0x12, EventKind::AccessFlag, "F_ACCESS"),
    (0x13, EventKind::Permission, "F_PERMISSION"),
    (0x20, EventKind::TlbConflict, "F_TLB_CONFLICT"),
    (0x21, EventKind::ConfigConflict, "F_CFG_CONFLICT"),
    (0x24, EventKind::PageRequest, "E_PAGE_REQUEST"),
    (0x25, EventKind::VmsFetch, "F_VMS_FETCH"),
];

impl EventKind {
    /// The kind with this event number.
    pub fn from_number(number: u8) -> Self {
        KINDS.iter().find(|kind| kind.0 == number).map_or(Self::Other(number), |kind| kind.1)
    }

    /// The event number in the record.
    pub fn number(self) -> u8 {
        match self {
            Self::Other(number) => number,
            _ => KINDS.iter().find(|kind| kind.1 == self).map_or(0, |kind| kind.0),
        }
    }

    /// Whether the record has the transaction's address, access kind and privilege.
    const fn has_transaction(self) -> bool {
        matches!(
            self,
            Self::UnsupportedTransaction
                | Self::BadAtsRequest
                | Self::TranslationForbidden
                | Self::WalkExternalAbort
                | Self::Translation
                | Self::AddressSize
                | Self::AccessFlag
                | Self::Permission
                | Self::TlbConflict
        )
    }

    /// Whether the record has the stage and class of the fault.
    const fn has_location(self) -> bool {
        matches!(
            self,
            Self::WalkExternalAbort
                | Self::Translation
                | Self::AddressSize
                | Self::AccessFlag
                | Self::Permission
                | Self::TlbConflict
        )
    }

    /// Whether the event can stall a transaction.
    const fn may_stall(self) -> bool {
        matches!(self, Self::Translation | Self::AddressSize | Self::AccessFlag | Self::Permission)
    }

    /// Whether the record's last word is the address of an aborted fetch.
    const fn has_fetch(self) -> bool {
        matches!(self, Self::SteFetch | Self::CdFetch | Self::WalkExternalAbort | Self::VmsFetch)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, KINDS.iter().find(|kind| kind.1 == *self)) {
            (_, Some((_, _, name))) => f.write_str(name),
            (Self::Other(number @ 0xe0..=0xef), _) => write!(f, "IMPDEF_EVENT{}", number - 0xe0),
            _ => write!(f, "EVENT_{:#04x}", self.number()),
        }
    }
}

/// The kind of access of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccessKind {
    /// A read (RnW = 1).
    Read,
    /// A write.
    Write,
}

/// The transaction that caused an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// The input address, all 64 bits.
    pub address: u64,
    /// Read or write.
    pub access: AccessKind,
    /// Whether the access was privileged (PnU).
    pub privileged: bool,
    /// Whether the access was an instruction fetch (InD).
    pub instruction: bool,
}

/// The kind of address whose translation faulted (CLASS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultClass {
    /// The address of a context descriptor.
    Cd,
    /// The address of a stage 1 table.
    Table,
    /// The transaction's input address.
    Input,
    /// A reserved value.
    Reserved,
}

/// Stage and class of a translation fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultLocation {
    /// The stage: 1 or 2.
    pub stage: u8,
    /// The kind of address.
    pub class: FaultClass,
}

/// A decoded event record. Fields that the event kind does not have are `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventRecord {
    /// The event type.
    pub kind: EventKind,
    /// The StreamID of the transaction.
    pub stream: StreamId,
    /// The SubstreamID, if the transaction had one.
    pub substream: Option<u32>,
    /// The transaction.
    pub transaction: Option<Transaction>,
    /// Stage and class of a translation fault.
    pub location: Option<FaultLocation>,
    /// The intermediate physical address of a stage 2 fault.
    pub ipa: Option<u64>,
    /// The physical address of the aborted fetch.
    pub fetch: Option<u64>,
    /// The tag of a stalled transaction (STAG). The driver does not enable stalls.
    pub stalled: Option<u16>,
}

impl EventRecord {
    /// 64-bit words of a record.
    pub const WORDS: usize = 4;
    /// log2 of the bytes of a record.
    pub const LOG2_BYTES: u8 = 5;

    /// Decodes a record. Every input is valid: unknown event numbers become [`EventKind::Other`].
    pub fn decode(words: [u64; 4]) -> Self {
        let [word0, word1, word2, word3] = words;
        let kind = EventKind::from_number(extract(7, 0, word0) as u8);
        let stage2 = is_set(39, word1);
        Self {
            kind,
            stream: StreamId::new(extract(63, 32, word0) as u32),
            substream: is_set(11, word0).then_some(extract(31, 12, word0) as u32),
            transaction: kind.has_transaction().then(|| Transaction::decode(word1, word2)),
            location: kind.has_location().then(|| FaultLocation::decode(word1)),
            ipa: (kind.has_location() && stage2 && !kind.has_fetch()).then_some(word3 & mask(55, 12)),
            fetch: kind.has_fetch().then_some(word3 & mask(55, 3)),
            stalled: (kind.may_stall() && is_set(31, word1)).then_some(extract(15, 0, word1) as u16),
        }
    }
}

impl Transaction {
    fn decode(word1: u64, address: u64) -> Self {
        Self {
            address,
            access: if is_set(35, word1) { AccessKind::Read } else { AccessKind::Write },
            privileged: is_set(33, word1),
            instruction: is_set(34, word1),
        }
    }
}

impl FaultLocation {
    fn decode(word1: u64) -> Self {
        let class = match extract(41, 40, word1) {
            0b00 => FaultClass::Cd,
            0b01 => FaultClass::Table,
            0b10 => FaultClass::Input,
            _ => FaultClass::Reserved,
        };
        Self { stage: 1 + is_set(39, word1) as u8, class }
    }
}

impl fmt::Display for EventRecord {
    /// One line: `smmu: event F_TRANSLATION sid=0x8 iova=0x1000 read stage=1 class=IN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "smmu: event {} sid={}", self.kind, self.stream)?;
        if let Some(substream) = self.substream {
            write!(f, " ssid={substream:#x}")?;
        }
        if let Some(transaction) = self.transaction {
            write!(f, "{transaction}")?;
        }
        if let Some(location) = self.location {
            write!(f, "{location}")?;
        }
        let last = [("ipa", self.ipa), ("fetch", self.fetch), ("stag", self.stalled.map(u64::from))];
        for (name, value) in last {
            if let Some(value) = value {
                write!(f, " {name}={value:#x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
        };
        write!(f, " iova={:#x} {access}", self.address)?;
        if self.instruction {
            f.write_str(" instruction")?;
        }
        if self.privileged {
            f.write_str(" privileged")?;
        }
        Ok(())
    }
}

impl fmt::Display for FaultLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            FaultClass::Cd => "CD",
            FaultClass::Table => "TT",
            FaultClass::Input => "IN",
            FaultClass::Reserved => "reserved",
        };
        write!(f, " stage={} class={class}", self.stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translation_fault_has_the_documented_log_line() {
        // RnW = 1 (bit 99), CLASS = IN (bits [105:104] = 0b10).
        let record = [0x0000_0008_0000_0010, 1 << 35 | 0b10 << 40, 0x1234_5678, 0];
        let event = EventRecord::decode(record);
        assert_eq!(
            event.to_string(),
            "smmu: event F_TRANSLATION sid=0x8 iova=0x12345678 read stage=1 class=IN"
        );
        assert_eq!(event.ipa, None);
    }

    #[test]
    fn stage2_fault_reports_its_ipa() {
        let record = [0x0000_0100_0000_0013, 1 << 39 | 0b10 << 40, 0xffff_ffff_ffff_f000, 0x9000];
        assert_eq!(
            EventRecord::decode(record).to_string(),
            "smmu: event F_PERMISSION sid=0x100 iova=0xfffffffffffff000 write stage=2 class=IN ipa=0x9000"
        );
    }

    #[test]
    fn configuration_errors_report_no_address() {
        let stale = [0xdead_0000_0000, u64::MAX, u64::MAX];
        let record = |number: u64| [0x0000_0009_0000_0000 | number, stale[0], stale[1], stale[2]];
        assert_eq!(EventRecord::decode(record(0x04)).to_string(), "smmu: event C_BAD_STE sid=0x9");
        assert_eq!(EventRecord::decode(record(0x02)).to_string(), "smmu: event C_BAD_STREAMID sid=0x9");
        assert_eq!(EventRecord::decode(record(0x0a)).to_string(), "smmu: event C_BAD_CD sid=0x9");
    }

    #[test]
    fn aborted_fetches_report_the_fetch_address() {
        let record = [0x0000_0001_0000_000b, 1 << 40, 0x5000, 0x000f_ffff_ffff_fff8];
        assert_eq!(
            EventRecord::decode(record).to_string(),
            "smmu: event F_WALK_EABT sid=0x1 iova=0x5000 write stage=1 class=TT fetch=0xffffffffffff8"
        );
        let record = [0x0000_0001_0000_0003, 0, 0, 0x4000_0040];
        assert_eq!(
            EventRecord::decode(record).to_string(),
            "smmu: event F_STE_FETCH sid=0x1 fetch=0x40000040"
        );
    }

    #[test]
    fn substream_stall_tag_and_attributes_are_printed() {
        let record = [0x0000_0001_0001_2800 | 0x12, 1 << 31 | 0x77 | 0b110 << 32 | 0b11 << 40, 0, 0];
        assert_eq!(
            EventRecord::decode(record).to_string(),
            "smmu: event F_ACCESS sid=0x1 ssid=0x12 iova=0x0 write instruction privileged stage=1 \
             class=reserved stag=0x77"
        );
    }

    #[test]
    fn any_record_decodes_to_one_line() {
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..if cfg!(miri) { 20 } else { 20_000 } {
            let record = core::array::from_fn(|_| {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                word
            });
            let line = EventRecord::decode(record).to_string();
            assert!(line.starts_with("smmu: event ") && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn every_event_number_has_one_kind_and_a_name() {
        for number in 0..=u8::MAX {
            let kind = EventKind::from_number(number);
            assert_eq!(kind.number(), number);
            assert!(!kind.to_string().is_empty());
        }
        assert_eq!(EventKind::from_number(0xe3).to_string(), "IMPDEF_EVENT3");
        assert_eq!(EventKind::from_number(0x7f).to_string(), "EVENT_0x7f");
        assert_eq!(EventKind::from_number(0x25).to_string(), "F_VMS_FETCH");
    }
}
