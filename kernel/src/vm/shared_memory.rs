//! Memory objects: pages that several users can share, for files in memory.
//!
//! # Locks
//!
//! [`Writer`] excludes other writers, also while they copy from a program. The lock of the pages is held for
//! one operation; it follows the lock of an address space, so that a page fault can take it, and no program's
//! memory is accessed with it held.

use super::pages::{self, RecordKind};
use crate::debug::{self, FailPoint};
use crate::memory::{self, heap, window};
use crate::sched::{self, Mutex, MutexGuard};
use abi::Errno;
use abi::file::Seals;
use abi::memory::Prot;
use addr::{AddrRange, Chunk, KernelVa, PAGE_SIZE, Pfn, PhysAddr};
use alloc::sync::Arc;
use core::cmp::Ordering::{Equal, Greater, Less};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use program::PageIndex;

/// The largest size: Linux's `MAX_LFS_FILESIZE`.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// The number of pages of all objects.
static PAGES: AtomicU64 = AtomicU64::new(0);

/// Returns the maximum number of pages of all objects: half of RAM, as for Linux's tmpfs.
pub fn page_limit() -> u64 {
    memory::layout().ram.iter().map(|range| range.len() / PAGE_SIZE).sum::<u64>() / 2
}

/// Returns the number of pages of all objects.
pub fn page_count() -> u64 {
    PAGES.load(Ordering::Relaxed)
}

/// Zeroed pages, each allocated when it is first written or mapped.
///
/// The object is an owner of each frame, and gives the frame up when the page is removed or the object is
/// dropped ([`pages::release`]). A [`MemoryMapping`] must add an owner of its own in
/// [`with_page`](Self::with_page), and a pin its pin: then the frame is freed after the last of them,
/// whichever it is. [`Writer::truncate`] and [`Writer::punch`] do not unmap: a process that has mapped a
/// removed page keeps the frame until the caller unmaps it.
pub struct SharedMemory {
    writers: Mutex<()>,
    content: Mutex<Content>,
    /// The mappings that can become writable and are shared. Increased from 0 with the content locked.
    writable_mappings: AtomicU64,
}

/// The part of an object that a VMA maps: the object, and the rights.
pub struct MemoryMapping {
    object: Arc<SharedMemory>,
    is_shared: bool,
    max_prot: Prot,
}

impl MemoryMapping {
    /// A mapping with the protection `prot`, which can be changed up to `max_prot`. Writes to a private one
    /// do not reach the object.
    ///
    /// # Errors
    /// `EPERM` for a shared writable mapping of an object that is sealed against writes.
    pub fn new(
        object: Arc<SharedMemory>,
        is_shared: bool,
        (prot, max_prot): (Prot, Prot),
    ) -> Result<Self, Errno> {
        let content = object.content.lock();
        let is_sealed = is_shared && content.seals.intersects(Seals::WRITE | Seals::FUTURE_WRITE);
        if is_sealed && prot.contains(Prot::WRITE) {
            return Err(Errno::EPERM);
        }
        let max_prot = if is_sealed { max_prot.difference(Prot::WRITE) } else { max_prot };
        if is_shared && max_prot.contains(Prot::WRITE) {
            object.writable_mappings.fetch_add(1, Ordering::Relaxed);
        }
        drop(content);
        Ok(Self { object, is_shared, max_prot })
    }

    pub fn object(&self) -> &SharedMemory {
        &self.object
    }

    /// Whether writes reach the object.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Returns the maximum protection.
    pub fn max_prot(&self) -> Prot {
        self.max_prot
    }

    /// Whether both map the same object with the same rights.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
            && self.is_shared == other.is_shared
            && self.max_prot == other.max_prot
    }

    fn is_counted(&self) -> bool {
        self.is_shared && self.max_prot.contains(Prot::WRITE)
    }
}

impl Clone for MemoryMapping {
    fn clone(&self) -> Self {
        if self.is_counted() {
            self.object.writable_mappings.fetch_add(1, Ordering::Relaxed);
        }
        Self { object: self.object.clone(), ..*self }
    }
}

