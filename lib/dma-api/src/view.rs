//! The CPU's look at memory that a device may change at any moment.

use core::marker::PhantomData;
use core::ptr::NonNull;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Bytes shared with a device. All access is by volatile copies: never a reference, so that nothing is assumed
/// about what the device does meanwhile.
///
/// Offsets are in bytes. One that leaves the view, or is not aligned for the type, is a bug of the driver and
/// panics with its value; what a device *wrote* must be checked before it becomes an offset.
#[derive(Clone, Copy)]
pub struct KernelView<'a> {
    base: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a u8>,
}

impl KernelView<'_> {
    /// # Safety
    /// For as long as the result lives,
    /// 1. `base` is aligned to a page and `len` bytes from there on are mapped, readable and writable;
    /// 2. no reference to any of them exists, and no other thread touches them but through another view whose
    ///    use the owner of both orders.
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

    /// The first byte, for kernels that have to say where a view is.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The value at `offset` as it is now. Larger than 8 bytes, it is not read in one piece.
    pub fn read<T: FromBytes>(&self, offset: usize) -> T {
        let at = self.place::<T>(offset);
        // SAFETY: `place` has checked bounds and alignment, and `new` promised the rest; every bit pattern is
        // a `T`; volatile, since the device may write at any moment.
        unsafe { at.read_volatile() }
    }

    /// Writes the value at `offset`. Larger than 8 bytes, it is not written in one piece.
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: T) {
        let at = self.place::<T>(offset);
        // SAFETY: `place` has checked bounds and alignment, and `new` promised the rest; volatile, since the
        // device may read at any moment.
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

    /// Copies `bytes` to `offset` and on.
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
        // SAFETY: `check` has seen that `offset` is inside the memory that `new` was given.
        let at = unsafe { self.base.add(offset) }.cast::<T>();
        assert!(at.is_aligned(), "offset {offset:#x} is not aligned to {}", align_of::<T>());
        at
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at {offset:#x} leave a view of {:#x}", self.len);
    }
}

/// Bytes before the first aligned word, and words after them.
fn split(offset: usize, len: usize) -> (usize, usize) {
    let head = (offset.next_multiple_of(8) - offset).min(len);
    (head, (len - head) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; 64]);

    fn with_view(work: impl FnOnce(KernelView<'_>)) {
        let mut page = Page([0; 64]);
        // SAFETY: the page is this function's own and outlives the view; aligned by its type.
        work(unsafe { KernelView::new(NonNull::from(&mut page.0).cast(), 64) });
    }

    #[test]
    fn bytes_go_in_and_out_at_any_offset_and_length() {
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
    fn values_are_what_was_written() {
        with_view(|view| {
            view.write(8, 0x0102_0304_0506_0708u64);
            assert_eq!(view.read::<u32>(8), 0x0506_0708);
            assert_eq!(view.read::<u8>(15), 1);
            assert_eq!(view.read::<[u8; 3]>(13), [3, 2, 1]);
        });
    }

    #[test]
    #[should_panic(expected = "8 bytes at 0x3c leave a view of 0x40")]
    fn reading_over_the_end_panics() {
        with_view(|view| _ = view.read::<u64>(0x3c));
    }

    #[test]
    #[should_panic(expected = "leave a view")]
    fn an_offset_that_overflows_panics() {
        with_view(|view| view.read_bytes(usize::MAX, &mut [0; 2]));
    }

    #[test]
    #[should_panic(expected = "offset 0x2 is not aligned to 4")]
    fn a_crooked_offset_panics() {
        with_view(|view| view.write(2, 1u32));
    }
}
