//! Event files: `eventfd2`, `epoll`, `timerfd`.

use crate::file::PollEvents;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `eventfd2`: a read decrements the counter by 1.
pub const EFD_SEMAPHORE: u32 = 1;

/// `timerfd_settime`: the time is absolute.
pub const TFD_TIMER_ABSTIME: u32 = 1;
/// `timerfd_settime`: a read fails after the real time was set.
pub const TFD_TIMER_CANCEL_ON_SET: u32 = 2;

/// `epoll_ctl`: add an interest.
pub const EPOLL_CTL_ADD: i32 = 1;
/// `epoll_ctl`: remove an interest.
pub const EPOLL_CTL_DEL: i32 = 2;
/// `epoll_ctl`: change an interest.
pub const EPOLL_CTL_MOD: i32 = 3;

/// Maximum number of events of `epoll_pwait`.
pub const EPOLL_MAX_EVENTS: usize = i32::MAX as usize / size_of::<EpollEvent>();

bitflags! {
    /// Events of an interest (`EPOLL*`): the bits of [`PollEvents`], and flags.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EpollFlags: u32 {
        /// Readable.
        const IN = PollEvents::IN.bits() as u32;
        /// Writable.
        const OUT = PollEvents::OUT.bits() as u32;
        /// Error; always reported.
        const ERR = PollEvents::ERR.bits() as u32;
        /// Hang-up; always reported.
        const HUP = PollEvents::HUP.bits() as u32;
        /// An event wakes at least one of the instances that watch the file.
        const EXCLUSIVE = 1 << 28;
        /// No effect.
        const WAKEUP = 1 << 29;
        /// The interest is disabled after one event.
        const ONESHOT = 1 << 30;
        /// Reported once for a change, not while the file is ready.
        const EDGE_TRIGGERED = 1 << 31;

        /// The flags that are not events.
        const PRIVATE = 0b1111 << 28;
        /// The flags that can be combined with `EXCLUSIVE`, and itself.
        const WITH_EXCLUSIVE = Self::IN.bits() | Self::OUT.bits() | Self::ERR.bits() | Self::HUP.bits()
            | Self::WAKEUP.bits() | Self::EDGE_TRIGGERED.bits() | Self::EXCLUSIVE.bits();
    }
}

/// `struct epoll_event` of arm64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EpollEvent {
    /// [`EpollFlags`].
    pub events: u32,
    /// Padding.
    pub gap: u32,
    /// A value of the program.
    pub data: u64,
}

impl EpollEvent {
    /// The events and flags.
    pub fn flags(&self) -> EpollFlags {
        EpollFlags::from_bits_retain(self.events)
    }

    /// Adds the events that are reported without being requested.
    #[must_use]
    pub fn with_errors(self) -> Self {
        Self { events: self.events | (EpollFlags::ERR | EpollFlags::HUP).bits(), ..self }
    }

    /// The event to report for a file with the events `found`; `None` if none of them is requested.
    pub fn reported(&self, found: PollEvents) -> Option<Self> {
        let events = self.events & !EpollFlags::PRIVATE.bits() & u32::from(found.bits() as u16);
        (events != 0).then_some(Self { events, gap: 0, data: self.data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_matches_arm64_linux() {
        assert_eq!((size_of::<EpollEvent>(), core::mem::offset_of!(EpollEvent, data)), (16, 8));
    }

    #[test]
    fn only_requested_events_are_reported() {
        let event = EpollEvent { events: 1 << 31 | 1, gap: 7, data: 5 };
        let reported = |events| EpollEvent { events, gap: 0, data: 5 };
        assert_eq!(event.reported(PollEvents::IN | PollEvents::HUP), Some(reported(1)));
        assert_eq!(event.reported(PollEvents::HUP), None);
        assert_eq!(event.with_errors().reported(PollEvents::HUP), Some(reported(0x10)));
    }
}
