//! `/dev/edu0`, and what other machines have in its place: a program's own use of a device that copies, within what it
//! was given.
//!
//! What the program names as a device address is put on the bus as it is: the IOMMU lets the device reach what was
//! imported, by whichever open file, and nothing else. Where there is none, the address has to be inside of what was
//! imported by this one. There a buffer may lie in pieces as well, if the device gathers: it has no range of addresses
//! on the bus then, so it gets one that only this file knows ([`NAMES`]).

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

/// Where the names of buffers in pieces start: above what any device puts on a bus.
const NAMES: u64 = 1 << 52;

/// The open device, with the buffers that were imported through it: closed, the device reaches them no more.
pub struct DmaEngineFile {
    engine: &'static DmaEngineDevice,
    number: DeviceNumber,
    imports: SpinLock<Imports>,
}

struct Imports {
    all: Vec<Import>,
    /// The name of the next buffer in pieces; never used twice.
    next: u64,
}

/// A buffer, and what the program calls its first byte.
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
    /// An open device. If it was blocked for its faults, it gets another chance.
    pub fn new(engine: &'static DmaEngineDevice, number: DeviceNumber) -> Result<Self, Errno> {
        engine.device().rearm().map_err(errno)?;
        Ok(Self { engine, number, imports: SpinLock::new(Imports { all: Vec::new(), next: NAMES }) })
    }

    fn is_translated(&self) -> bool {
        self.engine.device().domain().is_translated()
    }

    fn import(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut import: EduImport = memory.read(at)?;
        let file = caller.files.lock().get(import.fd)?.file.clone();
        let dma_buf = file.file().dma_buf().ok_or(Errno::EINVAL)?;
        let in_pieces = self.engine.gathers() && !self.is_translated();
        // The device may reach only the start of a buffer that is larger than all it can address.
        let fit = if in_pieces { MapPlacement::Pieces } else { MapPlacement::Start };
        let attachment =
            Attachment::new(self.engine.device(), dma_buf.buffer().clone(), fit).map_err(errno)?;
        let attachment = Arc::new(attachment);
        let address = self.name(&attachment);
        (import.device_address, import.len) = (address, dma_buf.buffer().len());
        memory.write(at, &import)?;
        dma_buf.attached(&attachment);
        self.imports.lock().all.push(Import { address, attachment });
        Ok(())
    }

    /// What the program is to call the buffer's first byte.
    fn name(&self, attachment: &Attachment) -> u64 {
        if attachment.is_one_range() {
            return attachment.range().start().raw();
        }
        let mut imports = self.imports.lock();
        let name = imports.next;
        // With a page between two of them, so that what passes the end of one is nobody's.
        imports.next += attachment.buffer().len() + PAGE_SIZE;
        name
    }

    fn release(&self, address: u64) -> Result<(), Errno> {
        let released = {
            let mut imports = self.imports.lock();
            let found = imports.all.iter().position(|import| import.address == address);
            imports.all.swap_remove(found.ok_or(Errno::EINVAL)?)
        };
        // Outside of the lock: it waits for the IOMMU.
        drop(released);
        Ok(())
    }

    /// The transfers of a copy from or to imported buffers. Without IOMMU the kernel is the judge, and knows the pieces.
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
        let pieces = import.attachment.pieces(first, first + copy.len);
        in_order(direction, copy.buffer_offset, pieces)
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
        if done.is_whole() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Lends the program's own pages to the device for one copy. Without IOMMU they are no range, so one after the other.
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
        let towards = match direction {
            TransferDirection::FromMemory => dma_api::Direction::ToDevice,
            TransferDirection::ToMemory => dma_api::Direction::FromDevice,
        };
        let range = AddrRange::from_len(UserVa::new(copy.address), copy.len).ok_or(Errno::EFAULT)?;
        let pages = caller.space.pin(range, towards.device_writes())?;
        let lent = stream::map(self.engine.device(), Box::new(pages), towards)
            .map_err(|refused| errno(refused.error))?;
        let (memory, offset) = (lent.iova(), copy.buffer_offset);
        let result = self.copy(caller, &[Transfer { direction, memory, offset, len: copy.len }]);
        // Unpinned when the device has forgotten them.
        lent.unmap().map_err(errno)?;
        result
    }
}

/// A transfer for each piece of memory, at consecutive places of the device's buffer from `offset` on.
fn in_order(
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
    fn pieces_follow_each_other_in_the_devices_buffer() {
        let piece = |at, len| AddrRange::from_len(Iova::new(at), len).unwrap();
        let list =
            in_order(TransferDirection::ToMemory, 8, vec![piece(0xc000_0ff0, 16), piece(0xd000_0000, 4)]);
        let transfer = |memory, offset, len| Transfer {
            direction: TransferDirection::ToMemory,
            memory: Iova::new(memory),
            offset,
            len,
        };
        assert_eq!(list, Ok(vec![transfer(0xc000_0ff0, 8, 16), transfer(0xd000_0000, 24, 4)]));
        let wraps = in_order(TransferDirection::ToMemory, u64::MAX, vec![piece(0, 4), piece(8, 4)]);
        assert_eq!(wraps, Err(Errno::EINVAL));
    }
}
