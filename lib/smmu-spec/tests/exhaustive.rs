//! Exhaustive tests of formats and arithmetic over small value ranges.

use addr::{AddrRange, Asid, Iova, PAGE_SIZE, Vmid};
use smmu_spec::{Command, Cursor, EventKind, EventRecord, Extent, Invalidation, RangeInvalidation, TlbTag};

/// The step between tested values; larger with Miri.
const STEP: usize = if cfg!(miri) { 61 } else { 1 };

/// The number of pages that the commands cover. Panics if they are not contiguous.
fn pages_covered(commands: impl Iterator<Item = Command>, start: u64) -> u64 {
    let mut at = start;
    for command in commands {
        let scope = match command {
            Command::TlbiNhVa { scope, .. } | Command::TlbiS2Ipa { scope, .. } => scope,
            other => panic!("{other:?}"),
        };
        assert_eq!(scope.start.raw(), at, "a gap or an overlap");
        assert!(!matches!(scope.extent, Extent::Pages { num: 0, scale: 0, ttl: 0 }), "reserved");
        at += scope.extent.bytes().unwrap_or(PAGE_SIZE);
    }
    (at - start) / PAGE_SIZE
}

#[test]
fn every_length_up_to_1_gib_is_invalidated_exactly() {
    for tag in [TlbTag::Stage1(Asid::new(9)), TlbTag::Stage2(Vmid::new(9))] {
        for pages in (1..=if cfg!(miri) { 1u64 << 12 } else { 1 << 18 }).step_by(STEP) {
            let start = 0x40_0000_1000;
            let range = AddrRange::from_len(Iova::new(start), pages * PAGE_SIZE).unwrap();
            let commands =
                || Invalidation::of_range(tag, range, pages % 2 == 0, RangeInvalidation::Supported);
            assert_eq!(pages_covered(commands(), start), pages);
            let significant = 64 - pages.leading_zeros() - pages.trailing_zeros();
            assert!(commands().count() as u32 <= significant.div_ceil(5), "{pages}");
        }
    }
}

#[test]
fn cursor_distances_are_exact_for_all_small_queues() {
    for log2 in 0..=if cfg!(miri) { 3u8 } else { 6 } {
        let (entries, turn) = (1u32 << log2, 2u32 << log2);
        for consumed in 0..turn {
            for ahead in 0..=entries {
                let start = Cursor::new(log2);
                let (cons, prod) = (start.advanced(consumed), start.advanced(consumed + ahead));
                assert_eq!(prod.distance_from(cons), ahead);
                assert_eq!(cons.advanced(ahead).raw(), prod.raw());
                assert_eq!(start.read(prod.raw() | 0x8000_0000), prod, "flags");
                assert_eq!(prod.index() as u32, (consumed + ahead) % entries);
            }
        }
    }
}

#[test]
fn decoded_commands_encode_to_an_equivalent_command() {
    let mut decoded = 0;
    for opcode in 0..=255u64 {
        for first in (0..64u32).step_by(STEP) {
            for second in (0..=64u32).step_by(STEP) {
                let words = [opcode | 1 << first.max(8), 1u64.checked_shl(second).unwrap_or(0)];
                let Some(command) = Command::decode(words) else { continue };
                assert_eq!(Command::decode(command.encode()), Some(command), "{words:x?}");
                decoded += 1;
            }
        }
    }
    assert!(decoded >= 12 * (56 / STEP) * (65 / STEP), "{decoded}");
}

#[test]
fn every_event_record_is_decoded_and_printed() {
    for kind in (0..=255u64).step_by(STEP) {
        assert_eq!(u64::from(EventKind::from_number(kind as u8).number()), kind);
        for flags in (0..1u64 << 10).step_by(STEP) {
            let event = EventRecord::decode([kind | 8 << 32, flags << 32, 0x1234_5678, 0x9abc_d000]);
            assert_eq!(event.stream.raw(), 8);
            assert!(event.to_string().starts_with("smmu: event "), "{event}");
        }
    }
}
