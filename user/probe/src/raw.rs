//! Raw system calls, for arguments that libraries do not pass.

use std::io;

/// Performs a system call. Returns the result, or `-errno`.
///
/// # Safety
/// The call must not modify memory that is in use by other code: its addresses must be invalid or owned by
/// the caller.
pub unsafe fn call(number: i64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the requirement is passed on to the caller.
    let result = unsafe { libc::syscall(number as libc::c_long, a, b, c, d, e, f) } as i64;
    if result == -1 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { result }
}

/// An entry of the auxiliary vector, or 0.
pub fn auxiliary(kind: u64) -> u64 {
    // SAFETY: reads the auxiliary vector; any key is valid.
    unsafe { libc::getauxval(kind) }
}
