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
    /// The one that wakes first comes last.
    sleepers: Vec<SleepingThread<T>>,
    threads: usize,
}

/// A thread that sleeps, and the CPU whose timer wakes it: not all of them for each.
#[derive(Debug)]
struct SleepingThread<T> {
    deadline: Nanoseconds,
    cpu: usize,
    thread: T,
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

    /// Threads that room was made for.
    pub fn threads(&self) -> usize {
        self.threads
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

    /// The thread sleeps until `deadline`, if nobody wakes it before. CPU `cpu` sees to that.
    pub fn sleep(&mut self, thread: T, deadline: Nanoseconds, cpu: usize) {
        debug_assert!(self.sleepers.len() < self.sleepers.capacity());
        let at = self.sleepers.partition_point(|other| other.deadline > deadline);
        self.sleepers.insert(at, SleepingThread { deadline, cpu, thread });
    }

    /// Takes the sleeper that `is_it` knows out of the list, if it is there.
    pub fn wake(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.sleepers.iter().position(|sleeper| is_it(&sleeper.thread))?;
        Some(self.sleepers.remove(at).thread)
    }

    /// Takes a sleeper whose time has come out of the list, whoever should have woken it.
    pub fn pop_expired(&mut self, now: Nanoseconds) -> Option<T> {
        self.sleepers.pop_if(|sleeper| sleeper.deadline <= now).map(|sleeper| sleeper.thread)
    }

    /// When CPU `cpu` has to wake the next sleeper.
    pub fn next_deadline(&self, cpu: usize) -> Option<Nanoseconds> {
        let first = self.sleepers.iter().rev().find(|sleeper| sleeper.cpu == cpu);
        first.map(|sleeper| sleeper.deadline)
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
        let mut queue = queue(4);
        queue.sleep('a', 30, 0);
        queue.sleep('b', 10, 0);
        queue.sleep('c', 20, 1);
        queue.sleep('d', 40, 1);
        assert_eq!([0, 1, 2].map(|cpu| queue.next_deadline(cpu)), [Some(10), Some(20), None]);
        assert_eq!(queue.pop_expired(9), None);
        assert_eq!(
            [queue.pop_expired(20), queue.pop_expired(20), queue.pop_expired(20)],
            [Some('b'), Some('c'), None]
        );
        assert_eq!([0, 1].map(|cpu| queue.next_deadline(cpu)), [Some(30), Some(40)]);
    }

    #[test]
    fn a_sleeper_can_be_woken_before() {
        let mut queue = queue(2);
        queue.sleep('a', 30, 0);
        assert_eq!(queue.wake(|&thread| thread == 'b'), None);
        assert_eq!(queue.wake(|&thread| thread == 'a'), Some('a'));
        assert_eq!(queue.next_deadline(0), None);
    }

    #[test]
    fn nothing_grows_but_by_reserve() {
        let mut queue = queue(100);
        let room = (queue.ready.capacity(), queue.sleepers.capacity());
        for round in 0..3 {
            for thread in 0..100 {
                queue.push('x');
                queue.sleep('y', thread, 0);
            }
            assert_eq!((queue.ready.capacity(), queue.sleepers.capacity()), room, "round {round}");
            while queue.pop().is_some() {}
            while queue.pop_expired(u64::MAX).is_some() {}
        }
    }
}
