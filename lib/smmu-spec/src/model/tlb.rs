//! TLB and walk cache. Entries are kept until invalidated by a TLBI command and a CMD_SYNC.

use super::walk::{CachedLeaf, TablePath};
use crate::command::{Command, Extent, Scope};
use addr::{Asid, Vmid};
use alloc::vec::Vec;

/// The tag of a cached translation. The VMID is 0 without stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CacheTag {
    pub vmid: Vmid,
    /// `None` for stage 2.
    pub asid: Option<Asid>,
}

/// A walk cache entry: a table that translates the `2^log2` bytes from `at` on.
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
struct TaggedEntry<T> {
    tag: CacheTag,
    value: T,
    /// An invalidation is pending: the entry is removed at the next CMD_SYNC and is used until then.
    pending: bool,
}

/// The TLB and the walk cache. No entry is evicted except by [`Tlb::evict`].
#[derive(Default)]
pub(super) struct Tlb {
    leaves: Vec<TaggedEntry<CachedLeaf>>,
    pointers: Vec<TaggedEntry<TablePointer>>,
}

impl Tlb {
    pub fn len(&self) -> usize {
        self.leaves.len() + self.pointers.len()
    }

    /// The cached translation of `address`. Panics on a TLB conflict (two entries).
    pub fn find(&self, tag: CacheTag, address: u64) -> Option<CachedLeaf> {
        let hits =
            |cached: &&TaggedEntry<CachedLeaf>| cached.hits(tag) && cached.value.overlaps(address, address);
        let mut found = self.leaves.iter().filter(hits);
        let first = found.next();
        assert!(found.next().is_none(), "two cached translations of {address:#x} under {tag:?}");
        first.map(|cached| cached.value)
    }

    /// The lowest-level cached table for `address`, and whether its invalidation is pending: then it is also
    /// pending for entries found through it.
    pub fn nearest(&self, tag: CacheTag, address: u64) -> Option<(TablePath, bool)> {
        let on_path = |cached: &&TaggedEntry<TablePointer>| {
            cached.tag == tag && cached.value.overlaps(address, address)
        };
        let nearest = self.pointers.iter().filter(on_path).max_by_key(|cached| cached.value.to.level)?;
        Some((nearest.value.to, nearest.pending))
    }

    /// Caches a translation. Panics if it overlaps a different one: break-before-make is missing.
    pub fn insert(&mut self, tag: CacheTag, leaf: CachedLeaf, pending: bool) {
        let overlaps =
            |old: &&TaggedEntry<CachedLeaf>| old.hits(tag) && old.value.overlaps(leaf.at, leaf.last());
        if let Some(old) = self.leaves.iter().find(overlaps) {
            if old.value.is_same(&leaf) {
                return;
            }
            panic!("{leaf:x?} overlaps the cached {old:x?}: changed without break-before-make");
        }
        self.leaves.push(TaggedEntry { tag, value: leaf, pending });
    }

    pub fn insert_pointer(&mut self, tag: CacheTag, pointer: TablePointer, pending: bool) {
        self.pointers.push(TaggedEntry { tag, value: pointer, pending });
    }

    /// Evicts the entries for which `evicted` returns true.
    pub fn evict(&mut self, evicted: &mut impl FnMut() -> bool) {
        self.leaves.retain(|_| !evicted());
        self.pointers.retain(|_| !evicted());
    }

    /// Completes pending invalidations (CMD_SYNC).
    pub fn complete(&mut self) {
        self.leaves.retain(|cached| !cached.pending);
        self.pointers.retain(|cached| !cached.pending);
    }

    /// Marks exactly the entries that `command` invalidates.
    pub fn invalidate(&mut self, command: Command) {
        match command {
            Command::TlbiNsnhAll => self.mark_tagged(|_| true),
            Command::TlbiNhAll { vmid } => self.mark_tagged(|tag| tag.vmid == vmid && tag.asid.is_some()),
            Command::TlbiS12Vmall { vmid } => self.mark_tagged(|tag| tag.vmid == vmid),
            Command::TlbiNhAsid { vmid, asid } => self.mark_asid(CacheTag { vmid, asid: Some(asid) }),
            Command::TlbiNhVa { vmid, asid, scope } => {
                let tag = CacheTag { vmid, asid: Some(asid) };
                self.mark_leaves(scope, |cached| cached.hits(tag));
                self.mark_pointers(scope, |of| of == tag);
            }
            Command::TlbiNhVaa { vmid, scope } => {
                self.mark_scope(scope, |tag| tag.vmid == vmid && tag.asid.is_some());
            }
            Command::TlbiS2Ipa { vmid, scope } => {
                self.mark_scope(scope, |tag| tag.vmid == vmid && tag.asid.is_none());
            }
            _ => {}
        }
    }

    fn mark_tagged(&mut self, matches: impl Fn(CacheTag) -> bool) {
        self.leaves.iter_mut().filter(|cached| matches(cached.tag)).for_each(TaggedEntry::mark_pending);
        self.pointers.iter_mut().filter(|cached| matches(cached.tag)).for_each(TaggedEntry::mark_pending);
    }

    /// Global translations are not invalidated by ASID.
    fn mark_asid(&mut self, tag: CacheTag) {
        let matches = |cached: &&mut TaggedEntry<CachedLeaf>| cached.tag == tag && !cached.value.global;
        self.leaves.iter_mut().filter(matches).for_each(TaggedEntry::mark_pending);
        self.pointers.iter_mut().filter(|cached| cached.tag == tag).for_each(TaggedEntry::mark_pending);
    }

    fn mark_scope(&mut self, scope: Scope, matches: impl Fn(CacheTag) -> bool) {
        self.mark_leaves(scope, |cached| matches(cached.tag));
        self.mark_pointers(scope, matches);
    }

    fn mark_leaves(&mut self, scope: Scope, matches: impl Fn(&TaggedEntry<CachedLeaf>) -> bool) {
        let (first, last) = bounds(scope);
        let level_fits = |level: u8| match scope.extent {
            Extent::Pages { ttl: wanted @ 1.., .. } => wanted == level,
            _ => true,
        };
        for cached in &mut self.leaves {
            if matches(cached) && cached.value.overlaps(first, last) && level_fits(cached.value.level) {
                cached.mark_pending();
            }
        }
    }

    /// With Leaf = 1 the SMMU may keep walk cache entries, so the model keeps them.
    fn mark_pointers(&mut self, scope: Scope, matches: impl Fn(CacheTag) -> bool) {
        let (first, last) = bounds(scope);
        for cached in &mut self.pointers {
            if !scope.leaf && matches(cached.tag) && cached.value.overlaps(first, last) {
                cached.mark_pending();
            }
        }
    }
}

impl<T> TaggedEntry<T> {
    fn mark_pending(&mut self) {
        self.pending = true;
    }
}

impl TaggedEntry<CachedLeaf> {
    /// Whether a transaction with `tag` hits the entry.
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
