//! System calls and ioctls of a program, on a kernel whose memory and DMA core run on the host. What waits needs a
//! scheduler, and is tried on the target (`user/probe`).
//!
//! An input is what the program has in its memory, and calls: a number, and six arguments of three bytes.

use super::host;
use abi::Syscall;
use abi::dma::{DMA_BUF_CHUNKS, DMA_BUF_IOCTL_SYNC, DMA_BUF_LEAVES, DMA_HEAP_IOCTL_ALLOC, DMA_STATISTICS};
use abi::memory::Prot;
use addr::{PAGE_SIZE, UserVa};
use arch::exception::TrapFrame;
use kernel::user::address_space::{AddressSpace, Place};
use kernel::user::{Process, Task, dispatch};
use std::fmt::Write;
use std::sync::Arc;

/// Where the program's memory is.
const MEMORY: u64 = 0x1_0000;
/// Bytes at the start of an input that are in it.
const BYTES: usize = 256;
/// Bytes of a call.
const CALL: usize = 1 + 6 * 3;
/// The most calls of one input.
const CALLS: usize = 64;

/// Numbers that mean something to some call.
const MEANINGS: [u64; 12] = [
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
];

/// Calls that wait, end the program or make threads.
fn needs_a_scheduler(syscall: Syscall) -> bool {
    use Syscall::*;
    matches!(
        syscall,
        Exit | ExitGroup
            | Futex
            | NanoSleep
            | ClockNanoSleep
            | PPoll
            | SchedYield
            | Clone
            | Kill
            | TKill
            | TgKill
            | GetRandom
    )
}

/// A seed is a program most of whose calls succeed: else little would come of it.
pub fn check_seed(seed: &[u8]) {
    let said = syscalls(seed);
    let (calls, succeeded) = (said.matches(';').count(), said.matches(letter(0)).count());
    assert!(3 * succeeded >= 2 * calls, "{said}");
}

/// Does what the input says, and gives everything back.
pub fn syscalls(input: &[u8]) -> String {
    let free = host::free_frames();
    let (memory, calls) = input.split_at(input.len().min(BYTES));
    let said = run(memory, calls);
    arch::fake::take();
    assert_eq!(host::free_frames(), free, "frames are missing");
    said
}

fn run(memory: &[u8], calls: &[u8]) -> String {
    let space = AddressSpace::new().expect("a frame for a table");
    let access = Prot::READ | Prot::WRITE;
    space.map_zeroes(PAGE_SIZE, Place::Exactly(UserVa::new(MEMORY)), access).unwrap();
    let mut page = vec![0; PAGE_SIZE as usize];
    page[..memory.len()].copy_from_slice(memory);
    arch::fake::set_user_memory(UserVa::new(MEMORY), &page);
    let task = Arc::new(Task::new(1, Arc::new(Process::new(space)), UserVa::new(0)));
    let (mut said, mut answers) = (String::new(), [0; 4]);
    for (index, call) in calls.chunks_exact(CALL).take(CALLS).enumerate() {
        let known = Syscall::ALL[usize::from(call[0]) % Syscall::ALL.len()];
        let number = if call[0] == 0xff { 0xffff } else { known.number() };
        if call[0] != 0xff && needs_a_scheduler(known) {
            continue;
        }
        let mut frame = TrapFrame::program(UserVa::new(0), UserVa::new(0));
        frame.x[8] = number;
        for (argument, bytes) in call[1..].chunks_exact(3).enumerate() {
            frame.x[argument] = value([bytes[0], bytes[1], bytes[2]], &answers);
        }
        dispatch(&task, &mut frame);
        answers[index % answers.len()] = frame.x[0];
        let error = (frame.x[0] as i64).clamp(-4096, 0);
        write!(said, "{known:?} {};", letter(error)).unwrap();
    }
    said
}

/// What is no digit, since those do not count.
fn letter(error: i64) -> char {
    char::from_u32(0x100 + error.unsigned_abs() as u32).unwrap_or('?')
}

