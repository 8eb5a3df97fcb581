//! Fences: the ends of device accesses to buffers, for which programs wait by `poll` of a dma-buf or of a
//! sync file.
//!
//! Fences are not ordered: each has a context of its own (in Linux's terms), since the accesses of a device
//! may end in another order than they were submitted.

use abi::Errno;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The end of one access. It is pending until the [`PendingFence`] is signalled, and never pending again.
#[derive(Debug)]
pub struct Fence {
    context: u64,
    driver: &'static str,
    timeline: String,
    /// The result of the access: 0 or the number of an [`Errno`]. Valid once `signalled_at` is not 0.
    error: AtomicI32,
    /// The time of the signal; 0 while the fence is pending.
    signalled_at: AtomicU64,
}

/// The signal of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FenceSignal {
    /// The time in nanoseconds on the monotonic clock.
    pub at: u64,
    /// The number of an [`Errno`]; 0 after success.
    pub error: i32,
}

impl Fence {
    /// The driver of the device.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// The name of the device.
    pub fn timeline(&self) -> &str {
        &self.timeline
    }

    /// Returns the signal; `None` while the fence is pending.
    pub fn signal(&self) -> Option<FenceSignal> {
        match self.signalled_at.load(Ordering::Acquire) {
            0 => None,
            at => Some(FenceSignal { at, error: self.error.load(Ordering::Relaxed) }),
        }
    }

    fn is_pending(&self) -> bool {
        self.signal().is_none()
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}{}-1", self.driver, self.timeline, self.context)
    }
}

/// The right to signal a fence, owned by the access itself, so that the fence is pending for as long as the
/// device may access the buffer.
#[derive(Debug)]
pub struct PendingFence {
    fence: Arc<Fence>,
    clock: fn() -> u64,
}

impl PendingFence {
    /// A new fence in the memory that `allocate` returns. `context` is unique; `clock` is the monotonic
    /// clock.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(
        context: u64,
        driver: &'static str,
        timeline: &str,
        clock: fn() -> u64,
        allocate: impl FnOnce(Fence) -> Option<Arc<Fence>>,
    ) -> Result<Self, Errno> {
        let mut name = String::new();
        name.try_reserve_exact(timeline.len()).map_err(|_| Errno::ENOMEM)?;
        name.push_str(timeline);
        let (error, signalled_at) = (AtomicI32::new(Errno::EIO.number()), AtomicU64::new(0));
        let fence = Fence { context, driver, timeline: name, error, signalled_at };
        Ok(Self { fence: allocate(fence).ok_or(Errno::ENOMEM)?, clock })
    }

    /// The fence.
    pub fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    /// Signals the fence with the result of the access. A fence that is dropped is signalled with `EIO`.
    pub fn signal(self, result: Result<(), Errno>) {
        self.fence.error.store(result.err().map_or(0, Errno::number), Ordering::Relaxed);
    }
}

impl Drop for PendingFence {
    fn drop(&mut self) {
        // Released: the error, and the accesses of the device that the caller has waited for.
        self.fence.signalled_at.store((self.clock)().max(1), Ordering::Release);
    }
}

/// An access to a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BufferAccess {
    /// A read, which conflicts with writes.
    Read,
    /// A write, or a read and a write, which conflicts with every access.
    Write,
}

/// The fences of the accesses to a buffer (Linux's `dma_resv`).
#[derive(Debug, Default)]
pub struct BufferFences(Vec<(Arc<Fence>, BufferAccess)>);

impl BufferFences {
    /// No fences.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the fence of an access. Fences that are signalled are removed.
    ///
    /// # Errors
    /// `ENOMEM`: it is not added.
    pub fn add(&mut self, fence: &Arc<Fence>, access: BufferAccess) -> Result<(), Errno> {
        let covered = |other: &Arc<Fence>, by: BufferAccess| {
            Arc::ptr_eq(other, fence) && (by == BufferAccess::Write || access == BufferAccess::Read)
        };
        self.0.retain(|(other, _)| other.is_pending());
        if !self.0.iter().any(|(other, by)| covered(other, *by)) {
            self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.0.retain(|(other, _)| !Arc::ptr_eq(other, fence));
            self.0.push((fence.clone(), access));
        }
        Ok(())
    }

