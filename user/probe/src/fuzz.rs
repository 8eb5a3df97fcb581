//! `fuzz CALLS [SEED]`: random system calls from four concurrent threads on shared memory, descriptors,
//! buffers and a device. Results are not checked: the kernel must survive and release all resources.
//!
//! Memory arguments are in an arena of address space that the threads never access themselves, since another
//! thread may unmap it at any time. Runs only on Tessera: on Linux random system calls could damage the
//! system.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use abi::dma::{
    BufferSync, BufferSyncFile, ChunkQuery, DMA_BUF_CHUNKS, DMA_BUF_IOCTL_EXPORT_SYNC_FILE,
    DMA_BUF_IOCTL_IMPORT_SYNC_FILE, DMA_BUF_IOCTL_SYNC, DMA_BUF_LEAVES, DMA_BUF_SET_NAME_B,
    DMA_HEAP_IOCTL_ALLOC, DMA_STATISTICS, HeapAllocation,
};
use abi::edu::{EDU_COPY, EDU_COPY_PAGES, EDU_IMPORT, EDU_RELEASE, EduCopy, EduImport, EduRelease};
use abi::sync_file::{SYNC_IOC_FILE_INFO, SYNC_IOC_MERGE, SyncFileInfo, SyncMerge};
use dmabuf::{Heap, SYSTEM};

use crate::raw;
use crate::result::{ProbeResult, ensure};

const THREADS: u64 = 4;
/// The size of the arena: address space that is mapped, unmapped and passed to the kernel.
const ARENA: u64 = 64 << 20;
/// The descriptor numbers that are opened, duplicated and closed.
const SLOTS: std::ops::Range<u64> = 64..96;
const PAGE: u64 = 4096;
const PATHS: [&std::ffi::CStr; 7] = [
    c"/dev/dma_heap/system",
    c"/dev/dma_heap/system",
    c"/dev/edu0",
    c"/dev/null",
    c"/bin/probe",
    c"/bin",
    c"/nothing",
];
/// Invalid descriptors and addresses.
const INVALID: [u64; 12] = [
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
/// System calls that terminate, block or fork the caller, unmap its memory, or read from the console.
const EXCLUDED: [i64; 18] = [
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

/// See the module.
pub fn fuzz(arguments: &[String]) -> ProbeResult {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (calls, seed) =
        (number(0).ok_or("usage: fuzz CALLS [SEED]")?, number(1).unwrap_or(0x7e55_e4a5).max(1));
    ensure(Heap::open(SYSTEM)?.statistics().is_ok(), || "requires Tessera".into())?;
    println!("  {calls} calls from {THREADS} threads, seed {seed}");
    let (arena, done) = (reserve()?, AtomicU64::new(0));
    // All threads must exist before the first hole in the arena: the kernel could place a thread's stack
    // there.
    let barrier = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut fuzzer = Fuzzer { state: seed + thread, arena, counts: [0; 2] };
            let (done, barrier) = (&done, &barrier);
            scope.spawn(move || {
                barrier.wait();
                while done.fetch_add(1, Relaxed) < calls {
                    fuzzer.step();
                }
                println!("  thread {thread}: {} succeeded, {} failed", fuzzer.counts[0], fuzzer.counts[1]);
            });
        }
    });
    Ok(())
}

/// Reserves inaccessible address space.
fn reserve() -> std::io::Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: at an address chosen by the kernel, so no existing mapping is replaced.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), ARENA as usize, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(at.expose_provenance() as u64)
    }
}

struct Fuzzer {
    state: u64,
    arena: u64,
    /// Numbers of successful and of failed calls.
    counts: [u64; 2],
}

