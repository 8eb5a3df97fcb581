//! The trace of the boot argument `dma.trace`: a line per event, and after an attach a line per chunk.

use super::Device;
use crate::kprintln;
use addr::{Chunk, Iova};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use dma_api::Attrs;

static ON: AtomicBool = AtomicBool::new(false);

/// Enables the trace.
pub fn enable() {
    ON.store(true, Relaxed);
}

/// Executes `action` with the trace disabled on all CPUs. There must be no concurrent buffer operations.
pub fn suspended<R>(action: impl FnOnce() -> R) -> R {
    let on = ON.swap(false, Relaxed);
    let result = action();
    ON.store(on, Relaxed);
    result
}

/// An event of a buffer. An absent field is printed as `-`.
pub(super) struct Event<'a> {
    pub device: Option<&'a Device>,
    pub iova: Option<Iova>,
    pub len: u64,
    pub attrs: Attrs,
    pub chunks: usize,
}

impl<'a> Event<'a> {
    /// Returns the event with `device` set.
    pub fn for_device(self, device: &'a Device) -> Self {
        Self { device: Some(device), ..self }
    }
}

/// Prints the event if the trace is enabled.
#[inline]
pub(super) fn record<'a>(name: &str, event: impl FnOnce() -> Event<'a>) {
    if ON.load(Relaxed) {
        kprintln!("dma: {name} {}", event());
    }
}

/// Prints the chunks of an attachment in IOVA order.
#[inline]
pub(super) fn chunks<I: Iterator<Item = Chunk>>(chunks: impl FnOnce() -> I) {
    if ON.load(Relaxed) {
        chunks().for_each(|chunk| {
            kprintln!("dma:   chunk pa={:#x} len={:#x}", chunk.start(), chunk.bytes());
        });
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, attrs, chunks) = (self.len, self.attrs, self.chunks);
        write!(f, "dev={} sid=", self.device.map_or("-", |device| device.name()))?;
        match self.device.and_then(Device::stream) {
            Some(stream) => write!(f, "{stream}")?,
            None => f.write_str("-")?,
        }
        match self.iova {
            Some(iova) => write!(f, " iova={iova}")?,
            None => f.write_str(" iova=-")?,
        }
        write!(f, " len={len:#x} attrs={attrs} chunks={chunks}")
    }
}