    /// Returns the pending fences with which `access` conflicts.
    pub fn conflicts(&self, access: BufferAccess) -> impl Iterator<Item = &Arc<Fence>> {
        let conflicts = move |by| by == BufferAccess::Write || access == BufferAccess::Write;
        self.0.iter().filter(move |(fence, by)| conflicts(*by) && fence.is_pending()).map(|(fence, _)| fence)
    }
}

/// The fences of a sync file.
#[derive(Debug)]
pub struct FenceSet {
    fences: Vec<Arc<Fence>>,
    /// The time of the signal if there are no fences.
    empty_at: u64,
}

impl FenceSet {
    /// The fences that `access` has to wait for. Without any the set is signalled, at time `now`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn of_conflicts(buffer: &BufferFences, access: BufferAccess, now: u64) -> Result<Self, Errno> {
        let mut fences = Vec::new();
        fences.try_reserve_exact(buffer.0.len()).map_err(|_| Errno::ENOMEM)?;
        fences.extend(buffer.conflicts(access).cloned());
        Ok(Self { fences, empty_at: now })
    }

    /// The pending fences of two sets. Without any the set is signalled, at the time of the last signal.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn merged(&self, other: &Self) -> Result<Self, Errno> {
        let mut fences: Vec<Arc<Fence>> = Vec::new();
        fences.try_reserve_exact(self.fences.len() + other.fences.len()).map_err(|_| Errno::ENOMEM)?;
        let mut empty_at = self.empty_at.max(other.empty_at);
        for fence in self.fences.iter().chain(&other.fences) {
            match fence.signal() {
                Some(signal) => empty_at = empty_at.max(signal.at),
                None if fences.iter().any(|known| Arc::ptr_eq(known, fence)) => {}
                None => fences.push(fence.clone()),
            }
        }
        Ok(Self { fences, empty_at })
    }

    /// The fences; none if the set was created signalled.
    pub fn fences(&self) -> &[Arc<Fence>] {
        &self.fences
    }

    /// Returns the signal of the whole set, with the first error; `None` while a fence is pending.
    pub fn signal(&self) -> Option<FenceSignal> {
        let start = match self.fences.first() {
            Some(_) => FenceSignal { at: 0, error: 0 },
            None => FenceSignal { at: self.empty_at, error: 0 },
        };
        self.fences.iter().try_fold(start, |all, fence| {
            let signal = fence.signal()?;
            let error = if all.error == 0 { signal.error } else { all.error };
            Some(FenceSignal { at: all.at.max(signal.at), error })
        })
    }
}

/// The name of a sync file to which the program gave none, as Linux forms it.
impl fmt::Display for FenceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fences[..] {
            [] => f.write_str("stub-stub0-0"),
            [fence] => fence.fmt(f),
            _ => f.write_str("dma_fence_array-unbound0-1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BufferAccess::{Read, Write};
    use super::*;

    fn allocate(fence: Fence) -> Option<Arc<Fence>> {
        Some(Arc::new(fence))
    }

    fn pending(context: u64) -> PendingFence {
        PendingFence::new(context, "edu", "00:01.0 ", || 7, allocate).unwrap()
    }

    fn contexts<'a>(fences: impl IntoIterator<Item = &'a Arc<Fence>>) -> Vec<u64> {
        fences.into_iter().map(|fence| fence.context).collect()
    }

    #[test]
    fn dropped_access_signals_an_error() {
        let (done, failed, lost) = (pending(1), pending(2), pending(3));
        let fences = [&done, &failed, &lost].map(|pending| pending.fence().clone());
        assert!(fences.iter().all(|fence| fence.signal().is_none()));
        done.signal(Ok(()));
        failed.signal(Err(Errno::ENODEV));
        drop(lost);
        assert_eq!(fences.map(|fence| fence.signal().map(|signal| signal.error)), [0, 19, 5].map(Some));
    }

    #[test]
    fn fence_without_memory_is_an_error() {
        let refused = PendingFence::new(1, "edu", "", || 1, |_| None);
        assert_eq!(refused.map(drop), Err(Errno::ENOMEM));
    }

