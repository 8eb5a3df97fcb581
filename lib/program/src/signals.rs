//! Pending signals, and the effect of a signal on a thread.

use abi::Errno;
use abi::signal::{
    DefaultAction, SA_NODEFER, SA_RESETHAND, SI_KERNEL, SI_TIMER, SI_USER, SIG_DFL, SIG_IGN, SigAction,
    SigInfo, Signal, SignalSet,
};
use alloc::vec::Vec;

/// The signals that were sent to a thread or a process and not delivered yet. A standard signal is pending at
/// most once, a real-time signal as often as it was sent.
#[derive(Default, Debug)]
pub struct PendingSignals {
    set: SignalSet,
    /// In the order of arrival. Without an entry a pending signal was sent by `kill`.
    queue: Vec<SigInfo>,
    /// The timers that send signals: each has room for one in the queue.
    timers: usize,
}

/// The lowest real-time signal.
const FIRST_REALTIME: usize = 32;

/// The maximum number of queued signals.
pub const QUEUE_MAX: usize = 256;

impl PendingSignals {
    /// The pending signals.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal. Returns whether it was not pending before, so that a thread must be notified.
    ///
    /// # Errors
    /// `EAGAIN` if the queue has no room for a real-time signal that must not be merged with another. A
    /// standard signal is always added, without its description if there is no room.
    pub fn add(&mut self, signal: Signal, info: SigInfo) -> Result<bool, Errno> {
        let is_new = !self.set.contains(signal);
        if matches!(info.code, SI_TIMER | SI_KERNEL) {
            self.add_from_interrupt(info, is_new);
            self.set = self.set.with(signal);
            return Ok(is_new);
        }
        let is_realtime = signal.number() >= FIRST_REALTIME;
        if is_new || is_realtime {
            let has_room = self.queue.len() < QUEUE_MAX && self.queue.try_reserve(1 + self.timers).is_ok();
            match has_room {
                true => self.queue.push(info),
                false if is_realtime && info.code != SI_USER => return Err(Errno::EAGAIN),
                false => {}
            }
        }
        self.set = self.set.with(signal);
        Ok(is_new)
    }

    /// Adds a signal without an allocation. A timer has at most one, also of a standard signal.
    fn add_from_interrupt(&mut self, info: SigInfo, is_new: bool) {
        let is_queued = match info.timer_id() {
            Some(id) => self.queue.iter().any(|queued| queued.timer_id() == Some(id)),
            None => !is_new,
        };
        if !is_queued && self.queue.len() < self.queue.capacity() {
            self.queue.push(info);
        }
    }

    /// Reserves room for the signal of a timer.
    ///
    /// # Errors
    /// `EAGAIN` without memory.
    pub fn reserve_timer(&mut self) -> Result<(), Errno> {
        self.queue.try_reserve(self.timers + 1).map_err(|_| Errno::EAGAIN)?;
        self.timers += 1;
        Ok(())
    }

    /// Releases the room for the signal of a timer.
    pub fn release_timer(&mut self) {
        self.timers = self.timers.saturating_sub(1);
    }

    /// Removes the signal of POSIX timer `id`, if it is pending.
    pub fn discard_timer(&mut self, id: u32) {
        let Some(at) = self.queue.iter().position(|info| info.timer_id() == Some(id)) else { return };
        let number = self.queue.remove(at).signal;
        let signal = Signal::from_number(number as u64);
        if let Some(signal) = signal.filter(|_| !self.queue.iter().any(|info| info.signal == number)) {
            self.set = self.set.without(signal);
        }
    }

    /// Removes and returns the next signal that is not in `mask`: those that an instruction raised first,
    /// then the lowest number.
    pub fn take(&mut self, mask: SignalSet) -> Option<(Signal, SigInfo)> {
        let deliverable = self.set.difference(mask);
        let synchronous = deliverable.intersection(SignalSet::SYNCHRONOUS);
        let signal = synchronous.first().or_else(|| deliverable.first())?;
        Some((signal, self.remove(signal)))
    }

    /// Removes one occurrence of a pending signal.
    fn remove(&mut self, signal: Signal) -> SigInfo {
        let number = signal.number() as i32;
        let first = self.queue.iter().position(|info| info.signal == number);
        let info = first.map(|at| self.queue.remove(at));
        if !self.queue.iter().any(|info| info.signal == number) {
            self.set = self.set.without(signal);
        }
        info.unwrap_or(SigInfo::sent(signal, SI_USER, 0))
    }

