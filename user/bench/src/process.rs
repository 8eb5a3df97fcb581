//! Cost of a process: its creation, its programs, and the pages of its memory: one `BENCH` line per
//! measurement, in counter ticks. With an argument it exits, as a static program of usual size.

mod counter;
mod events;
mod measure;

use std::ffi::CStr;
use std::io;
use std::process::ExitCode;

use dmabuf::View;
use measure::measure;

/// The smallest program.
const SMALLEST: &CStr = c"/bin/exit";
const THIS: &CStr = c"/bin/process";

const ROUNDS: usize = 64;
/// The memory whose pages are touched.
const BYTES: usize = 16 << 20;
const PAGE: usize = 4096;
const BLOCK: usize = 2 << 20;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("process: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // First, while the program has only the memory of its start.
    process("fork", "exit_wait", fork)?;
    process("exec", "smallest", || vfork_and_execute(SMALLEST, &[SMALLEST.as_ptr()]))?;
    process("exec", "static", || vfork_and_execute(THIS, &[THIS.as_ptr(), c"exit".as_ptr()]))?;
    touch("pages", PAGE, libc::MADV_NOHUGEPAGE)?;
    touch("blocks", BLOCK, libc::MADV_HUGEPAGE)
}

/// The first write to each `step` bytes of anonymous memory (`alloc_ticks`, the mean), and the unmapping of
/// these bytes (`free_ticks`).
fn touch(name: &str, step: usize, advice: i32) -> io::Result<()> {
    let count = (BYTES / step) as u64;
    let round = || -> io::Result<(u64, u64)> {
        // Blocks are aligned.
        let view = View::anonymous(BYTES + BLOCK)?;
        let first = view.pointer().align_offset(BLOCK) / size_of::<u64>();
        // SAFETY: advice for memory of this function.
        if unsafe { libc::madvise(view.pointer().cast(), view.bytes(), advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let start = counter::now();
        (0..BYTES / step).for_each(|index| view.set_word(first + index * (step / size_of::<u64>()), 1));
        let touched = counter::now();
        drop(view);
        Ok(((touched - start) / count, (counter::now() - touched) / count))
    };
    // The first round allocates the kernel's records of the frames.
    round()?;
    let (alloc, free) = round()?;
    println!("BENCH anonymous size={step} attrs={name} alloc_ticks={alloc} free_ticks={free} chunks=0");
    Ok(())
}

/// A process from its creation to the end of the wait for its exit (`alloc_ticks`).
fn process(name: &str, attrs: &str, create: impl Fn() -> i32) -> io::Result<()> {
    let run = || match exit_status(create()) {
        0 => Ok(()),
        status => Err(io::Error::other(format!("{name} {attrs}: wait status {status:#x}"))),
    };
    let measured = measure(ROUNDS, run, drop)?;
    println!("BENCH {name} size=0 attrs={attrs} {measured} chunks=0");
    Ok(())
}

fn exit_status(child: i32) -> i32 {
    let mut status = -1;
    // SAFETY: writes the status.
    unsafe { libc::waitpid(child, &mut status, 0) };
    status
}

/// Creates a child that exits.
fn fork() -> i32 {
    // SAFETY: there are no other threads; the child only exits.
    match unsafe { libc::fork() } {
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(0) },
        child => child,
    }
}

/// Creates a child that shares this process's memory until it executes the program `path`.
#[cfg(target_arch = "aarch64")]
fn vfork_and_execute(path: &CStr, arguments: &[*const libc::c_char]) -> i32 {
    let arguments: Vec<_> = arguments.iter().copied().chain([std::ptr::null()]).collect();
    let child: i64;
    // SAFETY: `clone(CLONE_VM | CLONE_VFORK | SIGCHLD)`; the child has the stack of this function, whose
    // thread waits meanwhile, and uses only registers: it executes the program, or exits with status 1.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x0, {path}",
            "mov x1, {arguments}",
            "mov x2, {environment}",
            "mov x8, #221",
            "svc #0",
            "mov x0, #1",
            "mov x8, #93",
            "svc #0",
            "2:",
            path = in(reg) path.as_ptr(),
            arguments = in(reg) arguments.as_ptr(),
            environment = in(reg) &raw const arguments[arguments.len() - 1],
            inout("x0") (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as i64 => child,
            in("x1") 0,
            in("x2") 0,
            in("x3") 0,
            in("x4") 0,
            inout("x8") libc::SYS_clone => _,
            options(nostack),
        );
    }
    child as i32
}

/// As above, on a host with another instruction set: with a copy of the memory.
#[cfg(not(target_arch = "aarch64"))]
fn vfork_and_execute(path: &CStr, arguments: &[*const libc::c_char]) -> i32 {
    let arguments: Vec<_> = arguments.iter().copied().chain([std::ptr::null()]).collect();
    // SAFETY: there are no other threads; the child executes the program, or exits.
    unsafe {
        match libc::fork() {
            0 => {
                libc::execv(path.as_ptr(), arguments.as_ptr());
                libc::_exit(1)
            }
            child => child,
        }
    }
}
