//! `epoll`: a file that watches other files.
//!
//! An [`Interest`] is a watcher of its file. A notification queues it in the ready queue of its instance,
//! unless it is queued already, and [`Epoll::collect`] polls the files of the queue. The queue has room for
//! all interests, so a notification does not allocate.
//!
//! # Locks
//!
//! The table of interests is a mutex, held by `epoll_ctl` and the close of a file. The lock of a watched
//! file precedes that of the ready queue: files are polled without the latter.

mod nesting;

use super::generated::Text;
use super::readiness::{Watchable, Watched, Watcher};
use super::{File, OpenFile};
use crate::debug::{self, FailPoint};
use crate::memory::heap;
use crate::sched::Mutex;
use crate::sync::SpinLock;
use abi::Errno;
use abi::event::{EpollEvent, EpollFlags};
use abi::file::{PollEvents, SEEK_CUR};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// The number of an instance, unique since boot.
type EpollId = u64;

/// The maximum number of interests of the system.
const INTERESTS_MAX: usize = 1 << 16;
static INTERESTS: AtomicUsize = AtomicUsize::new(0);

/// A file in an epoll instance.
pub struct Interest {
    descriptor: i32,
    file: Weak<OpenFile>,
    instance: Arc<Instance>,
    event: SpinLock<EpollEvent>,
    /// Changed with the ready queue locked.
    place: AtomicU8,
}

/// Not in the ready queue.
const IDLE: u8 = 0;
/// In the ready queue.
const QUEUED: u8 = 1;
/// Removed from the instance: never queued again.
const REMOVED: u8 = 2;

impl Interest {
    /// Returns the key in the table. The weak reference keeps the address of the open file unique.
    fn key(&self) -> (i32, usize) {
        (self.descriptor, self.file.as_ptr().addr())
    }

    pub fn is_for(&self, file: &OpenFile) -> bool {
        core::ptr::eq(self.file.as_ptr(), file)
    }

    pub fn is_exclusive(&self) -> bool {
        self.event.lock().flags().contains(EpollFlags::EXCLUSIVE)
    }

    /// Queues the interest if it is in one of `events`. Returns whether a thread is woken.
    pub fn notify(self: &Arc<Self>, events: PollEvents) -> bool {
        if self.event.lock().reported(events).is_none() {
            return false;
        }
        self.instance.ready.update_with(|ready, watchers| {
            ready.push(self);
            (watchers.has_thread(), Some(PollEvents::IN | PollEvents::RDNORM))
        })
    }

    /// Returns the event to report for a file with the events `found`, if there is one. Disables the
    /// interest if it is `EPOLLONESHOT`.
    fn take(&self, found: PollEvents) -> Option<EpollEvent> {
        let mut event = self.event.lock();
        let reported = event.reported(found)?;
        if event.flags().contains(EpollFlags::ONESHOT) {
            event.events &= EpollFlags::PRIVATE.bits();
        }
        Some(reported)
    }

