//! Every structure that a call fills: all of its bytes are written, none behind it, gaps are zero, and nothing in it is an
//! address of the kernel or what the kernel had on its stack a moment ago.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use dmabuf::{Heap, SYSTEM};

use super::is_kernel_address;
use crate::raw;
use crate::result::{ProbeResult, ensure};

/// In the place of an argument: the structure's address.
const OUT: u64 = 0x7e55_e4a5_0047;
/// What the kernel is made to have on its stack.
const DIRT: u8 = 0xc3;
const ROOM: usize = 1024;

/// A call that fills a structure.
struct StructureCall {
    name: &'static str,
    number: i64,
    arguments: [u64; 6],
    /// Bytes that it fills.
    size: usize,
    /// Bytes of it that mean nothing, from and to.
    gaps: &'static [(usize, usize)],
}

/// See the module.
pub fn structures(_: &[String]) -> ProbeResult {
    let program = File::open(std::env::current_exe().unwrap_or_else(|_| "/bin/probe".into()))?;
    let mut calls = calls(program.as_raw_fd());
    let files = device_files();
    for (name, file) in &files {
        calls.push(StructureCall { name, ..fstat(file.as_raw_fd()) });
    }
    calls.iter().try_for_each(check)?;
    directory()?;
    println!("  {} calls", calls.len() + 1);
    Ok(())
}

/// Files that are there on Tessera, or some of them.
fn device_files() -> Vec<(&'static str, OwnedFd)> {
    let mut files = Vec::new();
    for path in ["/dev/null", "/dev/edu0", SYSTEM, "/bin"] {
        files.extend(File::open(path).ok().map(|file| (path, OwnedFd::from(file))));
    }
    let buffer = Heap::open(SYSTEM).and_then(|heap| heap.allocate(4096));
    files.extend(
        buffer.ok().and_then(|buffer| buffer.as_fd().try_clone_to_owned().ok()).map(|fd| ("a buffer", fd)),
    );
    files
}

fn fstat(fd: i32) -> StructureCall {
    let arguments = [fd as u64, OUT, 0, 0, 0, 0];
    StructureCall {
        name: "fstat",
        number: libc::SYS_fstat,
        arguments,
        size: 128,
        gaps: &[(40, 48), (60, 64), (120, 128)],
    }
}

fn calls(file: i32) -> Vec<StructureCall> {
    let call = |name, number, arguments, size| StructureCall { name, number, arguments, size, gaps: &[] };
    let here = libc::AT_FDCWD as u64;
    let path = c"/bin".as_ptr().expose_provenance() as u64;
    vec![
        fstat(file),
        StructureCall { name: "fstat of the console", ..fstat(1) },
        StructureCall {
            arguments: [here, path, OUT, 0, 0, 0],
            number: libc::SYS_newfstatat,
            name: "newfstatat",
            ..fstat(0)
        },
        call("uname", libc::SYS_uname, [OUT, 0, 0, 0, 0, 0], 6 * 65),
        call("clock_gettime", libc::SYS_clock_gettime, [1, OUT, 0, 0, 0, 0], 16),
        call("prlimit64", libc::SYS_prlimit64, [0, 7, 0, OUT, 0, 0], 16),
        call("rt_sigaction", libc::SYS_rt_sigaction, [10, 0, OUT, 8, 0, 0], 32),
        call("rt_sigprocmask", libc::SYS_rt_sigprocmask, [0, 0, OUT, 8, 0, 0], 8),
        StructureCall {
            gaps: &[(12, 16)],
            ..call("sigaltstack", libc::SYS_sigaltstack, [0, OUT, 0, 0, 0, 0], 24)
        },
        call("TCGETS", libc::SYS_ioctl, [1, 0x5401, OUT, 0, 0, 0], 36),
        call("TIOCGWINSZ", libc::SYS_ioctl, [1, 0x5413, OUT, 0, 0, 0], 8),
    ]
}

/// What the call leaves of `fill` in a structure and in the bytes behind it; `None` if it is refused.
fn answer(call: &StructureCall, fill: u8) -> Option<[u8; ROOM]> {
    #[repr(align(16))]
    struct OutBuffer([u8; ROOM]);
    let mut out = OutBuffer([fill; ROOM]);
    dirty();
    let at = (&raw mut out).expose_provenance() as u64;
    let arguments = call.arguments.map(|argument| if argument == OUT { at } else { argument });
    // SAFETY: the kernel writes to `out`, which nobody else uses and which is larger than any of the structures.
    let answer = unsafe { raw::call(call.number, arguments) };
    (answer >= 0).then_some(out.0)
}

