//! The command queue: errors, restarts, ordering.

use super::*;

#[test]
fn illegal_command_is_replaced_and_the_batch_continues() {
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
    assert_eq!(fixture.reach(0x1000), None, "the second command was not executed");
    assert_eq!(fixture.commands.borrow().counters().illegal, 1);
    let errors = fixture.commands.borrow_mut().service_errors();
    assert_eq!(errors.to_string(), "global error CMDQ_ERR");
    fixture.free(stale);
    assert!(fixture.commands.borrow_mut().service_errors().is_empty());
}

#[test]
fn several_illegal_commands_of_a_batch_are_replaced() {
    let fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let batch = [illegal, Command::CfgiAll, illegal, illegal];
    let error = fixture.commands.borrow_mut().run(batch);
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(fixture.commands.borrow().counters().illegal, 3);
    assert_eq!(fixture.commands.borrow_mut().run([]), Ok(()));
}

#[test]
fn illegal_command_serviced_by_the_interrupt_handler_is_reported_to_its_batch() {
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

/// Queues `command` without waiting for it.
fn submit(queue: &mut CommandQueue, command: Command) -> Result<(), QueueFull> {
    // SAFETY: the words are those of a `Command`.
    unsafe { queue.submit(command.encode()) }
}

/// A queue in which another CPU queues a command before and after each access.
struct OtherCommands<'a>(&'a RefCell<CommandQueue>, Command);

impl Shared<CommandQueue> for OtherCommands<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        let _ = submit(queue, self.1);
        let result = action(queue);
        let _ = submit(queue, self.1);
        result
    }
}

#[test]
fn illegal_command_is_reported_only_to_its_batch() {
    let mut fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
    assert!(fixture.reach(0x1000).is_some());
    let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
    let others = OtherCommands(&fixture.commands, Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) });
    let freed = PagingDomain::invalidate(&others, stale).unwrap();
    freed.take(&mut fixture.memory);
    assert_eq!(fixture.reach(0x1000), None);
    assert!(fixture.commands.borrow().counters().illegal >= 1);
}

/// A queue in which 40 commands of other batches are illegal before its second access.
struct OtherIllegalCommands<'a>(&'a RefCell<CommandQueue>, core::cell::Cell<bool>);

impl Shared<CommandQueue> for OtherIllegalCommands<'_> {
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
fn illegal_commands_during_a_delay_are_not_reported_to_another_batch() {
    let fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
    let others = OtherIllegalCommands(&fixture.commands, false.into());
    assert_eq!(smmu::sync(&others), Ok(()));
    assert_eq!(fixture.commands.borrow().counters().illegal, 40);
}

#[test]
fn timeout_requires_a_minimum_number_of_polls() {
    let fixture = fixture(IdRegisters::SMALL, WalkCoherency::Coherent);
    fixture.machine.after_step.set(Some(|machine| machine.pass_microseconds(TIMEOUT_US + 1)));
    // Long batches are queued in parts, and each illegal command stops the queue.
    let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
    let long = std::iter::repeat_n(Command::CfgiAll, 100);
    assert_eq!(fixture.commands.borrow_mut().run(long.clone()), Ok(()));
    let error = fixture.commands.borrow_mut().run(long.chain([illegal, illegal]));
    assert_eq!(error, Err(CommandError::Illegal { words: illegal.encode() }));
    assert_eq!(fixture.commands.borrow().counters().timeouts, 0);
}

#[test]
fn completion_is_seen_after_the_queue_has_wrapped() {
    let mut fixture = fixture(IdRegisters::SMALL, WalkCoherency::NonCoherent);
    let mut domain = fixture.attached(STREAM);
    for page in 0..if cfg!(miri) { 8 } else { 3000u64 } {
        fixture.map(&mut domain, 0x1000 + page % 7 * 0x1000, &[chunk(0x8000, 0)]).unwrap();
        let stale = fixture.unmap(&mut domain, 0x1000 + page % 7 * 0x1000, 1, ());
        let others = OtherCommands(&fixture.commands, Command::TlbiNsnhAll);
        let freed = PagingDomain::invalidate(&others, stale).unwrap();
        freed.take(&mut fixture.memory);
    }
}

