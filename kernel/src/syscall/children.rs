//! System calls on child processes, process groups and sessions.

use super::{SyscallContext, SyscallResult};
use crate::fs::OpenFile;
use crate::process::tree::{self, ExitRecord};
use crate::process::{self, ExecRequest, PidFd, Termination};
use crate::sched::Nanoseconds;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::OpenFlags;
use abi::process::*;
use abi::signal::{SigInfo, Signal};
use addr::{Address, UserVa};
use alloc::vec::Vec;
use program::{ARGUMENTS_MAX, ChildKind, ChildWait, JobChange, WaitEvents, WaitSelector};
use zerocopy::FromZeros;

/// The maximum length of a path, with its terminator.
const PATH_MAX: usize = 4096;

pub fn execve(call: &SyscallContext<'_>) -> SyscallResult {
    let path = call.memory().read_string(call.address(0), PATH_MAX)?;
    execute(call, &path, (call.address(1), call.address(2)))
}

/// `execveat`: with an absolute path, or relative to the current directory.
pub fn execveat(call: &SyscallContext<'_>) -> SyscallResult {
    const AT_FDCWD: i32 = -100;
    let path = call.memory().read_string(call.address(1), PATH_MAX)?;
    if call.value(4) != 0 {
        return Err(Errno::EINVAL);
    }
    if call.int(0) != AT_FDCWD && !path.starts_with(b"/") {
        return Err(Errno::ENOSYS);
    }
    execute(call, &path, (call.address(2), call.address(3)))
}

fn execute(
    call: &SyscallContext<'_>,
    path: &[u8],
    (arguments, environment): (UserVa, UserVa),
) -> SyscallResult {
    let mut left = ARGUMENTS_MAX;
    let mut arguments = read_strings(call.memory(), arguments, &mut left)?;
    let environment = read_strings(call.memory(), environment, &mut left)?;
    if arguments.is_empty() {
        // As in Linux: programs expect their name.
        arguments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        arguments.push(Vec::new());
    }
    let (arguments, environment) = (slices(&arguments)?, slices(&environment)?);
    let request = ExecRequest { path, arguments: &arguments, environment: &environment };
    process::exec(call.task, &request).map(|()| 0)
}

/// Reads the strings of the array of pointers at `from`, which ends with a null pointer. Subtracts their
/// sizes from `left`.
///
/// # Errors
/// `EFAULT`, `E2BIG`, `ENOMEM`.
fn read_strings(memory: UserMemory<'_>, from: UserVa, left: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if from.raw() == 0 {
        return Ok(strings);
    }
    for index in 0.. {
        let at: u64 = memory.read(from.checked_add(8 * index).ok_or(Errno::EFAULT)?)?;
        if at == 0 {
            break;
        }
        *left = left.checked_sub(size_of::<u64>()).ok_or(Errno::E2BIG)?;
        let string = memory.read_string(UserVa::new(at), *left).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            error => error,
        })?;
        *left -= string.len() + 1;
        strings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        strings.push(string);
    }
    Ok(strings)
}

fn slices(strings: &[Vec<u8>]) -> Result<Vec<&[u8]>, Errno> {
    let mut slices: Vec<&[u8]> = Vec::new();
    slices.try_reserve_exact(strings.len()).map_err(|_| Errno::ENOMEM)?;
    slices.extend(strings.iter().map(Vec::as_slice));
    Ok(slices)
}

pub fn wait4(call: &SyscallContext<'_>) -> SyscallResult {
    let options = call.value(2) as u32;
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE) != 0 {
        return Err(Errno::EINVAL);
    }
    let selector = match call.int(0) {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => WaitSelector::Any,
        0 => WaitSelector::Group(own_group(call)?),
        group if group < 0 => WaitSelector::Group(group.unsigned_abs()),
        id => WaitSelector::Process(id as u32),
    };
    let Some((id, event)) = wait(call, selector, options | WEXITED, true)? else { return Ok(0) };
    let status = match event {
        ChildEvent::Exit(exit) => match exit.termination {
            Termination::Exited(status) => i32::from(status) << 8,
            Termination::Killed(signal) => signal.number() as i32,
        },
        ChildEvent::Change(JobChange::Stopped(signal)) => (signal.number() as i32) << 8 | 0x7f,
        ChildEvent::Change(JobChange::Continued) => 0xffff,
    };
    call.memory().write_optional(call.address(1), &status)?;
    call.memory().write_optional(call.address(3), &RUsage::of(event.cpu_time()))?;
    Ok(id.into())
}

