//! The scheduler: one run queue for all CPUs, round robin with a fixed time slice.
//!
//! # Rules
//!
//! - The kernel is not preemptible: a context switch happens when a thread blocks, exits or yields, or before
//!   it returns to user space with its time slice used up ([`preempt`]). The thread must hold no lock then.
//! - [`SCHEDULER`] is a [`SpinLock`], so interrupts are masked while it is held. Interrupt handlers acquire
//!   it to wake threads ([`unpark`], [`on_timer`]); they never switch contexts, and a wakeup never allocates.
//! - The lock is held across a context switch and released by the next thread ([`finish_switch`]). A thread
//!   in the run queue therefore always has its registers saved.
//! - A sleeping thread is woken by the timer of the CPU on which it went to sleep. That timer is never set
//!   later than the first deadline of its sleepers.
//! - A CPU without a runnable thread waits in WFI and is marked in `idle`; making a thread ready sends a
//!   reschedule IPI to one of these CPUs.
//! - A signal or a termination sends a reschedule IPI to the CPU that runs the thread, which checks its
//!   requests before it returns to user space ([`has_requests`]).

pub mod alarm;
mod mutex;
mod run_queue;
mod schedule;
mod thread;
pub mod time;
pub mod wait;

pub use mutex::{Mutex, MutexGuard};
pub use run_queue::Nanoseconds;
pub use schedule::Schedule;
pub use thread::{EnterUser, OutOfMemory, Thread, UserThread};
pub use wait::{WaitError, WaitQueue};

use crate::board::TimerInterrupts;
use crate::debug::{self, FailPoint};
use crate::irq;
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sync::{SpinLock, SpinLockGuard};
use addr::KernelVa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::context::Context;
use arch::cpu::mask_irqs;
use arch::exception::UserFrame;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use drivers::interrupts::Interrupt;
use run_queue::RunQueue;
use spin::Once;
use thread::Entry;
use time::Ticks;

static SCHEDULER: SpinLock<Scheduler> = SpinLock::new(Scheduler { queue: RunQueue::new(), idle: 0 });

struct Scheduler {
    queue: RunQueue<Arc<Thread>>,
    /// A bit for each idle CPU that has not been sent a reschedule IPI.
    idle: u64,
}

type Guard = SpinLockGuard<'static, Scheduler>;

/// The scheduler state of a CPU. Only that CPU acquires the lock.
struct CpuState {
    current: Option<Arc<Thread>>,
    /// The thread before the context switch, until its registers are saved.
    previous: Option<Arc<Thread>>,
    idle: Option<Arc<Thread>>,
}

static CPU_STATE: PerCpu<SpinLock<CpuState>> =
    PerCpu::new([const { SpinLock::new(CpuState { current: None, previous: None, idle: None }) }; MAX_CPUS]);
/// The running thread of each CPU, `CpuState::current`, without a lock since every system call reads it. Null
/// before [`run`].
static CURRENT: PerCpu<AtomicPtr<Thread>> =
    PerCpu::new([const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS]);
/// The idle thread of each CPU.
static IDLE: PerCpu<Once<Arc<Thread>>> = PerCpu::new([const { Once::new() }; MAX_CPUS]);
/// A bit for each CPU in [`run`].
static RUNNING: AtomicU64 = AtomicU64::new(0);
/// The end of each CPU's time slice, in counter ticks, since every return to user space compares it with the
/// counter.
static SLICE_END: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(NEVER) }; MAX_CPUS]);
/// The end of the time slice of an idle CPU.
const NEVER: Ticks = Ticks::MAX;

/// Creates a kernel thread that runs `entry` and exits.
pub fn spawn(name: &'static str, entry: impl FnOnce() + Send + 'static) -> Result<Arc<Thread>, OutOfMemory> {
    spawn_thread(name, None, Entry::Kernel(Box::new(entry))).inspect(make_ready)
}

/// Creates a thread of a process, which calls `enter` with `frame`. It does not run before [`make_ready`].
///
/// # Safety
/// `frame` must be valid for `enter`.
pub unsafe fn new_user_thread(
    user: Arc<dyn UserThread>,
    frame: UserFrame,
    enter: EnterUser,
) -> Result<Arc<Thread>, OutOfMemory> {
    spawn_thread("program", Some(user), Entry::User(Box::new(frame), enter))
}

fn spawn_thread(
    name: &'static str,
    user: Option<Arc<dyn UserThread>>,
    entry: Entry,
) -> Result<Arc<Thread>, OutOfMemory> {
    let thread = Arc::new(Thread::new(name, user, entry, start)?);
    if debug::fail_point(FailPoint::Heap) {
        return Err(OutOfMemory);
    }
    SCHEDULER.lock().queue.reserve().map_err(|_| OutOfMemory)?;
    Ok(thread)
}

