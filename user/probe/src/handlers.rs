//! Signal handlers: their arguments, stacks and masks, and the program after them.

use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::raw;
use crate::result::{ProbeResult, ensure};

const PAGE: usize = 4096;

/// The calls of the handler, and the arguments of the last one.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// The address of a local variable of the handler.
static STACK: AtomicU64 = AtomicU64::new(0);
/// The depth of nested calls, and its maximum.
static DEPTH: AtomicUsize = AtomicUsize::new(0);
static MAX_DEPTH: AtomicUsize = AtomicUsize::new(0);
/// Signals that the handler still raises.
static RAISES: AtomicI64 = AtomicI64::new(0);

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let local = 0u8;
    STACK.store((&raw const local).expose_provenance() as u64, SeqCst);
    SIGNAL.store(signal, SeqCst);
    // SAFETY: the kernel passes a `siginfo_t` to a handler with SA_SIGINFO.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
    CODE.store(code, SeqCst);
    ADDRESS.store(address.expose_provenance() as u64, SeqCst);
    MAX_DEPTH.fetch_max(DEPTH.fetch_add(1, SeqCst) + 1, SeqCst);
    if RAISES.fetch_sub(1, SeqCst) > 0 {
        raise(signal);
    }
    clear_vectors();
    CALLS.fetch_add(1, SeqCst);
    DEPTH.fetch_sub(1, SeqCst);
}

/// Makes the accessed page accessible.
extern "C" fn repair(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as in `handler`; the page is one of `fault`.
    unsafe {
        let page = (*info).si_addr().map_addr(|at| at & !(PAGE - 1));
        libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE);
    }
    handler(signal, info, context);
}

type SignalHandler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

fn set_action(signal: i32, handler: Option<SignalHandler>, flags: i32) {
    // SAFETY: zero is a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler.map_or(libc::SIG_DFL, |handler| handler as *const () as usize);
    action.sa_flags = flags | libc::SA_SIGINFO;
    // SAFETY: a valid action.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    CALLS.store(0, SeqCst);
    MAX_DEPTH.store(0, SeqCst);
}

/// The id of the calling thread.
fn thread_id() -> u64 {
    // SAFETY: no arguments.
    unsafe { raw::call(libc::SYS_gettid, [0; 6]) as u64 }
}

/// Sends `signal` to a thread of this process.
fn send(thread: u64, signal: i32) -> i64 {
    let process = u64::from(std::process::id());
    // SAFETY: the signal has a handler, or is blocked.
    unsafe { raw::call(libc::SYS_tgkill, [process, thread, signal as u64, 0, 0, 0]) }
}

fn raise(signal: i32) -> i64 {
    send(thread_id(), signal)
}

/// Replaces the mask of the calling thread, and returns the old one.
fn set_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    let [new_at, old_at] = [(&raw const mask).expose_provenance(), (&raw mut old).expose_provenance()];
    let how = libc::SIG_SETMASK as u64;
    // SAFETY: reads `mask` and writes `old`.
    unsafe { raw::call(libc::SYS_rt_sigprocmask, [how, new_at as u64, old_at as u64, 8, 0, 0]) };
    old
}

fn pending() -> u64 {
    let mut set = 0u64;
    // SAFETY: writes `set`.
    unsafe { raw::call(libc::SYS_rt_sigpending, [(&raw mut set).expose_provenance() as u64, 8, 0, 0, 0, 0]) };
    set
}

/// The values in v0 and v31 when [`raise_with_vectors`] raises a signal.
const VECTORS: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// Raises `signal`; returns the result, and v0 and v31 after it.
#[cfg(target_arch = "aarch64")]
fn raise_with_vectors(signal: i32) -> (i64, [u64; 2]) {
    let (mut result, [mut first, mut last]) = (u64::from(std::process::id()), VECTORS);
    // SAFETY: the signal has a handler; the registers are declared.
    unsafe {
        std::arch::asm!(
            "fmov d0, {first}", "fmov d31, {last}", "svc #0", "fmov {first}, d0", "fmov {last}, d31",
            first = inout(reg) first, last = inout(reg) last, inout("x0") result, in("x1") thread_id(),
            in("x2") signal as u64, in("x8") libc::SYS_tgkill, out("v0") _, out("v31") _,
        );
    }
    (result as i64, [first, last])
}

/// Clears v0 and v31.
#[cfg(target_arch = "aarch64")]
fn clear_vectors() {
    // SAFETY: the registers are declared.
    unsafe { std::arch::asm!("movi v0.2d, #0", "movi v31.2d, #0", out("v0") _, out("v31") _) }
}

