//! Programs that take all there is of something: each gets an error at the end, and can go on.

use std::fs::File;
use std::sync::Barrier;
use std::thread;

use dmabuf::{Buffer, Edu, Heap, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure, refused};

const MIB: u64 = 1 << 20;

/// What `take` gives until it refuses, and the refusal.
fn all<T>(mut take: impl FnMut() -> std::io::Result<T>) -> (Vec<T>, std::io::Error) {
    let mut taken = Vec::new();
    loop {
        match take() {
            Ok(one) => taken.push(one),
            Err(refusal) => return (taken, refusal),
        }
    }
}

fn ends_with<T>(
    what: &str,
    (taken, refusal): (Vec<T>, std::io::Error),
    errno: i32,
) -> Result<usize, crate::result::Failure> {
    let count = taken.len();
    drop(taken);
    refused::<()>(what, Err(refusal), errno)?;
    ensure(count > 1, || format!("{what}: {count} were enough"))?;
    println!("  {what}: {count}, then an error");
    Ok(count)
}

/// All frames, as buffers; twice, so that a leak shows as a smaller number.
pub fn buffers(_: &[String]) -> ProbeResult {
    let heap = Heap::open(SYSTEM)?;
    let once = |what| ends_with(what, all(|| heap.allocate(MIB)), libc::ENOMEM);
    let (first, second) = (once("buffers of 1 MiB")?, once("again")?);
    ensure(second + 8 >= first, || format!("{first} buffers, and then only {second}"))
}

/// All descriptors.
pub fn descriptors(_: &[String]) -> ProbeResult {
    ends_with("descriptors", all(|| File::open("/dev/null")), libc::EMFILE)?;
    File::open("/dev/null")?;
    Ok(())
}

/// All threads.
pub fn threads(_: &[String]) -> ProbeResult {
    thread::scope(|scope| {
        let gate = std::sync::Arc::new(std::sync::Mutex::new(()));
        let closed = gate.lock();
        let wait = || {
            let gate = gate.clone();
            thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, move || drop(gate.lock()))
        };
        let (started, refusal) = all(wait);
        let count = started.len();
        drop(closed);
        started.into_iter().for_each(|thread| drop(thread.join()));
        refused::<()>("threads", Err(refusal), libc::EAGAIN)?;
        println!("  threads: {count}, then an error");
        Ok(())
    })
}

/// All addresses of a device, and all of this program's mappings.
pub fn iova(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    // Smaller where it is done again and again: then the IOMMU does not answer now and then, and what it may still reach
    // is lost for good.
    let buffer = Heap::open(SYSTEM)?.allocate(iterations(16) * MIB)?;
    ends_with("device addresses", all(|| edu.import(&buffer)), libc::ENOMEM)?;
    edu.import(&buffer)?;
    Ok(())
}

/// All mappings that a program may have.
pub fn mappings(_: &[String]) -> ProbeResult {
    let buffer = Heap::open(SYSTEM)?.allocate(4096)?;
    ends_with("mappings", all(|| buffer.map(Protection::Read)), libc::ENOMEM)?;
    buffer.map(Protection::Read)?;
    Ok(())
}

/// Buffers, mappings, and a device's copies of buffers and of the program's own pages by four threads, until somebody ends
/// the program.
pub fn churn(_: &[String]) -> ProbeResult {
    let (heap, edu, all_there) = (Heap::open(SYSTEM)?, Edu::open()?, Barrier::new(4));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (heap, edu, all_there) = (&heap, &edu, &all_there);
            scope.spawn(move || {
                all_there.wait();
                // A refusal is as good as an answer: what is tried again and again is ended in the middle of one.
                loop {
                    let _ = turn(heap, edu, thread);
                }
            });
        }
    });
    Ok(())
}

fn turn(heap: &Heap, edu: &Edu, thread: u64) -> std::io::Result<()> {
    let buffer: Buffer = heap.allocate((thread + 1) * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    view.set_word(0, thread);
    let imported = edu.import(&buffer)?;
    match thread {
        0 => {
            edu.load(imported.address, 4096, 0)?;
            edu.store(imported.address + 4096, 4096, 0)
        }
        1 => {
            let own = View::anonymous(2 * 4096)?;
            edu.load_pages(own.pointer().wrapping_add(2048), 4096, 0)?;
            // SAFETY: inside the view, which hands out no references.
            unsafe { edu.store_pages(own.pointer().wrapping_add(2048), 4096, 0) }
        }
        _ => Ok(()),
    }
}
