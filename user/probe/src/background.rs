//! Programs that run until they are killed: an idle one with all kinds of memory, a busy one, and two in a
//! long system call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use dmabuf::{CONTIGUOUS, Edu, Heap, Protection, SYSTEM, UNCACHED, View};

use crate::result::{ProbeResult, ensure};

const MIB: usize = 1 << 20;
/// Words per page.
const PAGE: usize = 4096 / 8;

/// Allocates and touches all kinds of memory: private memory with all protections, and buffers of each heap,
/// mapped twice and imported by the device. Then prints a line and sleeps.
pub fn idle(_: &[String]) -> ProbeResult {
    let own = View::anonymous(2 * MIB)?;
    touch(&own, 1);
    own.protect(0, MIB / 2, libc::PROT_READ)?;
    own.protect(MIB / 2, MIB / 2, libc::PROT_NONE)?;
    own.protect(MIB, MIB / 2, libc::PROT_READ | libc::PROT_EXEC)?;
    let edu = Edu::open().ok();
    let buffers = buffers();
    let mut held = Vec::new();
    for buffer in &buffers {
        let views = (buffer.map(Protection::ReadWrite)?, buffer.map(Protection::Read)?);
        touch(&views.0, 2);
        held.push((views, edu.as_ref().map(|edu| edu.import(buffer))));
    }
    println!("{} buffers, {} views, idle", buffers.len(), 2 * held.len());
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Buffers of the available heaps.
fn buffers() -> Vec<dmabuf::Buffer> {
    let heaps = [(SYSTEM, 3 * MIB), (SYSTEM, 20 << 10), (UNCACHED, MIB), (CONTIGUOUS, 256 << 10)];
    heaps.iter().filter_map(|&(path, len)| Heap::open(path).ok()?.allocate(len as u64).ok()).collect()
}

fn touch(view: &View, value: u64) {
    (0..view.words()).step_by(PAGE).for_each(|word| view.set_word(word, value));
}

/// Continues to work while other programs exhaust resources: its memory keeps its content and its sleeps end;
/// system calls that allocate may fail. Prints the number of iterations and of failed calls.
pub fn busy(_: &[String]) -> ProbeResult {
    let own = View::anonymous(MIB)?;
    let mut failed = 0;
    for iteration in 1.. {
        touch(&own, iteration);
        failed += u64::from(File::open("/dev/null").is_err());
        std::thread::sleep(Duration::from_millis(5));
        let wrong = (0..own.words()).step_by(PAGE).find(|&word| own.word(word) != iteration);
        ensure(wrong.is_none(), || format!("word {wrong:?} changed in iteration {iteration}"))?;
        println!("{iteration} iterations, {failed} failed");
    }
    Ok(())
}

/// Lines that readers of the console ignore.
const CONSOLE_LINE: &[u8; 64] = b"# a write to the console, which the end of its program cuts off\n";

/// Writes 2 GiB to the console by one call. Only the start of it is text.
pub fn console_write(_: &[String]) -> ProbeResult {
    const LEN: usize = 2 << 30;
    let (private, unreserved) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::MAP_NORESERVE);
    // SAFETY: without MAP_FIXED the kernel chooses an unmapped range.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), LEN, libc::PROT_READ | libc::PROT_WRITE, private | unreserved, -1, 0)
    };
    ensure(at != libc::MAP_FAILED, || format!("mmap of 2 GiB: {}", io::Error::last_os_error()))?;
    // SAFETY: the mapping above, which nothing else uses.
    let text = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), MIB) };
    text.chunks_exact_mut(CONSOLE_LINE.len()).for_each(|line| line.copy_from_slice(CONSOLE_LINE));
    let console = open_console()?;
    println!("writing");
    // SAFETY: reads the mapping.
    let written = unsafe { libc::write(console.as_raw_fd(), at, LEN) };
    ensure(false, || format!("{written} bytes are written"))
}

/// Writes 1 GiB to the console by one call, in the maximum number of parts.
pub fn console_vector(_: &[String]) -> ProbeResult {
    const PARTS: usize = 1024;
    let text = CONSOLE_LINE.repeat(MIB / CONSOLE_LINE.len());
    let parts = [io::IoSlice::new(&text); PARTS];
    let mut console = open_console()?;
    println!("writing");
    let written = io::Write::write_vectored(&mut console, &parts)?;
    ensure(false, || format!("{written} bytes are written"))
}

fn open_console() -> io::Result<File> {
    File::options().write(true).open("/dev/console")
}
