//! Guards: an unmapped page behind every range of device addresses, bytes behind the end of buffers that are no multiple
//! of a page long (canaries), and names: which buffer a fault is next to.

use crate::dma::Device;
use crate::dma::iommu::Smmu;
use crate::kprintln;
use crate::memory::kmap;
use crate::sync::SpinLock;
use addr::{AddrRange, Chunk, Iova, KernelVa, MemoryType, PAGE_SIZE, StreamId};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use smmu_spec::{AccessKind, EventRecord};

/// What is behind the end of a buffer.
const CANARY: u8 = 0xc9;
/// Buffers that are gone and still known.
const REMEMBERED: usize = 32;
/// From further away than this nothing is said to be near a buffer.
const NEAR: u64 = 64 << 10;

/// A short name, kept in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Name {
    bytes: [u8; 15],
    len: u8,
}

impl Name {
    fn new(text: &str) -> Self {
        let mut name = Self { bytes: [0; 15], len: text.len().min(15) as u8 };
        let len = usize::from(name.len);
        name.bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        name
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?"))
    }
}

/// What a buffer is: `buffer-3 of 00:01.0`, `dma-buf-4`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    kind: &'static str,
    number: u32,
    owner: Option<Name>,
    /// Bytes that were asked for.
    len: u64,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.number)?;
        self.owner.map_or(Ok(()), |owner| write!(f, " of {owner}"))
    }
}

impl Tag {
    /// The next one of its kind, `len` bytes for `owner`.
    pub fn new(kind: &'static str, len: u64, owner: Option<&Device>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let owner = owner.map(|device| Name::new(device.name()));
        Self { kind, number: NEXT.fetch_add(1, Relaxed), owner, len }
    }

    /// Puts canaries behind the end, up to the end of the page. A program's buffer has none: it sees whole pages.
    pub fn draw(&self, chunks: impl Iterator<Item = Chunk>, memory: MemoryType) {
        self.with_rest(chunks, memory, |rest| rest.fill(CANARY));
    }

    /// Looks whether they are still there.
    pub fn look(&self, chunks: impl Iterator<Item = Chunk>, memory: MemoryType) {
        let mut found = None;
        self.with_rest(chunks, memory, |rest| {
            let first = rest.iter().position(|&byte| byte != CANARY);
            found = first.zip(rest.iter().rposition(|&byte| byte != CANARY));
        });
        if let Some((first, last)) = found {
            let overrun = Overrun { tag: *self, bytes: last + 1 - first, past: first };
            kprintln!("{overrun}");
            OVERRUN.lock().get_or_insert(overrun);
        }
    }

    /// Whether nobody but the kernel and devices sees it: a program may write up to the end of a page.
    fn is_kernels(&self) -> bool {
        matches!(self.kind, "buffer" | "pages")
    }

    /// Shows what the last page has behind the end.
    fn with_rest(
        &self,
        chunks: impl Iterator<Item = Chunk>,
        memory: MemoryType,
        mut f: impl FnMut(&mut [u8]),
    ) {
        let mut at = 0;
        for chunk in chunks {
            let end = at + chunk.bytes();
            if self.is_kernels() && (at + 1..end).contains(&self.len) && end - self.len < PAGE_SIZE {
                let from = self.len - at;
                let mut shown = 0;
                show(chunk, memory, |window| {
                    let start = from.clamp(shown, shown + window.len()) - shown;
                    shown += window.len();
                    f(bytes(AddrRange::new(window.start() + start, window.end())));
                });
            }
            at = end;
        }
    }

    /// `device` sees it at `range` from now on.
    pub fn attached(&self, device: &Device, range: AddrRange<Iova>) {
        let mut places = PLACES.lock();
        places.live.insert((key(device), range.start()), Place { range, tag: *self });
    }
}

/// `device` sees what was at `range` no more.
pub fn detached(device: &Device, range: AddrRange<Iova>) {
    PLACES.lock().remove((key(device), range.start()));
}

