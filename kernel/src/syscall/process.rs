//! System calls on the process.

use super::{SyscallContext, SyscallResult};
use crate::process::STACK_BYTES;
use crate::process::Termination;
use crate::process::random;
use crate::sched;
use abi::Errno;
use abi::process::*;

/// The kernel release, which C libraries compare with the oldest Linux that they support.
const RELEASE: &str = "6.1.0-tessera";

/// `exit_group`
pub fn exit_group(call: &SyscallContext<'_>) -> SyscallResult {
    call.process().terminate(Termination::Exited(call.value(0) as u8));
    Ok(0)
}

/// `uname`
pub fn uname(call: &SyscallContext<'_>) -> SyscallResult {
    const NAME: UtsName = UtsName {
        // Programs check for "Linux", whose interface this is.
        sysname: uts_text("Linux"),
        nodename: uts_text("tessera"),
        release: uts_text(RELEASE),
        version: uts_text(concat!("#1 Tessera ", env!("CARGO_PKG_VERSION"))),
        machine: uts_text(abi::MACHINE),
        domainname: uts_text("(none)"),
    };
    call.memory().write(call.address(0), &NAME).map(|()| 0)
}

/// `prctl`: only `PR_SET_NAME`, which has no effect.
pub fn prctl(call: &SyscallContext<'_>) -> SyscallResult {
    const PR_SET_NAME: u64 = 15;
    match call.value(0) {
        PR_SET_NAME => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `prlimit64`: two limits, which cannot be changed.
pub fn limit(call: &SyscallContext<'_>) -> SyscallResult {
    let pid = call.int(0);
    if pid != 0 && pid as u32 != call.process().id() {
        return Err(Errno::ESRCH);
    }
    let files = call.process().files.lock().limit() as u64;
    let limit = match call.value(1) {
        RLIMIT_STACK => RLimit { current: STACK_BYTES, maximum: STACK_BYTES },
        RLIMIT_NOFILE => RLimit { current: files, maximum: files },
        other if other < RLIM_NLIMITS => RLimit { current: RLIM_INFINITY, maximum: RLIM_INFINITY },
        _ => return Err(Errno::EINVAL),
    };
    if call.value(2) != 0 {
        let new: RLimit = call.memory().read(call.address(2))?;
        if new.current > new.maximum {
            return Err(Errno::EINVAL);
        }
        if new.maximum > limit.maximum {
            return Err(Errno::EPERM);
        }
    }
    call.memory().write_optional(call.address(3), &limit).map(|()| 0)
}

/// The maximum number of bytes of one `getrandom`, as in Linux.
const RANDOM_MAX: u64 = (32 << 20) - 1;

/// `getrandom`
pub fn random(call: &SyscallContext<'_>) -> SyscallResult {
    const FLAGS: u64 = 0b111;
    if call.value(2) & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let len = call.value(1).min(RANDOM_MAX);
    let mut buffer = [0; 256];
    let mut done = 0;
    while done < len && !sched::is_interrupted() {
        let bytes = &mut buffer[..(len - done).min(256) as usize];
        random::fill(bytes);
        match call.memory().write_bytes(call.address(0) + done, bytes) {
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
            Ok(()) => done += bytes.len() as u64,
        }
    }
    Ok(done)
}
