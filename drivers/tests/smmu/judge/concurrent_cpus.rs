//! Several CPUs at one command queue.
//!
//! The driver locks the queue to write commands and to read CONS, not while it waits. Before each acquisition
//! of the lock another CPU may acquire it: it frees an unmapped buffer, or unmaps and frees a run of a pinned
//! table, completely, and may be interleaved with a third one.

use super::super::test_machine::{TestMachine, TestMemory};
use super::executor::{SharedState, UnmappedBuffer};
use super::pinned;
use drivers::iommu::Shared;
use drivers::smmu::{CommandError, CommandQueue, PagingDomain};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Maximum number of interleaved CPUs besides the first.
const MOST: u32 = 3;

pub struct ConcurrentCpus<'a> {
    queue: &'a RefCell<CommandQueue>,
    machine: &'a Rc<TestMachine>,
    all: &'a SharedState,
    step: u64,
    others: Cell<u32>,
}

impl<'a> ConcurrentCpus<'a> {
    pub fn new(
        queue: &'a RefCell<CommandQueue>,
        machine: &'a Rc<TestMachine>,
        all: &'a SharedState,
        step: u64,
    ) -> Self {
        Self { queue, machine, all, step, others: Cell::new(0) }
    }

    /// Frees an unmapped buffer. If `late`, the SMMU does not respond at first.
    pub fn free(&self, pending: UnmappedBuffer, late: bool) {
        let (stale, domain, pages, step) = pending.into_parts();
        let mut freed = PagingDomain::invalidate(self, stale);
        if let Err(unfinished) = freed {
            let timed_out = matches!(unfinished.error, CommandError::TimedOut { .. });
            assert!(late && timed_out, "{:?}", unfinished.error);
            self.machine.model.borrow_mut().hung = false;
            freed = PagingDomain::invalidate(self, unfinished.stale);
        }
        self.machine.model.borrow_mut().hung = false;
        let held = freed.unwrap().take(&mut TestMemory(self.machine.clone()));
        let mut oracle = self.all.oracle.borrow_mut();
        pages.iter().for_each(|&page| oracle.is_gone(domain, page, step));
        drop(oracle);
        // The frames may be reused now.
        drop(held);
    }

    /// The next buffer to be freed by another CPU: one that was unmapped before, or a pinned run, in any
    /// state of its domain.
    fn something(&self) -> Option<UnmappedBuffer> {
        let pending = self.all.pending.borrow_mut().pop();
        pending.or_else(|| {
            let run = self.all.runs.borrow_mut().pop()?;
            Some(pinned::unmap(self.machine, self.all, run, self.step))
        })
    }

    /// Runs another CPU at random times.
    fn run_another_cpu(&self) {
        let others = self.others.get();
        let hung = self.machine.model.borrow().hung;
        if others == MOST || hung || self.all.certain_only || !self.all.random.borrow_mut().once_in(4) {
            return;
        }
        if let Some(pending) = self.something() {
            self.others.set(others + 1);
            self.free(pending, false);
            self.others.set(others);
        }
    }
}

impl Shared<CommandQueue> for ConcurrentCpus<'_> {
    fn with<R>(&self, action: impl FnOnce(&mut CommandQueue) -> R) -> R {
        self.run_another_cpu();
        action(&mut self.queue.borrow_mut())
    }
}
