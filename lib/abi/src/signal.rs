//! Signals. Handlers are recorded but not called: a program that faults or aborts is terminated, and the
//! report names the signal that Linux would send.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A signal, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Signal(u8);

/// The effect of a signal without a handler (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// The process is terminated.
    Terminate,
    /// The signal is ignored.
    Ignore,
    /// The process is stopped.
    Stop,
}

macro_rules! signals {
    ($($name:ident = $number:literal $action:ident $text:literal),* $(,)?) => {
        impl Signal {
            $(#[doc = concat!($text, ".")] pub const $name: Self = Self($number);)*

            /// The name of a signal that has one.
            const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The effect without a handler; real-time signals terminate.
            pub const fn default_action(self) -> DefaultAction {
                match self {
                    $(Self::$name => DefaultAction::$action,)*
                    _ => DefaultAction::Terminate,
                }
            }
        }
    };
}

signals! {
    SIGHUP = 1 Terminate "hangup of the terminal",
    SIGINT = 2 Terminate "interrupt from the terminal",
    SIGQUIT = 3 Terminate "quit from the terminal",
    SIGILL = 4 Terminate "illegal instruction",
    SIGTRAP = 5 Terminate "breakpoint",
    SIGABRT = 6 Terminate "abort",
    SIGBUS = 7 Terminate "bus error: alignment fault or memory error",
    SIGFPE = 8 Terminate "floating-point exception",
    SIGKILL = 9 Terminate "kill",
    SIGUSR1 = 10 Terminate "user-defined signal 1",
    SIGSEGV = 11 Terminate "segmentation violation: invalid memory reference",
    SIGUSR2 = 12 Terminate "user-defined signal 2",
    SIGPIPE = 13 Terminate "broken pipe",
    SIGALRM = 14 Terminate "timer of `alarm`",
    SIGTERM = 15 Terminate "termination request",
    SIGSTKFLT = 16 Terminate "unused",
    SIGCHLD = 17 Ignore "child stopped or terminated",
    SIGCONT = 18 Ignore "continue if stopped",
    SIGSTOP = 19 Stop "stop",
    SIGTSTP = 20 Stop "stop from the terminal",
    SIGTTIN = 21 Stop "terminal input of a background process",
    SIGTTOU = 22 Stop "terminal output of a background process",
    SIGURG = 23 Ignore "urgent data of a socket",
    SIGXCPU = 24 Terminate "CPU time limit exceeded",
    SIGXFSZ = 25 Terminate "file size limit exceeded",
    SIGVTALRM = 26 Terminate "virtual timer",
    SIGPROF = 27 Terminate "profiling timer",
    SIGWINCH = 28 Ignore "window size changed",
    SIGIO = 29 Terminate "input or output possible",
    SIGPWR = 30 Terminate "power failure",
    SIGSYS = 31 Terminate "bad system call",
}

impl Signal {
    /// The signal with this number; `None` unless it is from 1 to 64.
    pub const fn from_number(number: u64) -> Option<Self> {
        if 0 < number && number < SIGNALS as u64 { Some(Self(number as u8)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// Whether it can be neither caught, blocked nor ignored.
    pub const fn is_unblockable(self) -> bool {
        matches!(self, Self::SIGKILL | Self::SIGSTOP)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A signal mask without [unblockable](Signal::is_unblockable) signals, as which masks are stored.
pub const fn blockable(mask: u64) -> u64 {
    mask & !(1 << (Signal::SIGKILL.0 - 1) | 1 << (Signal::SIGSTOP.0 - 1))
}

/// The number of signals, including the unused signal 0.
pub const SIGNALS: usize = 65;
/// Size of a signal set in the kernel interface, in bytes.
pub const SIGSET_BYTES: u64 = 8;

/// `rt_sigprocmask`: adds to the mask.
pub const SIG_BLOCK: u64 = 0;
/// `rt_sigprocmask`: removes from the mask.
pub const SIG_UNBLOCK: u64 = 1;
/// `rt_sigprocmask`: replaces the mask.
pub const SIG_SETMASK: u64 = 2;

/// Handler value: the signal is ignored.
pub const SIG_IGN: u64 = 1;

/// `struct sigaction` of the arm64 kernel interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// Address of the handler, 0 for the default action, or [`SIG_IGN`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Return address of the handler, set by the C library.
    pub restorer: u64,
    /// Signals blocked during the handler.
    pub mask: u64,
}

/// `stack_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StackT {
    /// Base address.
    pub base: u64,
    /// [`SS_DISABLE`] or 0.
    pub flags: u32,
    /// Padding.
    pub gap_flags: u32,
    /// Size in bytes.
    pub size: u64,
}

/// The thread runs on the alternate signal stack; as an argument the same as 0.
pub const SS_ONSTACK: u32 = 1;
/// No alternate signal stack.
pub const SS_DISABLE: u32 = 2;
/// The stack is disabled while a handler runs on it.
pub const SS_AUTODISARM: u32 = 1 << 31;
/// The minimum size of an alternate signal stack on arm64 (`MINSIGSTKSZ`).
pub const MINSIGSTKSZ: u64 = 5120;

impl Default for StackT {
    fn default() -> Self {
        Self { base: 0, flags: SS_DISABLE, gap_flags: 0, size: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_display_their_names() {
        let name = |number| Signal::from_number(number).map(|signal| signal.to_string());
        assert_eq!([name(11).unwrap(), name(34).unwrap()], ["SIGSEGV", "signal 34"]);
        assert_eq!([name(0), name(65), name(256 + 9)], [None, None, None]);
        assert_eq!((size_of::<SigAction>(), size_of::<StackT>()), (32, 24));
    }

    #[test]
    fn default_actions_match_linux() {
        let with = |action| {
            let all = (1..65).filter_map(Signal::from_number);
            all.filter(|signal| signal.default_action() == action).map(|signal| signal.0).collect::<Vec<_>>()
        };
        assert_eq!(with(DefaultAction::Ignore), [17, 18, 23, 28]);
        assert_eq!(with(DefaultAction::Stop), [19, 20, 21, 22]);
    }

    #[test]
    fn masks_never_contain_kill_and_stop() {
        assert_eq!(!blockable(u64::MAX), 1 << 8 | 1 << 18);
        assert_eq!(blockable(0x1_0001), 0x1_0001);
    }
}
