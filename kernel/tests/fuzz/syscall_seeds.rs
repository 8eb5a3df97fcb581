//! Seeds for the system call target: typical call sequences.

use super::syscalls::{BLOCK, BYTES, CALL, MAP_HUGE, MEMORY};
use abi::Syscall;
use addr::PAGE_SIZE;

/// All seeds.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        heap(),
        sync_files(),
        anonymous(),
        locks(),
        blocks(),
        files(),
        directory(),
        tmpfs(),
        generated(),
        paths(),
        uncached(),
        events(),
        pipe(),
        zeroes(),
        sockets(),
        terminal(),
        timer(),
    ]
    .map(|parts| parts.concat())
    .to_vec()
}

/// A DMA heap buffer: allocated, mapped, synced, queried, partially unmapped and closed.
fn heap() -> Vec<Vec<u8>> {
    vec![
        memory("/dev/dma_heap/system"),
        open(2),
        call(Syscall::Ioctl, &[number(0), known(0), address(128)]),
        call(Syscall::MMap, &[number(0), pages(3), number(3), number(1), number(1), number(0)]),
        call(Syscall::Ioctl, &[number(1), known(1), address(192)]),
        call(Syscall::Ioctl, &[number(1), known(2), address(200)]),
        call(Syscall::Ioctl, &[number(1), known(4), address(200)]),
        call(Syscall::MProtect, &[result(2), pages(1), number(1)]),
        call(Syscall::MUnmap, &[result(2), pages(2)]),
        call(Syscall::LSeek, &[number(1), number(0), number(2)]),
        call(Syscall::Close, &[number(1)]),
    ]
}

/// Sync files: exported, described, merged, imported into their own buffer.
fn sync_files() -> Vec<Vec<u8>> {
    let mut memory = memory("/dev/dma_heap/system");
    // The second file of a merge.
    memory[64 + 32] = 2;
    // An export, and an import of the descriptor that it returns.
    memory[176] = 3;
    // Capacity and address of an array of fences.
    memory[192 + 40] = 1;
    memory[192 + 48..192 + 56].copy_from_slice(&(MEMORY + 1024).to_le_bytes());
    let zeroes = [2, 0, 1];
    vec![
        memory,
        open(2),
        call(Syscall::Ioctl, &[number(0), known(0), address(128)]),
        call(Syscall::Ioctl, &[number(1), known(12), address(0)]),
        call(Syscall::Ioctl, &[number(1), known(13), address(176)]),
        call(Syscall::Ioctl, &[number(2), known(15), address(192)]),
        call(Syscall::Ioctl, &[number(2), known(16), address(64)]),
        call(Syscall::Ioctl, &[number(2), known(17), zeroes]),
        call(Syscall::Ioctl, &[number(1), known(14), address(176)]),
    ]
}

/// The console: its modes and sizes read and set, written, read without input.
fn terminal() -> Vec<Vec<u8>> {
    let request = |index, argument| call(Syscall::Ioctl, &[number(0), known(index), argument]);
    vec![
        memory("/dev/console"),
        open(2),
        request(18, address(64)),
        request(21, address(64)),
        request(19, address(64)),
        request(20, address(64)),
        request(22, number(1)),
        request(23, number(0)),
        request(23, number(1)),
        request(24, number(2)),
        request(25, address(64)),
        request(26, address(64)),
        request(30, address(64)),
        request(31, address(64)),
        call(Syscall::Write, &[number(0), address(0), number(12)]),
        call(Syscall::Read, &[number(0), address(64), number(12)]),
    ]
}

/// Anonymous memory: mapped, protected, grown, moved and unmapped.
fn anonymous() -> Vec<Vec<u8>> {
    vec![
        memory("/bin/a"),
        call(Syscall::MMap, &[number(0), pages(20), number(3), known(7), [1, 0xff, 0xff], number(0)]),
        call(Syscall::MProtect, &[result(0), pages(1), number(0)]),
        call(Syscall::MRemap, &[result(0), pages(20), pages(24), number(1)]),
        call(Syscall::MAdvise, &[result(0), pages(20), number(4)]),
        call(Syscall::MMap, &[result(0), pages(2), number(3), known(8), [1, 0xff, 0xff], number(0)]),
        call(Syscall::Brk, &[number(0)]),
        call(Syscall::MUnmap, &[result(0), pages(64)]),
    ]
}

