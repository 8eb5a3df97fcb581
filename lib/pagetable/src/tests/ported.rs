//! Test cases of other page table implementations: every block size at fresh addresses, maps over existing
//! mappings, the last block below the top, colliding random ranges, blocks replacing pages, parts of blocks,
//! every overlap and every part of a small buffer. The number of tables is the same before and after.

use super::*;
use crate::MapError;
use std::collections::BTreeSet;

/// Input sizes that give roots of every length and level.
const INPUTS: &[u8] = if cfg!(miri) { &[31] } else { &[25, 30, 31, 36, 39, 40, 42, 44, 48] };
/// The stride through all starts and lengths; larger for Miri.
const STEP: usize = if cfg!(miri) { 7 } else { 1 };
/// Every size of leaf, and of a contiguous group.
const SIZES: &[u64] = if cfg!(miri) { &[64 * K] } else { &[4 * K, 64 * K, 2 * M, 32 * M, G] };

/// Output addresses for a leaf of `bytes`: in the middle and at the end of the 48-bit output range.
fn outputs(bytes: u64) -> [u64; 2] {
    [4 * G, (1 << 48) - bytes]
}

fn try_map(
    d: &mut IommuFixture,
    at: u64,
    chunks: impl IntoIterator<Item = Chunk>,
) -> Result<(), MapError<Iova>> {
    d.table.map(&mut d.m, Iova::new(at), chunks, RW)
}

/// Checks that a map fails because of the mapping at `taken`, and changes nothing.
fn check_rejected(d: &mut IommuFixture, at: u64, bytes: u64, taken: u64) {
    let before = (d.leaves(), d.table.tables());
    let error = try_map(d, at, Chunk::of_range(range_of(8 * G, bytes)));
    assert_eq!(error, Err(MapError::AlreadyMapped(Iova::new(taken))), "{at:#x}+{bytes:#x}");
    assert_eq!((d.leaves(), d.table.tables()), before, "{at:#x}+{bytes:#x}");
}

fn range_of(start: u64, len: u64) -> AddrRange<PhysAddr> {
    AddrRange::new(PhysAddr::new(start), PhysAddr::new(start + len))
}

#[test]
fn every_block_size_is_mapped_rejected_twice_and_unmapped() {
    for &bits in INPUTS {
        for &bytes in SIZES.iter().filter(|bytes| *bytes * 4 <= 1 << bits) {
            for to in outputs(bytes) {
                let mut d = IommuFixture::new(bits);
                let tables = d.table.tables();
                // At the start, in between, and the last below the top.
                for at in [0, 2 * bytes, (1 << bits) - bytes] {
                    d.map(at, [chunk(to, bytes)], RW);
                    for offset in [0, bytes / 2 + 42, bytes - 1] {
                        assert_eq!(
                            d.translate(at + offset),
                            Some(PhysAddr::new(to + offset)),
                            "{bits} {at:#x}"
                        );
                    }
                    check_rejected(&mut d, at, bytes, at);
                    check_rejected(&mut d, at + bytes - 4 * K, 4 * K, at + bytes - 4 * K);
                }
                assert_eq!(d.translate(bytes), None);
                for at in [0, 2 * bytes, (1 << bits) - bytes] {
                    d.unmap(at, bytes);
                    assert_eq!((d.translate(at), d.translate(at + bytes - 1)), (None, None));
                    d.map(at, [chunk(to, bytes)], RW);
                    d.unmap(at, bytes);
                }
                assert_eq!((d.leaves(), d.table.tables()), (vec![], tables), "{bits} bits, {bytes:#x}");
            }
        }
    }
}

#[test]
fn nothing_is_mapped_past_the_end_of_input_or_output() {
    for &bits in INPUTS {
        let mut d = IommuFixture::new(bits);
        let past = try_map(&mut d, (1 << bits) - 4 * K, [chunk(G, 8 * K)]);
        assert!(matches!(past, Err(MapError::OutOfRange(_))), "{past:?}");
        let past = try_map(&mut d, 0, [chunk((1 << 48) - 4 * K, 4 * K), chunk(1 << 48, 4 * K)]);
        assert_eq!(
            past,
            Err(MapError::OutputTooLarge {
                last: PhysAddr::new((1 << 48) + 4 * K - 1),
                highest: PhysAddr::new((1 << 48) - 1),
            })
        );
        assert_eq!(d.leaves(), []);
    }
}

