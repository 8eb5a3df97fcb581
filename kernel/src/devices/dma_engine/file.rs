//! The device node of a DMA engine (`/dev/edu0`, `/dev/bcm2835-dma0`): imports of dma-bufs and copies.
//!
//! Behind an IOMMU a copy's device address is used as it is: the device reaches the buffers imported through
//! any open file of the node, and nothing else. Without an IOMMU the address must be inside a buffer imported
//! through this file. There the buffer can also be scattered if the engine supports scatter-gather. It has no
//! contiguous bus addresses then, and gets an address that is valid in this file only ([`SYNTHETIC_BASE`]).

use super::{DmaEngineDevice, TransferError};
use crate::dma::{Attachment, MapPlacement, stream};
use crate::fs::char_device::DeviceNumber;
use crate::fs::dma_buf::errno;
use crate::fs::{Caller, File, stat_device};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::edu::*;
use abi::file::{PollEvents, Stat};
use addr::{AddrRange, Iova, PAGE_SIZE, UserVa};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use drivers::dma_engine::{CopyError, Transfer, TransferDirection};

/// The start of the addresses of scattered buffers: above all bus addresses.
const SYNTHETIC_BASE: u64 = 1 << 52;

/// An open file of the node, with the buffers imported through it. Closing it detaches them from the device.
pub struct DmaEngineFile {
    engine: &'static DmaEngineDevice,
    number: DeviceNumber,
    imports: SpinLock<Imports>,
}

struct Imports {
    all: Vec<Import>,
    /// The address of the next scattered buffer; never reused.
    next: u64,
}

/// An imported buffer, and its address for the program.
#[derive(Clone)]
struct Import {
    address: u64,
    attachment: Arc<Attachment>,
}

impl Import {
    fn range(&self) -> AddrRange<Iova> {
        let start = Iova::new(self.address);
        AddrRange::new(start, start + self.attachment.buffer().len())
    }
}

impl DmaEngineFile {
    /// Opens the device, and ends its quarantine.
    pub fn new(engine: &'static DmaEngineDevice, number: DeviceNumber) -> Result<Self, Errno> {
        engine.device().rearm().map_err(errno)?;
        Ok(Self { engine, number, imports: SpinLock::new(Imports { all: Vec::new(), next: SYNTHETIC_BASE }) })
    }

    fn is_translated(&self) -> bool {
        self.engine.device().domain().is_translated()
    }

    fn import(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut import: EduImport = memory.read(at)?;
        let file = caller.files.lock().get(import.fd)?.file.clone();
        let dma_buf = file.file().dma_buf().ok_or(Errno::EINVAL)?;
        let scattered = self.engine.supports_scatter_gather() && !self.is_translated();
        // A device whose mask is smaller than the buffer reaches the start of it.
        let fit = if scattered { MapPlacement::PerChunk } else { MapPlacement::Start };
        let attachment =
            Attachment::new(self.engine.device(), dma_buf.buffer().clone(), fit).map_err(errno)?;
        let attachment = Arc::new(attachment);
        let address = self.address_of(&attachment);
        (import.device_address, import.len) = (address, dma_buf.buffer().len());
        memory.write(at, &import)?;
        dma_buf.add_attachment(&attachment);
        self.imports.lock().all.push(Import { address, attachment });
        Ok(())
    }

    /// Returns the address by which the program refers to the buffer.
    fn address_of(&self, attachment: &Attachment) -> u64 {
        if attachment.is_contiguous() {
            return attachment.range().start().raw();
        }
        let mut imports = self.imports.lock();
        let address = imports.next;
        // With a gap of a page, so that an overrun of one buffer is not in the next.
        imports.next += attachment.buffer().len() + PAGE_SIZE;
        address
    }

    fn release(&self, address: u64) -> Result<(), Errno> {
        let released = {
            let mut imports = self.imports.lock();
            let found = imports.all.iter().position(|import| import.address == address);
            imports.all.swap_remove(found.ok_or(Errno::EINVAL)?)
        };
        // Outside of the lock: the detach waits for the IOMMU.
        drop(released);
        Ok(())
    }

    /// Returns the transfers of a copy from or to imported buffers. Without an IOMMU the address is checked
    /// here, and resolved to the chunks.
    fn transfers(&self, copy: &EduCopy) -> Result<Vec<Transfer>, Errno> {
        let direction = direction(copy)?;
        if self.is_translated() {
            let (memory, offset) = (Iova::new(copy.address), copy.buffer_offset);
            return Ok(Vec::from([Transfer { direction, memory, offset, len: copy.len }]));
        }
        if copy.len == 0 || copy.len > EDU_BUFFER_BYTES {
            return Err(Errno::EINVAL);
        }
        let wanted = AddrRange::from_len(Iova::new(copy.address), copy.len).ok_or(Errno::EFAULT)?;
        let import = {
            let imports = self.imports.lock();
            imports.all.iter().find(|import| import.range().covers(&wanted)).cloned().ok_or(Errno::EFAULT)?
        };
        let first = copy.address - import.address;
        let pieces = import.attachment.bus_ranges(first, first + copy.len);
        gather(direction, copy.buffer_offset, pieces)
    }

