//! Fault injection: of all operations at one fail point since it was armed, one fails: the n-th, or the first
//! one on a new call path.

use super::call_path;
use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use drivers::iommu::Shared;
use drivers::smmu::{InjectedError, Injector};
use kernel::debug::FailPoint;
use kernel::iommu;
use kernel::kprintln;

/// All fail points.
pub const FAIL_POINTS: [FailPoint; 9] = [
    FailPoint::Frames,
    FailPoint::Tables,
    FailPoint::Maps,
    FailPoint::Iova,
    FailPoint::Vmalloc,
    FailPoint::Heap,
    FailPoint::Syncs,
    FailPoint::Commands,
    FailPoint::Interrupts,
];

/// Returns the name in boot arguments and reports.
pub fn name(point: FailPoint) -> &'static str {
    match point {
        FailPoint::Frames => "frames",
        FailPoint::Tables => "tables",
        FailPoint::Maps => "maps",
        FailPoint::Iova => "iova",
        FailPoint::Vmalloc => "vmalloc",
        FailPoint::Heap => "heap",
        FailPoint::Syncs => "syncs",
        FailPoint::Commands => "commands",
        FailPoint::Interrupts => "interrupts",
    }
}

/// Returns whether a failure may leak memory: frames that an IOMMU may still access are never reused.
pub fn leaks_memory(point: FailPoint) -> bool {
    driver_error(point).is_some()
}

/// Returns the error that the SMMU driver is to report; `None` for a fail point in the kernel itself.
fn driver_error(point: FailPoint) -> Option<InjectedError> {
    match point {
        FailPoint::Syncs => Some(InjectedError::TimedOut),
        FailPoint::Commands => Some(InjectedError::Illegal),
        _ => None,
    }
}

/// No fail point is armed.
const NONE: u8 = u8::MAX;

static ARMED: AtomicU8 = AtomicU8::new(NONE);
/// The number of the operation that fails, or one of the two below.
static NTH: AtomicU64 = AtomicU64::new(0);
/// Operations since [`arm`].
static SEEN: AtomicU64 = AtomicU64::new(0);
static FIRED: AtomicBool = AtomicBool::new(false);

/// Numbers that no operation has.
const NEW_PATH: u64 = 0;
const NEVER: u64 = u64::MAX;

/// The operation that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    /// The operation with this number; 1 is the next one.
    Nth(u64),
    /// The first one on a call path on which none has failed yet.
    NewPath,
    /// None: operations are only counted.
    None,
}

/// The result of an injection.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// Operations at the fail point.
    pub seen: u64,
    /// Whether one failed.
    pub failed: bool,
}

/// Arms `point`: the selected operation fails, once.
pub fn arm(point: FailPoint, selection: Selection) {
    let nth = match selection {
        Selection::Nth(nth) => nth,
        Selection::NewPath => NEW_PATH,
        Selection::None => NEVER,
    };
    NTH.store(nth, Relaxed);
    SEEN.store(0, Relaxed);
    FIRED.store(false, Relaxed);
    ARMED.store(point as u8, Release);
    if driver_error(point).is_some() {
        set_injector(Some(inject_driver_error));
    }
}

/// Disarms the fail point, and returns the result since [`arm`].
pub fn disarm() -> Injection {
    set_injector(None);
    ARMED.store(NONE, Relaxed);
    Injection { seen: SEEN.load(Relaxed), failed: FIRED.load(Relaxed) }
}

fn set_injector(injector: Option<Injector>) {
    for smmu in iommu::all() {
        smmu.command_queue().with(|queue| queue.inject_errors(injector));
    }
}

/// Returns whether any fail point is armed.
pub fn is_busy() -> bool {
    ARMED.load(Relaxed) != NONE
}

/// Returns whether `point` is armed and no operation has failed yet.
pub(super) fn is_armed(point: FailPoint) -> bool {
    ARMED.load(Acquire) == point as u8 && !FIRED.load(Relaxed)
}

/// Returns whether this operation fails.
// Not inlined: a call path starts behind the return address of this function.
#[inline(never)]
pub(super) fn fails(point: FailPoint) -> bool {
    if ARMED.load(Acquire) != point as u8 {
        return false;
    }
    let number = SEEN.fetch_add(1, Relaxed) + 1;
    let nth = NTH.load(Relaxed);
    if FIRED.load(Relaxed) || (nth != NEW_PATH && nth != number) {
        return false;
    }
    let path = call_path::here(point);
    let selected = nth == number || call_path::is_new(path);
    // Of two concurrent operations one fails.
    let fails = selected && !FIRED.swap(true, Relaxed);
    if fails {
        call_path::record(path);
    }
    fails
}

fn armed_point() -> Option<FailPoint> {
    let armed = ARMED.load(Relaxed);
    FAIL_POINTS.into_iter().find(|point| *point as u8 == armed)
}

/// Returns the error that the SMMU driver reports for this batch of commands.
fn inject_driver_error() -> Option<InjectedError> {
    let point = armed_point()?;
    driver_error(point).filter(|_| fails(point))
}

/// Prints the armed fail point, for a panic report.
pub(super) fn report_on_panic() {
    if let Some(point) = armed_point() {
        let (nth, seen, name) = (NTH.load(Relaxed), SEEN.load(Relaxed), name(point));
        let state = if FIRED.load(Relaxed) { "failed" } else { "pending" };
        match nth {
            NEW_PATH => kprintln!("fault injection: {name}, new call path, {state}; {seen} seen"),
            NEVER => {}
            _ => kprintln!("fault injection: {name} {nth}, {state}; {seen} seen"),
        }
    }
}
