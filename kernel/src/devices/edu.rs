//! The kernel's side of an `edu` device: one transfer at a time, and somebody who waits for its end.

use crate::dma::Device;
use crate::irq::Handler;
use crate::sched::{WaitError, Waiters};
use crate::sync::SpinLock;
use alloc::string::String;
use alloc::sync::Arc;
use arch::timer::Deadline;
use core::sync::atomic::{AtomicBool, Ordering};
use drivers::edu::{self, EduError, Notify, Transfer};

/// The device takes 100 ms of its own time for a transfer; a machine under load takes longer to get there.
const PATIENCE_NS: u64 = 20_000_000_000;

/// An `edu` device.
pub struct Edu {
    device: Arc<Device>,
    engine: SpinLock<edu::Edu>,
    /// Somebody's transfer is under way.
    taken: AtomicBool,
    /// Those who wait for their turn or for the end of a transfer.
    waiters: Waiters,
    interrupts: AtomicBool,
}

impl Edu {
    /// The device, polled.
    pub fn new(device: Arc<Device>, engine: edu::Edu) -> Self {
        let (taken, interrupts) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { device, engine: SpinLock::new(engine), taken, waiters: Waiters::new(), interrupts }
    }

    /// Its interrupt reaches [`Handler::handle`]: transfers are waited for asleep from now on.
    pub fn use_interrupt(&self) {
        self.interrupts.store(true, Ordering::Release);
    }

    /// Whether its interrupt is connected.
    pub fn has_interrupt(&self) -> bool {
        self.interrupts.load(Ordering::Acquire)
    }

    /// What the DMA core calls it.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// A few words for the boot log.
    pub fn summary(&self) -> String {
        let stream = match self.device.stream() {
            Some(stream) => alloc::format!("stream {stream}"),
            None => String::from("no IOMMU"),
        };
        let notify = if self.has_interrupt() { "by interrupt" } else { "polled" };
        alloc::format!("{stream}, mask {:#x}, {notify}", edu::DMA_MASK)
    }

    /// Does a transfer and returns when it is over, waiting by interrupt if there is one. Only in a thread, with no lock
    /// held.
    ///
    /// # Errors
    /// What [`edu::Edu::start`] refuses, and [`EduError::TimedOut`]. The device says nothing about faults.
    pub fn transfer(&self, transfer: Transfer) -> Result<(), EduError> {
        let notify = if self.has_interrupt() { Notify::Interrupt } else { Notify::Poll };
        self.transfer_notified(transfer, notify)
    }

    /// The same with a choice of how the end is noticed; [`Notify::Interrupt`] needs [`Edu::has_interrupt`].
    ///
    /// # Errors
    /// As for [`Edu::transfer`].
    pub fn transfer_notified(&self, transfer: Transfer, notify: Notify) -> Result<(), EduError> {
        self.take_turn();
        let started = self.engine.lock().start(transfer, notify);
        let result = started.and_then(|()| self.wait(notify));
        self.taken.store(false, Ordering::Release);
        self.waiters.wake_all();
        result
    }

    fn take_turn(&self) {
        let try_take = || (!self.taken.swap(true, Ordering::Acquire)).then_some(());
        // A program that is being ended waits for its turn all the same, by yielding: the turn before it is bounded.
        while self.waiters.wait_until(None, try_take) == Err(WaitError::Interrupted) {
            crate::sched::yield_now();
        }
    }

    /// Waits for the end of the transfer, in any case: the memory is the device's until then.
    fn wait(&self, notify: Notify) -> Result<(), EduError> {
        let deadline = Deadline::in_ns(PATIENCE_NS);
        let is_done = || self.engine.lock().is_done().then_some(());
        if notify == Notify::Interrupt {
            let until = crate::sched::time::now() + PATIENCE_NS;
            match self.waiters.wait_until(Some(until), is_done) {
                Ok(()) => return Ok(()),
                Err(WaitError::TimedOut) => return Err(EduError::TimedOut),
                Err(WaitError::Interrupted) => {}
            }
        }
        while is_done().is_none() {
            if deadline.passed() {
                return Err(EduError::TimedOut);
            }
            crate::sched::yield_now();
        }
        Ok(())
    }
}

impl Handler for Edu {
    fn handle(&self) {
        if self.engine.lock().acknowledge() {
            self.waiters.wake_all();
        }
    }
}
