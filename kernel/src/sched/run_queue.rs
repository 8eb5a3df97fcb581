//! The run queue and the list of sleeping threads: plain data behind the scheduler's lock.

use alloc::collections::{TryReserveError, VecDeque};
use alloc::vec::Vec;

/// A point in time: nanoseconds since boot.
pub type Nanoseconds = u64;

/// The runnable threads in FIFO order, and the sleeping threads with their deadlines.
///
/// Interrupt handlers wake threads and must not allocate: [`RunQueue::reserve`] reserves the capacity for a
/// thread when it is created, and no other method grows the lists.
#[derive(Debug)]
pub struct RunQueue<T> {
    ready: VecDeque<T>,
    /// In descending order of the deadline.
    sleepers: Vec<SleepingThread<T>>,
    threads: usize,
}

/// A sleeping thread, and the only CPU whose timer wakes it.
#[derive(Debug)]
struct SleepingThread<T> {
    deadline: Nanoseconds,
    cpu: usize,
    thread: T,
}

impl<T> RunQueue<T> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { ready: VecDeque::new(), sleepers: Vec::new(), threads: 0 }
    }

    /// Reserves capacity for one more thread.
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.ready.try_reserve(self.threads + 1 - self.ready.len())?;
        self.sleepers.try_reserve(self.threads + 1 - self.sleepers.len())?;
        self.threads += 1;
        Ok(())
    }

    /// Returns the number of threads with reserved capacity.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Releases the capacity of an exited thread.
    pub fn release(&mut self) {
        self.threads -= 1;
    }

    /// Returns the number of runnable threads.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Appends a runnable thread.
    pub fn push(&mut self, thread: T) {
        debug_assert!(self.ready.len() < self.ready.capacity());
        self.ready.push_back(thread);
    }

    /// Removes and returns the first runnable thread.
    pub fn pop(&mut self) -> Option<T> {
        self.ready.pop_front()
    }

    /// Returns whether there is no runnable thread.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Adds a thread that sleeps until `deadline`, at which the timer of CPU `cpu` wakes it.
    pub fn add_sleeper(&mut self, thread: T, deadline: Nanoseconds, cpu: usize) {
        debug_assert!(self.sleepers.len() < self.sleepers.capacity());
        let at = self.sleepers.partition_point(|other| other.deadline > deadline);
        self.sleepers.insert(at, SleepingThread { deadline, cpu, thread });
    }

    /// Removes and returns the sleeper that `matches` selects, if there is one.
    pub fn remove_sleeper(&mut self, matches: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.sleepers.iter().position(|sleeper| matches(&sleeper.thread))?;
        Some(self.sleepers.remove(at).thread)
    }

    /// Removes and returns a sleeper whose deadline has passed, whichever CPU's timer it belongs to.
    pub fn pop_expired(&mut self, now: Nanoseconds) -> Option<T> {
        self.sleepers.pop_if(|sleeper| sleeper.deadline <= now).map(|sleeper| sleeper.thread)
    }

    /// Returns the first deadline of the sleepers of CPU `cpu`.
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
    fn runnable_threads_run_in_fifo_order() {
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
    fn sleepers_expire_in_order_of_their_deadlines() {
        let mut queue = queue(4);
        queue.add_sleeper('a', 30, 0);
        queue.add_sleeper('b', 10, 0);
        queue.add_sleeper('c', 20, 1);
        queue.add_sleeper('d', 40, 1);
        assert_eq!([0, 1, 2].map(|cpu| queue.next_deadline(cpu)), [Some(10), Some(20), None]);
        assert_eq!(queue.pop_expired(9), None);
        assert_eq!(
            [queue.pop_expired(20), queue.pop_expired(20), queue.pop_expired(20)],
            [Some('b'), Some('c'), None]
        );
        assert_eq!([0, 1].map(|cpu| queue.next_deadline(cpu)), [Some(30), Some(40)]);
    }

    #[test]
    fn sleeper_is_removed_by_a_wakeup_before_its_deadline() {
        let mut queue = queue(2);
        queue.add_sleeper('a', 30, 0);
        assert_eq!(queue.remove_sleeper(|&thread| thread == 'b'), None);
        assert_eq!(queue.remove_sleeper(|&thread| thread == 'a'), Some('a'));
        assert_eq!(queue.next_deadline(0), None);
    }

    #[test]
    fn only_reserve_allocates() {
        let mut queue = queue(100);
        let capacity = (queue.ready.capacity(), queue.sleepers.capacity());
        for round in 0..3 {
            for thread in 0..100 {
                queue.push('x');
                queue.add_sleeper('y', thread, 0);
            }
            assert_eq!((queue.ready.capacity(), queue.sleepers.capacity()), capacity, "round {round}");
            while queue.pop().is_some() {}
            while queue.pop_expired(u64::MAX).is_some() {}
        }
    }
}
