//! System calls on the residency of memory. Programs have `CAP_IPC_LOCK`: `RLIMIT_MEMLOCK` does not apply.

use super::{SyscallContext, SyscallResult};
use abi::Errno;
use abi::memory::{LockFlags, MLOCK_ONFAULT};
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use program::{MemoryLock, USER_END};

/// `mlock`, and `mlock2` with its flags
pub fn lock(call: &SyscallContext<'_>, flags: u64) -> SyscallResult {
    let lock = match flags {
        0 => MemoryLock::Populated,
        MLOCK_ONFAULT => MemoryLock::OnFault,
        _ => return Err(Errno::EINVAL),
    };
    set_lock(call, lock)
}

/// `munlock`
pub fn unlock(call: &SyscallContext<'_>) -> SyscallResult {
    set_lock(call, MemoryLock::None)
}

/// Sets the lock of the pages that arguments 0 (address) and 1 (length) intersect.
///
/// # Errors
/// `EINVAL` for a length that overflows; those of `lock_range`.
fn set_lock(call: &SyscallContext<'_>, lock: MemoryLock) -> SyscallResult {
    let start = call.address(0).align_down(PAGE_SIZE);
    let offset = call.value(0) - start.raw();
    let len = call.value(1).wrapping_add(offset).wrapping_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    if len == 0 {
        return Ok(0);
    }
    let range = AddrRange::from_len(start, len).ok_or(Errno::EINVAL)?;
    // Nothing is mapped beyond.
    if range.end().raw() > USER_END {
        return Err(Errno::ENOMEM);
    }
    call.space().lock_range(range, lock).map(|()| 0)
}

/// `mlockall`
pub fn lock_all(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = LockFlags::from_bits(call.value(0)).ok_or(Errno::EINVAL)?;
    if !flags.intersects(LockFlags::CURRENT | LockFlags::FUTURE) {
        return Err(Errno::EINVAL);
    }
    let on_fault = flags.contains(LockFlags::ONFAULT);
    let lock = if on_fault { MemoryLock::OnFault } else { MemoryLock::Populated };
    let space = call.space();
    space.set_new_lock(if flags.contains(LockFlags::FUTURE) { lock } else { MemoryLock::None });
    if flags.contains(LockFlags::CURRENT) {
        space.lock_all(lock)?;
    }
    Ok(0)
}

/// `munlockall`
pub fn unlock_all(call: &SyscallContext<'_>) -> SyscallResult {
    call.space().set_new_lock(MemoryLock::None);
    call.space().lock_all(MemoryLock::None).map(|()| 0)
}

/// `mincore`
pub fn residency(call: &SyscallContext<'_>) -> SyscallResult {
    const BATCH: u64 = 64;
    let start = call.address(0);
    if !start.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let pages = call.value(1).div_ceil(PAGE_SIZE);
    let bytes = pages.checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    let range = AddrRange::from_len(start, bytes).filter(|range| range.end().raw() <= USER_END);
    let range = range.ok_or(Errno::ENOMEM)?;
    let mut at = range.start();
    while at < range.end() {
        let batch = AddrRange::new(at, UserVa::new((at.raw() + BATCH * PAGE_SIZE).min(range.end().raw())));
        let (mut states, mut count) = ([0u8; BATCH as usize], 0);
        call.space().residency(batch, |is_resident| {
            states[count] = u8::from(is_resident);
            count += 1;
        })?;
        let done = (at.raw() - start.raw()) / PAGE_SIZE;
        let to = call.address(2).checked_add(done).ok_or(Errno::EFAULT)?;
        call.memory().write_bytes(to, &states[..count])?;
        at = batch.end();
        if crate::sched::is_interrupted() {
            return Err(Errno::EINTR);
        }
        crate::sched::yield_if_slice_ended();
    }
    Ok(0)
}
