//! The command queue: errors, restarts, order.

use super::*;

#[test]
fn a_refused_command_is_replaced_and_the_rest_still_happens() {
    let mut fixture = fixture(IdRegisters::STAGE1, WalkCoherency::NonCoherent);
    let mut domain = fixture.attached(STREAM);
    fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(fixture.reach(0x1000).is_some());
    let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
    // Illegal without stage 2.
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::TlbiNsnhAll];
    let error = fixture.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(fixture.reach(0x1000), None, "the second command was lost");
    assert_eq!(fixture.commands.borrow().counters().illegal, 1);
    let errors = fixture.commands.borrow_mut().service_errors();
    assert_eq!(errors.to_string(), "global error CMDQ_ERR");
    fixture.free(stale);
    assert!(fixture.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn two_refused_commands_in_a_batch_are_both_replaced() {
    let fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::CfgiAll, illegal, illegal];
    let error = fixture.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(fixture.commands.borrow().counters().illegal, 3);
    assert_eq!(fixture.commands.borrow_mut().run([]), Ok(()));
}

#[test]
fn a_refusal_that_the_interrupt_handler_met_is_still_the_waiters_error() {
    let fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let interrupted = Interrupted(&fixture.commands);
    assert_eq!(smmu::run(&interrupted, [illegal]), Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(fixture.machine.model.borrow().error_interrupts, 1);
    assert_eq!(smmu::sync(&interrupted), Ok(()));
}

/// A queue whose error interrupt is handled before each access.
struct Interrupted<'a>(&'a RefCell<CommandQueue>);

impl Shared<CommandQueue> for Interrupted<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        queue.service_errors();
        action(queue)
    }
}

/// A queue in which another CPU queues a command before and after each access.
struct Busy<'a>(&'a RefCell<CommandQueue>, Command);

impl Shared<CommandQueue> for Busy<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        let _ = queue.submit(self.1.encode());
        let result = action(queue);
        let _ = queue.submit(self.1.encode());
        result
    }
}

#[test]
fn nobody_is_told_of_anothers_refused_commands() {
    let mut fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(fixture.reach(0x1000).is_some());
    let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
    let others = Busy(&fixture.commands, Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) });
    let freed = PagingDomain::invalidate(&others, stale).unwrap();
    freed.take(&mut fixture.memory);
    assert_eq!(fixture.reach(0x1000), None);
    assert!(fixture.commands.borrow().counters().illegal >= 1);
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
    let fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let others = Trouble(&fixture.commands, false.into());
    assert_eq!(smmu::sync(&others), Ok(()));
    assert_eq!(fixture.commands.borrow().counters().illegal, 40);
}

#[test]
fn who_is_held_up_again_and_again_does_not_give_up() {
    let fixture = fixture(IdRegisters::SMALL, WalkCoherency::Coherent);
    fixture.machine.after_step.set(Some(|machine| machine.pass_microseconds(TIMEOUT_US + 1)));
    // In many parts, and each refused command stops it.
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let long = std::iter::repeat_n(Command::CfgiAll, 100);
    assert_eq!(fixture.commands.borrow_mut().run(long.clone()), Ok(()));
    let error = fixture.commands.borrow_mut().run(long.chain([illegal, illegal]));
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(fixture.commands.borrow().counters().timeouts, 0);
}

#[test]
fn who_was_passed_by_a_full_turn_of_the_queue_sees_its_end() {
    let mut fixture = fixture(IdRegisters::SMALL, WalkCoherency::NonCoherent);
    let mut domain = fixture.attached(STREAM);
    for page in 0..if cfg!(miri) { 8 } else { 3000u64 } {
        fixture.map(&mut domain, 0x1000 + page % 7 * 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = fixture.unmap(&mut domain, 0x1000 + page % 7 * 0x1000, 1, ());
        let others = Busy(&fixture.commands, Command::TlbiNsnhAll);
        let freed = PagingDomain::invalidate(&others, stale).unwrap();
        freed.take(&mut fixture.memory);
    }
}

#[test]
fn a_queue_that_aborts_once_is_read_again() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    fixture.machine.bad_reads.set(1);
    assert_eq!(fixture.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
    let mut commands = fixture.commands.borrow_mut();
    assert_eq!(commands.counters().reinitialized, 0);
    assert_eq!(commands.service_errors().to_string(), "global error CMDQ_ERR, CERROR 0x2");
}

/// Reads of the model for two commands: the queue stops, and stops there again.
const TWO_COMMANDS: u32 = 4;

/// What it has in it is lost, and done all the same.
#[test]
fn a_queue_that_cannot_be_read_begins_anew_and_forgets_everything() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        for round in 0..if cfg!(miri) { 1 } else { 200 } {
            fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
            assert_eq!(fixture.reach(0x1000), Some(0x8000));
            let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
            assert!(fixture.reach(0x1000).is_some(), "the model forgets what it need not");
            fixture.machine.bad_reads.set(TWO_COMMANDS);
            fixture.free(stale);
            assert_eq!(fixture.machine.bad_reads.get(), 0);
            assert_eq!(fixture.reach(0x1000), None, "{ids:x?} {walks:?}");
            let counters = fixture.commands.borrow().counters();
            assert_eq!((counters.reinitialized, counters.timeouts), (round + 1, 0));
        }
        let errors = fixture.commands.borrow_mut().service_errors().to_string();
        assert_eq!(errors, "global error CMDQ_ERR, CERROR 0x2: command queue reinitialized");
    }
}