#[test]
fn read_abort_of_the_queue_is_retried_once() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    fixture.machine.bad_reads.set(1);
    assert_eq!(fixture.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
    let mut commands = fixture.commands.borrow_mut();
    assert_eq!(commands.counters().reinitialized, 0);
    assert_eq!(commands.service_errors().to_string(), "global error CMDQ_ERR, CERROR 0x2");
}

/// Failing reads for two commands: the queue stops, and stops there again.
const TWO_COMMANDS: u32 = 4;

/// The lost commands count as complete.
#[test]
fn unreadable_queue_is_reinitialized_and_invalidates_everything() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        for round in 0..if cfg!(miri) { 1 } else { 200 } {
            fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
            assert_eq!(fixture.reach(0x1000), Some(0x8000));
            let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
            assert!(fixture.reach(0x1000).is_some(), "the model did not keep the entry");
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
fn attach_and_detach_complete_when_their_commands_are_lost() {
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
fn permanently_unreadable_queue_fails_each_batch() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        assert!(fixture.reach(0x1000).is_some());
        let stale = fixture.unmap(&mut domain, 0x1000, 1, ());
        fixture.machine.bad_reads.set(u32::MAX);
        let unfinished = PagingDomain::invalidate(&fixture.commands, stale).unwrap_err();
        assert_eq!(unfinished.error, CommandError::Stopped { code: 2 });
        // More than the capacity of the queue.
        for _ in 0..if cfg!(miri) { 2 } else { 300 } {
            let error = fixture.commands.borrow_mut().run([Command::CfgiAll]);
            assert_eq!(error, Err(CommandError::Stopped { code: 2 }));
        }
        fixture.machine.bad_reads.set(0);
        assert!(fixture.reach(0x1000).is_some(), "invalidated without a completion");
        fixture.free(unfinished.stale);
        assert_eq!(fixture.reach(0x1000), None);
        assert_eq!(fixture.commands.borrow().counters().reinitialized, 1);
    }
}

/// Acknowledging an error that recurs immediately would cause endless interrupts.
#[test]
fn interrupt_handler_retries_a_read_abort_once() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut commands = fixture.commands.borrow_mut();
    fixture.machine.bad_reads.set(u32::MAX);
    submit(&mut commands, Command::Sync).unwrap();
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
fn consumer_index_outside_of_the_queue_is_an_error() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    fixture.machine.model.borrow_mut().hung = true;
    fixture.machine.after_step.set(Some(|machine| machine.set_register(0x9c, 0x77)));
    let error = fixture.commands.borrow_mut().run([]);
    assert_eq!(error, Err(CommandError::InvalidConsumer { consumed: 0x77 }));
}

#[test]
fn commands_are_visible_before_the_doorbell() {
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::NonCoherent);
    thread_local!(static DOORBELL: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });
    fixture.machine.watch.set(Some(|machine, event| {
        if event == arch::fake::Instruction::Barrier("dsb_sy") {
            DOORBELL.with_borrow_mut(|seen| seen.push(machine.register(0x98)));
        }
    }));
    let before = fixture.machine.register(0x98);
    fixture.commands.borrow_mut().run([Command::CfgiAll]).unwrap();
    assert_eq!(DOORBELL.take(), [before], "one barrier, and PROD after it");
    assert_eq!(fixture.machine.register(0x98), before + 2);
}

/// A queue with an illegal command, and a second global error besides CMDQ_ERR.
struct ConcurrentErrors(Fixture);

impl ConcurrentErrors {
    const GERROR: usize = 0x60;
    const GERRORN: usize = 0x64;
    const CMDQ_ERR: u32 = 1;
    const EVENTQ_ABT_ERR: u32 = 1 << 2;

    fn new() -> Self {
        let fixture = fixture(IdRegisters::STAGE1, WalkCoherency::Coherent);
        let illegal = Command::TlbiS12Vmall { vmid: addr::Vmid::new(0) };
        submit(&mut fixture.commands.borrow_mut(), illegal).unwrap();
        Self(fixture)
    }

    fn raise_event_queue_abort(machine: &TestMachine) {
        machine.set_register(Self::GERROR, machine.register(Self::GERROR) ^ Self::EVENTQ_ABT_ERR);
    }

    fn active(&self) -> u32 {
        self.0.machine.register(Self::GERROR) ^ self.0.machine.register(Self::GERRORN)
    }
}