/// Locked memory: locked, queried, unlocked.
fn locks() -> Vec<Vec<u8>> {
    vec![
        memory("/bin/a"),
        call(Syscall::MMap, &[number(0), pages(20), number(3), known(7), [1, 0xff, 0xff], number(0)]),
        call(Syscall::MLock, &[result(0), pages(3)]),
        call(Syscall::MLock2, &[result(0), pages(2), number(1)]),
        call(Syscall::MInCore, &[result(0), pages(20), address(0)]),
        call(Syscall::MUnlock, &[result(0), pages(2)]),
        call(Syscall::MLockAll, &[number(3)]),
        call(Syscall::MMap, &[number(0), pages(2), number(3), known(7), [1, 0xff, 0xff], number(0)]),
        call(Syscall::MSync, &[result(2), pages(2), number(4)]),
        call(Syscall::MUnlockAll, &[]),
        call(Syscall::GetRobustList, &[number(0), address(0), address(8)]),
    ]
}

/// A block of anonymous memory, which is split, and huge pages.
fn blocks() -> Vec<Vec<u8>> {
    let nothing = [1, 0xff, 0xff];
    vec![
        memory("/bin/a"),
        call(Syscall::MMap, &[number(0), known(BLOCK), number(3), known(7), nothing, number(0)]),
        call(Syscall::MAdvise, &[result(0), known(BLOCK), number(23)]),
        call(Syscall::MProtect, &[result(0), pages(1), number(1)]),
        call(Syscall::MRemap, &[result(0), known(BLOCK), pages(24), number(1)]),
        call(Syscall::MAdvise, &[result(0), pages(20), number(4)]),
        call(Syscall::MMap, &[number(0), pages(20), number(3), known(MAP_HUGE), nothing, number(0)]),
        call(Syscall::MAdvise, &[result(1), known(BLOCK), number(23)]),
        call(Syscall::MUnmap, &[result(1), pages(1)]),
        call(Syscall::MUnmap, &[result(1), known(BLOCK)]),
    ]
}

/// A file: opened, read, duplicated, and looked up by path.
fn files() -> Vec<Vec<u8>> {
    vec![
        memory("/bin/a"),
        open(0),
        call(Syscall::FStat, &[number(0), address(192)]),
        call(Syscall::Read, &[number(0), address(200), number(64)]),
        call(Syscall::PRead64, &[number(0), address(200), number(64), number(3)]),
        call(Syscall::ReadV, &[number(0), address(160), number(1)]),
        call(Syscall::Dup3, &[number(0), number(9), number(0)]),
        call(Syscall::Fcntl, &[number(9), number(0), number(4)]),
        call(Syscall::NewFStatAt, &[known(5), address(0), address(192), number(0)]),
        call(Syscall::ReadLinkAt, &[known(5), address(0), address(192), number(8)]),
        call(Syscall::FAccessAt, &[known(5), address(0), number(2)]),
        call(Syscall::Close, &[number(9)]),
    ]
}