    /// Enables the interest again after a [`take`](Self::take) that could not be reported, with the flags
    /// from before, unless they have been changed.
    fn untake(&self, before: EpollFlags) {
        let mut event = self.event.lock();
        if event.flags() == before & EpollFlags::PRIVATE {
            event.events = before.bits();
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        INTERESTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The interests that may be ready, in the order of their notifications.
struct ReadyQueue {
    queue: VecDeque<Arc<Interest>>,
}

impl ReadyQueue {
    fn push(&mut self, interest: &Arc<Interest>) {
        if interest.place.load(Ordering::Relaxed) == IDLE {
            interest.place.store(QUEUED, Ordering::Relaxed);
            debug_assert!(self.queue.len() < self.queue.capacity());
            self.queue.push_back(interest.clone());
        }
    }

    fn pop(&mut self) -> Option<Arc<Interest>> {
        self.queue.pop_front().inspect(|interest| interest.place.store(IDLE, Ordering::Relaxed))
    }

    /// Marks the interest removed. Returns it if it was queued, to be dropped without the lock.
    fn remove(&mut self, interest: &Arc<Interest>) -> Option<Arc<Interest>> {
        if interest.place.swap(REMOVED, Ordering::Relaxed) != QUEUED {
            return None;
        }
        let at = self.queue.iter().position(|other| Arc::ptr_eq(other, interest))?;
        self.queue.remove(at)
    }
}

struct Instance {
    id: EpollId,
    ready: Watched<ReadyQueue>,
    /// In ascending order of the keys.
    table: Mutex<Vec<Arc<Interest>>>,
}

impl Instance {
    /// Ends the notifications of an interest in `file`, which is removed from the table, or about to be.
    fn detach(&self, interest: Arc<Interest>, file: &dyn File) {
        if let Some(inner) = (file as &dyn Any).downcast_ref::<Epoll>() {
            nesting::remove(self.id, inner.0.id);
        }
        let watcher = Watcher::Interest(interest);
        if let Some(watched) = file.watched() {
            watched.unwatch(&watcher);
        }
        if let Watcher::Interest(interest) = watcher {
            let queued = self.ready.with(|ready| ready.remove(&interest));
            drop(queued);
        }
    }
}

/// Removes all interests in `file`, which is being closed.
pub fn remove_closed(file: &OpenFile, watched: &dyn Watchable) {
    while let Some(interest) = watched.interest_in(file) {
        let instance = interest.instance.clone();
        let mut table = instance.table.lock();
        // A table that does not contain it is that of an instance that is being closed as well.
        if let Ok(at) = table.binary_search_by_key(&interest.key(), |other| other.key()) {
            table.remove(at);
        }
        instance.detach(interest, file.file());
    }
}

/// An epoll instance as a file.
pub struct Epoll(Arc<Instance>);

impl Epoll {
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let instance = Instance {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            ready: Watched::new(ReadyQueue { queue: VecDeque::new() }),
            table: Mutex::new(Vec::new()),
        };
        heap::try_arc(instance).map(Self).ok_or(Errno::ENOMEM)
    }

    /// `EPOLL_CTL_ADD`
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL`, `ELOOP`, `ENOMEM`, `ENOSPC`, `EPERM` if the file cannot be polled.
    pub fn add(&self, descriptor: i32, file: &Arc<OpenFile>, event: EpollEvent) -> Result<(), Errno> {
        let watched = file.file().watched().ok_or(Errno::EPERM)?;
        let inner = file.downcast::<Self>();
        if event.flags().contains(EpollFlags::EXCLUSIVE)
            && (inner.is_some() || !EpollFlags::WITH_EXCLUSIVE.contains(event.flags()))
        {
            return Err(Errno::EINVAL);
        }
        if let Some(inner) = inner {
            nesting::add(self.0.id, inner.0.id)?;
        }
        let added = self.insert(descriptor, file, watched, event.with_errors());
        if let (Err(_), Some(inner)) = (&added, inner) {
            nesting::remove(self.0.id, inner.0.id);
        }
        added?.notify(file.file().poll());
        Ok(())
    }

    fn insert(
        &self,
        descriptor: i32,
        file: &Arc<OpenFile>,
        watched: &dyn Watchable,
        event: EpollEvent,
    ) -> Result<Arc<Interest>, Errno> {
        let mut table = self.0.table.lock();
        let Err(at) = position(&table, descriptor, file) else { return Err(Errno::EEXIST) };
        let room = table.len() + 1;
        if debug::fail_point(FailPoint::Heap) || table.try_reserve(1).is_err() {
            return Err(Errno::ENOMEM);
        }
        let reserve = |ready: &mut ReadyQueue| ready.queue.try_reserve(room - ready.queue.len());
        self.0.ready.with(reserve).map_err(|_| Errno::ENOMEM)?;
        if INTERESTS.fetch_add(1, Ordering::Relaxed) >= INTERESTS_MAX {
            INTERESTS.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        let interest = Interest {
            descriptor,
            file: Arc::downgrade(file),
            instance: self.0.clone(),
            event: SpinLock::new(event),
            place: AtomicU8::new(IDLE),
        };
        let interest = heap::try_arc(interest).ok_or(Errno::ENOMEM)?;
        watched.watch(&Watcher::Interest(interest.clone()))?;
        table.insert(at, interest.clone());
        Ok(interest)
    }

    /// `EPOLL_CTL_MOD`
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL` for `EPOLLEXCLUSIVE`.
    pub fn modify(&self, descriptor: i32, file: &Arc<OpenFile>, event: EpollEvent) -> Result<(), Errno> {
        if event.flags().contains(EpollFlags::EXCLUSIVE) {
            return Err(Errno::EINVAL);
        }
        let interest = {
            let table = self.0.table.lock();
            table[position(&table, descriptor, file).map_err(|_| Errno::ENOENT)?].clone()
        };
        if interest.is_exclusive() {
            return Err(Errno::EINVAL);
        }
        *interest.event.lock() = event.with_errors();
        interest.notify(file.file().poll());
        Ok(())
    }

    /// `EPOLL_CTL_DEL`
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, descriptor: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let mut table = self.0.table.lock();
        let interest = match position(&table, descriptor, file) {
            Ok(at) => table.remove(at),
            Err(_) => return Err(Errno::ENOENT),
        };
        self.0.detach(interest, file.file());
        Ok(())
    }

    /// Passes up to `limit` events to `report`, and returns their number. A failed report ends the call, and
    /// is its error if it was the first.
    ///
    /// # Errors
    /// That of `report`.
    pub fn collect(
        &self,
        limit: usize,
        mut report: impl FnMut(EpollEvent) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        let mut count = 0;
        // An interest that is queued again is not reported twice.
        let queued = self.0.ready.with(|ready| ready.queue.len());
        for _ in 0..queued {
            if count == limit {
                break;
            }
            let Some(interest) = self.0.ready.with(ReadyQueue::pop) else { break };
            let Some(file) = interest.file.upgrade() else { continue };
            let before = interest.event.lock().flags();
            let Some(event) = interest.take(file.file().poll()) else { continue };
            if let Err(error) = report(event) {
                interest.untake(before);
                self.requeue(&interest);
                return if count == 0 { Err(error) } else { Ok(count) };
            }
            count += 1;
            if !before.intersects(EpollFlags::EDGE_TRIGGERED | EpollFlags::ONESHOT) {
                self.requeue(&interest);
            }
        }
        Ok(count)
    }

    /// Queues an interest again. It reports no event, but wakes a thread that found the queue empty in the
    /// meantime.
    fn requeue(&self, interest: &Arc<Interest>) {
        self.0.ready.update(|ready| {
            ready.push(interest);
            ((), Some(PollEvents::empty()))
        });
    }
}

/// Returns the position of the interest in `file` as `descriptor`, or that at which to insert it.
fn position(table: &[Arc<Interest>], descriptor: i32, file: &Arc<OpenFile>) -> Result<usize, usize> {
    table.binary_search_by_key(&(descriptor, Arc::as_ptr(file).addr()), |other| other.key())
}

impl File for Epoll {
    fn seek(&self, _offset: i64, _whence: u64) -> Result<u64, Errno> {
        Ok(0)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:[eventpoll]")
    }

