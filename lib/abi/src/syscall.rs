//! System call numbers of arm64 (Linux `include/uapi/asm-generic/unistd.h`).

macro_rules! syscalls {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        /// A system call that Tessera implements; the number is passed in x8.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Syscall {
            $(#[doc = concat!("`", $text, "`")] $name = $number,)*
        }

        impl Syscall {
            /// All system calls in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The system call with this number; `None` if not implemented.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as in the Linux manual.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The number.
            pub const fn number(self) -> u64 {
                self as u64
            }
        }
    };
}

syscalls! {
    GetXAttr = 8 "getxattr",
    LGetXAttr = 9 "lgetxattr",
    FGetXAttr = 10 "fgetxattr",
    ListXAttr = 11 "listxattr",
    LListXAttr = 12 "llistxattr",
    FListXAttr = 13 "flistxattr",
    GetCwd = 17 "getcwd",
    EventFd2 = 19 "eventfd2",
    EpollCreate1 = 20 "epoll_create1",
    EpollCtl = 21 "epoll_ctl",
    EpollPWait = 22 "epoll_pwait",
    Dup = 23 "dup",
    Dup3 = 24 "dup3",
    Fcntl = 25 "fcntl",
    Ioctl = 29 "ioctl",
    MkNodAt = 33 "mknodat",
    MkDirAt = 34 "mkdirat",
    UnlinkAt = 35 "unlinkat",
    SymLinkAt = 36 "symlinkat",
    LinkAt = 37 "linkat",
    RenameAt = 38 "renameat",
    StatFs = 43 "statfs",
    FStatFs = 44 "fstatfs",
    Truncate = 45 "truncate",
    FTruncate = 46 "ftruncate",
    FAllocate = 47 "fallocate",
    FAccessAt = 48 "faccessat",
    ChDir = 49 "chdir",
    FChDir = 50 "fchdir",
    FChMod = 52 "fchmod",
    FChModAt = 53 "fchmodat",
    FChOwnAt = 54 "fchownat",
    FChOwn = 55 "fchown",
    OpenAt = 56 "openat",
    Close = 57 "close",
    Pipe2 = 59 "pipe2",
    GetDents64 = 61 "getdents64",
    LSeek = 62 "lseek",
    Read = 63 "read",
    Write = 64 "write",
    ReadV = 65 "readv",
    WriteV = 66 "writev",
    PRead64 = 67 "pread64",
    PWrite64 = 68 "pwrite64",
    PReadV = 69 "preadv",
    PWriteV = 70 "pwritev",
    PSelect6 = 72 "pselect6",
    PPoll = 73 "ppoll",
    SignalFd4 = 74 "signalfd4",
    ReadLinkAt = 78 "readlinkat",
    NewFStatAt = 79 "newfstatat",
    FStat = 80 "fstat",
    Sync = 81 "sync",
    FSync = 82 "fsync",
    FDataSync = 83 "fdatasync",
    TimerFdCreate = 85 "timerfd_create",
    TimerFdSetTime = 86 "timerfd_settime",
    TimerFdGetTime = 87 "timerfd_gettime",
    UTimeNsAt = 88 "utimensat",
    Exit = 93 "exit",
    ExitGroup = 94 "exit_group",
    WaitId = 95 "waitid",
    SetTidAddress = 96 "set_tid_address",
    Futex = 98 "futex",
    SetRobustList = 99 "set_robust_list",
    GetRobustList = 100 "get_robust_list",
    NanoSleep = 101 "nanosleep",
    GetITimer = 102 "getitimer",
    SetITimer = 103 "setitimer",
    TimerCreate = 107 "timer_create",
    TimerGetTime = 108 "timer_gettime",
    TimerGetOverrun = 109 "timer_getoverrun",
    TimerSetTime = 110 "timer_settime",
    TimerDelete = 111 "timer_delete",
    ClockGetTime = 113 "clock_gettime",
    ClockGetRes = 114 "clock_getres",
    ClockNanoSleep = 115 "clock_nanosleep",
    SchedSetParam = 118 "sched_setparam",
    SchedSetScheduler = 119 "sched_setscheduler",
    SchedGetScheduler = 120 "sched_getscheduler",
    SchedGetParam = 121 "sched_getparam",
    SchedSetAffinity = 122 "sched_setaffinity",
    SchedGetAffinity = 123 "sched_getaffinity",
    SchedYield = 124 "sched_yield",
    SchedGetPriorityMax = 125 "sched_get_priority_max",
    SchedGetPriorityMin = 126 "sched_get_priority_min",
    SchedRrGetInterval = 127 "sched_rr_get_interval",
    Kill = 129 "kill",
    TKill = 130 "tkill",
    TgKill = 131 "tgkill",
    SigAltStack = 132 "sigaltstack",
    RtSigSuspend = 133 "rt_sigsuspend",
    RtSigAction = 134 "rt_sigaction",
    RtSigProcMask = 135 "rt_sigprocmask",
    RtSigPending = 136 "rt_sigpending",
    RtSigTimedWait = 137 "rt_sigtimedwait",
    RtSigReturn = 139 "rt_sigreturn",
    Times = 153 "times",
    SetPgid = 154 "setpgid",
    GetPgid = 155 "getpgid",
    GetSid = 156 "getsid",
    SetSid = 157 "setsid",
    GetGroups = 158 "getgroups",
    Uname = 160 "uname",
    GetRUsage = 165 "getrusage",
    UMask = 166 "umask",
    PrCtl = 167 "prctl",
    GetCpu = 168 "getcpu",
    GetTimeOfDay = 169 "gettimeofday",
    GetPid = 172 "getpid",
    GetPpid = 173 "getppid",
    GetUid = 174 "getuid",
    GetEuid = 175 "geteuid",
    GetGid = 176 "getgid",
    GetEgid = 177 "getegid",
    GetTid = 178 "gettid",
    SysInfo = 179 "sysinfo",
    SocketPair = 199 "socketpair",
    SendTo = 206 "sendto",
    RecvFrom = 207 "recvfrom",
    Shutdown = 210 "shutdown",
    Brk = 214 "brk",
    MUnmap = 215 "munmap",
    MRemap = 216 "mremap",
    Clone = 220 "clone",
    ExecVe = 221 "execve",
    MMap = 222 "mmap",
    FAdvise64 = 223 "fadvise64",
    MProtect = 226 "mprotect",
    MSync = 227 "msync",
    MLock = 228 "mlock",
    MUnlock = 229 "munlock",
    MLockAll = 230 "mlockall",
    MUnlockAll = 231 "munlockall",
    MInCore = 232 "mincore",
    MAdvise = 233 "madvise",
    Wait4 = 260 "wait4",
    PrLimit64 = 261 "prlimit64",
    RenameAt2 = 276 "renameat2",
    GetRandom = 278 "getrandom",
    MemfdCreate = 279 "memfd_create",
    ExecVeAt = 281 "execveat",
    MLock2 = 284 "mlock2",
    Statx = 291 "statx",
    PidFdSendSignal = 424 "pidfd_send_signal",
    PidFdOpen = 434 "pidfd_open",
    Clone3 = 435 "clone3",
    FAccessAt2 = 439 "faccessat2",
    EpollPWait2 = 441 "epoll_pwait2",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_match_linux_and_ascend() {
        assert!(Syscall::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for &call in Syscall::ALL {
            assert_eq!(Syscall::from_number(call.number()), Some(call), "{}", call.name());
        }
        // Well-known numbers, as in any arm64 assembly listing.
        assert_eq!(Syscall::Write.number(), 64);
        assert_eq!(Syscall::MMap.number(), 222);
        assert_eq!(Syscall::from_number(220), Some(Syscall::Clone));
    }

    #[test]
    fn unimplemented_numbers_are_none() {
        for number in [0, 300, 1 << 16 | 64, u64::MAX] {
            assert_eq!(Syscall::from_number(number), None, "{number}");
        }
    }
}
