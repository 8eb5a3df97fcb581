//! Threads in turn on all CPUs: one line of ready threads, a time slice each.
//!
//! # Rules
//!
//! - The kernel is not preempted: a thread leaves the CPU when it waits, ends or yields, or on its way back to its
//!   program when its slice is over ([`preempt`]). So it may hold no lock then.
//! - [`SCHEDULER`] is a [`SpinLock`], so interrupts are masked while it is held. Interrupt handlers take it too, to
//!   wake threads ([`unpark`], [`on_timer`]); they never switch, and waking never allocates.
//! - The lock stays held across a switch: the thread that goes on releases it ([`finish_switch`]). So nobody ever
//!   takes a thread out of the line whose registers are not saved yet.
//! - A sleeper is woken by the timer of the CPU that it fell asleep on, which is never set later than the first of these
//!   deadlines.
//! - Without anything to run a CPU waits in WFI, marked in `idle`; who makes a thread ready sends one of these CPUs
//!   an interrupt.

mod run_queue;
mod thread;
pub mod time;
pub mod wait;

pub use run_queue::Nanoseconds;
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
use arch::exception::TrapFrame;
use core::sync::atomic::{AtomicU64, Ordering};
use drivers::interrupts::Interrupt;
use run_queue::RunQueue;
use spin::Once;
use thread::Entry;
use time::Ticks;

static SCHEDULER: SpinLock<Scheduler> = SpinLock::new(Scheduler { queue: RunQueue::new(), idle: 0 });

struct Scheduler {
    queue: RunQueue<Arc<Thread>>,
    /// A bit for each CPU that waits in WFI and has not been sent an interrupt.
    idle: u64,
}

type Guard = SpinLockGuard<'static, Scheduler>;

/// What a CPU is doing. Its lock is only ever taken by its own CPU.
struct CpuState {
    current: Option<Arc<Thread>>,
    /// Who ran before, until its registers are known to be saved.
    previous: Option<Arc<Thread>>,
    idle: Option<Arc<Thread>>,
}

static CPU_STATE: PerCpu<SpinLock<CpuState>> =
    PerCpu::new([const { SpinLock::new(CpuState { current: None, previous: None, idle: None }) }; MAX_CPUS]);
/// A bit for each CPU in [`run`].
static RUNNING: AtomicU64 = AtomicU64::new(0);
/// When each CPU's slice is over, in ticks of the counter, since every way back to a program looks at it.
static SLICE_END: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(NEVER) }; MAX_CPUS]);
/// The slice of a CPU that waits.
const NEVER: Ticks = Ticks::MAX;

/// Makes a thread that runs `entry` and ends.
pub fn spawn(name: &'static str, entry: impl FnOnce() + Send + 'static) -> Result<Arc<Thread>, OutOfMemory> {
    spawn_thread(name, None, Entry::Kernel(Box::new(entry))).inspect(make_ready)
}

