//! System calls: a number in x8, arguments in x0 to x5, the result or a negative error code in x0.
//!
//! Arguments are untrusted until a handler has checked them. Each handler implements one system call, as its
//! Linux manual page specifies.

mod children;
mod events;
mod files;
mod memory;
mod memory_locks;
mod paths;
mod poll;
mod process;
mod scheduling;
mod signals;
mod sockets;
mod threads;
mod time;
mod timers;

use crate::fs::OpenFile;
use crate::memory::heap;
use crate::process::signals::{AfterHandler, Restart};
use crate::process::{Process, Task};
use crate::sched::Nanoseconds;
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use crate::vm::address_space::AddressSpace;
use abi::clock::Timespec;
use abi::file::{AT_SYMLINK_NOFOLLOW, OpenFlags};
use abi::{Errno, Syscall};
use addr::UserVa;
use alloc::sync::Arc;
use arch::exception::UserFrame;
use arrayvec::ArrayVec;

/// The result of a system call.
pub type SyscallResult = Result<u64, Errno>;

/// A system call of the running thread.
pub struct SyscallContext<'a> {
    pub task: &'a Task,
    /// x0 to x5.
    pub arguments: [u64; 6],
}

impl<'a> SyscallContext<'a> {
    /// Returns argument `n`.
    pub fn value(&self, n: usize) -> u64 {
        self.arguments[n]
    }
    /// Returns argument `n` as an `int`: the low half.
    pub fn int(&self, n: usize) -> i32 {
        self.arguments[n] as i32
    }
    /// Returns argument `n` as a user address.
    pub fn address(&self, n: usize) -> UserVa {
        UserVa::new(self.arguments[n])
    }
    /// Returns argument `n` as a length in bytes.
    pub fn length(&self, n: usize) -> usize {
        self.arguments[n] as usize
    }
    pub fn process(&self) -> &'a Arc<Process> {
        self.task.process()
    }
    pub fn space(&self) -> &'a AddressSpace {
        self.task.space()
    }
    pub fn memory(&self) -> UserMemory<'a> {
        self.task.memory()
    }
    /// Reads argument `n`, the address of a timeout, or 0 for none.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`.
    pub fn timeout(&self, n: usize) -> Result<Option<Nanoseconds>, Errno> {
        if self.value(n) == 0 {
            return Ok(None);
        }
        let time: Timespec = self.memory().read(self.address(n))?;
        time.to_nanoseconds().map(Some).ok_or(Errno::EINVAL)
    }
    /// Returns the open file of argument `n`, a file descriptor.
    ///
    /// # Errors
    /// `EBADF`, also with `O_PATH`.
    pub fn file(&self, n: usize) -> Result<Arc<OpenFile>, Errno> {
        let file = self.any_file(n)?;
        if file.flags().contains(OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }
    /// As [`file`](Self::file), but also with `O_PATH`.
    pub fn any_file(&self, n: usize) -> Result<Arc<OpenFile>, Errno> {
        Ok(self.process().files.lock().get(self.int(n))?.file.clone())
    }
}

/// Runs the system call in `frame`, and stores its result there. Returns the call if a signal interrupted it
/// and it can be executed again.
pub fn dispatch(task: &Task, frame: &mut UserFrame) -> Option<Restart> {
    let x = frame.x();
    let (number, arguments) = (x[8], [x[0], x[1], x[2], x[3], x[4], x[5]]);
    let call = SyscallContext { task, arguments };
    let known = Syscall::from_number(number);
    let result = match known {
        Some(known) if allocates(known) && !heap::has_room(HEAP_RESERVE) => Err(Errno::ENOMEM),
        Some(Syscall::Clone) => threads::clone(&call, frame),
        Some(Syscall::SigAltStack) => signals::alt_stack(&call, frame),
        Some(Syscall::Clone3) => threads::clone3(&call, frame),
        Some(Syscall::RtSigReturn) => signals::return_from_handler(&call, frame),
        Some(known) => run(known, &call),
        None => unknown(number),
    };
    frame.x_mut()[0] = result.unwrap_or_else(Errno::to_result);
    match result {
        Err(Errno::EINTR) => restart(known?, &call),
        _ => None,
    }
}

