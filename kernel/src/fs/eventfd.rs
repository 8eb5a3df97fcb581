//! `eventfd2`: a counter as a file.

use super::File;
use super::generated::Text;
use super::readiness::{Watchable, Watched};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::PollEvents;
use addr::UserVa;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug)]
struct EventCounter {
    value: u64,
    /// `EFD_SEMAPHORE`: a read takes 1, not all.
    is_semaphore: bool,
}

impl EventCounter {
    /// # Errors
    /// `EAGAIN` if the counter is 0.
    fn take(&mut self) -> Result<u64, Errno> {
        let taken = match self.value {
            0 => return Err(Errno::EAGAIN),
            _ if self.is_semaphore => 1,
            value => value,
        };
        self.value -= taken;
        Ok(taken)
    }

    /// # Errors
    /// `EAGAIN` if the sum exceeded the maximum, which is `u64::MAX - 1`.
    fn add(&mut self, value: u64) -> Result<(), Errno> {
        self.value = self.value.checked_add(value).filter(|&sum| sum < u64::MAX).ok_or(Errno::EAGAIN)?;
        Ok(())
    }

    fn poll(&self) -> PollEvents {
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN, self.value > 0);
        events.set(PollEvents::OUT, self.value < u64::MAX - 1);
        events
    }
}

/// The counter, and a number for reports.
pub struct EventFd(Watched<EventCounter>, u32);

impl EventFd {
    pub fn new(value: u32, is_semaphore: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let counter = EventCounter { value: value.into(), is_semaphore };
        Self(Watched::new(counter), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds 1, unless the counter is at its maximum. Interrupt handlers may call it.
    pub fn signal(&self) {
        // Only a full counter is an error.
        let _ = self.change(PollEvents::IN, |counter| counter.add(1));
    }

    /// Runs an operation, which on success makes `events` ready.
    fn change<R>(
        &self,
        events: PollEvents,
        operation: impl FnOnce(&mut EventCounter) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.0.update(|counter| {
            let result = operation(counter);
            let events = result.is_ok().then_some(events);
            (result, events)
        })
    }
}

impl File for EventFd {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        if len < size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let taken = self.change(PollEvents::OUT, EventCounter::take)?;
        memory.write(to, &taken)?;
        Ok(size_of::<u64>())
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        if len != size_of::<u64>() {
            return Err(Errno::EINVAL);
        }
        let value: u64 = memory.read(from)?;
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        self.change(PollEvents::IN, |counter| counter.add(value))?;
        Ok(len)
    }

    /// Accepts any position, which has no effect, as on Linux.
    fn seek(&self, _offset: i64, _whence: u64) -> Result<u64, Errno> {
        Ok(0)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:[eventfd]")
    }

    fn describe_state(&self, _: usize, out: &mut Text) -> Result<(), Errno> {
        let (value, is_semaphore) = self.0.with(|counter| (counter.value, counter.is_semaphore));
        writeln!(out, "eventfd-count: {value:16x}")?;
        writeln!(out, "eventfd-id: {}", self.1)?;
        Ok(writeln!(out, "eventfd-semaphore: {}", u8::from(is_semaphore))?)
    }

    fn poll(&self) -> PollEvents {
        self.0.with(|counter| counter.poll())
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_takes_all_or_one_of_the_counter() {
        for (is_semaphore, taken) in [(false, [Ok(3), Err(Errno::EAGAIN)]), (true, [Ok(1), Ok(1)])] {
            let mut counter = EventCounter { value: 3, is_semaphore };
            assert_eq!([counter.take(), counter.take()], taken);
        }
    }

    #[test]
    fn counter_is_limited() {
        let mut counter = EventCounter { value: 0, is_semaphore: false };
        let (readable, writable) = (PollEvents::IN, PollEvents::OUT);
        assert_eq!(counter.poll(), writable);
        assert_eq!(counter.add(u64::MAX - 2), Ok(()));
        assert_eq!((counter.poll(), counter.add(2)), (readable | writable, Err(Errno::EAGAIN)));
        assert_eq!(counter.add(1), Ok(()));
        assert_eq!((counter.poll(), counter.add(1)), (readable, Err(Errno::EAGAIN)));
        assert_eq!(counter.take(), Ok(u64::MAX - 1));
    }
}
