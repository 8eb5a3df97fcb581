//! Guards of DMA buffers: canaries between the end of a buffer and the end of its last page, and reports that
//! name the buffer next to a translation fault. The kernel itself leaves an unmapped guard page after each
//! range of device addresses (`kernel::debug::GUARD_BYTES`).

use addr::{AddrRange, Chunk, Iova, KernelVa, MemoryType, PAGE_SIZE};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use kernel::debug::{DebugName, DebugTag, DomainKey, StreamKey};
use kernel::kprintln;
use kernel::memory::window;
use kernel::sync::SpinLock;
use smmu_spec::{AccessKind, EventRecord};

/// The content of the bytes past the end of a buffer.
const CANARY: u8 = 0xc9;
/// The number of removed mappings that are kept.
const KEPT: usize = 32;
/// The largest distance in bytes at which a fault is attributed to a buffer.
const NEAR: u64 = 64 << 10;

/// Writes the canary.
///
/// # Safety
/// As for [`Checks::write_canary`](kernel::debug::Checks::write_canary).
pub(super) unsafe fn write_canary(
    tag: &DebugTag,
    chunks: &mut dyn Iterator<Item = Chunk>,
    memory: MemoryType,
) {
    // SAFETY: passed on to the caller.
    unsafe { with_tail(tag, chunks, memory, |tail| tail.fill(CANARY)) };
}

/// Checks the canary, and reports a changed one.
///
/// # Safety
/// As for [`write_canary`].
pub(super) unsafe fn check_canary(
    tag: &DebugTag,
    chunks: &mut dyn Iterator<Item = Chunk>,
    memory: MemoryType,
) {
    let mut changed = None;
    let find = |tail: &mut [u8]| {
        let first = tail.iter().position(|&byte| byte != CANARY);
        changed = first.zip(tail.iter().rposition(|&byte| byte != CANARY));
    };
    // SAFETY: passed on to the caller.
    unsafe { with_tail(tag, chunks, memory, find) };
    if let Some((first, last)) = changed {
        let overrun = Overrun { tag: *tag, bytes: last + 1 - first, past: first };
        kprintln!("{overrun}");
        OVERRUN.lock().get_or_insert(overrun);
    }
}

/// Returns whether only the kernel and devices access the memory: a program may write up to the end of a
/// page.
fn is_kernel_only(tag: &DebugTag) -> bool {
    matches!(tag.kind, "buffer" | "pages")
}

/// Calls `f` with the bytes of the last page past the end.
///
/// # Safety
/// As for [`write_canary`].
unsafe fn with_tail(
    tag: &DebugTag,
    chunks: &mut dyn Iterator<Item = Chunk>,
    memory: MemoryType,
    mut f: impl FnMut(&mut [u8]),
) {
    let mut at = 0;
    for chunk in chunks {
        let end = at + chunk.bytes();
        if is_kernel_only(tag) && (at + 1..end).contains(&tag.len) && end - tag.len < PAGE_SIZE {
            let from = tag.len - at;
            let mut shown = 0;
            let visit = |window: AddrRange<KernelVa>| {
                let start = from.clamp(shown, shown + window.len()) - shown;
                shown += window.len();
                // SAFETY: the window is mapped and writable until this closure returns, and the buffer has no
                // user.
                f(unsafe { bytes(AddrRange::new(window.start() + start, window.end())) });
            };
            // SAFETY: passed on to the caller.
            unsafe { with_windows(chunk, memory, visit) };
        }
        at = end;
    }
}

/// # Safety
/// As for [`write_canary`].
unsafe fn with_windows(chunk: Chunk, memory: MemoryType, f: impl FnMut(AddrRange<KernelVa>)) {
    // SAFETY: the chunk is part of a buffer that has no user, and `memory` is the buffer's memory type.
    unsafe {
        match memory {
            MemoryType::WriteBack => window::with_write_back(chunk, f),
            other => window::with_chunk(chunk, other, f),
        }
    }
}

/// # Safety
/// `range` is mapped and writable for `'a`, and there is no other reference to it.
unsafe fn bytes<'a>(range: AddrRange<KernelVa>) -> &'a mut [u8] {
    let start = arch::pointer::to::<u8>(range.start());
    // SAFETY: the caller's contract; any bytes are valid.
    unsafe { core::slice::from_raw_parts_mut(start, range.len() as usize) }
}

/// The mappings of devices, and the last removed ones. Interrupt handlers lock them too.
struct TaggedMappings {
    live: BTreeMap<(DomainKey, Iova), TaggedRange>,
    /// A ring of removed mappings.
    removed: [Option<(DomainKey, TaggedRange)>; KEPT],
    next: usize,
}