/// A directory, and queries about the process and the system.
fn directory() -> Vec<Vec<u8>> {
    vec![
        memory("/dev"),
        open(0x4000),
        call(Syscall::GetDents64, &[number(0), address(0), number(512)]),
        call(Syscall::GetCwd, &[address(0), number(9)]),
        call(Syscall::Uname, &[address(0)]),
        call(Syscall::ClockGetTime, &[number(1), address(0)]),
        call(Syscall::RtSigAction, &[number(11), address(0), address(64), number(8)]),
        call(Syscall::RtSigProcMask, &[number(0), address(0), address(64), number(8)]),
        call(Syscall::SigAltStack, &[address(0), address(64)]),
        call(Syscall::PrLimit64, &[number(0), number(7), number(0), address(64)]),
        call(Syscall::SetTidAddress, &[address(0)]),
        call(Syscall::PrCtl, &[number(15), address(0)]),
        call(Syscall::PrCtl, &[number(16), address(64)]),
        call(Syscall::SysInfo, &[address(64)]),
        call(Syscall::GetRUsage, &[number(0), address(64)]),
        call(Syscall::GetCpu, &[address(64), address(68)]),
        call(Syscall::TimerCreate, &[number(1), number(0), address(64)]),
        call(Syscall::TimerSetTime, &[number(0), number(0), address(128), address(160)]),
        call(Syscall::TimerGetTime, &[number(0), address(64)]),
        call(Syscall::TimerGetOverrun, &[number(0)]),
        call(Syscall::TimerDelete, &[number(0)]),
        call(Syscall::SetITimer, &[number(0), address(128), address(64)]),
        call(Syscall::GetITimer, &[number(0), address(64)]),
        call(Syscall::SchedSetScheduler, &[number(0), number(0), address(255)]),
        call(Syscall::SchedGetScheduler, &[number(0)]),
        call(Syscall::SchedGetParam, &[number(0), address(64)]),
        call(Syscall::SchedSetParam, &[number(0), address(255)]),
        call(Syscall::SchedGetPriorityMax, &[number(1)]),
        call(Syscall::SchedGetPriorityMin, &[number(1)]),
        call(Syscall::SchedRrGetInterval, &[number(0), address(64)]),
        call(Syscall::SetITimer, &[number(2), address(128), address(64)]),
        call(Syscall::TimerCreate, &[number(2), number(0), address(64)]),
        call(Syscall::TimerSetTime, &[number(0), number(0), address(128), address(160)]),
        call(Syscall::TimerGetTime, &[number(0), address(64)]),
        call(Syscall::TimerDelete, &[number(0)]),
    ]
}

/// A file in memory: created, written, sized, sealed and closed.
fn tmpfs() -> Vec<Vec<u8>> {
    vec![
        memory("/tmp/a"),
        open(0o102),
        call(Syscall::Write, &[number(0), address(0), number(200)]),
        call(Syscall::PWrite64, &[number(0), address(0), number(200), number(9000)]),
        call(Syscall::PWriteV, &[number(0), address(160), number(1), number(100)]),
        call(Syscall::PReadV, &[number(0), address(160), number(1), number(100)]),
        call(Syscall::FTruncate, &[number(0), pages(5)]),
        call(Syscall::FAllocate, &[number(0), number(3), number(4000), number(9000)]),
        call(Syscall::LSeek, &[number(0), number(0), number(4)]),
        call(Syscall::FChMod, &[number(0), number(0o600)]),
        call(Syscall::FSync, &[number(0)]),
        call(Syscall::FStatFs, &[number(0), address(0)]),
        call(Syscall::MemfdCreate, &[address(0), number(2)]),
        call(Syscall::Write, &[result(4), address(0), number(100)]),
        call(Syscall::Fcntl, &[result(4), number(1033), number(2)]),
        call(Syscall::Close, &[number(0)]),
    ]
}

/// Paths: made, linked, renamed and removed.
fn paths() -> Vec<Vec<u8>> {
    let mut memory = memory("/tmp/a");
    memory[32..38].copy_from_slice(b"/tmp/b");
    memory[64..72].copy_from_slice(b"/tmp/b/c");
    let (old, new, below) = (address(0), address(32), address(64));
    vec![
        memory,
        call(Syscall::MkNodAt, &[known(5), old, number(0o644)]),
        call(Syscall::MkDirAt, &[known(5), new, number(0o755)]),
        call(Syscall::LinkAt, &[known(5), old, known(5), below]),
        call(Syscall::UnlinkAt, &[known(5), old, number(0)]),
        call(Syscall::SymLinkAt, &[new, known(5), old]),
        call(Syscall::UTimeNsAt, &[known(5), old, number(0), number(0)]),
        call(Syscall::FChModAt, &[known(5), below, number(0o600)]),
        call(Syscall::FChOwnAt, &[known(5), below, number(1), number(2), number(0)]),
        call(Syscall::ChDir, &[new]),
        call(Syscall::GetCwd, &[address(128), number(100)]),
        call(Syscall::Truncate, &[below, pages(2)]),
        call(Syscall::Statx, &[known(5), below, number(0), number(0x7ff), address(200)]),
        call(Syscall::UnlinkAt, &[known(5), old, number(0)]),
        call(Syscall::RenameAt2, &[known(5), below, known(5), old, number(1)]),
        call(Syscall::UnlinkAt, &[known(5), new, number(0x200)]),
        call(Syscall::UMask, &[number(0)]),
        call(Syscall::StatFs, &[old, address(200)]),
    ]
}

