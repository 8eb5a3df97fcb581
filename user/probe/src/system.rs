//! Limits, names, and information on the system and the process.

use crate::raw;
use crate::result::{ProbeResult, ensure};

/// `RLIMIT_CPU` and `RLIMIT_NOFILE`, whose type in `libc` differs between C libraries.
const CPU: u64 = 0;
const NOFILE: u64 = 7;

/// The address of `value`, which a call writes.
fn out<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).expose_provenance() as u64
}

/// Performs a call that reads or writes only memory of its caller.
fn call(number: i64, arguments: [u64; 6]) -> i64 {
    // SAFETY: the addresses in `arguments` are those of live values of the caller.
    unsafe { raw::call(number, arguments) }
}

fn expect(what: &str, result: i64, expected: i64) -> ProbeResult {
    ensure(result == expected, || format!("{what} returned {result}, not {expected}"))
}

fn limit(resource: u64, new: Option<[u64; 2]>) -> (i64, [u64; 2]) {
    let (mut new, mut old) = (new, [0u64; 2]);
    let new = new.as_mut().map_or(0, out);
    let result = call(libc::SYS_prlimit64, [0, resource, new, out(&mut old), 0, 0]);
    (result, old)
}

/// A limit of open files is enforced, and each limit that is accepted is the limit afterwards.
pub fn limits(_: &[String]) -> ProbeResult {
    let einval = -i64::from(libc::EINVAL);
    let (_, files) = limit(NOFILE, None);
    expect("prlimit64 of 3 files", limit(NOFILE, Some([3, files[1]])).0, 0)?;
    let dup = call(libc::SYS_dup, [1, 0, 0, 0, 0, 0]);
    let (_, lowered) = limit(NOFILE, Some(files));
    expect("dup above the limit", dup, -i64::from(libc::EMFILE))?;
    ensure(lowered == [3, files[1]], || format!("the limit is {lowered:?}"))?;
    expect("prlimit64 above its maximum", limit(NOFILE, Some([9, 8])).0, einval)?;
    expect("prlimit64 of resource 16", limit(16, None).0, einval)?;
    for resource in 0..16 {
        let (_, [current, maximum]) = limit(resource, None);
        ensure(current <= maximum, || format!("limit {resource} is {current}, at most {maximum}"))?;
        let (result, _) = limit(resource, Some([current, maximum]));
        expect(&format!("the same limit {resource} again"), result, 0)?;
    }
    let (_, before) = limit(CPU, None);
    let new = [before[0].min(1 << 30), before[1]];
    let (result, _) = limit(CPU, Some(new));
    let (_, after) = limit(CPU, Some(before));
    let is_kept = after == new || (result < 0 && after == before);
    ensure(is_kept, || format!("prlimit64 returned {result}, the limit is {after:?} instead of {new:?}"))
}

/// The name of a thread has up to 15 bytes; a new thread has that of its creator.
pub fn names(_: &[String]) -> ProbeResult {
    let get = || {
        let mut name = [0xffu8; 16];
        let result = call(libc::SYS_prctl, [libc::PR_GET_NAME as u64, out(&mut name), 0, 0, 0, 0]);
        (result, name)
    };
    let set = |name: &mut [u8]| {
        let at = name.as_mut_ptr().expose_provenance() as u64;
        call(libc::SYS_prctl, [libc::PR_SET_NAME as u64, at, 0, 0, 0, 0])
    };
    let (result, mut before) = get();
    expect("PR_GET_NAME", result, 0)?;
    let mut long = *b"name-of-20-characters\0";
    let mut short = *b"x\0yyyyyyyyyyyyyy";
    let results = [set(&mut long), get().0, set(&mut short)];
    let child = std::thread::Builder::new().spawn(move || get().1)?.join();
    let after = get().1;
    set(&mut before);
    ensure(results == [0; 3] && &after == b"x\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", || {
        format!("{results:?}, the name is {after:?}")
    })?;
    ensure(child.is_ok_and(|name| name == after), || "a thread has another name than its creator".into())?;
    expect("prctl with an unknown operation", call(libc::SYS_prctl, [9999, 0, 0, 0, 0, 0]), -22)
}

/// `PR_GET_AUXV` returns the vector of `getauxval`, and its size for any length.
pub fn auxiliary_vector(_: &[String]) -> ProbeResult {
    const PR_GET_AUXV: u64 = 0x4155_5856;
    let mut vector = [0u64; 128];
    let bytes = size_of_val(&vector) as u64;
    let size = call(libc::SYS_prctl, [PR_GET_AUXV, out(&mut vector), bytes, 0, 0, 0]);
    let short = call(libc::SYS_prctl, [PR_GET_AUXV, out(&mut [0u64; 1]), 8, 0, 0, 0]);
    ensure(size > 0 && size == short, || format!("PR_GET_AUXV returned {size} and {short}"))?;
    for pair in vector.chunks(2).take_while(|pair| pair[0] != libc::AT_NULL) {
        let value = raw::auxiliary(pair[0]);
        // On x86, glibc has another value for AT_HWCAP.
        let is_changed = cfg!(target_arch = "x86_64") && pair[0] == libc::AT_HWCAP;
        ensure(value == pair[1] || is_changed, || {
            format!("entry {} is {:#x}, not {value:#x}", pair[0], pair[1])
        })?;
    }
    #[cfg(target_arch = "aarch64")]
    ensure(raw::auxiliary(libc::AT_MINSIGSTKSZ) >= 4720, || "no AT_MINSIGSTKSZ".into())?;
    expect("PR_GET_AUXV with a fourth argument", call(libc::SYS_prctl, [PR_GET_AUXV, 0, 0, 1, 0, 0]), -22)
}

