//! Addresses and numbers from a program that means harm: each gets an error code, and the kernel goes on.

use std::fs::File;
use std::os::fd::AsRawFd;

use dmabuf::{Heap, SYSTEM};

use crate::outcome::{Outcome, ensure};
use crate::raw;

/// Nothing of the program's is at any of these: null page, kernel image, linear map, hole between the halves, the end.
const BAD: [u64; 7] = [
    8,
    0xffff_8000_0000_0000,
    0xffff_0000_4000_0000,
    0x0001_0000_0000_0000,
    0x8000_0000_0000_0000,
    u64::MAX - 4095,
    u64::MAX - 7,
];

/// A call, arguments that are good but for one, and which one is an address.
struct Target {
    name: &'static str,
    number: i64,
    arguments: [u64; 6],
    address: usize,
}

/// Every call of the subset that takes an address gets bad ones, and answers `EFAULT`.
pub fn bad_pointers(_: &[String]) -> Outcome {
    let program = File::open(std::env::current_exe().unwrap_or_else(|_| "/bin/probe".into()))?;
    for target in targets(program.as_raw_fd() as u64) {
        each_bad_address(&target)?;
    }
    match Heap::open(SYSTEM) {
        Ok(heap) => device_requests(&heap)?,
        Err(error) => println!("  {error}: its requests were not tried"),
    }
    Ok(())
}

fn each_bad_address(target: &Target) -> Outcome {
    for bad in BAD {
        let mut arguments = target.arguments;
        arguments[target.address] = bad;
        // SAFETY: the address is one where this program has nothing; the other arguments change nothing.
        let answer = unsafe { raw::call(target.number, arguments) };
        let expected = -i64::from(libc::EFAULT);
        ensure(answer == expected, || {
            format!("{} with {bad:#x}: {answer} instead of {expected}", target.name)
        })?;
    }
    Ok(())
}

fn targets(file: u64) -> Vec<Target> {
    let here = libc::AT_FDCWD as u64;
    let stdout = 1;
    let target = |name, number, arguments, address| Target { name, number, arguments, address };
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
        target("clock_gettime", libc::SYS_clock_gettime, [1, 0, 0, 0, 0, 0], 1),
        target("clock_nanosleep", libc::SYS_clock_nanosleep, [1, 0, 0, 0, 0, 0], 2),
        target("uname", libc::SYS_uname, [0; 6], 0),
        target("prlimit64", libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0], 3),
        target("futex", libc::SYS_futex, [0, 128, 0, 0, 0, 0], 0),
    ]
}

/// Requests of the device files with bad arguments, and with good ones that carry bad addresses.
fn device_requests(heap: &Heap) -> Outcome {
    let buffer = heap.allocate(4096)?;
    let request = |name, fd: &dyn AsRawFd, request: abi::Ioctl| Target {
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
    for bad in BAD {
        let mut query = abi::dma::ChunkQuery { first: 0, capacity: 8, chunks: bad, written: 0, total: 0 };
        crate::outcome::refused(
            "chunks",
            dmabuf::request(&buffer, abi::dma::DMA_BUF_CHUNKS, &mut query),
            libc::EFAULT,
        )?;
    }
    Ok(())
}

/// Numbers of calls that nobody implements.
pub fn unknown_calls(_: &[String]) -> Outcome {
    for number in [1000, 4095, 0x7fff_ffff, -1] {
        // SAFETY: there are no such calls.
        let answer = unsafe { raw::call(number, [0; 6]) };
        ensure(answer == -i64::from(libc::ENOSYS), || format!("call {number}: {answer}"))?;
    }
    Ok(())
}

/// `fuzz COUNT`: random calls with random bad arguments. For Tessera alone: Linux has calls that do real harm.
pub fn fuzz(arguments: &[String]) -> Outcome {
    let count: u32 = arguments.first().and_then(|text| text.parse().ok()).ok_or("a count is needed")?;
    ensure(Heap::open(SYSTEM)?.statistics().is_ok(), || "only on Tessera".into())?;
    let mut dice = 0x7e55_e4a5_u64;
    for _ in 0..count {
        let number = (roll(&mut dice) % 460) as i64;
        if !SPARED.contains(&number) {
            let arguments =
                std::array::from_fn(|_| ARGUMENTS[(roll(&mut dice) % ARGUMENTS.len() as u64) as usize]);
            // SAFETY: no argument is an address of something this program has, and what could end it, block it or unmap
            // it is spared.
            unsafe { raw::call(number, arguments) };
        }
    }
    Ok(())
}

fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice >> 16
}

/// No descriptor of ours (those are small), no address of ours.
const ARGUMENTS: [u64; 12] = [
    0,
    8,
    200,
    0xffff_ffff,
    0x1000,
    0x0001_0000_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_0000_4000_0000,
    0xffff_8000_0000_0000,
    u64::MAX - 4095,
    u64::MAX - 7,
    u64::MAX,
];

/// Calls that end, block, split or unmap whoever makes them, or read from the console.
const SPARED: [i64; 18] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigreturn,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_ppoll,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
];
