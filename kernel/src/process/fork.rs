//! New processes: copies of a process (`fork`), or of all but its address space (`vfork`).

use super::futex::Futexes;
use super::pidfd::PidFd;
use super::process::Process;
use super::return_to_user::enter_user;
use super::task::Task;
use super::tree;
use crate::fs::{self, OpenFile};
use crate::memory::heap;
use crate::sched::{self, Thread};
use crate::vm::address_space::AddressSpace;
use abi::Errno;
use abi::file::OpenFlags;
use abi::process::CloneFlags;
use abi::signal::Signal;
use addr::UserVa;
use alloc::sync::Arc;
use arch::exception::UserFrame;

/// The arguments of `clone` and `clone3`.
#[derive(Clone, Copy, Debug)]
pub struct CloneRequest {
    pub flags: CloneFlags,
    /// Sent to the parent when the child exits.
    pub exit_signal: Option<Signal>,
    /// The stack pointer of the child; 0 for that of the parent.
    pub stack: UserVa,
    /// The address of the pidfd.
    pub pidfd: UserVa,
    pub parent_tid: UserVa,
    pub child_tid: UserVa,
    pub tls: UserVa,
}

impl CloneRequest {
    /// Returns the TLS of the new thread.
    pub fn thread_pointer(&self) -> UserVa {
        if self.flags.contains(CloneFlags::SETTLS) { self.tls } else { arch::context::thread_pointer() }
    }

    /// Returns the frame of the new thread, which returns 0 from the same system call on its own stack.
    pub fn frame(&self, parent: &UserFrame) -> UserFrame {
        let mut child = parent.clone();
        child.x_mut()[0] = 0;
        if self.stack.raw() != 0 {
            child.set_sp(self.stack);
        }
        child
    }
}

/// Creates a child of the running thread's process, which continues from `frame`, and returns its id. With
/// `CLONE_VFORK` waits until the child has executed a program or exited.
///
/// # Errors
/// `EAGAIN` at a limit of processes, `ENOMEM`, `EINTR` if the process is being terminated; `EFAULT` for a bad
/// address of the thread id. There is no child then.
pub fn fork(task: &Task, frame: &UserFrame, request: &CloneRequest) -> Result<u32, Errno> {
    let space = match request.flags.contains(CloneFlags::VM) {
        true => {
            task.space().join();
            task.space().clone()
        }
        false => heap::try_arc(task.space().fork()?).ok_or(Errno::ENOMEM)?,
    };
    let process = match task.process().forked(space.clone(), request.flags) {
        Ok(process) => process,
        Err(error) => {
            space.leave();
            return Err(error);
        }
    };
    start(task, &process, space, frame, request).inspect_err(|_| process.abandon())?;
    let id = process.id();
    if request.flags.contains(CloneFlags::VFORK) {
        process.wait_for_own_space();
    }
    Ok(id)
}

fn start(
    parent: &Task,
    process: &Arc<Process>,
    space: Arc<AddressSpace>,
    frame: &UserFrame,
    request: &CloneRequest,
) -> Result<(), Errno> {
    let (id, flags) = (process.id(), request.flags);
    if flags.contains(CloneFlags::CHILD_SETTID) {
        // The address space of the parent changes meanwhile, that of the child does not.
        match flags.contains(CloneFlags::VM) {
            true => parent.memory().write(request.child_tid, &id)?,
            false => space.store(request.child_tid, &id.to_ne_bytes())?,
        }
    }
    if flags.contains(CloneFlags::PARENT_SETTID) {
        parent.memory().write(request.parent_tid, &id)?;
    }
    let futexes = if flags.contains(CloneFlags::VM) { parent.futexes().clone() } else { Futexes::new()? };
    let task = Task::new(id, process.clone(), (space, futexes), request.thread_pointer());
    task.inherit(parent);
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        task.set_clear_tid(request.child_tid);
    }
    // The stack of a child with the address space of its parent is another one.
    if !flags.contains(CloneFlags::VM) || flags.contains(CloneFlags::VFORK) {
        *task.signal_stack.lock() = *parent.signal_stack.lock();
    }
    let pidfd = match flags.contains(CloneFlags::PIDFD) {
        true => Some(open_pidfd(parent, id, request.pidfd)?),
        false => None,
    };
    let started = new_thread(task, request.frame(frame)).and_then(|thread| {
        let added = tree::add_child(parent.process(), process, request.exit_signal);
        run_first_thread(process, thread, added)
    });
    started.inspect_err(|_| {
        // Closed without the lock of the table.
        let closed = pidfd.map(|number| parent.process().files.lock().remove(number as i32));
        drop(closed);
    })
}

/// Opens a pidfd of the process that gets `id`, and stores its number at `to` in the parent.
///
/// # Errors
/// `ENOMEM`, `EMFILE`, `EFAULT`.
fn open_pidfd(parent: &Task, id: u32, to: UserVa) -> Result<u32, Errno> {
    let file = OpenFile::try_new(PidFd::of_child(id), OpenFlags::READ_WRITE)?;
    let mut opened = 0;
    fs::insert_and_report(&parent.process().files, file, true, |number| {
        opened = number;
        parent.memory().write(to, &number)
    })?;
    Ok(opened)
}

/// Starts the first thread of `process`, which was `added` to the tree of processes.
///
/// # Errors
/// That of `added`, or `ENOMEM`. The process is not in the tree, and has no thread.
pub(super) fn run_first_thread(
    process: &Process,
    thread: Arc<Thread>,
    added: Result<(), Errno>,
) -> Result<(), Errno> {
    let started = added.and_then(|()| match process.add_thread(&thread) {
        true => Ok(()),
        false => {
            tree::remove(process);
            Err(Errno::ENOMEM)
        }
    });
    match started {
        Ok(()) => sched::make_ready(&thread),
        Err(_) => sched::discard(thread),
    }
    started
}

/// Creates a thread for `task`, which enters user space with `frame` once it is made ready.
///
/// # Errors
/// `EAGAIN`.
pub fn new_thread(task: Task, frame: UserFrame) -> Result<Arc<Thread>, Errno> {
    let task = heap::try_arc(task).ok_or(Errno::EAGAIN)?;
    // SAFETY: a frame of a program, which this `enter` takes.
    unsafe { sched::new_user_thread(task, frame, enter_user) }.map_err(|_| Errno::EAGAIN)
}