#[derive(Clone, Copy)]
struct TaggedRange {
    range: AddrRange<Iova>,
    tag: DebugTag,
}

impl TaggedMappings {
    const fn new() -> Self {
        Self { live: BTreeMap::new(), removed: [None; KEPT], next: 0 }
    }

    fn remove(&mut self, key: (DomainKey, Iova)) {
        if let Some(mapping) = self.live.remove(&key) {
            self.removed[self.next] = Some((key.0, mapping));
            self.next = (self.next + 1) % KEPT;
        }
    }

    /// Sets the name in the live mappings of a buffer.
    fn rename(&mut self, number: u32, label: Option<DebugName>) {
        let of_buffer = self.live.values_mut().filter(|mapping| mapping.tag.number == number);
        of_buffer.for_each(|mapping| mapping.tag.label = label);
    }

    /// The removed mappings, the last one first.
    fn removed(&self) -> impl Iterator<Item = &(DomainKey, TaggedRange)> {
        let (newer, older) = self.removed.split_at(self.next);
        newer.iter().rev().chain(older.iter().rev()).flatten()
    }

    /// Returns the mapping nearest to `at` in `domain`, and whether it is removed. At equal distance a live
    /// mapping precedes a removed one, and a later removed one an earlier one.
    fn nearest(&self, domain: DomainKey, at: Iova) -> Option<(DebugTag, Position, bool)> {
        let below = self.live.range(..=(domain, at)).next_back();
        let above = self.live.range((domain, at)..).next();
        let live = [below, above].into_iter().flatten().filter(|((of, _), _)| *of == domain);
        let live = live.map(|(_, mapping)| (mapping, false));
        let removed = self.removed().filter(|(of, _)| *of == domain).map(|(_, mapping)| (mapping, true));
        let all = live.chain(removed).map(|(mapping, removed)| {
            let len = mapping.tag.len.min(mapping.range.len());
            (mapping.tag, Position::of(mapping.range, len, at), removed)
        });
        all.filter(|(_, at, _)| at.distance() <= NEAR)
            .min_by_key(|(_, at, removed)| (at.distance(), *removed))
    }
}

static MAPPINGS: SpinLock<TaggedMappings> = SpinLock::new(TaggedMappings::new());

/// A device behind an SMMU.
struct AttachedDevice {
    key: StreamKey,
    domain: DomainKey,
    name: DebugName,
}

static DEVICES: SpinLock<Vec<AttachedDevice>> = SpinLock::new(Vec::new());
/// The first finding of each kind since the last call of its `take` function.
static OVERRUN: SpinLock<Option<Overrun>> = SpinLock::new(None);
static NEAR_MISS: SpinLock<Option<NearMiss>> = SpinLock::new(None);

/// Records a mapping.
pub(super) fn mapping_added(tag: &DebugTag, domain: DomainKey, range: AddrRange<Iova>) {
    MAPPINGS.lock().live.insert((domain, range.start()), TaggedRange { range, tag: *tag });
}

/// Sets the name of a buffer in reports of its faults.
pub(super) fn buffer_named(tag: &DebugTag, name: &[u8]) {
    let label = (!name.is_empty()).then(|| DebugName::new(name));
    MAPPINGS.lock().rename(tag.number, label);
}

/// Moves a mapping to the removed ones.
pub(super) fn mapping_removed(domain: DomainKey, range: AddrRange<Iova>) {
    MAPPINGS.lock().remove((domain, range.start()));
}

/// Starts explaining the faults of a device.
pub(super) fn device_attached(key: StreamKey, domain: DomainKey, name: &str) {
    DEVICES.lock().push(AttachedDevice { key, domain, name: DebugName::new(name.as_bytes()) });
}

/// Stops explaining the faults of a device.
pub(super) fn device_removed(key: StreamKey) {
    DEVICES.lock().retain(|device| device.key != key);
}

/// A write past the end of a buffer, inside of its last page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    tag: DebugTag,
    /// Bytes from the first to the last changed one.
    bytes: usize,
    /// The distance of the first from the end.
    past: usize,
}

/// A translation fault, and the buffer next to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NearMiss {
    device: DebugName,
    writes: bool,
    tag: DebugTag,
    at: Position,
    removed: bool,
}

/// An address relative to a buffer, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Position {
    Inside(u64),
    /// Counted from the end.
    Past(u64),
    Before(u64),
}