fn show(chunk: Chunk, memory: MemoryType, f: impl FnMut(AddrRange<KernelVa>)) {
    match memory {
        MemoryType::WriteBack => kmap::with_write_back(chunk, f),
        other => kmap::with_window(chunk, other, f),
    }
}

fn bytes(range: AddrRange<KernelVa>) -> &'static mut [u8] {
    let start = arch::pointer::to::<u8>(range.start());
    // SAFETY: a part of a window that is mapped and writable until the closure that uses this returns, on bytes of a
    // buffer that nobody has any business with.
    unsafe { core::slice::from_raw_parts_mut(start, range.len() as usize) }
}

/// What devices see, and saw a moment ago. Taken by interrupt handlers too.
struct Places {
    live: BTreeMap<(usize, Iova), Place>,
    gone: [Option<(usize, Place)>; REMEMBERED],
    next: usize,
}

#[derive(Clone, Copy)]
struct Place {
    range: AddrRange<Iova>,
    tag: Tag,
}

impl Places {
    const fn new() -> Self {
        Self { live: BTreeMap::new(), gone: [None; REMEMBERED], next: 0 }
    }

    fn remove(&mut self, at: (usize, Iova)) {
        if let Some(place) = self.live.remove(&at) {
            self.gone[self.next] = Some((at.0, place));
            self.next = (self.next + 1) % REMEMBERED;
        }
    }

    /// What is gone, the last one first.
    fn gone(&self) -> impl Iterator<Item = &(usize, Place)> {
        let (later, earlier) = self.gone.split_at(self.next);
        later.iter().rev().chain(earlier.iter().rev()).flatten()
    }

    /// The buffer that is next to `at` in `domain`. One that is there comes before one that was, and that before one that was
    /// earlier.
    fn nearest(&self, domain: usize, at: Iova) -> Option<(Tag, Where, bool)> {
        let below = self.live.range(..=(domain, at)).next_back();
        let above = self.live.range((domain, at)..).next();
        let live = [below, above].into_iter().flatten().filter(|((of, _), _)| *of == domain);
        let live = live.map(|(_, place)| (place, false));
        let gone = self.gone().filter(|(of, _)| *of == domain).map(|(_, place)| (place, true));
        let all = live.chain(gone).map(|(place, gone)| {
            (place.tag, Where::of(place.range, place.tag.len.min(place.range.len()), at), gone)
        });
        all.filter(|(_, at, _)| at.distance() <= NEAR).min_by_key(|(_, at, gone)| (at.distance(), *gone))
    }
}

static PLACES: SpinLock<Places> = SpinLock::new(Places::new());

/// A device behind an SMMU: what its events call it, its domain, its name.
struct Known {
    smmu: usize,
    stream: StreamId,
    domain: usize,
    name: Name,
}

static KNOWN: SpinLock<Vec<Known>> = SpinLock::new(Vec::new());
/// The first of each kind since somebody asked.
static OVERRUN: SpinLock<Option<Overrun>> = SpinLock::new(None);
static MISS: SpinLock<Option<Miss>> = SpinLock::new(None);

/// All devices of a domain see the same.
fn key(device: &Device) -> usize {
    core::ptr::from_ref(&**device.domain()).addr()
}

/// From now on faults of this device are explained.
pub fn introduce(device: &Device) {
    if let (Some(smmu), Some(stream)) = (device.smmu(), device.stream()) {
        let (smmu, domain) = (core::ptr::from_ref(smmu).addr(), key(device));
        KNOWN.lock().push(Known { smmu, stream, domain, name: Name::new(device.name()) });
    }
}

/// The device is gone.
pub fn dismiss(smmu: &Smmu, stream: StreamId) {
    let smmu = core::ptr::from_ref(smmu).addr();
    KNOWN.lock().retain(|known| (known.smmu, known.stream) != (smmu, stream));
}

