//! New memory of a program is zero, also if another program used it before: `fill` writes a secret to all of
//! its memory and is killed, and `scan` searches for it.

use dmabuf::{CONTIGUOUS, Heap, Protection, SYSTEM, UNCACHED, View};

use crate::raw;
use crate::result::{ProbeResult, ensure};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const SECRET: u64 = 0x5ec5_e75e_c5e7_5ec5;
/// Sizes by heap; a heap that the machine does not have is skipped.
const HEAPS: [(&str, usize); 3] = [(SYSTEM, 48 * MIB), (UNCACHED, 8 * MIB), (CONTIGUOUS, 2 * MIB)];
const ANONYMOUS: usize = 48 * MIB;
const BRK: usize = MIB;
const STACK: usize = 256 << 10;

/// Memory of all kinds: anonymous, buffers of each heap, brk.
struct AllMemory {
    views: Vec<View>,
    brk: *mut u64,
}

impl AllMemory {
    fn new() -> std::io::Result<Self> {
        // First, so that the allocator cannot use this part of the heap.
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
            let leaked = (0..view.words()).find(|&word| view.word(word) != 0);
            ensure(leaked.is_none(), || {
                format!("memory {number}: word {leaked:?} is {:#x}", view.word(leaked.unwrap_or(0)))
            })?;
        }
        // SAFETY: this part was just added to the heap and is used by no other code.
        let leaked = (0..BRK / 8).find(|&word| unsafe { self.brk.add(word).read_volatile() } != 0);
        ensure(leaked.is_none(), || format!("word {leaked:?} of the heap is not zero"))
    }

    fn fill(&self) {
        for view in &self.views {
            (0..view.words()).for_each(|word| view.set_word(word, SECRET));
        }
        // SAFETY: as above.
        (0..BRK / 8).for_each(|word| unsafe { self.brk.add(word).write_volatile(SECRET) });
    }
}

/// Grows the heap (`brk`) by [`BRK`] bytes from a page boundary.
fn grow_heap() -> std::io::Result<*mut u64> {
    // SAFETY: queries the end of the heap and moves it up.
    let (start, end) = unsafe {
        let start = (raw::call(libc::SYS_brk, [0; 6]) as usize).next_multiple_of(PAGE);
        (start, raw::call(libc::SYS_brk, [(start + BRK) as u64, 0, 0, 0, 0, 0]) as usize)
    };
    if end != start + BRK {
        return Err(std::io::ErrorKind::OutOfMemory.into());
    }
    Ok(std::ptr::with_exposed_provenance_mut(start))
}

/// Fills all memory including the stacks, and faults. The initial stack is freed last, so its frames are the
/// first that the next program gets.
pub fn fill(_: &[String]) -> ProbeResult {
    let all = AllMemory::new()?;
    all.fill();
    let thread = std::thread::Builder::new().stack_size(2 * STACK).spawn(fill_stack)?;
    thread.join().map_err(|_| "a thread panicked")?;
    fill_stack();
    crate::fatal::null(&[])
}

/// Fills more of the stack than [`scan`] checks.
#[inline(never)]
fn fill_stack() {
    std::hint::black_box(&[SECRET; STACK / 8]);
}

/// Checks all memory, the unused part of the stack, and the tails of the program's segments.
pub fn scan(_: &[String]) -> ProbeResult {
    stack()?;
    tails()?;
    AllMemory::new()?.check()?;
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(stack)?;
    thread.join().map_err(|_| "a thread panicked")?
}

/// Memory is zero again after this program has written and freed it.
pub fn reuse(_: &[String]) -> ProbeResult {
    for round in 0..3 {
        let all = AllMemory::new()?;
        all.check().map_err(|_| if round == 0 { "not zero" } else { "not zero after reuse" })?;
        all.fill();
        // SAFETY: restores the previous end of the heap; the memory above is not in use.
        unsafe { raw::call(libc::SYS_brk, [all.brk.expose_provenance() as u64, 0, 0, 0, 0, 0]) };
    }
    Ok(())
}

/// The stack is zero far below the used part.
#[inline(never)]
fn stack() -> ProbeResult {
    let here = 0u64;
    let used = 128 << 10;
    let end = (&raw const here).expose_provenance() - used;
    let words = (end - (STACK - used) / 2..end).step_by(8).map(|at| (at & !7) as *const u64);
    // SAFETY: inside this thread's stack, which has at least `STACK` bytes, and below the used part; read as
    // integers.
    let leaked = words.into_iter().find(|word| unsafe { word.read_volatile() } != 0);
    ensure(leaked.is_none(), || format!("{leaked:?} on the stack is not zero"))
}

/// The last page of each segment has the bytes of the program's file past its content, or zeroes past the end
/// of the file, or, if the segment is longer than its content and writable, zeroes only.
fn tails() -> ProbeResult {
    let file = std::fs::read(std::env::args_os().next().unwrap_or_default())?;
    let [headers, count, size] =
        [libc::AT_PHDR, libc::AT_PHNUM, libc::AT_PHENT].map(|kind| raw::auxiliary(kind) as usize);
    // The program headers follow the 64-byte ELF header at the load base.
    let base = headers - 64;
    for number in 0..count {
        let header = std::ptr::with_exposed_provenance::<u64>(headers + number * size);
        // SAFETY: the auxiliary vector describes `count` headers of seven words; read only.
        let [kind, offset, at, file_len, len] =
            [0, 1, 2, 4, 5].map(|word| unsafe { header.add(word).read() });
        const LOAD: u32 = 1;
        const WRITABLE: u64 = 2;
        if kind as u32 != LOAD {
            continue;
        }
        let is_zeroed = len > file_len && kind >> 32 & WRITABLE != 0;
        let end = base + (at + len) as usize;
        let file_end = (offset + len) as usize;
        for (n, at) in (end..end.next_multiple_of(PAGE)).enumerate() {
            let expected = if is_zeroed { 0 } else { file.get(file_end + n).copied().unwrap_or(0) };
            // SAFETY: in the last page of this segment, which is mapped completely and readable.
            let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() };
            ensure(byte == expected, || {
                format!("{byte:#x} past a segment that ends at {end:#x}, not {expected:#x}")
            })?;
        }
    }
    Ok(())
}
