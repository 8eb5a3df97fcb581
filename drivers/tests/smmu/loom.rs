//! The command queue behind a loom lock: loom explores all orders of acquisition, where the judge's
//! `ConcurrentCpus` explores random ones. The SMMU advances whenever a CPU waits.

use super::*;
use ::loom::sync::{Arc, Mutex};
use ::loom::thread;
use drivers::iommu::Stale;

struct LoomQueue(Mutex<CommandQueue>);

impl Shared<CommandQueue> for LoomQueue {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        action(&mut self.0.lock().unwrap())
    }
}

/// A domain with one page per CPU, all cached by the SMMU.
struct CachedPages {
    fixture: Fixture,
    domain: PagingDomain,
}

const AT: [u64; 3] = [0x1000, 0x2000, 0x40_0000];

fn cached_pages(pages: usize) -> CachedPages {
    let mut fixture = fixture(IdRegisters::SMALL, WalkCoherency::Coherent);
    fixture.machine.model.borrow_mut().commands_per_step = 1;
    let mut domain = fixture.attached(STREAM);
    for (index, &at) in AT[..pages].iter().enumerate() {
        fixture.map(&mut domain, at, &[chunk(0x9000_0000 + 0x1000 * index as u64, 0)]).unwrap();
        fixture.reach(at).unwrap();
    }
    CachedPages { fixture, domain }
}

/// A value that stays on one thread of the host: loom's threads are coroutines of one.
struct SameThread<T>(T);

// SAFETY: the value does not move to another thread of the host (see `SameThread`).
unsafe impl<T> Send for SameThread<T> {}

/// Spawns a loom thread with sufficient stack for the driver.
fn spawn(action: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    const STACK: usize = 1 << 20;
    let same_thread = SameThread(action);
    let run = move || {
        let SameThread(action) = { same_thread };
        action();
    };
    thread::Builder::new().stack_size(STACK).spawn(run).unwrap()
}

/// Invalidates a page, and checks afterwards that the SMMU does not translate it.
fn invalidate(queue: &LoomQueue, machine: &Rc<TestMachine>, at: u64, stale: Stale<()>) {
    let freed = PagingDomain::invalidate(queue, stale).unwrap();
    freed.take(&mut TestMemory(machine.clone()));
    let outcome = machine.access(STREAM, at, READ);
    assert_eq!(outcome, TransactionResult::Aborted(Some(EventKind::Translation)), "{at:#x}");
}

/// Each CPU invalidates its own page.
fn invalidate_concurrently(cpus: usize) {
    let CachedPages { mut fixture, mut domain } = cached_pages(cpus);
    let stale: Vec<_> = AT[..cpus].iter().map(|&at| (at, fixture.unmap(&mut domain, at, 1, ()))).collect();
    let machine = fixture.machine.clone();
    let queue = Arc::new(LoomQueue(Mutex::new(fixture.commands.into_inner())));
    let cpu = |(at, stale)| {
        let (queue, machine) = (queue.clone(), machine.clone());
        spawn(move || invalidate(&queue, &machine, at, stale))
    };
    let cpus: Vec<_> = stale.into_iter().map(cpu).collect();
    cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
    TestMachine::forget();
}

fn try_all(cpus: usize) {
    ::loom::model(move || spawn(move || invalidate_concurrently(cpus)).join().unwrap());
}

#[test]
fn loom_two_cpus_invalidate_concurrently() {
    try_all(2);
}

#[test]
fn loom_three_cpus_invalidate_concurrently() {
    try_all(3);
}