/// Other build hosts have other registers.
#[cfg(not(target_arch = "aarch64"))]
fn raise_with_vectors(signal: i32) -> (i64, [u64; 2]) {
    (raise(signal), VECTORS)
}

#[cfg(not(target_arch = "aarch64"))]
fn clear_vectors() {}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn expect_calls(case: &str, calls: usize) -> ProbeResult {
    let seen = CALLS.load(SeqCst);
    ensure(seen == calls, || format!("{case}: {seen} calls of the handler, not {calls}"))
}

/// A signal calls its handler with its number and cause, and the program continues with all its registers.
pub fn called(_: &[String]) -> ProbeResult {
    const SIGNAL_1: i32 = libc::SIGUSR1;
    set_action(SIGNAL_1, Some(handler), 0);
    let (result, vectors) = raise_with_vectors(SIGNAL_1);
    expect_calls("raise", 1)?;
    ensure(result == 0, || format!("tgkill returned {result}"))?;
    ensure(vectors == VECTORS, || format!("the vector registers are {vectors:x?}"))?;
    let (signal, code) = (SIGNAL.load(SeqCst), CODE.load(SeqCst));
    ensure((signal, code) == (SIGNAL_1, -6), || format!("signal {signal}, code {code}"))?;

    set_action(SIGNAL_1, Some(handler), libc::SA_RESETHAND | libc::SA_NODEFER);
    raise(SIGNAL_1);
    expect_calls("a handler for one time", 1)?;
    // SAFETY: zero is a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: writes `action`.
    unsafe { libc::sigaction(SIGNAL_1, ptr::null(), &raw mut action) };
    ensure(action.sa_sigaction == libc::SIG_DFL, || "the action is not reset".into())
}

