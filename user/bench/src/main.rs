//! Cost of mapping a buffer into a process, and of event files and pipes: one `BENCH` line per measurement,
//! in counter ticks.
//!
//! `bench BYTES:ROUNDS ..` maps a buffer of each size that number of times. The last argument may be
//! `process`, which executes the program that measures processes.

mod counter;
mod events;
mod files;
mod measure;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use dmabuf::{Buffer, Heap, Protection, SYSTEM, View};
use measure::measure;

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
    let _mappings = distinct_mappings(16)?;
    baselines()?;
    files::eventfd()?;
    files::pipe()?;
    let heap = Heap::open(SYSTEM)?;
    std::env::args().skip(1).try_for_each(|word| {
        if word == "process" {
            return Err(Command::new("/bin/process").exec());
        }
        let (size, rounds) = request(&word).ok_or(io::Error::other(format!("{word}: not BYTES:ROUNDS")))?;
        map(&heap.allocate(size)?, rounds)
    })
}

/// Maps `count` pages with alternating protection, as a program of usual size has mappings. With 11 mappings,
/// the capacity of a node of the kernel's map, each measured `mmap` would split the node, and each `munmap`
/// merge it.
fn distinct_mappings(count: usize) -> io::Result<View> {
    const PAGE: usize = 4096;
    let view = View::anonymous(count * PAGE)?;
    (0..count).step_by(2).try_for_each(|page| view.protect(page * PAGE, PAGE, libc::PROT_READ))?;
    Ok(view)
}

/// Parses size and number of rounds.
fn request(word: &str) -> Option<(u64, usize)> {
    let (size, rounds) = word.split_once(':')?;
    Some((size.parse().ok()?, rounds.parse().ok()?))
}

/// Lower bounds: a trivial system call, and a mapping that is not accessed.
fn baselines() -> io::Result<()> {
    const ROUNDS: usize = 256;
    let call = measure(ROUNDS, || Ok(std::os::unix::process::parent_id()), drop)?;
    println!("BENCH floor_syscall size=0 attrs=getppid {call} chunks=0");
    let mapping = measure(ROUNDS, || View::anonymous(4096), drop)?;
    println!("BENCH floor_mmap size=4096 attrs=anonymous_untouched {mapping} chunks=0");
    Ok(())
}

fn map(buffer: &Buffer, rounds: usize) -> io::Result<()> {
    let all = || buffer.map(Protection::ReadWrite);
    let measured = measure(rounds, all, drop)?;
    let view = all()?;
    let start = counter::now();
    view.set_word(0, 1);
    view.set_word(view.words() - 1, 1);
    let touch = counter::now() - start;
    println!(
        "BENCH mmap size={} attrs=NO_KERNEL_MAPPING {measured} chunks={} touch_ticks={touch}",
        buffer.bytes(),
        buffer.chunks()?.len(),
    );
    Ok(())
}
