//! System calls: a number in x8, arguments in x0 to x5, the result or a negative error code in x0.
//!
//! An argument is only a number until a function here has checked it. Each function does one call and returns what
//! the manual's page of that name says.

mod files;
mod memory;
mod process;
mod signals;
mod threads;
mod time;

use crate::fs::OpenFile;
use crate::memory::heap;
use crate::process::Process;
use crate::process::Task;
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::{Errno, Syscall};
use addr::UserVa;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use arch::exception::TrapFrame;

/// What a call returns.
pub type SyscallResult = Result<u64, Errno>;

/// A system call of the running thread.
pub struct SyscallContext<'a> {
    /// The thread.
    pub task: &'a Task,
    /// x0 to x5.
    pub arguments: [u64; 6],
}

impl<'a> SyscallContext<'a> {
    /// Argument number `n`.
    pub fn value(&self, n: usize) -> u64 {
        self.arguments[n]
    }
    /// Argument number `n`, an `int`: its low half.
    pub fn int(&self, n: usize) -> i32 {
        self.arguments[n] as i32
    }
    /// Argument number `n`, an address of the program.
    pub fn address(&self, n: usize) -> UserVa {
        UserVa::new(self.arguments[n])
    }
    /// Argument number `n`, a number of bytes.
    pub fn length(&self, n: usize) -> usize {
        self.arguments[n] as usize
    }
    /// The program.
    pub fn process(&self) -> &'a Arc<Process> {
        self.task.process()
    }
    /// The program's memory.
    pub fn memory(&self) -> UserMemory<'a> {
        self.task.memory()
    }
    /// The open file that argument number `n` stands for.
    pub fn file(&self, n: usize) -> Result<Arc<OpenFile>, Errno> {
        Ok(self.process().files.lock().get(self.int(n))?.file.clone())
    }
}

/// Does the call in `frame`, and puts its result there.
pub fn dispatch(task: &Task, frame: &mut TrapFrame) {
    let number = frame.x[8];
    let arguments = [frame.x[0], frame.x[1], frame.x[2], frame.x[3], frame.x[4], frame.x[5]];
    let call = SyscallContext { task, arguments };
    let answer = match Syscall::from_number(number) {
        Some(known) if allocates(known) && !heap::has_room(HEAP_ROOM) => Err(Errno::ENOMEM),
        Some(Syscall::Clone) => threads::clone(&call, frame),
        Some(known) => run(known, &call),
        None => unknown(number),
    };
    frame.x[0] = answer.unwrap_or_else(Errno::to_result);
}

/// More than any one call takes from the heap.
const HEAP_ROOM: usize = 256 << 10;

/// Whether the call makes things that live on the heap. The others take little, for a moment: they have what
/// [`HEAP_ROOM`] leaves. Calls that somebody else waits for are none of these: a wake that is refused is lost.
fn allocates(syscall: Syscall) -> bool {
    use Syscall::*;
    matches!(
        syscall,
        Dup | Dup3
            | Fcntl
            | Ioctl
            | OpenAt
            | GetDents64
            | ReadV
            | WriteV
            | PPoll
            | Brk
            | Clone
            | MMap
            | MRemap
            | MProtect
    )
}

fn run(syscall: Syscall, call: &SyscallContext<'_>) -> SyscallResult {
    match syscall {
        Syscall::GetCwd => files::get_cwd(call),
        Syscall::Dup => files::dup(call),
        Syscall::Dup3 => files::dup3(call),
        Syscall::Fcntl => files::fcntl(call),
        Syscall::Ioctl => files::ioctl(call),
        Syscall::FAccessAt => files::access_at(call),
        Syscall::OpenAt => files::open_at(call),
        Syscall::Close => files::close(call),
        Syscall::GetDents64 => files::get_entries(call),
        Syscall::LSeek => files::seek(call),
        Syscall::Read => files::read(call),
        Syscall::Write => files::write(call),
        Syscall::ReadV => files::read_vector(call),
        Syscall::WriteV => files::write_vector(call),
        Syscall::PRead64 => files::read_at(call),
        Syscall::PPoll => files::poll(call),
        Syscall::ReadLinkAt => files::read_link_at(call),
        Syscall::NewFStatAt => files::stat_at(call),
        Syscall::FStat => files::stat(call),
        Syscall::Exit => threads::exit(call),
        Syscall::ExitGroup => process::exit_group(call),
        Syscall::SetTidAddress => threads::set_tid_address(call),
        Syscall::Futex => threads::futex(call),
        Syscall::SetRobustList => threads::set_robust_list(call),
        Syscall::NanoSleep => time::nano_sleep(call),
        Syscall::ClockGetTime => time::get_time(call),
        Syscall::ClockGetRes => time::get_resolution(call),
        Syscall::ClockNanoSleep => time::clock_nano_sleep(call),
        Syscall::SchedGetAffinity => threads::get_affinity(call),
        Syscall::SchedYield => threads::yield_now(),
        Syscall::Kill | Syscall::TKill | Syscall::TgKill => signals::kill(syscall, call),
        Syscall::SigAltStack => signals::alt_stack(call),
        Syscall::RtSigAction => signals::action(call),
        Syscall::RtSigProcMask => signals::mask(call),
        Syscall::Uname => process::uname(call),
        Syscall::PrCtl => process::prctl(call),
        Syscall::GetPid => Ok(call.process().id().into()),
        Syscall::GetPpid | Syscall::GetUid | Syscall::GetEuid | Syscall::GetGid | Syscall::GetEgid => Ok(0),
        Syscall::GetTid => Ok(call.task.id().into()),
        Syscall::Brk => memory::brk(call),
        Syscall::MUnmap => memory::unmap(call),
        Syscall::MRemap => memory::remap(call),
        // Needs the frame: `dispatch`.
        Syscall::Clone => Err(Errno::ENOSYS),
        Syscall::MMap => memory::map(call),
        Syscall::MProtect => memory::protect(call),
        Syscall::MAdvise => memory::advise(call),
        Syscall::PrLimit64 => process::limit(call),
        Syscall::GetRandom => process::random(call),
    }
}

/// Numbers that were logged already; a program cannot make it longer than this.
static UNKNOWN: SpinLock<BTreeSet<u64>> = SpinLock::new(BTreeSet::new());
const UNKNOWN_MAX: usize = 64;

fn unknown(number: u64) -> SyscallResult {
    let new = {
        let mut unknown = UNKNOWN.lock();
        unknown.len() < UNKNOWN_MAX && unknown.insert(number)
    };
    if new {
        log::warn!("system call {number} is not implemented");
    }
    Err(Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wait_for_is_never_refused_for_want_of_memory() {
        use Syscall::*;
        for call in [Futex, Exit, ExitGroup, Close, MUnmap, Kill, TKill, TgKill] {
            assert!(!allocates(call), "{call:?}");
        }
    }
}
