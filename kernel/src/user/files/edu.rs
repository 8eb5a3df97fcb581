//! `/dev/edu0`: a program's own use of a device, within what it was given.
//!
//! What the program names as a device address is put on the bus as it is: the IOMMU lets the device reach what was
//! imported, by whichever open file, and nothing else. Where there is none, the address has to be inside of what was
//! imported by this one.

use super::dma_buf::errno;
use super::{Device, File, stat_device};
use crate::devices::edu::Edu;
use crate::dma::{Attachment, Fit, stream};
use crate::sync::SpinLock;
use crate::user::access::UserMemory;
use crate::user::process::Process;
use abi::Errno;
use abi::device::*;
use abi::file::{PollEvents, Stat};
use addr::{AddrRange, Iova, UserVa};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use drivers::edu::{Direction, EduError, Transfer};

/// The open device, with the buffers that were imported through it: closed, the device reaches them no more.
pub struct EduFile {
    edu: &'static Edu,
    imports: SpinLock<Vec<Arc<Attachment>>>,
}

impl EduFile {
    /// An open `edu`. If it was blocked for its faults, it gets another chance.
    pub fn new(edu: &'static Edu) -> Result<Self, Errno> {
        edu.device().rearm().map_err(errno)?;
        Ok(Self { edu, imports: SpinLock::new(Vec::new()) })
    }

    fn import(&self, process: &Process, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(&process.space);
        let mut import: EduImport = memory.read(at)?;
        let file = process.files.lock().get(import.fd)?.file.clone();
        let dma_buf = file.file().dma_buf().ok_or(Errno::EINVAL)?;
        // The device may reach only the start of a buffer that is larger than all it can address.
        let attachment =
            Attachment::new(self.edu.device(), dma_buf.buffer().clone(), Fit::Start).map_err(errno)?;
        let attachment = Arc::new(attachment);
        (import.device_address, import.len) = (attachment.range().start().raw(), dma_buf.buffer().len());
        memory.write(at, &import)?;
        dma_buf.attached(&attachment);
        self.imports.lock().push(attachment);
        Ok(())
    }

    fn release(&self, address: u64) -> Result<(), Errno> {
        let released = {
            let mut imports = self.imports.lock();
            let found = imports.iter().position(|import| import.range().start().raw() == address);
            imports.swap_remove(found.ok_or(Errno::EINVAL)?)
        };
        // Outside of the lock: it waits for the IOMMU.
        drop(released);
        Ok(())
    }

    /// Without IOMMU the kernel is the judge.
    fn check_reach(&self, copy: &EduCopy) -> Result<(), Errno> {
        if self.edu.device().domain().is_translated() {
            return Ok(());
        }
        let wanted = AddrRange::from_len(Iova::new(copy.address), copy.len).ok_or(Errno::EFAULT)?;
        let reachable = self.imports.lock().iter().any(|import| import.range().covers(&wanted));
        if reachable { Ok(()) } else { Err(Errno::EFAULT) }
    }

    fn copy(&self, memory: Iova, copy: &EduCopy) -> Result<(), Errno> {
        let (direction, device) = (direction(copy)?, self.edu.device());
        if device.is_quarantined() {
            return Err(Errno::EIO);
        }
        let faults = device.faults();
        let transfer = Transfer { direction, memory, offset: copy.buffer_offset, len: copy.len };
        self.edu.transfer(transfer).map_err(|error| match error {
            EduError::OutsideBuffer { .. } => Errno::EINVAL,
            EduError::PastMask { .. } => Errno::ERANGE,
            EduError::Busy => Errno::EBUSY,
            _ => Errno::EIO,
        })?;
        // The device itself does not know.
        if device.faults() == faults { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Lends the program's own pages to the device for one copy.
    fn copy_pages(&self, process: &Process, copy: &EduCopy) -> Result<(), Errno> {
        let towards = match direction(copy)? {
            Direction::FromMemory => dma_api::Direction::ToDevice,
            Direction::ToMemory => dma_api::Direction::FromDevice,
        };
        if copy.len == 0 || copy.len > EDU_BUFFER_BYTES {
            return Err(Errno::EINVAL);
        }
        let range = AddrRange::from_len(UserVa::new(copy.address), copy.len).ok_or(Errno::EFAULT)?;
        let pages = process.space.pin(range, towards.device_writes())?;
        let lent = stream::map(self.edu.device(), Box::new(pages), towards)
            .map_err(|refused| errno(refused.error))?;
        let result = self.copy(lent.iova(), copy);
        // Unpinned when the device has forgotten them.
        lent.unmap().map_err(errno)?;
        result
    }
}

fn direction(copy: &EduCopy) -> Result<Direction, Errno> {
    match (copy.direction, copy.flags) {
        (EDU_TO_DEVICE, 0) => Ok(Direction::FromMemory),
        (EDU_FROM_DEVICE, 0) => Ok(Direction::ToMemory),
        _ => Err(Errno::EINVAL),
    }
}

impl File for EduFile {
    fn poll(&self) -> PollEvents {
        if self.edu.device().is_quarantined() { PollEvents::ERR } else { PollEvents::IN | PollEvents::OUT }
    }

    fn stat(&self) -> Stat {
        stat_device(Device::Edu.number())
    }

    fn ioctl(&self, process: &Process, request: u32, argument: u64) -> Result<u64, Errno> {
        let (memory, at) = (UserMemory::new(&process.space), UserVa::new(argument));
        if request == EDU_IMPORT.raw() {
            self.import(process, at)?;
        } else if request == EDU_RELEASE.raw() {
            self.release(memory.read::<EduRelease>(at)?.device_address)?;
        } else if request == EDU_COPY.raw() {
            let copy: EduCopy = memory.read(at)?;
            self.check_reach(&copy)?;
            self.copy(Iova::new(copy.address), &copy)?;
        } else if request == EDU_COPY_PAGES.raw() {
            self.copy_pages(process, &memory.read(at)?)?;
        } else {
            return Err(Errno::ENOTTY);
        }
        Ok(0)
    }
}
