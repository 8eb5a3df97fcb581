//! Anonymous memory in blocks of 2 MiB, and huge pages: parts that are unmapped, protected, discarded, moved,
//! forked and used by several threads.

use crate::iterations::iterations;
use crate::processes::{expect_exit, fork, wait};
use crate::result::{Failure, ProbeResult, ensure};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PAGE: usize = 4096;
const BLOCK: usize = 2 << 20;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// A mapping, which is unmapped when dropped; parts of it may be unmapped before.
struct Blocks {
    start: usize,
    len: usize,
}

impl Blocks {
    fn map(at: usize, len: usize, flags: i32) -> io::Result<Self> {
        let hint = ptr::with_exposed_provenance_mut(at);
        // SAFETY: a new mapping; with `MAP_FIXED` of an address, one that the caller owns.
        let start = unsafe { libc::mmap(hint, len, READ_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.expose_provenance(), len })
    }

    /// `blocks` blocks, aligned.
    fn aligned(blocks: usize) -> io::Result<Self> {
        let all = Self::map(0, (blocks + 1) * BLOCK, PRIVATE)?;
        let start = all.start.next_multiple_of(BLOCK);
        all.unmap(0, start - all.start)?;
        all.unmap(start - all.start + blocks * BLOCK, all.start + BLOCK - start)?;
        std::mem::forget(all);
        Ok(Self { start, len: blocks * BLOCK })
    }

    fn pointer(&self, offset: usize) -> *mut libc::c_void {
        ptr::with_exposed_provenance_mut(self.start + offset)
    }

