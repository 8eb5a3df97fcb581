//! `/dev/edu0`: copies through buffers and through this program's own pages, and what the device may hold.

use dmabuf::{Buffer, Edu, Heap, Imported, Protection, SYSTEM, View};

use crate::outcome::{Outcome, ensure, refused};

const PIECE: u64 = abi::device::EDU_BUFFER_BYTES;
const MIB: u64 = 1 << 20;

fn content(index: usize) -> u64 {
    (index as u64 + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fill(view: &View) {
    (0..view.words()).for_each(|index| view.set_word(index, content(index)));
}

/// Everything is as filled, except that the piece at byte `to` holds what stands at byte `from`.
fn check(view: &View, from: u64, to: u64) -> Outcome {
    let (from, to, words) = ((from / 8) as usize, (to / 8) as usize, (PIECE / 8) as usize);
    for index in 0..view.words() {
        let source = if (to..to + words).contains(&index) { index - to + from } else { index };
        let (found, expected) = (view.word(index), content(source));
        ensure(found == expected, || format!("word {index} is {found:#x}, not {expected:#x}"))?;
    }
    Ok(())
}

fn carry(edu: &Edu, imported: &Imported<'_>, from: u64, to: u64) -> std::io::Result<()> {
    edu.load(imported.address + from, PIECE, 0)?;
    edu.store(imported.address + to, PIECE, 0)
}

fn buffer(len: u64) -> std::io::Result<Buffer> {
    Heap::open(SYSTEM)?.allocate(len)
}

/// A piece goes from one unaligned place of a buffer to another, and nothing else changes.
pub fn copy(_: &[String]) -> Outcome {
    let edu = Edu::open()?;
    let buffer = buffer(3 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    ensure(imported.len == 3 * MIB, || format!("{:#x} bytes imported", imported.len))?;
    let (from, to) = (MIB - 2048 + 8, 3 * MIB - PIECE);
    carry(&edu, &imported, from, to)?;
    check(&view, from, to)
}

/// The device reaches this program's own pages while a copy runs, from and to the middle of a page. Whole cache lines,
/// so that it works for a device that does not see the caches too.
pub fn pages(_: &[String]) -> Outcome {
    let edu = Edu::open()?;
    let view = View::anonymous(16 * 4096)?;
    fill(&view);
    let (from, to) = (3 * 4096 + 512, 9 * 4096 + 2048 + 128);
    let at = |offset: u64| view.pointer().wrapping_add(offset as usize);
    edu.load_pages(at(from), PIECE, 0)?;
    // SAFETY: inside the view, which hands out no references.
    unsafe { edu.store_pages(at(to), PIECE, 0)? };
    check(&view, from, to)?;
    refused(
        "memory that is not there",
        edu.load_pages(std::ptr::without_provenance(4096), PIECE, 0),
        libc::EFAULT,
    )
}

/// What the device holds stays alive without a view, and without a descriptor.
pub fn hold(_: &[String]) -> Outcome {
    let edu = Edu::open()?;
    let buffer = buffer(2 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    fill(&view);
    let imported = edu.import(&buffer)?;
    drop(view);
    let (from, to) = (MIB - 2048, 64);
    carry(&edu, &imported, from, to)?;
    let view = buffer.map(Protection::ReadWrite)?;
    check(&view, from, to)?;
    drop((buffer, view));
    carry(&edu, &imported, from, to)?;
    let (address, last) = (imported.address, imported.address + 2 * MIB - PIECE);
    carry(&edu, &imported, last - address, 0)?;
    drop(imported);
    Ok(())
}

/// Lengths, places and descriptors that are wrong.
pub fn refuses(_: &[String]) -> Outcome {
    let edu = Edu::open()?;
    let buffer = buffer(MIB)?;
    let imported = edu.import(&buffer)?;
    let at = imported.address;
    refused("more than the device holds", edu.load(at, PIECE + 1, 0), libc::EINVAL)?;
    refused("behind the device's buffer", edu.load(at, 8, PIECE - 4), libc::EINVAL)?;
    refused("an offset that wraps", edu.load(at, 8, u64::MAX - 3), libc::EINVAL)?;
    refused("a length that wraps", edu.load(at, u64::MAX, 1), libc::EINVAL)?;
    refused("a file that is no buffer", edu.import(&std::io::stdout()).map(drop), libc::EINVAL)
}

/// Dies while the device holds a buffer: the kernel has to take everything back.
pub fn die_holding(_: &[String]) -> Outcome {
    let edu = Edu::open()?;
    let buffer = buffer(8 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    let imported = edu.import(&buffer)?;
    carry(&edu, &imported, 0, 4 * MIB)?;
    println!("  held at {:#x}, {} bytes mapped", imported.address, view.bytes());
    crate::death::null(&[])
}
