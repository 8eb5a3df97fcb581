//! Fixed roots, per-CPU roots and their windows.

use super::*;
use crate::{Descriptor, FixedRoot, MapError, MapWindow, OutOfTables, PerCpuRoot};
use addr::KernelVa;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

/// The range of one entry of the root.
const SLOT: u64 = 512 * G;
/// The slot with private tables of each walker.
const OWN: u64 = 9 * SLOT;

/// The first address of the tree.
const BASE: u64 = 0xffff << 48;

/// A kernel page table; addresses are relative to [`BASE`].
struct KernelFixture {
    m: FakeTableMemory,
    table: PageTable<Stage1, KernelVa>,
}

impl KernelFixture {
    fn new() -> Self {
        let mut m = FakeTableMemory::new::<Stage1>(BASE);
        let table = PageTable::new(&mut m, 48).unwrap();
        m.install(table.root(), 0);
        Self { m, table }
    }
    fn map(&mut self, at: u64, chunks: impl IntoIterator<Item = Chunk>) -> Result<(), MapError<KernelVa>> {
        let mapped = self.table.map(&mut self.m, va(at), chunks, RW);
        self.m.check_quiet();
        mapped
    }
    fn unmap(&mut self, at: u64, len: u64) {
        let stale = self.table.unmap(&mut self.m, range(BASE + at, len)).unwrap();
        self.m.invalidate(BASE + at, len);
        stale.release(&mut self.m);
        self.m.check_quiet();
    }
    fn leaves(&self) -> usize {
        let mut count = 0;
        self.table.all_leaves(&self.m, |_| count += 1);
        count
    }
}

fn va(at: u64) -> KernelVa {
    KernelVa::new(BASE + at)
}

/// A tree with a page in its first slot, fixed with tables in two more slots.
fn fixed() -> (KernelFixture, FixedRoot<Stage1, KernelVa>) {
    let mut d = KernelFixture::new();
    d.map(0, [chunk(G, 4 * K)]).unwrap();
    let areas = [range(BASE + 2 * SLOT + G, SLOT), range(BASE + 5 * SLOT, 0)];
    let fixed = d.table.fix_root(&mut d.m, areas).unwrap();
    d.m.check_quiet();
    (d, fixed)
}

fn own(d: &mut KernelFixture, fixed: &FixedRoot<Stage1, KernelVa>) -> PerCpuRoot {
    let own = fixed.per_cpu_root(&mut d.m, va(OWN)).unwrap();
    d.m.order_before_link();
    d.m.install(own.root(), 0);
    own
}

/// The translation of `at` by a walker that starts at `root`.
fn walk(m: &FakeTableMemory, root: PhysAddr, at: u64) -> Option<PhysAddr> {
    let mut table = root;
    for level in 0..4 {
        let bits = 39 - 9 * level;
        let slot = (at >> bits) as usize & 511;
        let entry = Descriptor::from_bits(m.entries(TableRef::new(table))[slot].load(Relaxed));
        match entry {
            entry if !entry.is_valid() => return None,
            entry if !entry.is_table(level) => return Some(entry.output() + (at & ((1 << bits) - 1))),
            entry => table = entry.output(),
        }
    }
    None
}

#[test]
fn later_mappings_are_visible_through_every_per_cpu_root() {
    let (mut d, fixed) = fixed();
    let owns = [own(&mut d, &fixed), own(&mut d, &fixed)];
    // In the slots that were in use before, and in the requested ones.
    for at in [3 * G, 2 * SLOT, 4 * SLOT - 2 * M] {
        d.map(at, [chunk(4 * G, 2 * M)]).unwrap();
        assert!(owns.iter().all(|own| walk(&d.m, own.root(), at + 5) == Some(PhysAddr::new(4 * G + 5))));
        d.unmap(at, 2 * M);
        assert!(owns.iter().all(|own| walk(&d.m, own.root(), at).is_none()));
        assert!(owns.iter().all(|own| fixed.difference(&d.m, own).is_none()));
    }
}

#[test]
fn every_table_belongs_to_the_tree_or_to_one_cpu() {
    let (mut d, fixed) = fixed();
    let own = own(&mut d, &fixed);
    let mut tables = BTreeSet::from(own.tables(&d.m));
    d.table.each_table(&d.m, |table| assert!(tables.insert(table), "{table} is visited twice"));
    assert_eq!((tables.len(), own.tables(&d.m)[0]), (d.m.allocated(), own.root()));
}

#[test]
fn tables_of_a_fixed_root_stay_linked_when_empty() {
    let (mut d, fixed) = fixed();
    let own = own(&mut d, &fixed);
    let tables = d.table.tables();
    d.map(2 * SLOT, [chunk(4 * G, 2 * M)]).unwrap();
    // Whole slots, which would otherwise be unlinked by one store each in the root.
    d.unmap(0, 4 * SLOT);
    assert_eq!((d.leaves(), fixed.difference(&d.m, &own)), (0, None));
    assert_eq!(d.table.tables(), tables - 2, "the tables of the page");
    d.map(SLOT - 4 * K, [chunk(G, 4 * K)]).unwrap();
    assert_eq!(walk(&d.m, own.root(), SLOT - 1), Some(PhysAddr::new(G + 4 * K - 1)));
}