    /// Removes all occurrences of the signals in `set`, as when their action becomes to ignore them.
    pub fn discard(&mut self, set: SignalSet) {
        self.set = self.set.difference(set);
        let kept = self.set;
        self.queue.retain(|info| {
            Signal::from_number(info.signal as u64).is_some_and(|signal| kept.contains(signal))
        });
    }
}

/// The effect of a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// None.
    Ignore,
    /// The process is terminated.
    Terminate,
    /// The process is stopped.
    Stop,
    /// The handler is called.
    Call {
        /// The action, whose handler is called.
        action: SigAction,
        /// The signal mask during the handler.
        mask: SignalSet,
    },
}

/// Returns the effect of `signal` on a thread with `mask`, and resets `action` if it is for one time.
pub fn deliver(signal: Signal, action: &mut SigAction, mask: SignalSet) -> Delivery {
    match action.handler {
        SIG_IGN => Delivery::Ignore,
        SIG_DFL => match signal.default_action() {
            DefaultAction::Ignore => Delivery::Ignore,
            DefaultAction::Terminate => Delivery::Terminate,
            DefaultAction::Stop => Delivery::Stop,
        },
        _ => {
            let called = *action;
            if called.flags & SA_RESETHAND != 0 {
                action.handler = SIG_DFL;
            }
            let during = mask.union(SignalSet::from_bits(called.mask));
            let defers = called.flags & SA_NODEFER == 0;
            Delivery::Call { action: called, mask: if defers { during.with(signal) } else { during } }
        }
    }
}

