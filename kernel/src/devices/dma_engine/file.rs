//! The device node of a DMA engine (`/dev/edu0`, `/dev/bcm2835-dma0`): imports of dma-bufs and copies.
//!
//! A copy's device address must be inside a buffer imported through the same open file: all programs share
//! the device's domain, and without an IOMMU the address is not checked any further. Without an IOMMU the
//! buffer can also be scattered if the engine supports scatter-gather. It has no contiguous bus addresses
//! then, and gets an address that is valid in this file only ([`SYNTHETIC_BASE`]).

use super::imports::Imports;
use super::job::{AccessedImport, Import, TransferJob};
use super::{DmaEngineDevice, TransferError};
use crate::dma::{Attachment, MapPlacement, stream};
use crate::fs::dma_buf::{DmaBuf, errno};
use crate::fs::{Caller, File};
use crate::memory::heap;
use crate::sched::WaitQueue;
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::edu::*;
use abi::file::PollEvents;
use addr::{AddrRange, Iova, PAGE_SIZE, UserVa};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use drivers::dma_engine::{CopyError, TransferDirection, check_buffer_range};
use program::BufferAccess;

/// The start of the addresses of scattered buffers: above all bus addresses.
const SYNTHETIC_BASE: u64 = 1 << 52;

/// An open file of the node, with the buffers imported through it. Closing it detaches them from the device.
pub struct DmaEngineFile {
    engine: &'static DmaEngineDevice,
    imports: SpinLock<Imports<Import>>,
    /// The address of the next scattered buffer; never reused.
    next_synthetic: AtomicU64,
    /// Releases that wait for the end of a copy.
    releases: WaitQueue,
}

impl DmaEngineFile {
    /// Opens the device, and ends its quarantine.
    pub fn new(engine: &'static DmaEngineDevice) -> Result<Self, Errno> {
        if engine.is_gone() {
            return Err(Errno::ENODEV);
        }
        engine.device().rearm().map_err(errno)?;
        Ok(Self {
            engine,
            imports: SpinLock::new(Imports::new()),
            next_synthetic: AtomicU64::new(SYNTHETIC_BASE),
            releases: WaitQueue::new(),
        })
    }

    fn is_translated(&self) -> bool {
        self.engine.device().domain().is_translated()
    }

    fn import(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut import: EduImport = memory.read(at)?;
        let file = caller.files.lock().get(import.fd)?.file.clone();
        let dma_buf = file.file().dma_buf().ok_or(Errno::EINVAL)?;
        let buffer = dma_buf.buffer();
        let part = part(buffer.len(), import.address, import.len).ok_or(Errno::EINVAL)?;
        let scattered = self.engine.supports_scatter_gather() && !self.is_translated();
        let placement = if scattered { MapPlacement::PerChunk } else { MapPlacement::Whole };
        let attachment = Attachment::of_part(self.engine.device(), buffer.clone(), part, placement);
        let attachment = heap::try_arc(attachment.map_err(errno)?).ok_or(Errno::ENOMEM)?;
        let range = self.range_of(&attachment);
        (import.address, import.len) = (range.start().raw(), range.len());
        memory.write(at, &import)?;
        dma_buf.add_attachment(&attachment)?;
        let import = heap::try_arc(Import { attachment, dma_buf: dma_buf.clone() }).ok_or(Errno::ENOMEM)?;
        let added = self.imports.lock().add(range, import);
        added.map_err(|_detached| Errno::ENOMEM)
    }

    /// Returns the addresses by which the program refers to the buffer.
    fn range_of(&self, attachment: &Attachment) -> AddrRange<Iova> {
        let len = attachment.range().len();
        if attachment.is_contiguous() {
            attachment.range()
        } else {
            synthetic_range(&self.next_synthetic, len)
        }
    }

    /// Detaches the buffer at `address`, after the copy that uses it.
    fn release(&self, address: u64) -> Result<(), Errno> {
        self.engine.reclaim();
        if !self.imports.lock().start_removal(address) {
            return Err(Errno::EINVAL);
        }
        let released = self.releases.wait_until(None, || match self.imports.lock().finish_removal(address) {
            Some(import) => Some(Ok(import)),
            None if self.engine.has_unfinished_job() => Some(Err(Errno::EBUSY)),
            None => None,
        });
        match released {
            Ok(Ok(import)) => drop(import),
            Ok(Err(error)) => {
                self.imports.lock().cancel_removal(address);
                return Err(error);
            }
            // The process is being killed: the file detaches the buffer when it is closed.
            Err(_) => {}
        }
        Ok(())
    }

