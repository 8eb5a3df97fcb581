//! Failures on demand: each step of an allocation can be made to fail, so that tests see what is left behind.
//!
//! Always compiled: an idle step costs one load of a static.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A step that can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Taking a chunk.
    Chunk,
    /// Taking a range of device addresses.
    Iova,
    /// Taking a frame for a device's page table.
    Table,
    /// Making the kernel's mapping.
    View,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chunk, Self::Iova, Self::Table, Self::View];
}

/// How often each step is still tried until it fails; 0: it does not.
static LEFT: [AtomicU32; Step::ALL.len()] = [const { AtomicU32::new(0) }; Step::ALL.len()];

/// Lets the `nth` next try of `step` fail (1: the next one), once. 0 takes that back.
pub fn arm(step: Step, nth: u32) {
    LEFT[step as usize].store(nth, Relaxed);
}

/// Whether `step` still waits for the try that is to fail.
pub fn is_armed(step: Step) -> bool {
    LEFT[step as usize].load(Relaxed) > 0
}

/// Whether this try of `step` is the one that fails.
#[inline]
pub(super) fn fails(step: Step) -> bool {
    let left = &LEFT[step as usize];
    left.load(Relaxed) > 0 && left.fetch_sub(1, Relaxed) == 1
}
