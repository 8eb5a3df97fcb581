//! The injector: of all events of one class, counted from a moment on, one fails: the n-th, or the first one to which a
//! new way leads.

use super::{Class, ways};
use crate::dma::iommu;
use crate::kprintln;
use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use drivers::smmu::InjectedError;

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
        self.injected_error().is_some()
    }

    /// What the SMMU's driver is to report; `None` if the kernel itself fails.
    fn injected_error(self) -> Option<InjectedError> {
        match self {
            Self::Syncs => Some(InjectedError::TimedOut),
            Self::Commands => Some(InjectedError::Illegal),
            _ => None,
        }
    }
}

/// No class is armed.
const NONE: u8 = u8::MAX;

static ARMED: AtomicU8 = AtomicU8::new(NONE);
/// The number of the event that is to fail.
static NTH: AtomicU64 = AtomicU64::new(0);
/// Events since [`arm`].
static SEEN: AtomicU64 = AtomicU64::new(0);
static FIRED: AtomicBool = AtomicBool::new(false);

/// Which event is to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The one with this number (1: the next one).
    Nth(u64),
    /// The first one to which a way leads on which none has failed yet.
    NewWay,
    /// None: they are only counted.
    None,
}

/// What happened since [`arm`].
#[derive(Clone, Copy, Debug)]
pub struct Happened {
    /// Events of the class.
    pub seen: u64,
    /// Whether one failed.
    pub failed: bool,
}

/// From now on `which` event of `class` fails, once.
pub fn arm(class: Class, which: Which) {
    let nth = match which {
        Which::Nth(nth) => nth,
        Which::NewWay => NEW_WAY,
        Which::None => NEVER,
    };
    NTH.store(nth, Relaxed);
    SEEN.store(0, Relaxed);
    FIRED.store(false, Relaxed);
    ARMED.store(class as u8, Release);
    if class.injected_error().is_some() {
        iommu::all().iter().for_each(|smmu| smmu.inject_errors(Some(injected_error)));
    }
}

/// Numbers that no event has.
const NEW_WAY: u64 = 0;
const NEVER: u64 = u64::MAX;

/// Nothing fails any more. What happened since [`arm`].
pub fn disarm() -> Happened {
    iommu::all().iter().for_each(|smmu| smmu.inject_errors(None));
    ARMED.store(NONE, Relaxed);
    Happened { seen: SEEN.load(Relaxed), failed: FIRED.load(Relaxed) }
}

/// Whether any class is armed.
pub fn is_busy() -> bool {
    ARMED.load(Relaxed) != NONE
}

/// Whether `class` is armed, and has not failed yet.
pub(super) fn is_armed(class: Class) -> bool {
    ARMED.load(Acquire) == class as u8 && !FIRED.load(Relaxed)
}

/// Whether this event of `class` is the one that fails.
// A way starts behind the return address of this one.
#[inline(never)]
pub(super) fn fails(class: Class) -> bool {
    if ARMED.load(Acquire) != class as u8 {
        return false;
    }
    let number = SEEN.fetch_add(1, Relaxed) + 1;
    let nth = NTH.load(Relaxed);
    if FIRED.load(Relaxed) || (nth != NEW_WAY && nth != number) {
        return false;
    }
    let way = ways::here(class);
    let chosen = nth == number || ways::is_new(way);
    // Of two at the same time one fails.
    let fails = chosen && !FIRED.swap(true, Relaxed);
    if fails {
        ways::note(way);
    }
    fails
}

/// What an SMMU's driver is to report of a batch of commands.
fn injected_error() -> Option<InjectedError> {
    let armed = ARMED.load(Relaxed);
    let class = Class::ALL.into_iter().find(|class| *class as u8 == armed)?;
    class.injected_error().filter(|_| fails(class))
}

/// Says what was about to fail, or had, when the kernel gave up.
pub fn last_words() {
    let armed = ARMED.load(Relaxed);
    if let Some(class) = Class::ALL.into_iter().find(|class| *class as u8 == armed) {
        let (nth, seen, name) = (NTH.load(Relaxed), SEEN.load(Relaxed), class.name());
        let failed = if FIRED.load(Relaxed) { "failed" } else { "to fail" };
        match nth {
            NEW_WAY => kprintln!("injected: {name}, a new way, {failed}; {seen} seen"),
            NEVER => {}
            _ => kprintln!("injected: {name} {nth}, {failed}; {seen} seen"),
        }
    }
}