impl Drop for MemoryMapping {
    fn drop(&mut self) {
        if self.is_counted() {
            self.object.writable_mappings.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Content {
    pages: PageIndex<Pfn>,
    size: u64,
    seals: Seals,
}

impl SharedMemory {
    /// An object of size 0 that cannot be sealed.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>, Errno> {
        Self::with_seals(Seals::SEAL)
    }

    /// An object of size 0 with these seals.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn with_seals(seals: Seals) -> Result<Arc<Self>, Errno> {
        let content = Content { pages: PageIndex::new(), size: 0, seals };
        let (writers, content) = (Mutex::new(()), Mutex::new(content));
        heap::try_arc(Self { writers, content, writable_mappings: AtomicU64::new(0) }).ok_or(Errno::ENOMEM)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.content.lock().size
    }

    /// Returns the number of allocated pages.
    pub fn pages(&self) -> u64 {
        self.content.lock().pages.len()
    }

    /// Calls `visit` with the frame of page `index`, which is allocated if it does not exist. The page is not
    /// removed meanwhile.
    ///
    /// # Errors
    /// `EFAULT` for a page beyond the end, `ENOSPC`, `ENOMEM`.
    pub fn with_page<R>(&self, index: u64, visit: impl FnOnce(PhysAddr) -> R) -> Result<R, Errno> {
        let mut content = self.content.lock();
        if index >= content.size.div_ceil(PAGE_SIZE) {
            return Err(Errno::EFAULT);
        }
        content.page(index).map(visit)
    }

    /// Copies bytes from `offset` on to `to`, and returns their number, which is less at the end.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        let content = self.content.lock();
        let len = (to.len() as u64).min(content.size.saturating_sub(offset)) as usize;
        let mut rest = &mut to[..len];
        let mut at = offset;
        while !rest.is_empty() {
            let count = rest.len().min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let (here, after) = rest.split_at_mut(count);
            match content.pages.get(at / PAGE_SIZE) {
                Some(frame) => content.copy_from(frame, at % PAGE_SIZE, here),
                None => here.fill(0),
            }
            (rest, at) = (after, at + count as u64);
        }
        len
    }

    /// Returns the offset of the first byte at or after `offset` in an allocated page (`SEEK_DATA`).
    ///
    /// # Errors
    /// `ENXIO` at or beyond the end, or without such a byte.
    pub fn next_data(&self, offset: u64) -> Result<u64, Errno> {
        let content = self.content.lock();
        let page = content.pages.first_from(offset / PAGE_SIZE).ok_or(Errno::ENXIO)?;
        Some(offset.max(page * PAGE_SIZE)).filter(|&at| at < content.size).ok_or(Errno::ENXIO)
    }

    /// Returns the offset of the first byte at or after `offset` that is not in an allocated page, or the
    /// size (`SEEK_HOLE`).
    ///
    /// # Errors
    /// `ENXIO` at or beyond the end.
    pub fn next_hole(&self, offset: u64) -> Result<u64, Errno> {
        let content = self.content.lock();
        if offset >= content.size {
            return Err(Errno::ENXIO);
        }
        let mut index = offset / PAGE_SIZE;
        while content.pages.get(index).is_some() {
            index += 1;
        }
        Ok(offset.max(index * PAGE_SIZE).min(content.size))
    }

    /// Returns the seals (`F_GET_SEALS`).
    pub fn seals(&self) -> Seals {
        self.content.lock().seals
    }

    /// Excludes other writers.
    pub fn writer(&self) -> Writer<'_> {
        Writer { memory: self, _lock: self.writers.lock() }
    }
}

/// The only writer of a [`SharedMemory`]. It may access the memory of a program between two operations.
pub struct Writer<'a> {
    memory: &'a SharedMemory,
    _lock: MutexGuard<'a, ()>,
}

