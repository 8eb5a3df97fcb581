//! The injector: of all events of one class, counted from a moment on, the n-th fails.

use super::Class;
use crate::dma::iommu;
use crate::kprintln;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use drivers::smmu::Mishap;

impl Class {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Frames,
        Self::Tables,
        Self::Maps,
        Self::Iova,
        Self::Vmalloc,
        Self::Heap,
        Self::Syncs,
        Self::Commands,
        Self::Interrupts,
    ];

    /// What a boot argument and a report call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Tables => "tables",
            Self::Maps => "maps",
            Self::Iova => "iova",
            Self::Vmalloc => "vmalloc",
            Self::Heap => "heap",
            Self::Syncs => "syncs",
            Self::Commands => "commands",
            Self::Interrupts => "interrupts",
        }
    }

    /// Whether memory may be lost for good: what an IOMMU may still reach is never used again.
    pub fn loses_memory(self) -> bool {
        self.mishap().is_some()
    }

    /// What the SMMU's driver is to report; `None` if the kernel itself fails.
    fn mishap(self) -> Option<Mishap> {
        match self {
            Self::Syncs => Some(Mishap::TimedOut),
            Self::Commands => Some(Mishap::Refused),
            _ => None,
        }
    }
}

/// No class is armed.
const NONE: u8 = u8::MAX;

static ARMED: AtomicU8 = AtomicU8::new(NONE);
/// Events until the one that fails.
static LEFT: AtomicU64 = AtomicU64::new(0);
/// The number of the last one that was to fail, for last words.
static NTH: AtomicU64 = AtomicU64::new(0);

/// From now on the `nth` event of `class` fails (1: the next one), once.
pub fn arm(class: Class, nth: u64) {
    NTH.store(nth, Relaxed);
    LEFT.store(nth, Relaxed);
    ARMED.store(class as u8, Relaxed);
    if let Some(mishap) = class.mishap() {
        iommu::all().iter().for_each(|smmu| smmu.arm(mishap, nth));
    }
}

/// Nothing fails any more. Whether something did since [`arm`].
pub fn disarm() -> bool {
    let class = ARMED.swap(NONE, Relaxed);
    let by_driver = iommu::all().iter().filter(|smmu| smmu.disarm()).count() > 0;
    by_driver || (class != NONE && LEFT.load(Relaxed) == 0)
}

/// Whether `class` is armed, and has not failed yet.
pub(super) fn is_armed(class: Class) -> bool {
    ARMED.load(Relaxed) == class as u8 && LEFT.load(Relaxed) > 0
}

/// Whether this event of `class` is the one that fails.
pub(super) fn fails(class: Class) -> bool {
    let counted = |left: u64| left.checked_sub(1);
    ARMED.load(Relaxed) == class as u8 && LEFT.fetch_update(Relaxed, Relaxed, counted) == Ok(1)
}

/// Says what was about to fail, or had, when the kernel gave up.
pub fn last_words() {
    let armed = ARMED.load(Relaxed);
    if let Some(class) = Class::ALL.into_iter().find(|class| *class as u8 == armed) {
        let nth = NTH.load(Relaxed);
        kprintln!("injected: {} {nth}, {} to go", class.name(), LEFT.load(Relaxed));
    }
}
