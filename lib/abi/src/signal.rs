//! Signals. They are recorded but not delivered: a program that faults or aborts is terminated, and the
//! report names the signal that Linux would send.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! signals {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        /// A signal that terminates a program.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Signal {
            $(#[doc = concat!($text, ".")] $name = $number,)*
        }

        impl Signal {
            /// The signal with this number; `None` for other signals.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

signals! {
    SIGILL = 4 "illegal instruction",
    SIGTRAP = 5 "breakpoint",
    SIGABRT = 6 "abort",
    SIGBUS = 7 "bus error: alignment fault or memory error",
    SIGFPE = 8 "floating-point exception",
    SIGKILL = 9 "kill",
    SIGSEGV = 11 "segmentation violation: invalid memory reference",
    SIGPIPE = 13 "broken pipe",
    SIGTERM = 15 "termination request",
    SIGSYS = 31 "bad system call",
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
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

/// No alternate signal stack.
pub const SS_DISABLE: u32 = 2;

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
        assert_eq!(Signal::from_number(11).unwrap().to_string(), "SIGSEGV");
        assert_eq!(Signal::from_number(0), None);
        assert_eq!((size_of::<SigAction>(), size_of::<StackT>()), (32, 24));
    }
}