    /// A word that threads and the kernel may access at the same time.
    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: aligned, and mapped by the caller.
        unsafe { &*self.pointer(offset).cast() }
    }

    fn set(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    fn get(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// Writes the number of each page to it.
    fn fill(&self) {
        (0..self.len).step_by(PAGE).for_each(|offset| self.set(offset, (offset / PAGE) as u64 + 1));
    }

    /// Checks the numbers of the pages from `from` to `to`.
    fn expect(&self, case: &str, from: usize, to: usize) -> ProbeResult {
        let wrong = (from..to).step_by(PAGE).find(|&offset| self.get(offset) != (offset / PAGE) as u64 + 1);
        ensure(wrong.is_none(), || format!("{case}: wrong content at {wrong:x?}"))
    }

    fn unmap(&self, offset: usize, len: usize) -> io::Result<()> {
        // SAFETY: a part of this mapping, which the caller does not access any more.
        if len > 0 && unsafe { libc::munmap(self.pointer(offset), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn protect(&self, offset: usize, len: usize, prot: i32) -> io::Result<()> {
        // SAFETY: a part of this mapping; accesses that it forbids are not made.
        match unsafe { libc::mprotect(self.pointer(offset), len, prot) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        // SAFETY: atomic accesses only; the content becomes zero.
        match unsafe { libc::madvise(self.pointer(offset), len, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let _ = self.unmap(0, self.len);
    }
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn expect_errno<T>(case: &str, result: io::Result<T>, expected: i32) -> ProbeResult {
    let seen = errno(result);
    ensure(seen == expected, || format!("{case}: errno {seen}, not {expected}"))
}

/// A number of `/proc/meminfo`.
fn memory_info(name: &str) -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure::from(&*format!("no {name}")))
}

/// Parts of blocks are unmapped, protected, discarded and moved; the rest keeps its content.
pub fn parts(_: &[String]) -> ProbeResult {
    let region = Blocks::aligned(4)?;
    region.fill();
    let middle = BLOCK + 17 * PAGE;
    // Across the border of two blocks.
    region.unmap(middle, BLOCK)?;
    region.expect("munmap", 0, middle)?;
    region.expect("munmap", middle + BLOCK, 4 * BLOCK)?;
    std::mem::forget(Blocks::map(region.start + middle, BLOCK, PRIVATE | libc::MAP_FIXED)?);
    let dirty = (middle..middle + BLOCK).step_by(PAGE).find(|&offset| region.get(offset) != 0);
    ensure(dirty.is_none(), || format!("the new mapping is not zero at {dirty:x?}"))?;
    region.fill();
    region.protect(3 * BLOCK + PAGE, PAGE, libc::PROT_READ)?;
    region.set(3 * BLOCK, 3 * BLOCK as u64 / PAGE as u64 + 1);
    region.protect(3 * BLOCK + PAGE, PAGE, READ_WRITE)?;
    region.expect("mprotect", 0, 4 * BLOCK)?;
    region.discard(PAGE, 2 * PAGE)?;
    ensure(region.get(PAGE) == 0 && region.get(2 * PAGE) == 0, || "discarded memory is not zero".into())?;
    region.expect("MADV_DONTNEED", 3 * PAGE, 4 * BLOCK)?;
    region.fill();
    moved(&region)
}

/// Moves blocks to an address at which they do not fit.
fn moved(region: &Blocks) -> ProbeResult {
    let target = Blocks::map(0, 6 * BLOCK, PRIVATE)?;
    for misaligned in [0, PAGE] {
        let to = target.start.next_multiple_of(BLOCK) + misaligned;
        let move_to = |from: usize, to: usize| {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let (from, to) = (
                ptr::with_exposed_provenance_mut(from),
                ptr::with_exposed_provenance_mut::<libc::c_void>(to),
            );
            // SAFETY: both are mappings of this probe, and used at their new address only.
            let moved = unsafe { libc::mremap(from, 4 * BLOCK, 4 * BLOCK, flags, to) };
            if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        move_to(region.start, to)?;
        let moved = std::mem::ManuallyDrop::new(Blocks { start: to, len: 4 * BLOCK });
        moved.expect("mremap", 0, 4 * BLOCK)?;
        moved.fill();
        move_to(to, region.start)?;
        region.expect("mremap back", 0, 4 * BLOCK)?;
    }
    Ok(())
}

/// After a fork, both processes write to blocks and unmap parts of them, and each sees its own content only.
pub fn forked(_: &[String]) -> ProbeResult {
    for round in 0..iterations(20) {
        let region = Blocks::aligned(2)?;
        region.fill();
        let child = fork(|| {
            region.set(PAGE, 77);
            let seen = region.expect("child", 2 * PAGE, 2 * BLOCK).is_ok() && region.get(PAGE) == 77;
            let unmapped = region.unmap(BLOCK + PAGE, BLOCK / 2).is_ok();
            let kept = region.expect("child", BLOCK + BLOCK / 2 + PAGE, 2 * BLOCK).is_ok();
            i32::from(!(seen && unmapped && kept))
        })?;
        // Before and after the exit of the child.
        region.expect("parent", 0, 2 * BLOCK)?;
        region.set(BLOCK, 99);
        if round % 2 == 0 {
            region.discard(0, PAGE)?;
        }
        expect_exit("the child", child, 0)?;
        region.expect("parent after the exit", PAGE, BLOCK)?;
        ensure(region.get(BLOCK) == 99, || "the write of the parent is lost".into())?;
        region.expect("parent after the exit", BLOCK + PAGE, 2 * BLOCK)?;
    }
    Ok(())
}

/// Threads write to the pages of a block while another splits it, protects and discards other pages of it,
/// and forks.
pub fn threads(_: &[String]) -> ProbeResult {
    const WRITERS: usize = 3;
    for _ in 0..iterations(20) {
        let region = Blocks::aligned(1)?;
        let stop = AtomicBool::new(false);
        let counts = std::thread::scope(|scope| -> Result<Vec<u64>, Failure> {
            let writer = |number: usize| {
                let (region, stop) = (&region, &stop);
                move || {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) || count < 100 {
                        // Pages 4 apart, all over the block.
                        let page = (number + 4 * (count as usize % 128)) * PAGE;
                        region.word(page).fetch_add(1, Ordering::Relaxed);
                        count += 1;
                    }
                    count
                }
            };
            let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(writer(number))).collect();
            let disturbed = disturb(&region);
            stop.store(true, Ordering::Relaxed);
            let counts =
                writers.into_iter().map(|writer| writer.join().map_err(|_| "a thread panicked".into()));
            disturbed.and(counts.collect())
        })?;
        for (number, count) in counts.into_iter().enumerate() {
            let sum: u64 = (0..128).map(|index| region.get((number + 4 * index) * PAGE)).sum();
            ensure(sum == count, || format!("writer {number}: {sum} of {count} increments"))?;
        }
    }
    Ok(())
}

/// Changes every fourth page, which no writer uses, and forks.
fn disturb(region: &Blocks) -> ProbeResult {
    for index in [0, 7, 60, 127] {
        let page = (3 + 4 * index) * PAGE;
        region.protect(page, PAGE, libc::PROT_READ)?;
        let child = fork(|| 0)?;
        region.discard(page, PAGE)?;
        region.protect(page, PAGE, READ_WRITE)?;
        expect_exit("the child", child, 0)?;
    }
    Ok(())
}

const HUGE: i32 = PRIVATE | libc::MAP_HUGETLB;

/// The arguments of mappings of huge pages, whether or not there are any.
pub fn huge_arguments(_: &[String]) -> ProbeResult {
    let unknown = Blocks::map(0, BLOCK, HUGE | 22 << 26);
    expect_errno("an unknown size", unknown, libc::EINVAL)?;
    expect_errno("length 0", Blocks::map(0, 0, HUGE), libc::EINVAL)?;
    expect_errno("more than RAM", Blocks::map(0, 1 << 46, HUGE), libc::ENOMEM)?;
    let free = Blocks::aligned(2)?;
    let inside = Blocks::map(free.start + PAGE, BLOCK, HUGE | libc::MAP_FIXED);
    expect_errno("a fixed address inside a huge page", inside, libc::EINVAL)
}

/// Huge pages are mapped, shared by a fork and unmapped as a whole. Without free ones (`ENOMEM`), which Linux
/// must be told to have, nothing is checked.
pub fn huge(_: &[String]) -> ProbeResult {
    let before = memory_info("HugePages_Free")?;
    // The length is rounded up.
    let region = match Blocks::map(0, 2 * BLOCK - PAGE, HUGE | libc::MAP_HUGE_2MB) {
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
            println!("  no huge pages");
            return Ok(());
        }
        mapped => Blocks { len: 2 * BLOCK, ..*std::mem::ManuallyDrop::new(mapped?) },
    };
    ensure(region.start % BLOCK == 0, || format!("mapped at {:#x}", region.start))?;
    ensure(memory_info("HugePages_Rsvd")? >= 2, || "the pages are not reserved".into())?;
    region.fill();
    region.expect("huge pages", 0, 2 * BLOCK)?;
    expect_errno("munmap of a part", region.unmap(PAGE, PAGE), libc::EINVAL)?;
    expect_errno("munmap of less", region.unmap(0, PAGE), libc::EINVAL)?;
    expect_errno("mprotect of a part", region.protect(0, PAGE, libc::PROT_READ), libc::EINVAL)?;
    expect_errno("MADV_DONTNEED inside", region.discard(PAGE, BLOCK), libc::EINVAL)?;
    region.expect("after refused calls", 0, 2 * BLOCK)?;
    let child = fork(|| {
        let inherited = region.expect("child", 0, BLOCK).is_ok();
        region.set(0, 7);
        i32::from(!inherited || region.get(0) != 7 || region.expect("child", PAGE, BLOCK).is_err())
    })?;
    let (_, status) = wait(child, 0)?;
    ensure(status == 0 || status == libc::SIGBUS, || format!("the child ended with {status:#x}"))?;
    region.set(BLOCK, BLOCK as u64 / PAGE as u64 + 1);
    region.expect("parent", 0, 2 * BLOCK)?;
    region.protect(0, BLOCK, libc::PROT_READ)?;
    region.expect("read-only", 0, BLOCK)?;
    region.unmap(0, BLOCK)?;
    region.expect("the other page", BLOCK, 2 * BLOCK)?;
    region.discard(BLOCK, BLOCK)?;
    ensure(region.get(BLOCK) == 0, || "discarded memory is not zero".into())?;
    region.unmap(BLOCK, BLOCK)?;
    std::mem::forget(region);
    let after = memory_info("HugePages_Free")?;
    ensure(after == before, || format!("{before} free pages became {after}"))?;
    shared_huge()
}

/// A shared mapping of huge pages is that of both processes.
fn shared_huge() -> ProbeResult {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    let Ok(region) = Blocks::map(0, BLOCK, flags) else { return Ok(()) };
    let child = fork(|| {
        region.set(PAGE, 5);
        0
    })?;
    expect_exit("the child", child, 0)?;
    ensure(region.get(PAGE) == 5, || "the write of the child is lost".into())
}
