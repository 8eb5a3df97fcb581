//! From reset, or from what firmware left, to an SMMU that aborts what nobody attached.

use super::*;

#[test]
fn before_and_while_starting_nothing_passes() {
    for (ids, walks) in kinds() {
        let world = World::new(ids, walks);
        assert_eq!(
            world.model.borrow_mut().access(STREAM, 0x1000, WRITE),
            Outcome::Bypassed,
            "as after reset"
        );
        world.after_step.set(Some(|world| {
            let outcome = world.model.borrow_mut().access(STREAM, 0x1000, WRITE);
            assert!(matches!(outcome, Outcome::Aborted(_)), "{outcome:?}");
        }));
        let rig = Rig::start(world).unwrap();
        assert!(matches!(rig.access(STREAM, 0x1000, WRITE), Outcome::Aborted(_)));
    }
}

#[test]
fn an_smmu_that_firmware_left_on_is_taken_over() {
    let world = World::new(Ids::NESTED, Walks::Coherent);
    const CR0: usize = 0x20;
    const CR0ACK: usize = 0x24;
    const GERROR: usize = 0x60;
    world.set_register(CR0, 0xd);
    world.set_register(CR0ACK, 0xd);
    world.set_register(GERROR, 0x185);
    let mut rig = Rig::start(world).unwrap();
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    assert_eq!(rig.reach(0), Some(0x8000));
    assert!(rig.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn starting_forgets_what_was_cached_before() {
    for (ids, walks) in kinds() {
        let world = World::new(ids, walks);
        let mut before = Rig::start(world.clone()).unwrap();
        let mut domain = before.attached(STREAM);
        before.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert_eq!(before.reach(0x1000), Some(0x8000));
        // A kernel that starts after another one: same tags, other tables.
        let mut after = Rig::start(world).unwrap();
        assert_eq!(after.reach(0x1000), None);
        let mut domain = after.attached(STREAM);
        after.map(&mut domain, 0x1000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!(after.reach(0x1000), Some(0x9000), "{ids:x?} {walks:?}");
    }
}

#[test]
fn a_hung_smmu_is_refused_at_start_with_the_register() {
    let world = World::new(Ids::NESTED, Walks::Coherent);
    world.model.borrow_mut().hung = true;
    let Err(StartError::TimedOut { register: "GBPA", .. }) = Rig::start(world.clone()).map(|_| ()) else {
        panic!()
    };
    assert_eq!(world.pages_in_use(), 0);
    // It hangs later: at the first commands.
    let world = World::new(Ids::NESTED, Walks::Coherent);
    world.after_step.set(Some(|world| {
        let enabled = world.register(0x24) & 8 != 0;
        world.model.borrow_mut().hung = enabled;
    }));
    let Err(StartError::Command(CommandError::TimedOut { .. })) = Rig::start(world.clone()).map(|_| ())
    else {
        panic!()
    };
    assert!(
        world.pages_in_use() > 0,
        "an SMMU that does not confirm being disabled may still use its queues"
    );
    assert_eq!(PATIENCE, 1_000_000);
}