impl Writer<'_> {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.memory.size()
    }

    /// Adds seals (`F_ADD_SEALS`).
    ///
    /// # Errors
    /// `EPERM` if the object must not be sealed, `EBUSY` against writes while a writable mapping exists.
    pub fn seal(&self, seals: Seals) -> Result<(), Errno> {
        let mut content = self.memory.content.lock();
        if content.seals.contains(Seals::SEAL) {
            return Err(Errno::EPERM);
        }
        let is_mapped = self.memory.writable_mappings.load(Ordering::Relaxed) > 0;
        if seals.contains(Seals::WRITE) && is_mapped {
            return Err(Errno::EBUSY);
        }
        content.seals |= seals;
        Ok(())
    }

    /// # Errors
    /// `EPERM` if one of `seals` is set.
    fn check_seals(&self, seals: Seals) -> Result<(), Errno> {
        if self.memory.seals().intersects(seals) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Stores `from` at `offset`, and extends the object if the bytes end beyond its end. Returns the number
    /// of bytes stored; an error only without any.
    ///
    /// # Errors
    /// `EPERM` by a seal, `EFBIG`, `ENOSPC`, `ENOMEM`.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        self.check_seals(Seals::WRITE | Seals::FUTURE_WRITE)?;
        if offset.saturating_add(from.len() as u64) > self.size() {
            self.check_seals(Seals::GROW)?;
        }
        let room =
            SIZE_MAX.checked_sub(offset).filter(|&room| room > 0 || from.is_empty()).ok_or(Errno::EFBIG)?;
        let mut rest = &from[..from.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let mut content = self.memory.content.lock();
        let mut at = offset;
        while !rest.is_empty() {
            let frame = match content.page(at / PAGE_SIZE) {
                Ok(frame) => frame,
                Err(error) if at == offset => return Err(error),
                Err(_) => break,
            };
            let (here, after) = rest.split_at(rest.len().min((PAGE_SIZE - at % PAGE_SIZE) as usize));
            content.with_bytes(frame, at % PAGE_SIZE, here.len(), |to| {
                // SAFETY: `to` is mapped writable and as long as `here`, which the kernel owns. A program
                // that has mapped the page may access it meanwhile, and then sees any mix of the bytes.
                unsafe { core::ptr::copy_nonoverlapping(here.as_ptr(), to, here.len()) }
            });
            (rest, at) = (after, at + here.len() as u64);
            content.size = content.size.max(at);
        }
        Ok((at - offset) as usize)
    }

    /// Sets the size. Bytes beyond it are removed, and are zero if the object grows again.
    ///
    /// # Errors
    /// `EFBIG`, `EPERM` by a seal.
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        match size.cmp(&self.size()) {
            Less => self.check_seals(Seals::SHRINK)?,
            Equal => {}
            Greater => self.check_seals(Seals::GROW)?,
        }
        let before = core::mem::replace(&mut self.memory.content.lock().size, size);
        if size < before {
            self.zero_and_free(size..before.next_multiple_of(PAGE_SIZE));
        }
        Ok(())
    }

    /// Zeroes the bytes of `range`, and frees the pages that are in it as a whole.
    ///
    /// # Errors
    /// `EPERM` by a seal.
    pub fn punch(&self, range: Range<u64>) -> Result<(), Errno> {
        self.check_seals(Seals::WRITE | Seals::FUTURE_WRITE)?;
        self.zero_and_free(range);
        Ok(())
    }

    fn zero_and_free(&self, range: Range<u64>) {
        let pages = range.start.div_ceil(PAGE_SIZE)..range.end / PAGE_SIZE;
        if pages.start > pages.end {
            return self.memory.content.lock().zero(range);
        }
        self.memory.content.lock().zero(range.start..pages.start * PAGE_SIZE);
        self.memory.content.lock().zero(pages.end * PAGE_SIZE..range.end);
        let mut from = pages.start;
        loop {
            // The guard must not live in the body: the thread may yield there.
            let removed = self.memory.content.lock().pages.remove_first(from..pages.end);
            let Some((index, frame)) = removed else { return };
            release(frame);
            from = index + 1;
            sched::yield_if_slice_ended();
        }
    }

    /// Allocates the pages of `range`, and extends the object to its end if `extends`. Pages that were
    /// allocated before an error stay.
    ///
    /// # Errors
    /// `EFBIG`, `EPERM` by a seal, `ENOSPC`, `ENOMEM`.
    pub fn allocate(&self, range: Range<u64>, extends: bool) -> Result<(), Errno> {
        if range.end > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        if extends && range.end > self.size() {
            self.check_seals(Seals::GROW)?;
        }
        for index in range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE) {
            self.memory.content.lock().page(index)?;
            sched::yield_if_slice_ended();
        }
        let mut content = self.memory.content.lock();
        if extends {
            content.size = content.size.max(range.end);
        }
        Ok(())
    }
}

