//! What mapping a buffer costs a program: one line a measurement, in ticks of the counter, as the kernel prints them.

mod counter;
mod measure;

use std::io;
use std::process::ExitCode;

use dmabuf::{Buffer, Heap, Protection, SYSTEM, View};
use measure::measure;

/// Bytes, and how often.
const SIZES: [(u64, usize); 7] = [
    (4 << 10, 64),
    (64 << 10, 64),
    (1 << 20, 32),
    (2 << 20, 32),
    (16 << 20, 16),
    (64 << 20, 8),
    (256 << 20, 8),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    floors()?;
    let heap = Heap::open(SYSTEM)?;
    SIZES.into_iter().try_for_each(|(size, rounds)| map(&heap.allocate(size)?, rounds))
}

/// A system call that does nothing, and a mapping of nothing.
fn floors() -> io::Result<()> {
    const ROUNDS: usize = 256;
    let call = measure(ROUNDS, || Ok(std::os::unix::process::parent_id()), drop)?;
    println!(
        "BENCH floor_syscall size=0 attrs=getppid alloc_ticks={} free_ticks=0 iters={ROUNDS} chunks=0",
        call.up
    );
    let (up, down) = measure(ROUNDS, || View::anonymous(4096), drop)?.both();
    println!(
        "BENCH floor_mmap size=4096 attrs=anonymous_untouched alloc_ticks={up} free_ticks={down} iters={ROUNDS} chunks=0"
    );
    Ok(())
}

fn map(buffer: &Buffer, rounds: usize) -> io::Result<()> {
    let all = || buffer.map(Protection::ReadWrite);
    let (up, down) = measure(rounds, all, drop)?.both();
    let view = all()?;
    let start = counter::now();
    view.set_word(0, 1);
    view.set_word(view.words() - 1, 1);
    let touch = counter::now() - start;
    println!(
        "BENCH mmap size={} attrs=NO_KERNEL_MAPPING alloc_ticks={up} free_ticks={down} iters={rounds} chunks={} \
         touch_ticks={touch}",
        buffer.bytes(),
        buffer.chunks()?.len(),
    );
    Ok(())
}
