//! Signals.

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

/// Handler value: the default action.
pub const SIG_DFL: u64 = 0;
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

impl StackT {
    /// Whether `sp` is on the stack.
    pub const fn contains(&self, sp: u64) -> bool {
        self.flags & SS_DISABLE == 0 && sp > self.base && sp - self.base <= self.size
    }

    /// Whether a handler runs on the stack when the stack pointer is `sp`; not known for one that is disarmed
    /// meanwhile.
    pub const fn is_active_at(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.contains(sp)
    }

    /// The stack as programs see it when the stack pointer is `sp`.
    pub const fn seen_at(self, sp: u64) -> Self {
        let flags = if self.is_active_at(sp) { self.flags | SS_ONSTACK } else { self.flags };
        Self { flags, ..self }
    }
}

impl Default for StackT {
    fn default() -> Self {
        Self { base: 0, flags: SS_DISABLE, gap_flags: 0, size: 0 }
    }
}

/// A set of signals: bit n - 1 is signal n.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// The signals that an instruction raises; delivered before the others.
    pub const SYNCHRONOUS: Self = Self::EMPTY
        .with(Signal::SIGILL)
        .with(Signal::SIGTRAP)
        .with(Signal::SIGBUS)
        .with(Signal::SIGFPE)
        .with(Signal::SIGSEGV)
        .with(Signal::SIGSYS);

    /// The set of a mask as programs store it.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The mask.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// This set and `signal`.
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << (signal.0 - 1))
    }

    /// This set without `signal`.
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !(1 << (signal.0 - 1)))
    }

    /// The signals of both sets.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The signals of this set that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The signals in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The signals that are not in this set.
    pub const fn complement(self) -> Self {
        Self(!self.0)
    }

    /// Whether `signal` is in the set.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & 1 << (signal.0 - 1) != 0
    }

    /// Whether there is no signal in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The signal with the lowest number.
    pub const fn first(self) -> Option<Signal> {
        Signal::from_number(self.0.trailing_zeros() as u64 + 1)
    }
}

/// `siginfo_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    /// The signal.
    pub signal: i32,
    /// Unused.
    pub errno: i32,
    /// `SI_*` or a code of the signal.
    pub code: i32,
    /// Padding.
    pub gap_code: u32,
    /// By code: the sender's process and user id and a value, or the address of a fault.
    pub fields: [u64; 14],
}

/// `si_code`: sent by `kill`.
pub const SI_USER: i32 = 0;
/// `si_code`: sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// `si_code`: sent by `tkill` or `tgkill`.
pub const SI_TKILL: i32 = -6;
/// `si_code`: sent by a POSIX timer.
pub const SI_TIMER: i32 = -2;
/// `si_code` of SIGCHLD: the child has exited.
pub const CLD_EXITED: i32 = 1;
/// `si_code` of SIGCHLD: a signal has terminated the child.
pub const CLD_KILLED: i32 = 2;
/// `si_code` of SIGCHLD: the child has stopped.
pub const CLD_STOPPED: i32 = 5;
/// `si_code` of SIGCHLD: the child has continued.
pub const CLD_CONTINUED: i32 = 6;
/// `si_code` of SIGSEGV: no mapping at the address.
pub const SEGV_MAPERR: i32 = 1;
/// `si_code` of SIGSEGV: the mapping does not permit the access.
pub const SEGV_ACCERR: i32 = 2;
/// `si_code` of SIGBUS: unaligned address.
pub const BUS_ADRALN: i32 = 1;
/// `si_code` of SIGBUS: no memory behind the address.
pub const BUS_ADRERR: i32 = 2;
/// `si_code` of SIGILL: illegal opcode.
pub const ILL_ILLOPC: i32 = 1;
/// `si_code` of SIGTRAP: breakpoint.
pub const TRAP_BRKPT: i32 = 1;

impl SigInfo {
    const fn new(signal: Signal, code: i32) -> Self {
        Self { signal: signal.0 as i32, errno: 0, code, gap_code: 0, fields: [0; 14] }
    }

    /// A signal from process `sender`, of user 0.
    pub const fn sent(signal: Signal, code: i32, sender: u32) -> Self {
        let mut info = Self::new(signal, code);
        info.fields[0] = sender as u64;
        info
    }

    /// A signal of POSIX timer `id`, with the value of its [`SigEvent`].
    pub const fn timer(signal: Signal, id: u32, value: u64) -> Self {
        let mut info = Self::new(signal, SI_TIMER);
        (info.fields[0], info.fields[1]) = (id as u64, value);
        info
    }

    /// The id of the POSIX timer that sent the signal.
    pub const fn timer_id(&self) -> Option<u32> {
        if self.code == SI_TIMER { Some(self.fields[0] as u32) } else { None }
    }

