//! Imports of ranges of a buffer: the device reaches exactly the range, all of it below its DMA mask.

use dmabuf::{Edu, Heap, Protection, SYSTEM};

use crate::result::{ProbeResult, ensure, expect_error};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A range that starts and ends inside a chunk is copied to another; ranges that are not whole pages of the
/// buffer are rejected.
pub fn ranges(_: &[String]) -> ProbeResult {
    let edu = Edu::open()?;
    let buffer = Heap::open(SYSTEM)?.allocate(2 * MIB)?;
    let view = buffer.map(Protection::ReadWrite)?;
    (0..view.words()).for_each(|index| view.set_word(index, index as u64));
    let (from, to) = (MIB - PAGE, MIB + 8 * PAGE);
    let source = edu.import_range(&buffer, from, 2 * PAGE)?;
    let target = edu.import_range(&buffer, to, 0)?;
    ensure(source.len == 2 * PAGE && target.len == 2 * MIB - to, || {
        format!("{:#x} and {:#x} bytes imported", source.len, target.len)
    })?;
    edu.load(source.address + PAGE, PAGE, 0)?;
    edu.store(target.address + target.len - PAGE, PAGE, 0)?;
    let word = |offset: u64| view.word((offset / 8) as usize);
    let (read, written) = (from + PAGE, 2 * MIB - PAGE);
    ensure(word(written) == read / 8 && word(written - 8) == written / 8 - 1, || {
        format!("word {:#x} at {written:#x} instead of {:#x}", word(written), read / 8)
    })?;
    let past = edu.load(source.address + 2 * PAGE, PAGE, 0);
    ensure(past.is_err(), || "the device read past the range".into())?;
    for (offset, len) in [(1, 0), (0, 1), (2 * MIB, 0), (0, 2 * MIB + PAGE), (u64::MAX - PAGE + 1, PAGE)] {
        let what = format!("the range {offset:#x}+{len:#x}");
        expect_error(&what, edu.import_range(&buffer, offset, len).map(drop), libc::EINVAL)?;
    }
    Ok(())
}

/// A buffer whose largest chunk has half of the space below a 28-bit mask is imported whole below the mask.
pub fn whole(_: &[String]) -> ProbeResult {
    const LEN: u64 = 130 * MIB;
    let edu = Edu::open()?;
    let buffer = match Heap::open(SYSTEM)?.allocate(LEN) {
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
            println!("  no memory for {LEN:#x} bytes");
            return Ok(());
        }
        buffer => buffer?,
    };
    let imported = edu.import(&buffer)?;
    let end = edu.store(imported.address + LEN - 16, 16, 0);
    ensure(end.is_ok(), || format!("the end of {:#x}+{LEN:#x}: {end:?}", imported.address))
}