impl Fuzzer {
    fn step(&mut self) {
        match self.random() % 24 {
            0..3 => self.map_memory(),
            3..6 => self.map_buffer(),
            6..8 => self.unmap(),
            8..10 => self.change_memory(),
            10..12 => self.output_call(),
            12..14 => self.input_call(),
            14 => self.open(),
            15..17 => self.new_buffer(),
            17 => self.move_descriptor(),
            18..20 => self.buffer_ioctl(),
            20 => self.device_ioctl(),
            21 => self.wait(),
            _ => self.invalid_call(),
        }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 16
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.random() % from.len() as u64) as usize]
    }

    fn slot(&mut self) -> u64 {
        SLOTS.start + self.random() % (SLOTS.end - SLOTS.start)
    }

    /// An address in the arena, mostly page-aligned.
    fn arena_address(&mut self) -> u64 {
        let at = self.arena + self.random() % ARENA;
        if self.random().is_multiple_of(8) { at } else { at & !(PAGE - 1) }
    }

    /// A length such that the range from `start` on stays in the arena.
    fn length(&mut self, start: u64) -> u64 {
        let most = self.pick(&[1, PAGE, 16 * PAGE, 2 << 20, 9 << 20]);
        (1 + self.random() % most).min(self.arena + ARENA - start)
    }

    fn protection(&mut self) -> u64 {
        let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        self.pick(&[0, read, read | write, read | write, read | execute, write | execute]) as u64
    }

    /// Performs a call. Pointer arguments must be in the arena, invalid, or to local variables.
    fn call(&mut self, number: i64, arguments: [u64; 6]) -> i64 {
        // SAFETY: the call can modify only the arena, a descriptor slot, or an exclusively owned local
        // variable.
        let result = unsafe { raw::call(number, arguments) };
        self.counts[usize::from(result < 0)] += 1;
        result
    }

    fn map_memory(&mut self) {
        let (at, placements) =
            (self.arena_address(), [libc::MAP_FIXED, libc::MAP_FIXED, libc::MAP_FIXED_NOREPLACE]);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | self.pick(&placements);
        let flags = flags | self.pick(&[0, 0, 0, libc::MAP_POPULATE]);
        let arguments = [at, self.length(at), self.protection(), flags as u64, u64::MAX, 0];
        self.call(libc::SYS_mmap, arguments);
    }

    fn map_buffer(&mut self) {
        let (at, flags) = (self.arena_address(), (libc::MAP_SHARED | libc::MAP_FIXED) as u64);
        let offset = self.pick(&[0, 0, PAGE, 16 * PAGE, 1 << 20, 3, 1 << 60]);
        let arguments = [at, self.length(at), self.protection(), flags, self.slot(), offset];
        self.call(libc::SYS_mmap, arguments);
    }

    fn unmap(&mut self) {
        let at = self.arena_address();
        let arguments = [at, self.length(at), 0, 0, 0, 0];
        self.call(libc::SYS_munmap, arguments);
    }

    fn change_memory(&mut self) {
        let at = self.arena_address();
        let len = self.length(at);
        match self.random() % 3 {
            0 => {
                let protection = self.protection();
                self.call(libc::SYS_mprotect, [at, len, protection, 0, 0, 0])
            }
            1 => self.call(libc::SYS_madvise, [at, len, libc::MADV_DONTNEED as u64, 0, 0, 0]),
            // In place, and within the arena.
            _ => {
                let new = self.length(at);
                self.call(libc::SYS_mremap, [at, len, new, 0, 0, 0])
            }
        };
    }

    /// A system call that writes to memory of the caller.
    fn output_call(&mut self) {
        let (to, slot) = (self.arena_address(), self.slot());
        let len = self.length(to);
        match self.random() % 4 {
            0 => self.call(libc::SYS_getrandom, [to, len.min(70_000), 0, 0, 0, 0]),
            1 => self.call(libc::SYS_pread64, [slot, to, len, 0, 0, 0]),
            2 => self.call(libc::SYS_getdents64, [slot, to, len, 0, 0, 0]),
            _ => self.call(libc::SYS_fstat, [slot, to, 0, 0, 0, 0]),
        };
    }

    /// A system call that reads memory of the caller.
    fn input_call(&mut self) {
        let (from, slot) = (self.arena_address(), self.slot());
        let len = self.length(from);
        match self.random() % 3 {
            0 => self.call(libc::SYS_write, [slot, from, len, 0, 0, 0]),
            1 => self.call(libc::SYS_writev, [slot, from, len % 2000, 0, 0, 0]),
            _ => self.call(libc::SYS_openat, [libc::AT_FDCWD as u64, from, 0, 0, 0, 0]),
        };
    }

    /// Moves an open descriptor to a slot.
    fn keep(&mut self, descriptor: i64) {
        if descriptor >= 0 {
            let slot = self.slot();
            self.call(libc::SYS_dup3, [descriptor as u64, slot, 0, 0, 0, 0]);
            self.call(libc::SYS_close, [descriptor as u64, 0, 0, 0, 0, 0]);
        }
    }

    fn open(&mut self) {
        let (path, flags) = (self.pick(&PATHS), self.pick(&[libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY]));
        let path = path.as_ptr().expose_provenance() as u64;
        let opened = self.call(libc::SYS_openat, [libc::AT_FDCWD as u64, path, flags as u64, 0, 0, 0]);
        self.keep(opened);
    }

    fn new_buffer(&mut self) {
        let len = self.pick(&[0, 1, PAGE, 64 << 10, 1 << 20, (2 << 20) + PAGE, 8 << 20, 1 << 40, u64::MAX]);
        let mut allocation =
            HeapAllocation { len, fd: 0, fd_flags: self.pick(&[0o2, 0o2, 0o2, 0o0, !0]), heap_flags: 0 };
        let slot = self.slot();
        if self.ioctl(slot, DMA_HEAP_IOCTL_ALLOC, &mut allocation) >= 0 {
            self.keep(allocation.fd.into());
        }
    }

    fn move_descriptor(&mut self) {
        let (from, to) = (self.slot(), self.slot());
        if self.random().is_multiple_of(2) {
            self.call(libc::SYS_close, [from, 0, 0, 0, 0, 0]);
        } else {
            self.call(libc::SYS_dup3, [from, to, 0, 0, 0, 0]);
        }
    }

    /// An ioctl with a valid argument, or with an argument in the arena.
    fn ioctl<T>(&mut self, slot: u64, request: abi::Ioctl, argument: &mut T) -> i64 {
        let argument = if self.random().is_multiple_of(4) {
            self.arena_address()
        } else {
            std::ptr::from_mut(argument).expose_provenance() as u64
        };
        self.call(libc::SYS_ioctl, [slot, request.raw().into(), argument, 0, 0, 0])
    }

    fn buffer_ioctl(&mut self) {
        let slot = self.slot();
        match self.random() % 8 {
            4 => {
                let mut name = self.random().to_ne_bytes();
                self.ioctl(slot, DMA_BUF_SET_NAME_B, &mut name);
            }
            5 => {
                let mut argument = BufferSyncFile { flags: self.random() as u32 % 5, fd: 0 };
                if self.ioctl(slot, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &mut argument) >= 0 {
                    self.keep(argument.fd.into());
                }
            }
            6 => {
                let (flags, fd) = (self.random() as u32 % 5, self.slot() as i32);
                self.ioctl(slot, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &mut BufferSyncFile { flags, fd });
            }
            7 => self.sync_file_ioctl(slot),
            0 => {
                let mut sync = BufferSync { flags: self.random() % 9 };
                self.ioctl(slot, DMA_BUF_IOCTL_SYNC, &mut sync);
            }
            1 => {
                let (first, capacity, chunks) =
                    (self.random() % 3, self.random() % 900, self.arena_address());
                let mut query = ChunkQuery { first, capacity, chunks, written: 0, total: 0 };
                self.ioctl(slot, DMA_BUF_CHUNKS, &mut query);
            }
            2 => {
                self.ioctl(slot, DMA_BUF_LEAVES, &mut abi::dma::Leaves::default());
            }
            _ => {
                self.ioctl(slot, DMA_STATISTICS, &mut abi::dma::Statistics::default());
            }
        }
    }

    fn sync_file_ioctl(&mut self, slot: u64) {
        if self.random().is_multiple_of(2) {
            let (num_fences, sync_fence_info) = (self.random() as u32 % 3, self.arena_address());
            let mut info =
                SyncFileInfo { name: [0; 32], status: 0, flags: 0, num_fences, pad: 0, sync_fence_info };
            self.ioctl(slot, SYNC_IOC_FILE_INFO, &mut info);
        } else {
            let fd2 = self.slot() as i32;
            let mut merge = SyncMerge { name: [b'm'; 32], fd2, fence: 0, flags: 0, pad: 0 };
            if self.ioctl(slot, SYNC_IOC_MERGE, &mut merge) >= 0 {
                self.keep(merge.fence.into());
            }
        }
    }

    fn device_ioctl(&mut self) {
        let slot = self.slot();
        let buffer = self.slot();
        // Rare, since a valid copy takes the device a tenth of a second.
        match self.random() % 256 {
            0 => self.copy(slot, EDU_COPY),
            1 => self.copy(slot, EDU_COPY_PAGES),
            2..64 => {
                let mut release = EduRelease { device_address: (self.random() % 64) << 20 };
                self.ioctl(slot, EDU_RELEASE, &mut release);
            }
            _ => {
                let (address, len) = (self.random() % 8 * 2048, self.random() % 8 * 2048);
                let mut import = EduImport { fd: buffer as i32, gap_fd: 0, address, len };
                self.ioctl(slot, EDU_IMPORT, &mut import);
            }
        }
    }

    fn copy(&mut self, slot: u64, request: abi::Ioctl) {
        let (direction, address) = ((self.random() % 3) as u32, self.arena_address());
        let (buffer_offset, len) = (self.random() % 5000, self.random() % 5000);
        self.ioctl(slot, request, &mut EduCopy { direction, flags: 0, buffer_offset, address, len });
    }

    fn wait(&mut self) {
        let nanosecond = libc::timespec { tv_sec: 0, tv_nsec: 1 };
        let soon = std::ptr::from_ref(&nanosecond).expose_provenance() as u64;
        let (at, number) = (self.arena_address() & !3, self.random() % 64);
        match self.random() % 4 {
            0 => self.call(libc::SYS_futex, [at, libc::FUTEX_WAKE as u64, 1, 0, 0, 0]),
            1 => self.call(libc::SYS_futex, [at, libc::FUTEX_WAIT as u64, number % 2, soon, 0, 0]),
            2 => self.call(libc::SYS_ppoll, [at, number, soon, 0, 0, 0]),
            _ => self.call(libc::SYS_sched_yield, [0; 6]),
        };
    }

    /// Any other system call with invalid arguments.
    fn invalid_call(&mut self) {
        let number = (self.random() % 460) as i64;
        if !EXCLUDED.contains(&number) {
            let arguments = std::array::from_fn(|_| self.pick(&INVALID));
            self.call(number, arguments);
        }
    }
}