    /// Sets the number of expirations of the POSIX timer after that which sent the signal.
    pub const fn set_overrun(&mut self, count: u32) {
        self.fields[0] = self.fields[0] as u32 as u64 | (count as u64) << 32;
    }

    /// The exit of the child `id`, of user 0, with a status by `code`, which ran for `cpu_time` nanoseconds.
    pub const fn child(signal: Signal, code: i32, id: u32, status: i32, cpu_time: u64) -> Self {
        /// Nanoseconds of a clock tick: `USER_HZ` is 100.
        const TICK: u64 = 10_000_000;
        let mut info = Self::sent(signal, code, id);
        (info.fields[1], info.fields[2]) = (status as u32 as u64, cpu_time / TICK);
        info
    }

    /// A signal of the kernel because of an access to `address`, or an instruction there.
    pub const fn fault(signal: Signal, code: i32, address: u64) -> Self {
        let mut info = Self::new(signal, code);
        info.fields[0] = address;
        info
    }
}

/// `struct sigevent`: the notification of a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigEvent {
    /// Passed to the handler.
    pub value: u64,
    /// The signal.
    pub signal: i32,
    /// `SIGEV_*`.
    pub notify: i32,
    /// The thread of [`SIGEV_THREAD_ID`].
    pub thread: u32,
    /// Unused.
    pub unused: [u32; 11],
}

/// `sigevent`: a signal to the process.
pub const SIGEV_SIGNAL: i32 = 0;
/// `sigevent`: no notification.
pub const SIGEV_NONE: i32 = 1;
/// `sigevent`: a thread, which the C library starts: to the kernel, a signal.
pub const SIGEV_THREAD: i32 = 2;
/// `sigevent`: a signal to a thread.
pub const SIGEV_THREAD_ID: i32 = 4;

/// `struct signalfd_siginfo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalFdInfo {
    /// The signal.
    pub signal: u32,
    /// Unused.
    pub errno: i32,
    /// `SI_*` or a code of the signal.
    pub code: i32,
    /// The sender's process id.
    pub process: u32,
    /// The sender's user id.
    pub user: u32,
    /// Unused.
    pub descriptor: i32,
    /// The id of the POSIX timer.
    pub timer: u32,
    /// Unused.
    pub band: u32,
    /// The overrun count of the timer.
    pub overrun: u32,
    /// Unused.
    pub trap: u32,
    /// The exit status of a child.
    pub status: i32,
    /// The low half of `pointer`.
    pub value: i32,
    /// The value that was sent with the signal.
    pub pointer: u64,
    /// CPU times of a child.
    pub times: [u64; 2],
    /// The address of a fault.
    pub address: u64,
    /// Unused.
    pub unused: [u64; 6],
}

impl From<SigInfo> for SignalFdInfo {
    fn from(info: SigInfo) -> Self {
        let [low, high] = [info.fields[0] as u32, (info.fields[0] >> 32) as u32];
        let base = Self { signal: info.signal as u32, errno: info.errno, code: info.code, ..Self::default() };
        let signal = Signal::from_number(info.signal as u64);
        let is_fault = signal.is_some_and(|signal| SignalSet::SYNCHRONOUS.contains(signal));
        match info.code {
            SI_TIMER => {
                let value = info.fields[1] as i32;
                Self { timer: low, overrun: high, pointer: info.fields[1], value, ..base }
            }
            code if code > 0 && code != SI_KERNEL && is_fault => Self { address: info.fields[0], ..base },
            code if code > 0 && code != SI_KERNEL && signal == Some(Signal::SIGCHLD) => {
                let status = info.fields[1] as i32;
                Self { process: low, user: high, status, times: [info.fields[2], info.fields[3]], ..base }
            }
            _ => {
                let value = info.fields[1] as i32;
                Self { process: low, user: high, pointer: info.fields[1], value, ..base }
            }
        }
    }
}

/// `sigaction` of SIGCHLD: not sent for children that stop or continue.
pub const SA_NOCLDSTOP: u64 = 1;
/// `sigaction` of SIGCHLD: exits of children are not waited for.
pub const SA_NOCLDWAIT: u64 = 2;
/// `sigaction`: the handler gets a [`SigInfo`] and a [`UContext`].
pub const SA_SIGINFO: u64 = 4;
/// `sigaction`: the handler runs on the alternate signal stack.
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// `sigaction`: system calls that the signal interrupts are restarted.
pub const SA_RESTART: u64 = 0x1000_0000;
/// `sigaction`: the signal is not blocked during its handler.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// `sigaction`: the action becomes the default one when the handler is called.
pub const SA_RESETHAND: u64 = 0x8000_0000;
/// `sigaction`: `restorer` is the return address of the handler.
pub const SA_RESTORER: u64 = 0x0400_0000;

