//! Locked memory, its residency, and `msync`.

use std::fs;

use dmabuf::View;

use crate::raw;
use crate::result::{Failure, ProbeResult, ensure};

const PAGE: usize = 4096;
const ENOMEM: i64 = -(libc::ENOMEM as i64);
const EINVAL: i64 = -(libc::EINVAL as i64);
const EBUSY: i64 = -(libc::EBUSY as i64);

fn call(number: i64, arguments: [u64; 3]) -> i64 {
    let [a, b, c] = arguments;
    // SAFETY: locks change no content, and the vectors of `mincore` are the callers'.
    unsafe { raw::call(number, [a, b, c, 0, 0, 0]) }
}

fn expect(what: &str, result: i64, expected: i64) -> ProbeResult {
    ensure(result == expected, || format!("{what} returned {result}, not {expected}"))
}

/// The size of all locked mappings in KiB.
fn locked() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).ok_or("no VmLck")?;
    Ok(line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmLck")?)
}

/// The states of pages: resident or not.
fn resident(at: u64, pages: usize) -> Result<Vec<u8>, Failure> {
    let mut states = vec![0xffu8; pages];
    let arguments = [at, (pages * PAGE) as u64, states.as_mut_ptr().addr() as u64];
    expect("mincore", call(libc::SYS_mincore, arguments), 0)?;
    Ok(states)
}

/// Locked memory is resident, and is counted until it is unlocked or unmapped.
pub fn locks(_: &[String]) -> ProbeResult {
    let view = View::anonymous(16 * PAGE)?;
    let at = view.pointer().addr() as u64;
    let page = |n: usize| at + (n * PAGE) as u64;
    let before = locked()?;
    let lock = |from: u64, len: usize| call(libc::SYS_mlock, [from, len as u64, 0]);
    expect("mlock of bytes in two pages", lock(page(1) + 4090, 20), 0)?;
    ensure(resident(page(1), 2)? == [1, 1], || "locked pages are not resident".into())?;
    ensure(locked()? == before + 8, || format!("{:?} KiB locked after {before}", locked()))?;
    expect("mlock2", call(libc::SYS_mlock2, [page(14), PAGE as u64, 1]), 0)?;
    ensure(resident(page(14), 1)? == [0], || "resident before the first access".into())?;
    ensure(locked()? == before + 12, || "a lock without residency is not counted".into())?;
    expect("mlock2 with unknown flags", call(libc::SYS_mlock2, [at, 1, 2]), EINVAL)?;
    expect("mlock of 0 bytes", lock(at, 0), 0)?;
    expect("mlock beyond the address space", lock(at, usize::MAX - PAGE), EINVAL)?;
    let advice = libc::MADV_DONTNEED as u64;
    expect("discard of locked memory", call(libc::SYS_madvise, [page(1), PAGE as u64, advice]), EINVAL)?;
    view.protect(4 * PAGE, PAGE, libc::PROT_NONE)?;
    expect("mlock without access", lock(page(4), PAGE), ENOMEM)?;
    expect("munlock", call(libc::SYS_munlock, [at, 16 * PAGE as u64, 0]), 0)?;
    ensure(locked()? == before, || format!("{:?} KiB locked after munlock", locked()))?;

    expect("mlock", lock(page(6), 2 * PAGE), 0)?;
    // SAFETY: the page is not accessed below.
    unsafe { view.unmap_part(6 * PAGE, PAGE)? };
    ensure(locked()? == before + 4, || "an unmapped page is counted".into())?;
    expect("mlock of a hole", lock(page(5), 3 * PAGE), ENOMEM)?;
    ensure(locked()? == before + 8, || "not locked up to the hole".into())?;
    expect("munlock", call(libc::SYS_munlock, [page(7), 9 * PAGE as u64, 0]), 0)?;
    expect("munlock of a hole", call(libc::SYS_munlock, [at, 16 * PAGE as u64, 0]), ENOMEM)
}

/// All mappings are locked, or those that are added later.
pub fn all(_: &[String]) -> ProbeResult {
    let lock = |flags: u64| call(libc::SYS_mlockall, [flags, 0, 0]);
    for flags in [0, 4, 8, 9] {
        expect(&format!("mlockall with flags {flags}"), lock(flags), EINVAL)?;
    }
    expect("mlockall", lock(libc::MCL_FUTURE as u64), 0)?;
    let view = View::anonymous(4 * PAGE)?;
    let states = resident(view.pointer().addr() as u64, 4);
    let counted = locked();
    expect("munlockall", call(libc::SYS_munlockall, [0; 3]), 0)?;
    ensure(states? == [1; 4], || "a new mapping is not resident".into())?;
    ensure(counted? >= 16, || "a new mapping is not counted".into())?;
    ensure(locked()? == 0, || format!("{:?} KiB locked after munlockall", locked()))?;
    let later = View::anonymous(4 * PAGE)?;
    ensure(resident(later.pointer().addr() as u64, 4)? == [0; 4], || "populated after munlockall".into())
}

/// The residency of pages, and the arguments of `mincore` and `msync`.
pub fn residency(_: &[String]) -> ProbeResult {
    let view = View::anonymous(6 * PAGE)?;
    let at = view.pointer().addr() as u64;
    view.set_word(2 * PAGE / 8, 1);
    let bytes = (6 * PAGE) as u64;
    let states = resident(at, 6)?;
    ensure(states.iter().all(|&state| state <= 1) && states[2] == 1, || format!("{states:?}"))?;
    let mut states = [0u8; 8];
    let vector = states.as_mut_ptr().addr() as u64;
    expect("mincore of an unaligned address", call(libc::SYS_mincore, [at + 1, 1, vector]), EINVAL)?;
    let fault = -i64::from(libc::EFAULT);
    expect("mincore without a vector", call(libc::SYS_mincore, [at, bytes, 8]), fault)?;
    expect("mincore of 0 bytes", call(libc::SYS_mincore, [at, 0, vector]), 0)?;
    expect("mincore of all memory", call(libc::SYS_mincore, [at, u64::MAX, vector]), ENOMEM)?;

    let sync = |from: u64, len: u64, flags: i32| call(libc::SYS_msync, [from, len, flags as u64]);
    expect("msync", sync(at, bytes, libc::MS_SYNC), 0)?;
    expect("msync without flags", sync(at, bytes, 0), 0)?;
    expect("msync of 0 bytes", sync(at, 0, libc::MS_ASYNC), 0)?;
    expect("msync with both", sync(at, bytes, libc::MS_SYNC | libc::MS_ASYNC), EINVAL)?;
    expect("msync with unknown flags", sync(at, bytes, 8), EINVAL)?;
    expect("msync of an unaligned address", sync(at + 8, 1, libc::MS_SYNC), EINVAL)?;
    expect("mlock", call(libc::SYS_mlock, [at, 1, 0]), 0)?;
    expect("msync of locked memory", sync(at, bytes, libc::MS_INVALIDATE), EBUSY)?;
    expect("munlock", call(libc::SYS_munlock, [at, 1, 0]), 0)?;
    // SAFETY: the page is not accessed below.
    unsafe { view.unmap_part(3 * PAGE, PAGE)? };
    expect("msync of a hole", sync(at, bytes, libc::MS_SYNC), ENOMEM)?;
    expect("mincore of a hole", call(libc::SYS_mincore, [at, bytes, vector]), ENOMEM)
}
