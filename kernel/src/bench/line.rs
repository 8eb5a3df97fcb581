//! The line of a measurement.

use super::measure::Measured;
use crate::kprintln;
use ::alloc::string::String;
use core::fmt::Display;

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
}

impl<A: Display> Subject<'_, A> {
    /// Prints what was found.
    pub fn print(&self, measured: &mut Measured) {
        let (alloc, free) = (measured.up.median(), measured.down.median());
        let (alloc_mean, free_mean) = (measured.up.mean(), measured.down.mean());
        let costs = measured.costs();
        let Self { name, size, attrs, chunks, tables } = self;
        kprintln!(
            "BENCH {name} size={size} attrs={attrs} alloc_ticks={alloc} free_ticks={free} alloc_mean={alloc_mean} \
             free_mean={free_mean} iters={} chunks={chunks} tables={tables} commands={} syncs={}{}",
            measured.rounds(),
            costs.commands,
            costs.syncs,
            events(measured),
        );
    }
}

/// The events of both halves, in a build that counts them.
#[cfg(feature = "counters")]
fn events(measured: &Measured) -> String {
    use core::fmt::Write;
    let mut text = String::new();
    for (half, events) in [("alloc", measured.up.events()), ("free", measured.down.events())] {
        for (name, count) in crate::events::Events::NAMES.iter().zip(events.0) {
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
