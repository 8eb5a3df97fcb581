//! Failed operations leave nothing behind.

use super::*;

#[test]
fn failed_map_with_failed_invalidation_is_reported() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    fixture.map(&mut domain, 0x20_0000, &[chunk(0x8000, 0)]).unwrap();
    let pages = fixture.machine.pages_in_use();
    fixture.machine.model.borrow_mut().hung = true;
    // The second chunk meets a mapped page.
    let chunks = [chunk(0x5000, 0), chunk(0x7000, 0)];
    let error = fixture.map(&mut domain, 0x1f_f000, &chunks).unwrap_err();
    assert!(matches!(error, DomainMapError::NotInvalidated { .. }), "{error:?}");
    assert!(fixture.machine.pages_in_use() > pages, "the tables of the first half may still be walked");
}

#[test]
fn failed_map_leaves_no_mapping_and_no_table() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x20_0000, &[chunk(0x8000, 0)]).unwrap();
        let (pages, tables) = (fixture.machine.pages_in_use(), domain.table_frames());
        let chunks = [chunk(0x5000, 0), chunk(0x7000, 0)];
        let error = fixture.map(&mut domain, 0x1f_f000, &chunks).unwrap_err();
        let cause = pagetable::MapError::AlreadyMapped(Iova::new(0x20_0000));
        assert_eq!(error, DomainMapError::Table(cause));
        assert_eq!((fixture.reach(0x1f_f000), fixture.reach(0x20_0000)), (None, Some(0x8000)));
        // The domain may keep one empty table for the next mapping.
        let spare = u64::from(domain.table_frames() - tables);
        assert!(spare <= 1, "{spare} tables are left");
        assert_eq!(fixture.machine.pages_in_use(), pages + spare);
        assert_eq!(fixture.reach(0x1f_f000), None);
    }
}

#[test]
fn failed_map_is_invalidated_with_its_tables() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x60_0000, &[chunk(0x8000, 0)]).unwrap();
        let before = fixture.machine.pages_in_use();
        // Three tables are filled, and used by the device, before the mapped page is reached.
        let (machine, seen) = (fixture.machine.clone(), RefCell::new(0));
        let scattered = (0..3 * 512 + 1).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).inspect(|_| {
            for at in [0x0, 0x20_0000, 0x40_0000] {
                let outcome = machine.model.borrow_mut().access(STREAM, at, READ);
                *seen.borrow_mut() += usize::from(matches!(outcome, TransactionResult::Translated { .. }));
            }
        });
        let at = Iova::new(0);
        // SAFETY: the device is the model, whose memory is the test's RAM.
        let failed = unsafe { domain.map(&mut fixture.memory, &fixture.commands, at, scattered, RW) };
        assert!(matches!(failed, Err(DomainMapError::Table(_))), "{failed:?}");
        assert!(seen.into_inner() > 0, "the device never saw the first part");
        for at in [0x0, 0x1000, 0x20_0000, 0x20_1000, 0x40_0000, 0x40_1000] {
            assert_eq!(fixture.reach(at), None, "{at:#x}");
        }
        assert_eq!(fixture.reach(0x40_2000), None);
        // The domain may keep one empty table for the next mapping.
        assert!(fixture.machine.pages_in_use() <= before + 1, "tables of the first part are left");
    }
}

/// Calls `action` with an SMMU that hangs after `syncs` more CMD_SYNCs, and continues afterwards.
fn hanging_after<R>(syncs: u64, fixture: &mut Fixture, action: impl FnOnce(&mut Fixture) -> R) -> R {
    let last = fixture.machine.model.borrow().syncs + syncs;
    fixture.machine.model.borrow_mut().commands_per_step = 1;
    let hang = move |machine: &TestMachine| {
        let mut model = machine.model.borrow_mut();
        model.hung = model.syncs >= last;
    };
    fixture.machine.interleave.replace(Some(Rc::new(hang)));
    let result = action(fixture);
    fixture.machine.interleave.replace(None);
    fixture.machine.model.borrow_mut().hung = false;
    result
}

