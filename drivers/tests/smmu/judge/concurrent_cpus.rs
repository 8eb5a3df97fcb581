//! Several CPUs at one command queue.
//!
//! The driver locks the queue to put commands into it and to look how far they are, not while it waits. Whenever it asks
//! for the lock, another CPU may have had it meanwhile: it frees something that was unmapped, or unmaps what is in a pinned
//! table, from beginning to end, and may find a third one on its way.

use super::super::test_machine::{TestMachine, TestMemory};
use super::executor::{Pending, SharedState};
use super::pinned;
use drivers::iommu::Shared;
use drivers::smmu::{CommandError, CommandQueue, PagingDomain};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// So many CPUs are under way at one time at most, besides the first.
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

    /// Frees something. If it is `late`, the SMMU does not answer at first.
    pub fn free(&self, pending: Pending, late: bool) {
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
        // Whoever is next may have the frames.
        drop(held);
    }

    /// What another CPU is about to free: what was unmapped before, or small mappings, whatever is done to the domain.
    fn something(&self) -> Option<Pending> {
        let pending = self.all.pending.borrow_mut().pop();
        pending.or_else(|| {
            let run = self.all.runs.borrow_mut().pop()?;
            Some(pinned::unmap(self.machine, self.all, run, self.step))
        })
    }

    /// Another CPU has something to do, now and then.
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
