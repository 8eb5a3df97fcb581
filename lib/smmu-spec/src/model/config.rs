//! Configuration lookup: stream table and context descriptors (IHI 0070, 3.3, 5.2.2 and 5.4.2), cached until
//! invalidated by CMD_CFGI.

use super::events::TransactionFault;
use super::registers::offset;
use super::tlb::CacheTag;
use super::{PhysicalMemory, RegisterFile, SmmuModel};
use crate::command::Command;
use crate::event::{EventKind, FaultClass};
use crate::field::{extract, is_set, mask};
use addr::{Asid, StreamId, Vmid};
use alloc::collections::BTreeMap;

type EntryWords = [u64; 8];

/// The configuration cache: first-level descriptors by index, entries and context descriptors by stream.
#[derive(Default)]
pub(super) struct ConfigCache {
    first_level: BTreeMap<u32, CachedConfig<u64>>,
    entries: BTreeMap<u32, CachedConfig<EntryWords>>,
    contexts: BTreeMap<u32, CachedConfig<EntryWords>>,
}

struct CachedConfig<T> {
    value: T,
    /// An invalidation is pending: the entry is removed at the next CMD_SYNC and is used until then.
    pending: bool,
}

fn mark_pending<T>(cache: &mut BTreeMap<u32, CachedConfig<T>>, matches: impl Fn(u32) -> bool) {
    cache.iter_mut().filter(|(index, _)| matches(**index)).for_each(|(_, cached)| cached.pending = true);
}

fn insert<T>(cache: &mut BTreeMap<u32, CachedConfig<T>>, index: u32, value: T) {
    cache.insert(index, CachedConfig { value, pending: false });
}

impl ConfigCache {
    /// Marks the entries that `command` invalidates. `split` is STRTAB_BASE_CFG.SPLIT.
    pub fn invalidate(&mut self, command: Command, split: u32) {
        match command {
            Command::CfgiAll => {
                self.mark_streams(0, u32::MAX);
                mark_pending(&mut self.first_level, |_| true);
            }
            Command::CfgiSte { stream, leaf } => {
                self.mark_streams(stream.raw(), stream.raw());
                mark_pending(&mut self.first_level, |index| !leaf && index == stream.raw() >> split);
            }
            Command::CfgiSteRange { stream, range } => {
                let low = mask(range.into(), 0) as u32;
                let (first, last) = (stream.raw() & !low, stream.raw() | low);
                self.mark_streams(first, last);
                mark_pending(&mut self.first_level, |index| {
                    (first >> split..=last >> split).contains(&index)
                });
            }
            Command::CfgiCd { stream, .. } | Command::CfgiCdAll { stream } => {
                mark_pending(&mut self.contexts, |of| of == stream.raw());
            }
            _ => {}
        }
    }

    /// Completes pending invalidations (CMD_SYNC).
    pub fn complete(&mut self) {
        self.first_level.retain(|_, cached| !cached.pending);
        self.entries.retain(|_, cached| !cached.pending);
        self.contexts.retain(|_, cached| !cached.pending);
    }

    /// Evicts the entries for which `evicted` returns true.
    pub fn evict(&mut self, evicted: &mut impl FnMut() -> bool) {
        self.first_level.retain(|_, _| !evicted());
        self.entries.retain(|_, _| !evicted());
        self.contexts.retain(|_, _| !evicted());
    }

    /// Marks entries, and the context descriptors reached through them.
    fn mark_streams(&mut self, first: u32, last: u32) {
        mark_pending(&mut self.entries, |stream| (first..=last).contains(&stream));
        mark_pending(&mut self.contexts, |stream| (first..=last).contains(&stream));
    }
}

/// The decoded Config field of a stream table entry.
pub(super) enum StreamAction {
    Abort,
    Bypass,
    Translate(StageTranslation),
}