fn timed_out(result: Result<(), StreamError>) -> bool {
    match result {
        Ok(()) => false,
        Err(StreamError::Command(CommandError::TimedOut { .. })) => true,
        Err(error) => panic!("{error:?}"),
    }
}

/// Checks a stream of `domain` whose attach or detach failed: it counts as attached.
fn check_still_attached(fixture: &mut Fixture, domain: PagingDomain) -> PagingDomain {
    let Err(DestroyError::InUse(mut domain)) = fixture.destroy(domain) else {
        panic!("destroyed while the SMMU may translate with its tables");
    };
    assert_eq!(domain.streams(), 1);
    assert_eq!(fixture.attach(STREAM, &mut domain), Err(StreamError::AlreadyAttached(STREAM)));
    assert_eq!(domain.streams(), 1, "counted twice");
    domain
}

/// Checks that the stream can be detached, attached and detached again, and the domain be destroyed.
fn check_reusable(fixture: &mut Fixture, mut domain: PagingDomain) {
    fixture.detach(STREAM, &mut domain).unwrap();
    assert_eq!((domain.streams(), fixture.reach(0x1000)), (0, None));
    assert_eq!(fixture.detach(STREAM, &mut domain), Err(StreamError::NotAttached(STREAM)));
    fixture.attach(STREAM, &mut domain).unwrap();
    assert_eq!((domain.streams(), fixture.reach(0x1000)), (1, Some(0x8000)));
    fixture.detach(STREAM, &mut domain).unwrap();
    assert_eq!(fixture.reach(0x1000), None);
    fixture.destroy(domain).map_err(|error| format!("{error:?}")).unwrap();
}

#[test]
fn stream_counts_as_attached_after_any_step_of_its_attach_timed_out() {
    for (ids, walks) in kinds() {
        let mut steps = 0;
        loop {
            let mut fixture = fixture(ids, walks);
            let mut domain = fixture.domain().unwrap();
            fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
            assert_eq!(fixture.reach(0x1000), None);
            let attach = |fixture: &mut Fixture| fixture.attach(STREAM, &mut domain);
            if !timed_out(hanging_after(steps, &mut fixture, attach)) {
                break;
            }
            let domain = check_still_attached(&mut fixture, domain);
            check_reusable(&mut fixture, domain);
            steps += 1;
        }
        assert!(steps >= 2, "{steps} steps: {ids:x?} {walks:?}");
    }
}

#[test]
fn stream_counts_as_attached_after_any_step_of_its_detach_timed_out() {
    for (ids, walks) in kinds() {
        let mut steps = 0;
        loop {
            let mut fixture = fixture(ids, walks);
            let mut domain = fixture.attached(STREAM);
            fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
            assert_eq!(fixture.reach(0x1000), Some(0x8000));
            let detach = |fixture: &mut Fixture| fixture.detach(STREAM, &mut domain);
            if !timed_out(hanging_after(steps, &mut fixture, detach)) {
                break;
            }
            let entry = fixture.streams.entry(STREAM).unwrap();
            assert_eq!(entry.0[0], Ste::new(StreamConfig::Abort).0[0], "the entry in memory aborts");
            let domain = check_still_attached(&mut fixture, domain);
            check_reusable(&mut fixture, domain);
            steps += 1;
        }
        assert!(steps >= 1, "{steps} steps: {ids:x?} {walks:?}");
    }
}

#[test]
fn domain_whose_invalidation_timed_out_keeps_its_tag_and_its_tables() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        fixture.detach(STREAM, &mut domain).unwrap();
        let (tag, pages) = (domain.tag(), fixture.machine.pages_in_use());
        let destroyed = hanging_after(0, &mut fixture, |fixture| fixture.destroy(domain));
        let Err(DestroyError::Command(CommandError::TimedOut { .. }, domain)) = destroyed else {
            panic!("{destroyed:?}");
        };
        assert_eq!(fixture.machine.pages_in_use(), pages);
        let other = fixture.domain().unwrap();
        assert_ne!(other.tag(), tag, "the tag is in use by two domains");
        fixture.destroy(other).map_err(|error| format!("{error:?}")).unwrap();
        fixture.destroy(domain).map_err(|error| format!("{error:?}")).unwrap();
        assert!(fixture.machine.pages_in_use() < pages);
    }
}