#[test]
fn random_ranges_are_rejected_exactly_when_they_overlap() {
    let mut d = IommuFixture::new(39);
    let (tables, mut taken, mut mapped) = (d.table.tables(), BTreeSet::new(), Vec::new());
    let rounds = if cfg!(miri) { 12 } else { 1000 };
    let mut number: u64 = 42;
    let mut below = |end: u64| {
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (number >> 33) % end
    };
    for _ in 0..rounds {
        let (page, pages) = (below(1 << 14), 1 << below(6));
        let page = if below(2) == 0 { page & !(pages - 1) } else { page };
        let first = (page..page + pages).find(|page| taken.contains(page));
        match first {
            Some(first) => check_rejected(&mut d, page * 4 * K, pages * 4 * K, first * 4 * K),
            None => {
                d.map(page * 4 * K, [chunk(16 * G + (page & !(pages - 1)) * 4 * K, pages * 4 * K)], RW);
                taken.extend(page..page + pages);
                mapped.push((page, pages));
            }
        }
    }
    assert!(cfg!(miri) || (200..800).contains(&mapped.len()), "{}", mapped.len());
    mapped.into_iter().for_each(|(page, pages)| d.unmap(page * 4 * K, pages * 4 * K));
    assert_eq!((d.leaves(), d.table.tables()), (vec![], tables));
}

#[test]
fn blocks_replace_pages_and_pages_replace_blocks() {
    let mut d = IommuFixture::new(48);
    for (large, small) in [(2 * M, 4 * K), (G, 2 * M)] {
        let tables = d.table.tables();
        for _ in 0..2 {
            d.map(G, (0..large / small).map(|n| chunk(64 * G + 2 * n * small, small)), RW);
            assert_eq!(d.leaves().len() as u64, large / small);
            d.unmap(G, large);
            d.map(G, [chunk(4 * G, large)], RW);
            assert_eq!(d.leaves(), [(G, 4 * G, large, false)]);
            d.unmap(G, large);
        }
        assert_eq!(d.table.tables(), tables);
    }
}

#[test]
fn unmapping_part_of_a_block_leaves_the_largest_leaves() {
    // The part unmapped from 1 GiB, and the number of leaves of 1 GiB, 2 MiB and 4 KiB that stay.
    let cases = [
        ((0, 4 * K), [0, 511, 511]),
        ((G - 4 * K, 4 * K), [0, 511, 511]),
        ((512 * M, 2 * M), [0, 511, 0]),
        ((2 * M, 4 * K), [0, 511, 511]),
        ((4 * K, 4 * M), [0, 509, 512]),
        ((2 * M - 4 * K, 8 * K), [0, 510, 1022]),
        ((0, G / 2), [0, 256, 0]),
        ((0, G), [0, 0, 0]),
    ];
    for ((at, len), expected) in cases {
        let mut d = IommuFixture::new(39);
        d.map(G, [chunk(4 * G, G)], RW);
        d.unmap(G + at, len);
        let leaves = d.leaves();
        let count = |bytes: u64| leaves.iter().filter(|leaf| leaf.2 == bytes).count();
        assert_eq!([G, 2 * M, 4 * K].map(count), expected, "{at:#x}+{len:#x}");
        let total: u64 = leaves.iter().map(|leaf| leaf.2).sum();
        assert_eq!(total, G - len);
        assert!(leaves.iter().all(|leaf| leaf.1 == leaf.0 + 3 * G), "an output address changed");
    }
}

#[test]
fn every_overlap_is_rejected_and_changes_nothing() {
    let mut d = IommuFixture::new(39);
    d.map(2 * M + 32 * K, [chunk(4 * G, 32 * K)], RW);
    for start in (0..24u64).step_by(STEP) {
        for pages in (1..=24 - start).step_by(STEP) {
            let (at, first) = (2 * M + start * 4 * K, start.max(8));
            if start < 16 && start + pages > 8 {
                check_rejected(&mut d, at, pages * 4 * K, 2 * M + first * 4 * K);
            } else {
                d.map(at, Chunk::of_range(range_of(8 * G, pages * 4 * K)), RW);
                d.unmap(at, pages * 4 * K);
            }
        }
    }
    assert_eq!(d.leaves().len(), 8);
}

#[test]
fn every_part_of_a_small_buffer_unmaps_alone() {
    for start in (0..20u64).step_by(STEP) {
        for pages in (1..=20 - start).step_by(STEP) {
            let mut d = IommuFixture::new(39);
            // With a contiguous group in the middle.
            d.map(2 * M - 8 * K, Chunk::of_range(range_of(4 * G - 8 * K, 80 * K)), RW);
            d.unmap(2 * M - 8 * K + start * 4 * K, pages * 4 * K);
            for page in 0..20 {
                let at = 2 * M - 8 * K + page * 4 * K;
                let unmapped = (start..start + pages).contains(&page);
                let expected = (!unmapped).then(|| PhysAddr::new(at + 4 * G - 2 * M));
                assert_eq!(d.translate(at), expected, "{start}+{pages}: {page}");
            }
        }
    }
}