    fn describe_state(&self, _: usize, out: &mut Text) -> Result<(), Errno> {
        let interest_at = |index: usize| self.0.table.lock().get(index).cloned();
        for interest in (0..).map_while(interest_at) {
            // Dropped without the lock of the table.
            let Some(file) = interest.file.upgrade() else { continue };
            let (event, stat) = (*interest.event.lock(), file.stat()?);
            let position = file.file().seek(0, SEEK_CUR).unwrap_or(0);
            write!(
                out,
                "tfd: {:8} events: {:8x} data: {:16x} ",
                interest.descriptor, event.events, event.data
            )?;
            writeln!(out, " pos:{position} ino:{:x} sdev:{:x}", stat.ino, stat.dev)?;
        }
        Ok(())
    }

    fn poll(&self) -> PollEvents {
        let queued = self.0.ready.with(|ready| ready.queue.len());
        for _ in 0..queued {
            let Some(interest) = self.0.ready.with(ReadyQueue::pop) else { break };
            let Some(file) = interest.file.upgrade() else { continue };
            let found = file.file().poll();
            let is_ready = interest.event.lock().reported(found).is_some();
            if is_ready {
                self.requeue(&interest);
                return PollEvents::IN | PollEvents::RDNORM;
            }
        }
        PollEvents::empty()
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&self.0.ready)
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let interests = core::mem::take(&mut *self.0.table.lock());
        for interest in interests {
            // A file that is being closed removes the interest itself.
            let file = interest.file.upgrade();
            let queued = self.0.ready.with(|ready| ready.remove(&interest));
            drop(queued);
            if let Some(file) = &file {
                self.0.detach(interest, file.file());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::eventfd::EventFd;
    use abi::file::OpenFlags;

    fn file(value: u32) -> Arc<OpenFile> {
        OpenFile::try_new(EventFd::new(value, false), OpenFlags::READ_WRITE).unwrap()
    }

    fn instance() -> (Arc<OpenFile>, Epoll) {
        let epoll = Epoll::new().unwrap();
        let other = Epoll(epoll.0.clone());
        (OpenFile::try_new(other, OpenFlags::READ_WRITE).unwrap(), epoll)
    }

    fn event(flags: EpollFlags) -> EpollEvent {
        EpollEvent { events: flags.bits() | PollEvents::IN.bits() as u32, ..EpollEvent::default() }
    }

    fn collected(epoll: &Epoll) -> usize {
        epoll.collect(16, |_| Ok(())).unwrap()
    }

    #[test]
    fn event_that_cannot_be_reported_is_reported_later() {
        for flags in [EpollFlags::empty(), EpollFlags::ONESHOT, EpollFlags::EDGE_TRIGGERED] {
            let (epoll, ready) = (Epoll::new().unwrap(), file(1));
            epoll.add(3, &ready, event(flags)).unwrap();
            assert_eq!(epoll.collect(16, |_| Err(Errno::EFAULT)), Err(Errno::EFAULT));
            assert_eq!(collected(&epoll), 1, "{flags:?}");
            assert_eq!(collected(&epoll), usize::from(flags.is_empty()), "{flags:?}");
        }
    }

    #[test]
    fn removed_interest_is_not_queued_again() {
        let (epoll, idle) = (Epoll::new().unwrap(), file(0));
        epoll.add(3, &idle, event(EpollFlags::empty())).unwrap();
        let interest = epoll.0.table.lock()[0].clone();
        epoll.remove(3, &idle).unwrap();
        // As by a notification that found the interest before.
        interest.notify(PollEvents::IN);
        assert_eq!(epoll.0.ready.with(|ready| ready.queue.len()), 0);
    }

    #[test]
    fn closed_file_leaves_the_table_and_the_queue() {
        let (epoll, ready) = (Epoll::new().unwrap(), file(1));
        epoll.add(3, &ready, event(EpollFlags::empty())).unwrap();
        drop(ready);
        let left = (epoll.0.table.lock().len(), epoll.0.ready.with(|ready| ready.queue.len()));
        assert_eq!(left, (0, 0));
    }

    #[test]
    fn notifications_of_all_files_find_room() {
        let (epoll, files) = (Epoll::new().unwrap(), [0; 40].map(file));
        for (number, file) in files.iter().enumerate() {
            epoll.add(number as i32, file, event(EpollFlags::empty())).unwrap();
        }
        assert!(epoll.0.ready.with(|ready| ready.queue.capacity()) >= files.len());
    }

    /// As many of each as there is room for in the system, and more.
    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn removed_and_refused_interests_make_room() {
        let (epoll, ready) = (Epoll::new().unwrap(), file(0));
        for _ in 0..=INTERESTS_MAX {
            epoll.add(3, &ready, event(EpollFlags::empty())).unwrap();
            epoll.remove(3, &ready).unwrap();
        }
        let (inner, _) = instance();
        for _ in 0..100 {
            epoll.add(4, &inner, event(EpollFlags::empty())).unwrap();
            assert_eq!(epoll.add(4, &inner, event(EpollFlags::empty())), Err(Errno::EEXIST));
            epoll.remove(4, &inner).unwrap();
        }
    }
}