/// Returns the effect of a signal that an instruction raised: it terminates the process if it is blocked or
/// ignored, since the instruction would raise it again.
pub fn deliver_forced(signal: Signal, action: &mut SigAction, mask: SignalSet) -> Delivery {
    if mask.contains(signal) || action.handler == SIG_IGN {
        return Delivery::Terminate;
    }
    deliver(signal, action, mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::signal::{SI_TKILL, SigAction};

    const HANDLER: u64 = 0x4000;
    const REALTIME: Signal = Signal::from_number(40).unwrap();

    fn info(signal: Signal, sender: u32) -> SigInfo {
        SigInfo::sent(signal, SI_TKILL, sender)
    }

    fn action(handler: u64, flags: u64, mask: u64) -> SigAction {
        SigAction { handler, flags, restorer: 0, mask }
    }

    #[test]
    fn standard_signal_is_pending_once_and_keeps_its_first_sender() {
        let mut pending = PendingSignals::default();
        assert_eq!(pending.add(Signal::SIGTERM, info(Signal::SIGTERM, 1)), Ok(true));
        assert_eq!(pending.add(Signal::SIGTERM, info(Signal::SIGTERM, 2)), Ok(false));
        assert_eq!(pending.take(SignalSet::EMPTY), Some((Signal::SIGTERM, info(Signal::SIGTERM, 1))));
        assert_eq!(pending.take(SignalSet::EMPTY), None);
    }

    #[test]
    fn realtime_signals_are_queued_in_order() {
        let mut pending = PendingSignals::default();
        for sender in 1..4 {
            pending.add(REALTIME, info(REALTIME, sender)).unwrap();
        }
        let senders: Vec<_> =
            core::iter::from_fn(|| pending.take(SignalSet::EMPTY)).map(|(_, info)| info.fields[0]).collect();
        assert_eq!(senders, [1, 2, 3]);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn full_queue_refuses_realtime_signals_only() {
        let mut pending = PendingSignals::default();
        for _ in 0..QUEUE_MAX {
            pending.add(REALTIME, info(REALTIME, 1)).unwrap();
        }
        assert_eq!(pending.add(REALTIME, info(REALTIME, 1)), Err(Errno::EAGAIN));
        assert_eq!(pending.add(REALTIME, SigInfo::sent(REALTIME, SI_USER, 1)), Ok(false), "by `kill`");
        assert_eq!(pending.add(Signal::SIGTERM, info(Signal::SIGTERM, 5)), Ok(true));
        let (signal, info) = pending.take(SignalSet::EMPTY).unwrap();
        assert_eq!((signal, info.code, info.fields[0]), (Signal::SIGTERM, SI_USER, 0));
    }

    #[test]
    fn timer_signals_have_room_and_are_pending_once_for_each_timer() {
        let mut pending = PendingSignals::default();
        (0..2).for_each(|_| pending.reserve_timer().unwrap());
        for _ in 0..QUEUE_MAX {
            pending.add(REALTIME, info(REALTIME, 1)).unwrap();
        }
        let capacity = pending.queue.capacity();
        let timer = |id| SigInfo::timer(Signal::SIGALRM, id, 0);
        for (id, is_new) in [(5, true), (5, false), (6, false)] {
            assert_eq!(pending.add(Signal::SIGALRM, timer(id)), Ok(is_new));
        }
        assert_eq!((pending.queue.len(), pending.queue.capacity()), (QUEUE_MAX + 2, capacity));
        pending.discard_timer(5);
        assert_eq!(pending.take(SignalSet::EMPTY), Some((Signal::SIGALRM, timer(6))));
        assert!(!pending.set().contains(Signal::SIGALRM));
    }

    #[test]
    fn faults_come_first_then_the_lowest_number() {
        let mut pending = PendingSignals::default();
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGSEGV, REALTIME] {
            pending.add(signal, info(signal, 1)).unwrap();
        }
        let order: Vec<_> =
            core::iter::from_fn(|| pending.take(SignalSet::EMPTY)).map(|next| next.0).collect();
        assert_eq!(order, [Signal::SIGSEGV, Signal::SIGHUP, Signal::SIGTERM, REALTIME]);
    }

    #[test]
    fn realtime_signals_start_at_32() {
        let queued = |number| {
            let signal = Signal::from_number(number).unwrap();
            let mut pending = PendingSignals::default();
            for sender in [1, 2] {
                pending.add(signal, info(signal, sender)).unwrap();
            }
            pending.queue.len()
        };
        assert_eq!([30, 31, 32, 33].map(queued), [1, 1, 2, 2]);
    }

    #[test]
    fn blocked_fault_does_not_precede_other_signals() {
        let mut pending = PendingSignals::default();
        for signal in [Signal::SIGTERM, Signal::SIGSEGV] {
            pending.add(signal, info(signal, 1)).unwrap();
        }
        let blocked = SignalSet::EMPTY.with(Signal::SIGSEGV);
        assert_eq!(pending.take(blocked), Some((Signal::SIGTERM, info(Signal::SIGTERM, 1))));
        assert_eq!(pending.take(blocked), None);
    }

    #[test]
    fn blocked_signals_stay_pending() {
        let mut pending = PendingSignals::default();
        pending.add(Signal::SIGHUP, info(Signal::SIGHUP, 1)).unwrap();
        assert_eq!(pending.take(SignalSet::EMPTY.with(Signal::SIGHUP)), None);
        assert!(pending.set().contains(Signal::SIGHUP));
        pending.discard(SignalSet::EMPTY.with(Signal::SIGHUP));
        assert_eq!((pending.set(), pending.queue.len()), (SignalSet::EMPTY, 0));
    }

    #[test]
    fn handler_runs_with_its_mask_and_its_signal_blocked() {
        let before = SignalSet::EMPTY.with(Signal::SIGHUP);
        let mask = |flags| {
            let mut action = action(HANDLER, flags, 1 << 14);
            match deliver(Signal::SIGUSR1, &mut action, before) {
                Delivery::Call { mask, .. } => mask,
                other => panic!("{other:?}"),
            }
        };
        let during = before.with(Signal::SIGTERM);
        assert_eq!((mask(0), mask(SA_NODEFER)), (during.with(Signal::SIGUSR1), during));
    }

    #[test]
    fn one_time_handler_is_reset_when_it_is_called() {
        let mut action = action(HANDLER, SA_RESETHAND, 0);
        assert!(matches!(deliver(Signal::SIGUSR1, &mut action, SignalSet::EMPTY), Delivery::Call { .. }));
        assert_eq!(deliver(Signal::SIGUSR1, &mut action, SignalSet::EMPTY), Delivery::Terminate);
    }

    #[test]
    fn default_and_ignored_actions_have_their_effects() {
        let effect = |signal, handler| deliver(signal, &mut action(handler, 0, 0), SignalSet::EMPTY);
        assert_eq!(effect(Signal::SIGTERM, SIG_IGN), Delivery::Ignore);
        assert_eq!(effect(Signal::SIGTERM, SIG_DFL), Delivery::Terminate);
        assert_eq!(effect(Signal::SIGCHLD, SIG_DFL), Delivery::Ignore);
        assert_eq!(effect(Signal::SIGSTOP, SIG_DFL), Delivery::Stop);
    }

    #[test]
    fn fault_terminates_a_thread_that_blocks_or_ignores_it() {
        let blocked = SignalSet::EMPTY.with(Signal::SIGSEGV);
        let forced = |handler, mask| deliver_forced(Signal::SIGSEGV, &mut action(handler, 0, 0), mask);
        assert_eq!(forced(HANDLER, blocked), Delivery::Terminate);
        assert_eq!(forced(SIG_IGN, SignalSet::EMPTY), Delivery::Terminate);
        assert!(matches!(forced(HANDLER, SignalSet::EMPTY), Delivery::Call { .. }));
    }
}
