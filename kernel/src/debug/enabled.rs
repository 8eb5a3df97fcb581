//! The hooks of the checking build: each calls the checks that [`install`] registered.

use super::{DomainKey, FailPoint, LastOwner, StreamKey};
use addr::{AddrRange, Chunk, Iova, MemoryType};
use core::alloc::Layout;
use core::fmt;
use core::panic::Location;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use smmu_spec::EventRecord;
use spin::Once;

/// The checks behind the hooks. Methods are called in thread context unless they state otherwise.
pub trait Checks: Sync {
    /// Returns whether this operation must fail. In any context, also with locks held.
    fn fail_point(&self, point: FailPoint) -> bool;
    /// Returns whether a failure at `point` is pending, so that a fast path without a fail point must not be
    /// taken.
    fn is_armed(&self, point: FailPoint) -> bool;
    /// Returns a limit or a number of repetitions: `count`, reduced while fault injection runs.
    fn scaled(&self, count: u64) -> u64;
    /// Returns the length of a time slice, which is `ns` unless a test needs threads that are not preempted.
    /// Called with the scheduler's lock held.
    fn time_slice(&self, ns: u64) -> u64;
    /// Called before an allocation or a free of `layout` on the heap. In any context.
    fn heap_used(&self, layout: Layout);
    /// Called after `chunk` was allocated. No lock is held.
    fn frame_allocated(&self, chunk: Chunk);
    /// Called before `owner` frees `chunk`. No lock is held.
    fn frame_freed(&self, chunk: Chunk, owner: LastOwner);
    /// Writes the canary: the bytes from the end of the tagged memory to the end of its last page.
    ///
    /// # Safety
    /// The caller owns `chunks`, whose memory type is `memory`, and nothing else uses them.
    unsafe fn write_canary(
        &self,
        tag: &DebugTag,
        chunks: &mut dyn Iterator<Item = Chunk>,
        memory: MemoryType,
    );
    /// Verifies the canary and reports a change.
    ///
    /// # Safety
    /// As for [`Checks::write_canary`].
    unsafe fn check_canary(
        &self,
        tag: &DebugTag,
        chunks: &mut dyn Iterator<Item = Chunk>,
        memory: MemoryType,
    );
    /// Records that the tagged memory is mapped at `range` of `domain`.
    fn mapping_added(&self, tag: &DebugTag, domain: DomainKey, range: AddrRange<Iova>);
    /// Replaces the name in the mappings of a buffer; an empty one removes it.
    fn buffer_named(&self, tag: &DebugTag, name: &[u8]);
    /// Called before the mapping at the start of `range` is removed.
    fn mapping_removed(&self, domain: DomainKey, range: AddrRange<Iova>);
    /// Records that a device is attached to `domain`.
    fn device_attached(&self, key: StreamKey, domain: DomainKey, name: &str);
    /// Called when the device was removed.
    fn device_removed(&self, key: StreamKey);
    /// Called for each translation fault that the SMMU recorded. In interrupt context.
    fn translation_fault(&self, key: StreamKey, event: &EventRecord);
    /// Called after interrupts were masked for `ticks` of the counter since `site`, before they are unmasked.
    /// In any context, with no lock held but in the middle of a context switch.
    fn interrupts_were_masked(&self, site: &'static Location<'static>, ticks: u64);
    /// Prints the state of fault injection. Called by a panic.
    fn on_panic(&self);
}

static CHECKS: Once<&'static dyn Checks> = Once::new();

/// Registers the checks. Called once, before boot.
pub fn install(checks: &'static dyn Checks) {
    CHECKS.call_once(|| checks);
    arch::irqsoff::set_hook(interrupts_were_masked);
}

fn checks() -> Option<&'static dyn Checks> {
    CHECKS.get().copied()
}

/// The maximum length of a name.
const NAME_BYTES: usize = 31;

/// A short name, stored inline and truncated if necessary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugName {
    bytes: [u8; NAME_BYTES],
    len: u8,
}

impl DebugName {
    pub fn new(text: &[u8]) -> Self {
        let mut name = Self { bytes: [0; NAME_BYTES], len: text.len().min(NAME_BYTES) as u8 };
        let len = usize::from(name.len);
        name.bytes[..len].copy_from_slice(&text[..len]);
        name
    }
}

/// Escaped: a program chooses the name of a dma-buf.
impl fmt::Display for DebugName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes[..usize::from(self.len)].escape_ascii().fmt(f)
    }
}

/// The name and length of a buffer in reports: `buffer-3 of 00:01.0`, `dma-buf-4 "camera"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugTag {
    pub kind: &'static str,
    pub number: u32,
    pub owner: Option<DebugName>,
    /// The name of a dma-buf.
    pub label: Option<DebugName>,
    /// The requested length in bytes.
    pub len: u64,
}

