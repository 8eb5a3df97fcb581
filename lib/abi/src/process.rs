//! Processes and threads.

use crate::clock::Timeval;
use crate::ioctl::{Ioctl, IoctlDirection};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// Flags of `clone` and `clone3` (`CLONE_*`). In `clone` the low byte is the exit signal.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CloneFlags: u64 {
        /// Shares the address space.
        const VM = 0x100;
        /// Shares the current directory.
        const FS = 0x200;
        /// Shares the descriptor table.
        const FILES = 0x400;
        /// Shares the signal handlers.
        const SIGHAND = 0x800;
        /// Stores a pidfd of the child: at `pidfd` for `clone3`, at `parent_tid` for `clone`.
        const PIDFD = 0x1000;
        /// The parent is that of the caller.
        const PARENT = 0x8000;
        /// A thread of the same process.
        const THREAD = 0x1_0000;
        /// Shares System V semaphore adjustments; there are none.
        const SYSVSEM = 0x4_0000;
        /// The parent waits until the child has executed a program or exited.
        const VFORK = 0x4000;
        /// Sets TPIDR_EL0 to the `tls` argument.
        const SETTLS = 0x8_0000;
        /// Stores the thread ID at `parent_tid`.
        const PARENT_SETTID = 0x10_0000;
        /// On thread exit, clears `child_tid` and performs a futex wake there.
        const CHILD_CLEARTID = 0x20_0000;
        /// Ignored, as in Linux.
        const DETACHED = 0x40_0000;
        /// Ignored, as in Linux without a tracer.
        const UNTRACED = 0x80_0000;
        /// Stores the thread ID at `child_tid`.
        const CHILD_SETTID = 0x100_0000;
        /// Shares the I/O context, which has no effect here.
        const IO = 0x8000_0000;
        /// Resets the signal handlers; `clone3` only.
        const CLEAR_SIGHAND = 0x1_0000_0000;
    }
}

/// The exit signal in the flags of `clone`.
pub const CSIGNAL: u64 = 0xff;

/// `struct clone_args`, of which later versions have more fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloneArgs {
    /// [`CloneFlags`].
    pub flags: u64,
    /// The address of the pidfd.
    pub pidfd: u64,
    /// The address of the thread ID in the child.
    pub child_tid: u64,
    /// The address of the thread ID in the parent.
    pub parent_tid: u64,
    /// The signal to the parent when the child exits.
    pub exit_signal: u64,
    /// The lowest address of the stack.
    pub stack: u64,
    /// The size of the stack.
    pub stack_size: u64,
    /// The `tls` argument.
    pub tls: u64,
}

/// `wait4`, `waitid`: returns at once.
pub const WNOHANG: u32 = 1;
/// `wait4`, `waitid`: stopped children, too.
pub const WUNTRACED: u32 = 2;
/// `waitid`: exited children.
pub const WEXITED: u32 = 4;
/// `wait4`, `waitid`: continued children, too.
pub const WCONTINUED: u32 = 8;
/// `waitid`: the child stays waitable.
pub const WNOWAIT: u32 = 0x0100_0000;
/// `wait4`, `waitid`: children of the calling thread only.
pub const WNOTHREAD: u32 = 0x2000_0000;
/// `wait4`, `waitid`: all children, with any exit signal.
pub const WALL: u32 = 0x4000_0000;
/// `wait4`, `waitid`: children with another exit signal than SIGCHLD.
pub const WCLONE: u32 = 0x8000_0000;

/// `waitid`: any child.
pub const P_ALL: u64 = 0;
/// `waitid`: the child with this id.
pub const P_PID: u64 = 1;
/// `waitid`: the children in this process group.
pub const P_PGID: u64 = 2;
/// `waitid`: the process of a pidfd.
pub const P_PIDFD: u64 = 3;

/// `struct rusage` of a process that is known by its CPU time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RUsage {
    /// User time: seconds and microseconds.
    pub user_time: [i64; 2],
    /// System time.
    pub system_time: [i64; 2],
    /// Memory, page faults, and so on: not counted.
    pub counts: [i64; 14],
}

impl RUsage {
    /// The usage of a process that ran for `cpu_time` nanoseconds.
    pub fn of(cpu_time: u64) -> Self {
        let user_time = [(cpu_time / 1_000_000_000) as i64, (cpu_time % 1_000_000_000 / 1000) as i64];
        Self { user_time, ..Self::default() }
    }
}

/// `prlimit64`: stack size in bytes.
pub const RLIMIT_STACK: u64 = 3;
/// `prlimit64`: size of a core file in bytes.
pub const RLIMIT_CORE: u64 = 4;
/// `prlimit64`: number of open files.
pub const RLIMIT_NOFILE: u64 = 7;
/// `prlimit64`: number of resources.
pub const RLIM_NLIMITS: u64 = 16;
/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;

/// `struct rlimit64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RLimit {
    /// The soft limit.
    pub current: u64,
    /// The hard limit.
    pub maximum: u64,
}

/// Scheduling policy: time sharing.
pub const SCHED_OTHER: u32 = 0;
/// Scheduling policy: real time without a time slice.
pub const SCHED_FIFO: u32 = 1;
/// Scheduling policy: real time, round robin.
pub const SCHED_RR: u32 = 2;
/// Scheduling policy: time sharing for computations.
pub const SCHED_BATCH: u32 = 3;
/// Scheduling policy: while no other thread runs.
pub const SCHED_IDLE: u32 = 5;
/// A flag of the policy: new threads have the default one.
pub const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;

/// The priorities of a scheduling policy; `None` for an unknown policy.
pub fn sched_priorities(policy: u32) -> Option<core::ops::RangeInclusive<u32>> {
    match policy {
        SCHED_FIFO | SCHED_RR => Some(1..=99),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => Some(0..=0),
        _ => None,
    }
}

