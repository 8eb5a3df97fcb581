//! Translation table walks, 4 KiB granule (DDI 0487, D8.2 and D8.3). Descriptors are decoded independently of
//! the page-table crate.

use super::config::StageTranslation;
use super::events::TransactionFault;
use super::tlb::TablePointer;
use super::{PhysicalMemory, RegisterFile, SmmuModel};
use crate::event::{AccessKind, EventKind, FaultClass};
use crate::field::{extract, is_set, mask};

/// Memory attributes of the leaf descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Stage 1: the MAIR byte selected by AttrIndx. Stage 2: MemAttr.
    pub memory: u8,
    /// SH.
    pub shareability: u8,
}

/// A cached translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedLeaf {
    pub at: u64,
    to: u64,
    log2: u32,
    pub level: u8,
    pub global: bool,
    read: bool,
    write: bool,
    pub attributes: Attributes,
}

impl CachedLeaf {
    pub fn last(&self) -> u64 {
        self.at + ((1 << self.log2) - 1)
    }

    pub fn overlaps(&self, first: u64, last: u64) -> bool {
        self.at <= last && first <= self.last()
    }

    /// Whether both map the same input range to the same output range.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.at, self.to, self.log2) == (other.at, other.to, other.log2)
    }

    pub fn translate(&self, address: u64) -> u64 {
        self.to + (address - self.at)
    }

    pub fn check(&self, stage: u8, address: u64, direction: AccessKind) -> Result<(), TransactionFault> {
        let allowed = match direction {
            AccessKind::Read => self.read,
            AccessKind::Write => self.write,
        };
        let ipa = (stage == 2).then_some(address);
        if allowed {
            Ok(())
        } else {
            Err(TransactionFault { ipa, ..TransactionFault::at_input(EventKind::Permission, stage) })
        }
    }
}

/// A table reached by a walk, with the hierarchical permissions of the descriptors above it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TablePath {
    pub level: u8,
    pub table: u64,
    /// APTable[0]: no unprivileged access.
    privileged_only: bool,
    /// APTable[1]: no writes.
    read_only: bool,
}

struct TableWalk<'a> {
    translation: &'a StageTranslation,
    address: u64,
    now: TablePath,
    /// The walk started at a cached table whose invalidation is pending. Entries found through it are removed
    /// at the next CMD_SYNC too: the architecture guarantees that no translation derived from the old entries
    /// remains then.
    pending: bool,
}

