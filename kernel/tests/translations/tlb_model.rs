//! A TLB that holds every translation for as long as the architecture permits: it walks the tables before
//! each instruction that the kernel executes, and drops only the entries that a TLBI names.
//!
//! It panics when
//! - an entry changes other than in its permissions while the old one is cached (break-before-make, DDI 0487,
//!   D8.16.1), which includes another table in place of an unlinked one;
//! - a frame that a cached entry points to (mapped memory or a table), or a root table, is free before the
//!   TLBI;
//! - an ASID is installed with another root table while entries of the earlier one are cached.
//!
//! The kernel's linear map is not walked; the cache model covers its aliases (`tests/caches`).

use super::host_memory::{self, OUTPUT};
use addr::{Asid, Chunk, PhysAddr, UserVa};
use arch::fake::{Instruction, UserAccess};
use arch::tlb::Level;
use kernel::memory::zones;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// The first address that TTBR1 translates.
const KERNEL_START: u64 = 0xffff << 48;
/// The root's slots below this one are the linear map.
const FIRST_KERNEL_SLOT: u64 = 256;
/// The permissions of a leaf: AP[2:1], PXN, UXN.
const PERMISSIONS: u64 = 3 << 6 | 3 << 53;

/// A translation regime: the kernel's, or that of an ASID.
type Regime = Option<Asid>;

/// A cached entry: its regime, its level and the first address that it translates.
type TlbKey = (Regime, u32, u64);

#[derive(Default)]
struct TlbModel {
    /// The root tables, each with the regime that uses it.
    roots: BTreeMap<Regime, PhysAddr>,
    /// Whether this CPU can walk the program's tables.
    installed: Regime,
    cached: BTreeMap<TlbKey, u64>,
}

/// Acts as another CPU in the moment of a TLBI, before it takes effect.
pub type OtherCpu = Box<dyn FnMut(Instruction)>;