/// `PIDFD_GET_INFO`: the information on a process. Later versions of `struct pidfd_info` have more fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PidFdInfo {
    /// The fields that are valid (`PIDFD_INFO_*`).
    pub mask: u64,
    /// There are no control groups.
    pub cgroup: u64,
    /// The thread id.
    pub pid: u32,
    /// The process id.
    pub tgid: u32,
    /// The parent.
    pub ppid: u32,
    /// Users and groups: real, effective, saved, of the file system.
    pub credentials: [u32; 8],
    /// The exit status of a process that was waited for: not known.
    pub exit_code: i32,
}

/// [`PidFdInfo`]: the ids are valid.
pub const PIDFD_INFO_PID: u64 = 1;
/// [`PidFdInfo`]: the users and groups are valid.
pub const PIDFD_INFO_CREDS: u64 = 2;

/// Returns whether an ioctl number is that of `PIDFD_GET_INFO` in any version.
pub fn is_pidfd_get_info(request: u32) -> bool {
    const SIZE: u32 = 0x3fff << 16;
    request & !SIZE == Ioctl::new::<u8>(IoctlDirection::ReadWrite, 0xff, 11).raw() & !SIZE
}

/// `prctl`: sets the name of the thread.
pub const PR_SET_NAME: i32 = 15;
/// `prctl`: returns the name of the thread.
pub const PR_GET_NAME: i32 = 16;
/// `prctl`: copies the auxiliary vector.
pub const PR_GET_AUXV: i32 = 0x4155_5856;

/// The name of a thread, zero-padded, with at least one zero (`TASK_COMM_LEN`).
pub type ThreadName = [u8; 16];

/// The name of a program's first thread: the last component of the path of its file.
pub fn thread_name(path: &[u8]) -> ThreadName {
    let mut name = ThreadName::default();
    let file = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let len = file.len().min(name.len() - 1);
    name[..len].copy_from_slice(&file[..len]);
    name
}

/// `struct sysinfo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SystemInfo {
    /// Seconds since boot.
    pub uptime: i64,
    /// Load averages. Tessera computes none.
    pub loads: [u64; 3],
    /// Memory in units of `memory_unit`.
    pub total_memory: u64,
    /// Free memory.
    pub free_memory: u64,
    /// Memory of shared-memory files.
    pub shared_memory: u64,
    /// Memory of buffers.
    pub buffer_memory: u64,
    /// There is no swap space.
    pub total_swap: u64,
    /// Free swap space.
    pub free_swap: u64,
    /// The number of threads.
    pub threads: u16,
    /// Padding.
    pub gap_threads: [u16; 3],
    /// High memory: none, since all memory is usable alike by programs.
    pub total_high: u64,
    /// Free high memory.
    pub free_high: u64,
    /// Bytes of a unit.
    pub memory_unit: u32,
    /// Padding.
    pub gap_unit: u32,
}

/// `getrusage`: the calling process.
pub const RUSAGE_SELF: i32 = 0;
/// `getrusage`: its children that were waited for.
pub const RUSAGE_CHILDREN: i32 = -1;
/// `getrusage`: the calling thread.
pub const RUSAGE_THREAD: i32 = 1;

/// `struct rusage`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceUsage {
    /// CPU time. Tessera counts the time in the kernel here too.
    pub user_time: Timeval,
    /// CPU time in the kernel.
    pub system_time: Timeval,
    /// Numbers of faults, transfers, messages and context switches, which Tessera does not count.
    pub counts: [u64; 14],
}

/// A string of [`UtsName`], zero-padded.
pub type UtsText = [u8; 65];

/// `struct new_utsname`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UtsName {
    /// Operating system name.
    pub sysname: UtsText,
    /// Host name.
    pub nodename: UtsText,
    /// Kernel release; C libraries check it against their minimum.
    pub release: UtsText,
    /// Kernel version and build.
    pub version: UtsText,
    /// Architecture.
    pub machine: UtsText,
    /// NIS domain name.
    pub domainname: UtsText,
}

/// Converts a string for [`UtsName`]; truncates it if necessary.
pub const fn uts_text(text: &str) -> UtsText {
    let (mut field, bytes) = ([0; 65], text.as_bytes());
    let mut at = 0;
    while at < bytes.len() && at < field.len() - 1 {
        field[at] = bytes[at];
        at += 1;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_is_named_after_its_file() {
        assert_eq!(&thread_name(b"/bin/cat"), b"cat\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&thread_name(b"a-name-that-is-too-long"), b"a-name-that-is-\0");
    }

    #[test]
    fn structures_have_the_size_of_linux() {
        assert_eq!((size_of::<SystemInfo>(), size_of::<ResourceUsage>()), (112, 144));
        assert_eq!(size_of::<PidFdInfo>(), 64, "the first version");
        assert!(
            is_pidfd_get_info(0xc040_ff0b)
                && is_pidfd_get_info(0xc050_ff0b)
                && !is_pidfd_get_info(0xc040_ff0c)
        );
        assert_eq!(core::mem::offset_of!(SystemInfo, total_high), 88);
    }

    #[test]
    fn real_time_policies_have_priorities() {
        let policies = [SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, 4, SCHED_IDLE];
        let expected = [Some(0..=0), Some(1..=99), Some(1..=99), Some(0..=0), None, Some(0..=0)];
        assert_eq!(policies.map(sched_priorities), expected);
    }

    #[test]
    fn uts_strings_are_truncated_and_zero_terminated() {
        assert_eq!(&uts_text("Linux")[..6], b"Linux\0");
        let long = "x".repeat(100);
        assert_eq!(uts_text(&long)[63..], [b'x', 0]);
        assert_eq!(size_of::<UtsName>(), 390);
    }
}