/// GERRORN (IHI 0070, 6.3.18) is written once, with the observed value.
#[test]
fn concurrent_errors_are_acknowledged_by_one_write() {
    let errors = ConcurrentErrors::new();
    let mut commands = errors.0.commands.borrow_mut();
    errors.0.machine.step();
    ConcurrentErrors::raise_event_queue_abort(&errors.0.machine);
    let active = errors.active();
    assert_eq!(active, ConcurrentErrors::EVENTQ_ABT_ERR | ConcurrentErrors::CMDQ_ERR);
    let before = commands.counters().register_writes;
    let reported = commands.service_errors();
    assert_eq!((reported.bits, commands.counters().register_writes - before), (active, 1));
    assert_eq!(errors.active(), 0);
    assert_eq!(commands.run([]), Ok(()), "the queue has not continued");
}

/// The waiter acknowledges only the error that stops its batch; the other one stays active for the handler.
#[test]
fn error_during_the_batch_of_another_cpu_is_reported_once() {
    let errors = ConcurrentErrors::new();
    let mut commands = errors.0.commands.borrow_mut();
    errors.0.machine.after_step.set(Some(|machine| {
        machine.after_step.set(None);
        ConcurrentErrors::raise_event_queue_abort(machine);
    }));
    assert_eq!(commands.run([]), Ok(()));
    assert!(errors.0.machine.after_step.get().is_none(), "no error during the batch");
    assert_eq!(errors.active(), ConcurrentErrors::EVENTQ_ABT_ERR);
    let reported = commands.service_errors().bits;
    assert_eq!(reported, ConcurrentErrors::EVENTQ_ABT_ERR | ConcurrentErrors::CMDQ_ERR);
    assert_eq!(errors.active(), 0);
    assert!(commands.service_errors().is_empty(), "reported twice");
}

/// A queue in which another CPU completes a batch of another kind before each access.
struct OtherBatches<'a>(&'a RefCell<CommandQueue>);

impl Shared<CommandQueue> for OtherBatches<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        let queue = &mut *self.0.borrow_mut();
        queue.run([Command::TlbiNsnhAll]).unwrap();
        action(queue)
    }
}

/// The model panics if commands of two kinds follow each other without a CMD_SYNC.
#[test]
fn mmu_700_gets_a_sync_between_commands_of_two_kinds() {
    const CFGI_ALL: u8 = 0x04;
    const SYNC: u8 = 0x46;
    let fixture = fixture(IdRegisters::mmu_700(IdRegisters::SMALL), WalkCoherency::Coherent);
    let log = || fixture.machine.model.borrow().opcodes.clone();
    let before = log().len();
    // The queue has 16 entries, so the batch is queued in parts.
    smmu::run(&OtherBatches(&fixture.commands), std::iter::repeat_n(Command::CfgiAll, 40)).unwrap();
    let own: Vec<u8> = log()[before..].to_vec();
    assert_eq!(own.iter().filter(|&&opcode| opcode == CFGI_ALL).count(), 40);
    let synced = own.windows(2).filter(|pair| *pair == [CFGI_ALL, SYNC]).count();
    assert!(synced >= 3, "a CMD_SYNC for each of at least three parts: {own:x?}");
    fixture.machine.bad_reads.set(TWO_COMMANDS);
    assert_eq!(fixture.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
    assert_eq!(fixture.commands.borrow().counters().reinitialized, 1);
}

#[test]
fn queue_of_two_entries_is_reinitialized() {
    let mut ids = IdRegisters::NESTED;
    ids.idr[1] = ids.idr[1] & !(0x1f << 21) | 1 << 21;
    for ids in [ids, IdRegisters::mmu_700(ids)] {
        let fixture = fixture(ids, WalkCoherency::Coherent);
        smmu::run(&fixture.commands, [Command::CfgiAll; 5]).unwrap();
        fixture.machine.bad_reads.set(TWO_COMMANDS);
        assert_eq!(fixture.commands.borrow_mut().run([Command::CfgiAll]), Ok(()));
        assert_eq!(fixture.commands.borrow().counters().reinitialized, 1);
        smmu::run(&fixture.commands, [Command::TlbiNsnhAll; 5]).unwrap();
    }
}
