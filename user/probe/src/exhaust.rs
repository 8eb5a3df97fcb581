//! Resource exhaustion: each probe allocates until the first error, and continues afterwards.

use std::fs::File;
use std::sync::Barrier;
use std::thread;

use dmabuf::{Buffer, Edu, Heap, Protection, SYSTEM, View};

use crate::iterations::iterations;
use crate::result::{ProbeResult, ensure, expect_error};

const MIB: u64 = 1 << 20;

/// Returns the results of `allocate` until its first error, and the error.
fn collect_until_error<T>(mut allocate: impl FnMut() -> std::io::Result<T>) -> (Vec<T>, std::io::Error) {
    let mut allocated = Vec::new();
    loop {
        match allocate() {
            Ok(one) => allocated.push(one),
            Err(error) => return (allocated, error),
        }
    }
}

fn ends_with<T>(
    case: &str,
    (allocated, error): (Vec<T>, std::io::Error),
    errno: i32,
) -> Result<usize, crate::result::Failure> {
    let count = allocated.len();
    drop(allocated);
    expect_error::<()>(case, Err(error), errno)?;
    ensure(count > 1, || format!("{case}: error after {count}"))?;
    println!("  {case}: {count}, then an error");
    Ok(count)
}

/// All memory, as buffers; twice, so that a leak shows as a smaller number.
pub fn buffers(_: &[String]) -> ProbeResult {
    let heap = Heap::open(SYSTEM)?;
    let once = |case| ends_with(case, collect_until_error(|| heap.allocate(MIB)), libc::ENOMEM);
    let (first, second) = (once("buffers of 1 MiB")?, once("again")?);
    ensure(second + 8 >= first, || format!("{first} buffers, then {second}"))
}

/// All file descriptors.
pub fn descriptors(_: &[String]) -> ProbeResult {
    ends_with("descriptors", collect_until_error(|| File::open("/dev/null")), libc::EMFILE)?;
    File::open("/dev/null")?;
    Ok(())
}

/// All threads.
pub fn threads(_: &[String]) -> ProbeResult {
    thread::scope(|scope| {
        let gate = std::sync::Arc::new(std::sync::Mutex::new(()));
        let closed = gate.lock();
        let spawn = || {
            let gate = gate.clone();
            thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, move || drop(gate.lock()))
        };
        let (started, error) = collect_until_error(spawn);
        let count = started.len();
        drop(closed);
        started.into_iter().for_each(|thread| drop(thread.join()));
        expect_error::<()>("threads", Err(error), libc::EAGAIN)?;
        println!("  threads: {count}, then an error");
        Ok(())
    })
}

/// The IOVA space of a device.
pub fn iova(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    // A smaller buffer in repeated runs: these inject IOMMU timeouts, after which frames that the device may
    // still access are lost permanently.
    let buffer = Heap::open(SYSTEM)?.allocate(iterations(16) * MIB)?;
    ends_with("IOVA ranges", collect_until_error(|| edu.import(&buffer)), libc::ENOMEM)?;
    edu.import(&buffer)?;
    Ok(())
}

/// All mappings of a process.
pub fn mappings(_: &[String]) -> ProbeResult {
    let buffer = Heap::open(SYSTEM)?.allocate(4096)?;
    ends_with("mappings", collect_until_error(|| buffer.map(Protection::Read)), libc::ENOMEM)?;
    buffer.map(Protection::Read)?;
    Ok(())
}

/// Four threads allocate and map buffers and let the device copy from buffers and from the program's pages,
/// until the program is killed.
pub fn churn(_: &[String]) -> ProbeResult {
    let (heap, edu, barrier) = (Heap::open(SYSTEM)?, Edu::open()?, Barrier::new(4));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (heap, edu, barrier) = (&heap, &edu, &barrier);
            scope.spawn(move || {
                barrier.wait();
                // Errors are ignored: the purpose is to be killed in the middle of such an operation.
                loop {
                    let _ = churn_once(heap, edu, thread);
                }
            });
        }
    });
    Ok(())
}

fn churn_once(heap: &Heap, edu: &Edu, thread: u64) -> std::io::Result<()> {
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
            // SAFETY: inside the view, which returns no references.
            unsafe { edu.store_pages(own.pointer().wrapping_add(2048), 4096, 0) }
        }
        _ => Ok(()),
    }
}
