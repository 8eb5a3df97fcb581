//! The command queue: errors, restarts, order.

use super::*;

#[test]
fn a_refused_command_is_replaced_and_the_rest_still_happens() {
    let mut rig = rig(Ids::STAGE1, Walks::NonCoherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(rig.reach(0x1000).is_some());
    let stale = rig.unmap(&mut domain, 0x1000, 1, ());
    // Illegal without stage 2.
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::TlbiNsnhAll];
    let error = rig.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(rig.reach(0x1000), None, "the second command was lost");
    assert_eq!(rig.commands.borrow().counters().illegal, 1);
    let errors = rig.commands.borrow_mut().service_errors();
    assert_eq!(errors.to_string(), "global error CMDQ_ERR");
    rig.free(stale);
    assert!(rig.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn two_refused_commands_in_a_batch_are_both_replaced() {
    let rig = rig(Ids::STAGE1, Walks::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::CfgiAll, illegal, illegal];
    let error = rig.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(rig.commands.borrow().counters().illegal, 3);
    assert_eq!(rig.commands.borrow_mut().run([]), Ok(()));
}

#[test]
fn a_refusal_that_the_interrupt_handler_met_is_still_the_waiters_error() {
    let rig = rig(Ids::STAGE1, Walks::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let mut commands = rig.commands.borrow_mut();
    commands.push(illegal).unwrap();
    commands.push(Command::Sync).unwrap();
    commands.publish();
    rig.world.step();
    assert_eq!(rig.world.model.borrow().error_interrupts, 1);
    assert!(!commands.service_errors().is_empty());
    rig.world.step();
    assert_eq!(commands.wait(), Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(commands.run([]), Ok(()));
}

/// A queue in which another CPU puts a command before and behind each that somebody else writes.
struct Busy<'a>(&'a RefCell<CommandQueue>, Command);

impl Shared<CommandQueue> for Busy<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        let _ = queue.push(self.1);
        let result = action(queue);
        let _ = queue.push(self.1);
        queue.publish();
        result
    }
}

#[test]
fn nobody_is_told_of_anothers_refused_commands() {
    let mut rig = rig(Ids::STAGE1, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(rig.reach(0x1000).is_some());
    let stale = rig.unmap(&mut domain, 0x1000, 1, ());
    let others = Busy(&rig.commands, Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) });
    let freed = <Domain as iommu::Domain>::invalidate(&others, stale).unwrap();
    freed.take(&mut rig.source);
    assert_eq!(rig.reach(0x1000), None);
    assert!(rig.commands.borrow().counters().illegal >= 1);
}

/// A queue in which forty commands of others are refused before somebody looks at it once more.
struct Trouble<'a>(&'a RefCell<CommandQueue>, core::cell::Cell<bool>);

impl Shared<CommandQueue> for Trouble<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        if self.1.replace(true) {
            let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
            (0..40).for_each(|_| assert!(queue.run([illegal]).is_err()));
        }
        action(queue)
    }
}

#[test]
fn whoever_looks_late_is_not_told_of_what_others_were_refused_meanwhile() {
    let rig = rig(Ids::STAGE1, Walks::Coherent);
    let others = Trouble(&rig.commands, false.into());
    assert_eq!(smmu::sync(&others), Ok(()));
    assert_eq!(rig.commands.borrow().counters().illegal, 40);
}

#[test]
fn who_is_held_up_again_and_again_does_not_give_up() {
    let rig = rig(Ids::SMALL, Walks::Coherent);
    rig.world.after_step.set(Some(|world| world.pass_microseconds(PATIENCE + 1)));
    // In many parts, and each refused command stops it.
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let long = std::iter::repeat_n(Command::CfgiAll, 100);
    assert_eq!(rig.commands.borrow_mut().run(long.clone()), Ok(()));
    let error = rig.commands.borrow_mut().run(long.chain([illegal, illegal]));
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(rig.commands.borrow().counters().time_outs, 0);
}

