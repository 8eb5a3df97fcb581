//! Signals: recorded, not delivered. A program that faults or aborts is ended, and the report names the signal that
//! Linux would have sent.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! signals {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        /// A signal that can end a program here.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Signal {
            $(#[doc = concat!($text, ".")] $name = $number,)*
        }

        impl Signal {
            /// The signal with this number, if it is one of these.
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
    SIGABRT = 6 "the program gave up",
    SIGBUS = 7 "alignment, or memory that failed",
    SIGFPE = 8 "floating point exception",
    SIGKILL = 9 "ended from outside",
    SIGSEGV = 11 "no such memory, or not for this",
    SIGPIPE = 13 "nobody reads",
    SIGTERM = 15 "asked to end",
    SIGSYS = 31 "bad system call",
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One more than the last signal's number.
pub const SIGNALS: usize = 65;
/// Bytes of a signal set in the kernel interface.
pub const SIGSET_BYTES: u64 = 8;

/// `rt_sigprocmask`: add to the mask.
pub const SIG_BLOCK: u64 = 0;
/// `rt_sigprocmask`: take from the mask.
pub const SIG_UNBLOCK: u64 = 1;
/// `rt_sigprocmask`: replace the mask.
pub const SIG_SETMASK: u64 = 2;

/// The handler that stands for "ignore it".
pub const SIG_IGN: u64 = 1;

/// `struct sigaction` of the arm64 kernel interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// Address of the handler, 0 for the default, [`SIG_IGN`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// What the C library wants to be returned to.
    pub restorer: u64,
    /// Signals blocked while it runs.
    pub mask: u64,
}

/// `stack_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StackT {
    /// First byte.
    pub base: u64,
    /// [`SS_DISABLE`] or 0.
    pub flags: u32,
    /// Padding.
    pub gap_flags: u32,
    /// Bytes.
    pub size: u64,
}

/// There is no alternative stack.
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
    fn signals_print_as_their_names() {
        assert_eq!(Signal::from_number(11).unwrap().to_string(), "SIGSEGV");
        assert_eq!(Signal::from_number(0), None);
        assert_eq!((size_of::<SigAction>(), size_of::<StackT>()), (32, 24));
    }
}
