//! The device addresses that an open file may name: those of the buffers that it imported.

use addr::{AddrRange, Iova};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// Disjoint ranges of device addresses, and the memory that is mapped there.
pub struct Imports<T>(Vec<(AddrRange<Iova>, Arc<T>)>);

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
    pub fn add(&mut self, range: AddrRange<Iova>, memory: Arc<T>) {
        self.0.push((range, memory));
    }

    /// Returns the `len` bytes at `address`; `None` unless one range covers all of them.
    pub fn find(&self, address: u64, len: u64) -> Option<ImportedRange<T>> {
        let wanted = AddrRange::from_len(Iova::new(address), len).filter(|wanted| !wanted.is_empty())?;
        let (range, memory) = self.0.iter().find(|(range, _)| range.covers(&wanted))?;
        let offset = address - range.start().raw();
        Some(ImportedRange { memory: memory.clone(), bytes: offset..offset + len })
    }

    /// Removes the range that starts at `address`, and returns it with its memory. The memory is still in use
    /// while another reference to it exists.
    pub fn remove(&mut self, address: u64) -> Option<(AddrRange<Iova>, Arc<T>)> {
        let at = self.0.iter().position(|(range, _)| range.start().raw() == address)?;
        Some(self.0.swap_remove(at))
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
        imports.add(range(0x2000, 0x1000), Arc::new('a'));
        imports.add(range(0x3000, 0x2000), Arc::new('b'));
        imports.add(range(u64::MAX - 0x1000, 0x1000), Arc::new('c'));
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
        assert_eq!(imports.remove(0x3008), None, "not the start of a range");
        let (at, mut memory) = imports.remove(0x3000).unwrap();
        assert_eq!((at, *memory), (range(0x3000, 0x2000), 'b'));
        assert!(imports.find(0x3000, 16).is_none() && imports.remove(0x3000).is_none());
        assert_eq!(Arc::get_mut(&mut memory), None, "a copy uses it");
        drop(copy);
        assert_eq!(Arc::get_mut(&mut memory), Some(&mut 'b'));
    }
}