    fn copy(&self, caller: &Caller<'_>, transfers: &[Transfer]) -> Result<(), Errno> {
        if self.engine.device().is_quarantined() {
            return Err(Errno::EIO);
        }
        let done = self.engine.transfer_for(caller.process_id, transfers).map_err(|error| match error {
            TransferError::Clear(error) => errno(error),
            TransferError::Copy(CopyError::OutsideBuffer { .. } | CopyError::Unaligned { .. }) => {
                Errno::EINVAL
            }
            TransferError::Copy(CopyError::PastMask { .. }) => Errno::ERANGE,
            TransferError::Copy(CopyError::Busy) => Errno::EBUSY,
            TransferError::Copy(_) => Errno::EIO,
        })?;
        if done.is_complete() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Copies from or to pinned pages of the program. Without an IOMMU the pages are not contiguous, and each
    /// is copied by its own transfer.
    fn copy_pages(&self, caller: &Caller<'_>, copy: &EduCopy) -> Result<(), Errno> {
        if copy.len == 0 || copy.len > EDU_BUFFER_BYTES {
            return Err(Errno::EINVAL);
        }
        if self.is_translated() {
            return self.copy_range(caller, copy);
        }
        let mut done = 0;
        while done < copy.len {
            let address = copy.address.checked_add(done).ok_or(Errno::EFAULT)?;
            let len = (PAGE_SIZE - address % PAGE_SIZE).min(copy.len - done);
            let buffer_offset = copy.buffer_offset.checked_add(done).ok_or(Errno::EINVAL)?;
            self.copy_range(caller, &EduCopy { address, len, buffer_offset, ..*copy })?;
            done += len;
        }
        Ok(())
    }

    fn copy_range(&self, caller: &Caller<'_>, copy: &EduCopy) -> Result<(), Errno> {
        let direction = direction(copy)?;
        let dma_direction = match direction {
            TransferDirection::FromMemory => dma_api::Direction::ToDevice,
            TransferDirection::ToMemory => dma_api::Direction::FromDevice,
        };
        let range = AddrRange::from_len(UserVa::new(copy.address), copy.len).ok_or(Errno::EFAULT)?;
        let pages = caller.space.pin(range, dma_direction.device_writes())?;
        let mapping = stream::map(self.engine.device(), Box::new(pages), dma_direction)
            .map_err(|refused| errno(refused.error))?;
        let (memory, offset) = (mapping.iova(), copy.buffer_offset);
        let result = self.copy(caller, &[Transfer { direction, memory, offset, len: copy.len }]);
        // The pages are unpinned once the device no longer reaches them.
        mapping.unmap().map_err(errno)?;
        result
    }
}

/// Returns a transfer for each piece of memory, at consecutive offsets of the device's buffer from `offset`
/// on.
fn gather(
    direction: TransferDirection,
    offset: u64,
    pieces: Vec<AddrRange<Iova>>,
) -> Result<Vec<Transfer>, Errno> {
    let mut next = Some(offset);
    let transfer = |piece: AddrRange<Iova>| {
        let offset = next.ok_or(Errno::EINVAL)?;
        next = offset.checked_add(piece.len());
        Ok(Transfer { direction, memory: piece.start(), offset, len: piece.len() })
    };
    pieces.into_iter().map(transfer).collect()
}

fn direction(copy: &EduCopy) -> Result<TransferDirection, Errno> {
    match (copy.direction, copy.flags) {
        (EDU_TO_DEVICE, 0) => Ok(TransferDirection::FromMemory),
        (EDU_FROM_DEVICE, 0) => Ok(TransferDirection::ToMemory),
        _ => Err(Errno::EINVAL),
    }
}

impl File for DmaEngineFile {
    fn poll(&self) -> PollEvents {
        if self.engine.device().is_quarantined() { PollEvents::ERR } else { PollEvents::IN | PollEvents::OUT }
    }

    fn stat(&self) -> Stat {
        stat_device(self.number.rdev())
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let (memory, at) = (UserMemory::new(caller.space), UserVa::new(argument));
        if request == EDU_IMPORT.raw() {
            self.import(caller, at)?;
        } else if request == EDU_RELEASE.raw() {
            self.release(memory.read::<EduRelease>(at)?.device_address)?;
        } else if request == EDU_COPY.raw() {
            self.copy(caller, &self.transfers(&memory.read(at)?)?)?;
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
    use super::*;

    #[test]
    fn pieces_are_consecutive_in_the_device_buffer() {
        let piece = |at, len| AddrRange::from_len(Iova::new(at), len).unwrap();
        let list =
            gather(TransferDirection::ToMemory, 8, vec![piece(0xc000_0ff0, 16), piece(0xd000_0000, 4)]);
        let transfer = |memory, offset, len| Transfer {
            direction: TransferDirection::ToMemory,
            memory: Iova::new(memory),
            offset,
            len,
        };
        assert_eq!(list, Ok(vec![transfer(0xc000_0ff0, 8, 16), transfer(0xd000_0000, 24, 4)]));
        let wraps = gather(TransferDirection::ToMemory, u64::MAX, vec![piece(0, 4), piece(8, 4)]);
        assert_eq!(wraps, Err(Errno::EINVAL));
    }
}
