//! The bytes in a pipe: a queue of pages, allocated when they are filled and freed when they are empty.

use crate::debug::{self, FailPoint};
use abi::Errno;
use addr::PAGE_SIZE;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

const PAGE: usize = PAGE_SIZE as usize;
/// The maximum number of pages of all pipes (64 MiB).
const PAGES_MAX: usize = 1 << 14;
static PAGES: AtomicUsize = AtomicUsize::new(0);

struct PipePage(Vec<u8>);

impl PipePage {
    /// # Errors
    /// `ENOMEM`, also above [`PAGES_MAX`].
    fn new() -> Result<Self, Errno> {
        // Counted first, by the drop of the page if the allocation fails.
        let mut page = Self(Vec::new());
        let has_room = PAGES.fetch_add(1, Ordering::Relaxed) < PAGES_MAX;
        if !has_room || debug::fail_point(FailPoint::Heap) || page.0.try_reserve_exact(PAGE).is_err() {
            return Err(Errno::ENOMEM);
        }
        page.0.resize(PAGE, 0);
        Ok(page)
    }
}

impl Drop for PipePage {
    fn drop(&mut self) {
        PAGES.fetch_sub(1, Ordering::Relaxed);
    }
}

pub struct PipeBuffer {
    pages: VecDeque<PipePage>,
    /// The offset of the first byte in the first page.
    start: usize,
    len: usize,
}

impl PipeBuffer {
    pub const fn new() -> Self {
        Self { pages: VecDeque::new(), start: 0, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends up to `limit` bytes. `fill` stores bytes at the start of a free piece, and returns their
    /// number; 0 ends the write. An error is returned if there is no byte before it.
    ///
    /// # Errors
    /// Those of `fill`, `ENOMEM`.
    pub fn write(
        &mut self,
        limit: usize,
        mut fill: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < limit {
            let piece = match self.free_piece() {
                Ok(piece) => piece,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            let most = piece.len().min(limit - done);
            match fill(&mut piece[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.len += count;
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Returns the free rest of the last page, or a new page.
    fn free_piece(&mut self) -> Result<&mut [u8], Errno> {
        let end = self.start + self.len;
        if end == self.pages.len() * PAGE {
            let page = PipePage::new()?;
            self.pages.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.pages.push_back(page);
        }
        Ok(&mut self.pages[end / PAGE].0[end % PAGE..])
    }

    /// Removes up to `limit` bytes from the front. `take` copies bytes from the start of a piece, and returns
    /// their number; 0 ends the read. An error is returned if there is no byte before it.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn read(
        &mut self,
        limit: usize,
        mut take: impl FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let (limit, mut done) = (limit.min(self.len), 0);
        while done < limit {
            let end = PAGE.min(self.start + limit - done);
            match take(&self.pages[0].0[self.start..end]) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.advance(count);
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Removes bytes of the first page. An empty buffer keeps one page for the next write.
    fn advance(&mut self, count: usize) {
        self.start += count;
        self.len -= count;
        if self.len == 0 {
            self.pages.truncate(1);
            self.start = 0;
        } else if self.start == PAGE {
            self.pages.pop_front();
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(buffer: &mut PipeBuffer, bytes: &[u8], piece: usize) -> Result<usize, Errno> {
        let mut rest = bytes;
        buffer.write(bytes.len(), |to| {
            let count = to.len().min(piece);
            to[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            Ok(count)
        })
    }

    fn read(buffer: &mut PipeBuffer, limit: usize, piece: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let count = buffer.read(limit, |from| {
            let count = from.len().min(piece);
            bytes.extend(&from[..count]);
            Ok(count)
        });
        assert_eq!(count, Ok(bytes.len()));
        bytes
    }

    #[test]
    #[cfg_attr(miri, ignore = "minutes of safe code")]
    fn freed_pages_make_room_for_others() {
        (0..=PAGES_MAX).for_each(|_| assert!(PipePage::new().is_ok()));
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "minutes of safe code")]
        fn bytes_leave_in_order_and_pages_are_freed(
            steps in prop::collection::vec((any::<bool>(), 0usize..9000, 1usize..5000), 1..40),
        ) {
            let (mut buffer, mut model, mut next) = (PipeBuffer::new(), VecDeque::new(), 0u8);
            for (is_write, len, piece) in steps {
                if is_write {
                    let bytes: Vec<u8> = (0..len).map(|n| next.wrapping_add((n % 251) as u8)).collect();
                    next = next.wrapping_add(7);
                    prop_assert_eq!(write(&mut buffer, &bytes, piece), Ok(len));
                    model.extend(bytes);
                } else {
                    let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                    prop_assert_eq!(read(&mut buffer, len, piece), expected);
                }
                prop_assert_eq!(buffer.len(), model.len());
                prop_assert!(buffer.pages.len() <= model.len() / PAGE + 2);
            }
        }
    }

    #[test]
    fn failed_copy_is_an_error_only_without_a_byte_before_it() {
        let mut buffer = PipeBuffer::new();
        assert_eq!(buffer.write(10, |_| Err(Errno::EFAULT)), Err(Errno::EFAULT));
        let mut steps = [Ok(3), Err(Errno::EFAULT)].into_iter();
        assert_eq!(buffer.write(10, |_| steps.next().unwrap()), Ok(3));
        let mut steps = [Ok(2), Err(Errno::EFAULT), Err(Errno::EFAULT)].into_iter();
        assert_eq!(buffer.read(10, |_| steps.next().unwrap()), Ok(2));
        assert_eq!(buffer.read(10, |_| steps.next().unwrap()), Err(Errno::EFAULT));
        assert_eq!(buffer.len(), 1);
    }
}
