//! The vDSO: its symbols, and times that agree with those of the system calls.

use std::ffi::CStr;
use std::mem::transmute;

use crate::raw;
use crate::result::{ProbeResult, ensure};

/// `__kernel_` on arm64.
const PREFIX: &str = if cfg!(target_arch = "aarch64") { "__kernel_" } else { "__vdso_" };

const PT_DYNAMIC: u32 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;

struct LoadedVdso(*const u8);

impl LoadedVdso {
    fn loaded() -> Self {
        Self(std::ptr::with_exposed_provenance(raw::auxiliary(libc::AT_SYSINFO_EHDR) as usize))
    }

    fn read<T: Copy>(&self, offset: u64) -> T {
        // SAFETY: the offsets in the file are those of its parts in memory, which the kernel mapped.
        unsafe { self.0.add(offset as usize).cast::<T>().read_unaligned() }
    }

    /// The value of an entry of the dynamic section.
    fn dynamic(&self, tag: u64) -> u64 {
        let headers = (0..u64::from(self.read::<u16>(56))).map(|n| self.read::<u64>(32) + 56 * n);
        let section = headers.into_iter().find(|&at| self.read::<u32>(at) == PT_DYNAMIC);
        let section = section.map_or(0, |at| self.read::<u64>(at + 8));
        let mut entries = (0..64).map(|n| section + 16 * n);
        entries.find(|&at| self.read::<u64>(at) == tag).map_or(0, |at| self.read(at + 8))
    }

    /// The address of a function; null if there is none.
    fn function(&self, name: &str) -> *const u8 {
        let [hash, strings, symbols] = [DT_HASH, DT_STRTAB, DT_SYMTAB].map(|tag| self.dynamic(tag));
        let count = u64::from(self.read::<u32>(hash + 4));
        let is_it = |&at: &u64| {
            let text = strings + u64::from(self.read::<u32>(at));
            // SAFETY: a string of the file.
            let text = unsafe { CStr::from_ptr(self.0.add(text as usize).cast()) };
            text.to_bytes() == name.as_bytes()
        };
        let symbol = (0..count).map(|n| symbols + 24 * n).find(is_it);
        symbol.map_or(std::ptr::null(), |at| self.0.wrapping_add(self.read::<u64>(at + 8) as usize))
    }
}

type VdsoFunction = extern "C" fn(u64, u64) -> i32;

fn function(name: &str) -> Option<VdsoFunction> {
    let at = LoadedVdso::loaded().function(&format!("{PREFIX}{name}"));
    // SAFETY: each of these functions has two arguments in registers, or is null.
    unsafe { transmute::<*const u8, Option<VdsoFunction>>(at) }
}

/// The result and the nanoseconds of a call that stores two words; the second is in units of `unit` ns.
fn time(call: impl Fn(u64) -> i64, unit: i64) -> (i64, i64) {
    let mut time = [0i64; 2];
    let result = call(std::ptr::from_mut(&mut time).expose_provenance() as u64);
    (result, time[0] * 1_000_000_000 + time[1] * unit)
}

fn system_call(number: i64, first: u64, second: u64) -> i64 {
    // SAFETY: the addresses are those of `time`.
    unsafe { raw::call(number, [first, second, 0, 0, 0, 0]) }
}

/// Each clock of the vDSO is between two readings by system calls.
pub fn times(_: &[String]) -> ProbeResult {
    let (Some(gettime), Some(getres), Some(gettimeofday)) =
        (function("clock_gettime"), function("clock_getres"), function("gettimeofday"))
    else {
        return Err("a function is missing".into());
    };
    if cfg!(target_arch = "aarch64") {
        ensure(function("rt_sigreturn").is_some(), || "no function for the return of handlers".into())?;
    }
    for clock in [0, 1, 2, 3, 4, 7, 11] {
        for _ in 0..100 {
            let by_call = || time(|at| system_call(libc::SYS_clock_gettime, clock, at), 1).1;
            let (before, seen) = (by_call(), time(|at| gettime(clock, at).into(), 1));
            let after = by_call();
            ensure(seen.0 == 0 && (before..=after).contains(&seen.1), || {
                format!("clock {clock}: {before} <= {seen:?} <= {after}")
            })?;
        }
        let by_call = time(|at| system_call(libc::SYS_clock_getres, clock, at), 1);
        let seen = time(|at| getres(clock, at).into(), 1);
        ensure(seen == by_call, || format!("resolution {seen:?} of clock {clock}, {by_call:?}"))?;
    }
    for clock in [12, 99, 1 << 31] {
        let result = time(|at| gettime(clock, at).into(), 1).0;
        ensure(result == -i64::from(libc::EINVAL), || format!("clock {clock} returned {result}"))?;
    }
    let before = time(|at| system_call(libc::SYS_gettimeofday, at, 0), 1000).1;
    let seen = time(|at| gettimeofday(at, 0).into(), 1000);
    let after = time(|at| system_call(libc::SYS_gettimeofday, at, 0), 1000).1;
    ensure(seen.0 == 0 && (before..=after).contains(&seen.1), || format!("{before} <= {seen:?} <= {after}"))?;
    ensure(gettimeofday(0, 0) == 0, || "gettimeofday without addresses failed".into())
}
