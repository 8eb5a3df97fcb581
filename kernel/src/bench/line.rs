//! The line of a measurement.

use super::measure::Measured;
use crate::kprintln;
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
        let (alloc, free) = measured.medians();
        let costs = measured.costs();
        let Self { name, size, attrs, chunks, tables } = self;
        kprintln!(
            "BENCH {name} size={size} attrs={attrs} alloc_ticks={alloc} free_ticks={free} iters={} chunks={chunks} \
             tables={tables} commands={} syncs={}",
            measured.rounds(),
            costs.commands,
            costs.syncs,
        );
    }
}