    fn copy_import(&self, caller: &Caller<'_>, copy: &EduCopy) -> Result<(), Errno> {
        let direction = direction(copy)?;
        check_buffer_range(copy.buffer_offset, copy.len).map_err(copy_errno)?;
        let range = self.imports.lock().find(copy.address, copy.len).ok_or(Errno::EIO)?;
        let access = match direction {
            TransferDirection::FromMemory => BufferAccess::Read,
            TransferDirection::ToMemory => BufferAccess::Write,
        };
        let (driver, device) = (self.engine.driver(), self.engine.device().name());
        let start_access = |dma_buf: &DmaBuf| dma_buf.start_access(driver, device, access);
        let job = TransferJob::of_import(range, direction, copy.buffer_offset, start_access);
        let (accessed, result) = self.run(caller.process_id, job?);
        // Otherwise the device may still access the buffer, and the fence stays pending.
        if let Some(AccessedImport { fence, import }) = accessed {
            fence.signal(result);
            drop(import);
        }
        self.releases.wake_all();
        result
    }

    /// Runs a job for process `user`, and returns its memory unless the device may still access it.
    fn run<M: Send + 'static>(&self, user: u32, job: TransferJob<M>) -> (Option<M>, Result<(), Errno>) {
        if self.engine.device().is_quarantined() {
            return (Some(job.memory), Err(Errno::EIO));
        }
        let (memory, result) = self.engine.transfer_for(user, job);
        let result = match result {
            Ok(done) if done.is_complete() => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(TransferError::Clear(error)) => Err(errno(error)),
            Err(TransferError::Copy(error)) => Err(copy_errno(error)),
        };
        (memory, result)
    }

    /// Copies from or to pinned pages of the program. Without an IOMMU the pages are not contiguous, and each
    /// is copied by its own transfer.
    fn copy_pages(&self, caller: &Caller<'_>, copy: &EduCopy) -> Result<(), Errno> {
        check_buffer_range(copy.buffer_offset, copy.len).map_err(copy_errno)?;
        if self.is_translated() {
            return self.copy_range(caller, copy);
        }
        let mut done = 0;
        while done < copy.len {
            let address = copy.address.checked_add(done).ok_or(Errno::EFAULT)?;
            let len = (PAGE_SIZE - address % PAGE_SIZE).min(copy.len - done);
            let buffer_offset = copy.buffer_offset + done;
            self.copy_range(caller, &EduCopy { address, len, buffer_offset, ..*copy })?;
            done += len;
        }
        Ok(())
    }

    fn copy_range(&self, caller: &Caller<'_>, copy: &EduCopy) -> Result<(), Errno> {
        let direction = match direction(copy)? {
            TransferDirection::FromMemory => dma_api::Direction::ToDevice,
            TransferDirection::ToMemory => dma_api::Direction::FromDevice,
        };
        let range = AddrRange::from_len(UserVa::new(copy.address), copy.len).ok_or(Errno::EFAULT)?;
        let pages = caller.space.pin(range, direction.device_writes())?;
        let pages = heap::try_box(pages).ok_or(Errno::ENOMEM)?;
        let mapping =
            stream::map(self.engine.device(), pages, direction).map_err(|refused| errno(refused.error))?;
        let (mapping, result) =
            self.run(caller.process_id, TransferJob::of_stream(mapping, copy.buffer_offset));
        if let Some(mapping) = mapping {
            // The pages are unpinned once the device no longer reaches them.
            mapping.unmap().map_err(errno)?;
        }
        result
    }
}

/// Returns addresses for a scattered buffer of `len` bytes. Between two buffers is a gap of a page, so that
/// an overrun of one is not in the other.
fn synthetic_range(next: &AtomicU64, len: u64) -> AddrRange<Iova> {
    let start = Iova::new(next.fetch_add(len + PAGE_SIZE, Ordering::Relaxed));
    AddrRange::new(start, start + len)
}