/// Makes a thread of a process, which calls `enter` with `frame`. It does not run before [`make_ready`].
///
/// # Safety
/// `enter` may enter user space with `frame`.
pub unsafe fn new_user_thread(
    user: Arc<dyn UserThread>,
    frame: TrapFrame,
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

/// Lets a new thread run.
pub fn make_ready(thread: &Arc<Thread>) {
    let mut scheduler = SCHEDULER.lock();
    scheduler.queue.push(thread.clone());
    kick(&mut scheduler);
}

/// Gives up a thread that was never made ready.
pub fn discard(_: Arc<Thread>) {
    SCHEDULER.lock().queue.release();
}

/// Threads that have not ended.
pub fn threads() -> usize {
    SCHEDULER.lock().queue.threads()
}

/// A bit for each CPU that runs threads.
pub fn running_cpus() -> u64 {
    RUNNING.load(Ordering::Relaxed)
}

/// The thread that this CPU runs.
pub fn current() -> Arc<Thread> {
    match &CPU_STATE.this().lock().current {
        Some(thread) => thread.clone(),
        None => panic!("CPU {} runs no thread yet", arch::cpu::index()),
    }
}

/// Whether threads run on this CPU yet.
pub fn is_running() -> bool {
    CPU_STATE.this().lock().current.is_some()
}

/// Lets the others in the line run first.
pub fn yield_now() {
    let _irqs = mask_irqs();
    reschedule(SCHEDULER.lock());
}

/// Waits until somebody calls [`unpark`], or the deadline passes; returns at once if that was before. Callers have a
/// condition of their own, and look at it again: a call may have been for an earlier wait.
pub fn park(deadline: Option<Nanoseconds>) {
    let _irqs = mask_irqs();
    let thread = current();
    let mut scheduler = SCHEDULER.lock();
    if !thread.wait_state.sleep() {
        return;
    }
    if let Some(deadline) = deadline {
        scheduler.queue.sleep(thread, deadline, arch::cpu::index());
    }
    reschedule(scheduler);
}

/// Ends a wait in [`park`], or the next one before it starts.
pub fn unpark(thread: &Arc<Thread>) {
    let mut scheduler = SCHEDULER.lock();
    if thread.wait_state.wake() {
        let sleeper = scheduler.queue.wake(|other| Arc::ptr_eq(other, thread));
        scheduler.queue.push(sleeper.unwrap_or_else(|| thread.clone()));
        kick(&mut scheduler);
    }
}

/// Sleeps until `deadline`, or until the program is ended.
pub fn sleep_until(deadline: Nanoseconds) -> Result<(), WaitError> {
    let thread = current();
    while time::now() < deadline {
        if thread.is_interrupted() {
            return Err(WaitError::Interrupted);
        }
        park(Some(deadline));
    }
    Ok(())
}

/// Makes the current wait of `thread` and all later ones fail with [`WaitError::Interrupted`].
pub fn interrupt(thread: &Arc<Thread>) {
    // Before the wakeup: the thread checks the flag between its wakeup and its next wait.
    thread.set_interrupted();
    unpark(thread);
}

/// Ends the thread that calls it. It must own nothing any more.
pub fn exit() -> ! {
    // Not restored: nothing comes after.
    core::mem::forget(mask_irqs());
    let mut scheduler = SCHEDULER.lock();
    current().wait_state.exit();
    scheduler.queue.release();
    reschedule(scheduler);
    panic!("a thread ran after its end");
}

/// Makes what this CPU has been doing its idle thread, and runs the others. Called once on each CPU, when interrupts
/// and the timer work.
pub fn run() -> ! {
    let idle = Arc::new(Thread::on_boot_stack("idle", None));
    {
        let mut local = CPU_STATE.this().lock();
        assert!(local.current.is_none(), "CPU {} already runs threads", arch::cpu::index());
        (local.current, local.idle) = (Some(idle.clone()), Some(idle));
    }
    RUNNING.fetch_or(this_cpu(), Ordering::Relaxed);
    arch::cpu::unmask_irqs();
    loop {
        let _irqs = mask_irqs();
        reschedule(SCHEDULER.lock());
        // An interrupt that comes from here on ends the WFI at once, and is taken when the mask ends.
        if mark_idle() {
            arch::cpu::wfi();
        }
    }
}

/// The timer interrupt's handler.
struct OnTimer;

impl irq::Handler for OnTimer {
    fn handle(&self) {
        on_timer();
    }
}

static TIMER: Once<Interrupt> = Once::new();

/// Takes the timer's interrupts on the boot CPU. Without a timer nobody sleeps, and a program that never calls the
/// kernel keeps its CPU; which is said.
pub fn init(timer: Option<&TimerInterrupts>) {
    let Some(interrupt) = timer.and_then(|timer| timer.virtual_) else {
        log::warn!("timer: the device tree names no interrupt");
        return;
    };
    TIMER.call_once(|| interrupt);
    if let Err(error) = irq::register(interrupt, &OnTimer) {
        log::warn!("timer: {error}");
    }
}

/// Takes the timer's interrupts on another CPU.
pub fn init_cpu() {
    if let Some(Err(error)) = TIMER.get().map(|&interrupt| irq::enable(interrupt)) {
        log::warn!("timer: cpu {}: {error}", arch::cpu::index());
    }
}

/// Wakes whose time has come.
fn on_timer() {
    let mut scheduler = SCHEDULER.lock();
    let now = time::now();
    while let Some(thread) = scheduler.queue.pop_expired(now) {
        if thread.wait_state.wake() {
            scheduler.queue.push(thread);
            kick(&mut scheduler);
        }
    }
    // A slice that is over needs no interrupt any more: its thread is in the kernel, and is asked on its way out.
    let slice_end = SLICE_END.this().load(Ordering::Relaxed);
    set_timer(&scheduler, (slice_end != NEVER && !time::is_over(slice_end)).then_some(slice_end));
}

/// On the way back to a program: lets others run when the slice is over. Interrupts are masked.
pub fn preempt() {
    if time::is_over(SLICE_END.this().load(Ordering::Relaxed)) {
        reschedule(SCHEDULER.lock());
    }
}

/// Sets `idle` unless somebody is ready.
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

/// Sends one waiting CPU to the line: this one if it is (then an interrupt has woken it), else another.
fn kick(scheduler: &mut Scheduler) {
    if scheduler.idle & this_cpu() != 0 {
        scheduler.idle &= !this_cpu();
    } else if scheduler.idle != 0 {
        let cpu = scheduler.idle.trailing_zeros() as usize;
        scheduler.idle &= !(1 << cpu);
        irq::wake(cpu);
    }
}

/// Runs the next in line; returns when it is the caller's turn again. Interrupts are masked, no other lock is held.
fn reschedule(mut scheduler: Guard) {
    let mut local = CPU_STATE.this().lock();
    let Some((from, to)) = pick_next(&mut scheduler, &mut local) else { return };
    drop(local);
    // Released by `finish_switch`, on the other stack.
    core::mem::forget(scheduler);
    // SAFETY: both contexts are in threads that `CpuState` holds (`previous` and `current`), so they stay. The scheduler's
    // lock is ours, so nobody else touches them. Interrupts are masked.
    unsafe { arch::context::switch(from, to) };
    finish_switch();
}

/// Decides who runs now: the contexts of the caller and of the next one, unless that is the caller itself.
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
    // Even if it is over already, since this CPU of a virtual machine was not running meanwhile: nobody asks any more.
    set_timer(scheduler, slice_end);
    if Arc::ptr_eq(&next, &current) {
        return None;
    }
    if runnable && !Arc::ptr_eq(&current, &idle) {
        scheduler.queue.push(current.clone());
    }
    switch_user(current.user(), next.user());
    let contexts = (current.context(), next.context().cast_const());
    (local.previous, local.current) = (Some(current), Some(next));
    Some(contexts)
}

