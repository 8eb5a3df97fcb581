//! Unmapped memory: how long devices can access it, and the cost of its invalidation.

use super::*;

#[test]
fn unmapped_memory_stays_reachable_until_invalidated() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0), chunk(0x5000, 0)]).unwrap();
        assert_eq!((fixture.reach(0x1000), fixture.reach(0x2000)), (Some(0x8000), Some(0x5000)));
        let stale = fixture.unmap(&mut domain, 0x1000, 2, "frames");
        assert_eq!(fixture.reach(0x1000), Some(0x8000), "the model did not keep the entry");
        assert_eq!(fixture.free(stale), "frames");
        assert_eq!((fixture.reach(0x1000), fixture.reach(0x2000)), (None, None), "{ids:x?} {walks:?}");
    }
}

#[test]
fn released_table_is_not_walked() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        // Two last-level tables: one may remain as a spare, the other is released.
        fixture.map(&mut domain, 0x0, &[chunk(0x8000, 0)]).unwrap();
        fixture.map(&mut domain, 0x20_0000, &[chunk(0x9000, 0)]).unwrap();
        let tables = domain.table_frames();
        assert_eq!((fixture.reach(0), fixture.reach(0x20_0000)), (Some(0x8000), Some(0x9000)));
        for at in [0, 0x20_0000] {
            let stale = fixture.unmap(&mut domain, at, 1, ());
            fixture.free(stale);
        }
        assert!(domain.table_frames() < tables);
        // A stale table pointer leads to the released frame, which is full of valid-looking descriptors.
        assert_eq!((fixture.reach(0x1000), fixture.reach(0x20_1000)), (None, None));
        fixture.map(&mut domain, 0x20_0000, &[chunk(0x7000, 0)]).unwrap();
        assert_eq!(fixture.reach(0x20_0000), Some(0x7000));
    }
}

#[test]
fn one_buffer_costs_one_command_and_one_sync() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    let before = fixture.commands.borrow().counters();
    let chunks: Vec<_> = (0..512).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).collect();
    fixture.map(&mut domain, 0x20_0000, &chunks).unwrap();
    let mapped = fixture.commands.borrow().counters();
    assert_eq!(mapped, before, "a new mapping needs no command");
    let stale = fixture.unmap(&mut domain, 0x20_0000, 512, ());
    fixture.free(stale);
    let after = fixture.commands.borrow().counters();
    assert_eq!((after.commands - before.commands, after.syncs - before.syncs), (2, 1));
    assert_eq!(after.register_writes - before.register_writes, 1);
}

#[test]
fn splitting_a_block_is_break_before_make() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x20_0000, &[chunk(0x4000_0000, 9)]).unwrap();
        assert_eq!(fixture.reach(0x20_1000), Some(0x4000_1000));
        // The model panics if pages and their block are cached at the same time.
        let stale = fixture.unmap(&mut domain, 0x20_3000, 1, ());
        fixture.free(stale);
        assert_eq!((fixture.reach(0x20_2fff), fixture.reach(0x20_3000)), (Some(0x4000_2fff), None));
        assert_eq!(fixture.reach(0x20_4000), Some(0x4000_4000));
    }
}

#[test]
fn timed_out_invalidation_returns_stale_and_can_be_retried() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(fixture.reach(0x1000).is_some());
    let stale = fixture.unmap(&mut domain, 0x1000, 1, "frames");
    fixture.machine.model.borrow_mut().hung = true;
    let unfinished = PagingDomain::invalidate(&fixture.commands, stale).unwrap_err();
    let CommandError::TimedOut { produced, consumed, opcode } = unfinished.error else {
        panic!("{:?}", unfinished.error)
    };
    assert_eq!(produced.distance_from(consumed), 2);
    assert_eq!(opcode, 0x12, "CMD_TLBI_NH_VA");
    assert_eq!(fixture.commands.borrow().counters().timeouts, 1);
    assert_eq!(fixture.reach(0x1000), Some(0x8000));
    fixture.machine.model.borrow_mut().hung = false;
    assert_eq!(fixture.free(unfinished.stale), "frames");
    assert_eq!(fixture.reach(0x1000), None);
}

#[test]
fn stale_memory_is_never_dropped() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    let frames = Rc::new("frames that go back when dropped");
    for (hung, held_after) in [(true, 2), (false, 2)] {
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = fixture.unmap(&mut domain, 0x1000, 1, frames.clone());
        fixture.machine.model.borrow_mut().hung = hung;
        drop(PagingDomain::invalidate(&fixture.commands, stale).map(|freed| freed.take(&mut fixture.memory)));
        assert_eq!(Rc::strong_count(&frames), held_after, "hung: {hung}");
    }
}

