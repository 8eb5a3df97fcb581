//! Sockets: the constants of `socketpair`, `sendto`, `recvfrom` and `shutdown`.

use bitflags::bitflags;

/// The address family of local sockets, also their protocol.
pub const AF_UNIX: i32 = 1;
/// A stream of bytes.
pub const SOCK_STREAM: u32 = 1;
/// The bits of a socket type; the others are `O_CLOEXEC` and `O_NONBLOCK`.
pub const SOCK_TYPE_MASK: u32 = 0xf;
/// The number of socket types, from 0.
pub const SOCK_MAX: u32 = 11;

/// `shutdown` of the receiving half.
pub const SHUT_RD: i32 = 0;
/// `shutdown` of the sending half.
pub const SHUT_WR: i32 = 1;
/// `shutdown` of both halves.
pub const SHUT_RDWR: i32 = 2;

bitflags! {
    /// Flags of `sendto` and `recvfrom`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MessageFlags: u32 {
        /// Returns `EAGAIN` instead of waiting.
        const DONTWAIT = 0x40;
        /// No `SIGPIPE` with `EPIPE`.
        const NOSIGNAL = 0x4000;
    }
}