/// Changes the registers that only user space uses, and the address space.
fn switch_user(from: Option<&dyn UserThread>, to: Option<&dyn UserThread>) {
    if let Some(from) = from {
        from.save();
    }
    match to {
        Some(to) => to.restore(),
        None if from.is_some() => arch::mmu::uninstall_user(),
        None => {}
    }
}

/// Sets this CPU's timer for the end of its slice or the first sleeper, whichever is first.
fn set_timer(scheduler: &Scheduler, slice_end: Option<Ticks>) {
    time::interrupt_at(slice_end, scheduler.queue.next_deadline(arch::cpu::index()));
}

/// The first thing on the other stack: the thread before has its registers saved now.
fn finish_switch() {
    // SAFETY: this CPU holds the lock since `reschedule`, which forgot the guard.
    unsafe { SCHEDULER.force_unlock() };
    let previous = CPU_STATE.this().lock().previous.take();
    if let Some(ended) = previous.filter(|thread| thread.wait_state.has_exited()) {
        ended.free_stack();
    }
}

/// Where a new thread starts, with interrupts masked.
extern "C" fn start(_: usize) -> ! {
    finish_switch();
    match take_entry() {
        Some((Entry::Kernel(entry), _)) => {
            arch::cpu::unmask_irqs();
            entry();
        }
        // Out of its box here, since nothing after this call ever returns to free it.
        // SAFETY: `new_user_thread`'s caller chose the pair; the top is that of this thread's own stack, on which nothing
        // is needed any more.
        Some((Entry::User(frame, enter), Some(stack_top))) => unsafe { enter(unboxed(frame), stack_top) },
        _ => {}
    }
    exit()
}

fn take_entry() -> Option<(Entry, Option<KernelVa>)> {
    let thread = current();
    Some((thread.take_entry()?, thread.stack_top()))
}

fn unboxed(frame: Box<TrapFrame>) -> TrapFrame {
    *frame
}
