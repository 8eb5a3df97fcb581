//! Allocations, mappings and transfers with impossible lengths.

use std::io;

use dmabuf::{CONTIGUOUS, Heap, SYSTEM, UNCACHED, View};

use crate::raw;
use crate::result::{ProbeResult, ensure, expect_error};

const HUGE: [u64; 5] = [1 << 44, 1 << 63, u64::MAX - 4095, u64::MAX - 1, u64::MAX];

/// Buffers, mappings, reads and writes with impossible lengths fail; valid ones succeed afterwards.
pub fn huge_lengths(_: &[String]) -> ProbeResult {
    for path in [SYSTEM, UNCACHED, CONTIGUOUS] {
        let heap = Heap::open(path)?;
        expect_error("an empty buffer", heap.allocate(0), libc::EINVAL)?;
        for len in HUGE {
            let result = heap.allocate(len);
            let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
            let good = matches!(errno, Some(libc::ENOMEM | libc::EINVAL));
            ensure(good, || format!("{len:#x} bytes from {path}: {result:?}"))?;
        }
        drop(heap.allocate(4096)?);
    }
    expect_error("an empty mapping", View::anonymous(0), libc::EINVAL)?;
    // Untouched memory needs no frames, so a kernel may map 16 TiB.
    for len in &HUGE[1..] {
        expect_error("a huge mapping", View::anonymous(*len as usize), libc::ENOMEM)?;
    }
    counts()
}

/// Lengths of other system calls are validated before any effect.
fn counts() -> ProbeResult {
    let view = View::anonymous(4096)?;
    let at = view.pointer().expose_provenance() as u64;
    for len in HUGE {
        let calls = [
            ("read", libc::SYS_read, [u64::MAX, at, len, 0, 0, 0]),
            ("write", libc::SYS_write, [u64::MAX, at, len, 0, 0, 0]),
            ("munmap", libc::SYS_munmap, [1, len, 0, 0, 0, 0]),
            ("mprotect", libc::SYS_mprotect, [1, len, 0, 0, 0, 0]),
        ];
        for (name, number, arguments) in calls {
            // SAFETY: the descriptor or the address is invalid, so no memory is modified.
            let result = unsafe { raw::call(number, arguments) };
            ensure((-4095..0).contains(&result), || format!("{name} of {len:#x} bytes: {result}"))?;
        }
    }
    Ok(())
}