#[test]
fn an_attachment_that_is_lost_in_the_queue_is_made_all_the_same() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::NonCoherent);
    let mut domain = fixture.domain().unwrap();
    assert_eq!(fixture.reach(0x1000), None);
    fixture.machine.bad_reads.set(TWO_COMMANDS);
    fixture.attach(STREAM, &mut domain).unwrap();
    fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert_eq!(fixture.reach(0x1000), Some(0x8000));
    fixture.machine.bad_reads.set(TWO_COMMANDS);
    fixture.detach(STREAM, &mut domain).unwrap();
    assert_eq!(fixture.reach(0x1000), None);
    assert_eq!(fixture.commands.borrow().counters().reinitialized, 2);
}

#[test]
fn whoever_waits_for_a_queue_that_stays_unreadable_is_told_its_error() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert!(fixture.reach(0x1000).is_some());
        let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
        fixture.machine.bad_reads.set(u32::MAX);
        let unfinished = PagingDomain::invalidate(&fixture.commands, stale).unwrap_err();
        assert_eq!(unfinished.error, CommandError::Stopped { code: 2 });
        // More than the queue has room for.
        for _ in 0..if cfg!(miri) { 2 } else { 300 } {
            let error = fixture.commands.borrow_mut().run([Command::CfgiAll]);
            assert_eq!(error, Err(CommandError::Stopped { code: 2 }));
        }
        fixture.machine.bad_reads.set(0);
        assert!(fixture.reach(0x1000).is_some(), "forgotten without a word");
        fixture.free(unfinished.stale);
        assert_eq!(fixture.reach(0x1000), None);
        assert_eq!(fixture.commands.borrow().counters().reinitialized, 1);
    }
}

/// Acknowledging an error that comes back at once would be an interrupt without end.
#[test]
fn the_interrupt_handler_lets_a_queue_try_again_once() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut commands = fixture.commands.borrow_mut();
    fixture.machine.bad_reads.set(u32::MAX);
    commands.submit(Command::Sync.encode()).unwrap();
    for _ in 0..10 {
        fixture.machine.step();
        commands.service_errors();
    }
    assert_eq!(fixture.machine.model.borrow().error_interrupts, 2);
    fixture.machine.bad_reads.set(0);
    assert_eq!(commands.run([Command::CfgiAll]), Ok(()));
    assert_eq!(commands.counters().reinitialized, 1);
}

#[test]
fn a_consumer_index_outside_of_the_queue_is_an_error() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    fixture.machine.model.borrow_mut().hung = true;
    fixture.machine.after_step.set(Some(|machine| machine.set_register(0x9c, 0x77)));
    let error = fixture.commands.borrow_mut().run([]);
    assert_eq!(error, Err(CommandError::InvalidConsumer { consumed: 0x77 }));
}

#[test]
fn commands_are_seen_before_they_are_announced() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::NonCoherent);
    thread_local!(static ANNOUNCED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
    fixture.machine.watch.set(Some(|machine, event| {
        if event == arch::fake::Instruction::Barrier("dsb_sy") {
            ANNOUNCED.with_borrow_mut(|seen| seen.push(machine.register(0x98)));
        }
    }));
    let before = fixture.machine.register(0x98);
    fixture.commands.borrow_mut().run([Command::CfgiAll]).unwrap();
    assert_eq!(ANNOUNCED.take(), [before], "one barrier, and PROD after it");
    assert_eq!(fixture.machine.register(0x98), before + 2);
}