thread_local! {
    static TLB: RefCell<TlbModel> = RefCell::default();
    static OTHER_CPU: RefCell<Option<OtherCpu>> = const { RefCell::new(None) };
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Installs an empty TLB on this thread, for the kernel's tables below `root`.
pub fn install(root: PhysAddr) {
    TLB.set(TlbModel { roots: BTreeMap::from([(None, root)]), ..TlbModel::default() });
    OTHER_CPU.set(None);
    BUSY.set(false);
    arch::fake::watch(handle);
    arch::fake::map_user_memory(user_address_of);
}

/// Calls `act` at every TLBI during `f`.
pub fn with_other_cpu<R>(act: OtherCpu, f: impl FnOnce() -> R) -> R {
    OTHER_CPU.set(Some(act));
    let result = f();
    OTHER_CPU.set(None);
    result
}

/// Asserts that the TLB holds no entry that the tables do not have, then loads all entries.
pub fn check() {
    let free = free_chunks();
    TLB.with_borrow_mut(|tlb| {
        for (&key, &entry) in &tlb.cached {
            assert_owned(&free, key, entry);
            let now = tlb.walk(key);
            assert!(now == entry, "stale in the TLB: {entry:#x} at {}, which is {now:#x}", shown(key));
        }
        tlb.load();
    });
}

fn handle(instruction: Instruction) {
    if BUSY.replace(true) {
        return;
    }
    let is_tlbi = matches!(
        instruction,
        Instruction::TlbKernel(..)
            | Instruction::TlbLocal(_)
            | Instruction::TlbUser(..)
            | Instruction::TlbAsid(_)
    );
    let free = if is_tlbi { free_chunks() } else { Vec::new() };
    TLB.with_borrow_mut(TlbModel::load);
    if is_tlbi {
        OTHER_CPU.with_borrow_mut(|other| {
            if let Some(act) = other {
                act(instruction);
            }
        });
        TLB.with_borrow_mut(TlbModel::load);
    }
    TLB.with_borrow_mut(|tlb| tlb.execute(instruction, &free));
    BUSY.set(false);
}

impl TlbModel {
    fn execute(&mut self, instruction: Instruction, free: &[Chunk]) {
        match instruction {
            Instruction::TlbKernel(range, level) => {
                self.invalidate(None, range.start().raw()..range.end().raw(), level, free)
            }
            Instruction::TlbLocal(range) => {
                self.invalidate(None, range.start().raw()..range.end().raw(), Level::Last, free)
            }
            Instruction::TlbUser(asid, range, level) => {
                self.invalidate(Some(asid), range.start().raw()..range.end().raw(), level, free)
            }
            Instruction::TlbAsid(asid) => {
                self.invalidate(Some(asid), 0..1 << 48, Level::Any, free);
                // A walk that started before the root was uninstalled may still read it.
                let root = self.roots.get(&Some(asid));
                assert!(root.is_none_or(|&root| !is_free(free, root)), "the root of {asid:?} is free");
                if self.installed != Some(asid) {
                    self.roots.remove(&Some(asid));
                }
            }
            Instruction::InstallUser(root, asid) => {
                let earlier = self.roots.insert(Some(asid), root).filter(|&earlier| earlier != root);
                assert!(earlier.is_none(), "{asid:?} is reused, and was not invalidated");
                self.installed = Some(asid);
                self.load();
            }
            Instruction::UninstallUser => self.installed = None,
            _ => {}
        }
    }

    fn invalidate(&mut self, regime: Regime, range: std::ops::Range<u64>, level: Level, free: &[Chunk]) {
        self.cached.retain(|&key, &mut entry| {
            let (of, at_level, first) = key;
            let overlaps = first < range.end && range.start < first.saturating_add(size(at_level));
            let is_named = of == regime && overlaps && (level == Level::Any || !is_table(entry, at_level));
            if is_named {
                assert_owned(free, key, entry);
            }
            !is_named
        });
    }

    /// Loads all entries that this CPU can walk.
    fn load(&mut self) {
        self.load_table((None, 0, KERNEL_START), self.roots[&None]);
        if self.installed.is_some() {
            self.load_table((self.installed, 0, 0), self.roots[&self.installed]);
        }
    }

    /// Loads the entries of `table`, which translates from the address of `key` on.
    fn load_table(&mut self, (regime, level, first): TlbKey, table: PhysAddr) {
        let skipped = if regime.is_none() && level == 0 { FIRST_KERNEL_SLOT } else { 0 };
        for slot in skipped..512 {
            let entry = host_memory::entry(table.raw(), slot);
            if entry & 1 == 0 {
                continue;
            }
            let key = (regime, level, first + slot * size(level));
            let old = *self.cached.entry(key).or_insert(entry);
            let permissions_alone = !is_table(entry, level) && (old ^ entry) & !PERMISSIONS == 0;
            assert!(
                old == entry || permissions_alone,
                "{} becomes {entry:#x} while {old:#x} is in the TLB (break-before-make)",
                shown(key)
            );
            if is_table(entry, level) {
                self.load_table((regime, level + 1, key.2), PhysAddr::new(entry & OUTPUT));
            }
        }
    }

    /// The present entry for `key` in the tables; 0 if there is none.
    fn walk(&self, (regime, level, first): TlbKey) -> u64 {
        let mut table = self.roots[&regime].raw();
        for at in 0..level {
            let entry = host_memory::entry(table, first >> (39 - 9 * at) & 0x1ff);
            if !is_table(entry, at) {
                return 0;
            }
            table = entry & OUTPUT;
        }
        host_memory::entry(table, first >> (39 - 9 * level) & 0x1ff)
    }
}

/// Translates by the TLB, and by the tables if it holds nothing.
pub fn user_address_of(va: UserVa, access: UserAccess) -> Option<u64> {
    TLB.with_borrow(|tlb| {
        let regime = tlb.installed;
        regime?;
        (0..4).rev().find_map(|level| {
            let key = (regime, level, va.raw() & !(size(level) - 1));
            let entry = tlb.cached.get(&key).copied().unwrap_or_else(|| tlb.walk(key));
            let is_leaf = entry & 1 != 0 && !is_table(entry, level);
            (is_leaf && host_memory::permits(entry, access))
                .then(|| host_memory::pointer((entry & OUTPUT) + va.raw() % size(level)))
        })
    })
}

fn size(level: u32) -> u64 {
    1 << (39 - 9 * level)
}

fn is_table(entry: u64, level: u32) -> bool {
    entry & 0b11 == 0b11 && level < 3
}

fn assert_owned(free: &[Chunk], key: TlbKey, entry: u64) {
    let at = PhysAddr::new(entry & OUTPUT);
    assert!(!is_free(free, at), "{at} is free, and in the TLB at {}", shown(key));
}

fn is_free(free: &[Chunk], at: PhysAddr) -> bool {
    free.iter().any(|chunk| chunk.range().contains(at))
}

fn shown((regime, level, first): TlbKey) -> String {
    format!("{first:#x}, level {level}, {}", regime.map_or("kernel".into(), |asid| format!("{asid:?}")))
}

fn free_chunks() -> Vec<Chunk> {
    zones::free_chunks().unwrap()
}