/// A fault calls its handler with the address, and the instruction is repeated after it.
pub fn fault(_: &[String]) -> ProbeResult {
    set_action(libc::SIGSEGV, Some(repair), 0);
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(ptr::null_mut(), PAGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    let word = at.wrapping_byte_add(16).cast::<u64>();
    // SAFETY: the handler makes the page accessible.
    unsafe { word.write_volatile(7) };
    // SAFETY: as above.
    let value = unsafe { word.read_volatile() };
    let (address, code) = (ADDRESS.load(SeqCst), CODE.load(SeqCst));
    set_action(libc::SIGSEGV, None, 0);
    // SAFETY: not used any more.
    unsafe { libc::munmap(at, PAGE) };
    ensure((address, code, value) == (word.expose_provenance() as u64, 2, 7), || {
        format!("a fault at {word:?}: address {address:#x}, code {code}, then {value}")
    })
}

/// A signal calls its handler on a thread that runs without a system call. With an argument another such
/// thread runs until the exit.
pub fn running(arguments: &[String]) -> ProbeResult {
    static IDS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    set_action(libc::SIGUSR1, Some(handler), 0);
    let run = |n: usize, is_done: fn() -> bool| {
        let thread = std::thread::spawn(move || {
            IDS[n].store(thread_id(), SeqCst);
            while !is_done() {
                std::hint::spin_loop();
            }
        });
        while IDS[n].load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        thread
    };
    let signalled = run(0, || CALLS.load(SeqCst) > 0);
    let result = send(IDS[0].load(SeqCst), libc::SIGUSR1);
    signalled.join().map_err(|_| "the signalled thread panicked")?;
    if !arguments.is_empty() {
        run(1, || false);
    }
    ensure(result == 0, || format!("tgkill returned {result}"))?;
    expect_calls("while the thread runs", 1)
}

/// A blocked signal is pending until it is unblocked; it is blocked during its own handler.
pub fn masks(_: &[String]) -> ProbeResult {
    const SIGNAL_2: i32 = libc::SIGUSR2;
    set_action(SIGNAL_2, Some(handler), 0);
    let before = set_mask(bit(SIGNAL_2));
    raise(SIGNAL_2);
    raise(SIGNAL_2);
    expect_calls("while blocked", 0)?;
    ensure(pending() & bit(SIGNAL_2) != 0, || format!("pending {:#x}", pending()))?;
    set_mask(before);
    expect_calls("after unblocking", 1)?;
    ensure(pending() & bit(SIGNAL_2) == 0, || "still pending".into())?;

    for (flags, depth) in [(0, 1), (libc::SA_NODEFER, 3)] {
        set_action(SIGNAL_2, Some(handler), flags);
        RAISES.store(2, SeqCst);
        raise(SIGNAL_2);
        expect_calls("raised twice by the handler", 3)?;
        let seen = MAX_DEPTH.load(SeqCst);
        ensure(seen == depth, || format!("flags {flags:#x}: calls nest {seen} deep, not {depth}"))?;
    }

    set_action(SIGNAL_2, Some(handler), 0);
    let before = set_mask(bit(SIGNAL_2));
    raise(SIGNAL_2);
    let none = 0u64;
    let at = (&raw const none).expose_provenance() as u64;
    // SAFETY: reads `none`.
    let result = unsafe { raw::call(libc::SYS_rt_sigsuspend, [at, 8, 0, 0, 0, 0]) };
    expect_calls("during rt_sigsuspend", 1)?;
    let mask = set_mask(before);
    ensure(result == -i64::from(libc::EINTR) && mask == bit(SIGNAL_2), || {
        format!("rt_sigsuspend returned {result}, the mask after it is {mask:#x}")
    })
}

/// A handler with `SA_ONSTACK` runs on the alternate stack.
pub fn alternate_stack(_: &[String]) -> ProbeResult {
    const LEN: usize = 1 << 16;
    let memory = vec![0u8; LEN];
    let range =
        memory.as_ptr().expose_provenance() as u64..memory.as_ptr_range().end.expose_provenance() as u64;
    let stack = libc::stack_t { ss_sp: memory.as_ptr().cast_mut().cast(), ss_flags: 0, ss_size: LEN };
    // SAFETY: zero is a valid stack.
    let mut old: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: the memory outlives the stack, which is replaced below.
    unsafe { libc::sigaltstack(&raw const stack, &raw mut old) };
    set_action(libc::SIGUSR1, Some(handler), libc::SA_ONSTACK);
    raise(libc::SIGUSR1);
    let at = STACK.load(SeqCst);
    // SAFETY: the stack that was set before.
    unsafe { libc::sigaltstack(&raw const old, ptr::null_mut()) };
    expect_calls("on the alternate stack", 1)?;
    ensure(range.contains(&at), || format!("the handler ran at {at:#x}, the stack is {range:#x?}"))?;
    raise(libc::SIGUSR1);
    let at = STACK.load(SeqCst);
    ensure(!range.contains(&at), || "the handler ran on the old alternate stack".into())
}

/// The results of `sigaltstack` in [`changes_stack`]: the flags of the stack, and the result of a change.
static STACK_CALLS: [AtomicI64; 2] = [AtomicI64::new(0), AtomicI64::new(0)];

extern "C" fn changes_stack(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: zero is a valid stack.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    let at = (&raw mut stack).expose_provenance() as u64;
    // SAFETY: writes `stack`, and then requests the same stack again.
    let result = unsafe {
        raw::call(libc::SYS_sigaltstack, [0, at, 0, 0, 0, 0]);
        STACK_CALLS[0].store(stack.ss_flags.into(), SeqCst);
        stack.ss_flags = 0;
        raw::call(libc::SYS_sigaltstack, [(&raw const stack).expose_provenance() as u64, 0, 0, 0, 0, 0])
    };
    STACK_CALLS[1].store(result, SeqCst);
    CALLS.fetch_add(1, SeqCst);
}

/// A handler sees that it runs on the alternate stack, and cannot change it.
pub fn stack_in_use(_: &[String]) -> ProbeResult {
    const LEN: usize = 1 << 16;
    let memory = vec![0u8; LEN];
    let stack = libc::stack_t { ss_sp: memory.as_ptr().cast_mut().cast(), ss_flags: 0, ss_size: LEN };
    // SAFETY: zero is a valid stack.
    let mut old: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: the memory outlives the stack, which is replaced below.
    unsafe { libc::sigaltstack(&raw const stack, &raw mut old) };
    set_action(libc::SIGUSR1, Some(changes_stack), libc::SA_ONSTACK);
    raise(libc::SIGUSR1);
    // SAFETY: the stack that was set before.
    unsafe { libc::sigaltstack(&raw const old, ptr::null_mut()) };
    set_action(libc::SIGUSR1, None, 0);
    let seen = STACK_CALLS.each_ref().map(|result| result.load(SeqCst));
    let expected = [i64::from(libc::SS_ONSTACK), -i64::from(libc::EPERM)];
    ensure(seen == expected, || format!("flags and result are {seen:?}, not {expected:?}"))
}

/// A signal ends a sleep with the remaining time, and a wait with or without `SA_RESTART`.
pub fn interrupted(_: &[String]) -> ProbeResult {
    const SIGNAL_1: i32 = libc::SIGUSR1;
    let main = thread_id();
    let after = |calls: &'static [u64]| {
        std::thread::spawn(move || {
            for &ms in calls {
                std::thread::sleep(Duration::from_millis(ms));
                send(main, SIGNAL_1);
            }
        })
    };
    set_action(SIGNAL_1, Some(handler), libc::SA_RESTART);
    let sender = after(&[50]);
    let (wanted, mut left) =
        (libc::timespec { tv_sec: 60, tv_nsec: 0 }, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    let [wanted, left_at] = [(&raw const wanted).expose_provenance(), (&raw mut left).expose_provenance()];
    // SAFETY: reads the one time and writes the other.
    let result = unsafe { raw::call(libc::SYS_nanosleep, [wanted as u64, left_at as u64, 0, 0, 0, 0]) };
    sender.join().map_err(|_| "the sender panicked")?;
    ensure(result == -i64::from(libc::EINTR) && (1..60).contains(&left.tv_sec), || {
        format!("nanosleep returned {result}, {} s are left", left.tv_sec)
    })?;

    static WORD: AtomicU64 = AtomicU64::new(0);
    let word = (&raw const WORD).expose_provenance() as u64;
    let futex = move |operation: i32, value: u64, timeout: u64| {
        let operation = (operation | libc::FUTEX_PRIVATE_FLAG) as u64;
        // SAFETY: reads the word and the time.
        unsafe { raw::call(libc::SYS_futex, [word, operation, value, timeout, 0, 0]) }
    };
    let minute = libc::timespec { tv_sec: 60, tv_nsec: 0 };
    let minute = (&raw const minute).expose_provenance() as u64;
    for (flags, timeout, expected, calls) in
        [(libc::SA_RESTART, 0, 0, 2), (libc::SA_RESTART, minute, libc::EINTR, 1), (0, 0, libc::EINTR, 1)]
    {
        set_action(SIGNAL_1, Some(handler), flags);
        let sender = std::thread::spawn(move || {
            for _ in 0..calls {
                std::thread::sleep(Duration::from_millis(50));
                send(main, SIGNAL_1);
            }
            // Until the wait is restarted; bounded, since a wrong kernel may not restart it.
            let wakes_none = |_: &i32| expected == 0 && futex(libc::FUTEX_WAKE, 1, 0) == 0;
            (0..40).take_while(wakes_none).for_each(|_| std::thread::sleep(Duration::from_millis(50)));
        });
        let result = futex(libc::FUTEX_WAIT, 0, timeout);
        sender.join().map_err(|_| "the sender panicked")?;
        expect_calls("during a wait", calls)?;
        ensure(result == -i64::from(expected), || format!("flags {flags:#x}: the wait returned {result}"))?;
    }
    Ok(())
}

/// `rt_sigtimedwait` removes a pending signal without a call of its handler, or ends at its timeout; a new
/// thread inherits the mask; a pending signal is discarded when it becomes ignored.
pub fn awaited(_: &[String]) -> ProbeResult {
    const SIGNAL_1: i32 = libc::SIGUSR1;
    set_action(SIGNAL_1, Some(handler), 0);
    let before = set_mask(bit(SIGNAL_1));
    let wait = |timeout_ms: i64| {
        let (set, mut info) = (bit(SIGNAL_1), [0u32; 32]);
        let timeout = libc::timespec { tv_sec: timeout_ms / 1000, tv_nsec: timeout_ms % 1000 * 1_000_000 };
        let set_at = (&raw const set).expose_provenance() as u64;
        let info_at = (&raw mut info).expose_provenance() as u64;
        let timeout_at = (&raw const timeout).expose_provenance() as u64;
        // SAFETY: reads the set and the time, and writes `info`.
        let result = unsafe { raw::call(libc::SYS_rt_sigtimedwait, [set_at, info_at, timeout_at, 8, 0, 0]) };
        (result, info[0], info[2] as i32)
    };
    let timed_out = wait(20);
    ensure(timed_out.0 == -i64::from(libc::EAGAIN), || format!("without a signal: {timed_out:?}"))?;
    raise(SIGNAL_1);
    let pending_before = wait(60_000);
    let main = thread_id();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        send(main, SIGNAL_1);
        set_mask(0)
    });
    let sent_later = wait(60_000);
    let inherited = sender.join().map_err(|_| "the sender panicked")?;
    let expected = (i64::from(SIGNAL_1), SIGNAL_1 as u32, -6);
    ensure(pending_before == expected && sent_later == expected, || {
        format!("rt_sigtimedwait returned {pending_before:?}, then {sent_later:?}")
    })?;
    ensure(inherited == bit(SIGNAL_1), || format!("the mask of a new thread is {inherited:#x}"))?;

    raise(SIGNAL_1);
    // SAFETY: the signal is ignored for a moment.
    unsafe { libc::signal(SIGNAL_1, libc::SIG_IGN) };
    let discarded = pending() & bit(SIGNAL_1) == 0;
    set_action(SIGNAL_1, Some(handler), 0);
    set_mask(before);
    ensure(discarded, || "a signal that is ignored is still pending".into())?;
    expect_calls("of the handler", 0)
}