#[test]
fn batch_larger_than_the_queue_is_split() {
    let mut fixture = fixture(IdRegisters::SMALL, WalkCoherency::NonCoherent);
    let mut domain = fixture.attached(STREAM);
    let chunks: Vec<_> = (0..50).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).collect();
    fixture.map(&mut domain, 0x1000, &chunks).unwrap();
    (0..50).for_each(|page| assert!(fixture.reach(0x1000 * (page + 1)).is_some()));
    let stale = fixture.unmap(&mut domain, 0x1000, 50, ());
    fixture.free(stale);
    (0..50).for_each(|page| assert_eq!(fixture.reach(0x1000 * (page + 1)), None));
    assert!(fixture.commands.borrow().counters().commands >= 50);
}

#[test]
fn queue_lock_is_not_taken_without_commands() {
    struct Locked;
    impl Shared<CommandQueue> for Locked {
        fn with<R>(&self, _: impl FnOnce(&mut CommandQueue) -> R) -> R {
            panic!("the command queue was locked")
        }
    }
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    let (at, range) = (Iova::new(0), pages_at(0, 513));
    let chunks = [chunk(0x4000_0000, 9), chunk(0x9000, 0)];
    // SAFETY: the device is the model, whose memory is the test's RAM.
    unsafe { domain.map(&mut fixture.memory, &Locked, at, chunks, RW) }.unwrap();
    let stale = domain.unmap(&mut fixture.memory, &Locked, range, ()).unwrap();
    fixture.free(stale);
}

#[test]
fn unlinked_table_is_invalidated_before_its_replacement() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        // Two last-level tables: one may remain as a spare, the other is released.
        fixture.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
        fixture.map(&mut domain, 0x20_0000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!((fixture.reach(0), fixture.reach(0x20_0000)), (Some(0x8000), Some(0x9000)));
        let stale = [0, 0x20_0000].map(|at| fixture.unmap(&mut domain, at, 1, ()));
        // Another CPU maps next to the unmapped page before the first CPU has invalidated it.
        for (at, to) in [(0x1000, 0x5000), (0x20_1000, 0x6000)] {
            fixture.map(&mut domain, at, &[chunk(to, 0)]).unwrap();
            assert_eq!(fixture.reach(at), Some(to), "the device walks a table that is unlinked");
        }
        stale.into_iter().for_each(|stale| fixture.free(stale));
    }
}

#[test]
fn remaining_pages_of_a_split_block_are_visible_after_unmap() {
    for (ids, walks) in kinds() {
        let machine = TestMachine::with_order(ids, walks, StoreOrder::Weak);
        let mut fixture = Fixture::start(machine).unwrap();
        let mut domain = fixture.attached(STREAM);
        let chunks = [chunk(0x4000_0000, 9), chunk(0x3000_0000, 4)];
        fixture.map(&mut domain, 0x20_0000, &chunks).unwrap();
        for (gone, left, to) in [(0x20_3000, 0x20_4000, 0x4000_4000), (0x40_3000, 0x40_4000, 0x3000_4000)] {
            let stale = fixture.unmap(&mut domain, gone, 1, ());
            assert_eq!(fixture.reach(left), Some(to), "{ids:x?} {walks:?}");
            fixture.free(stale);
        }
    }
}

#[test]
fn pinned_pages_are_reachable_until_invalidated() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        // The SMMU caches the invalid entry and the tables on the way.
        assert_eq!(fixture.reach(0x20_3000), None);
        fixture.map(&mut domain, 0x40_0000, &[chunk(0x7000, 0)]).unwrap();
        let at = Iova::new(0x20_0000);
        // SAFETY: the domain is not destroyed before its last use.
        let pinned = unsafe { domain.pin(&mut fixture.memory, &fixture.commands, at, LAST) }.unwrap();
        let chunks = [chunk(0x1_0000_8000, 1), chunk(0x5000, 0)];
        for round in 0..3 {
            // SAFETY: the device is the model, whose memory is the test's RAM.
            let range = unsafe { pinned.map(&fixture.memory, 3, chunks.into_iter(), RW) }.unwrap();
            assert_eq!(range, pages_at(0x20_3000, 3));
            assert_eq!(fixture.reach(0x20_4010), Some(0x1_0000_9010), "{ids:?} {walks:?} {round}");
            assert_eq!(fixture.reach(0x20_5000), Some(0x5000));
            assert_eq!(fixture.reach(0x20_6000), None);
            let stale = pinned.unmap(&fixture.memory, range, round);
            assert_eq!(fixture.reach(0x20_4010), Some(0x1_0000_9010), "it is cached");
            assert_eq!(fixture.free(stale), round);
            assert_eq!(
                (fixture.reach(0x20_3000), fixture.reach(0x20_4010), fixture.reach(0x20_5000)),
                (None, None, None)
            );
        }
        let chunks = [chunk(0x3000_0000, 4)].into_iter();
        // SAFETY: as above.
        let group = unsafe { pinned.map(&fixture.memory, 16, chunks, RW) }.unwrap();
        assert_eq!(fixture.reach(0x21_fabc), Some(0x3000_fabc));
        let stale = pinned.unmap(&fixture.memory, group, ());
        fixture.free(stale);
        assert_eq!(fixture.reach(0x21_fabc), None);
        fixture.detach(STREAM, &mut domain).unwrap();
        fixture.destroy(domain).unwrap();
    }
}