/// Adds a new thread to the run queue.
pub fn make_ready(thread: &Arc<Thread>) {
    let mut scheduler = SCHEDULER.lock();
    scheduler.queue.push(thread.clone());
    kick_idle_cpu(&mut scheduler);
}

/// Discards a thread that was never made ready.
pub fn discard(_: Arc<Thread>) {
    SCHEDULER.lock().queue.release();
}

/// Returns the time for which `thread` ran.
pub fn cpu_time(thread: &Thread) -> Nanoseconds {
    let _scheduler = SCHEDULER.lock();
    arch::timer::ticks_to_ns(thread.cpu_time.get(arch::timer::now()))
}

/// Returns whether `thread` runs or waits for a CPU.
pub fn is_runnable(thread: &Thread) -> bool {
    let _scheduler = SCHEDULER.lock();
    thread.wait_state.is_runnable()
}

/// Returns the time for which a CPU was idle.
pub fn idle_time(cpu: usize) -> Nanoseconds {
    IDLE.of(cpu).get().map_or(0, |idle| cpu_time(idle))
}

/// Returns the number of threads that run or wait for a CPU.
pub fn runnable() -> usize {
    let scheduler = SCHEDULER.lock();
    scheduler.queue.ready() + (running_cpus() & !scheduler.idle).count_ones() as usize
}

/// Returns the number of threads that have not exited.
pub fn threads() -> usize {
    SCHEDULER.lock().queue.threads()
}

/// Returns a bit for each CPU that runs threads.
pub fn running_cpus() -> u64 {
    RUNNING.load(Ordering::Relaxed)
}

/// Returns the running thread of this CPU.
pub fn current() -> Arc<Thread> {
    try_current().unwrap_or_else(|| panic!("CPU {} runs no thread yet", arch::cpu::index()))
}

/// Returns the running thread of this CPU; `None` before its first one, and on a host.
pub fn try_current() -> Option<Arc<Thread>> {
    let current = CURRENT.this().load(Ordering::Relaxed).cast_const();
    if current.is_null() {
        return None;
    }
    // SAFETY: the pointer of an `Arc` that `CpuState` holds. Its owner does not change before the calling
    // thread, which is that thread, waits or yields.
    unsafe {
        Arc::increment_strong_count(current);
        Some(Arc::from_raw(current))
    }
}

/// Calls `read` with the running thread; `None` before [`run`]. `read` must not block.
fn with_current<R>(read: impl FnOnce(&Thread) -> R) -> Option<R> {
    let current = CURRENT.this().load(Ordering::Relaxed);
    // SAFETY: null, or as in `current`.
    unsafe { current.as_ref() }.map(read)
}

/// Returns whether the running thread must exit instead of continuing a long operation.
pub fn is_interrupted() -> bool {
    with_current(Thread::is_interrupted).unwrap_or(false)
}

/// Returns whether the running thread must not return to user space before it looked for signals or exited.
#[inline]
pub fn has_requests() -> bool {
    with_current(Thread::has_requests).unwrap_or(false)
}

/// Returns whether this CPU runs threads: it is past its boot.
fn is_running() -> bool {
    running_cpus() & this_cpu() != 0
}

/// Moves the calling thread to the end of the run queue.
pub fn yield_now() {
    let _irqs = mask_irqs();
    reschedule(SCHEDULER.lock());
}

/// Blocks until [`unpark`] or the deadline; returns immediately if `unpark` was called before. A wakeup may
/// be spurious or meant for an earlier wait: the caller must check its condition again.
pub fn park(deadline: Option<Nanoseconds>) {
    let _irqs = mask_irqs();
    let thread = current();
    let mut scheduler = SCHEDULER.lock();
    if !thread.wait_state.sleep() {
        return;
    }
    if let Some(deadline) = deadline {
        scheduler.queue.add_sleeper(thread, deadline, arch::cpu::index());
    }
    reschedule(scheduler);
}

/// Wakes a thread from [`park`], or makes its next `park` return immediately.
pub fn unpark(thread: &Arc<Thread>) {
    wake(&mut SCHEDULER.lock(), thread);
}

fn wake(scheduler: &mut Scheduler, thread: &Arc<Thread>) {
    if thread.wait_state.wake() {
        let sleeper = scheduler.queue.remove_sleeper(|other| Arc::ptr_eq(other, thread));
        scheduler.queue.push(sleeper.unwrap_or_else(|| thread.clone()));
        kick_idle_cpu(scheduler);
    }
}

