//! Programs that run until they are killed: an idle one with all kinds of memory, and a busy one.

use std::fs::File;
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
