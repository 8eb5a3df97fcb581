//! System calls on connected sockets.

use super::files::{clamp_length, open_two, write_all};
use super::{SyscallContext, SyscallResult};
use crate::fs::OpenFile;
use crate::fs::pipe::socket::Socket;
use crate::fs::readiness::block_on;
use abi::Errno;
use abi::file::OpenFlags;
use abi::socket::*;

/// `socketpair`
pub fn socket_pair(call: &SyscallContext<'_>) -> SyscallResult {
    let (kind, protocol) = (call.int(1) as u32, call.int(2));
    let flags = OpenFlags::from_bits_retain(kind & !SOCK_TYPE_MASK);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    match kind & SOCK_TYPE_MASK {
        _ if call.int(0) != AF_UNIX => return Err(Errno::EAFNOSUPPORT),
        SOCK_MAX.. => return Err(Errno::EINVAL),
        _ if protocol != 0 && protocol != AF_UNIX => return Err(Errno::EPROTONOSUPPORT),
        SOCK_STREAM => {}
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    }
    let flags = flags | OpenFlags::READ_WRITE;
    open_two(call, call.address(3), Socket::pair()?.map(|socket| (socket, flags)).into())
}

/// Returns the socket of argument 0.
///
/// # Errors
/// `ENOTSOCK`
fn socket(file: &OpenFile) -> Result<&Socket, Errno> {
    file.downcast().ok_or(Errno::ENOTSOCK)
}

/// # Errors
/// `EOPNOTSUPP` for flags that are not supported.
fn message_flags(call: &SyscallContext<'_>) -> Result<MessageFlags, Errno> {
    MessageFlags::from_bits(call.int(3) as u32).ok_or(Errno::EOPNOTSUPP)
}

/// `sendto`
pub fn send_to(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    socket(&file)?;
    let flags = message_flags(call)?;
    if call.value(4) != 0 && call.int(5) != 0 {
        return Err(Errno::EISCONN);
    }
    let (at, len) = (call.address(1), clamp_length(call.value(2)));
    let writable = file.writable()?;
    write_all(call, &file, flags, len, |done| writable.write(call.memory(), at + done as u64, len - done))
}

/// `recvfrom`
pub fn receive_from(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    socket(&file)?;
    let flags = message_flags(call)?;
    let (to, len) = (call.address(1), clamp_length(call.value(2)));
    let readable = file.readable()?;
    let read = || readable.read(call.memory(), to, len);
    let count = if flags.contains(MessageFlags::DONTWAIT) { read()? } else { block_on(&file, read)? };
    if call.value(4) != 0 {
        // The peer has no address: its length.
        call.memory().write(call.address(5), &0i32)?;
    }
    Ok(count as u64)
}

/// `shutdown`
pub fn shut_down(call: &SyscallContext<'_>) -> SyscallResult {
    let file = call.file(0)?;
    let socket = socket(&file)?;
    let how = call.int(1);
    if !matches!(how, SHUT_RD | SHUT_WR | SHUT_RDWR) {
        return Err(Errno::EINVAL);
    }
    if how != SHUT_WR {
        socket.shut_down_receiving();
    }
    if how != SHUT_RD {
        socket.shut_down_sending();
    }
    Ok(0)
}
