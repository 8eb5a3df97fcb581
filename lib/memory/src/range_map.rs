//! A map of disjoint address ranges: the mappings that a program makes at addresses of its own choice.

use addr::{AddrRange, Address};
use alloc::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// Disjoint, non-empty ranges with values.
#[derive(Debug)]
pub struct RangeMap<A, T> {
    /// Start, end and value.
    entries: BTreeMap<A, (A, T)>,
}

impl<A: Address, T> RangeMap<A, T> {
    /// An empty map.
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no range.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the first range.
    pub fn first(&self) -> Option<AddrRange<A>> {
        self.entries.first_key_value().map(|(&start, &(end, _))| AddrRange::new(start, end))
    }

    /// Returns the first range that overlaps `range`.
    pub fn first_overlap(&self, range: AddrRange<A>) -> Option<AddrRange<A>> {
        let (start, end) = (range.start(), range.end());
        let before = self.entries.range(..start).next_back().filter(|(_, entry)| entry.0 > start);
        let first = before.or_else(|| self.entries.range(start..).next().filter(|(at, _)| **at < end));
        first.map(|(&at, &(end, _))| AddrRange::new(at, end)).filter(|_| !range.is_empty())
    }

    /// Returns a range that is partly inside and partly outside of `range`.
    pub fn first_split(&self, range: AddrRange<A>) -> Option<AddrRange<A>> {
        let first = self.first_overlap(range)?;
        let end = range.end();
        let last = self.entries.range(..end).next_back();
        let last = last.map_or(first, |(&at, &(end, _))| AddrRange::new(at, end));
        [first, last].into_iter().find(|entry| !range.covers(entry))
    }

    /// Adds a range.
    ///
    /// # Errors
    /// Returns the value if the range is empty or overlaps another one.
    pub fn insert(&mut self, range: AddrRange<A>, value: T) -> Result<(), T> {
        if range.is_empty() || self.first_overlap(range).is_some() {
            return Err(value);
        }
        self.entries.insert(range.start(), (range.end(), value));
        Ok(())
    }

    /// Removes the range that starts at `start`.
    pub fn remove(&mut self, start: A) -> Option<(AddrRange<A>, T)> {
        let (end, value) = self.entries.remove(&start)?;
        Some((AddrRange::new(start, end), value))
    }

    /// Returns the ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (AddrRange<A>, &T)> {
        self.entries.iter().map(|(&start, (end, value))| (AddrRange::new(start, *end), value))
    }

    /// Returns the ranges in ascending order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (AddrRange<A>, &mut T)> {
        self.entries.iter_mut().map(|(&start, (end, value))| (AddrRange::new(start, *end), value))
    }

    /// Returns the first range of `len` bytes in `space` at a multiple of `align` that overlaps no range and
    /// none of `reserved`. Visits the ranges up to it.
    pub fn find_gap(
        &self,
        space: AddrRange<A>,
        len: u64,
        align: u64,
        reserved: &[AddrRange<A>],
    ) -> Option<AddrRange<A>> {
        let mut at = space.start();
        loop {
            let found = AddrRange::from_len(at.align_up(align)?, len).filter(|found| space.covers(found))?;
            let overlap = self.first_overlap(found);
            let overlap = overlap.or_else(|| reserved.iter().find(|range| range.overlaps(&found)).copied());
            match overlap {
                Some(overlap) => at = overlap.end(),
                None => return Some(found),
            }
        }
    }
}

impl<A: Address, T> Default for RangeMap<A, T> {
    fn default() -> Self {
        Self::new()
    }
}
