//! The kernel's side of a device that copies between memory and a buffer of its own: one job at a time, and somebody
//! who waits for its end.

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
use file::DmaEngineFile;
use spin::Once;

/// An `edu` takes 100 ms of its own time for a transfer; a machine under load takes longer to get there.
const PATIENCE_NS: u64 = 20_000_000_000;

/// How often somebody who sleeps looks nevertheless: an interrupt can be lost.
const LOOK_NS: u64 = 500_000_000;

/// What an IOMMU did to transfers that are over. Devices do not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Accesses that it aborted and recorded.
    pub aborted: u64,
    /// The device might not do DMA all the time, or was about not to: nobody knows how many were aborted.
    pub blocked: bool,
}

impl Completion {
    /// Whether all bytes were copied.
    pub fn is_whole(self) -> bool {
        self.aborted == 0 && !self.blocked
    }
}

/// Why a program's transfers were not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferError {
    /// The device or its driver says so.
    Copy(CopyError),
    /// There is no memory to clear the device's buffer with, or no address for it.
    Clear(DmaError),
}

impl From<CopyError> for TransferError {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

/// A device that copies.
pub struct DmaEngineDevice {
    class: &'static DeviceClass,
    device: Arc<Device>,
    engine: SpinLock<Box<dyn dma_engine::DmaEngine>>,
    /// Transfers that it does in one go.
    most_transfers: usize,
    /// Somebody's transfer is under way.
    taken: AtomicBool,
    /// The program whose bytes are in the device's buffer; 0: nobody's. Whoever has the turn changes it.
    user: AtomicU32,
    /// Those who wait for their turn or for the end of a transfer.
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
    /// The device, polled.
    pub fn new(
        class: &'static DeviceClass,
        device: Arc<Device>,
        engine: impl dma_engine::DmaEngine + 'static,
    ) -> Self {
        Self {
            class,
            device,
            most_transfers: engine.most_transfers(),
            engine: SpinLock::new(Box::new(engine)),
            taken: AtomicBool::new(false),
            user: AtomicU32::new(0),
            waiters: WaitQueue::new(),
            interrupts: AtomicBool::new(false),
            next: Once::new(),
        }
    }

    /// Whether memory in pieces is no obstacle for it.
    pub fn gathers(&self) -> bool {
        self.most_transfers > 1
    }

    /// Whether memory that has no special place is within its reach.
    pub fn reaches_memory(&self) -> bool {
        self.device.reaches_memory()
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
        alloc::format!("{stream}, mask {}, {notify}", self.device.mask())
    }

    /// Does a transfer and returns when it is over, waiting by interrupt if there is one. Only in a thread, with no lock
    /// held.
    ///
    /// # Errors
    /// What [`dma_engine::DmaEngine::start`] and [`dma_engine::DmaEngine::outcome`] say, and [`CopyError::TimedOut`].
    pub fn transfer(&self, transfer: Transfer) -> Result<Completion, CopyError> {
        self.transfer_all(&[transfer])
    }

    /// The same for several, in this order, in one go if the device gathers.
    ///
    /// # Errors
    /// As for [`DmaEngineDevice::transfer`]; those before the one that fails have been done.
    pub fn transfer_all(&self, transfers: &[Transfer]) -> Result<Completion, CopyError> {
        self.in_turn(|| self.watched(transfers))
    }

    /// The same for a program: what the device's buffer holds of another one is cleared before.
    ///
    /// # Errors
    /// As for [`DmaEngineDevice::transfer`], and [`TransferError::Clear`].
    pub fn transfer_for(&self, user: u32, transfers: &[Transfer]) -> Result<Completion, TransferError> {
        self.in_turn(|| {
            if self.user.load(Ordering::Relaxed) != user {
                self.clear()?;
                self.user.store(user, Ordering::Relaxed);
            }
            Ok(self.watched(transfers)?)
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

    fn in_turn<R>(&self, action: impl FnOnce() -> R) -> R {
        self.take_turn();
        let result = action();
        self.taken.store(false, Ordering::Release);
        self.waiters.wake_all();
        result
    }

    /// Fills the device's buffer with zeroes, which it has to read from somewhere.
    fn clear(&self) -> Result<(), TransferError> {
        let zeroes = Pages::new(BUFFER_LEN).map_err(TransferError::Clear)?;
        let lent = stream::map(&self.device, zeroes, dma_api::Direction::ToDevice);
        let lent = lent.map_err(|refused| TransferError::Clear(refused.error))?;
        let transfer = Transfer {
            direction: TransferDirection::FromMemory,
            memory: lent.iova(),
            offset: 0,
            len: BUFFER_LEN,
        };
        let done = self.watched(&[transfer]);
        lent.unmap().map_err(TransferError::Clear)?;
        if done?.is_whole() { Ok(()) } else { Err(CopyError::Failed(0).into()) }
    }

    /// Does the transfers of one turn. What is aborted meanwhile is theirs.
    fn watched(&self, transfers: &[Transfer]) -> Result<Completion, CopyError> {
        let notify = if self.has_interrupt() { Notify::Interrupt } else { Notify::Poll };
        let (armed, before) = (self.device.arming(), self.device.all_faults());
        transfers.chunks(self.most_transfers).try_for_each(|job| self.run(job, notify))?;
        let aborted = self.device.all_faults() - before;
        Ok(Completion { aborted, blocked: armed.is_none() || self.device.arming() != armed })
    }

    fn run(&self, job: &[Transfer], notify: Notify) -> Result<(), CopyError> {
        self.engine.lock().start(job, notify)?;
        self.wait(notify)?;
        self.engine.lock().outcome()
    }

    fn take_turn(&self) {
        let try_take = || (!self.taken.swap(true, Ordering::Acquire)).then_some(());
        // A program that is being ended waits for its turn all the same, by yielding: the turn before it is bounded.
        while self.waiters.wait_until(None, try_take) == Err(WaitError::Interrupted) {
            crate::sched::yield_now();
        }
    }

    /// Waits for the end of the transfer, in any case: the memory is the device's until then.
    fn wait(&self, notify: Notify) -> Result<(), CopyError> {
        let deadline = Deadline::in_ns(PATIENCE_NS);
        let is_done = || self.engine.lock().is_done().then_some(());
        if notify == Notify::Interrupt {
            let look = || Some(crate::sched::time::now() + LOOK_NS);
            loop {
                match self.waiters.wait_until(look(), is_done) {
                    Ok(()) => return Ok(()),
                    Err(WaitError::TimedOut) if deadline.passed() => return Err(CopyError::TimedOut),
                    Err(WaitError::TimedOut) => {}
                    Err(WaitError::Interrupted) => break,
                }
            }
        }
        while is_done().is_none() {
            if deadline.passed() {
                return Err(CopyError::TimedOut);
            }
            crate::sched::yield_now();
        }
        Ok(())
    }
}

impl BoundDevice for DmaEngineDevice {
    fn publish(&'static self, check: bool) {
        let name = self.device.name();
        if check && let Err(error) = trace::without(|| loopback::check(self)) {
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