fn copy_errno(error: CopyError) -> Errno {
    match error {
        CopyError::OutsideBuffer { .. } | CopyError::Unaligned { .. } => Errno::EINVAL,
        CopyError::PastMask { .. } => Errno::ERANGE,
        CopyError::Busy => Errno::EBUSY,
        CopyError::Gone => Errno::ENODEV,
        CopyError::TooMany { .. } | CopyError::Failed(_) | CopyError::TimedOut | CopyError::NotStopped => {
            Errno::EIO
        }
    }
}

fn direction(copy: &EduCopy) -> Result<TransferDirection, Errno> {
    match (copy.direction, copy.flags) {
        (EDU_TO_DEVICE, 0) => Ok(TransferDirection::FromMemory),
        (EDU_FROM_DEVICE, 0) => Ok(TransferDirection::ToMemory),
        _ => Err(Errno::EINVAL),
    }
}

/// Returns the range that an import selects in a buffer of `total` bytes: `len` bytes from `offset`, or the
/// rest of the buffer if `len` is 0. `None` if it is empty, not page-aligned, or exceeds the buffer.
fn part(total: u64, offset: u64, len: u64) -> Option<Range<u64>> {
    let end = if len == 0 { total } else { offset.checked_add(len)? };
    let pages = offset.is_multiple_of(PAGE_SIZE) && end.is_multiple_of(PAGE_SIZE);
    (pages && offset < end && end <= total).then_some(offset..end)
}

impl Drop for DmaEngineFile {
    fn drop(&mut self) {
        self.engine.reclaim();
    }
}

impl File for DmaEngineFile {
    fn poll(&self) -> PollEvents {
        if self.engine.is_gone() {
            PollEvents::ERR | PollEvents::HUP
        } else if self.engine.device().is_quarantined() {
            PollEvents::ERR
        } else {
            PollEvents::IN | PollEvents::OUT
        }
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let (memory, at) = (UserMemory::new(caller.space), UserVa::new(argument));
        if request == EDU_IMPORT.raw() {
            self.import(caller, at)?;
        } else if request == EDU_RELEASE.raw() {
            self.release(memory.read::<EduRelease>(at)?.device_address)?;
        } else if request == EDU_COPY.raw() {
            self.copy_import(caller, &memory.read(at)?)?;
        } else if request == EDU_COPY_PAGES.raw() {
            self.copy_pages(caller, &memory.read(at)?)?;
        } else {
            return Err(Errno::ENOTTY);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, engine, job, started};
    use super::*;
    use alloc::boxed::Box;

    #[test]
    fn quarantined_device_starts_no_job() {
        let device = device();
        let engine = engine(&device, &started(), || Ok(true));
        let file = DmaEngineFile::new(Box::leak(Box::new(engine))).unwrap();
        device.quarantine();
        assert_eq!(file.run(7, job('m')), (Some('m'), Err(Errno::EIO)));
        assert_eq!(file.poll(), PollEvents::ERR);
    }

    #[test]
    fn bytes_behind_a_scattered_buffer_are_in_no_other() {
        let next = AtomicU64::new(SYNTHETIC_BASE);
        let ranges = [PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE].map(|len| synthetic_range(&next, len));
        assert_eq!(ranges.map(|range| range.len()), [PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE]);
        assert_eq!(ranges[0].start().raw(), SYNTHETIC_BASE);
        for pair in ranges.windows(2) {
            assert_eq!(pair[1].start(), pair[0].end() + PAGE_SIZE);
        }
    }

    #[test]
    fn imports_name_whole_pages_of_the_buffer() {
        let total = 4 * PAGE_SIZE;
        for (offset, len, expected) in [
            (0, 0, Some(0..total)),
            (PAGE_SIZE, 0, Some(PAGE_SIZE..total)),
            (PAGE_SIZE, 2 * PAGE_SIZE, Some(PAGE_SIZE..3 * PAGE_SIZE)),
            (0, total, Some(0..total)),
            (total, 0, None),
            (0, total + PAGE_SIZE, None),
            (1, 0, None),
            (0, 1, None),
            (u64::MAX - PAGE_SIZE + 1, PAGE_SIZE, None),
        ] {
            assert_eq!(part(total, offset, len), expected, "{offset:#x} {len:#x}");
        }
    }
}
