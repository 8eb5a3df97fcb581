//! Execution of another program in a process (`execve`).

use super::fork::new_thread;
use super::futex::Futexes;
use super::loader::{self, LoadedProgram};
use super::task::Task;
use super::tree;
use crate::sched;
use abi::Errno;
use addr::UserVa;

/// A program to execute.
#[derive(Clone, Copy)]
pub struct ExecRequest<'a> {
    pub path: &'a [u8],
    pub arguments: &'a [&'a [u8]],
    pub environment: &'a [&'a [u8]],
}

/// Replaces the program of the running thread's process: the other threads exit, and the running thread exits
/// instead of returning to user space. A new thread with the id of the process continues in the new program;
/// so each thread has one address space, which it uses until its end.
///
/// # Errors
/// Those of the loader, `EAGAIN`, `ENOMEM`; `EINTR` if the process is being terminated. The process is
/// unchanged.
pub fn exec(task: &Task, request: &ExecRequest<'_>) -> Result<(), Errno> {
    let process = task.process();
    let LoadedProgram { space, frame, info, name } =
        loader::load_program(request).map_err(|error| error.errno())?;
    let successor =
        Task::new(process.id(), process.clone(), (space.clone(), Futexes::new()?), UserVa::new(0));
    successor.inherit_mask(task);
    successor.set_name(name);
    let thread = new_thread(successor, frame)?;
    let current = sched::current();
    if let Err(error) = process.reserve_thread(&thread).and_then(|()| process.end_other_threads(&current)) {
        sched::discard(thread);
        return Err(error);
    }
    // The process cannot return to the old program from here on.
    drop(process.replace_program(space, &thread));
    process.timers.lock().clear_posix(process);
    task.move_pending_signals(&thread);
    let previous = process.program.lock().replace(info);
    drop(previous);
    let mut from = 0;
    loop {
        let closed = process.files.lock().take_close_on_exec(from);
        let Some((number, file)) = closed else { break };
        // Without the lock of the table: the last reference can free a buffer.
        drop(file);
        from = number + 1;
    }
    tree::with(|tree| tree.set_executed(process.id()));
    task.exit_to(thread);
    Ok(())
}