pub fn waitid(call: &SyscallContext<'_>) -> SyscallResult {
    let options = call.value(3) as u32;
    let known = WNOHANG | WNOWAIT | WEXITED | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE;
    if options & !known != 0 || options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let (id, mut is_nonblocking) = (call.int(1), false);
    let selector = match call.value(0) {
        P_ALL => WaitSelector::Any,
        P_PID if id > 0 => WaitSelector::Process(id as u32),
        P_PGID if id == 0 => WaitSelector::Group(own_group(call)?),
        P_PGID if id > 0 => WaitSelector::Group(id as u32),
        P_PIDFD if id >= 0 => {
            let file = call.file(1)?;
            // `EAGAIN` instead of a wait, unless `WNOHANG` asks for success.
            is_nonblocking = file.flags().contains(OpenFlags::NONBLOCK) && options & WNOHANG == 0;
            WaitSelector::Process(pidfd(&file)?.id())
        }
        _ => return Err(Errno::EINVAL),
    };
    let options = if is_nonblocking { options | WNOHANG } else { options };
    let found = wait(call, selector, options, options & WNOWAIT == 0)?;
    if found.is_none() && is_nonblocking {
        return Err(Errno::EAGAIN);
    }
    let info = found.map(|(id, event)| match event {
        ChildEvent::Exit(exit) => exit.info(Signal::SIGCHLD, id),
        ChildEvent::Change(change) => tree::change_info(Signal::SIGCHLD, id, change, 0),
    });
    call.memory().write_optional(call.address(2), &info.unwrap_or_else(SigInfo::new_zeroed))?;
    let usage = RUsage::of(found.map_or(0, |(_, event)| event.cpu_time()));
    call.memory().write_optional(call.address(4), &usage).map(|()| 0)
}

pub fn pidfd_open(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = OpenFlags::from_bits_retain(call.int(1) as u32);
    let id = u32::try_from(call.int(0)).ok().filter(|&id| id > 0).ok_or(Errno::EINVAL)?;
    if !OpenFlags::NONBLOCK.contains(flags) {
        return Err(Errno::EINVAL);
    }
    let flags = flags | OpenFlags::READ_WRITE | OpenFlags::CLOEXEC;
    OpenFile::open(&call.process().files, PidFd::new(id)?, flags).map(u64::from)
}

/// Returns the pidfd.
///
/// # Errors
/// `EBADF` for another file.
pub(super) fn pidfd(file: &OpenFile) -> Result<&PidFd, Errno> {
    file.downcast().ok_or(Errno::EBADF)
}

/// An event that a wait returns.
#[derive(Clone, Copy)]
enum ChildEvent {
    Exit(ExitRecord),
    Change(JobChange),
}

impl ChildEvent {
    /// Returns the CPU time of a child that has exited.
    fn cpu_time(&self) -> Nanoseconds {
        match self {
            Self::Exit(exit) => exit.cpu_time,
            Self::Change(_) => 0,
        }
    }
}

/// Waits for an event of a selected child, and removes it if `removes`. `None` if `WNOHANG` is set and there
/// is none yet.
///
/// # Errors
/// `ECHILD` without such a child, `EINTR`.
fn wait(
    call: &SyscallContext<'_>,
    selector: WaitSelector,
    options: u32,
    removes: bool,
) -> Result<Option<(u32, ChildEvent)>, Errno> {
    let kind = match options {
        _ if options & WALL != 0 => ChildKind::All,
        _ if options & WCLONE != 0 => ChildKind::Cloned,
        _ => ChildKind::Forked,
    };
    let events = WaitEvents {
        exited: options & WEXITED != 0,
        stopped: options & WUNTRACED != 0,
        continued: options & WCONTINUED != 0,
    };
    let parent = call.process();
    let look = || match tree::wait(parent.id(), selector, (kind, events), removes) {
        ChildWait::Exited(id, exit) => Some(Ok(Some((id, ChildEvent::Exit(exit))))),
        ChildWait::Changed(id, change) => Some(Ok(Some((id, ChildEvent::Change(change))))),
        ChildWait::NoChild => Some(Err(Errno::ECHILD)),
        ChildWait::Pending if options & WNOHANG != 0 => Some(Ok(None)),
        ChildWait::Pending => None,
    };
    parent.child_exits.wait_interruptible(None, look).unwrap_or(Err(Errno::EINTR))
}

fn own_group(call: &SyscallContext<'_>) -> Result<u32, Errno> {
    tree::with(|tree| tree.group(call.process().id()))
}

/// Returns the process id in argument 0, where 0 is the caller's.
///
/// # Errors
/// `ESRCH` for a negative one.
fn target(call: &SyscallContext<'_>) -> Result<u32, Errno> {
    match call.int(0) {
        0 => Ok(call.process().id()),
        id => u32::try_from(id).map_err(|_| Errno::ESRCH),
    }
}

/// `setpgid`
pub fn set_group(call: &SyscallContext<'_>) -> SyscallResult {
    let group = u32::try_from(call.int(1)).map_err(|_| Errno::EINVAL)?;
    let id = target(call)?;
    let group = if group == 0 { id } else { group };
    tree::with(|tree| tree.set_group(call.process().id(), id, group)).map(|()| 0)
}

/// `getpgid`
pub fn group(call: &SyscallContext<'_>) -> SyscallResult {
    let id = target(call)?;
    tree::with(|tree| tree.group(id)).map(u64::from)
}

/// `getsid`
pub fn session(call: &SyscallContext<'_>) -> SyscallResult {
    let id = target(call)?;
    tree::with(|tree| tree.session(id)).map(u64::from)
}

/// `setsid`
pub fn start_session(call: &SyscallContext<'_>) -> SyscallResult {
    let id = call.process().id();
    tree::with(|tree| tree.start_session(id)).map(|()| id.into())
}
