//! The tree of running processes and of exits that parents have not waited for.

use super::process::{Process, Termination};
use super::signals::{self, Receiver};
use crate::debug;
use crate::fs::readiness::{Watchable, Watched};
use crate::sched::{Nanoseconds, WaitQueue};
use crate::sync::SpinLock;
use abi::Errno;
use abi::file::PollEvents;
use abi::process::ThreadName;
use abi::signal::{CLD_CONTINUED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SA_NOCLDSTOP, SigInfo, Signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use program::{ChildKind, ChildWait, JobChange, ProcessTree, WaitEvents, WaitSelector};

/// The maximum number of processes, zombies included. The number of ASIDs limits those that run programs
/// further.
const PROCESSES_MAX: usize = 1024;

/// The information of an exit.
#[derive(Clone, Copy, Debug)]
pub struct ExitRecord {
    pub termination: Termination,
    pub cpu_time: Nanoseconds,
    pub started: Nanoseconds,
    pub name: ThreadName,
}

impl ExitRecord {
    /// Returns the description of the `SIGCHLD` for the exit of process `id`.
    pub fn info(&self, signal: Signal, id: u32) -> SigInfo {
        let (code, status) = match self.termination {
            Termination::Exited(status) => (CLD_EXITED, i32::from(status)),
            Termination::Killed(signal) => (CLD_KILLED, signal.number() as i32),
        };
        SigInfo::child(signal, code, id, status, self.cpu_time)
    }
}

type Processes = ProcessTree<Arc<Process>, ExitRecord>;

static TREE: SpinLock<Processes> = SpinLock::new(Processes::new(PROCESSES_MAX));
/// Threads that wait for an exit of any process.
static EXITS: WaitQueue = WaitQueue::new();
/// The watchers of all pidfds: each of them looks for the exit of its own process.
static EXIT_WATCHERS: Watched<()> = Watched::new(());

/// Returns the watchers that are notified when a process exits, or its parent has waited for it.
pub fn exit_watchers() -> &'static dyn Watchable {
    &EXIT_WATCHERS
}

fn notify_watchers(events: PollEvents) {
    EXIT_WATCHERS.update(|()| ((), Some(events)));
}

/// Calls `access` with the locked tree.
pub fn with<R>(access: impl FnOnce(&mut Processes) -> R) -> R {
    access(&mut TREE.lock())
}

/// Returns the running processes.
pub fn all() -> Vec<Arc<Process>> {
    with(|tree| tree.select(|_, _, _| true).collect())
}

/// Returns the running processes that `selects` returns true for, given id and process group.
///
/// # Errors
/// `ENOMEM`.
pub fn select(selects: impl Fn(u32, u32) -> bool) -> Result<Vec<Arc<Process>>, Errno> {
    let mut processes = Vec::new();
    fail_point()?;
    processes.try_reserve_exact(PROCESSES_MAX).map_err(|_| Errno::ENOMEM)?;
    with(|tree| processes.extend(tree.select(|id, group, _| selects(id, group))));
    Ok(processes)
}

/// Adds a process without a parent.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub(super) fn add_root(process: &Arc<Process>) -> Result<(), Errno> {
    fail_point()?;
    with(|tree| tree.add_root(process.id(), process.clone()))
}

/// Adds a child of `parent`.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`; `EINTR` if the parent is being terminated.
pub(super) fn add_child(
    parent: &Process,
    child: &Arc<Process>,
    exit_signal: Option<Signal>,
) -> Result<(), Errno> {
    fail_point()?;
    with(|tree| match parent.is_terminating() {
        // Its root may have looked for processes to terminate.
        true => Err(Errno::EINTR),
        false => {
            child.set_parent(parent.id());
            tree.add_child(parent.id(), child.id(), child.clone(), exit_signal)
        }
    })
}

/// Removes a process that was added and has no thread.
pub(super) fn remove(process: &Process) {
    let removed = with(|tree| tree.remove(process.id()));
    notify_watchers(PollEvents::IN | PollEvents::RDNORM | PollEvents::HUP);
    EXITS.wake_all();
    drop(removed);
}

fn fail_point() -> Result<(), Errno> {
    if debug::fail_point(debug::FailPoint::Heap) { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// Makes a process that has released its resources a zombie, and notifies its parent. A root first terminates
/// all processes below it and waits for their exits.
pub(super) fn exit(process: &Process, record: ExitRecord) {
    let id = process.id();
    if process.parent() == 0 {
        EXITS.wait_uninterruptible(|| with(|tree| !terminate_below(tree, id)));
    }
    let exit = with(|tree| tree.exit(id, record, |parent| parent.ignores_children(), Process::set_parent));
    notify_watchers(PollEvents::IN | PollEvents::RDNORM);
    let Some(exit) = exit else { return };
    if let Some((parent, signal)) = &exit.parent {
        notify(parent, *signal, id, record);
    }
    if let Some(adopter) = &exit.adopter {
        notify(adopter, Some(Signal::SIGCHLD), id, record);
    }
    EXITS.wake_all();
    // Dropped without the lock of the tree.
    drop(exit);
}

/// Looks for a child of `parent` with one of the events, and removes it, or the event, if `removes`.
pub fn wait(
    parent: u32,
    selector: WaitSelector,
    events: (ChildKind, WaitEvents),
    removes: bool,
) -> ChildWait<ExitRecord> {
    let found = with(|tree| tree.wait(parent, selector, events, removes));
    if removes && matches!(found, ChildWait::Exited(..)) {
        notify_watchers(PollEvents::IN | PollEvents::RDNORM | PollEvents::HUP);
    }
    found
}

/// Stops or continues a process, and notifies its parent if that is a change.
pub(super) fn change(process: &Process, change: JobChange) {
    let id = process.id();
    let parent = with(|tree| {
        let changes = process.set_stopped(matches!(change, JobChange::Stopped(_)));
        changes.then(|| tree.change(id, change)).flatten()
    });
    let Some(parent) = parent else { return };
    if parent.signals.lock().actions[Signal::SIGCHLD.number()].flags & SA_NOCLDSTOP == 0 {
        let info = |signal| change_info(signal, id, change, process.cpu_time());
        // A standard signal is always added.
        let _ = signals::send(&parent, Receiver::Process, Some(Signal::SIGCHLD), info);
    }
    parent.child_exits.wake_all();
}

/// Returns the description of the `SIGCHLD` for a stop or a continuation of process `id`.
pub fn change_info(signal: Signal, id: u32, change: JobChange, cpu_time: Nanoseconds) -> SigInfo {
    let (code, cause) = match change {
        JobChange::Stopped(cause) => (CLD_STOPPED, cause),
        JobChange::Continued => (CLD_CONTINUED, Signal::SIGCONT),
    };
    SigInfo::child(signal, code, id, cause.number() as i32, cpu_time)
}

/// Terminates the processes below the root `id`. Returns whether there are any.
fn terminate_below(tree: &Processes, id: u32) -> bool {
    tree.descendants(id)
        .map(|process| process.terminate(Termination::Killed(Signal::SIGKILL)))
        .fold(false, |_, _| true)
}

fn notify(parent: &Process, signal: Option<Signal>, id: u32, record: ExitRecord) {
    // A standard signal is always added; a real-time signal may exceed the limit of its queue, as in Linux.
    let _ = signals::send(parent, Receiver::Process, signal, |signal| record.info(signal, id));
    parent.child_exits.wake_all();
}
