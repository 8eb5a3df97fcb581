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
pub const MEMORY: u64 = 0x1_0000;
/// Bytes at the start of an input that are in it.
pub const BYTES: usize = 256;
/// Bytes of a call.
pub const CALL: usize = 1 + 6 * 3;
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
