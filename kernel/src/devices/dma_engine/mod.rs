//! DMA engines as devices: exclusive access, waiting for completion, and the device node.

mod file;
mod loopback;

use super::driver::BoundDevice;
use crate::debug::{self, FailPoint};
use crate::dma::stream::{self, Pages};
use crate::dma::{Device, trace};
use crate::fs::OpenFile;
use crate::fs::char_device::{self, DeviceClass};
use crate::irq::Handler;
use crate::sched::{WaitError, WaitQueue};
use crate::sync::SpinLock;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use arch::timer::Deadline;
use core::iter;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use dma_api::DmaError;
use drivers::dma_engine::{self, BUFFER_LEN, CopyError, Notify, Transfer, TransferDirection};
use drivers::poll::{TimedOut, poll_until};
use file::DmaEngineFile;
use spin::Once;

/// The timeout of a job. An `edu` takes 100 ms for a transfer, and longer on a loaded host.
const TIMEOUT_NS: u64 = 20_000_000_000;

/// The interval at which a sleeping thread polls the engine, since an interrupt can be lost.
const POLL_INTERVAL_NS: u64 = 500_000_000;

/// The aborts by the IOMMU during completed transfers, which the device does not report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The accesses that were aborted and recorded.
    pub aborted: u64,
    /// The device was quarantined meanwhile, or its quarantine was pending: the number of aborted accesses is
    /// unknown.
    pub blocked: bool,
}

impl Completion {
    /// Whether all bytes were copied.
    pub fn is_complete(self) -> bool {
        self.aborted == 0 && !self.blocked
    }
}

/// Why a process's transfers were not completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferError {
    /// An error of the driver.
    Copy(CopyError),
    /// No memory or no IOVA for clearing the device's buffer.
    Clear(DmaError),
}

impl From<CopyError> for TransferError {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

/// A DMA engine with its driver.
pub struct DmaEngineDevice {
    class: &'static DeviceClass,
    device: Arc<Device>,
    engine: SpinLock<Box<dyn dma_engine::DmaEngine>>,
    /// The maximum number of transfers of a job.
    max_transfers: usize,
    /// A thread has exclusive access.
    busy: AtomicBool,
    /// The process whose data is in the device's buffer, or 0. Changed under exclusive access.
    last_user: AtomicU32,
    /// Threads that wait for exclusive access or for the end of a job.
    waiters: WaitQueue,
    interrupts: AtomicBool,
    /// The next published engine.
    next: Once<&'static Self>,
}

static FIRST: Once<&'static DmaEngineDevice> = Once::new();

/// Returns the published DMA engines, in the order of their publication.
pub fn dma_engines() -> impl Iterator<Item = &'static DmaEngineDevice> + Clone {
    iter::successors(FIRST.get().copied(), |engine| engine.next.get().copied())
}

impl DmaEngineDevice {
    /// Creates the device. Without [`use_interrupt`](Self::use_interrupt) it is polled.
    pub fn new(
        class: &'static DeviceClass,
        device: Arc<Device>,
        engine: impl dma_engine::DmaEngine + 'static,
    ) -> Self {
        Self {
            class,
            device,
            max_transfers: engine.max_transfers(),
            engine: SpinLock::new(Box::new(engine)),
            busy: AtomicBool::new(false),
            last_user: AtomicU32::new(0),
            waiters: WaitQueue::new(),
            interrupts: AtomicBool::new(false),
            next: Once::new(),
        }
    }

    /// Whether a job can have several transfers, so that scattered memory needs no IOMMU.
    pub fn supports_scatter_gather(&self) -> bool {
        self.max_transfers > 1
    }

    /// Whether the device reaches memory of a general allocation.
    pub fn reaches_memory(&self) -> bool {
        self.device.reaches_memory()
    }

    /// Makes later transfers sleep until the interrupt, which must be connected to [`Handler::handle`].
    pub fn use_interrupt(&self) {
        self.interrupts.store(true, Ordering::Release);
    }

    fn has_interrupt(&self) -> bool {
        self.interrupts.load(Ordering::Acquire)
    }

    /// Returns the device of the DMA core.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Describes the device for the boot log.
    pub fn summary(&self) -> String {
        let stream = match self.device.stream() {
            Some(stream) => alloc::format!("stream {stream}"),
            None => String::from("no IOMMU"),
        };
        let notify = if self.has_interrupt() { "by interrupt" } else { "polled" };
        alloc::format!("{stream}, mask {}, {notify}", self.device.mask())
    }

    /// Runs a transfer and waits for its completion. Called in a thread, with no lock held.
    ///
    /// # Errors
    /// Those of [`dma_engine::DmaEngine::start`] and [`dma_engine::DmaEngine::outcome`], and
    /// [`CopyError::TimedOut`].
    pub fn transfer(&self, transfer: Transfer) -> Result<Completion, CopyError> {
        self.transfer_all(&[transfer])
    }

    /// Runs transfers in this order, as one job if the engine supports it.
    ///
    /// # Errors
    /// Those of [`DmaEngineDevice::transfer`]; the transfers before the failing one are complete.
    pub fn transfer_all(&self, transfers: &[Transfer]) -> Result<Completion, CopyError> {
        self.with_exclusive_access(|| self.run_all(transfers))
    }

