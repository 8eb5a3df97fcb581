//! From reset, or from what firmware left, to an SMMU that aborts what nobody attached.

use super::*;

#[test]
fn before_and_while_starting_nothing_passes() {
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
fn an_smmu_that_firmware_left_on_is_taken_over() {
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
fn starting_forgets_what_was_cached_before() {
    for (ids, walks) in kinds() {
        let machine = TestMachine::new(ids, walks);
        let mut before = Fixture::start(machine.clone()).unwrap();
        let mut domain = before.attached(STREAM);
        before.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert_eq!(before.reach(0x1000), Some(0x8000));
        // A kernel that starts after another one: same tags, other tables.
        let mut after = Fixture::start(machine).unwrap();
        assert_eq!(after.reach(0x1000), None);
        let mut domain = after.attached(STREAM);
        after.map(&mut domain, 0x1000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!(after.reach(0x1000), Some(0x9000), "{ids:x?} {walks:?}");
    }
}

#[test]
fn a_hung_smmu_is_refused_at_start_with_the_register() {
    let machine = TestMachine::new(IdRegisters::NESTED, WalkCoherency::Coherent);
    machine.model.borrow_mut().hung = true;
    let Err(StartError::Register(RegisterTimeout { register: "GBPA", .. })) =
        Fixture::start(machine.clone()).map(|_| ())
    else {
        panic!()
    };
    assert_eq!(machine.pages_in_use(), 0);
    // It hangs later: at the first commands.
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