/// Event files: watched by an epoll instance in another, polled, read and closed. The first word of memory is
/// a set of events.
fn events() -> Vec<Vec<u8>> {
    vec![
        memory("\x01\0\0\0\0\0\0\0"),
        call(Syscall::EventFd2, &[number(3)]),
        call(Syscall::EpollCreate1, &[]),
        call(Syscall::EpollCreate1, &[]),
        call(Syscall::EpollCtl, &[number(1), number(1), number(0), address(0)]),
        call(Syscall::EpollCtl, &[number(2), number(1), number(1), address(0)]),
        call(Syscall::EpollPWait, &[number(2), address(200), number(2)]),
        call(Syscall::PPoll, &[address(0), number(1)]),
        call(Syscall::PSelect6, &[number(3), address(0)]),
        call(Syscall::Read, &[number(0), address(200), number(8)]),
        call(Syscall::EpollCtl, &[number(2), number(3), number(1), address(0)]),
        call(Syscall::EpollPWait2, &[number(1), address(200), number(2)]),
        call(Syscall::Write, &[number(0), address(0), number(8)]),
        call(Syscall::EpollCtl, &[number(2), number(2), number(1)]),
        call(Syscall::Close, &[number(0)]),
    ]
}

/// `/dev/zero`: read, written and mapped.
fn zeroes() -> Vec<Vec<u8>> {
    vec![
        memory("/dev/zero"),
        open(2),
        call(Syscall::Read, &[number(0), address(200), number(9000)]),
        call(Syscall::Write, &[number(0), address(0), number(9000)]),
        call(Syscall::MMap, &[number(0), pages(3), number(3), number(2), number(0), number(0)]),
        call(Syscall::MUnmap, &[result(3), pages(2)]),
        call(Syscall::FListXAttr, &[number(0), address(200), number(64)]),
        call(Syscall::ListXAttr, &[address(0), address(200), number(64)]),
        call(Syscall::GetGroups, &[number(4), address(200)]),
        call(Syscall::LSeek, &[number(0), number(7), number(2)]),
        call(Syscall::Close, &[number(0)]),
    ]
}

/// Connected sockets: bytes in both directions, shut down and closed.
fn sockets() -> Vec<Vec<u8>> {
    vec![
        memory("\x05\0\0\0\0\0\0\0"),
        call(Syscall::SocketPair, &[number(1), number(1), number(0), address(64)]),
        call(Syscall::EpollCreate1, &[]),
        call(Syscall::EpollCtl, &[number(2), number(1), number(1), address(0)]),
        call(Syscall::SendTo, &[number(0), address(0), number(9000), number(0x4000), number(0), number(0)]),
        call(Syscall::WriteV, &[number(1), address(160), number(1)]),
        call(
            Syscall::RecvFrom,
            &[number(1), address(200), number(9), number(0x40), address(32), address(40)],
        ),
        call(Syscall::EpollPWait, &[number(2), address(200), number(2)]),
        call(Syscall::Shutdown, &[number(0), number(1)]),
        call(Syscall::Read, &[number(1), address(0), number(20)]),
        call(Syscall::Shutdown, &[number(1), number(2)]),
        call(Syscall::FStat, &[number(1), address(0)]),
        call(Syscall::Close, &[number(1)]),
        call(Syscall::RecvFrom, &[number(0), address(200), number(9), number(0), number(0), number(0)]),
        call(Syscall::Close, &[number(0)]),
    ]
}

