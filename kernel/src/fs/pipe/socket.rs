//! `socketpair`: two connected stream sockets, with a pipe in each direction.

use super::{Pipe, ReadEnd, State, WriteEnd};
use crate::fs::epoll::Interest;
use crate::fs::generated::Text;
use crate::fs::readiness::{Watchable, Watcher};
use crate::fs::{Caller, File, OpenFile};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::{IoVec, PollEvents, S_IFSOCK, Stat};
use addr::UserVa;
use alloc::sync::Arc;

/// `st_dev` of sockets.
const SOCKET_DEVICE: u64 = 5;

/// Notifications of both pipes wake the watchers of a socket, also those of its own reads and writes.
pub struct Socket {
    receive: ReadEnd,
    send: WriteEnd,
}

impl Socket {
    /// Returns two connected sockets.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn pair() -> Result<[Self; 2], Errno> {
        let ((to_first, from_second), (to_second, from_first)) = (Pipe::ends()?, Pipe::ends()?);
        Ok([Self { receive: to_first, send: from_first }, Self { receive: to_second, send: from_second }])
    }

    /// `shutdown` with `SHUT_RD`: the peer cannot send, and the end of the stream follows the bytes that it
    /// has sent.
    pub fn shut_down_receiving(&self) {
        self.receive.close();
    }

    /// `shutdown` with `SHUT_WR`: the peer receives the end of the stream.
    pub fn shut_down_sending(&self) {
        self.send.close();
    }
}

impl File for Socket {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        self.receive.read(memory, to, len)
    }

    fn read_vector(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        self.receive.read_vector(memory, segments)
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        self.send.write(memory, from, len)
    }

    fn write_vector(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        self.send.write_vector(memory, segments)
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        self.receive.ioctl(caller, request, argument)
    }

    fn stat(&self) -> Stat {
        Stat { dev: SOCKET_DEVICE, mode: S_IFSOCK | 0o777, ..self.receive.stat() }
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        super::describe("socket", self.receive.0.inode, out)
    }

    fn poll(&self) -> PollEvents {
        poll(self.receive.0.state.with(|state| *state), self.send.0.state.with(|state| *state))
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(self)
    }
}

impl Watchable for Socket {
    fn watch(&self, watcher: &Watcher) -> Result<(), Errno> {
        self.receive.0.state.watch(watcher)?;
        self.send.0.state.watch(watcher).inspect_err(|_| self.receive.0.state.unwatch(watcher))
    }

    fn unwatch(&self, watcher: &Watcher) {
        self.receive.0.state.unwatch(watcher);
        self.send.0.state.unwatch(watcher);
    }

    fn interest_in(&self, file: &OpenFile) -> Option<Arc<Interest>> {
        self.receive.0.state.interest_in(file)
    }
}

/// The events of a socket, as Linux's `unix_poll` returns them.
fn poll(receiving: State, sending: State) -> PollEvents {
    let is_ended = !receiving.is_open();
    let mut events = PollEvents::empty();
    events.set(PollEvents::IN | PollEvents::RDNORM, receiving.len > 0 || is_ended);
    events.set(PollEvents::RDHUP, is_ended);
    events.set(PollEvents::HUP, is_ended && !sending.is_open());
    events.set(PollEvents::OUT | PollEvents::WRNORM, sending.is_writable() || !sending.is_open());
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_halves_are_reported() {
        let half =
            |has_writer: bool, len| State { len, capacity: 65_536, readers: 1, writers: has_writer.into() };
        let (readable, writable) =
            (PollEvents::IN | PollEvents::RDNORM, PollEvents::OUT | PollEvents::WRNORM);
        let cases = [
            (half(true, 0), half(true, 0), writable),
            (half(true, 1), half(true, 0), readable | writable),
            (half(true, 0), half(true, 65_536), PollEvents::empty()),
            (half(true, 0), half(false, 65_536), writable),
            (half(false, 0), half(true, 0), readable | writable | PollEvents::RDHUP),
            (half(false, 1), half(false, 0), readable | writable | PollEvents::RDHUP | PollEvents::HUP),
        ];
        for (receiving, sending, expected) in cases {
            assert_eq!(poll(receiving, sending), expected, "{receiving:?} {sending:?}");
        }
    }

    #[test]
    fn sockets_are_connected_in_both_directions() {
        let [first, second] = Socket::pair().unwrap();
        let same = |receive: &ReadEnd, send: &WriteEnd| Arc::ptr_eq(&receive.0, &send.0);
        assert!(same(&first.receive, &second.send) && same(&second.receive, &first.send));
        assert_ne!(first.stat().ino, second.stat().ino);
        first.shut_down_sending();
        assert_eq!(second.poll() & (PollEvents::RDHUP | PollEvents::HUP), PollEvents::RDHUP);
        assert_eq!(first.poll() & (PollEvents::RDHUP | PollEvents::IN), PollEvents::empty());
        drop(first);
        assert!(second.poll().contains(PollEvents::RDHUP | PollEvents::HUP | PollEvents::IN));
    }
}