/// The size of `struct rt_sigframe`: a [`SignalFrame`], and room for further records.
pub const SIGNAL_FRAME_BYTES: u64 = 4688;

/// The bytes that the kernel uses on the stack of a handler: the frame, a frame record, and their alignment.
pub const SIGNAL_STACK_BYTES: u64 = SIGNAL_FRAME_BYTES + 16 + 16;

/// The part of `struct rt_sigframe` that the kernel stores on the stack of a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalFrame {
    /// The signal.
    pub info: SigInfo,
    /// The interrupted context.
    pub context: UContext,
}

/// `ucontext_t` of arm64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UContext {
    /// Unused.
    pub flags: u64,
    /// Unused.
    pub link: u64,
    /// The alternate signal stack.
    pub stack: StackT,
    /// The signal mask.
    pub mask: u64,
    /// Room for a larger mask, and the alignment of the next field.
    pub gap_mask: [u64; 16],
    /// The address of a fault.
    pub fault_address: u64,
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// The processor state.
    pub pstate: u64,
    /// The alignment of the next field.
    pub gap_records: u64,
    /// The FP/SIMD registers: the first of the records that follow, each with a tag and its size.
    pub fp: FpRecord,
    /// The record that ends them: zero.
    pub end: [u64; 2],
}

/// `struct fpsimd_context`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FpRecord {
    /// [`FP_MAGIC`].
    pub magic: u32,
    /// The size of the record.
    pub size: u32,
    /// The status register.
    pub fpsr: u32,
    /// The control register.
    pub fpcr: u32,
    /// q0 to q31, the low half first.
    pub q: [[u64; 2]; 32],
}

/// The tag of [`FpRecord`] (`FPSIMD_MAGIC`).
pub const FP_MAGIC: u32 = 0x4650_8001;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn signals_display_their_names() {
        let name = |number| Signal::from_number(number).map(|signal| signal.to_string());
        assert_eq!([name(11).unwrap(), name(34).unwrap()], ["SIGSEGV", "signal 34"]);
        assert_eq!([name(0), name(65), name(256 + 9)], [None, None, None]);
        assert_eq!((size_of::<SigAction>(), size_of::<StackT>()), (32, 24));
    }

    #[test]
    fn signalfd_structure_has_the_fields_of_the_code() {
        assert_eq!((size_of::<SignalFdInfo>(), size_of::<SigEvent>()), (128, 64));
        assert_eq!((offset_of!(SignalFdInfo, pointer), offset_of!(SignalFdInfo, address)), (48, 72));
        let mut timer = SigInfo::timer(Signal::SIGALRM, 3, 0x1_0000_0005);
        timer.set_overrun(7);
        timer.set_overrun(2);
        let seen = SignalFdInfo::from(timer);
        assert_eq!((seen.signal, seen.code, seen.timer, seen.overrun), (14, SI_TIMER, 3, 2));
        assert_eq!((seen.value, seen.pointer, seen.process), (5, 0x1_0000_0005, 0));
        assert_eq!(
            (timer.timer_id(), SigInfo::sent(Signal::SIGALRM, SI_USER, 9).timer_id()),
            (Some(3), None)
        );
        assert_eq!(SignalFdInfo::from(SigInfo::sent(Signal::SIGUSR1, SI_TKILL, 9)).process, 9);
        let fault = SignalFdInfo::from(SigInfo::fault(Signal::SIGSEGV, SEGV_MAPERR, 0x1000));
        assert_eq!((fault.address, fault.process), (0x1000, 0));
    }

    #[test]
    fn frame_layout_matches_arm64_linux() {
        assert_eq!((size_of::<SigInfo>(), offset_of!(SigInfo, fields)), (128, 16));
        assert_eq!((size_of::<SignalFrame>(), offset_of!(SignalFrame, context)), (1136, 128));
        assert_eq!((offset_of!(UContext, mask), offset_of!(UContext, fault_address)), (40, 176));
        assert_eq!((offset_of!(UContext, pc), offset_of!(UContext, fp)), (176 + 264, 176 + 288));
        assert_eq!((size_of::<FpRecord>(), offset_of!(UContext, end)), (528, 176 + 288 + 528));
    }

    #[test]
    fn first_signal_of_a_set_has_the_lowest_number() {
        let set = SignalSet::EMPTY.with(Signal::SIGTERM).with(Signal::SIGHUP);
        assert_eq!(set.first(), Some(Signal::SIGHUP));
        assert_eq!(set.without(Signal::SIGHUP).first(), Some(Signal::SIGTERM));
        assert_eq!(SignalSet::EMPTY.first(), None);
        assert_eq!(SignalSet::from_bits(1 << 63).first().map(Signal::number), Some(64));
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