    /// At time 0 of the clock, too.
    #[test]
    fn signal_has_a_time() {
        let early = PendingFence::new(1, "edu", "", || 0, allocate).unwrap();
        let fence = early.fence().clone();
        early.signal(Ok(()));
        assert_eq!(fence.signal(), Some(FenceSignal { at: 1, error: 0 }));
    }

    #[test]
    fn reads_wait_for_writes_and_writes_for_all() {
        let mut buffer = BufferFences::new();
        let (reader, writer) = (pending(1), pending(2));
        buffer.add(reader.fence(), Read).unwrap();
        buffer.add(writer.fence(), Write).unwrap();
        assert_eq!(contexts(buffer.conflicts(Read)), [2]);
        assert_eq!(contexts(buffer.conflicts(Write)), [1, 2]);
        writer.signal(Ok(()));
        assert_eq!(contexts(buffer.conflicts(Read)), []);
        assert_eq!(contexts(buffer.conflicts(Write)), [1]);
    }

    #[test]
    fn fence_is_kept_once_with_its_stronger_access() {
        for (accesses, kept) in [([Read, Write], Write), ([Write, Read], Write), ([Read, Read], Read)] {
            let (mut buffer, fence) = (BufferFences::new(), pending(1));
            accesses.iter().for_each(|&access| buffer.add(fence.fence(), access).unwrap());
            assert_eq!(buffer.0.iter().map(|(_, access)| *access).collect::<Vec<_>>(), [kept]);
        }
    }

    #[test]
    fn signalled_fences_do_not_accumulate() {
        let mut buffer = BufferFences::new();
        for context in 0..100 {
            let access = pending(context);
            buffer.add(access.fence(), Write).unwrap();
            access.signal(Ok(()));
        }
        assert_eq!(buffer.0.len(), 1);
    }

    #[test]
    fn set_is_signalled_with_its_last_fence() {
        let mut buffer = BufferFences::new();
        let (first, second) = (pending(1), pending(2));
        buffer.add(first.fence(), Write).unwrap();
        buffer.add(second.fence(), Write).unwrap();
        let set = FenceSet::of_conflicts(&buffer, Read, 3).unwrap();
        let later = FenceSet::of_conflicts(&BufferFences::new(), Read, 3).unwrap();
        first.signal(Err(Errno::EIO));
        assert_eq!(set.signal(), None);
        second.signal(Ok(()));
        assert_eq!(set.signal(), Some(FenceSignal { at: 7, error: 5 }));
        assert_eq!(later.signal(), Some(FenceSignal { at: 3, error: 0 }));
    }

    #[test]
    fn merged_set_has_each_pending_fence_once() {
        let mut buffer = BufferFences::new();
        let accesses = [pending(1), pending(2), pending(3)];
        buffer.add(accesses[0].fence(), Write).unwrap();
        buffer.add(accesses[1].fence(), Read).unwrap();
        let first = FenceSet::of_conflicts(&buffer, Write, 1).unwrap();
        buffer.add(accesses[2].fence(), Write).unwrap();
        let second = FenceSet::of_conflicts(&buffer, Read, 2).unwrap();
        assert_eq!(contexts(first.merged(&second).unwrap().fences()), [1, 2, 3]);
        let [running, done, other] = accesses;
        done.signal(Ok(()));
        assert_eq!(contexts(first.merged(&second).unwrap().fences()), [1, 3]);
        drop((other, running));
        let none = first.merged(&second).unwrap();
        assert_eq!((contexts(none.fences()), none.signal()), (vec![], Some(FenceSignal { at: 7, error: 0 })));
    }

    #[test]
    fn names_are_those_of_linux() {
        let mut buffer = BufferFences::new();
        let name = |buffer: &BufferFences| FenceSet::of_conflicts(buffer, Write, 1).unwrap().to_string();
        assert_eq!(name(&buffer), "stub-stub0-0");
        let (first, second) = (pending(4), pending(5));
        buffer.add(first.fence(), Read).unwrap();
        assert_eq!(name(&buffer), "edu-00:01.0 4-1");
        buffer.add(second.fence(), Read).unwrap();
        assert_eq!(name(&buffer), "dma_fence_array-unbound0-1");
    }
}
