//! The event queue.

use super::*;

#[test]
#[cfg_attr(miri, ignore = "fills a queue of 1 024 events four times")]
fn event_queue_overflow_is_reported_and_drained() {
    for global in [false, true] {
        let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::NonCoherent);
        let _domain = fixture.attached(STREAM);
        fixture.machine.model.borrow_mut().overflow_is_global_error = global;
        for access in 0..1500 {
            assert_eq!(fixture.reach(4 * access), None);
        }
        let reports = fixture.reports();
        let count = |wanted: fn(&EventReport) -> bool| reports.iter().filter(|report| wanted(report)).count();
        assert_eq!(count(|report| matches!(report, EventReport::Event(_))), 8);
        assert_eq!(count(|report| matches!(report, EventReport::RateLimited(_))), 1024 - 8);
        let dropped: Vec<_> =
            reports.iter().filter(|report| matches!(report, EventReport::Suppressed(_))).collect();
        let expected =
            EventReport::Suppressed(smmu::SuppressedEvents { stream: Some(STREAM), count: 1024 - 8 });
        assert_eq!(dropped, [&expected]);
        let errors = fixture.commands.borrow_mut().service_errors();
        assert_eq!(errors.to_string() == "global error EVENTQ_ABT_ERR", global);
        assert_eq!((errors.lost_events().0, errors.lost_events().1.is_empty()), (global, true));
        assert_eq!(count(|report| matches!(report, EventReport::Overflow)), usize::from(!global));
        // The queue has room again, and the overflow was acknowledged: a second one is reported.
        assert_eq!((fixture.reach(0), fixture.reports().len()), (None, 1));
        (0..1500).for_each(|access| assert_eq!(fixture.reach(4 * access), None));
        let reports = fixture.reports();
        let again = fixture.commands.borrow_mut().service_errors();
        assert_eq!((reports.contains(&EventReport::Overflow), !again.is_empty()), (!global, global));
    }
}

/// The write of CONS after a batch does not acknowledge an overflow after the read of PROD.
#[test]
#[cfg_attr(miri, ignore = "fills a queue of 1 024 events")]
fn overflow_during_a_drain_is_reported_once_by_the_next() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::NonCoherent);
    let _domain = fixture.attached(STREAM);
    (0..1000).for_each(|access| assert_eq!(fixture.reach(4 * access), None));
    let (machine, mut reports) = (fixture.machine.clone(), Vec::new());
    let more = fixture.events.drain(|report| {
        // Slots are freed after the batch only: 24 events fit.
        if reports.is_empty() {
            (0..100).for_each(|access| _ = machine.access(STREAM, 4 * access, READ));
        }
        reports.push(report);
    });
    assert!(more && !reports.contains(&EventReport::Overflow));
    reports.extend(fixture.reports());
    let count = |wanted: fn(&EventReport) -> bool| reports.iter().filter(|report| wanted(report)).count();
    assert_eq!(count(|report| matches!(report, EventReport::Overflow)), 1);
    assert_eq!(count(|report| matches!(report, EventReport::Event(_) | EventReport::RateLimited(_))), 1024);
    assert_eq!((fixture.reach(0), fixture.reports().len()), (None, 1));
}

#[test]
fn events_are_read_in_order_across_the_wrap() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::NonCoherent);
    let mut next = 0;
    let rounds = if cfg!(miri) { 1 } else { 40 };
    for _ in 0..rounds {
        let first = next;
        // Streams without a second-level table: C_BAD_STREAMID each.
        for stream in first..first + 100 {
            assert!(matches!(
                fixture.access(StreamId::new(stream), 0, READ),
                TransactionResult::Aborted(Some(_))
            ));
        }
        let seen = fixture.reports().into_iter().filter_map(|report| match report {
            EventReport::Event(event) | EventReport::RateLimited(event) => Some(event.stream.raw()),
            _ => None,
        });
        assert_eq!(seen.collect::<Vec<_>>(), (first..first + 100).collect::<Vec<_>>());
        next += 100;
    }
    assert_eq!(fixture.machine.model.borrow().event_interrupts, rounds);
}

#[test]
fn producer_index_outside_of_the_queue_is_ignored() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    fixture.machine.set_register(0x1_00a8, 0x601);
    assert_eq!(fixture.reports(), []);
    assert_eq!(fixture.machine.register(0x1_00ac), 0x601);
}

#[test]
fn suppressed_events_are_reported_in_the_next_window() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let _domain = fixture.attached(STREAM);
    (0..20).for_each(|access| assert_eq!(fixture.reach(access), None));
    fixture.reports();
    (0..5).for_each(|access| assert_eq!(fixture.reach(access), None));
    assert!(fixture.reports().iter().all(|report| matches!(report, EventReport::RateLimited(_))));
    fixture.machine.pass_microseconds(2_000_000);
    assert_eq!(fixture.reach(0), None);
    let dropped = EventReport::Suppressed(smmu::SuppressedEvents { stream: Some(STREAM), count: 5 });
    let reports = fixture.reports();
    assert_eq!((reports[0], reports.len()), (dropped, 2));
}

#[test]
fn records_are_read_after_prod_and_before_cons() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    assert!(matches!(fixture.access(STREAM, 0, READ), TransactionResult::Aborted(Some(_))));
    thread_local!(static CONSUMED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
    fixture.machine.watch.set(Some(|machine, event| {
        if event == arch::fake::Instruction::Barrier("dmb_oshld") {
            CONSUMED.with_borrow_mut(|seen| seen.push(machine.register(0x1_00ac)));
        }
    }));
    fixture.events.drain(|_| {});
    assert_eq!(CONSUMED.take(), [0, 0], "a barrier after PROD was read, and one before CONS is written");
    assert_eq!(fixture.machine.register(0x1_00ac), 1);
}

/// A stream of another domain.
const OTHER: StreamId = StreamId::new(9);

#[test]
fn domain_without_recording_aborts_without_events() {
    for ids in [IdRegisters::NESTED, IdRegisters::STAGE2] {
        let mut fixture = fixture(ids, WalkCoherency::NonCoherent);
        let mut domain = fixture.attached(STREAM);
        let _other = fixture.attached(OTHER);
        assert_eq!((fixture.reach(0), fixture.reports().len()), (None, 1));
        for (records, events) in [(false, 0), (true, 1)] {
            fixture.set_recording(&mut domain, records).unwrap();
            assert_eq!((fixture.reach(0), fixture.reports().len()), (None, events));
            fixture.machine.access(OTHER, 0, READ);
            assert_eq!(fixture.reports().len(), 1, "another domain");
        }
        fixture.map(&mut domain, 0, &[chunk(0x4_0000_0000, 0)]).unwrap();
        fixture.set_recording(&mut domain, false).unwrap();
        assert_eq!(fixture.reach(0), Some(0x4_0000_0000), "translations are kept");
    }
}
