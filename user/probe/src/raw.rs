//! System calls as numbers, for what no library would do.

use std::io;

/// A system call with these arguments; what the kernel answers, as Linux's `-errno` or a value.
///
/// # Safety
/// The call must not change memory that somebody relies on: its addresses are wrong on purpose, or the caller's own.
pub unsafe fn call(number: i64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: passed on to the caller.
    let answer = unsafe { libc::syscall(number as libc::c_long, a, b, c, d, e, f) } as i64;
    if answer == -1 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { answer }
}

/// An entry of the auxiliary vector, or 0.
pub fn auxiliary(kind: u64) -> u64 {
    // SAFETY: reads what the kernel left on the first stack; any number is allowed.
    unsafe { libc::getauxval(kind) }
}