/// Somebody wrote behind the end of a buffer, and still inside of its last page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    tag: Tag,
    /// From the first to the last byte that is different.
    bytes: usize,
    /// Where the first is, from the end on.
    past: usize,
}

/// A fault, and the buffer that is next to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miss {
    device: Name,
    writes: bool,
    tag: Tag,
    at: Where,
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    Inside(u64),
    /// From its end on.
    Past(u64),
    Before(u64),
}

impl Where {
    fn of(range: AddrRange<Iova>, len: u64, at: Iova) -> Self {
        let (start, at) = (range.start().raw(), at.raw());
        match at.checked_sub(start) {
            None => Self::Before(start - at),
            Some(offset) if offset < len => Self::Inside(offset),
            Some(offset) => Self::Past(offset - len),
        }
    }

    /// How far it is, what is inside least.
    fn distance(self) -> u64 {
        match self {
            Self::Inside(_) => 0,
            Self::Past(bytes) => bytes + 1,
            Self::Before(bytes) => bytes,
        }
    }
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, bytes, past } = self;
        write!(f, "guard: somebody wrote {bytes} bytes {past} past {tag}")
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, writes, tag, at, gone } = self;
        let did = if *writes { "wrote" } else { "read" };
        match at {
            Where::Inside(offset) => write!(f, "guard: {device} {did} at {offset} of {tag}")?,
            Where::Past(bytes) => write!(f, "guard: {device} {did} {bytes} past {tag}")?,
            Where::Before(bytes) => write!(f, "guard: {device} {did} {bytes} before {tag}")?,
        }
        f.write_str(if *gone { ", which is gone" } else { "" })
    }
}

/// Explains a fault, if it is near a buffer. For interrupt handlers.
pub fn explain(smmu: &Smmu, event: &EventRecord) {
    let smmu = core::ptr::from_ref(smmu).addr();
    let device = {
        let known = KNOWN.lock();
        known
            .iter()
            .find(|known| (known.smmu, known.stream) == (smmu, event.stream))
            .map(|k| (k.domain, k.name))
    };
    if let (Some((domain, name)), Some(transaction)) = (device, event.transaction)
        && let Some((tag, at, gone)) = PLACES.lock().nearest(domain, Iova::new(transaction.address))
    {
        let writes = transaction.access == AccessKind::Write;
        let miss = Miss { device: name, writes, tag, at, gone };
        kprintln!("{miss}");
        MISS.lock().get_or_insert(miss);
    }
}

/// The first overrun since the last call.
pub fn take_overrun() -> Option<Overrun> {
    OVERRUN.lock().take()
}

/// The first miss since the last call.
pub fn take_miss() -> Option<Miss> {
    MISS.lock().take()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the buffer next to `at`, and whether it is gone, after buffers of a page came and went at `starts`.
    fn nearest(starts: impl Iterator<Item = u64>, at: u64) -> Option<(u32, bool)> {
        let mut places = Places::new();
        for (number, start) in starts.enumerate() {
            let range = AddrRange::new(Iova::new(start), Iova::new(start + PAGE_SIZE));
            let tag = Tag { kind: "buffer", number: number as u32, owner: None, len: PAGE_SIZE };
            places.live.insert((1, range.start()), Place { range, tag });
            places.remove((1, range.start()));
        }
        places.nearest(1, Iova::new(at)).map(|(tag, _, gone)| (tag.number, gone))
    }

    #[test]
    fn of_two_that_were_there_the_last_one_is_named() {
        for count in 1..3 * REMEMBERED as u32 {
            let same = core::iter::repeat_n(0x1000, count as usize);
            assert_eq!(nearest(same, 0x1800), Some((count - 1, true)), "{count}");
        }
    }

    #[test]
    fn one_that_is_nearer_comes_before_one_that_was_later() {
        assert_eq!(nearest([0x1000, 0x8000].into_iter(), 0x1fff), Some((0, true)));
        assert_eq!(nearest([0x1000].into_iter(), 0x100_0000), None);
    }
}