/// Whether an interrupted system call can be executed again, as in signal(7).
#[cold]
fn restart(syscall: Syscall, call: &SyscallContext<'_>) -> Option<Restart> {
    use Syscall::*;
    let after_handler = match syscall {
        Futex if threads::is_lock(call) => AfterHandler::Always,
        Read | ReadV | PRead64 | Write | WriteV | SendTo | RecvFrom | Ioctl | Wait4 | WaitId => {
            AfterHandler::OnRequest
        }
        // A relative timeout would start again.
        Futex if call.value(3) == 0 => AfterHandler::OnRequest,
        RtSigSuspend => AfterHandler::Never,
        PPoll if call.value(2) == 0 => AfterHandler::Never,
        PSelect6 if call.value(4) == 0 => AfterHandler::Never,
        _ => return None,
    };
    Some(Restart { argument: call.value(0), after_handler })
}

/// The heap memory that must be free for a system call that allocates: more than any of them uses.
const HEAP_RESERVE: usize = 256 << 10;

/// Whether the system call creates objects on the heap. The others allocate little and briefly, out of
/// [`HEAP_RESERVE`]. A system call that wakes another thread is never refused: the wakeup would be lost.
fn allocates(syscall: Syscall) -> bool {
    use Syscall::*;
    matches!(
        syscall,
        Dup | Dup3
            | Fcntl
            | Ioctl
            | OpenAt
            | MemfdCreate
            | GetDents64
            | Brk
            | Clone
            | Clone3
            | ExecVe
            | ExecVeAt
            | MMap
            | MRemap
            | MProtect
            | MLock
            | MLock2
            | MUnlock
            | MLockAll
            | MUnlockAll
    )
}