impl Position {
    fn of(range: AddrRange<Iova>, len: u64, at: Iova) -> Self {
        let (start, at) = (range.start().raw(), at.raw());
        match at.checked_sub(start) {
            None => Self::Before(start - at),
            Some(offset) if offset < len => Self::Inside(offset),
            Some(offset) => Self::Past(offset - len),
        }
    }

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
        write!(f, "guard: canary overwritten: {bytes} bytes, {past} past the end of {tag}")
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, writes, tag, at, removed } = self;
        let access = if *writes { "write" } else { "read" };
        match at {
            Position::Inside(offset) => write!(f, "guard: {device}: {access} at offset {offset} of {tag}")?,
            Position::Past(bytes) => write!(f, "guard: {device}: {access} {bytes} past the end of {tag}")?,
            Position::Before(bytes) => write!(f, "guard: {device}: {access} {bytes} before {tag}")?,
        }
        f.write_str(if *removed { " (unmapped)" } else { "" })
    }
}

/// Prints the buffer next to a fault, if there is one. In interrupt context.
pub(super) fn explain_fault(key: StreamKey, event: &EventRecord) {
    let device = {
        let devices = DEVICES.lock();
        devices.iter().find(|device| device.key == key).map(|device| (device.domain, device.name))
    };
    if let (Some((domain, name)), Some(input)) = (device, event.transaction)
        && let Some((tag, at, removed)) = MAPPINGS.lock().nearest(domain, Iova::new(input.address))
    {
        let writes = input.access == AccessKind::Write;
        let miss = NearMiss { device: name, writes, tag, at, removed };
        kprintln!("{miss}");
        NEAR_MISS.lock().get_or_insert(miss);
    }
}

/// Returns the first overrun since the last call.
pub fn take_overrun() -> Option<Overrun> {
    OVERRUN.lock().take()
}

/// Returns the first explained fault since the last call.
pub fn take_near_miss() -> Option<NearMiss> {
    NEAR_MISS.lock().take()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u32) -> DebugTag {
        DebugTag { kind: "buffer", number, owner: None, label: None, len: PAGE_SIZE }
    }

    /// Returns the number of the buffer nearest to `at`, and whether it is removed, after buffers of a page
    /// were mapped and unmapped at `starts`.
    fn nearest(starts: impl Iterator<Item = u64>, at: u64) -> Option<(u32, bool)> {
        let (mut mappings, domain) = (TaggedMappings::new(), DomainKey(1));
        for (number, start) in starts.enumerate() {
            let range = AddrRange::new(Iova::new(start), Iova::new(start + PAGE_SIZE));
            let tag = tag(number as u32);
            mappings.live.insert((domain, range.start()), TaggedRange { range, tag });
            mappings.remove((domain, range.start()));
        }
        mappings.nearest(domain, Iova::new(at)).map(|(tag, _, removed)| (tag.number, removed))
    }

    #[test]
    fn fault_is_attributed_to_the_last_removed_of_equal_mappings() {
        for count in 1..3 * KEPT as u32 {
            let same = core::iter::repeat_n(0x1000, count as usize);
            assert_eq!(nearest(same, 0x1800), Some((count - 1, true)), "{count}");
        }
    }

    #[test]
    fn name_of_a_buffer_is_in_the_report_of_its_fault() {
        let (mut mappings, domain) = (TaggedMappings::new(), DomainKey(1));
        for (number, start) in [(1, 0x1000), (2, 0x8000)] {
            let range = AddrRange::new(Iova::new(start), Iova::new(start + PAGE_SIZE));
            mappings.live.insert((domain, range.start()), TaggedRange { range, tag: tag(number) });
        }
        mappings.rename(2, Some(DebugName::new(b"a\n\"b")));
        let nearest = |mappings: &TaggedMappings, at| {
            mappings.nearest(domain, Iova::new(at)).map(|(tag, ..)| alloc::format!("{tag}"))
        };
        assert_eq!(nearest(&mappings, 0x2000).as_deref(), Some("buffer-1"));
        assert_eq!(nearest(&mappings, 0x9000).as_deref(), Some(r#"buffer-2 "a\n\"b""#));
        mappings.rename(2, None);
        assert_eq!(nearest(&mappings, 0x9000).as_deref(), Some("buffer-2"));
    }

    #[test]
    fn nearer_mapping_precedes_a_later_one() {
        assert_eq!(nearest([0x1000, 0x8000].into_iter(), 0x1fff), Some((0, true)));
        assert_eq!(nearest([0x1000].into_iter(), 0x100_0000), None);
    }
}
