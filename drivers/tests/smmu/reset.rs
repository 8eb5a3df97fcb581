//! Initialization, from reset or from any state left by firmware.

use super::*;

#[test]
fn all_transactions_abort_before_and_during_start() {
    for (ids, walks) in kinds() {
        let machine = TestMachine::new(ids, walks);
        assert_eq!(
            machine.model.borrow_mut().access(STREAM, 0x1000, WRITE),
            TransactionResult::Bypassed,
            "as after reset"
        );
        machine.after_step.set(Some(|machine| {
            let outcome = machine.model.borrow_mut().access(STREAM, 0x1000, WRITE);
            assert!(matches!(outcome, TransactionResult::Aborted(_)), "{outcome:?}");
        }));
        let fixture = Fixture::start(machine).unwrap();
        assert!(matches!(fixture.access(STREAM, 0x1000, WRITE), TransactionResult::Aborted(_)));
    }
}

#[test]
fn smmu_enabled_by_firmware_is_taken_over() {
    let machine = TestMachine::new(IdRegisters::NESTED, WalkCoherency::Coherent);
    const CR0: usize = 0x20;
    const CR0ACK: usize = 0x24;
    const GERROR: usize = 0x60;
    machine.set_register(CR0, 0xd);
    machine.set_register(CR0ACK, 0xd);
    machine.set_register(GERROR, 0x185);
    let mut fixture = Fixture::start(machine).unwrap();
    let mut domain = fixture.attached(STREAM);
    fixture.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    assert_eq!(fixture.reach(0), Some(0x8000));
    assert!(fixture.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn start_invalidates_cached_state_of_an_earlier_kernel() {
    for (ids, walks) in kinds() {
        let machine = TestMachine::new(ids, walks);
        let mut before = Fixture::start(machine.clone()).unwrap();
        let mut domain = before.attached(STREAM);
        before.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert_eq!(before.reach(0x1000), Some(0x8000));
        // A second kernel: the same tags, other tables.
        let mut after = Fixture::start(machine).unwrap();
        assert_eq!(after.reach(0x1000), None);
        let mut domain = after.attached(STREAM);
        after.map(&mut domain, 0x1000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!(after.reach(0x1000), Some(0x9000), "{ids:x?} {walks:?}");
    }
}

#[test]
fn unresponsive_smmu_is_reported_with_its_register() {
    let machine = TestMachine::new(IdRegisters::NESTED, WalkCoherency::Coherent);
    machine.model.borrow_mut().hung = true;
    let Err(StartError::Register(RegisterTimeout { register: "GBPA", .. })) =
        Fixture::start(machine.clone()).map(|_| ())
    else {
        panic!()
    };
    assert_eq!(machine.pages_in_use(), 0);
    // The SMMU hangs at the first commands.
    let machine = TestMachine::new(IdRegisters::NESTED, WalkCoherency::Coherent);
    machine.after_step.set(Some(|machine| {
        let enabled = machine.register(0x24) & 8 != 0;
        machine.model.borrow_mut().hung = enabled;
    }));
    let Err(StartError::Command(CommandError::TimedOut { .. })) = Fixture::start(machine.clone()).map(|_| ())
    else {
        panic!()
    };
    assert!(
        machine.pages_in_use() > 0,
        "an SMMU that does not confirm being disabled may still use its queues"
    );
    assert_eq!(TIMEOUT_US, 1_000_000);
}

#[test]
fn ats_translated_transactions_are_checked_from_the_start() {
    let mut ids = IdRegisters::NESTED;
    ids.idr[0] |= 1 << 10;
    let machine = TestMachine::new(ids, WalkCoherency::Coherent);
    machine.after_step.set(Some(|machine| {
        let outcome = machine.model.borrow_mut().access_translated(STREAM, 0x8000, WRITE);
        assert!(matches!(outcome, TransactionResult::Aborted(_)), "{outcome:?}");
    }));
    let mut fixture = Fixture::start(machine.clone()).unwrap();
    let _domain = fixture.attached(STREAM);
    let outcome = machine.model.borrow_mut().access_translated(STREAM, 0x8000, WRITE);
    assert_eq!(outcome, TransactionResult::Aborted(Some(EventKind::TranslationForbidden)));
}
