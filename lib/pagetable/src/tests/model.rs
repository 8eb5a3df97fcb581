//! Random operations compared with a model, a flat array of pages. The fake checks every store.

use super::fake::FakeTableMemory;
use crate::{Access, Format, InputAddress, Leaf, LeafSize, MapError, Mapping, PageTable, ProtectError};
use crate::{Stage1, Stage2, StaleTables, TableMemory, UnmapError};
use addr::{AddrRange, Chunk, Iova, KernelVa, MemoryType, Order, PAGE_SIZE, Pfn, PhysAddr, UserVa};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// The pages of the tested range: 72 MiB, which contains a whole 32 MiB group at any alignment.
const PAGES: u64 = 72 << 8;

type PageState = (u64, MemoryType, Access);

#[derive(Clone, Debug)]
enum Action {
    /// From this page on: runs of (first frame, frames).
    Map(u64, Vec<(u64, u64)>, Mapping),
    Unmap(u64, u64),
    Split(u64),
    Protect(u64, u64, Mapping),
}

/// Page numbers, preferably at the edges of groups, blocks and tables.
fn page() -> impl Strategy<Value = u64> {
    let aligned = |shift: u32| (0..PAGES >> shift).prop_map(move |n| n << shift);
    let near = (aligned(9), 0..3u64).prop_map(|(page, by)| (page + 1).saturating_sub(by));
    prop_oneof![0..PAGES, aligned(4), aligned(9), Just(PAGES / 2), near]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..40u64, 2 => 1..2000u64, 2 => Just(512), 1 => Just(16), 1 => Just(512 * 16), 1 => Just(512 * 16 + 17)]
}

/// First page and length: a random length, or up to another page near an edge.
fn part() -> impl Strategy<Value = (u64, u64)> {
    let far = (page(), page()).prop_map(|(a, b)| (a.min(b), a.abs_diff(b) + 1));
    let near = (page(), 1..4u64).prop_map(|(page, groups)| (page, (page & !15) + 16 * groups - page));
    prop_oneof![4 => (page(), length()), 1 => far, 2 => near]
}

/// A run of frames of random alignment.
fn run() -> impl Strategy<Value = (u64, u64)> {
    (1..1u64 << 20, prop_oneof![Just(0), Just(4), Just(9), Just(13)], length())
        .prop_map(|(frame, shift, frames)| (frame >> shift << shift, frames))
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let all = [
        Mapping::read_write(MemoryType::WriteBack),
        Mapping::read_only(MemoryType::WriteBack),
        Mapping::code(),
        Mapping::read_write(MemoryType::NonCacheable),
        Mapping::read_write(MemoryType::WriteBack).pages_only(),
        Mapping::read_write(MemoryType::WriteBack).only(LeafSize::Block2M),
    ];
    (0..all.len()).prop_map(move |n| all[n])
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => (page(), vec(run(), 1..4), mapping()).prop_map(|(at, runs, how)| Action::Map(at, runs, how)),
        4 => part().prop_map(|(at, len)| Action::Unmap(at, len)),
        2 => (part(), mapping()).prop_map(|((at, len), how)| Action::Protect(at, len, how)),
        2 => page().prop_map(Action::Split),
    ]
}

fn chunks(runs: &[(u64, u64)]) -> Vec<Chunk> {
    let range = |first, frames| AddrRange::new(Pfn::new(first).start(), Pfn::new(first + frames).start());
    runs.iter().flat_map(|&(first, frames)| Chunk::of_range(range(first, frames))).collect()
}

/// A page table, its memory, and the model.
struct ModelFixture<F, A> {
    m: FakeTableMemory,
    table: PageTable<F, A>,
    /// The first address of the tested range.
    start: A,
    /// The expected mapping of each page.
    pages: Vec<Option<PageState>>,
    /// Whether the tree keeps a spare table, which a block may replace.
    keeps: bool,
}

impl<F: Format, A: InputAddress> ModelFixture<F, A> {
    fn new(bits: u8, first_address: u64, start: u64, keeps: bool) -> Self {
        let mut m = FakeTableMemory::new::<F>(first_address);
        let mut table = PageTable::new(&mut m, bits).unwrap();
        if keeps {
            table = table.with_spare_table();
        }
        m.install(table.root(), table.start_level());
        Self { m, table, start: A::new(start), pages: vec![None; PAGES as usize], keeps }
    }

    fn at(&self, page: u64) -> A {
        A::new(self.start.raw() + page * PAGE_SIZE)
    }

    /// The pages of the model and the addresses of a part of the tested range.
    fn part(&self, page: u64, len: u64) -> (std::ops::Range<usize>, AddrRange<A>) {
        let end = (page + len).min(PAGES);
        (page as usize..end as usize, AddrRange::new(self.at(page), self.at(end)))
    }

    fn release(&mut self, range: AddrRange<A>, stale: StaleTables) {
        self.m.invalidate(range.start().raw(), range.len());
        stale.release(&mut self.m);
    }

