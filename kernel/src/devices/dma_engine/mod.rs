//! DMA engines as devices: exclusive access, waiting for completion, and the device node.

mod file;
mod imports;
mod job;
mod loopback;

use super::driver::BoundDevice;
use crate::debug::{self, FailPoint};
use crate::dma::{self, Device, trace};
use crate::fs::File;
use crate::fs::char_device::{self, DeviceClass};
use crate::irq::Handler;
use crate::memory::heap;
use crate::msi::MessageVectors;
use crate::sched::{WaitError, WaitQueue};
use crate::sync::SpinLock;
use abi::Errno;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use arch::timer::Deadline;
use core::iter;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use dma_api::{Attrs, DmaError};
use drivers::dma_engine::{
    self, BUFFER_LEN, CopyError, Gone, NotStopped, Notify, Transfer, TransferDirection,
};
use drivers::poll::poll_until;
use file::DmaEngineFile;
use job::{TransferJob, UnfinishedJob};
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

/// The failure of a job.
#[derive(Clone, Copy)]
struct FailedJob {
    error: CopyError,
    /// The job was started, and the device did not end it.
    may_access_memory: bool,
}

impl From<CopyError> for FailedJob {
    /// A job that was not started, or that has ended.
    fn from(error: CopyError) -> Self {
        Self { error, may_access_memory: false }
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
    /// Changed under exclusive access.
    unfinished: SpinLock<UnfinishedJob>,
    /// Its registers read as all ones: it was removed.
    gone: AtomicBool,
    /// See [`isolated_by`](Self::isolated_by).
    isolate_removed: Box<dyn Fn() -> bool + Send + Sync>,
    /// Threads that wait for exclusive access or for the end of a job.
    waiters: WaitQueue,
    interrupts: AtomicBool,
    /// The message that is its interrupt, unless that is a wire.
    messages: Once<MessageVectors>,
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
            unfinished: SpinLock::new(UnfinishedJob::none()),
            gone: AtomicBool::new(false),
            isolate_removed: Box::new(|| false),
            waiters: WaitQueue::new(),
            interrupts: AtomicBool::new(false),
            messages: Once::new(),
            next: Once::new(),
        }
    }

    /// Sets the function that makes the bus reject the requests of the removed device, and returns whether it
    /// does. Called in a thread, with no spin lock held.
    pub fn isolated_by(self, isolate_removed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { isolate_removed: Box::new(isolate_removed), ..self }
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

    /// [`use_interrupt`](Self::use_interrupt) with the first of `vectors`.
    pub fn use_messages(&self, vectors: MessageVectors) {
        self.messages.call_once(|| vectors);
        self.use_interrupt();
    }

    /// The message that is the engine's interrupt.
    pub fn messages(&self) -> Option<&MessageVectors> {
        self.messages.get()
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
        let notify = match (self.has_interrupt(), self.messages.get()) {
            (_, Some(_)) => "by MSI",
            (true, None) => "by interrupt",
            (false, None) => "polled",
        };
        alloc::format!("{stream}, mask {}, {notify}", self.device.mask())
    }

    /// The name of the driver: that of its device nodes.
    pub fn driver(&self) -> &'static str {
        self.class.name
    }

    /// Whether the device was removed.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || self.is_done().is_err()
    }

    /// Whether the engine may still access the memory of a job that timed out.
    pub fn has_unfinished_job(&self) -> bool {
        self.unfinished.lock().is_some()
    }

    /// Releases the memory of a job that timed out, if the engine no longer accesses it: the engine is done,
    /// or was removed and is isolated. Called in a thread, with no lock held.
    pub fn reclaim(&self) {
        if self.has_unfinished_job() {
            // An error is that of the next job too.
            let _ = self.with_exclusive_access(|| self.take_unfinished());
        }
    }

    /// Runs a transfer and waits for its completion. Called in a thread, with no lock held. After
    /// [`CopyError::NotStopped`], and after [`CopyError::Gone`] unless it is isolated, the device may still
    /// access the transfer's memory.
    ///
    /// # Errors
    /// Those of [`dma_engine::DmaEngine::start`] and [`dma_engine::DmaEngine::outcome`],
    /// [`CopyError::TimedOut`], [`CopyError::NotStopped`].
    pub fn transfer(&self, transfer: Transfer) -> Result<Completion, CopyError> {
        self.with_exclusive_access(|| {
            self.take_unfinished()?;
            self.run_all(&[transfer]).map_err(|failed| failed.error)
        })
    }

    /// Runs the transfers of a job in order for process `user`, after clearing the device's buffer if it
    /// holds another process's data. Returns the job's memory unless the device may still access it: then the
    /// memory is kept until the engine is done.
    ///
    /// # Errors
    /// Those of [`DmaEngineDevice::transfer`], and [`TransferError::Clear`]; the transfers before the failing
    /// one are complete.
    pub fn transfer_for<M: Send + 'static>(
        &self,
        user: u32,
        job: TransferJob<M>,
    ) -> (Option<M>, Result<Completion, TransferError>) {
        self.with_exclusive_access(|| {
            if let Err(error) = self.change_user(user, || self.clear()) {
                return (Some(job.memory), Err(error));
            }
            let (memory, result) = self.run_job(job);
            (memory, result.map_err(TransferError::Copy))
        })
    }

    /// Calls `clear` if the device's buffer holds the data of another process than `user`.
    fn change_user<E>(&self, user: u32, clear: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.last_user.load(Ordering::Relaxed) != user {
            clear()?;
            self.last_user.store(user, Ordering::Relaxed);
        }
        Ok(())
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

    /// Fills the device's buffer with zeroes by a transfer from a new buffer, which is allocated from memory
    /// that the device can access: not all lowmem is.
    fn clear(&self) -> Result<(), TransferError> {
        let zeroes = dma::alloc(&self.device, BUFFER_LEN, Attrs::NO_KERNEL_MAPPING);
        let zeroes = zeroes.map_err(TransferError::Clear)?;
        let (_, done) =
            self.run_job(TransferJob::of_buffer(zeroes, TransferDirection::FromMemory, BUFFER_LEN));
        if done?.is_complete() { Ok(()) } else { Err(CopyError::Failed(0).into()) }
    }

    /// Runs a job under exclusive access.
    fn run_job<M: Send + 'static>(&self, job: TransferJob<M>) -> (Option<M>, Result<Completion, CopyError>) {
        if let Err(error) = self.take_unfinished() {
            return (Some(job.memory), Err(error));
        }
        let result = self.run_all(&job.transfers);
        let may_access_memory = result.is_err_and(|failed| failed.may_access_memory);
        let result = result.map_err(|failed| failed.error);
        if !may_access_memory {
            return (Some(job.memory), result);
        }
        let bytes: u64 = job.transfers.iter().map(Transfer::len).sum();
        log::error!(
            "{}: {bytes} bytes and their buffer stay mapped: the device did not stop",
            self.device.name()
        );
        self.unfinished.lock().keep(job.memory);
        (None, result)
    }

    /// Runs transfers under exclusive access, when no job is unfinished: all accesses aborted meanwhile are
    /// theirs.
    fn run_all(&self, transfers: &[Transfer]) -> Result<Completion, FailedJob> {
        let notify = if self.has_interrupt() { Notify::Interrupt } else { Notify::Poll };
        let (generation, before) = (self.device.arm_generation(), self.device.service_total_faults());
        transfers.chunks(self.max_transfers).try_for_each(|job| self.run(job, notify))?;
        let aborted = self.device.service_total_faults() - before;
        Ok(Completion {
            aborted,
            blocked: generation.is_none() || self.device.arm_generation() != generation,
        })
    }

    /// Releases the memory of an earlier unfinished job, if the engine is done with it, or was removed and is
    /// isolated.
    fn take_unfinished(&self) -> Result<(), CopyError> {
        if self.has_unfinished_job() && self.is_gone() && self.is_isolated() {
            let memory = self.unfinished.lock().take();
            drop(memory);
        }
        let memory = self.unfinished.lock().take_if_done(&**self.engine.lock());
        memory.map(drop)
    }

    /// Whether the removed device no longer accesses memory that is released: an IOMMU aborts its requests to
    /// memory that is unmapped, or a bridge rejects all of them. That its registers read as all ones is no
    /// proof: its requests may still be on their way, or only its BAR is no longer decoded.
    fn is_isolated(&self) -> bool {
        self.device.domain().is_translated() || (self.isolate_removed)()
    }

    fn run(&self, job: &[Transfer], notify: Notify) -> Result<(), FailedJob> {
        self.engine.lock().start(job, notify)?;
        match self.wait(notify) {
            Err(CopyError::TimedOut) => match self.engine.lock().stop() {
                Ok(()) => Err(CopyError::TimedOut.into()),
                Err(NotStopped) => Err(FailedJob { error: CopyError::NotStopped, may_access_memory: true }),
            },
            Err(CopyError::Gone) => {
                Err(FailedJob { error: CopyError::Gone, may_access_memory: !self.is_isolated() })
            }
            result => Ok(result?),
        }?;
        Ok(self.engine.lock().outcome()?)
    }

    fn is_done(&self) -> Result<bool, Gone> {
        self.engine.lock().is_done().inspect_err(|Gone| {
            if !self.gone.swap(true, Ordering::Relaxed) {
                log::error!("{}: removed: its registers read as all ones", self.device.name());
            }
        })
    }

    fn acquire(&self) {
        let try_acquire = || (!self.busy.swap(true, Ordering::Acquire)).then_some(());
        // A terminating process still waits for exclusive access, by yielding: the access before it is
        // bounded.
        while try_acquire().is_none()
            && self.waiters.wait_until(None, try_acquire) == Err(WaitError::Interrupted)
        {
            crate::sched::yield_now();
        }
    }

    /// Waits for the end of the job, even in a terminating process: until then the device owns the memory.
    fn wait(&self, notify: Notify) -> Result<(), CopyError> {
        let deadline = Deadline::in_ns(TIMEOUT_NS);
        let end = || match self.is_done() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(Gone) => Some(Err(CopyError::Gone)),
        };
        if notify == Notify::Interrupt {
            let next_poll = || Some(crate::sched::time::now() + POLL_INTERVAL_NS);
            // No `poll_until`: the thread sleeps until an interrupt, and polls in between in case one is
            // lost.
            loop {
                match self.waiters.wait_until(next_poll(), end) {
                    Ok(result) => return result,
                    Err(WaitError::TimedOut) if deadline.passed() => return Err(CopyError::TimedOut),
                    Err(WaitError::TimedOut) => {}
                    Err(WaitError::Interrupted) => break,
                }
            }
        }
        let poll = || {
            end().or_else(|| {
                crate::sched::yield_now();
                None
            })
        };
        poll_until(|| deadline.passed(), poll).unwrap_or(Err(CopyError::TimedOut))
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
        let open = move || {
            let file: Box<dyn File> = heap::try_box(DmaEngineFile::new(self)?).ok_or(Errno::ENOMEM)?;
            Ok(file)
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{AddrRange, Iova};
    use alloc::vec::Vec;
    use drivers::direct::BusWindow;
    use drivers::dma_engine::TransferDirection;
    use program::PendingFence;

    static CLASS: DeviceClass = DeviceClass { name: "fake", major: 0 };

    /// An engine that calls its function for each poll of a job; the others are the results of a start, of a
    /// stop and of a job that ended.
    struct FakeEngine<F> {
        starts: Arc<SpinLock<Result<(), CopyError>>>,
        poll: F,
        stop: Result<(), NotStopped>,
        outcome: Result<(), CopyError>,
    }

    impl<F: Fn() -> Result<bool, Gone> + Send> dma_engine::DmaEngine for FakeEngine<F> {
        fn max_transfers(&self) -> usize {
            1
        }
        fn start(&mut self, _: &[Transfer], _: Notify) -> Result<(), CopyError> {
            *self.starts.lock()
        }
        fn is_done(&self) -> Result<bool, Gone> {
            (self.poll)()
        }
        fn stop(&mut self) -> Result<(), NotStopped> {
            self.stop
        }
        fn outcome(&mut self) -> Result<(), CopyError> {
            self.outcome
        }
        fn acknowledge(&mut self) -> bool {
            false
        }
    }

    pub(super) fn device() -> Arc<Device> {
        Device::direct("fake".into(), true, Vec::from([BusWindow::identity()]))
    }

    pub(super) fn engine(
        device: &Arc<Device>,
        starts: &Arc<SpinLock<Result<(), CopyError>>>,
        poll: impl Fn() -> Result<bool, Gone> + Send + 'static,
    ) -> DmaEngineDevice {
        let (stop, outcome) = (Err(NotStopped), Ok(()));
        let engine = FakeEngine { starts: starts.clone(), poll, stop, outcome };
        DmaEngineDevice::new(&CLASS, device.clone(), engine)
    }

    pub(super) fn job<M>(memory: M) -> TransferJob<M> {
        let range = AddrRange::new(Iova::new(0x1000), Iova::new(0x1010));
        // SAFETY: the fake engine accesses no memory.
        let transfer = unsafe { Transfer::new(TransferDirection::ToMemory, range, 0) };
        TransferJob { transfers: Vec::from([transfer]), memory }
    }

    pub(super) fn started() -> Arc<SpinLock<Result<(), CopyError>>> {
        Arc::new(SpinLock::new(Ok(())))
    }

    /// Lost events are not counted: only the generation of the arming shows that the IOMMU may have aborted
    /// accesses of the copy.
    #[test]
    fn copy_is_complete_only_if_the_device_stayed_armed() {
        type Meanwhile = fn(&Device);
        let nothing: Meanwhile = |_| ();
        let block: Meanwhile = |device| device.block().unwrap();
        let rearm: Meanwhile = |device| device.block().and_then(|()| device.unblock()).unwrap();
        for (meanwhile, complete) in [(nothing, true), (block, false), (rearm, false)] {
            let device = device();
            let of_engine = device.clone();
            let engine = engine(&device, &started(), move || {
                meanwhile(&of_engine);
                Ok(true)
            });
            let (memory, result) = engine.run_job(job(()));
            assert_eq!(result, Ok(Completion { aborted: 0, blocked: !complete }));
            assert_eq!((memory, result.unwrap().is_complete()), (Some(()), complete));
        }
        let blocked = device();
        blocked.block().unwrap();
        let (_, result) = engine(&blocked, &started(), || Ok(true)).run_job(job(()));
        assert!(result.is_ok_and(|done| !done.is_complete()), "not armed from the start");
    }

    /// Its fence is signalled with the memory that the engine returns, or when the kept memory is released.
    #[test]
    fn fence_of_an_access_is_pending_until_the_engine_is_done() {
        let pending = || PendingFence::new(1, "fake", "", || 1, heap::try_arc).unwrap();
        let (first, second) = (pending(), pending());
        let fences = [first.fence().clone(), second.fence().clone()];
        let state = || fences.each_ref().map(|fence| fence.signal().map(|signal| signal.error));
        let (device, done) = (device(), Arc::new(SpinLock::new(Ok(true))));
        let (observed, of_engine) = (fences[0].clone(), done.clone());
        let engine = engine(&device, &started(), move || {
            assert!(observed.signal().is_none(), "signalled while the engine runs");
            *of_engine.lock()
        });
        let (returned, result) = engine.run_job(job(first));
        assert_eq!((result.is_ok(), state()), (true, [None, None]));
        *done.lock() = Err(Gone);
        assert!(engine.run_job(job(second)).0.is_none(), "the engine may still access the memory");
        assert_eq!(state(), [None, None]);
        *done.lock() = Ok(true);
        assert!(engine.take_unfinished().is_ok());
        assert_eq!(state(), [None, Some(Errno::EIO.number())]);
        returned.into_iter().for_each(|fence| fence.signal(Ok(())));
        assert_eq!(state(), [Some(0), Some(Errno::EIO.number())]);
    }

    #[test]
    fn only_a_stopped_engine_returns_the_memory_of_a_job_that_timed_out() {
        for (stop, error) in [(Ok(()), CopyError::TimedOut), (Err(NotStopped), CopyError::NotStopped)] {
            let poll = || {
                arch::fake::advance(arch::timer::ns_to_ticks(TIMEOUT_NS));
                Ok(false)
            };
            let engine = FakeEngine { starts: started(), poll, stop, outcome: Ok(()) };
            let engine = DmaEngineDevice::new(&CLASS, device(), engine);
            let (returned, result) = engine.run_job(job(()));
            assert_eq!((returned.is_some(), result), (stop.is_ok(), Err(error)));
            assert_eq!(engine.has_unfinished_job(), stop.is_err());
        }
    }

    /// The device's buffer has the data of the last process until it is cleared.
    #[test]
    fn process_has_no_access_before_the_buffer_is_cleared() {
        let engine = engine(&device(), &started(), || Ok(true));
        assert_eq!(engine.change_user(6, || Ok::<_, ()>(())), Ok(()));
        for _ in 0..2 {
            assert_eq!(engine.change_user(7, || Err(())), Err(()), "not cleared");
        }
        assert_eq!(engine.change_user(6, || Err(())), Ok(()), "its own data");
        assert_eq!(engine.change_user(7, || Ok::<_, ()>(())), Ok(()));
        assert_eq!(engine.change_user(7, || Err(())), Ok(()), "cleared already");
    }

    #[test]
    fn error_of_an_ended_job_is_returned_with_its_memory() {
        let outcome = Err(CopyError::Failed(7));
        let engine = FakeEngine { starts: started(), poll: || Ok(true), stop: Ok(()), outcome };
        let engine = DmaEngineDevice::new(&CLASS, device(), engine);
        assert_eq!(engine.run_job(job(())), (Some(()), Err(CopyError::Failed(7))));
    }

    /// A removed device that is not isolated may still access the memory of the job that it had started.
    #[test]
    fn removed_device_keeps_the_memory_of_its_last_job_only() {
        let (memory, later) = (Arc::new(()), Arc::new(()));
        let device = device();
        let starts = started();
        let engine = engine(&device, &starts, || Err(Gone));
        let (returned, result) = engine.run_job(job(memory.clone()));
        assert_eq!((returned, result), (None, Err(CopyError::Gone)));
        for _ in 0..2 {
            let (returned, result) = engine.run_job(job(later.clone()));
            assert_eq!((returned, result), (Some(later.clone()), Err(CopyError::Gone)));
            assert_eq!((Arc::strong_count(&memory), Arc::strong_count(&later)), (2, 1));
        }
        assert!(engine.has_unfinished_job());
        // A device that was removed before the first job.
        let engine = self::engine(&device, &starts, || Err(Gone));
        *starts.lock() = Err(CopyError::Gone);
        assert_eq!(engine.run_job(job(later.clone())).0, Some(later));
        assert!(!engine.has_unfinished_job());
    }

    #[test]
    fn memory_of_a_removed_device_is_released_once_it_is_isolated() {
        let (memory, later) = (Arc::new(()), Arc::new(()));
        let isolated = Arc::new(AtomicBool::new(false));
        let by_bridge = isolated.clone();
        let (device, starts) = (device(), started());
        let engine = engine(&device, &starts, || Err(Gone));
        let engine = engine.isolated_by(move || by_bridge.load(Ordering::Relaxed));
        assert_eq!(engine.run_job(job(memory.clone())), (None, Err(CopyError::Gone)));
        isolated.store(true, Ordering::Relaxed);
        assert_eq!(Arc::strong_count(&memory), 2, "kept: not isolated yet");
        assert_eq!(engine.run_job(job(later.clone())), (Some(later.clone()), Err(CopyError::Gone)));
        assert_eq!(Arc::strong_count(&memory), 1, "released by the next job");
        assert!(!engine.has_unfinished_job());
        assert_eq!(engine.run_job(job(memory.clone())), (Some(memory.clone()), Err(CopyError::Gone)));
        isolated.store(false, Ordering::Relaxed);
        assert!(engine.run_job(job(memory.clone())).0.is_none());
        engine.reclaim();
        assert_eq!(Arc::strong_count(&memory), 2, "kept: not isolated yet");
        isolated.store(true, Ordering::Relaxed);
        engine.reclaim();
        assert_eq!((Arc::strong_count(&memory), engine.has_unfinished_job()), (1, false));
    }

    /// A job that timed out while the device responded is a running one: its memory is not released because
    /// the bus could isolate the device.
    #[test]
    fn device_that_responds_is_not_isolated() {
        let (device, starts) = (device(), started());
        let engine = engine(&device, &starts, || Ok(false));
        let engine = engine.isolated_by(|| unreachable!("isolates a device that is in use"));
        let memory = Arc::new(());
        engine.unfinished.lock().keep(memory.clone());
        let (returned, result) = engine.run_job(job(()));
        assert_eq!((returned, result), (Some(()), Err(CopyError::Busy)));
        assert_eq!(Arc::strong_count(&memory), 2);
    }
}