/// Makes `thread` check its requests, which are set already: wakes it, or interrupts the CPU that runs it. A
/// program without system calls would check them at the end of its time slice only; a thread that is not
/// running checks them before it enters user space.
fn wake_for_request(thread: &Arc<Thread>) {
    let mut scheduler = SCHEDULER.lock();
    wake(&mut scheduler, thread);
    if let Some(cpu) = other_cpu_of(thread) {
        irq::send_reschedule(cpu);
    }
}

/// Returns the CPU, other than this one, that runs `thread`. The scheduler's lock must be held.
fn other_cpu_of(thread: &Arc<Thread>) -> Option<usize> {
    let runs =
        |current: &AtomicPtr<Thread>| current.load(Ordering::Relaxed).cast_const() == Arc::as_ptr(thread);
    CURRENT.iter().position(runs).filter(|&cpu| cpu != arch::cpu::index())
}

/// Sleeps until `deadline`, or until the process is terminated.
pub fn sleep_until(deadline: Nanoseconds) -> Result<(), WaitError> {
    sleep(deadline, Thread::is_interrupted)
}

/// As [`sleep_until`], also for a process that is being killed: for the time that hardware needs.
pub fn sleep_through(deadline: Nanoseconds) {
    // Only the condition ends it early.
    let _ = sleep(deadline, |_| false);
}

/// As [`sleep_until`]; a deliverable signal ends the sleep too.
pub fn sleep_until_signal(deadline: Nanoseconds) -> Result<(), WaitError> {
    sleep(deadline, Thread::is_signalled)
}

fn sleep(deadline: Nanoseconds, must_end: impl Fn(&Thread) -> bool) -> Result<(), WaitError> {
    let thread = current();
    while time::now() < deadline {
        if must_end(&thread) {
            return Err(WaitError::Interrupted);
        }
        park(Some(deadline));
    }
    Ok(())
}

/// Makes the running thread look for signals before it returns to user space.
pub fn check_signals() {
    with_current(Thread::set_signalled);
}

/// Makes `thread` check for signals: immediately if it waits on behalf of its program or runs in user space,
/// else before it returns to user space.
pub fn notify(thread: &Arc<Thread>) {
    // Before the wakeup, as in `interrupt`.
    thread.set_signalled();
    wake_for_request(thread);
}

/// Makes the current and all later waits of `thread` fail with [`WaitError::Interrupted`], and the thread
/// exit instead of running in user space.
pub fn interrupt(thread: &Arc<Thread>) {
    // Before the wakeup: the thread checks the flag between its wakeup and its next wait.
    thread.set_interrupted();
    wake_for_request(thread);
}

/// Terminates the calling thread, which must own no resources.
pub fn exit() -> ! {
    // Not restored: this function does not return.
    core::mem::forget(mask_irqs());
    let mut scheduler = SCHEDULER.lock();
    current().wait_state.exit();
    scheduler.queue.release();
    reschedule(scheduler);
    panic!("an exited thread was scheduled");
}

/// Turns the boot context of this CPU into its idle thread, and runs the scheduler. Called once on each CPU,
/// after its interrupts and timer are initialized.
pub fn run() -> ! {
    let idle = Arc::new(Thread::on_boot_stack("idle", None));
    idle.cpu_time.start(arch::timer::now());
    IDLE.this().call_once(|| idle.clone());
    {
        let mut local = CPU_STATE.this().lock();
        assert!(local.current.is_none(), "CPU {} already runs threads", arch::cpu::index());
        (local.current, local.idle) = (Some(idle.clone()), Some(idle.clone()));
    }
    CURRENT.this().store(Arc::as_ptr(&idle).cast_mut(), Ordering::Relaxed);
    RUNNING.fetch_or(this_cpu(), Ordering::Relaxed);
    // SAFETY: no guard exists on this stack, which is the first of this CPU; the lock above is released.
    unsafe { arch::cpu::unmask_irqs() };
    loop {
        let _irqs = mask_irqs();
        reschedule(SCHEDULER.lock());
        // An interrupt from here on ends the WFI immediately, and is taken when interrupts are unmasked.
        if mark_idle() {
            arch::cpu::wfi();
            arch::irqsoff::exclude();
        }
    }
}

/// The handler of the timer interrupt.
struct TimerHandler;

impl irq::Handler for TimerHandler {
    fn handle(&self) {
        on_timer();
    }
}

static TIMER: Once<Interrupt> = Once::new();