impl DebugTag {
    /// A tag with the next number.
    pub fn new(kind: &'static str, len: u64, owner: Option<&str>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let owner = owner.map(|name| DebugName::new(name.as_bytes()));
        Self { kind, number: NEXT.fetch_add(1, Relaxed), owner, label: None, len }
    }

    /// # Safety
    /// As for [`Checks::write_canary`].
    pub unsafe fn write_canary(&self, mut chunks: impl Iterator<Item = Chunk>, memory: MemoryType) {
        if let Some(checks) = checks() {
            // SAFETY: passed on to the caller.
            unsafe { checks.write_canary(self, &mut chunks, memory) };
        }
    }

    /// # Safety
    /// As for [`Checks::write_canary`].
    pub unsafe fn check_canary(&self, mut chunks: impl Iterator<Item = Chunk>, memory: MemoryType) {
        if let Some(checks) = checks() {
            // SAFETY: passed on to the caller.
            unsafe { checks.check_canary(self, &mut chunks, memory) };
        }
    }
}

impl fmt::Display for DebugTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.number)?;
        self.owner.map_or(Ok(()), |owner| write!(f, " of {owner}"))?;
        self.label.map_or(Ok(()), |label| write!(f, " \"{label}\""))
    }
}

/// A value that only the checking build stores.
#[derive(Clone, Copy, Default, Debug)]
pub struct DebugOnly(LastOwner);

impl DebugOnly {
    pub fn new(owner: LastOwner) -> Self {
        Self(owner)
    }

    pub fn get(&self) -> LastOwner {
        self.0
    }
}

/// Returns whether this operation must fail.
pub fn fail_point(point: FailPoint) -> bool {
    checks().is_some_and(|checks| checks.fail_point(point))
}

/// Returns whether a failure at `point` is pending. If so, a fast path without a fail point must not be
/// taken.
pub fn is_armed(point: FailPoint) -> bool {
    checks().is_some_and(|checks| checks.is_armed(point))
}

/// Returns a limit or a number of repetitions: `count`, or a tenth of it while fault injection runs.
pub fn scaled(count: u64) -> u64 {
    checks().map_or(count, |checks| checks.scaled(count))
}

/// See [`Checks::time_slice`].
pub fn time_slice(ns: u64) -> u64 {
    checks().map_or(ns, |checks| checks.time_slice(ns))
}

/// See [`Checks::heap_used`].
pub fn heap_used(layout: Layout) {
    if let Some(checks) = checks() {
        checks.heap_used(layout);
    }
}

/// See [`Checks::frame_allocated`].
pub fn frame_allocated(chunk: Chunk) {
    if let Some(checks) = checks() {
        checks.frame_allocated(chunk);
    }
}

/// See [`Checks::frame_freed`].
pub fn frame_freed(chunk: Chunk, owner: LastOwner) {
    if let Some(checks) = checks() {
        checks.frame_freed(chunk, owner);
    }
}

/// See [`Checks::buffer_named`].
pub fn buffer_named(tag: &DebugTag, name: &[u8]) {
    if let Some(checks) = checks() {
        checks.buffer_named(tag, name);
    }
}

/// See [`Checks::mapping_added`].
pub fn mapping_added(tag: &DebugTag, domain: DomainKey, range: AddrRange<Iova>) {
    if let Some(checks) = checks() {
        checks.mapping_added(tag, domain, range);
    }
}

/// See [`Checks::mapping_removed`].
pub fn mapping_removed(domain: DomainKey, range: AddrRange<Iova>) {
    if let Some(checks) = checks() {
        checks.mapping_removed(domain, range);
    }
}

/// See [`Checks::device_attached`].
pub fn device_attached(key: StreamKey, domain: DomainKey, name: &str) {
    if let Some(checks) = checks() {
        checks.device_attached(key, domain, name);
    }
}

/// See [`Checks::device_removed`].
pub fn device_removed(key: StreamKey) {
    if let Some(checks) = checks() {
        checks.device_removed(key);
    }
}

/// See [`Checks::translation_fault`].
pub fn translation_fault(key: StreamKey, event: &EventRecord) {
    if let Some(checks) = checks() {
        checks.translation_fault(key, event);
    }
}

/// See [`Checks::interrupts_were_masked`].
fn interrupts_were_masked(site: &'static Location<'static>, ticks: u64) {
    if let Some(checks) = checks() {
        checks.interrupts_were_masked(site, ticks);
    }
}

/// See [`Checks::on_panic`].
pub fn on_panic() {
    if let Some(checks) = checks() {
        checks.on_panic();
    }
}
