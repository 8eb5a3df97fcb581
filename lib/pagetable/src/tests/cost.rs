//! The exact cost of mapping and unmapping in stores, calls of `entries_written`, barriers and tables.

use super::fake::TableEvent;
use super::*;

/// Entries written, `entries_written` calls, `order_before_link` calls, tables allocated, tables released,
/// invalidations.
#[derive(PartialEq, Eq, Debug, Default)]
struct Cost([usize; 6]);

impl Cost {
    fn of(log: &[TableEvent]) -> Self {
        let mut cost = Self::default();
        for event in log {
            let at = match event {
                TableEvent::Written(count) => {
                    cost.0[0] += count;
                    1
                }
                TableEvent::Barrier => 2,
                TableEvent::Allocate => 3,
                TableEvent::Release => 4,
                TableEvent::Invalidate(..) => 5,
            };
            cost.0[at] += 1;
        }
        cost
    }
}

/// The costs of mapping at 1 GiB in an empty 48-bit tree, and of unmapping.
fn measure(list: Vec<Chunk>) -> [[usize; 6]; 2] {
    let mut d = IommuFixture::new(48);
    let len = list.iter().map(|chunk| chunk.bytes()).sum();
    d.map(G, list, RW);
    let map = Cost::of(&d.m.take_log());
    d.unmap(G, len);
    [map.0, Cost::of(&d.m.take_log()).0]
}

#[test]
fn every_entry_is_written_once() {
    #[rustfmt::skip]
    let cases = [
        // stores, runs, barriers, allocated, released, invalidations: of map, then of unmap
        ("4 KiB", vec![chunk(2 * G, 4 * K)], [[3 + 1, 4, 1, 3, 0, 0], [3 + 1, 4, 0, 0, 3, 1]]),
        ("64 KiB", vec![chunk(2 * G, 64 * K)], [[3 + 16, 4, 1, 3, 0, 0], [3 + 16, 4, 0, 0, 3, 1]]),
        ("2 MiB", vec![chunk(2 * G, 2 * M)], [[2 + 1, 3, 1, 2, 0, 0], [2 + 1, 3, 0, 0, 2, 1]]),
        ("256 MiB", vec![chunk(2 * G, 256 * M)], [[2 + 128, 3, 1, 2, 0, 0], [2 + 128, 3, 0, 0, 2, 1]]),
        ("1 GiB", vec![chunk(2 * G, G)], [[1 + 1, 2, 1, 1, 0, 0], [1 + 1, 2, 0, 0, 1, 1]]),
        // 128 tables, each filled, ordered and linked on its own; unlinked by one store each, their entries
        // not cleared.
        ("256 MiB in scattered pages", scattered(2 * G, 65536).collect(),
            [[2 + 128 + 65536, 2 + 2 * 128, 128, 2 + 128, 0, 0], [2 + 128, 3, 0, 0, 2 + 128, 1]]),
        ("256 MiB in 64 KiB", (0..4096).map(|n| chunk(2 * G + n * 128 * K, 64 * K)).collect(),
            [[2 + 128 + 65536, 2 + 2 * 128, 128, 2 + 128, 0, 0], [2 + 128, 3, 0, 0, 2 + 128, 1]]),
    ];
    for (name, list, costs) in cases {
        assert_eq!(measure(list), costs, "{name}");
    }
}

#[test]
fn small_buffer_in_an_existing_table_costs_only_its_entries() {
    let mut d = IommuFixture::new(48);
    d.map(0, [chunk(G, 4 * K)], RW);
    d.map(2 * M, [chunk(G, 2 * M)], RW);
    for (at, bytes, entries) in
        [(64 * K, 4 * K, 1), (64 * K, 64 * K, 16), (4 * M, 2 * M, 1), (32 * M, 32 * M, 16)]
    {
        d.m.take_log();
        d.map(at, [chunk(4 * G, bytes)], RW);
        assert_eq!(Cost::of(&d.m.take_log()).0, [entries, 1, 0, 0, 0, 0], "map {bytes:#x}");
        d.unmap(at, bytes);
        assert_eq!(Cost::of(&d.m.take_log()).0, [entries, 1, 0, 0, 0, 1], "unmap {bytes:#x}");
    }
}
