//! User copies across a page border, with the border at every offset of the copy.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use dmabuf::View;

use crate::raw;
use crate::result::{ProbeResult, ensure};

const PAGE: usize = 4096;
const FAULT: i64 = -(libc::EFAULT as i64);
/// The content of memory that a copy must not change.
const FILL: u8 = 0xa5;
/// Bytes of a copy: steps of 64 and 8 bytes and single ones, each in the first and in the last place.
const LENGTHS: [usize; 4] = [200, 135, 15, 7];

/// The page above the border.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Above {
    Populated,
    /// Mapped, but populated only by the first access: zero.
    OnDemand,
    Inaccessible,
}

const ALL: [Above; 3] = [Above::Populated, Above::OnDemand, Above::Inaccessible];

/// Two pages.
struct Border(View);

impl Border {
    fn new() -> io::Result<Self> {
        View::anonymous(2 * PAGE).map(Self)
    }

    /// The address `before` bytes below the border.
    fn at(&self, before: usize) -> u64 {
        (self.0.pointer().expose_provenance() + PAGE - before) as u64
    }

    /// Fills both pages, writes `bytes` at [`at`](Self::at), and sets the state of the upper page.
    fn prepare(&self, before: usize, bytes: &[u8], above: Above) -> ProbeResult {
        let upper = self.0.pointer().wrapping_add(PAGE);
        self.0.protect(PAGE, PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        (0..self.0.words()).for_each(|word| self.0.set_word(word, u64::from_ne_bytes([FILL; 8])));
        for (n, byte) in bytes.iter().enumerate() {
            assert!(before <= PAGE && n < PAGE + before, "byte {n} from {before}");
            // SAFETY: in the mapping by the assertion, which only this function and system calls access.
            unsafe { self.0.pointer().add(PAGE - before + n).write_volatile(*byte) };
        }
        match above {
            Above::Populated => Ok(()),
            Above::OnDemand => {
                // SAFETY: the upper page of the mapping, without references.
                let status = unsafe { libc::madvise(upper.cast(), PAGE, libc::MADV_DONTNEED) };
                ensure(status == 0, || format!("MADV_DONTNEED: {}", io::Error::last_os_error()))
            }
            Above::Inaccessible => Ok(self.0.protect(PAGE, PAGE, libc::PROT_NONE)?),
        }
    }

    /// The byte at `n` from `before` bytes below the border on.
    fn byte(&self, before: usize, n: usize) -> u8 {
        self.0.byte(PAGE - before + n)
    }
}

/// Copies to and from user memory are complete, also if the page above the border is populated on demand, and
/// return `EFAULT` (or a short count) if it is inaccessible.
pub fn copies(_: &[String]) -> ProbeResult {
    let border = Border::new()?;
    let mut file = File::open(std::env::current_exe().unwrap_or_else(|_| "/bin/probe".into()))?;
    let mut content = [0; LENGTHS[0]];
    file.read_exact(&mut content)?;
    for above in ALL {
        for len in LENGTHS {
            (1..len).try_for_each(|before| copy_out(&border, &file, (before, &content[..len]), above))?;
        }
        (1..POLLED * 8).try_for_each(|before| copy_in(&border, before, above))?;
    }
    Ok(())
}

/// `pread64` of the start of `file`, which is `content`.
fn copy_out(border: &Border, file: &File, (before, content): (usize, &[u8]), above: Above) -> ProbeResult {
    let len = content.len();
    border.prepare(before, &[], above)?;
    let arguments = [file.as_raw_fd() as u64, border.at(before), len as u64, 0, 0, 0];
    // SAFETY: writes only the pages of `border`.
    let result = unsafe { raw::call(libc::SYS_pread64, arguments) };
    let shown = || format!("pread64 of {len} bytes, {before} below the border, {above:?}");
    if above == Above::Inaccessible {
        // Linux returns the bytes below the border.
        return ensure(result == FAULT || result == before as i64, || format!("{}: {result}", shown()));
    }
    ensure(result == len as i64, || format!("{}: {result}", shown()))?;
    let wrong = (0..len).find(|&n| border.byte(before, n) != content[n]);
    ensure(wrong.is_none(), || format!("{}: byte {wrong:?} is wrong", shown()))?;
    let after = if above == Above::OnDemand { 0 } else { FILL };
    let kept = border.byte(before + 1, 0) == FILL && border.byte(before, len) == after;
    ensure(kept, || format!("{}: a byte outside changed", shown()))
}

/// The entries of the list of `ppoll`, 136 bytes.
const POLLED: usize = 17;

/// `ppoll` of a list of negative descriptors, which are ignored: Tessera reads the whole list and writes it
/// back.
fn copy_in(border: &Border, before: usize, above: Above) -> ProbeResult {
    let mut list = [0; POLLED * 8];
    for (n, entry) in list.chunks_exact_mut(8).enumerate() {
        let descriptor = -0x0123_4567 * (n as i32 + 1);
        entry[..4].copy_from_slice(&descriptor.to_ne_bytes());
        entry[4..6].copy_from_slice(&[n as u8 + 1, 0x80 + n as u8]);
    }
    border.prepare(before, &list, above)?;
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = (&raw const timeout).expose_provenance() as u64;
    // SAFETY: writes only the pages of `border`; the timeout, zero, is unchanged.
    let result = unsafe { raw::call(libc::SYS_ppoll, [border.at(before), POLLED as u64, timeout, 0, 8, 0]) };
    let shown = || format!("ppoll of {POLLED} entries, {before} bytes below the border, {above:?}");
    match above {
        Above::Inaccessible => return ensure(result == FAULT, || format!("{}: {result}", shown())),
        Above::Populated => ensure(result == 0, || format!("{}: {result}", shown()))?,
        // A partly zero descriptor may exist.
        Above::OnDemand => ensure(result >= 0, || format!("{}: {result}", shown()))?,
    }
    let expected = |n: usize| if n < before || above == Above::Populated { list[n] } else { 0 };
    // Without the results in the last two bytes of each entry.
    let wrong = (0..list.len()).find(|&n| n % 8 < 6 && border.byte(before, n) != expected(n));
    ensure(wrong.is_none(), || format!("{}: byte {wrong:?} is wrong", shown()))
}

/// A string may cross a page border or end at it; one that continues in an inaccessible page is `EFAULT`, and
/// one without a terminator in `PATH_MAX` bytes is `ENAMETOOLONG`.
pub fn strings(_: &[String]) -> ProbeResult {
    let border = Border::new()?;
    for len in 1..200 {
        let path: Vec<u8> = b"/.".iter().copied().cycle().take(len).collect();
        let ended = [&path[..], b"\0"].concat();
        // The page, the bytes, the bytes below the border, the expected result.
        let cases = [
            (Above::Inaccessible, &ended, len + 1, 0),
            (Above::OnDemand, &path, len, 0),
            (Above::Inaccessible, &path, len, FAULT),
        ];
        for (above, bytes, before, expected) in cases {
            expect_access(&border, bytes, (before, above), expected)?;
        }
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "/bin/probe".into());
    let path = [&b"/.".repeat(70)[..], program.as_os_str().as_encoded_bytes(), b"\0"].concat();
    (1..path.len()).try_for_each(|before| expect_access(&border, &path, (before, Above::Populated), 0))?;
    let longest = libc::PATH_MAX as usize - 1;
    for (len, expected) in [(longest, 0), (longest + 1, -i64::from(libc::ENAMETOOLONG))] {
        let path: Vec<u8> = b"/.".iter().copied().cycle().take(len).chain([0]).collect();
        expect_access(&border, &path, (PAGE, Above::Populated), expected)?;
    }
    Ok(())
}

/// `faccessat` of the path `bytes`.
fn expect_access(
    border: &Border,
    bytes: &[u8],
    (before, above): (usize, Above),
    expected: i64,
) -> ProbeResult {
    border.prepare(before, bytes, above)?;
    // SAFETY: writes no memory.
    let result =
        unsafe { raw::call(libc::SYS_faccessat, [libc::AT_FDCWD as u64, border.at(before), 0, 0, 0, 0]) };
    ensure(result == expected, || {
        let len = bytes.len();
        format!("a path of {len} bytes, {before} below the border, {above:?}: {result}, not {expected}")
    })
}
