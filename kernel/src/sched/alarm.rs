//! Alarms: functions that the timer interrupt calls at a given time.

use super::run_queue::Nanoseconds;
use super::time;
use crate::debug::{self, FailPoint};
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// The receiver of an alarm.
pub trait Alarm: Send + Sync {
    /// Called in interrupt context with the lock of the alarms held: must not allocate, free or set alarms.
    fn ring(&self);
}

/// The maximum number of alarms, which bounds the time of the interrupt handler.
const ALARMS_MAX: usize = 512;
/// The time of an alarm that is not set.
const NEVER: Nanoseconds = Nanoseconds::MAX;

static ALARMS: SpinLock<Alarms<Arc<dyn Alarm>>> = SpinLock::new(Alarms(Vec::new()));
/// The first alarm of each CPU, which its timer must interrupt; read without the lock by the scheduler.
static FIRST: PerCpu<AtomicU64> = PerCpu::new([const { AtomicU64::new(NEVER) }; MAX_CPUS]);

/// The alarms in descending order of their times. Entries move, but are added and removed by
/// [`register`] and [`remove`] only, so that the interrupt handler neither allocates nor frees.
struct Alarms<T>(Vec<AlarmEntry<T>>);

struct AlarmEntry<T> {
    at: Nanoseconds,
    /// The CPU whose timer interrupts for it.
    cpu: usize,
    alarm: T,
}

impl<T> Alarms<T> {
    /// Sets the time of the alarm that `matches` selects. Returns the CPU of its previous time.
    fn set(&mut self, matches: impl Fn(&T) -> bool, at: Nanoseconds, cpu: usize) -> Option<usize> {
        let from = self.0.iter().position(|entry| matches(&entry.alarm))?;
        let previous = self.0[from].cpu;
        (self.0[from].at, self.0[from].cpu) = (at, cpu);
        let to = self.0.iter().enumerate().filter(|(n, entry)| *n != from && entry.at > at).count();
        if from < to {
            self.0[from..=to].rotate_left(1);
        } else {
            self.0[to..=from].rotate_right(1);
        }
        Some(previous)
    }

    /// Calls `ring` with each alarm whose time has come, which is not set any more then.
    fn ring_expired(&mut self, now: Nanoseconds, ring: impl Fn(&T)) {
        let expired = self.0.iter().rev().take_while(|entry| entry.at <= now).count();
        let len = self.0.len();
        for entry in self.0[len - expired..].iter_mut().rev() {
            entry.at = NEVER;
            ring(&entry.alarm);
        }
        self.0.rotate_right(expired);
    }

    fn first(&self, cpu: usize) -> Nanoseconds {
        self.0.iter().rev().find(|entry| entry.cpu == cpu).map_or(NEVER, |entry| entry.at)
    }
}

/// Adds an alarm that is not set. Returns `false` without memory, or if there are too many.
pub fn register(alarm: Arc<dyn Alarm>) -> bool {
    let mut alarms = ALARMS.lock();
    let has_room = alarms.0.len() < ALARMS_MAX && !debug::fail_point(FailPoint::Heap);
    if !has_room || alarms.0.try_reserve(1).is_err() {
        return false;
    }
    alarms.0.insert(0, AlarmEntry { at: NEVER, cpu: arch::cpu::index(), alarm });
    true
}

/// Removes an alarm; it does not ring afterwards.
pub fn remove(alarm: &Arc<dyn Alarm>) {
    let removed = {
        let mut alarms = ALARMS.lock();
        let at = alarms.0.iter().position(|entry| is_same(&entry.alarm, alarm));
        at.map(|at| alarms.0.remove(at))
    };
    drop(removed);
}

fn is_same(alarm: &Arc<dyn Alarm>, other: &Arc<dyn Alarm>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(alarm), Arc::as_ptr(other))
}

/// Makes a registered alarm ring once at `at`, or not at all, instead of at an earlier set time.
pub fn set(alarm: &Arc<dyn Alarm>, at: Option<Nanoseconds>) {
    // On this CPU until its timer is set.
    let _irqs = arch::cpu::mask_irqs();
    {
        let (mut alarms, cpu) = (ALARMS.lock(), arch::cpu::index());
        let previous = alarms.set(|other| is_same(other, alarm), at.unwrap_or(NEVER), cpu);
        for cpu in previous.into_iter().chain([cpu]) {
            store_first(&alarms, cpu);
        }
    }
    super::update_timer();
}

fn store_first(alarms: &Alarms<Arc<dyn Alarm>>, cpu: usize) {
    FIRST.of(cpu).store(alarms.first(cpu), Ordering::Relaxed);
}

/// Rings the alarms whose time has come, whichever CPU's timer they belong to. Called by the timer interrupt.
pub(super) fn ring_expired() {
    if next().is_none_or(|at| at > time::now()) {
        return;
    }
    let mut alarms = ALARMS.lock();
    alarms.ring_expired(time::now(), |alarm| alarm.ring());
    store_first(&alarms, arch::cpu::index());
}

/// Returns the time of this CPU's first alarm.
pub(super) fn next() -> Option<Nanoseconds> {
    let first = FIRST.this().load(Ordering::Relaxed);
    (first != NEVER).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;

    fn alarms(times: &[(char, Nanoseconds, usize)]) -> Alarms<char> {
        let entries = times.iter().map(|&(alarm, ..)| AlarmEntry { at: NEVER, cpu: 0, alarm });
        let mut alarms = Alarms(entries.collect());
        for &(alarm, at, cpu) in times {
            assert_eq!(alarms.set(|&other| other == alarm, at, cpu), Some(0));
        }
        alarms
    }

    fn rung(alarms: &mut Alarms<char>, now: Nanoseconds) -> Vec<char> {
        let rung = RefCell::new(Vec::new());
        alarms.ring_expired(now, |&alarm| rung.borrow_mut().push(alarm));
        rung.into_inner()
    }

    #[test]
    fn alarms_ring_once_in_the_order_of_their_times() {
        let mut alarms = alarms(&[('a', 30, 0), ('b', 10, 0), ('c', 20, 1), ('d', NEVER, 0)]);
        assert_eq!([0, 1, 2].map(|cpu| alarms.first(cpu)), [10, 20, NEVER]);
        assert_eq!(rung(&mut alarms, 9), []);
        assert_eq!(rung(&mut alarms, 20), ['b', 'c']);
        assert_eq!([0, 1].map(|cpu| alarms.first(cpu)), [30, NEVER]);
        assert_eq!(rung(&mut alarms, 1000), ['a']);
        assert_eq!(rung(&mut alarms, NEVER - 1), []);
    }

    #[test]
    fn alarm_moves_to_its_new_time_and_cpu() {
        let mut alarms = alarms(&[('a', 30, 0), ('b', 10, 0), ('c', 20, 0)]);
        assert_eq!(alarms.set(|&alarm| alarm == 'b', 40, 1), Some(0));
        assert_eq!(alarms.set(|&alarm| alarm == 'a', 5, 0), Some(0));
        assert_eq!(alarms.set(|&alarm| alarm == 'x', 5, 0), None);
        assert_eq!([0, 1].map(|cpu| alarms.first(cpu)), [5, 40]);
        assert_eq!(rung(&mut alarms, 100), ['a', 'c', 'b']);
    }
}
