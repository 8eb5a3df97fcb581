//! Invalid pointers and system call numbers: each returns an error code.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use abi::sync_file::{SYNC_IOC_FILE_INFO, SYNC_IOC_MERGE, SYNC_IOC_SET_DEADLINE};
use dmabuf::{Heap, SYSTEM};

use crate::raw;
use crate::result::{ProbeResult, ensure};

/// Addresses outside of the program's mappings: null page, kernel image, linear map, non-canonical, end of
/// the range.
const BAD: [u64; 7] = [
    8,
    0xffff_8000_0000_0000,
    0xffff_0000_4000_0000,
    0x0001_0000_0000_0000,
    0x8000_0000_0000_0000,
    u64::MAX - 4095,
    u64::MAX - 7,
];

/// A system call with valid arguments except for one pointer.
struct PointerArgument {
    name: &'static str,
    number: i64,
    arguments: [u64; 6],
    /// The index of the pointer argument.
    address: usize,
}

/// Every system call with a pointer argument returns `EFAULT` for invalid pointers.
pub fn bad_pointers(_: &[String]) -> ProbeResult {
    let program = File::open(std::env::current_exe().unwrap_or_else(|_| "/bin/probe".into()))?;
    for target in targets(program.as_raw_fd() as u64) {
        each_bad_address(&target)?;
    }
    match Heap::open(SYSTEM) {
        Ok(heap) => device_requests(&heap)?,
        Err(error) => println!("  {error}: heap and buffer ioctls skipped"),
    }
    Ok(())
}

fn each_bad_address(target: &PointerArgument) -> ProbeResult {
    for bad in BAD {
        let mut arguments = target.arguments;
        arguments[target.address] = bad;
        // SAFETY: the program has no mapping at this address; the other arguments modify no memory.
        let result = unsafe { raw::call(target.number, arguments) };
        let expected = -i64::from(libc::EFAULT);
        ensure(result == expected, || {
            format!("{} with {bad:#x}: {result} instead of {expected}", target.name)
        })?;
    }
    Ok(())
}

fn targets(file: u64) -> Vec<PointerArgument> {
    let here = libc::AT_FDCWD as u64;
    let stdout = 1;
    let target = |name, number, arguments, address| PointerArgument { name, number, arguments, address };
    vec![
        target("openat", libc::SYS_openat, [here, 0, 0, 0, 0, 0], 1),
        target("read", libc::SYS_read, [file, 0, 64, 0, 0, 0], 1),
        target("pread64", libc::SYS_pread64, [file, 0, 64, 0, 0, 0], 1),
        target("readv", libc::SYS_readv, [file, 0, 1, 0, 0, 0], 1),
        target("write", libc::SYS_write, [stdout, 0, 64, 0, 0, 0], 1),
        target("writev", libc::SYS_writev, [stdout, 0, 1, 0, 0, 0], 1),
        target("fstat", libc::SYS_fstat, [file, 0, 0, 0, 0, 0], 1),
        target("newfstatat", libc::SYS_newfstatat, [here, 0, 0, 0, 0, 0], 1),
        target("readlinkat", libc::SYS_readlinkat, [here, 0, 0, 64, 0, 0], 1),
        target("ppoll", libc::SYS_ppoll, [0, 1, 0, 0, 0, 0], 0),
        target("rt_sigaction", libc::SYS_rt_sigaction, [10, 0, 0, 8, 0, 0], 1),
        target("rt_sigprocmask", libc::SYS_rt_sigprocmask, [0, 0, 0, 8, 0, 0], 1),
        target("sigaltstack", libc::SYS_sigaltstack, [0; 6], 0),
        target("getrandom", libc::SYS_getrandom, [0, 64, 0, 0, 0, 0], 0),
        target("gettimeofday", libc::SYS_gettimeofday, [0; 6], 0),
        target("gettimeofday zone", libc::SYS_gettimeofday, [0; 6], 1),
        target("times", libc::SYS_times, [0; 6], 0),
        target("clock_gettime", libc::SYS_clock_gettime, [1, 0, 0, 0, 0, 0], 1),
        target("clock_nanosleep", libc::SYS_clock_nanosleep, [1, 0, 0, 0, 0, 0], 2),
        target("uname", libc::SYS_uname, [0; 6], 0),
        target("prlimit64", libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0], 3),
        target("futex", libc::SYS_futex, [0, 128, 0, 0, 0, 0], 0),
    ]
}

/// Ioctls of the device files with invalid argument pointers, and with arguments that contain invalid
/// pointers.
fn device_requests(heap: &Heap) -> ProbeResult {
    let buffer = heap.allocate(4096)?;
    let request = |name, fd: &dyn AsRawFd, request: abi::Ioctl| PointerArgument {
        name,
        number: libc::SYS_ioctl,
        arguments: [fd.as_raw_fd() as u64, request.raw().into(), 0, 0, 0, 0],
        address: 2,
    };
    let raw_heap = File::options().read(true).write(true).open(SYSTEM)?;
    let fd = std::os::fd::AsFd::as_fd(&buffer);
    each_bad_address(&request("DMA_HEAP_IOCTL_ALLOC", &raw_heap, abi::dma::DMA_HEAP_IOCTL_ALLOC))?;
    each_bad_address(&request("DMA_STATISTICS", &raw_heap, abi::dma::DMA_STATISTICS))?;
    each_bad_address(&request("DMA_BUF_IOCTL_SYNC", &fd, abi::dma::DMA_BUF_IOCTL_SYNC))?;
    each_bad_address(&request("DMA_BUF_CHUNKS", &fd, abi::dma::DMA_BUF_CHUNKS))?;
    each_bad_address(&request("DMA_BUF_SET_NAME", &fd, abi::dma::DMA_BUF_SET_NAME_B))?;
    let mut exported = abi::dma::BufferSyncFile { flags: 3, fd: -1 };
    for ioctl in [abi::dma::DMA_BUF_IOCTL_EXPORT_SYNC_FILE, abi::dma::DMA_BUF_IOCTL_IMPORT_SYNC_FILE] {
        each_bad_address(&request("a sync file of a buffer", &fd, ioctl))?;
    }
    dmabuf::request(&buffer, abi::dma::DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &mut exported)?;
    // SAFETY: the descriptor is new, and owned by nothing else.
    let sync_file = unsafe { OwnedFd::from_raw_fd(exported.fd) };
    for ioctl in [SYNC_IOC_MERGE, SYNC_IOC_FILE_INFO, SYNC_IOC_SET_DEADLINE] {
        each_bad_address(&request("a sync file's ioctl", &sync_file, ioctl))?;
    }
    for bad in BAD {
        let mut query = abi::dma::ChunkQuery { first: 0, capacity: 8, chunks: bad, written: 0, total: 0 };
        crate::result::expect_error(
            "chunks",
            dmabuf::request(&buffer, abi::dma::DMA_BUF_CHUNKS, &mut query),
            libc::EFAULT,
        )?;
    }
    Ok(())
}

/// Unknown system call numbers return `ENOSYS`.
pub fn unknown_syscalls(_: &[String]) -> ProbeResult {
    for number in [1000, 4095, 0x7fff_ffff, -1] {
        // SAFETY: no such system calls exist.
        let result = unsafe { raw::call(number, [0; 6]) };
        ensure(result == -i64::from(libc::ENOSYS), || format!("call {number}: {result}"))?;
    }
    Ok(())
}
