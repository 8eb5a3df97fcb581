//! Processes and their threads, futexes, and the ELF loader.
//!
//! A thread of a process is a [`Thread`](crate::sched::Thread) of the kernel whose [`Task`] holds the
//! user-space state. It enters the kernel by an exception and returns through [`before_return`]; no lock is
//! held across that border.
//!
//! # Locks
//!
//! `AddressSpace` and the file table are mutexes, locked before any spin lock. `Process::timers` precedes the
//! alarms, whose lock is held when a timer sends a signal. The tree of processes precedes `Process::threads`,
//! which precedes `Process::signals`, then a task's pending signals, and the scheduler's lock; a file's
//! position is a leaf lock. No lock is held during a user copy, except the mutex of a pipe's bytes, which
//! precedes that of the address space; that of the futex list for a read of the futex word that handles no
//! page fault ([`futex`]); and that of the address space to repeat an access after a page fault.

mod exec;
mod fork;
pub mod futex;
mod init;
mod loader;
mod pi_futex;
mod pidfd;
#[expect(clippy::module_inception, reason = "the type after which the module is named")]
mod process;
pub mod random;
pub mod random_device;
mod return_to_user;
mod signalfd;
pub mod signals;
mod task;
pub mod timers;
pub mod tree;
mod vdso;

pub use exec::{ExecRequest, exec};
pub use fork::{CloneRequest, fork, new_thread};
pub use init::{ENVIRONMENT, environment, run_init};
pub use loader::{Launch, LaunchError, STACK_BYTES, hwcap, start};
pub use pidfd::PidFd;
pub use process::{FILES_MAX, Process, ProgramInfo, Termination};
pub use return_to_user::{before_return, enter_user};
pub use signalfd::SignalFd;
pub use task::{SchedulingPolicy, Task, last_id, next_id};
pub use tree::all;

use abi::process::{UtsName, uts_text};

/// The name of the system (`uname`).
pub const SYSTEM_NAME: UtsName = UtsName {
    // Programs check for "Linux", whose interface this is.
    sysname: uts_text("Linux"),
    nodename: uts_text("tessera"),
    // C libraries compare it with the oldest Linux that they support.
    release: uts_text("6.1.0-tessera"),
    version: uts_text(concat!("#1 Tessera ", env!("CARGO_PKG_VERSION"))),
    machine: uts_text(abi::MACHINE),
    domainname: uts_text("(none)"),
};