#[test]
fn who_was_passed_by_a_full_turn_of_the_queue_sees_its_end() {
    let mut rig = rig(Ids::SMALL, Walks::NonCoherent);
    let mut domain = rig.attached(STREAM);
    for page in 0..if cfg!(miri) { 8 } else { 3000u64 } {
        rig.map(&mut domain, 0x1000 + page % 7 * 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = rig.unmap(&mut domain, 0x1000 + page % 7 * 0x1000, 1, ());
        let others = Busy(&rig.commands, Command::TlbiNsnhAll);
        let freed = <Domain as iommu::Domain>::invalidate(&others, stale).unwrap();
        freed.take(&mut rig.source);
    }
}

#[test]
fn a_queue_that_aborts_once_is_read_again() {
    let rig = rig(Ids::NESTED, Walks::Coherent);
    rig.world.bad_reads.set(1);
    assert_eq!(rig.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
    let mut commands = rig.commands.borrow_mut();
    assert_eq!(commands.counters().begun_anew, 0);
    assert_eq!(commands.service_errors().to_string(), "global error CMDQ_ERR, CERROR 0x2");
}

/// Reads of the model for two commands: the queue stops, and stops there again.
const TWO_COMMANDS: u32 = 4;

/// What it has in it is lost, and done all the same.
#[test]
fn a_queue_that_cannot_be_read_begins_anew_and_forgets_everything() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        for round in 0..if cfg!(miri) { 1 } else { 200 } {
            rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
            assert_eq!(rig.reach(0x1000), Some(0x8000));
            let stale = rig.unmap(&mut domain, 0x1000, 1, ());
            assert!(rig.reach(0x1000).is_some(), "the model forgets what it need not");
            rig.world.bad_reads.set(TWO_COMMANDS);
            rig.free(stale);
            assert_eq!(rig.world.bad_reads.get(), 0);
            assert_eq!(rig.reach(0x1000), None, "{ids:x?} {walks:?}");
            let counters = rig.commands.borrow().counters();
            assert_eq!((counters.begun_anew, counters.time_outs), (round + 1, 0));
        }
        let errors = rig.commands.borrow_mut().service_errors().to_string();
        assert_eq!(errors, "global error CMDQ_ERR, CERROR 0x2: the command queue begins anew");
    }
}

#[test]
fn an_attachment_that_is_lost_in_the_queue_is_made_all_the_same() {
    let mut rig = rig(Ids::NESTED, Walks::NonCoherent);
    let mut domain = rig.domain().unwrap();
    assert_eq!(rig.reach(0x1000), None);
    rig.world.bad_reads.set(TWO_COMMANDS);
    rig.attach(STREAM, &mut domain).unwrap();
    rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert_eq!(rig.reach(0x1000), Some(0x8000));
    rig.world.bad_reads.set(TWO_COMMANDS);
    rig.detach(STREAM, &mut domain).unwrap();
    assert_eq!(rig.reach(0x1000), None);
    assert_eq!(rig.commands.borrow().counters().begun_anew, 2);
}

#[test]
fn whoever_waits_for_a_queue_that_stays_unreadable_is_told_its_error() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert!(rig.reach(0x1000).is_some());
        let stale = rig.unmap(&mut domain, 0x1000, 1, ());
        rig.world.bad_reads.set(u32::MAX);
        let unfinished = <Domain as iommu::Domain>::invalidate(&rig.commands, stale).unwrap_err();
        assert_eq!(unfinished.error, CommandError::Stopped { code: 2 });
        // More than the queue has room for.
        for _ in 0..if cfg!(miri) { 2 } else { 300 } {
            let error = rig.commands.borrow_mut().run([Command::CfgiAll]);
            assert_eq!(error, Err(CommandError::Stopped { code: 2 }));
        }
        rig.world.bad_reads.set(0);
        assert!(rig.reach(0x1000).is_some(), "forgotten without a word");
        rig.free(unfinished.stale);
        assert_eq!(rig.reach(0x1000), None);
        assert_eq!(rig.commands.borrow().counters().begun_anew, 1);
    }
}

/// Acknowledging an error that comes back at once would be an interrupt without end.
#[test]
fn the_interrupt_handler_lets_a_queue_try_again_once() {
    let rig = rig(Ids::NESTED, Walks::Coherent);
    let mut commands = rig.commands.borrow_mut();
    rig.world.bad_reads.set(u32::MAX);
    commands.push(Command::Sync).unwrap();
    commands.publish();
    for _ in 0..10 {
        rig.world.step();
        commands.service_errors();
    }
    assert_eq!(rig.world.model.borrow().error_interrupts, 2);
    rig.world.bad_reads.set(0);
    assert_eq!(commands.run([Command::CfgiAll]), Ok(()));
    assert_eq!(commands.counters().begun_anew, 1);
}

#[test]
fn a_consumer_index_outside_of_the_queue_is_an_error() {
    let rig = rig(Ids::NESTED, Walks::Coherent);
    rig.world.model.borrow_mut().hung = true;
    rig.world.after_step.set(Some(|world| world.set_register(0x9c, 0x77)));
    let error = rig.commands.borrow_mut().run([]);
    assert_eq!(error, Err(CommandError::Nonsense { consumed: 0x77 }));
}

#[test]
fn commands_are_seen_before_they_are_announced() {
    let rig = rig(Ids::NESTED, Walks::NonCoherent);
    thread_local!(static ANNOUNCED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
    rig.world.watch.set(Some(|world, event| {
        if event == arch::fake::Event::Barrier("dsb_sy") {
            ANNOUNCED.with_borrow_mut(|seen| seen.push(world.register(0x98)));
        }
    }));
    let before = rig.world.register(0x98);
    rig.commands.borrow_mut().run([Command::CfgiAll]).unwrap();
    assert_eq!(ANNOUNCED.take(), [before], "one barrier, and PROD after it");
    assert_eq!(rig.world.register(0x98), before + 2);
}