/// An argument: a number, an address, something known or an earlier answer.
fn value([kind, low, high]: [u8; 3], answers: &[u64; 4]) -> u64 {
    let number = u16::from_le_bytes([low, high]);
    match kind % 8 {
        0 => number.into(),
        1 => i64::from(number as i16) as u64,
        2 => MEMORY + u64::from(number) % (PAGE_SIZE + 8),
        3 => u64::from(number) * PAGE_SIZE,
        4 => (1u64 << (low % 64)).wrapping_add_signed(i64::from(high as i8)),
        5 => MEANINGS[usize::from(low) % MEANINGS.len()],
        6 => answers[usize::from(low) % answers.len()].wrapping_add(u64::from(high) * PAGE_SIZE),
        _ => u64::from(number) << 32 | u64::from(number),
    }
}

/// A program that does what programs do.
pub fn seeds() -> Vec<Vec<u8>> {
    let memory = |path: &str| {
        let mut memory = vec![0; BYTES];
        memory[..path.len()].copy_from_slice(path.as_bytes());
        // An allocation of three pages, and a vector of one part.
        memory[128..136].copy_from_slice(&(3 * PAGE_SIZE).to_le_bytes());
        memory[140..144].copy_from_slice(&0x8_0002u32.to_le_bytes());
        memory[160..168].copy_from_slice(&MEMORY.to_le_bytes());
        memory[168..176].copy_from_slice(&64u64.to_le_bytes());
        memory
    };
    let number = |value: u16| [0, value as u8, (value >> 8) as u8];
    let address = |offset: u8| [2, offset, 0];
    let known = |index: u8| [5, index, 0];
    let pages = |count: u8| [3, count, 0];
    let answer = |index: u8| [6, index, 0];
    let call = |syscall: Syscall, arguments: &[[u8; 3]]| {
        let index = Syscall::ALL.iter().position(|other| *other == syscall).unwrap() as u8;
        let mut bytes = vec![index];
        bytes.extend(arguments.concat());
        bytes.resize(CALL, 0);
        bytes
    };
    let open = |flags: u16| call(Syscall::OpenAt, &[known(5), address(0), number(flags)]);
    let heap = [
        memory("/dev/dma_heap/system"),
        open(2),
        call(Syscall::Ioctl, &[number(0), known(0), address(128)]),
        call(Syscall::MMap, &[number(0), pages(3), number(3), number(1), number(1), number(0)]),
        call(Syscall::Ioctl, &[number(1), known(1), address(192)]),
        call(Syscall::Ioctl, &[number(1), known(2), address(200)]),
        call(Syscall::Ioctl, &[number(1), known(4), address(200)]),
        call(Syscall::MProtect, &[answer(2), pages(1), number(1)]),
        call(Syscall::MUnmap, &[answer(2), pages(2)]),
        call(Syscall::LSeek, &[number(1), number(0), number(2)]),
        call(Syscall::Close, &[number(1)]),
    ];
    let anonymous = [
        memory("/bin/a"),
        call(Syscall::MMap, &[number(0), pages(20), number(3), known(7), [1, 0xff, 0xff], number(0)]),
        call(Syscall::MProtect, &[answer(0), pages(1), number(0)]),
        call(Syscall::MRemap, &[answer(0), pages(20), pages(24), number(1)]),
        call(Syscall::MAdvise, &[answer(0), pages(20), number(4)]),
        call(Syscall::MMap, &[answer(0), pages(2), number(3), known(8), [1, 0xff, 0xff], number(0)]),
        call(Syscall::Brk, &[number(0)]),
        call(Syscall::MUnmap, &[answer(0), pages(64)]),
    ];
    let files = [
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
    ];
    let directory = [
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
    ];
    let uncached = [memory("/dev/dma_heap/system-uncached"), heap[1..].concat()];
    vec![heap.concat(), anonymous.concat(), files.concat(), directory.concat(), uncached.concat()]
}