#[test]
fn map_fails_where_a_fixed_root_has_no_table() {
    let (mut d, _) = fixed();
    let before = (d.leaves(), d.table.tables());
    let mut refused = |at, chunks: &[Chunk], missing| {
        let error = d.map(at, chunks.iter().copied());
        assert_eq!(error, Err(MapError::FixedRoot(va(missing))));
        assert_eq!((d.leaves(), d.table.tables()), before);
    };
    refused(SLOT, &[chunk(G, 4 * K)], SLOT);
    refused(OWN, &[chunk(4 * G, 2 * M)], OWN);
    // The part before it is undone.
    refused(4 * SLOT - 2 * M, &[chunk(4 * G, 2 * M), chunk(G, 4 * K)], 4 * SLOT);
}

#[test]
fn each_cpu_has_its_own_window_at_the_same_address() {
    let (mut d, fixed) = fixed();
    let owns = [own(&mut d, &fixed), own(&mut d, &fixed)];
    let windows = owns.map(|own| {
        let entries = [own.blocks(), own.pages()].map(|table| d.m.entries(table));
        MapWindow::new(entries[0], entries[1])
    });
    let seen = |at| owns.map(|own| walk(&d.m, own.root(), OWN + at));
    let pages = MapWindow::PAGES_OFFSET;
    assert_eq!([seen(0), seen(pages)], [[None; 2]; 2]);
    let [first, second] = windows;
    first.map_block::<KernelVa>(chunk(6 * M, 2 * M), RW);
    let mut shown = first.map::<KernelVa>(0, chunk(0x8000_0000, 64 * K), RW);
    shown += first.map::<KernelVa>(shown, chunk(0x4000_1000, 4 * K), RW);
    assert_eq!(shown, 17);
    assert_eq!(second.map::<KernelVa>(MapWindow::PAGES - 1, chunk(0x5000_2000, 4 * K), RO), 1);
    let some = |at| Some(PhysAddr::new(at));
    assert_eq!(seen(M), [some(7 * M), None]);
    assert_eq!(seen(pages + 0xf123), [some(0x8000_f123), None]);
    assert_eq!(seen(pages + 0x1_0000), [some(0x4000_1000), None]);
    assert_eq!(seen(pages + 0x1_1000), [None, None]);
    assert_eq!(seen(pages + 2 * M - 1), [None, some(0x5000_2fff)]);
    let shows = |window: MapWindow<'_>| {
        let mut all = Vec::new();
        window.leaves(va(OWN), |leaf| all.push((leaf.at.raw() - va(OWN).raw(), leaf.to.raw(), leaf.bytes)));
        all
    };
    assert_eq!(shows(first).len(), 18);
    assert_eq!(shows(first)[..2], [(0, 6 * M, 2 * M), (pages, 0x8000_0000, 4 * K)]);
    first.unmap_block();
    first.unmap(shown);
    assert_eq!(shows(first), []);
    assert_eq!(shows(second), [(pages + 2 * M - 4 * K, 0x5000_2000, 4 * K)]);
}

#[test]
fn difference_finds_a_modified_copy() {
    let (mut d, fixed) = fixed();
    let own = own(&mut d, &fixed);
    assert_eq!(fixed.difference(&d.m, &own), None);
    d.m.entries(TableRef::new(own.root()))[3].store(0x7000_0000_1003, Relaxed);
    assert_eq!(fixed.difference(&d.m, &own), Some(va(3 * SLOT)));
}

#[test]
fn per_cpu_root_without_frames_fails_and_leaks_nothing() {
    let (mut d, fixed) = fixed();
    let before = d.m.allocated();
    for budget in 0..PerCpuRoot::TABLES as usize {
        d.m.budget = budget;
        assert!(matches!(fixed.per_cpu_root(&mut d.m, va(OWN)), Err(OutOfTables)));
        assert_eq!(d.m.allocated(), before, "{budget}");
    }
    d.m.budget = PerCpuRoot::TABLES as usize;
    own(&mut d, &fixed);
    assert_eq!(d.m.budget, 0);
    d.m.check_quiet();
}

#[test]
fn fix_root_rejects_ranges_outside_of_the_tree() {
    let mut d = KernelFixture::new();
    let below = d.table.fix_root(&mut d.m, [range(BASE - G, G)]);
    assert_eq!(below.map(|_| ()), Err(MapError::OutOfRange(KernelVa::new(BASE - G))));
    d.m.budget = 0;
    let nothing_left = d.table.fix_root(&mut d.m, [range(BASE, G)]);
    assert_eq!(nothing_left.map(|_| ()), Err(MapError::OutOfTables));
}

#[test]
#[should_panic(expected = "the tree has an entry")]
fn per_cpu_root_panics_on_a_slot_of_the_tree() {
    let (mut d, fixed) = fixed();
    _ = fixed.per_cpu_root(&mut d.m, va(2 * SLOT));
}
