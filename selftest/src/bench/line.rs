//! The `BENCH` line of a measurement.

use super::measure::Timings;
use ::alloc::string::String;
use ::alloc::sync::Arc;
use core::fmt::{self, Display};
use dma_api::{Attrs, DmaError};
use kernel::dma::{self, Device, counters};
use kernel::kprintln;
use kernel::memory::heap;

/// The fields of the line, apart from the times.
pub struct BenchLine<'a, A> {
    /// The name of the measurement.
    pub name: &'a str,
    /// The bytes of the buffer or mapping.
    pub size: u64,
    /// The attributes of the buffer, or the name of the variant.
    pub attrs: A,
    /// Physically contiguous chunks.
    pub chunks: usize,
    /// Page tables that a live mapping allocates and its removal frees.
    pub tables: u64,
    /// Bytes of the heap that a live buffer uses.
    pub metadata: u64,
    /// The name and value of the varied parameter.
    pub parameter: Option<(&'static str, u64)>,
}

impl BenchLine<'_, Attrs> {
    /// Returns a line with the resources of one live buffer. The caller fills in the name.
    pub fn of_buffer(device: &Arc<Device>, size: u64, attrs: Attrs) -> Result<Self, DmaError> {
        let usage = || (counters::read().table_pages.now, heap::usage().0 as u64);
        let before = usage();
        let buffer = dma::alloc(device, size, attrs)?;
        let (after, chunks) = (usage(), buffer.buffer().chunk_count());
        let [tables, metadata] = [after.0.saturating_sub(before.0), after.1.saturating_sub(before.1)];
        Ok(BenchLine { name: "", size, attrs, chunks, tables, metadata, parameter: None })
    }
}

impl<A: Display> BenchLine<'_, A> {
    /// Prints the line.
    pub fn print(&self, timings: &mut Timings) {
        let (alloc, free) = (timings.operation.median(), timings.inverse.median());
        let (alloc_mean, free_mean) = (timings.operation.mean(), timings.inverse.mean());
        let costs = timings.costs();
        let Self { name, size, attrs, chunks, tables, metadata, .. } = self;
        kprintln!(
            "BENCH {name} size={size} attrs={attrs} alloc_ticks={alloc} free_ticks={free} alloc_mean={alloc_mean} \
             free_mean={free_mean} iters={} chunks={chunks} tables={tables} metadata={metadata} commands={} syncs={}{}{}",
            timings.rounds(),
            costs.commands,
            costs.syncs,
            Parameter(self.parameter),
            events(timings),
        );
    }
}

/// Prints as a field of the line; nothing if there is no varied parameter.
struct Parameter(Option<(&'static str, u64)>);

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |(name, value)| write!(f, " {name}={value}"))
    }
}

/// The event counts of the operation and of its inverse; empty without feature `counters`.
#[cfg(feature = "counters")]
fn events(timings: &Timings) -> String {
    use core::fmt::Write;
    let mut text = String::new();
    for (prefix, events) in [("alloc", timings.operation.events()), ("free", timings.inverse.events())] {
        for (name, count) in super::events::EventCounts::NAMES.iter().zip(events.0) {
            // Writing to a string does not fail.
            _ = write!(text, " {prefix}_{name}={count}");
        }
    }
    text
}

#[cfg(not(feature = "counters"))]
fn events(_: &Timings) -> String {
    String::new()
}
