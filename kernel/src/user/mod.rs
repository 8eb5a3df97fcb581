//! Programs: the Linux UAPI subset (design, section 6).
//!
//! A program is a [`Process`] with threads; each is a [`Thread`](crate::sched::Thread) of the kernel whose [`Task`]
//! says what the program sees of it. They come in by [`trap()`] (and by interrupts), and go back through
//! [`before_return`]; nothing is held across that border. Whatever a program hands over is copied in once
//! ([`access`]) and checked, and the answer is an error code; only a fault of its own instructions ends it.
//!
//! # Locks
//!
//! `Process::threads` before the scheduler's; `AddressSpace` before the kernel's memory; `Process::files`,
//! `Process::signals` and a file's position are held for a few instructions, with nothing else taken. No lock is held
//! while a program's memory is copied, but for the futex list, whose look at a word cannot wait ([`futex`]).

pub mod access;
pub mod address_space;
mod asid;
pub mod files;
pub mod futex;
mod init;
mod loader;
pub mod pages;
pub mod process;
pub mod random;
pub mod root;
mod syscall;
mod task;
mod trap;

pub use init::{ENVIRONMENT, MountError, mount, run_init};
pub use loader::{Launch, StartError, start};
pub use process::{Ending, Process};
pub use syscall::dispatch;
pub use task::{Task, switch};
pub use trap::{before_return, trap};
