//! Memory that is new to a program is zero, whatever somebody wrote there before: `fill` is ended with secrets everywhere,
//! and `scan` looks for them.

use dmabuf::{CONTIGUOUS, Heap, Protection, SYSTEM, UNCACHED, View};

use crate::raw;
use crate::result::{ProbeResult, ensure};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const SECRET: u64 = 0x5ec5_e75e_c5e7_5ec5;
/// How much of each kind of memory, at most; a small machine has less.
const HEAPS: [(&str, usize); 3] = [(SYSTEM, 48 * MIB), (UNCACHED, 8 * MIB), (CONTIGUOUS, 2 * MIB)];
const ANONYMOUS: usize = 48 * MIB;
const BRK: usize = MIB;
const STACK: usize = 256 << 10;

/// All memory that a program can ask for.
struct All {
    views: Vec<View>,
    brk: *mut u64,
}

impl All {
    fn new() -> std::io::Result<Self> {
        // First of all, so that the allocator does not use it in between.
        let brk = grow_heap()?;
        let mut views = vec![View::anonymous(ANONYMOUS)?];
        for (path, len) in HEAPS {
            if let Ok(heap) = Heap::open(path) {
                views.push(heap.allocate(len as u64)?.map(Protection::ReadWrite)?);
            }
        }
        Ok(Self { views, brk })
    }

    fn check(&self) -> ProbeResult {
        for (number, view) in self.views.iter().enumerate() {
            let odd = (0..view.words()).find(|&word| view.word(word) != 0);
            ensure(odd.is_none(), || {
                format!("memory {number}: word {odd:?} is {:#x}", view.word(odd.unwrap_or(0)))
            })?;
        }
        // SAFETY: this much was just added to the heap, and nobody else knows it.
        let odd = (0..BRK / 8).find(|&word| unsafe { self.brk.add(word).read_volatile() } != 0);
        ensure(odd.is_none(), || format!("word {odd:?} of the heap is not zero"))
    }

    fn fill(&self) {
        for view in &self.views {
            (0..view.words()).for_each(|word| view.set_word(word, SECRET));
        }
        // SAFETY: as above.
        (0..BRK / 8).for_each(|word| unsafe { self.brk.add(word).write_volatile(SECRET) });
    }
}

/// Adds to the heap (`brk`), from a page's start on.
fn grow_heap() -> std::io::Result<*mut u64> {
    // SAFETY: only asks where it ends, and then moves that end up.
    let (start, end) = unsafe {
        let start = (raw::call(libc::SYS_brk, [0; 6]) as usize).next_multiple_of(PAGE);
        (start, raw::call(libc::SYS_brk, [(start + BRK) as u64, 0, 0, 0, 0, 0]) as usize)
    };
    if end != start + BRK {
        return Err(std::io::ErrorKind::OutOfMemory.into());
    }
    Ok(std::ptr::with_exposed_provenance_mut(start))
}

/// Fills all of it, its stacks too, and dies. What is given back last, the first stack, is what the next program starts
/// from.
pub fn fill(_: &[String]) -> ProbeResult {
    let all = All::new()?;
    all.fill();
    let thread = std::thread::Builder::new().stack_size(2 * STACK).spawn(fill_stack)?;
    thread.join().map_err(|_| "a thread panicked")?;
    fill_stack();
    crate::fatal::null(&[])
}

/// As much of a stack as [`scan`] looks at, and more.
#[inline(never)]
fn fill_stack() {
    std::hint::black_box(&[SECRET; STACK / 8]);
}

/// Looks at all of it, at the stack below what is in use, and at the ends of the program's own pages.
pub fn scan(_: &[String]) -> ProbeResult {
    stack()?;
    tails()?;
    All::new()?.check()?;
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(stack)?;
    thread.join().map_err(|_| "a thread panicked")?
}

/// New memory is zero again after this program itself has written to it and given it back.
pub fn reuse(_: &[String]) -> ProbeResult {
    for round in 0..3 {
        let all = All::new()?;
        all.check().map_err(|_| if round == 0 { "not zero at first" } else { "not zero the next time" })?;
        all.fill();
        // SAFETY: the end moves back to where it was before; nobody uses what is above it.
        unsafe { raw::call(libc::SYS_brk, [all.brk.expose_provenance() as u64, 0, 0, 0, 0, 0]) };
    }
    Ok(())
}

/// Nothing is on the stack far below of what this thread has used of it.
#[inline(never)]
fn stack() -> ProbeResult {
    let here = 0u64;
    let used = 128 << 10;
    let end = (&raw const here).expose_provenance() - used;
    let words = (end - (STACK - used) / 2..end).step_by(8).map(|at| (at & !7) as *const u64);
    // SAFETY: inside of this thread's stack, which is `STACK` bytes or more, and below what is in use; as numbers only.
    let odd = words.into_iter().find(|word| unsafe { word.read_volatile() } != 0);
    ensure(odd.is_none(), || format!("{odd:?} on the stack is not zero"))
}

/// The last page of each part of the program ends in zeroes.
fn tails() -> ProbeResult {
    let [headers, count, size] =
        [libc::AT_PHDR, libc::AT_PHNUM, libc::AT_PHENT].map(|kind| raw::auxiliary(kind) as usize);
    // The ELF header comes first, and the program headers right behind its 64 bytes.
    let base = headers - 64;
    for number in 0..count {
        let header = std::ptr::with_exposed_provenance::<u64>(headers + number * size);
        // SAFETY: the auxiliary vector says so: `count` headers of seven words; only read.
        let [kind, at, len] = [0, 2, 5].map(|word| unsafe { header.add(word).read() });
        const LOAD: u32 = 1;
        if kind as u32 != LOAD {
            continue;
        }
        let end = base + (at + len) as usize;
        let tail = (end..end.next_multiple_of(PAGE)).map(std::ptr::with_exposed_provenance::<u8>);
        // SAFETY: in the last page of this part, which is mapped whole and can be read.
        let odd = tail.into_iter().find(|byte| unsafe { byte.read_volatile() } != 0);
        ensure(odd.is_none(), || format!("{odd:?} behind a part that ends at {end:#x} is not zero"))?;
    }
    Ok(())
}