    fn act(&mut self, action: &Action, budget: usize) {
        self.m.budget = budget;
        match action {
            Action::Map(page, runs, how) => self.map(*page, runs, *how),
            Action::Unmap(page, len) => self.unmap(*page, *len),
            Action::Protect(page, len, how) => self.protect(*page, *len, *how),
            // Changes no translation.
            Action::Split(page) => {
                let at = self.at(*page);
                let split = self.table.split_block(&mut self.m, at);
                assert!(split.is_ok() || self.m.budget == 0);
            }
        }
        self.m.check_quiet();
        assert_eq!(self.table.tables() as usize, self.m.allocated());
    }

    fn map(&mut self, page: u64, runs: &[(u64, u64)], how: Mapping) {
        let frames = runs.iter().flat_map(|&(first, frames)| first..first + frames);
        let wanted: Vec<_> = frames.map(|frame| (frame, how.memory(), how.access())).collect();
        let wanted = &wanted[..wanted.len().min((PAGES - page) as usize)];
        let taken = self.pages[page as usize..][..wanted.len()].iter().position(Option::is_some);
        let before = self.table.tables();
        let list = chunks(runs);
        let frames: u64 = list.iter().map(|chunk| chunk.frames()).sum();
        if frames > PAGES - page {
            return;
        }
        let at = self.at(page);
        match self.table.map(&mut self.m, at, list, how) {
            Ok(()) => {
                assert_eq!(taken, None);
                if how.leaf_size() == LeafSize::Page {
                    let end = A::new(at.raw() + frames * PAGE_SIZE);
                    self.table.leaves(&self.m, AddrRange::new(at, end), |leaf| {
                        assert_eq!((leaf.bytes, leaf.contiguous), (PAGE_SIZE, false));
                    });
                }
                for (slot, page) in self.pages[page as usize..].iter_mut().zip(wanted) {
                    *slot = Some(*page);
                }
                return;
            }
            Err(MapError::AlreadyMapped(at)) => {
                assert_eq!(Some(at), taken.map(|n| self.at(page + n as u64)));
            }
            Err(MapError::OutOfTables) => assert_eq!(self.m.budget, 0),
            Err(error) => panic!("{error:?}"),
        }
        assert!(self.table.tables() <= before, "a failed map left tables");
        assert!(self.keeps || self.table.tables() == before, "a failed map removed tables");
    }

