//! System calls and ioctls on a kernel with memory management and DMA core on the host. Calls that block need
//! a scheduler and are fuzzed on the target (`user/probe`).
//!
//! An input consists of the program's initial memory and of calls: one byte for the number and three bytes
//! for each of six arguments.

use super::{host_memory, targets};
use abi::Syscall;
use abi::dma::*;
use abi::file::{F_SETFL, OpenFlags};
use abi::memory::Prot;
use abi::socket::MessageFlags;
use abi::sync_file::{SYNC_IOC_FILE_INFO, SYNC_IOC_MERGE, SYNC_IOC_SET_DEADLINE};
use abi::terminal::*;
use addr::{PAGE_SIZE, UserVa};
use arch::exception::UserFrame;
use kernel::process::futex::Futexes;
use kernel::process::{Process, Task};
use kernel::syscall::dispatch;
use kernel::vm::access::UserMemory;
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

/// The address of the program's memory.
pub const MEMORY: u64 = 0x1_0000;
/// The bytes of initial memory at the start of an input.
pub const BYTES: usize = 256;
/// The bytes of an encoded call.
pub const CALL: usize = 1 + 6 * 3;
/// The most calls of an input.
const MAX_CALLS: usize = 64;

/// The numbers of two of them: the bytes of a block, and the flags of a mapping of huge pages.
pub const BLOCK: u8 = 32;
pub const MAP_HUGE: u8 = 33;

/// Values that are meaningful to some call.
const KNOWN_VALUES: [u64; 34] = [
    DMA_HEAP_IOCTL_ALLOC.raw() as u64,
    DMA_BUF_IOCTL_SYNC.raw() as u64,
    DMA_BUF_CHUNKS.raw() as u64,
    DMA_STATISTICS.raw() as u64,
    DMA_BUF_LEAVES.raw() as u64,
    -100i64 as u64, // AT_FDCWD
    0x21,           // MAP_SHARED | MAP_ANONYMOUS
    0x22,
    0x8032, // MAP_POPULATE, MAP_FIXED
    0x1000, // AT_EMPTY_PATH
    0x8_0002,
    MEMORY + PAGE_SIZE,
    DMA_BUF_SET_NAME_B.raw() as u64,
    DMA_BUF_IOCTL_EXPORT_SYNC_FILE.raw() as u64,
    DMA_BUF_IOCTL_IMPORT_SYNC_FILE.raw() as u64,
    SYNC_IOC_FILE_INFO.raw() as u64,
    SYNC_IOC_MERGE.raw() as u64,
    SYNC_IOC_SET_DEADLINE.raw() as u64,
    TCGETS as u64,
    TCSETS as u64,
    TCSETSF2 as u64,
    TCGETS2 as u64,
    TCSBRK as u64,
    TCXONC as u64,
    TCFLSH as u64,
    TIOCGWINSZ as u64,
    TIOCSWINSZ as u64,
    TIOCGPGRP as u64,
    TIOCSPGRP as u64,
    TIOCGSID as u64,
    FIONREAD as u64,
    TIOCOUTQ as u64,
    0x20_0000,
    0x4_0022, // MAP_HUGETLB
];

/// Calls that block, terminate the program or create threads.
fn needs_scheduler(syscall: Syscall) -> bool {
    use Syscall::*;
    matches!(
        syscall,
        Exit | ExitGroup
            | Futex
            | NanoSleep
            | ClockNanoSleep
            | SchedYield
            | Clone
            | Clone3
            | Wait4
            | WaitId
            | Kill
            | TKill
            | TgKill
            | PidFdSendSignal
            | RtSigSuspend
            | RtSigTimedWait
            | GetRandom
            // Its reader is the running thread.
            | SignalFd4
    )
}

/// The address of a page of zeros: a timeout of 0.
const NO_TIME: u64 = MEMORY + 16 * PAGE_SIZE;

const SET_TERMIOS: [u32; 6] = [TCSETS, TCSETSW, TCSETSF, TCSETS2, TCSETSW2, TCSETSF2];

/// Changes the arguments so that the call does not wait: files are non-blocking, and timeouts are 0.
fn make_nonblocking(syscall: Syscall, arguments: &mut [u64]) {
    let nonblocking = u64::from(OpenFlags::NONBLOCK.bits());
    match syscall {
        Syscall::EventFd2 | Syscall::Pipe2 | Syscall::SocketPair | Syscall::TimerFdCreate => {
            arguments[1] |= nonblocking;
        }
        Syscall::SendTo | Syscall::RecvFrom => arguments[3] |= u64::from(MessageFlags::DONTWAIT.bits()),
        Syscall::OpenAt => arguments[2] |= nonblocking,
        // A terminal with a time limit of reads waits even if it is non-blocking: all modes are 0.
        Syscall::Ioctl if SET_TERMIOS.contains(&(arguments[1] as u32)) => arguments[2] = NO_TIME,
        Syscall::Fcntl if arguments[1] == F_SETFL => arguments[2] |= nonblocking,
        Syscall::EpollPWait => arguments[3] = 0,
        Syscall::EpollPWait2 => arguments[3] = NO_TIME,
        Syscall::PPoll => arguments[2] = NO_TIME,
        Syscall::PSelect6 => arguments[4] = NO_TIME,
        _ => {}
    }
}