/// Parameters of a translation stage.
pub(super) struct StageTranslation {
    pub stage: u8,
    pub tag: CacheTag,
    pub table: u64,
    pub start_level: u8,
    pub input_bits: u32,
    pub output_bits: u32,
    pub mair: u64,
    /// Whether faults are recorded.
    pub records: bool,
}

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    pub(super) fn configuration(&mut self, stream: StreamId) -> Result<StreamAction, TransactionFault> {
        let entry = self.stream_entry(stream)?;
        if !is_set(0, entry[0]) {
            return Err(TransactionFault::of_config(EventKind::BadSte));
        }
        match extract(3, 1, entry[0]) {
            0b100 => Ok(StreamAction::Bypass),
            0b101 if self.ids.stage1() => self.stage1(stream, &entry).map(StreamAction::Translate),
            0b110 if self.ids.stage2() => self.stage2(&entry).map(StreamAction::Translate),
            0b101.. => Err(TransactionFault::of_config(EventKind::BadSte)),
            _ => Ok(StreamAction::Abort),
        }
    }

    fn stream_entry(&mut self, stream: StreamId) -> Result<EntryWords, TransactionFault> {
        if let Some(entry) = self.config.entries.get(&stream.raw()) {
            return Ok(entry.value);
        }
        let cfg = u64::from(self.registers.get(offset::STRTAB_BASE_CFG));
        let base = self.get64(offset::STRTAB_BASE) & mask(55, 6);
        let log2 = extract(5, 0, cfg) as u32;
        if u64::from(stream.raw()) >> log2 != 0 {
            return Err(self.bad_stream());
        }
        let at = match extract(17, 16, cfg) {
            0b00 => (base & !((64 << log2) - 1)) + 64 * u64::from(stream.raw()),
            0b01 => self.second_level(stream, base)?,
            format => panic!("STRTAB_BASE_CFG.FMT is {format}"),
        };
        let entry = self.fetch(at, EventKind::SteFetch)?;
        insert(&mut self.config.entries, stream.raw(), entry);
        Ok(entry)
    }

    /// The address of the stream's entry in its second-level table.
    fn second_level(&mut self, stream: StreamId, base: u64) -> Result<u64, TransactionFault> {
        let split = self.split();
        assert!([6, 8, 10].contains(&split), "STRTAB_BASE_CFG.SPLIT is {split}");
        let (index, below) = (stream.raw() >> split, u64::from(stream.raw()) & ((1 << split) - 1));
        let descriptor = match self.config.first_level.get(&index) {
            Some(cached) => cached.value,
            None => {
                let at = base + 8 * u64::from(index);
                let read = self.memory.read(at);
                let descriptor =
                    read.ok_or(TransactionFault::of_fetch(EventKind::SteFetch, FaultClass::Cd, at))?;
                insert(&mut self.config.first_level, index, descriptor);
                descriptor
            }
        };
        let span = extract(4, 0, descriptor);
        // Reserved and oversized spans have no table, and the stream may be past the end of its table.
        if span == 0 || span > u64::from(split) + 1 || below >= 1 << (span - 1) {
            return Err(self.bad_stream());
        }
        Ok((descriptor & mask(55, 6) & !((64 << (span - 1)) - 1)) + 64 * below)
    }

    /// C_BAD_STREAMID, recorded only with CR2.RECINVSID.
    fn bad_stream(&self) -> TransactionFault {
        let recorded = is_set(1, self.registers.get(offset::CR2).into());
        TransactionFault { recorded, ..TransactionFault::of_config(EventKind::BadStreamId) }
    }

    pub(super) fn split(&self) -> u32 {
        extract(10, 6, self.registers.get(offset::STRTAB_BASE_CFG).into()) as u32
    }

    fn stage1(&mut self, stream: StreamId, entry: &EntryWords) -> Result<StageTranslation, TransactionFault> {
        let illegal = extract(31, 30, entry[1]) != 0          // STRW: NS-EL1 only
            || is_set(27, entry[1])                           // S1STALLD without the stall model
            || extract(63, 59, entry[0]) != 0; // S1CDMax without substreams
        if illegal {
            return Err(TransactionFault::of_config(EventKind::BadSte));
        }
        let context = self.context(stream, entry[0] & mask(55, 6))?;
        let vmid = if self.ids.stage2() { extract(15, 0, entry[2]) as u16 } else { 0 };
        self.stage1_of(&context, Vmid::new(vmid)).ok_or(TransactionFault::of_config(EventKind::BadCd))
    }

    fn context(&mut self, stream: StreamId, at: u64) -> Result<EntryWords, TransactionFault> {
        if let Some(context) = self.config.contexts.get(&stream.raw()) {
            return Ok(context.value);
        }
        let context = self.fetch(at, EventKind::CdFetch)?;
        insert(&mut self.config.contexts, stream.raw(), context);
        Ok(context)
    }

    /// Decodes a context descriptor; `None` if it is ILLEGAL or uses a feature that this model does not have.
    fn stage1_of(&self, context: &EntryWords, vmid: Vmid) -> Option<StageTranslation> {
        let [word0, word1, _, mair, ..] = *context;
        let t0sz = extract(5, 0, word0) as u32;
        let asid = extract(63, 48, word0) as u16;
        let legal = is_set(31, word0)                 // V
            && is_set(41, word0)           // AA64
            && is_set(46, word0)           // A: required by TERM_MODEL
            && !is_set(44, word0)          // S: no stalls
            && extract(43, 42, word0) == 0 // HA, HD: no hardware update
            && !is_set(15, word0)          // ENDI
            && !is_set(14, word0)          // EPD0
            && is_set(30, word0)           // EPD1: TTB1 is not used
            && extract(7, 6, word0) == 0   // TG0
            && (16..=39).contains(&t0sz)
            && (self.ids.has(0, 12) || asid <= 0xff); // ASID16
        legal.then(|| StageTranslation {
            stage: 1,
            tag: CacheTag { vmid, asid: Some(Asid::new(asid)) },
            table: word1 & mask(55, 4),
            start_level: start_level(64 - t0sz),
            input_bits: 64 - t0sz,
            output_bits: self.size(extract(34, 32, word0)),
            mair,
            records: is_set(45, word0), // R
        })
    }

    fn stage2(&self, entry: &EntryWords) -> Result<StageTranslation, TransactionFault> {
        let word2 = entry[2];
        let t0sz = extract(37, 32, word2) as u32;
        let vmid = extract(15, 0, word2) as u16;
        let start = 2 - extract(39, 38, word2).min(2) as u8;
        let legal = is_set(51, word2)                 // S2AA64
            && !is_set(52, word2)          // S2ENDI
            && extract(56, 55, word2) == 0 // S2HA, S2HD
            && !is_set(57, word2)          // S2S
            && extract(47, 46, word2) == 0 // S2TG
            && (16..=39).contains(&t0sz)
            && 64 - t0sz <= self.ids.output_bits()
            // This model does not support concatenated start-level tables.
            && start == start_level(64 - t0sz)
            && (self.ids.has(0, 18) || vmid <= 0xff); // VMID16
        if !legal {
            return Err(TransactionFault::of_config(EventKind::BadSte));
        }
        Ok(StageTranslation {
            stage: 2,
            tag: CacheTag { vmid: Vmid::new(vmid), asid: None },
            table: entry[3] & mask(55, 4),
            start_level: start,
            input_bits: 64 - t0sz,
            output_bits: self.size(extract(50, 48, word2)),
            mair: 0,
            records: is_set(58, word2), // S2R
        })
    }

    /// The output size of IPS or S2PS, limited to the SMMU's. Panics for sizes that need other granules.
    fn size(&self, encoded: u64) -> u32 {
        assert!(encoded <= 5, "output size {encoded}");
        [32, 36, 40, 42, 44, 48][encoded as usize].min(self.ids.output_bits())
    }

    fn fetch(&self, at: u64, kind: EventKind) -> Result<EntryWords, TransactionFault> {
        let mut words = [0; 8];
        for (index, word) in words.iter_mut().enumerate() {
            let read = self.memory.read(at + 8 * index as u64);
            *word = read.ok_or(TransactionFault::of_fetch(kind, FaultClass::Cd, at))?;
        }
        Ok(words)
    }
}

/// The start level for an input size of `bits`.
fn start_level(bits: u32) -> u8 {
    match bits {
        40.. => 0,
        31.. => 1,
        _ => 2,
    }
}