const LAST_LEVEL: u8 = 3;
const CONTIGUOUS: u64 = 1 << 52;
const ACCESS_FLAG: u32 = 10;
const OUTPUT: u64 = mask(47, 12);
const GROUP_LOG2: u32 = 4;

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    /// Walks from the lowest-level cached table and caches the result. Faults are not cached.
    pub(super) fn walk(
        &mut self,
        translation: &StageTranslation,
        address: u64,
    ) -> Result<CachedLeaf, TransactionFault> {
        let root = TablePath {
            level: translation.start_level,
            table: translation.table,
            privileged_only: false,
            read_only: false,
        };
        let (now, pending) = self.tlb.nearest(translation.tag, address).unwrap_or((root, false));
        let mut walk = TableWalk { translation, address, now, pending };
        loop {
            let entry = self.descriptor(&walk)?;
            if walk.now.level < LAST_LEVEL && extract(1, 0, entry) == 0b11 {
                self.descend(&mut walk, entry)?;
            } else {
                let leaf = self.leaf(&walk, entry)?;
                self.tlb.insert(translation.tag, leaf, walk.pending);
                return Ok(leaf);
            }
        }
    }

    fn descriptor(&self, walk: &TableWalk) -> Result<u64, TransactionFault> {
        let at = walk.slot();
        self.memory.read(at).ok_or(TransactionFault::of_fetch(
            EventKind::WalkExternalAbort,
            FaultClass::Table,
            at,
        ))
    }

    fn descend(&mut self, walk: &mut TableWalk, entry: u64) -> Result<(), TransactionFault> {
        walk.check_output(entry & OUTPUT)?;
        let log2 = shift(walk.now.level);
        walk.now = TablePath {
            level: walk.now.level + 1,
            table: entry & OUTPUT,
            privileged_only: walk.now.privileged_only || is_set(61, entry),
            read_only: walk.now.read_only || is_set(62, entry),
        };
        let at = walk.address & !((1 << log2) - 1);
        self.tlb.insert_pointer(walk.translation.tag, TablePointer { at, log2, to: walk.now }, walk.pending);
        Ok(())
    }

    fn leaf(&self, walk: &TableWalk, entry: u64) -> Result<CachedLeaf, TransactionFault> {
        let expected = if walk.now.level == LAST_LEVEL { 0b11 } else { 0b01 };
        if extract(1, 0, entry) != expected || walk.now.level == 0 {
            return Err(walk.fault(EventKind::Translation));
        }
        let own = shift(walk.now.level);
        let to = entry & OUTPUT;
        assert!(to & ((1 << own) - 1) == 0, "a level {} block at {to:#x}", walk.now.level);
        walk.check_output(to)?;
        if !is_set(ACCESS_FLAG, entry) {
            return Err(walk.fault(EventKind::AccessFlag));
        }
        let log2 = if entry & CONTIGUOUS == 0 { own } else { own + GROUP_LOG2 };
        if log2 != own {
            self.check_group(walk, entry)?;
        }
        Ok(walk.leaf(entry, log2))
    }

    /// Checks a contiguous group: sixteen descriptors that differ only in their consecutive output addresses.
    /// Some may be invalid while the group is being written or cleared; the whole group is used nevertheless.
    fn check_group(&self, walk: &TableWalk, entry: u64) -> Result<(), TransactionFault> {
        let own = 1 << shift(walk.now.level);
        let first = walk.slot() & !0x7f;
        let first_output = entry & OUTPUT & !(16 * own - 1);
        for index in 0..16 {
            let member = self.memory.read(first + 8 * index);
            let expected = (entry & !OUTPUT) | (first_output + index * own);
            let invalid = member.is_some_and(|member| !is_set(0, member));
            assert!(
                invalid || member == Some(expected),
                "contiguous group at {first:#x}: entry {index} is {member:x?}, not {expected:#x}"
            );
        }
        Ok(())
    }
}

impl TableWalk<'_> {
    fn slot(&self) -> u64 {
        let index = (self.address >> shift(self.now.level)) & 0x1ff;
        self.now.table + 8 * index
    }

    fn fault(&self, kind: EventKind) -> TransactionFault {
        let ipa = (self.translation.stage == 2).then_some(self.address);
        TransactionFault { ipa, ..TransactionFault::at_input(kind, self.translation.stage) }
    }

    fn check_output(&self, output: u64) -> Result<(), TransactionFault> {
        if output >> self.translation.output_bits == 0 {
            Ok(())
        } else {
            Err(self.fault(EventKind::AddressSize))
        }
    }

    fn leaf(&self, entry: u64, log2: u32) -> CachedLeaf {
        let low = (1 << log2) - 1;
        let stage1 = self.translation.stage == 1;
        let (read, write) = if stage1 {
            let reachable = is_set(6, entry) && !self.now.privileged_only;
            (reachable, reachable && !is_set(7, entry) && !self.now.read_only)
        } else {
            (is_set(6, entry), is_set(7, entry))
        };
        let memory = if stage1 {
            let index = extract(4, 2, entry) as u32;
            extract(8 * index + 7, 8 * index, self.translation.mair) as u8
        } else {
            extract(5, 2, entry) as u8
        };
        CachedLeaf {
            at: self.address & !low,
            to: entry & OUTPUT & !low,
            log2,
            level: self.now.level,
            global: stage1 && !is_set(11, entry),
            read,
            write,
            attributes: Attributes { memory, shareability: extract(9, 8, entry) as u8 },
        }
    }
}

/// log2 of the bytes mapped by a descriptor of `level`.
fn shift(level: u8) -> u32 {
    39 - 9 * u32::from(level)
}