fn run(syscall: Syscall, call: &SyscallContext<'_>) -> SyscallResult {
    match syscall {
        Syscall::GetCwd => paths::get_cwd(call),
        Syscall::EventFd2 => events::eventfd2(call),
        Syscall::EpollCreate1 => events::epoll_create1(call),
        Syscall::EpollCtl => events::epoll_ctl(call),
        Syscall::EpollPWait => events::epoll_pwait(call),
        Syscall::EpollPWait2 => events::epoll_pwait2(call),
        Syscall::GetXAttr => paths::get_attribute(call, 0),
        Syscall::LGetXAttr => paths::get_attribute(call, AT_SYMLINK_NOFOLLOW),
        Syscall::FGetXAttr => files::get_attribute(call),
        Syscall::ListXAttr => paths::list_attributes(call, 0),
        Syscall::LListXAttr => paths::list_attributes(call, AT_SYMLINK_NOFOLLOW),
        Syscall::FListXAttr => files::list_attributes(call),
        Syscall::Dup => files::dup(call),
        Syscall::Dup3 => files::dup3(call),
        Syscall::Fcntl => files::fcntl(call),
        Syscall::Ioctl => files::ioctl(call),
        Syscall::FAccessAt => paths::access_at(call, 0),
        Syscall::FAccessAt2 => paths::access_at(call, call.value(3)),
        Syscall::MkNodAt => paths::make_node_at(call),
        Syscall::MkDirAt => paths::make_directory_at(call),
        Syscall::UnlinkAt => paths::unlink_at(call),
        Syscall::SymLinkAt => paths::symlink_at(call),
        Syscall::LinkAt => paths::link_at(call),
        Syscall::RenameAt => paths::rename_at(call, 0),
        Syscall::RenameAt2 => paths::rename_at(call, call.value(4)),
        Syscall::StatFs => paths::stat_fs(call),
        Syscall::FStatFs => files::stat_fs(call),
        Syscall::Truncate => paths::truncate(call),
        Syscall::FTruncate => files::truncate(call),
        Syscall::FAllocate => files::allocate(call),
        Syscall::ChDir => paths::change_directory(call),
        Syscall::FChDir => paths::change_directory_to_file(call),
        Syscall::FChMod => paths::change_mode(call),
        Syscall::FChModAt => paths::change_mode_at(call),
        Syscall::FChOwn => paths::change_owner(call),
        Syscall::FChOwnAt => paths::change_owner_at(call),
        Syscall::PWrite64 => files::write_at(call),
        Syscall::PReadV => files::read_vector_at(call),
        Syscall::PWriteV => files::write_vector_at(call),
        // All files are in memory.
        Syscall::Sync => Ok(0),
        Syscall::FSync | Syscall::FDataSync => files::sync(call),
        Syscall::FAdvise64 => files::advise(call),
        Syscall::UTimeNsAt => paths::set_times_at(call),
        Syscall::UMask => paths::set_mode_mask(call),
        Syscall::MemfdCreate => files::memory_file(call),
        Syscall::Statx => paths::statx(call),
        Syscall::OpenAt => paths::open_at(call),
        Syscall::Close => files::close(call),
        Syscall::Pipe2 => files::pipe2(call),
        Syscall::PidFdOpen => children::pidfd_open(call),
        Syscall::PidFdSendSignal => signals::send_to_pidfd(call),
        Syscall::SocketPair => sockets::socket_pair(call),
        Syscall::SendTo => sockets::send_to(call),
        Syscall::RecvFrom => sockets::receive_from(call),
        Syscall::Shutdown => sockets::shut_down(call),
        Syscall::GetDents64 => files::get_entries(call),
        Syscall::LSeek => files::seek(call),
        Syscall::Read => files::read(call),
        Syscall::Write => files::write(call),
        Syscall::ReadV => files::read_vector(call),
        Syscall::WriteV => files::write_vector(call),
        Syscall::PRead64 => files::read_at(call),
        Syscall::PSelect6 => poll::pselect6(call),
        Syscall::PPoll => poll::ppoll(call),
        Syscall::ReadLinkAt => paths::read_link_at(call),
        Syscall::NewFStatAt => paths::stat_at(call),
        Syscall::FStat => files::stat(call),
        Syscall::TimerFdCreate => events::timerfd_create(call),
        Syscall::TimerFdSetTime => events::timerfd_settime(call),
        Syscall::TimerFdGetTime => events::timerfd_gettime(call),
        Syscall::SignalFd4 => events::signalfd4(call),
        Syscall::ExecVe => children::execve(call),
        Syscall::ExecVeAt => children::execveat(call),
        Syscall::Wait4 => children::wait4(call),
        Syscall::WaitId => children::waitid(call),
        Syscall::SetPgid => children::set_group(call),
        Syscall::GetPgid => children::group(call),
        Syscall::GetSid => children::session(call),
        Syscall::SetSid => children::start_session(call),
        Syscall::Exit => threads::exit(call),
        Syscall::ExitGroup => process::exit_group(call),
        Syscall::SetTidAddress => threads::set_tid_address(call),
        Syscall::Futex => threads::futex(call),
        Syscall::SetRobustList => threads::set_robust_list(call),
        Syscall::GetRobustList => threads::get_robust_list(call),
        Syscall::NanoSleep => time::nano_sleep(call),
        Syscall::GetITimer => timers::get_interval(call),
        Syscall::SetITimer => timers::set_interval(call),
        Syscall::TimerCreate => timers::create(call),
        Syscall::TimerGetTime => timers::get(call),
        Syscall::TimerGetOverrun => timers::overrun(call),
        Syscall::TimerSetTime => timers::set(call),
        Syscall::TimerDelete => timers::delete(call),
        Syscall::ClockGetTime => time::get_time(call),
        Syscall::ClockGetRes => time::get_resolution(call),
        Syscall::ClockNanoSleep => time::clock_nano_sleep(call),
        Syscall::SchedGetAffinity => threads::get_affinity(call),
        Syscall::SchedSetAffinity => threads::set_affinity(call),
        Syscall::SchedSetParam => scheduling::set_priority(call),
        Syscall::SchedSetScheduler => scheduling::set_policy(call),
        Syscall::SchedGetScheduler => scheduling::policy(call),
        Syscall::SchedGetParam => scheduling::priority(call),
        Syscall::SchedGetPriorityMax => scheduling::priority_limit(call, true),
        Syscall::SchedGetPriorityMin => scheduling::priority_limit(call, false),
        Syscall::SchedRrGetInterval => scheduling::interval(call),
        Syscall::SchedYield => threads::yield_now(),
        Syscall::Kill => signals::kill(call),
        Syscall::TKill | Syscall::TgKill => signals::kill_thread(syscall, call),
        Syscall::RtSigAction => signals::action(call),
        Syscall::RtSigSuspend => signals::suspend(call),
        Syscall::RtSigPending => signals::pending(call),
        Syscall::RtSigTimedWait => signals::timed_wait(call),
        Syscall::RtSigProcMask => signals::mask(call),
        Syscall::Times => time::times(call),
        Syscall::Uname => process::uname(call),
        Syscall::GetRUsage => process::usage(call),
        Syscall::PrCtl => process::prctl(call),
        Syscall::GetCpu => process::cpu(call),
        Syscall::SysInfo => process::system_info(call),
        Syscall::GetTimeOfDay => time::get_time_of_day(call),
        Syscall::GetPid => Ok(call.process().id().into()),
        Syscall::GetPpid => Ok(call.process().parent().into()),
        Syscall::GetUid | Syscall::GetEuid | Syscall::GetGid | Syscall::GetEgid => Ok(0),
        Syscall::GetGroups => process::groups(call),
        Syscall::GetTid => Ok(call.task.id().into()),
        Syscall::Brk => memory::brk(call),
        Syscall::MUnmap => memory::unmap(call),
        Syscall::MRemap => memory::remap(call),
        // Need the frame: `dispatch`.
        Syscall::Clone | Syscall::Clone3 | Syscall::SigAltStack | Syscall::RtSigReturn => Err(Errno::ENOSYS),
        Syscall::MMap => memory::map(call),
        Syscall::MProtect => memory::protect(call),
        Syscall::MAdvise => memory::advise(call),
        Syscall::MSync => memory::sync(call),
        Syscall::MLock => memory_locks::lock(call, 0),
        Syscall::MLock2 => memory_locks::lock(call, call.value(2)),
        Syscall::MUnlock => memory_locks::unlock(call),
        Syscall::MLockAll => memory_locks::lock_all(call),
        Syscall::MUnlockAll => memory_locks::unlock_all(call),
        Syscall::MInCore => memory_locks::residency(call),
        Syscall::PrLimit64 => process::limit(call),
        Syscall::GetRandom => process::random(call),
    }
}

/// The unknown numbers that are logged already. Bounded, since programs choose them.
static UNKNOWN: SpinLock<ArrayVec<u64, 64>> = SpinLock::new(ArrayVec::new_const());

fn unknown(number: u64) -> SyscallResult {
    // glibc tries it in each thread of each program.
    const RSEQ: u64 = 293;
    let new = number != RSEQ && {
        let mut unknown = UNKNOWN.lock();
        !unknown.contains(&number) && unknown.try_push(number).is_ok()
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
    fn wakeup_syscalls_do_not_allocate() {
        use Syscall::*;
        for call in [Futex, Exit, ExitGroup, Close, MUnmap, Kill, TKill, TgKill] {
            assert!(!allocates(call), "{call:?}");
        }
    }
}