/// A pipe: written, read by a vector, watched, resized and closed.
fn pipe() -> Vec<Vec<u8>> {
    vec![
        memory("\x05\0\0\0\0\0\0\0"),
        call(Syscall::Pipe2, &[address(64), number(0)]),
        call(Syscall::EpollCreate1, &[]),
        call(Syscall::EpollCtl, &[number(2), number(1), number(0), address(0)]),
        call(Syscall::Write, &[number(1), address(0), number(9000)]),
        call(Syscall::WriteV, &[number(1), address(160), number(1)]),
        call(Syscall::EpollPWait, &[number(2), address(200), number(2)]),
        call(Syscall::ReadV, &[number(0), address(160), number(1)]),
        call(Syscall::Fcntl, &[number(0), number(1031), number(8192)]),
        call(Syscall::Read, &[number(0), address(0), number(200)]),
        call(Syscall::FStat, &[number(1), address(0)]),
        call(Syscall::Close, &[number(1)]),
        call(Syscall::Read, &[number(0), address(0), number(4000)]),
        call(Syscall::Close, &[number(0)]),
    ]
}

/// A timer: armed, read, watched and closed.
fn timer() -> Vec<Vec<u8>> {
    vec![
        memory("\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"),
        call(Syscall::TimerFdCreate, &[number(1), number(0)]),
        call(Syscall::TimerFdSetTime, &[number(0), number(0), address(0), address(64)]),
        call(Syscall::TimerFdGetTime, &[number(0), address(64)]),
        call(Syscall::TimerFdSetTime, &[number(0), number(1), address(0), address(64)]),
        call(Syscall::Read, &[number(0), address(128), number(8)]),
        call(Syscall::PPoll, &[address(128), number(1)]),
        call(Syscall::Close, &[number(0)]),
    ]
}

/// The same as [`heap`], with an uncached heap.
fn uncached() -> Vec<Vec<u8>> {
    let mut parts = heap();
    parts[0] = memory("/dev/dma_heap/system-uncached");
    parts
}

/// Files of `/proc`: a directory, and a text in parts and again.
fn generated() -> Vec<Vec<u8>> {
    let mut memory = memory("/proc");
    // A path relative to it.
    memory[64..71].copy_from_slice(b"meminfo");
    vec![
        memory,
        open(0x4000),
        call(Syscall::GetDents64, &[number(0), address(200), number(512)]),
        call(Syscall::OpenAt, &[number(0), address(64), number(0)]),
        call(Syscall::Read, &[number(1), address(200), number(40)]),
        call(Syscall::Read, &[number(1), address(200), number(400)]),
        call(Syscall::LSeek, &[number(1), number(0), number(0)]),
        call(Syscall::PRead64, &[number(1), address(200), number(40), number(17)]),
        call(Syscall::FStat, &[number(1), address(200)]),
        call(Syscall::FStatFs, &[number(1), address(200)]),
        call(Syscall::FChDir, &[number(0)]),
        call(Syscall::GetCwd, &[address(200), number(64)]),
        call(Syscall::ReadLinkAt, &[number(0), address(64), address(200), number(64)]),
        call(Syscall::Close, &[number(1)]),
    ]
}

/// The program's initial memory: a path, an allocation request of three pages, and an I/O vector with one
/// element.
fn memory(path: &str) -> Vec<u8> {
    let mut memory = vec![0; BYTES];
    memory[..path.len()].copy_from_slice(path.as_bytes());
    memory[128..136].copy_from_slice(&(3 * PAGE_SIZE).to_le_bytes());
    memory[140..144].copy_from_slice(&0x8_0002u32.to_le_bytes());
    memory[160..168].copy_from_slice(&MEMORY.to_le_bytes());
    memory[168..176].copy_from_slice(&64u64.to_le_bytes());
    memory
}

fn call(syscall: Syscall, arguments: &[[u8; 3]]) -> Vec<u8> {
    let index = Syscall::ALL.iter().position(|other| *other == syscall).unwrap() as u8;
    let mut bytes = vec![index];
    bytes.extend(arguments.concat());
    bytes.resize(CALL, 0);
    bytes
}

fn open(flags: u16) -> Vec<u8> {
    call(Syscall::OpenAt, &[known(5), address(0), number(flags)])
}

// Encoders for the arguments that `syscalls::value` decodes.

fn number(value: u16) -> [u8; 3] {
    [0, value as u8, (value >> 8) as u8]
}

fn address(offset: u8) -> [u8; 3] {
    [2, offset, 0]
}

fn pages(count: u8) -> [u8; 3] {
    [3, count, 0]
}

fn known(index: u8) -> [u8; 3] {
    [5, index, 0]
}

fn result(index: u8) -> [u8; 3] {
    [6, index, 0]
}
