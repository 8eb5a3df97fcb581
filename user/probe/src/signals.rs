//! Signals by raw system calls: default actions, and checks of arguments.

use crate::raw;
use crate::result::{ProbeResult, ensure};

fn expect(call: &str, result: i64, errno: i32) -> ProbeResult {
    ensure(result == -i64::from(errno), || format!("{call} returned {result}, not {}", -errno))
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}

/// Signals that are ignored by default have no effect, and wrong numbers are rejected.
pub fn ignored(_: &[String]) -> ProbeResult {
    let process = u64::from(std::process::id());
    // SAFETY: none of the signals has an effect.
    let kill = |signal: i32| unsafe { raw::call(libc::SYS_kill, [process, signal as u64, 0, 0, 0, 0]) };
    for signal in [0, libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH] {
        expect(&format!("kill with signal {signal}"), kill(signal), 0)?;
    }
    for signal in [-1, 65, 1000] {
        expect(&format!("kill with signal {signal}"), kill(signal), libc::EINVAL)?;
    }
    Ok(())
}

/// The actions of SIGKILL and SIGSTOP are fixed, and no mask contains them; an alternate stack has a minimum
/// size.
pub fn arguments(_: &[String]) -> ProbeResult {
    let action = [0u64; 4];
    for signal in [libc::SIGKILL, libc::SIGSTOP, 0, 65, -1] {
        let arguments = [signal as u64, address(&action), 0, 8, 0, 0];
        // SAFETY: reads `action`; the call is rejected.
        let result = unsafe { raw::call(libc::SYS_rt_sigaction, arguments) };
        expect(&format!("rt_sigaction of signal {signal}"), result, libc::EINVAL)?;
    }
    let mask = |how: i32, new: Option<u64>| {
        let (set, mut old) = (new.unwrap_or(0), 0u64);
        let set = if new.is_some() { address(&set) } else { 0 };
        let old_at = (&raw mut old).expose_provenance() as u64;
        // SAFETY: reads the set and writes `old`; the mask of this thread is restored below.
        let result = unsafe { raw::call(libc::SYS_rt_sigprocmask, [how as u64, set, old_at, 8, 0, 0]) };
        (result, old)
    };
    let (_, before) = mask(libc::SIG_SETMASK, Some(u64::MAX));
    let (_, blocked) = mask(libc::SIG_SETMASK, Some(before));
    let unblockable = 1u64 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    ensure(!blocked & unblockable == unblockable, || format!("the mask is {blocked:#x}"))?;
    expect("rt_sigprocmask with an unknown operation", mask(3, Some(0)).0, libc::EINVAL)?;

    let stack = |flags: u64, size: u64| {
        let stack = [0x10000, flags, size];
        // SAFETY: reads `stack`; the call is rejected.
        unsafe { raw::call(libc::SYS_sigaltstack, [address(&stack), 0, 0, 0, 0, 0]) }
    };
    expect("sigaltstack of 100 bytes", stack(0, 100), libc::ENOMEM)?;
    expect("sigaltstack with unknown flags", stack(4, 1 << 20), libc::EINVAL)
}
