//! The command queue behind a lock that loom hands around: which CPU has it next is tried in every way, where the judge's
//! concurrent_cpus tries some at random. The SMMU does a little whenever somebody waits.

use super::*;
use ::loom::sync::{Arc, Mutex};
use ::loom::thread;

struct Locked(Mutex<CommandQueue>);

impl Shared<CommandQueue> for Locked {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        action(&mut self.0.lock().unwrap())
    }
}

/// A domain with a page for each CPU, which the device has used.
struct Scene {
    fixture: Fixture,
    domain: PagingDomain,
}

const AT: [u64; 3] = [0x1000, 0x2000, 0x40_0000];

fn scene(pages: usize) -> Scene {
    let mut fixture = fixture(IdRegisters::SMALL, WalkCoherency::Coherent);
    fixture.machine.model.borrow_mut().commands_per_step = 1;
    let mut domain = fixture.attached(STREAM);
    for (index, &at) in AT[..pages].iter().enumerate() {
        fixture.map(&mut domain, at, &[chunk(0x9000_0000 + 0x1000 * index as u64, 0)]).unwrap();
        fixture.reach(at).unwrap();
    }
    Scene { fixture, domain }
}

/// Something that stays on this thread of the host: all of loom's are coroutines of one.
struct Here<T>(T);

// SAFETY: it never gets to another thread of the host (see `Here`).
unsafe impl<T> Send for Here<T> {}

/// A thread of loom's with room for a driver on its stack.
fn spawn(action: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    const STACK: usize = 1 << 20;
    let here = Here(action);
    let run = move || {
        let Here(action) = { here };
        action();
    };
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}

/// Makes the SMMU forget a page, and looks whether it has when that is said.
fn forget(queue: &Locked, machine: &Rc<TestMachine>, at: u64, stale: iommu::Stale<()>) {
    let freed = PagingDomain::invalidate(queue, stale).unwrap();
    freed.take(&mut TestMemory(machine.clone()));
    let outcome = machine.access(STREAM, at, READ);
    assert_eq!(outcome, TransactionResult::Aborted(Some(EventKind::Translation)), "{at:#x}");
}

/// Each CPU makes the SMMU forget a page of its own.
fn forget_at_once(cpus: usize) {
    let Scene { mut fixture, mut domain } = scene(cpus);
    let stale: Vec<_> = AT[..cpus].iter().map(|&at| (at, fixture.unmap(&mut domain, at, 1, ()))).collect();
    let machine = fixture.machine.clone();
    let queue = Arc::new(Locked(Mutex::new(fixture.commands.into_inner())));
    let cpu = |(at, stale)| {
        let (queue, machine) = (queue.clone(), machine.clone());
        spawn(move || forget(&queue, &machine, at, stale))
    };
    let cpus: Vec<_> = stale.into_iter().map(cpu).collect();
    cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
    TestMachine::forget();
}

fn try_all(cpus: usize) {
    ::loom::model(move || spawn(move || forget_at_once(cpus)).join().unwrap());
}

#[test]
fn loom_two_cpus_have_their_pages_forgotten_at_a_time() {
    try_all(2);
}

#[test]
fn loom_three_cpus_have_their_pages_forgotten_at_a_time() {
    try_all(3);
}