/// Enables the timer interrupt on the boot CPU. Without it a warning is logged: sleeping threads are not
/// woken, and a program that makes no system call is not preempted.
pub fn init(timer: Option<&TimerInterrupts>) {
    let Some(interrupt) = timer.and_then(|timer| timer.virtual_) else {
        log::warn!("timer: no interrupt in the device tree");
        return;
    };
    TIMER.call_once(|| interrupt);
    if let Err(error) = irq::register(interrupt, &TimerHandler) {
        log::warn!("timer: {error}");
    }
}

/// Enables the timer interrupt on a secondary CPU.
pub fn init_cpu() {
    if let Some(Err(error)) = TIMER.get().map(|&interrupt| irq::enable(interrupt)) {
        log::warn!("timer: cpu {}: {error}", arch::cpu::index());
    }
}

/// Wakes the threads whose deadline has passed.
fn on_timer() {
    alarm::ring_expired();
    let mut scheduler = SCHEDULER.lock();
    let now = time::now();
    while let Some(thread) = scheduler.queue.pop_expired(now) {
        if thread.wait_state.wake() {
            scheduler.queue.push(thread);
            kick_idle_cpu(&mut scheduler);
        }
    }
    set_timer_in_slice(&scheduler);
}

/// Sets this CPU's timer again after a change of its alarms. Interrupts must be masked.
fn update_timer() {
    set_timer_in_slice(&SCHEDULER.lock());
}

/// Sets this CPU's timer in the middle of a time slice. A slice that is used up needs no further interrupt:
/// its thread is in the kernel, and `preempt` runs before it returns to user space.
fn set_timer_in_slice(scheduler: &Scheduler) {
    let slice_end = SLICE_END.this().load(Ordering::Relaxed);
    set_timer(scheduler, (slice_end != NEVER && !time::has_passed(slice_end)).then_some(slice_end));
}

/// Reschedules if the time slice is used up. Called before a return to user space, with interrupts masked.
pub fn preempt() {
    if time::has_passed(SLICE_END.this().load(Ordering::Relaxed)) {
        reschedule(SCHEDULER.lock());
    }
}

/// Yields if the time slice is used up. An operation without a bound calls this, since the kernel is not
/// preemptible: no other thread could run on this CPU, nor terminate the process. No lock may be held.
pub fn yield_if_slice_ended() {
    let _irqs = mask_irqs();
    preempt();
}

/// Marks this CPU idle unless the run queue has a thread; returns whether it did.
fn mark_idle() -> bool {
    let mut scheduler = SCHEDULER.lock();
    if scheduler.queue.is_empty() {
        scheduler.idle |= this_cpu();
        return true;
    }
    false
}

fn this_cpu() -> u64 {
    1 << arch::cpu::index()
}

/// Makes one idle CPU reschedule: this one if it is idle (an interrupt has woken it), else another by a
/// reschedule IPI.
fn kick_idle_cpu(scheduler: &mut Scheduler) {
    if scheduler.idle & this_cpu() != 0 {
        scheduler.idle &= !this_cpu();
    } else if scheduler.idle != 0 {
        let cpu = scheduler.idle.trailing_zeros() as usize;
        scheduler.idle &= !(1 << cpu);
        irq::send_reschedule(cpu);
    }
}

/// Switches to the next thread; returns when the caller is scheduled again. Interrupts must be masked, and no
/// other lock held.
fn reschedule(mut scheduler: Guard) {
    let mut local = CPU_STATE.this().lock();
    let Some((from, to)) = pick_next(&mut scheduler, &mut local) else { return };
    drop(local);
    // Released by `finish_switch`, on the other stack.
    core::mem::forget(scheduler);
    // SAFETY: both contexts are in threads that `CpuState` references (`previous` and `current`), so they
    // stay valid. The scheduler's lock is held, so no other CPU accesses them. Interrupts are masked.
    unsafe { arch::context::switch(from, to) };
    finish_switch();
}

/// Picks the next thread, and returns the contexts of the caller and of that thread, unless they are the same
/// thread.
fn pick_next(scheduler: &mut Scheduler, local: &mut CpuState) -> Option<(*mut Context, *const Context)> {
    let (current, idle) = (local.current.clone()?, local.idle.clone()?);
    scheduler.idle &= !this_cpu();
    let runnable = current.wait_state.is_runnable();
    let next = match scheduler.queue.pop() {
        Some(next) => next,
        None if runnable => current.clone(),
        None => idle.clone(),
    };
    let slice_end = (!Arc::ptr_eq(&next, &idle)).then(time::slice_end);
    SLICE_END.this().store(slice_end.unwrap_or(NEVER), Ordering::Relaxed);
    // Also if the slice is used up already, as after a pause of the virtual CPU: nothing else compares it
    // before the next interrupt.
    set_timer(scheduler, slice_end);
    if Arc::ptr_eq(&next, &current) {
        return None;
    }
    if runnable && !Arc::ptr_eq(&current, &idle) {
        scheduler.queue.push(current.clone());
    }
    switch_user(current.user(), next.user());
    let now = arch::timer::now();
    current.cpu_time.stop(now);
    next.cpu_time.start(now);
    let contexts = (current.context(), next.context().cast_const());
    CURRENT.this().store(Arc::as_ptr(&next).cast_mut(), Ordering::Relaxed);
    (local.previous, local.current) = (Some(current), Some(next));
    Some(contexts)
}

