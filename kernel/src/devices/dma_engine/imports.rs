//! The device addresses that an open file may name: those of the buffers that it imported.

use crate::debug::{self, FailPoint};
use addr::{AddrRange, Iova};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// Disjoint ranges of device addresses, and the memory that is mapped there.
pub struct Imports<T>(Vec<ImportEntry<T>>);

struct ImportEntry<T> {
    range: AddrRange<Iova>,
    memory: Arc<T>,
    /// No further access may start, see [`Imports::start_removal`].
    is_removed: bool,
}

/// Device addresses inside one range of an [`Imports`], and the memory there, which stays mapped while this
/// value exists. Only [`Imports::find`] makes one, so that a device node cannot hand the device an address
/// that its file did not import.
pub struct ImportedRange<T> {
    memory: Arc<T>,
    bytes: Range<u64>,
}

impl<T> ImportedRange<T> {
    /// Returns the memory, and the part of it, as offsets, that the addresses refer to.
    pub fn into_parts(self) -> (Arc<T>, Range<u64>) {
        (self.memory, self.bytes)
    }
}

impl<T> Imports<T> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds `memory`, mapped at `range`.
    ///
    /// # Errors
    /// Returns it without room on the heap, to be dropped without the lock.
    pub fn add(&mut self, range: AddrRange<Iova>, memory: Arc<T>) -> Result<(), Arc<T>> {
        if debug::fail_point(FailPoint::Heap) || self.0.try_reserve(1).is_err() {
            return Err(memory);
        }
        self.0.push(ImportEntry { range, memory, is_removed: false });
        Ok(())
    }

    /// Returns the `len` bytes at `address`; `None` unless one range covers all of them.
    pub fn find(&self, address: u64, len: u64) -> Option<ImportedRange<T>> {
        let wanted = AddrRange::from_len(Iova::new(address), len).filter(|wanted| !wanted.is_empty())?;
        let found = self.0.iter().find(|entry| entry.range.covers(&wanted) && !entry.is_removed)?;
        let offset = address - found.range.start().raw();
        Some(ImportedRange { memory: found.memory.clone(), bytes: offset..offset + len })
    }

    /// Refuses further accesses to the range that starts at `address`. Returns whether there is one that is
    /// not being removed already. [`finish_removal`](Self::finish_removal) or
    /// [`cancel_removal`](Self::cancel_removal) follows.
    pub fn start_removal(&mut self, address: u64) -> bool {
        let entry = self.0.iter_mut().find(|entry| entry.range.start().raw() == address && !entry.is_removed);
        entry.map(|entry| entry.is_removed = true).is_some()
    }

    /// Returns the memory of the range that is being removed, unless an access still uses it. It must be
    /// dropped without the lock.
    pub fn finish_removal(&mut self, address: u64) -> Option<Arc<T>> {
        let at = self.removed(address)?;
        Arc::get_mut(&mut self.0[at].memory)?;
        Some(self.0.swap_remove(at).memory)
    }

    /// Permits accesses again.
    pub fn cancel_removal(&mut self, address: u64) {
        if let Some(at) = self.removed(address) {
            self.0[at].is_removed = false;
        }
    }

    fn removed(&self, address: u64) -> Option<usize> {
        self.0.iter().position(|entry| entry.range.start().raw() == address && entry.is_removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> AddrRange<Iova> {
        AddrRange::from_len(Iova::new(start), len).unwrap()
    }

    /// Two adjacent buffers, and one at the end of the address space.
    fn imports() -> Imports<char> {
        let mut imports = Imports::new();
        for (start, len, memory) in
            [(0x2000, 0x1000, 'a'), (0x3000, 0x2000, 'b'), (u64::MAX - 0x1000, 0x1000, 'c')]
        {
            imports.add(range(start, len), Arc::new(memory)).unwrap();
        }
        imports
    }

    #[test]
    fn address_is_accepted_only_inside_one_imported_range() {
        let imports = imports();
        let found = |address, len| imports.find(address, len).map(|found| (*found.memory, found.bytes));
        assert_eq!(found(0x2000, 0x1000), Some(('a', 0..0x1000)));
        assert_eq!(found(0x2fff, 1), Some(('a', 0xfff..0x1000)));
        assert_eq!(found(0x3008, 8), Some(('b', 8..16)));
        for (address, len, why) in [
            (0x1fff, 1, "before the first byte"),
            (0x1fff, 2, "across the start"),
            (0x2000, 0x1001, "across the border of two buffers"),
            (0x4fff, 2, "across the end"),
            (0x5000, 1, "after the last byte"),
            (0, 1, "never imported"),
            (0x2000, 0, "empty"),
            (0x2000, u64::MAX, "the end overflows"),
            (u64::MAX - 8, 16, "the end overflows"),
        ] {
            assert_eq!(found(address, len), None, "{address:#x} {len:#x}: {why}");
        }
    }

    #[test]
    fn removed_range_is_refused_and_its_memory_is_in_use_until_the_copy_ends() {
        let mut imports = imports();
        let copy = imports.find(0x3000, 16).unwrap();
        assert!(!imports.start_removal(0x3008), "not the start of a range");
        assert_eq!(imports.finish_removal(0x3000), None, "not being removed");
        assert!(imports.start_removal(0x3000) && !imports.start_removal(0x3000));
        assert!(imports.find(0x3000, 16).is_none());
        assert_eq!(imports.finish_removal(0x3000), None, "a copy uses it");
        imports.cancel_removal(0x3000);
        assert!(imports.find(0x3000, 16).is_some() && imports.start_removal(0x3000));
        drop(copy);
        assert_eq!(imports.finish_removal(0x3000).as_deref(), Some(&'b'));
        assert!(!imports.start_removal(0x3000));
    }
}
