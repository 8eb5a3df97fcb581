//! System calls on event files.

use super::poll::{Timeout, with_signal_mask};
use super::{SyscallContext, SyscallResult};
use crate::fs::File;
use crate::fs::OpenFile;
use crate::fs::epoll::Epoll;
use crate::fs::eventfd::EventFd;
use crate::fs::readiness::{self, Watch, Watchable};
use crate::fs::timerfd::TimerFd;
use crate::process::SignalFd;
use crate::sched::{self, Nanoseconds};
use abi::Errno;
use abi::clock::{ClockId, TimerSpec, Timespec};
use abi::event::*;
use abi::file::OpenFlags;
use abi::signal::SIGSET_BYTES;
use addr::{Address, UserVa};
use alloc::sync::Arc;

pub fn eventfd2(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = call.value(1) as u32;
    let open = OpenFlags::from_bits_retain(flags & !EFD_SEMAPHORE);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(open) {
        return Err(Errno::EINVAL);
    }
    let file = EventFd::new(call.value(0) as u32, flags & EFD_SEMAPHORE != 0);
    OpenFile::open(&call.process().files, file, open | OpenFlags::READ_WRITE).map(u64::from)
}

pub fn epoll_create1(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = OpenFlags::from_bits_retain(call.value(0) as u32);
    if !OpenFlags::CLOEXEC.contains(flags) {
        return Err(Errno::EINVAL);
    }
    OpenFile::open(&call.process().files, Epoll::new()?, flags | OpenFlags::READ_WRITE).map(u64::from)
}

pub fn epoll_ctl(call: &SyscallContext<'_>) -> SyscallResult {
    let (operation, descriptor) = (call.int(1), call.int(2));
    let event = match operation {
        EPOLL_CTL_DEL => EpollEvent::default(),
        _ => call.memory().read(call.address(3))?,
    };
    let (instance, file) = (call.file(0)?, call.file(2)?);
    if file.file().watched().is_none() {
        return Err(Errno::EPERM);
    }
    let epoll =
        instance.downcast::<Epoll>().filter(|_| !Arc::ptr_eq(&instance, &file)).ok_or(Errno::EINVAL)?;
    match operation {
        EPOLL_CTL_ADD => epoll.add(descriptor, &file, event)?,
        EPOLL_CTL_DEL => epoll.remove(descriptor, &file)?,
        EPOLL_CTL_MOD => epoll.modify(descriptor, &file, event)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub fn epoll_pwait(call: &SyscallContext<'_>) -> SyscallResult {
    epoll_wait(call, Timeout::from_milliseconds(call.int(3)))
}

pub fn epoll_pwait2(call: &SyscallContext<'_>) -> SyscallResult {
    epoll_wait(call, Timeout::read(call, 3)?)
}

fn epoll_wait(call: &SyscallContext<'_>, timeout: Timeout) -> SyscallResult {
    with_signal_mask(call, call.address(4), call.value(5), || {
        let limit =
            usize::try_from(call.int(2)).ok().filter(|&count| (1..=EPOLL_MAX_EVENTS).contains(&count));
        let limit = limit.ok_or(Errno::EINVAL)?;
        let end = call.address(1).checked_add((limit * size_of::<EpollEvent>()) as u64);
        end.filter(|end| end.raw() <= program::USER_END).ok_or(Errno::EFAULT)?;
        let file = call.file(0)?;
        let epoll = file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
        let collect = || {
            let mut at: UserVa = call.address(1);
            epoll.collect(limit, |event| {
                call.memory().write(at, &event)?;
                at = at + size_of::<EpollEvent>() as u64;
                Ok(())
            })
        };
        let count = collect()?;
        if count > 0 || timeout.has_passed() {
            return Ok(count as u64);
        }
        let watched: &dyn Watchable = epoll.watched().ok_or(Errno::EINVAL)?;
        let _watch = Watch::new(watched, &sched::current())?;
        loop {
            let count = collect()?;
            if count > 0 || timeout.has_passed() {
                return Ok(count as u64);
            }
            readiness::sleep(timeout.deadline())?;
        }
    })
}

pub fn signalfd4(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = OpenFlags::from_bits_retain(call.int(3) as u32);
    if call.value(2) != SIGSET_BYTES || !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = call.memory().read(call.address(1))?;
    if call.int(0) == -1 {
        let file = SignalFd::new(mask);
        return OpenFile::open(&call.process().files, file, flags | OpenFlags::READ_WRITE).map(u64::from);
    }
    let file = call.file(0)?;
    file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
    Ok(call.value(0))
}

pub fn timerfd_create(call: &SyscallContext<'_>) -> SyscallResult {
    const CLOCK_REALTIME: i32 = 0;
    const CLOCK_MONOTONIC: i32 = 1;
    const CLOCK_BOOTTIME: i32 = 7;
    let flags = OpenFlags::from_bits_retain(call.int(1) as u32);
    let clock = match call.int(0) {
        CLOCK_REALTIME => ClockId::Realtime,
        CLOCK_MONOTONIC | CLOCK_BOOTTIME => ClockId::Monotonic,
        _ => return Err(Errno::EINVAL),
    };
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let file = TimerFd::new(clock)?;
    OpenFile::open(&call.process().files, file, flags | OpenFlags::READ_WRITE).map(u64::from)
}

/// `timerfd_settime`. The real time is never set, so `TFD_TIMER_CANCEL_ON_SET` has no effect.
pub fn timerfd_settime(call: &SyscallContext<'_>) -> SyscallResult {
    let new: TimerSpec = call.memory().read(call.address(2))?;
    let flags = call.int(1) as u32;
    let value = new.value.to_nanoseconds().ok_or(Errno::EINVAL)?;
    let interval = new.interval.to_nanoseconds().ok_or(Errno::EINVAL)?;
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = call.file(0)?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let old = timer.set(value, interval, flags & TFD_TIMER_ABSTIME != 0);
    call.memory().write_optional(call.address(3), &timer_spec(old)).map(|()| 0)
}

pub fn timerfd_gettime(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    call.memory().write(call.address(1), &timer_spec(timer.get())).map(|()| 0)
}

pub(super) fn timer_spec((value, interval): (Nanoseconds, Nanoseconds)) -> TimerSpec {
    let [interval, value] = [interval, value].map(Timespec::from_nanoseconds);
    TimerSpec { interval, value }
}