/// Asserts that most calls of a seed succeed; otherwise its mutations would cover little.
pub fn check_seed(seed: &[u8]) {
    let trace = syscalls(seed);
    let (calls, succeeded) = (trace.matches(';').count(), trace.matches(outcome_char(0)).count());
    assert!(3 * succeeded >= 2 * calls, "{trace}");
}

/// Mounts new file systems: files of earlier inputs are freed.
pub fn mount_files() {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    kernel::fs::root::mount(ARCHIVE.get_or_init(|| targets::archives().remove(0))).unwrap();
}

/// Executes the calls of the input, and asserts that all frames are released.
pub fn syscalls(input: &[u8]) -> String {
    let free = host_memory::free_frames();
    let (memory, calls) = input.split_at(input.len().min(BYTES));
    let trace = run(memory, calls);
    mount_files();
    arch::fake::take();
    assert_eq!(host_memory::free_frames(), free, "frames leaked");
    trace
}

fn run(memory: &[u8], calls: &[u8]) -> String {
    let space = Arc::new(AddressSpace::new().expect("a frame for a table"));
    let access = Prot::READ | Prot::WRITE;
    space.map_anonymous(PAGE_SIZE, MmapPlacement::FixedNoReplace(UserVa::new(MEMORY)), access).unwrap();
    let zeros = MmapPlacement::FixedNoReplace(UserVa::new(NO_TIME));
    space.map_anonymous(PAGE_SIZE, zeros, Prot::READ).unwrap();
    let mut page = vec![0; PAGE_SIZE as usize];
    page[..memory.len()].copy_from_slice(memory);
    // SAFETY: uninstalled below, before the drop of the process.
    unsafe { space.install() };
    UserMemory::new(&space).write_bytes(UserVa::new(MEMORY), &page).unwrap();
    let process = Process::new(space.clone()).unwrap();
    let task = Arc::new(Task::new(1, process, (space, Futexes::new().unwrap()), UserVa::new(0)));
    let (mut trace, mut results) = (String::new(), [0; 4]);
    for (index, call) in calls.chunks_exact(CALL).take(MAX_CALLS).enumerate() {
        let known = Syscall::ALL[usize::from(call[0]) % Syscall::ALL.len()];
        let number = if call[0] == 0xff { 0xffff } else { known.number() };
        if call[0] != 0xff && needs_scheduler(known) {
            continue;
        }
        let mut frame = UserFrame::program(UserVa::new(0), UserVa::new(0));
        frame.x_mut()[8] = number;
        for (argument, bytes) in call[1..].chunks_exact(3).enumerate() {
            frame.x_mut()[argument] = value([bytes[0], bytes[1], bytes[2]], &results);
        }
        make_nonblocking(known, &mut frame.x_mut()[..6]);
        dispatch(&task, &mut frame);
        results[index % results.len()] = frame.x()[0];
        let error = (frame.x()[0] as i64).clamp(-4096, 0);
        write!(trace, "{known:?} {};", outcome_char(error)).unwrap();
    }
    arch::mmu::uninstall_user();
    trace
}

/// Encodes a result as a non-digit character, since the fuzzer skips digits.
fn outcome_char(error: i64) -> char {
    char::from_u32(0x100 + error.unsigned_abs() as u32).unwrap_or('?')
}

/// Decodes an argument: a number, an address, a known value or an earlier result.
fn value([kind, low, high]: [u8; 3], results: &[u64; 4]) -> u64 {
    let number = u16::from_le_bytes([low, high]);
    match kind % 8 {
        0 => number.into(),
        1 => i64::from(number as i16) as u64,
        2 => MEMORY + u64::from(number) % (PAGE_SIZE + 8),
        3 => u64::from(number) * PAGE_SIZE,
        4 => (1u64 << (low % 64)).wrapping_add_signed(i64::from(high as i8)),
        5 => KNOWN_VALUES[usize::from(low) % KNOWN_VALUES.len()],
        6 => results[usize::from(low) % results.len()].wrapping_add(u64::from(high) * PAGE_SIZE),
        _ => u64::from(number) << 32 | u64::from(number),
    }
}