/// Switches the registers that only user space uses, and the address space.
fn switch_user(from: Option<&dyn UserThread>, to: Option<&dyn UserThread>) {
    if let Some(from) = from {
        from.save();
        // EL0 may execute cache maintenance, and only a DSB of the same CPU completes it (DDI 0487, D7.5):
        // the thread may continue on another CPU.
        arch::barrier::dsb_ish();
    }
    match to {
        Some(to) => to.restore(),
        None if from.is_some() => arch::mmu::uninstall_user(),
        None => {}
    }
}

/// Sets this CPU's timer to the end of its time slice, the first deadline or the first alarm, whichever is
/// earliest.
fn set_timer(scheduler: &Scheduler, slice_end: Option<Ticks>) {
    let deadline = scheduler.queue.next_deadline(arch::cpu::index());
    time::interrupt_at(slice_end, deadline.into_iter().chain(alarm::next()).min());
}

/// Completes a context switch on the new stack: the registers of the previous thread are saved now.
fn finish_switch() {
    // SAFETY: this CPU has held the lock since `reschedule`, which forgot the guard.
    unsafe { SCHEDULER.force_unlock() };
    let previous = CPU_STATE.this().lock().previous.take();
    if let Some(exited) = previous.filter(|thread| thread.wait_state.has_exited()) {
        exited.free_stack();
    }
}

/// The first function of a new thread, with interrupts masked.
extern "C" fn start(_: usize) -> ! {
    finish_switch();
    match take_entry() {
        Some((Entry::Kernel(entry), _)) => {
            // SAFETY: this stack is new, and the guard of the switch to it was forgotten (`reschedule`).
            unsafe { arch::cpu::unmask_irqs() };
            entry();
        }
        // Unboxed here, since `enter` does not return to free the box.
        // SAFETY: the caller of `new_user_thread` guarantees the pair; the top is that of this thread's own
        // stack, on which nothing is live.
        Some((Entry::User(frame, enter), Some(stack_top))) => unsafe { enter(unboxed(frame), stack_top) },
        _ => {}
    }
    exit()
}

fn take_entry() -> Option<(Entry, Option<KernelVa>)> {
    let thread = current();
    Some((thread.take_entry()?, thread.stack_top()))
}

fn unboxed(frame: Box<UserFrame>) -> UserFrame {
    *frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::fake::{self, Instruction};

    struct NoRegisters;

    impl UserThread for NoRegisters {
        fn save(&self) {}
        fn restore(&self) {}
        fn has_signal(&self) -> bool {
            false
        }
    }

    #[test]
    fn cache_maintenance_of_a_thread_completes_before_another_runs() {
        let completes = |from: Option<&dyn UserThread>, to: Option<&dyn UserThread>| {
            fake::take();
            switch_user(from, to);
            fake::take().contains(&Instruction::Barrier("dsb_ish"))
        };
        assert!(completes(Some(&NoRegisters), None) && completes(Some(&NoRegisters), Some(&NoRegisters)));
        assert!(!completes(None, Some(&NoRegisters)), "a kernel thread leaves no maintenance incomplete");
    }

    #[test]
    fn only_the_cpu_that_runs_the_thread_is_interrupted() {
        let [running, other] = [0, 1].map(|_| Arc::new(Thread::on_boot_stack("test", None)));
        let run_on = |cpu: usize, thread: *const Thread| {
            CURRENT.of(cpu).store(thread.cast_mut(), Ordering::Relaxed);
        };
        assert_eq!(other_cpu_of(&running), None);
        run_on(2, Arc::as_ptr(&running));
        assert_eq!([&running, &other].map(other_cpu_of), [Some(2), None]);
        run_on(2, core::ptr::null());
        run_on(arch::cpu::index(), Arc::as_ptr(&other));
        assert_eq!(other_cpu_of(&other), None, "this CPU");
        run_on(arch::cpu::index(), core::ptr::null());
    }
}
