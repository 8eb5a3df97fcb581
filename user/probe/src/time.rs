//! Clocks, sleep and random bytes.

use std::time::{Duration, Instant};

use crate::result::{ProbeResult, ensure};

/// Time is monotonic, and sleep lasts at least as long as requested. The upper limit is generous, since it
/// depends on the load of the host.
pub fn clocks(_: &[String]) -> ProbeResult {
    let mut last = Instant::now();
    for _ in 0..10_000 {
        let now = Instant::now();
        ensure(now >= last, || format!("{now:?} after {last:?}"))?;
        last = now;
    }
    for wanted in [1, 20, 120].map(Duration::from_millis) {
        let started = Instant::now();
        std::thread::sleep(wanted);
        let slept = started.elapsed();
        ensure(slept >= wanted && slept < wanted + Duration::from_secs(60), || {
            format!("{slept:?} for {wanted:?}")
        })?;
    }
    Ok(())
}

/// Two random draws differ, and the first is not all zero.
pub fn random(_: &[String]) -> ProbeResult {
    let draw = || {
        let mut bytes = [0u8; 32];
        // SAFETY: a local array with its length.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        (got, bytes)
    };
    let (first, second) = (draw(), draw());
    ensure(first.0 == 32 && second.0 == 32, || format!("{} and {} bytes", first.0, second.0))?;
    ensure(first.1 != second.1 && first.1 != [0; 32], || format!("twice {:x?}", first.1))
}
