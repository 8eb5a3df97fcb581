//! A buffer shared by two processes: both inherit the same dma-buf and get its descriptor number as argument.

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use dmabuf::{Buffer, Protection, View};

use crate::result::{Failure, ProbeResult, ensure};

/// The last word, written after all others.
const DONE: u64 = 0xd0e5_d0e5;

fn inherited(arguments: &[String], protection: Protection) -> Result<View, Failure> {
    let number = arguments
        .first()
        .and_then(|text| text.parse().ok())
        .ok_or("usage: share-read|share-write DESCRIPTOR")?;
    // SAFETY: the descriptor is inherited from the parent process, and nothing else in this program uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(Buffer::from_fd(fd)?.map(protection)?)
}

fn content(index: usize) -> u64 {
    (index as u64).wrapping_mul(0x0123_4567_89ab_cdef) ^ 0x07e5_5e7a
}

/// Fills the buffer, the last word last.
pub fn write(arguments: &[String]) -> ProbeResult {
    let view = inherited(arguments, Protection::ReadWrite)?;
    let last = view.words() - 1;
    (0..last).for_each(|index| view.set_word(index, content(index)));
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
    view.set_word(last, DONE);
    Ok(())
}

/// Waits for the last word, then checks all others.
pub fn read(arguments: &[String]) -> ProbeResult {
    let view = inherited(arguments, Protection::Read)?;
    let (last, started) = (view.words() - 1, Instant::now());
    while view.word(last) != DONE {
        ensure(started.elapsed() < Duration::from_secs(120), || {
            "timeout: the writer has not finished".into()
        })?;
        std::thread::yield_now();
    }
    std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
    let wrong = (0..last).find(|&index| view.word(index) != content(index));
    ensure(wrong.is_none(), || format!("word {wrong:?} differs from the written content"))
}
