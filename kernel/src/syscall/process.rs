//! System calls on the process.

use super::{SyscallContext, SyscallResult};
use crate::memory::zones;
use crate::process::SYSTEM_NAME;
use crate::process::Termination;
use crate::process::random;
use crate::sched;
use ::memory::Zone;
use abi::Errno;
use abi::clock::{NANOSECONDS, Timeval};
use abi::process::*;
use addr::PAGE_SIZE;
use zerocopy::IntoBytes;

pub fn exit_group(call: &SyscallContext<'_>) -> SyscallResult {
    call.process().terminate(Termination::Exited(call.value(0) as u8));
    Ok(0)
}

pub fn uname(call: &SyscallContext<'_>) -> SyscallResult {
    call.memory().write(call.address(0), &SYSTEM_NAME).map(|()| 0)
}

/// `prctl`: the name of the thread, and the auxiliary vector.
pub fn prctl(call: &SyscallContext<'_>) -> SyscallResult {
    match call.int(0) {
        PR_SET_NAME => {
            call.task.set_name(read_name(call)?);
            Ok(0)
        }
        PR_GET_NAME => call.memory().write(call.address(1), &call.task.name()).map(|()| 0),
        PR_GET_AUXV if call.value(3) == 0 && call.value(4) == 0 => {
            let program = call.process().program.lock().clone();
            let bytes = program.as_ref().map_or(&[][..], |program| program.auxiliary.as_bytes());
            call.memory().write_bytes(call.address(1), &bytes[..call.length(2).min(bytes.len())])?;
            Ok(bytes.len() as u64)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Reads a name, which ends at a zero or is truncated.
fn read_name(call: &SyscallContext<'_>) -> Result<ThreadName, Errno> {
    let mut name = ThreadName::default();
    for (n, byte) in name[..15].iter_mut().enumerate() {
        *byte = call.memory().read(call.address(1) + n as u64)?;
        if *byte == 0 {
            break;
        }
    }
    Ok(name)
}

/// `prlimit64`: the number of open files; the other limits cannot be changed.
pub fn limit(call: &SyscallContext<'_>) -> SyscallResult {
    let pid = call.int(0);
    if pid != 0 && pid as u32 != call.process().id() {
        return Err(Errno::ESRCH);
    }
    let resource = call.value(1);
    let old = call.process().limit(resource).ok_or(Errno::EINVAL)?;
    if call.value(2) != 0 {
        let new: RLimit = call.memory().read(call.address(2))?;
        match resource {
            RLIMIT_NOFILE => call.process().files.lock().set_limits(new.current, new.maximum)?,
            _ if new.current <= new.maximum && new.maximum > old.maximum => return Err(Errno::EPERM),
            _ if new != old => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    call.memory().write_optional(call.address(3), &old).map(|()| 0)
}

/// `sysinfo`
pub fn system_info(call: &SyscallContext<'_>) -> SyscallResult {
    let [low, high] = [Zone::Low, Zone::High].map(zones::stats);
    let info = SystemInfo {
        uptime: (sched::time::now() / NANOSECONDS) as i64,
        total_memory: (low.total + high.total) * PAGE_SIZE,
        free_memory: (low.free() + high.free()) * PAGE_SIZE,
        threads: sched::threads() as u16,
        memory_unit: 1,
        ..SystemInfo::default()
    };
    call.memory().write(call.address(0), &info).map(|()| 0)
}

/// `getrusage`: the CPU time.
pub fn usage(call: &SyscallContext<'_>) -> SyscallResult {
    let time = match call.int(0) {
        RUSAGE_SELF => call.process().cpu_time(),
        RUSAGE_CHILDREN => 0,
        RUSAGE_THREAD => call.process().cpu_time_of(call.task.id()).unwrap_or_default(),
        _ => return Err(Errno::EINVAL),
    };
    let usage = ResourceUsage { user_time: Timeval::from_nanoseconds(time), ..ResourceUsage::default() };
    call.memory().write(call.address(1), &usage).map(|()| 0)
}

/// `getcpu`: all CPUs are in node 0.
pub fn cpu(call: &SyscallContext<'_>) -> SyscallResult {
    call.memory().write_optional(call.address(0), &(arch::cpu::index() as u32))?;
    call.memory().write_optional(call.address(1), &0u32).map(|()| 0)
}

/// The maximum number of bytes of one `getrandom`, as in Linux.
const RANDOM_MAX: usize = (32 << 20) - 1;

/// `getrandom`
pub fn random(call: &SyscallContext<'_>) -> SyscallResult {
    const FLAGS: u64 = 0b111;
    if call.value(2) & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let len = call.length(1).min(RANDOM_MAX);
    call.memory().write_generated(call.address(0), len, random::fill).map(|done| done as u64)
}

/// `getgroups`: a process is in no supplementary group.
pub fn groups(call: &SyscallContext<'_>) -> SyscallResult {
    if call.int(0) < 0 { Err(Errno::EINVAL) } else { Ok(0) }
}