fn check(call: &StructureCall) -> ProbeResult {
    let name = call.name;
    let (Some(one), Some(other)) = (answer(call, 0xaa), answer(call, 0x55)) else {
        // A console that is no terminal has no such thing.
        return ensure(name.starts_with('T'), || format!("{name} is refused"));
    };
    let written = |at: usize| one[at] != 0xaa || other[at] != 0x55;
    // Two answers that differ and happen to be the fills would look unwritten, which is a fault that shows.
    let missing = (0..call.size).find(|&at| !written(at));
    ensure(missing.is_none(), || format!("{name} leaves byte {missing:?} of {} as it was", call.size))?;
    let behind = (call.size..ROOM).find(|&at| written(at));
    ensure(behind.is_none(), || format!("{name} writes to byte {behind:?} behind its {}", call.size))?;
    let gap = call.gaps.iter().flat_map(|&(from, to)| from..to).find(|&at| one[at] != 0);
    ensure(gap.is_none(), || format!("{name}: gap at {gap:?} holds {:#x}", one[gap.unwrap_or(0)]))?;
    nothing_of_the_kernels(name, &one[..call.size])
}

fn nothing_of_the_kernels(name: &str, bytes: &[u8]) -> ProbeResult {
    let words = bytes.windows(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let address = words.step_by(4).find(|&word| is_kernel_address(word));
    ensure(address.is_none(), || {
        format!("{name}: {:#x} looks like an address of the kernel", address.unwrap_or(0))
    })?;
    let dirt = bytes.windows(4).position(|piece| piece == [DIRT; 4]);
    ensure(dirt.is_none(), || format!("{name}: at {dirt:?} is what another call had on its stack"))
}

/// Names of a directory: each record's end is padded with zeroes.
fn directory() -> ProbeResult {
    let bin = File::open("/bin")?;
    let arguments = [bin.as_raw_fd() as u64, OUT, ROOM as u64, 0, 0, 0];
    let call =
        StructureCall { name: "getdents64", number: libc::SYS_getdents64, arguments, size: ROOM, gaps: &[] };
    let bytes = answer(&call, 0xaa).ok_or("getdents64 is refused")?;
    let mut at = 0;
    // The rest is as it was: 0xaaaa is no length that fits.
    while let Some(len) = bytes.get(at + 16..at + 18).map(|len| u16::from_le_bytes([len[0], len[1]]) as usize)
    {
        let Some(record) = bytes.get(at..at + len).filter(|_| len > 19) else { break };
        let name = record[19..].iter().position(|&byte| byte == 0).ok_or("a name without end")?;
        let padded = record[19 + name..].iter().all(|&byte| byte == 0);
        ensure(padded, || format!("behind {:?}: {:x?}", &record[19..19 + name], &record[19 + name..]))?;
        nothing_of_the_kernels("getdents64", record)?;
        at += len;
    }
    ensure(at > 0, || "no names in /bin".into())
}

/// Makes the kernel use its stack for bytes that are known again: a path that leads nowhere, data for nobody, and requests
/// that mean nothing.
fn dirty() {
    let bytes = [DIRT; ROOM];
    let mut path = bytes;
    path[ROOM - 1] = 0;
    let here = libc::AT_FDCWD as u64;
    let [path, bytes] = [&path, &bytes].map(|bytes| bytes.as_ptr().expose_provenance() as u64);
    // SAFETY: none of these changes memory: a path is looked up, bytes are written to a descriptor that is not open, and
    // three structures are read.
    unsafe {
        raw::call(libc::SYS_openat, [here, path, 0, 0, 0, 0]);
        raw::call(libc::SYS_write, [u64::from(u32::MAX), bytes, ROOM as u64, 0, 0, 0]);
        raw::call(libc::SYS_rt_sigprocmask, [99, bytes, 0, 8, 0, 0]);
        raw::call(libc::SYS_clock_nanosleep, [1, 0, bytes, 0, 0, 0]);
        raw::call(libc::SYS_readlinkat, [here, path, bytes, 0, 0, 0]);
    }
}