    /// Runs transfers for process `user`, after clearing the device's buffer if it holds another process's
    /// data.
    ///
    /// # Errors
    /// Those of [`DmaEngineDevice::transfer`], and [`TransferError::Clear`].
    pub fn transfer_for(&self, user: u32, transfers: &[Transfer]) -> Result<Completion, TransferError> {
        self.with_exclusive_access(|| {
            if self.last_user.load(Ordering::Relaxed) != user {
                self.clear()?;
                self.last_user.store(user, Ordering::Relaxed);
            }
            Ok(self.run_all(transfers)?)
        })
    }

    /// Appends the engine to the published ones.
    fn append(&'static self) {
        let mut link = &FIRST;
        loop {
            let engine = *link.call_once(|| self);
            if ptr::eq(engine, self) {
                return;
            }
            link = &engine.next;
        }
    }

    fn with_exclusive_access<R>(&self, action: impl FnOnce() -> R) -> R {
        self.acquire();
        let result = action();
        self.busy.store(false, Ordering::Release);
        self.waiters.wake_all();
        result
    }

    /// Fills the device's buffer with zeroes by a transfer from zeroed pages.
    fn clear(&self) -> Result<(), TransferError> {
        let zeroes = Pages::new(BUFFER_LEN).map_err(TransferError::Clear)?;
        let mapping = stream::map(&self.device, zeroes, dma_api::Direction::ToDevice);
        let mapping = mapping.map_err(|refused| TransferError::Clear(refused.error))?;
        let transfer = Transfer {
            direction: TransferDirection::FromMemory,
            memory: mapping.iova(),
            offset: 0,
            len: BUFFER_LEN,
        };
        let done = self.run_all(&[transfer]);
        mapping.unmap().map_err(TransferError::Clear)?;
        if done?.is_complete() { Ok(()) } else { Err(CopyError::Failed(0).into()) }
    }

    /// Runs transfers under exclusive access: all accesses aborted meanwhile are theirs.
    fn run_all(&self, transfers: &[Transfer]) -> Result<Completion, CopyError> {
        let notify = if self.has_interrupt() { Notify::Interrupt } else { Notify::Poll };
        let (generation, before) = (self.device.arm_generation(), self.device.total_faults());
        transfers.chunks(self.max_transfers).try_for_each(|job| self.run(job, notify))?;
        let aborted = self.device.total_faults() - before;
        Ok(Completion {
            aborted,
            blocked: generation.is_none() || self.device.arm_generation() != generation,
        })
    }

    fn run(&self, job: &[Transfer], notify: Notify) -> Result<(), CopyError> {
        self.engine.lock().start(job, notify)?;
        self.wait(notify)?;
        self.engine.lock().outcome()
    }

    fn acquire(&self) {
        let try_acquire = || (!self.busy.swap(true, Ordering::Acquire)).then_some(());
        // A terminating process still waits for exclusive access, by yielding: the access before it is
        // bounded.
        while self.waiters.wait_until(None, try_acquire) == Err(WaitError::Interrupted) {
            crate::sched::yield_now();
        }
    }

    /// Waits for the end of the job, even in a terminating process: until then the device owns the memory.
    fn wait(&self, notify: Notify) -> Result<(), CopyError> {
        let deadline = Deadline::in_ns(TIMEOUT_NS);
        let is_done = || self.engine.lock().is_done().then_some(());
        if notify == Notify::Interrupt {
            let next_poll = || Some(crate::sched::time::now() + POLL_INTERVAL_NS);
            // No `poll_until`: the thread sleeps until an interrupt, and polls in between in case one is
            // lost.
            loop {
                match self.waiters.wait_until(next_poll(), is_done) {
                    Ok(()) => return Ok(()),
                    Err(WaitError::TimedOut) if deadline.passed() => return Err(CopyError::TimedOut),
                    Err(WaitError::TimedOut) => {}
                    Err(WaitError::Interrupted) => break,
                }
            }
        }
        let poll = || {
            is_done().or_else(|| {
                crate::sched::yield_now();
                None
            })
        };
        poll_until(|| deadline.passed(), poll).map_err(|TimedOut| CopyError::TimedOut)
    }
}

impl BoundDevice for DmaEngineDevice {
    fn publish(&'static self, check: bool) {
        let name = self.device.name();
        if check && let Err(error) = trace::suspended(|| loopback::check(self)) {
            log::warn!("{name}: ignored: {error}");
            return;
        }
        self.append();
        let open = move |number, flags| Ok(OpenFile::new(DmaEngineFile::new(self, number)?, flags));
        if let Err(error) = char_device::register_instance(self.class, open) {
            log::warn!("{name}: no device node: {error}");
        }
    }
}

impl Handler for DmaEngineDevice {
    fn handle(&self) {
        if self.engine.lock().acknowledge() && !debug::fail_point(FailPoint::Interrupts) {
            self.waiters.wake_all();
        }
    }
}
