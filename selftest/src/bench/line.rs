//! The line of a measurement.

use super::measure::Measured;
use ::alloc::string::String;
use ::alloc::sync::Arc;
use core::fmt::{self, Display};
use dma_api::{Attrs, DmaError};
use kernel::dma::{self, Device, counters};
use kernel::kprintln;
use kernel::memory::heap;

/// What was measured.
pub struct Subject<'a, A> {
    /// The measurement's name.
    pub name: &'a str,
    /// Bytes that each operation is about.
    pub size: u64,
    /// Attributes, or the variant.
    pub attrs: A,
    /// Physically contiguous chunks.
    pub chunks: usize,
    /// Table pages that one live mapping takes beyond those that stay.
    pub tables: u64,
    /// Bytes of the heap that one live buffer takes.
    pub metadata: u64,
    /// What was varied, and how much of it there was.
    pub at: Option<(&'static str, u64)>,
}

impl Subject<'_, Attrs> {
    /// What one buffer takes for as long as it lives. Its name is for the caller to fill in.
    pub fn of_buffer(device: &Arc<Device>, size: u64, attrs: Attrs) -> Result<Self, DmaError> {
        let held = || (counters::read().table_pages.now, heap::usage().0 as u64);
        let before = held();
        let one = dma::alloc(device, size, attrs)?;
        let (after, chunks) = (held(), one.buffer().chunk_count());
        let [tables, metadata] = [after.0.saturating_sub(before.0), after.1.saturating_sub(before.1)];
        Ok(Subject { name: "", size, attrs, chunks, tables, metadata, at: None })
    }
}

impl<A: Display> Subject<'_, A> {
    /// Prints what was found.
    pub fn print(&self, measured: &mut Measured) {
        let (alloc, free) = (measured.up.median(), measured.down.median());
        let (alloc_mean, free_mean) = (measured.up.mean(), measured.down.mean());
        let costs = measured.costs();
        let Self { name, size, attrs, chunks, tables, metadata, .. } = self;
        kprintln!(
            "BENCH {name} size={size} attrs={attrs} alloc_ticks={alloc} free_ticks={free} alloc_mean={alloc_mean} \
             free_mean={free_mean} iters={} chunks={chunks} tables={tables} metadata={metadata} commands={} syncs={}{}{}",
            measured.rounds(),
            costs.commands,
            costs.syncs,
            At(self.at),
            events(measured),
        );
    }
}

/// What was varied, as a word of the line.
struct At(Option<(&'static str, u64)>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |(name, value)| write!(f, " {name}={value}"))
    }
}

/// The events of both halves, in a build that counts them.
#[cfg(feature = "counters")]
fn events(measured: &Measured) -> String {
    use core::fmt::Write;
    let mut text = String::new();
    for (half, events) in [("alloc", measured.up.events()), ("free", measured.down.events())] {
        for (name, count) in super::events::Events::NAMES.iter().zip(events.0) {
            // Writing to a string does not fail.
            _ = write!(text, " {half}_{name}={count}");
        }
    }
    text
}

#[cfg(not(feature = "counters"))]
fn events(_: &Measured) -> String {
    String::new()
}