    fn unmap(&mut self, page: u64, len: u64) {
        let (pages, range) = self.part(page, len);
        match self.table.unmap(&mut self.m, range) {
            Ok(stale) => {
                self.release(range, stale);
                self.pages[pages].fill(None);
            }
            Err(UnmapError::OutOfTables) => assert_eq!(self.m.budget, 0),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn protect(&mut self, page: u64, len: u64, how: Mapping) {
        let (pages, range) = self.part(page, len);
        match self.table.protect(&mut self.m, range, how) {
            Ok(()) => {
                self.m.invalidate(range.start().raw(), range.len());
                for page in self.pages[pages].iter_mut().flatten() {
                    (page.1, page.2) = (how.memory(), how.access());
                }
            }
            Err(ProtectError::OutOfTables) => assert_eq!(self.m.budget, 0),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Compares all leaves with the model page by page; contiguous groups must be uniform and complete.
    fn compare(&self) {
        let mut found = vec![None; PAGES as usize];
        let mut leaves = Vec::new();
        self.table.all_leaves(&self.m, |leaf| leaves.push(leaf));
        let mut tables = BTreeSet::new();
        self.table.each_table(&self.m, |table| assert!(tables.insert(table), "{table} is visited twice"));
        assert_eq!(tables.len(), self.table.tables() as usize);
        for leaf in &leaves {
            let first = (leaf.at.raw() - self.start.raw()) / PAGE_SIZE;
            for n in 0..leaf.bytes / PAGE_SIZE {
                let page = (Pfn::containing(leaf.to).raw() + n, leaf.memory, leaf.access);
                assert_eq!(found[(first + n) as usize].replace(page), None);
            }
        }
        let differs = (0..PAGES as usize).find(|&n| found[n] != self.pages[n]);
        assert_eq!(differs.map(|n| (n, found[n], self.pages[n])), None, "page, found, wanted");
        check_groups(&leaves);
        self.compare_runs(&leaves);
    }

    /// The runs consist of the leaves, in order, each within a table.
    fn compare_runs(&self, leaves: &[Leaf<A>]) {
        let (_, all) = self.part(0, PAGES);
        let mut left = leaves.iter();
        self.table.runs_until(&self.m, all, |run| {
            let (mut at, mut size) = (0, 0);
            while at < run.bytes {
                let leaf = left.next().expect("a leaf of the run");
                assert_eq!((leaf.at.raw(), leaf.to), (run.at.raw() + at, run.to + at), "{run:?}");
                (at, size) = (at + leaf.bytes, leaf.bytes);
            }
            assert_eq!(at, run.bytes);
            assert_eq!(run.at.raw() / (size << 9), (run.input().end().raw() - 1) / (size << 9), "{run:?}");
            ControlFlow::Continue(())
        });
        assert_eq!(left.next(), None);
    }

    fn compare_translations(&self) {
        for (n, page) in (0..).zip(&self.pages) {
            let at = A::new(self.at(n).raw() + 0x123);
            let found =
                self.table.translate(&self.m, at).map(|leaf| (leaf.translate(at), leaf.memory, leaf.access));
            let wanted =
                page.map(|(frame, memory, access)| (Pfn::new(frame).start() + 0x123, memory, access));
            assert_eq!(found, wanted, "page {n:#x}");
        }
    }

    /// Unmaps everything; only the root may be left, and the spare table with those above it.
    fn end(mut self) {
        self.act(&Action::Unmap(0, PAGES), usize::MAX);
        assert!(self.keeps || self.table.tables() == 1, "{} tables", self.table.tables());
        self.compare();
        self.m.uninstall();
        self.table.destroy(&mut self.m);
        assert_eq!(self.m.allocated(), 0);
    }
}

fn check_groups<A: InputAddress>(leaves: &[Leaf<A>]) {
    let mut groups = leaves.iter().filter(|leaf| leaf.contiguous);
    while let Some(first) = groups.next() {
        assert!(
            (first.at.raw() | first.to.raw()).is_multiple_of(first.bytes * 16),
            "{first:?} is not the start of a group"
        );
        let mut next = *first;
        for _ in 1..16 {
            next = Leaf { at: A::new(next.at.raw() + next.bytes), to: next.to + next.bytes, ..next };
            assert_eq!(groups.next(), Some(&next), "the group of {first:?}");
        }
    }
}

fn play<F: Format, A: InputAddress>(mut pair: ModelFixture<F, A>, actions: &[(Action, Option<usize>)]) {
    for (action, budget) in actions {
        pair.act(action, budget.unwrap_or(usize::MAX));
        pair.compare();
    }
    pair.compare_translations();
    pair.end();
}

/// Actions, some with few tables available.
fn script() -> impl Strategy<Value = Vec<(Action, Option<usize>)>> {
    vec((action(), proptest::option::weighted(0.25, 0..4usize)), 1..24)
}

/// `PROPTEST_CASES` deepens the search. Failures are not persisted: each becomes a regression test.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases / 6, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn device_addresses_agree_with_the_model(script in script(), keep: bool) {
        // The range crosses a 1 GiB and a 32 MiB border.
        play(ModelFixture::<Stage1, Iova>::new(39, 0, (1 << 30) - (36 << 20), keep), &script);
    }

    #[test]
    fn kernel_addresses_agree_with_the_model(script in script(), keep: bool) {
        let first = 0xffff_0000_0000_0000;
        play(ModelFixture::<Stage1, KernelVa>::new(48, first, first + (512 << 30) - (40 << 20), keep), &script);
    }

    #[test]
    fn top_of_the_kernel_half_agrees_with_the_model(script in script()) {
        let first = 0xffff_ff80_0000_0000;
        let start = 0u64.wrapping_sub((PAGES + 1) * PAGE_SIZE);
        play(ModelFixture::<Stage1, KernelVa>::new(39, first, start, false), &script);
    }

    #[test]
    fn user_addresses_agree_with_the_model(script in script(), keep: bool) {
        play(ModelFixture::<Stage1, UserVa>::new(48, 0, 0, keep), &script);
    }

    #[test]
    fn stage_2_agrees_with_the_model(script in script(), keep: bool) {
        // The last 72 MiB of a space whose root is a level 2 table.
        play(ModelFixture::<Stage2, Iova>::new(30, 0, (1 << 30) - (72 << 20), keep), &script);
    }
}

#[test]
fn block_of_1_gib_splits_down_to_pages() {
    let mut m = FakeTableMemory::new::<Stage1>(0);
    let mut table = PageTable::<Stage1, Iova>::new(&mut m, 48).unwrap();
    m.install(table.root(), table.start_level());
    let giga = Chunk::new(Pfn::new(1 << 18), Order::MAX).unwrap();
    table.map(&mut m, Iova::new(0), [giga], Mapping::read_write(MemoryType::WriteBack)).unwrap();
    assert_eq!(table.tables(), 2);
    let page = AddrRange::from_len(Iova::new(0x1234_5000), PAGE_SIZE).unwrap();
    let stale = table.unmap(&mut m, page).unwrap();
    m.invalidate(page.start().raw(), page.len());
    stale.release(&mut m);
    m.check_quiet();
    assert_eq!(table.tables(), 4);
    let mut leaves = Vec::new();
    table.all_leaves(&m, |leaf| leaves.push(leaf));
    check_groups(&leaves);
    assert_eq!(leaves.iter().map(|leaf| leaf.bytes).sum::<u64>(), (1 << 30) - PAGE_SIZE);
    for leaf in &leaves {
        assert_eq!(leaf.to, PhysAddr::new(leaf.at.raw() + (1 << 30)));
    }
    // All leaves except the split group of each level have the hint.
    let separate = leaves.iter().filter(|leaf| !leaf.contiguous).map(|leaf| leaf.bytes);
    assert_eq!(separate.clone().filter(|bytes| *bytes == PAGE_SIZE).count(), 15);
    assert_eq!(separate.filter(|bytes| *bytes == 2 << 20).count(), 15);
}