/// The life of a device in a kernel; `?` at every step that can fail.
fn lifecycle(fixture: &mut Fixture) -> Option<()> {
    let mut domain = fixture.domain().ok()?;
    let completed = use_device(fixture, &mut domain);
    if domain.streams() > 0 {
        fixture.detach(STREAM, &mut domain).unwrap();
    }
    fixture.destroy(domain).map_err(|error| format!("{error:?}")).unwrap();
    completed
}

fn use_device(fixture: &mut Fixture, domain: &mut PagingDomain) -> Option<()> {
    fixture.attach(STREAM, domain).ok()?;
    let chunks = [chunk(0x1_0000_5000, 0), chunk(0x2_0000_0000, 9), chunk(0x9000, 0)];
    fixture.map(domain, 0x1f_f000, &chunks).ok()?;
    fixture.reach(0x20_0000);
    let stale = fixture.unmap(domain, 0x1f_f000, 514, ());
    fixture.free(stale);
    Some(())
}

/// Starts an SMMU and runs [`lifecycle`] with a limited number of allocations. Returns whether it completed.
fn runs_with_allowance(ids: IdRegisters, walks: WalkCoherency, allowance: u64) -> bool {
    let machine = TestMachine::new(ids, walks);
    machine.allowance.set(allowance);
    let Ok(mut fixture) = Fixture::start(machine.clone()) else {
        assert_eq!(machine.pages_in_use(), 0, "start failed");
        return false;
    };
    let has_entry = |fixture: &Fixture| u64::from(fixture.streams.entry(STREAM).is_some());
    let (before, had_entry) = (machine.pages_in_use(), has_entry(&fixture));
    let completed = lifecycle(&mut fixture).is_some();
    // A second-level stream table remains for the next stream.
    assert_eq!(machine.pages_in_use(), before + has_entry(&fixture) - had_entry);
    machine.allowance.set(u64::MAX);
    assert_eq!(lifecycle(&mut fixture), Some(()), "the failure left something in the way");
    completed
}

#[test]
fn every_allocation_failure_leaks_nothing() {
    for (ids, walks) in kinds() {
        let enough = (0..40).position(|allowance| runs_with_allowance(ids, walks, allowance));
        assert!(enough.is_some_and(|failures| failures >= 7), "{enough:?}");
    }
}

#[test]
fn service_failure_mode_fails_all_commands_at_once_and_disables_the_smmu() {
    const CR0: usize = 0x20;
    for serviced_first in [false, true] {
        let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
        fixture.machine.model.borrow_mut().enter_service_failure();
        let report = |fixture: &Fixture| fixture.commands.borrow_mut().service_errors().to_string();
        let expected = "global error SFM_ERR: disabled in service failure mode, all transactions abort";
        if serviced_first {
            assert_eq!(report(&fixture), expected);
        }
        let unfinished = PagingDomain::invalidate(&fixture.commands, stale).unwrap_err();
        assert_eq!(unfinished.error, CommandError::ServiceFailure);
        // More than the capacity of the queue.
        for _ in 0..if cfg!(miri) { 2 } else { 300 } {
            let error = fixture.commands.borrow_mut().run([Command::CfgiAll]);
            assert_eq!(error, Err(CommandError::ServiceFailure));
        }
        let detached = fixture.detach(STREAM, &mut domain);
        assert_eq!(detached, Err(StreamError::Command(CommandError::ServiceFailure)));
        if !serviced_first {
            assert_eq!(report(&fixture), expected);
        }
        assert!(fixture.commands.borrow_mut().service_errors().is_empty(), "reported once");
        assert_eq!(fixture.commands.borrow().counters().timeouts, 0);
        assert_eq!(fixture.machine.register(CR0), 0);
        assert_eq!(fixture.reach(0x1000), None);
    }
}
