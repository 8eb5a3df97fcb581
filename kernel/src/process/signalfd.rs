//! `signalfd4`: the pending signals of the reader as a file.

use super::signals;
use super::task::Task;
use crate::fs::File;
use crate::fs::generated::Text;
use crate::fs::readiness::{Watchable, Watched};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::PollEvents;
use abi::signal::{SignalFdInfo, SignalSet, blockable};
use addr::UserVa;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

/// The watchers of all these files: a signal is pending for some thread, and each of them looks for its own.
static ARRIVALS: Watched<()> = Watched::new(());

/// Notifies the watchers of a signal that is pending now.
pub(super) fn notify() {
    ARRIVALS.update(|()| ((), Some(PollEvents::IN)));
}

pub struct SignalFd(AtomicU64);

impl SignalFd {
    pub fn new(mask: u64) -> Self {
        Self(AtomicU64::new(blockable(mask)))
    }

    /// Changes the signals that are read.
    pub fn set_mask(&self, mask: u64) {
        self.0.store(blockable(mask), Ordering::Relaxed);
        notify();
    }

    fn signals(&self) -> SignalSet {
        SignalSet::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl File for SignalFd {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        const BYTES: usize = size_of::<SignalFdInfo>();
        if len < BYTES {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        while done + BYTES <= len {
            let taken = Task::with_current(|task| signals::take_pending(task, self.signals().complement()));
            let Some((_, info)) = taken else { break };
            memory.write(to + done as u64, &SignalFdInfo::from(info))?;
            done += BYTES;
        }
        if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) }
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:[signalfd]")
    }

    fn describe_state(&self, _: usize, out: &mut Text) -> Result<(), Errno> {
        Ok(writeln!(out, "sigmask:\t{:016x}", self.signals().bits())?)
    }

    fn poll(&self) -> PollEvents {
        let pending = Task::with_current(signals::pending).intersection(self.signals());
        if pending.is_empty() { PollEvents::empty() } else { PollEvents::IN }
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&ARRIVALS)
    }
}
