//! Output structures of system calls: all bytes are written, none past the end, padding is zero, and they
//! contain neither kernel addresses nor old kernel stack content.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use dmabuf::{Heap, SYSTEM};

use super::is_kernel_address;
use crate::raw;
use crate::result::{ProbeResult, ensure};

/// The placeholder argument for the address of the structure.
const OUT: u64 = 0x7e55_e4a5_0047;
/// The byte pattern that is put on the kernel stack.
const STACK_POISON: u8 = 0xc3;
const ROOM: usize = 1024;

/// A system call with an output structure.
struct StructureCall {
    name: &'static str,
    number: i64,
    arguments: [u64; 6],
    /// The size of the structure.
    size: usize,
    /// Padding, as ranges.
    gaps: &'static [(usize, usize)],
}

/// See the module documentation.
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

/// Files of different types, as far as they exist.
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
        call("gettimeofday", libc::SYS_gettimeofday, [OUT, 0, 0, 0, 0, 0], 16),
        call("gettimeofday zone", libc::SYS_gettimeofday, [0, OUT, 0, 0, 0, 0], 8),
        call("times", libc::SYS_times, [OUT, 0, 0, 0, 0, 0], 32),
        call("clock_gettime", libc::SYS_clock_gettime, [1, OUT, 0, 0, 0, 0], 16),
        call("prlimit64", libc::SYS_prlimit64, [0, 7, 0, OUT, 0, 0], 16),
        StructureCall {
            gaps: &[(82, 88), (108, 112)],
            ..call("sysinfo", libc::SYS_sysinfo, [OUT, 0, 0, 0, 0, 0], 112)
        },
        call("getrusage", libc::SYS_getrusage, [0, OUT, 0, 0, 0, 0], 144),
        call("PR_GET_NAME", libc::SYS_prctl, [16, OUT, 0, 0, 0, 0], 16),
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

/// The output buffer, filled with `fill` before the call; `None` if the call fails.
fn output(call: &StructureCall, fill: u8) -> Option<[u8; ROOM]> {
    #[repr(align(16))]
    struct OutBuffer([u8; ROOM]);
    let mut out = OutBuffer([fill; ROOM]);
    poison_kernel_stack();
    let at = (&raw mut out).expose_provenance() as u64;
    let arguments = call.arguments.map(|argument| if argument == OUT { at } else { argument });
    // SAFETY: the kernel writes to `out`, which is exclusively owned and larger than any of the structures.
    let result = unsafe { raw::call(call.number, arguments) };
    (result >= 0).then_some(out.0)
}

fn check(call: &StructureCall) -> ProbeResult {
    let name = call.name;
    let (Some(one), Some(other)) = (output(call, 0xaa), output(call, 0x55)) else {
        // Terminal ioctls fail if the console is not a terminal.
        return ensure(name.starts_with('T'), || format!("{name} fails"));
    };
    let written = |at: usize| one[at] != 0xaa || other[at] != 0x55;
    // A byte written as 0xaa in one call and as 0x55 in the other would look unwritten; that fails the probe.
    let missing = (0..call.size).find(|&at| !written(at));
    ensure(missing.is_none(), || format!("{name} does not write byte {missing:?} of {}", call.size))?;
    let excess = (call.size..ROOM).find(|&at| written(at));
    ensure(excess.is_none(), || format!("{name} writes byte {excess:?} past its {}", call.size))?;
    let gap = call.gaps.iter().flat_map(|&(from, to)| from..to).find(|&at| one[at] != 0);
    ensure(gap.is_none(), || format!("{name}: padding at {gap:?} is {:#x}", one[gap.unwrap_or(0)]))?;
    check_no_kernel_data(name, &one[..call.size])
}

fn check_no_kernel_data(name: &str, bytes: &[u8]) -> ProbeResult {
    let words = bytes.windows(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let address = words.step_by(4).find(|&word| is_kernel_address(word));
    ensure(address.is_none(), || format!("{name}: {:#x} looks like a kernel address", address.unwrap_or(0)))?;
    let poison = bytes.windows(4).position(|piece| piece == [STACK_POISON; 4]);
    ensure(poison.is_none(), || format!("{name}: old kernel stack content at {poison:?}"))
}

/// Directory entries: the padding after each name is zero.
fn directory() -> ProbeResult {
    let bin = File::open("/bin")?;
    let arguments = [bin.as_raw_fd() as u64, OUT, ROOM as u64, 0, 0, 0];
    let call =
        StructureCall { name: "getdents64", number: libc::SYS_getdents64, arguments, size: ROOM, gaps: &[] };
    let bytes = output(&call, 0xaa).ok_or("getdents64 fails")?;
    let mut at = 0;
    // The unwritten rest is 0xaa; 0xaaaa is not a valid record length.
    while let Some(len) = bytes.get(at + 16..at + 18).map(|len| u16::from_le_bytes([len[0], len[1]]) as usize)
    {
        let Some(record) = bytes.get(at..at + len).filter(|_| len > 19) else { break };
        let name = record[19..].iter().position(|&byte| byte == 0).ok_or("an unterminated name")?;
        let padded = record[19 + name..].iter().all(|&byte| byte == 0);
        ensure(padded, || {
            format!("padding after {:?}: {:x?}", &record[19..19 + name], &record[19 + name..])
        })?;
        check_no_kernel_data("getdents64", record)?;
        at += len;
    }
    ensure(at > 0, || "no names in /bin".into())
}

/// Puts a known pattern on the kernel stack: a nonexistent path, a write to a closed descriptor, and invalid
/// arguments.
fn poison_kernel_stack() {
    let bytes = [STACK_POISON; ROOM];
    let mut path = bytes;
    path[ROOM - 1] = 0;
    let here = libc::AT_FDCWD as u64;
    let [path, bytes] = [&path, &bytes].map(|bytes| bytes.as_ptr().expose_provenance() as u64);
    // SAFETY: no memory is modified: a path is looked up, bytes are written to a closed descriptor, and three
    // structures are read.
    unsafe {
        raw::call(libc::SYS_openat, [here, path, 0, 0, 0, 0]);
        raw::call(libc::SYS_write, [u64::from(u32::MAX), bytes, ROOM as u64, 0, 0, 0]);
        raw::call(libc::SYS_rt_sigprocmask, [99, bytes, 0, 8, 0, 0]);
        raw::call(libc::SYS_clock_nanosleep, [1, 0, bytes, 0, 0, 0]);
        raw::call(libc::SYS_readlinkat, [here, path, bytes, 0, 0, 0]);
    }
}
