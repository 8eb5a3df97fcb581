//! The checks of the checking build, called by the kernel's debug hooks: fault injection, frame poison,
//! guards, and the time with interrupts masked.

mod call_path;
pub mod fault_injection;
pub mod guards;
pub mod irqsoff;
pub mod poison;

pub use call_path::{forget_all_paths, forget_newest_path, paths_overflowed};

use addr::{AddrRange, Chunk, Iova, MemoryType};
use core::alloc::Layout;
use core::panic::Location;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::debug::{Checks, DebugTag, DomainKey, FailPoint, LastOwner, StreamKey};
use kernel::percpu;
use smmu_spec::EventRecord;

/// The length in nanoseconds to which a test extends the time slices that start; 0 without one.
pub static LEAST_TIME_SLICE: AtomicU64 = AtomicU64::new(0);

/// All checks. The image registers them with `kernel::debug::install`.
pub struct AllChecks;

impl Checks for AllChecks {
    fn fail_point(&self, point: FailPoint) -> bool {
        fault_injection::fails(point)
    }

    fn is_armed(&self, point: FailPoint) -> bool {
        fault_injection::is_armed(point)
    }

    fn scaled(&self, count: u64) -> u64 {
        // Repetitions are alike, and each injected failure needs a run of its own.
        if fault_injection::is_busy() { count.div_ceil(10) } else { count }
    }

    fn time_slice(&self, ns: u64) -> u64 {
        ns.max(LEAST_TIME_SLICE.load(Ordering::Relaxed))
    }

    fn heap_used(&self, layout: Layout) {
        assert!(!percpu::in_interrupt(), "an interrupt handler allocates or frees {layout:?}");
    }

    fn frame_allocated(&self, chunk: Chunk) {
        poison::check(chunk);
    }

    fn frame_freed(&self, chunk: Chunk, owner: LastOwner) {
        poison::fill(chunk, owner);
    }

    unsafe fn write_canary(
        &self,
        tag: &DebugTag,
        chunks: &mut dyn Iterator<Item = Chunk>,
        memory: MemoryType,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { guards::write_canary(tag, chunks, memory) };
    }

    unsafe fn check_canary(
        &self,
        tag: &DebugTag,
        chunks: &mut dyn Iterator<Item = Chunk>,
        memory: MemoryType,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { guards::check_canary(tag, chunks, memory) };
    }

    fn mapping_added(&self, tag: &DebugTag, domain: DomainKey, range: AddrRange<Iova>) {
        guards::mapping_added(tag, domain, range);
    }

    fn buffer_named(&self, tag: &DebugTag, name: &[u8]) {
        guards::buffer_named(tag, name);
    }

    fn mapping_removed(&self, domain: DomainKey, range: AddrRange<Iova>) {
        guards::mapping_removed(domain, range);
    }

    fn device_attached(&self, key: StreamKey, domain: DomainKey, name: &str) {
        guards::device_attached(key, domain, name);
    }

    fn device_removed(&self, key: StreamKey) {
        guards::device_removed(key);
    }

    fn translation_fault(&self, key: StreamKey, event: &EventRecord) {
        guards::explain_fault(key, event);
    }

    fn interrupts_were_masked(&self, site: &'static Location<'static>, ticks: u64) {
        irqsoff::add(site, ticks);
    }

    fn on_panic(&self) {
        fault_injection::report_on_panic();
    }
}