impl Content {
    /// Returns the frame of page `index`, which is allocated if it does not exist.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    fn page(&mut self, index: u64) -> Result<PhysAddr, Errno> {
        if let Some(frame) = self.pages.get(index) {
            return Ok(frame.start());
        }
        let counted = PAGES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pages| {
            (pages < page_limit()).then(|| pages + 1)
        });
        counted.map_err(|_| Errno::ENOSPC)?;
        let frame = match new_frame() {
            Ok(frame) => frame,
            Err(error) => {
                PAGES.fetch_sub(1, Ordering::Relaxed);
                return Err(error);
            }
        };
        let is_failed = debug::fail_point(FailPoint::Heap);
        let inserted = if is_failed { Err(Errno::ENOMEM) } else { self.pages.insert(index, frame) };
        inserted.inspect_err(|_| release(frame))?;
        Ok(frame.start())
    }

    /// Zeroes the bytes of `range`, which is in one page, if the page exists.
    fn zero(&mut self, range: Range<u64>) {
        let Some(frame) = self.pages.get(range.start / PAGE_SIZE).filter(|_| !range.is_empty()) else {
            return;
        };
        let len = (range.end - range.start) as usize;
        self.with_bytes(frame.start(), range.start % PAGE_SIZE, len, |to| {
            // SAFETY: mapped writable with this length.
            unsafe { core::ptr::write_bytes(to, 0, len) }
        });
    }

    fn copy_from(&self, frame: Pfn, offset: u64, to: &mut [u8]) {
        let len = to.len();
        self.with_bytes(frame.start(), offset, len, |from| {
            // SAFETY: `from` is mapped and has this length. A program that has mapped the page may write it
            // meanwhile; then the bytes are any mix.
            unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), len) }
        });
    }

    /// Calls `access` with the address of the `len` bytes at `offset` in a frame of the object.
    fn with_bytes(&self, frame: PhysAddr, offset: u64, len: usize, mut access: impl FnMut(*mut u8)) {
        debug_assert!(offset + len as u64 <= PAGE_SIZE);
        let visit = |page: AddrRange<KernelVa>| access(arch::pointer::to(page.start() + offset));
        // SAFETY: the object owns the frame, of write-back memory, and is locked. `access` copies bytes.
        unsafe { window::with_frame(frame, visit) };
    }
}

fn new_frame() -> Result<Pfn, Errno> {
    let mut frames = pages::alloc_zeroed(1).map_err(|_| Errno::ENOMEM)?;
    let frame = frames.drain().next().map(|chunk| chunk.release().first());
    frame.ok_or(Errno::ENOMEM)
}

/// Gives up a frame of an object.
fn release(frame: Pfn) {
    PAGES.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: the object owned the frame, and no entry of the kernel maps it.
    unsafe { pages::release(Chunk::page(frame).range(), RecordKind::Frame) };
}

impl Drop for Content {
    fn drop(&mut self) {
        while let Some((_, frame)) = self.pages.remove_first(0..u64::MAX) {
            release(frame);
        }
    }
}