/// `sysinfo`, `getrusage` and `getcpu` return plausible values.
pub fn information(_: &[String]) -> ProbeResult {
    let mut info = [0u64; 14];
    expect("sysinfo", call(libc::SYS_sysinfo, [out(&mut info), 0, 0, 0, 0, 0]), 0)?;
    let unit = info[13] as u32;
    ensure(unit > 0 && info[4] > info[5] && info[5] > 0 && info[10] as u16 > 0, || format!("{info:?}"))?;
    let usage = |who: i32| {
        let mut usage = [0u64; 18];
        let result = call(libc::SYS_getrusage, [who as u64, out(&mut usage), 0, 0, 0, 0]);
        (result, (usage[0] + usage[2]) * 1_000_000 + usage[1] + usage[3])
    };
    let (_, before) = usage(libc::RUSAGE_THREAD);
    let end = std::time::Instant::now() + std::time::Duration::from_millis(200);
    while usage(libc::RUSAGE_THREAD).1 <= before {
        ensure(std::time::Instant::now() < end, || "the CPU time of the thread does not advance".into())?;
    }
    let (_, thread) = usage(libc::RUSAGE_THREAD);
    ensure(usage(libc::RUSAGE_SELF).1 >= thread, || "the process has less".into())?;
    expect("getrusage of children", usage(libc::RUSAGE_CHILDREN).0, 0)?;
    expect("getrusage of 2", usage(2).0, -i64::from(libc::EINVAL))?;
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    expect("getcpu", call(libc::SYS_getcpu, [out(&mut cpu), out(&mut node), 0, 0, 0, 0]), 0)?;
    ensure(cpu < 4096 && node < 4096, || format!("CPU {cpu}, node {node}"))?;
    expect("getcpu without addresses", call(libc::SYS_getcpu, [0; 6]), 0)
}

/// A thread can be restricted to its CPUs, but not to those that do not exist.
pub fn affinity(_: &[String]) -> ProbeResult {
    let mut mask = [0u64; 16];
    let len = call(libc::SYS_sched_getaffinity, [0, 128, out(&mut mask), 0, 0, 0]);
    ensure(len > 0 && mask[0] != 0, || format!("sched_getaffinity returned {len}, {mask:x?}"))?;
    let set = |thread: u64, mask: u64| {
        let mut mask = mask;
        call(libc::SYS_sched_setaffinity, [thread, 8, out(&mut mask), 0, 0, 0])
    };
    // SAFETY: no arguments.
    let parent = unsafe { libc::getppid() };
    if parent != 0 {
        let len = call(libc::SYS_sched_getaffinity, [parent as u64, 128, out(&mut mask), 0, 0, 0]);
        ensure(len > 0, || format!("sched_getaffinity of another process returned {len}"))?;
    }
    expect("sched_setaffinity of all CPUs", set(0, mask[0]), 0)?;
    expect("sched_setaffinity of no CPU", set(0, 0), -i64::from(libc::EINVAL))?;
    expect("sched_setaffinity of no thread", set(0x7fff_fff0, mask[0]), -i64::from(libc::ESRCH))
}

/// A scheduling policy and its priority are recorded per thread.
pub fn scheduling(_: &[String]) -> ProbeResult {
    let einval = -i64::from(libc::EINVAL);
    let set = |policy: i32, priority: u32| {
        let mut priority = priority;
        let to = out(&mut priority);
        call(libc::SYS_sched_setscheduler, [0, policy as u64, to, 0, 0, 0])
    };
    let get = || {
        let mut priority = 99u32;
        let policy = call(libc::SYS_sched_getscheduler, [0; 6]);
        (policy, call(libc::SYS_sched_getparam, [0, out(&mut priority), 0, 0, 0, 0]), priority)
    };
    let limits = |policy: i32| {
        [libc::SYS_sched_get_priority_min, libc::SYS_sched_get_priority_max]
            .map(|number| call(number, [policy as u64, 0, 0, 0, 0, 0]))
    };
    ensure(get() == (0, 0, 0), || format!("the default is {:?}", get()))?;
    ensure(limits(libc::SCHED_FIFO) == [1, 99] && limits(libc::SCHED_OTHER) == [0, 0], || {
        format!("{:?}", limits(libc::SCHED_FIFO))
    })?;
    ensure(limits(77) == [einval; 2], || "limits of an unknown policy".into())?;
    for (policy, priority) in [(libc::SCHED_FIFO, 0), (libc::SCHED_OTHER, 1), (77, 0), (-1, 0)] {
        expect(&format!("policy {policy} with priority {priority}"), set(policy, priority), einval)?;
    }
    expect(
        "policy of process 0x3ffffff0",
        call(libc::SYS_sched_getscheduler, [0x3fff_fff0, 0, 0, 0, 0, 0]),
        -3,
    )?;
    expect("SCHED_BATCH", set(libc::SCHED_BATCH, 0), 0)?;
    let batch = get();
    expect("SCHED_OTHER", set(libc::SCHED_OTHER, 0), 0)?;
    ensure(batch == (3, 0, 0), || format!("SCHED_BATCH is {batch:?}"))?;
    let mut interval = [-1i64; 2];
    expect("interval", call(libc::SYS_sched_rr_get_interval, [0, out(&mut interval), 0, 0, 0, 0]), 0)?;
    ensure(interval[0] == 0 && interval[1] >= 0, || format!("the interval is {interval:?}"))
}
