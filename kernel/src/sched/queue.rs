//! Who runs next and who sleeps until when: plain data behind the scheduler's lock.

use alloc::collections::{TryReserveError, VecDeque};
use alloc::vec::Vec;

/// A point in time: nanoseconds since the boot.
pub type Nanoseconds = u64;

/// Ready threads in the order in which they run, and sleeping threads with their deadlines.
///
/// Threads are woken in interrupt handlers, which must not allocate: [`RunQueue::reserve`] makes room for a thread
/// when it is made, and nothing else grows the lists.
#[derive(Debug)]
pub struct RunQueue<T> {
    ready: VecDeque<T>,
    sleepers: Vec<(Nanoseconds, T)>,
    threads: usize,
}

impl<T> RunQueue<T> {
    /// No threads.
    pub const fn new() -> Self {
        Self { ready: VecDeque::new(), sleepers: Vec::new(), threads: 0 }
    }

    /// Makes room for one thread more.
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.ready.try_reserve(self.threads + 1 - self.ready.len())?;
        self.sleepers.try_reserve(self.threads + 1 - self.sleepers.len())?;
        self.threads += 1;
        Ok(())
    }

    /// A thread ended: its room is free.
    pub fn release(&mut self) {
        self.threads -= 1;
    }

    /// Puts a thread at the end of the line.
    pub fn push(&mut self, thread: T) {
        debug_assert!(self.ready.len() < self.ready.capacity());
        self.ready.push_back(thread);
    }

    /// The thread at the head of the line.
    pub fn pop(&mut self) -> Option<T> {
        self.ready.pop_front()
    }

    /// Whether anybody is ready.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// The thread sleeps until `deadline`, if nobody wakes it before.
    pub fn sleep(&mut self, thread: T, deadline: Nanoseconds) {
        debug_assert!(self.sleepers.len() < self.sleepers.capacity());
        self.sleepers.push((deadline, thread));
    }

    /// Takes the sleeper that `is_it` knows out of the list, if it is there.
    pub fn wake(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.sleepers.iter().position(|(_, thread)| is_it(thread))?;
        Some(self.sleepers.swap_remove(at).1)
    }

    /// Takes a sleeper whose time has come out of the list.
    pub fn due(&mut self, now: Nanoseconds) -> Option<T> {
        let at = self.sleepers.iter().position(|(deadline, _)| *deadline <= now)?;
        Some(self.sleepers.swap_remove(at).1)
    }

    /// When the next sleeper's time comes.
    pub fn next_deadline(&self) -> Option<Nanoseconds> {
        self.sleepers.iter().map(|(deadline, _)| *deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(threads: usize) -> RunQueue<char> {
        let mut queue = RunQueue::new();
        (0..threads).for_each(|_| queue.reserve().unwrap());
        queue
    }

    #[test]
    fn ready_threads_take_turns() {
        let mut queue = queue(3);
        "abc".chars().for_each(|thread| queue.push(thread));
        let first = queue.pop().unwrap();
        queue.push(first);
        assert_eq!(
            [queue.pop(), queue.pop(), queue.pop(), queue.pop()],
            [Some('b'), Some('c'), Some('a'), None]
        );
    }

    #[test]
    fn sleepers_wake_when_their_time_comes() {
        let mut queue = queue(3);
        queue.sleep('a', 30);
        queue.sleep('b', 10);
        queue.sleep('c', 20);
        assert_eq!((queue.next_deadline(), queue.due(9)), (Some(10), None));
        assert_eq!((queue.due(20).is_some(), queue.due(20).is_some(), queue.due(20)), (true, true, None));
        assert_eq!(queue.next_deadline(), Some(30));
    }

    #[test]
    fn a_sleeper_can_be_woken_before() {
        let mut queue = queue(2);
        queue.sleep('a', 30);
        assert_eq!(queue.wake(|&thread| thread == 'b'), None);
        assert_eq!(queue.wake(|&thread| thread == 'a'), Some('a'));
        assert_eq!(queue.next_deadline(), None);
    }

    #[test]
    fn nothing_grows_but_by_reserve() {
        let mut queue = queue(100);
        let room = (queue.ready.capacity(), queue.sleepers.capacity());
        for round in 0..3 {
            for thread in 0..100 {
                queue.push('x');
                queue.sleep('y', thread);
            }
            assert_eq!((queue.ready.capacity(), queue.sleepers.capacity()), room, "round {round}");
            while queue.pop().is_some() {}
            while queue.due(u64::MAX).is_some() {}
        }
    }
}
