//! CPU access to memory that a device may change at any time.

use core::marker::PhantomData;
use core::ptr::NonNull;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// A view of bytes shared with a device. All accesses are volatile copies, never references, so that the
/// compiler assumes nothing about concurrent device writes.
///
/// Offsets are in bytes. An offset outside of the view, or not aligned for the type, is a driver bug and
/// panics with its value; data from the device must be checked before use as an offset.
#[derive(Clone, Copy)]
pub struct KernelView<'a> {
    base: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a u8>,
}

impl KernelView<'_> {
    /// The view of the `len` bytes from `base` on.
    ///
    /// # Safety
    /// During the lifetime of the result,
    /// 1. `base` is page-aligned and `len` bytes from there on are mapped, readable and writable;
    /// 2. no reference to any of them exists, and other threads access them only through other views, ordered
    ///    by their common owner.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len, memory: PhantomData }
    }

    /// The number of bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte, for the kernel to derive the view's address.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Reads the value at `offset`. A value larger than 8 bytes is not read in a single access.
    pub fn read<T: FromBytes>(&self, offset: usize) -> T {
        let at = self.place::<T>(offset);
        // SAFETY: `place` has checked bounds and alignment, and `new` requires the rest; every bit pattern is
        // a valid `T`; volatile, since the device may write at any time.
        unsafe { at.read_volatile() }
    }

    /// Writes the value at `offset`. A value larger than 8 bytes is not written in a single access.
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: T) {
        let at = self.place::<T>(offset);
        // SAFETY: `place` has checked bounds and alignment, and `new` requires the rest; volatile, since the
        // device may read at any time.
        unsafe { at.write_volatile(value) }
    }

    /// Copies the bytes from `offset` on into `bytes`.
    pub fn read_bytes(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        let (head, words) = split(offset, bytes.len());
        let (head, rest) = bytes.split_at_mut(head);
        let (words, tail) = rest.split_at_mut(words * 8);
        let (words_at, tail_at) = (offset + head.len(), offset + head.len() + words.len());
        head.iter_mut().enumerate().for_each(|(i, byte)| *byte = self.read(offset + i));
        for (i, word) in words.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.read::<u64>(words_at + i * 8).to_ne_bytes());
        }
        tail.iter_mut().enumerate().for_each(|(i, byte)| *byte = self.read(tail_at + i));
    }

    /// Copies `bytes` to the view, from `offset` on.
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let (head, words) = split(offset, bytes.len());
        let (head, rest) = bytes.split_at(head);
        let (words, tail) = rest.split_at(words * 8);
        let (words_at, tail_at) = (offset + head.len(), offset + head.len() + words.len());
        head.iter().enumerate().for_each(|(i, byte)| self.write(offset + i, *byte));
        for (i, word) in words.chunks_exact(8).enumerate() {
            let mut value = u64::new_zeroed();
            value.as_mut_bytes().copy_from_slice(word);
            self.write(words_at + i * 8, value);
        }
        tail.iter().enumerate().for_each(|(i, byte)| self.write(tail_at + i, *byte));
    }

    fn place<T>(&self, offset: usize) -> NonNull<T> {
        self.check(offset, size_of::<T>());
        // SAFETY: `check` has checked that `offset` is inside the memory given to `new`.
        let at = unsafe { self.base.add(offset) }.cast::<T>();
        assert!(at.is_aligned(), "offset {offset:#x} is not aligned to {}", align_of::<T>());
        at
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at {offset:#x} leave a view of {:#x}", self.len);
    }
}

/// The number of bytes before the first aligned word, and the number of whole words after them.
fn split(offset: usize, len: usize) -> (usize, usize) {
    let head = (offset.next_multiple_of(8) - offset).min(len);
    (head, (len - head) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[repr(align(4096))]
    struct AlignedBytes([u8; 64]);

    fn with_view(work: impl FnOnce(KernelView<'_>)) {
        let mut page = AlignedBytes([0; 64]);
        // SAFETY: the page belongs to this function and outlives the view; its type aligns it.
        work(unsafe { KernelView::new(NonNull::from(&mut page.0).cast(), 64) });
    }

    #[test]
    fn bytes_are_copied_at_any_offset_and_length() {
        for offset in 0..20 {
            for len in 0..40 {
                with_view(|view| {
                    let data: Vec<u8> = (1..=len).collect();
                    view.write_bytes(offset, &data);
                    let mut all = [0xff; 64];
                    view.read_bytes(0, &mut all);
                    let mut wanted = [0; 64];
                    wanted[offset..offset + data.len()].copy_from_slice(&data);
                    assert_eq!(all, wanted);
                    let mut part = vec![0; data.len()];
                    view.read_bytes(offset, &mut part);
                    assert_eq!(part, data);
                });
            }
        }
    }

    #[test]
    fn values_are_read_back() {
        with_view(|view| {
            view.write(8, 0x0102_0304_0506_0708u64);
            assert_eq!(view.read::<u32>(8), 0x0506_0708);
            assert_eq!(view.read::<u8>(15), 1);
            assert_eq!(view.read::<[u8; 3]>(13), [3, 2, 1]);
        });
    }

    #[test]
    #[should_panic(expected = "8 bytes at 0x3c leave a view of 0x40")]
    fn reading_past_the_end_panics() {
        with_view(|view| _ = view.read::<u64>(0x3c));
    }

    #[test]
    fn write_past_the_end_panics_before_the_first_byte() {
        with_view(|view| {
            let past = AssertUnwindSafe(|| view.write_bytes(60, &[1; 5]));
            assert!(catch_unwind(past).is_err());
            assert_eq!(view.read::<u32>(60), 0);
        });
    }

    #[test]
    #[should_panic(expected = "leave a view")]
    fn offset_overflow_panics() {
        with_view(|view| view.read_bytes(usize::MAX, &mut [0; 2]));
    }

    #[test]
    #[should_panic(expected = "offset 0x2 is not aligned to 4")]
    fn unaligned_offset_panics() {
        with_view(|view| view.write(2, 1u32));
    }
}
