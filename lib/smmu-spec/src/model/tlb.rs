//! Translations and table pointers, kept until a command names them and a CMD_SYNC completes it.

use super::walk::{CachedLeaf, TablePath};
use crate::command::{Command, Extent, Scope};
use addr::{Asid, Vmid};
use alloc::vec::Vec;

/// What a translation is tagged with. Where stage 2 does not exist the VMID is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CacheTag {
    pub vmid: Vmid,
    /// `None` for stage 2.
    pub asid: Option<Asid>,
}

/// A cached pointer to a table that translates the `2^log2` bytes from `at` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct TablePointer {
    pub at: u64,
    pub log2: u32,
    pub to: TablePath,
}

impl TablePointer {
    fn overlaps(&self, first: u64, last: u64) -> bool {
        self.at <= last && first <= self.at + ((1 << self.log2) - 1)
    }
}

#[derive(Clone, Copy, Debug)]
struct TlbEntry<T> {
    tag: CacheTag,
    value: T,
    /// A command has named it; it goes at the next CMD_SYNC, and is used until then.
    doomed: bool,
}

/// The caches. Nothing is ever evicted.
#[derive(Default)]
pub(super) struct Tlb {
    leaves: Vec<TlbEntry<CachedLeaf>>,
    pointers: Vec<TlbEntry<TablePointer>>,
}

impl Tlb {
    pub fn len(&self) -> usize {
        self.leaves.len() + self.pointers.len()
    }

    /// The translation of `address`. Panics when there are two: that is a TLB conflict.
    pub fn find(&self, tag: CacheTag, address: u64) -> Option<CachedLeaf> {
        let hits =
            |cached: &&TlbEntry<CachedLeaf>| cached.hits(tag) && cached.value.overlaps(address, address);
        let mut found = self.leaves.iter().filter(hits);
        let first = found.next();
        assert!(found.next().is_none(), "two cached translations of {address:#x} under {tag:?}");
        first.map(|cached| cached.value)
    }

    /// The cached table furthest down the walk for `address`, and whether a command has named it: then what is found
    /// through it goes together with it.
    pub fn nearest(&self, tag: CacheTag, address: u64) -> Option<(TablePath, bool)> {
        let on_the_way =
            |cached: &&TlbEntry<TablePointer>| cached.tag == tag && cached.value.overlaps(address, address);
        let nearest = self.pointers.iter().filter(on_the_way).max_by_key(|cached| cached.value.to.level)?;
        Some((nearest.value.to, nearest.doomed))
    }

    /// Keeps a translation. Panics when it overlaps another one: break-before-make was left out.
    pub fn insert(&mut self, tag: CacheTag, leaf: CachedLeaf, doomed: bool) {
        let overlaps =
            |old: &&TlbEntry<CachedLeaf>| old.hits(tag) && old.value.overlaps(leaf.at, leaf.last());
        if let Some(old) = self.leaves.iter().find(overlaps) {
            if old.value.is_same(&leaf) {
                return;
            }
            panic!("{leaf:x?} is cached beside {old:x?}: changed without break-before-make");
        }
        self.leaves.push(TlbEntry { tag, value: leaf, doomed });
    }

    pub fn insert_pointer(&mut self, tag: CacheTag, pointer: TablePointer, doomed: bool) {
        self.pointers.push(TlbEntry { tag, value: pointer, doomed });
    }

    /// Loses what is `chosen`.
    pub fn lose(&mut self, chosen: &mut impl FnMut() -> bool) {
        self.leaves.retain(|_| !chosen());
        self.pointers.retain(|_| !chosen());
    }

    /// A CMD_SYNC: what was named before is gone.
    pub fn complete(&mut self) {
        self.leaves.retain(|cached| !cached.doomed);
        self.pointers.retain(|cached| !cached.doomed);
    }

    /// Dooms what `command` names, and nothing else.
    pub fn invalidate(&mut self, command: Command) {
        match command {
            Command::TlbiNsnhAll => self.doom_tagged(|_| true),
            Command::TlbiNhAll { vmid } => self.doom_tagged(|tag| tag.vmid == vmid && tag.asid.is_some()),
            Command::TlbiS12Vmall { vmid } => self.doom_tagged(|tag| tag.vmid == vmid),
            Command::TlbiNhAsid { vmid, asid } => self.doom_asid(CacheTag { vmid, asid: Some(asid) }),
            Command::TlbiNhVa { vmid, asid, scope } => {
                let tag = CacheTag { vmid, asid: Some(asid) };
                self.doom_leaves(scope, |cached| cached.hits(tag));
                self.doom_pointers(scope, |of| of == tag);
            }
            Command::TlbiNhVaa { vmid, scope } => {
                self.doom_scope(scope, |tag| tag.vmid == vmid && tag.asid.is_some());
            }
            Command::TlbiS2Ipa { vmid, scope } => {
                self.doom_scope(scope, |tag| tag.vmid == vmid && tag.asid.is_none());
            }
            _ => {}
        }
    }

    fn doom_tagged(&mut self, named: impl Fn(CacheTag) -> bool) {
        self.leaves.iter_mut().filter(|cached| named(cached.tag)).for_each(TlbEntry::doom);
        self.pointers.iter_mut().filter(|cached| named(cached.tag)).for_each(TlbEntry::doom);
    }

    /// Global translations stay, whichever ASID put them there.
    fn doom_asid(&mut self, tag: CacheTag) {
        let named = |cached: &&mut TlbEntry<CachedLeaf>| cached.tag == tag && !cached.value.global;
        self.leaves.iter_mut().filter(named).for_each(TlbEntry::doom);
        self.pointers.iter_mut().filter(|cached| cached.tag == tag).for_each(TlbEntry::doom);
    }

    fn doom_scope(&mut self, scope: Scope, named: impl Fn(CacheTag) -> bool) {
        self.doom_leaves(scope, |cached| named(cached.tag));
        self.doom_pointers(scope, named);
    }

    fn doom_leaves(&mut self, scope: Scope, named: impl Fn(&TlbEntry<CachedLeaf>) -> bool) {
        let (first, last) = bounds(scope);
        let level_fits = |level: u8| match scope.extent {
            Extent::Pages { ttl: wanted @ 1.., .. } => wanted == level,
            _ => true,
        };
        for cached in &mut self.leaves {
            if named(cached) && cached.value.overlaps(first, last) && level_fits(cached.value.level) {
                cached.doom();
            }
        }
    }

    /// With Leaf = 1 table pointers need not go, so they stay.
    fn doom_pointers(&mut self, scope: Scope, named: impl Fn(CacheTag) -> bool) {
        let (first, last) = bounds(scope);
        for cached in &mut self.pointers {
            if !scope.leaf && named(cached.tag) && cached.value.overlaps(first, last) {
                cached.doom();
            }
        }
    }
}

impl<T> TlbEntry<T> {
    fn doom(&mut self) {
        self.doomed = true;
    }
}

impl TlbEntry<CachedLeaf> {
    /// Whether a transaction under `tag` uses it.
    fn hits(&self, tag: CacheTag) -> bool {
        let stage1 = self.tag.asid.is_some() && tag.asid.is_some();
        self.tag.vmid == tag.vmid && (self.tag.asid == tag.asid || (stage1 && self.value.global))
    }
}

/// The first and the last address of a scope.
fn bounds(scope: Scope) -> (u64, u64) {
    let first = scope.start.raw();
    (first, scope.extent.bytes().map_or(first, |bytes| first.saturating_add(bytes - 1)))
}
