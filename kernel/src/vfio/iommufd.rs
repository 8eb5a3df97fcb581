//! `/dev/iommu`: I/O address spaces, and the devices that are bound to an open file of it.

use super::argument;
use super::container::{self, Type1};
use super::ioas::{Ioas, MappedMemory, UnmapRule};
use crate::fs::generated::Text;
use crate::fs::{Caller, File};
use crate::memory::heap;
use crate::sched::Mutex;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::iommufd::*;
use abi::vfio::{
    API_VERSION, DMA_CC_IOMMU, TYPE1_IOMMU, TYPE1V2_IOMMU, UNMAP_ALL, VFIO_CHECK_EXTENSION,
    VFIO_GET_API_VERSION, VFIO_SET_IOMMU,
};
use addr::{AddrRange, Iova, PAGE_SIZE, UserVa};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// The maximum number of objects of a file.
const OBJECTS_MAX: usize = 1 << 16;

/// The state of an open file, which its bound devices keep.
pub struct Iommufd {
    state: Mutex<IommufdState>,
}

struct IommufdState {
    /// The object with id `n` is at `n - 1`.
    objects: Vec<Option<IommufdObject>>,
    /// The I/O address space of the calls of a container.
    compatible: Option<Arc<Ioas>>,
}

enum IommufdObject {
    Ioas(Arc<Ioas>),
    /// A bound device.
    Device,
    /// The page table of the address space with this id, for an attached device.
    PageTable(u32),
}

impl Iommufd {
    /// The identity in [`IommuGroup::claim_for_iommufd`](super::group::IommuGroup::claim_for_iommufd).
    pub fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Returns the I/O address space of the calls of a container.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn compatible_space(&self) -> Result<Arc<Ioas>, Errno> {
        let mut state = self.state.lock();
        if let Some(space) = &state.compatible {
            return Ok(space.clone());
        }
        let space = Ioas::new(usize::MAX)?;
        state.add(IommufdObject::Ioas(space.clone()))?;
        state.compatible = Some(space.clone());
        Ok(space)
    }

    /// Adds a bound device, and returns its id.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn add_device(&self) -> Result<u32, Errno> {
        self.state.lock().add(IommufdObject::Device)
    }

    /// Adds the page table of an attached device, and returns its id.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn add_page_table(&self, space: u32) -> Result<u32, Errno> {
        self.state.lock().add(IommufdObject::PageTable(space))
    }

    /// Removes a bound device or a page table.
    pub fn remove(&self, id: u32) {
        if let Some(object) = self.state.lock().object_mut(id) {
            *object = None;
        }
    }

    /// Returns an I/O address space, given by its id or that of one of its page tables, with its id.
    ///
    /// # Errors
    /// `ENOENT`
    pub fn space(&self, id: u32) -> Result<(Arc<Ioas>, u32), Errno> {
        let state = self.state.lock();
        let id = match state.object(id) {
            Some(IommufdObject::PageTable(space)) => *space,
            _ => id,
        };
        match state.object(id) {
            Some(IommufdObject::Ioas(space)) => Ok((space.clone(), id)),
            _ => Err(Errno::ENOENT),
        }
    }

    fn destroy(&self, id: u32) -> Result<(), Errno> {
        let mut state = self.state.lock();
        match state.object(id).ok_or(Errno::ENOENT)? {
            IommufdObject::Ioas(space) => {
                let is_compatible = state.compatible.as_ref().is_some_and(|other| Arc::ptr_eq(other, space));
                let others = if is_compatible { 2 } else { 1 };
                if Arc::strong_count(space) > others {
                    return Err(Errno::EBUSY);
                }
                if is_compatible {
                    state.compatible = None;
                }
            }
            IommufdObject::Device | IommufdObject::PageTable(_) => return Err(Errno::EBUSY),
        }
        let removed = state.object_mut(id).and_then(Option::take);
        drop(state);
        drop(removed);
        Ok(())
    }

    fn supports(&self, extension: u64) -> Result<u64, Errno> {
        let has_space = self.state.lock().compatible.is_some();
        match extension {
            TYPE1_IOMMU | TYPE1V2_IOMMU | UNMAP_ALL => Ok(1),
            // Depends on the devices.
            DMA_CC_IOMMU if has_space => Ok(1),
            DMA_CC_IOMMU => Err(Errno::ENODEV),
            _ => Ok(0),
        }
    }

    /// Accepts the type of a container: the address space has the same rules for both.
    fn set_type(&self, kind: u64) -> Result<(), Errno> {
        match kind {
            _ if self.state.lock().compatible.is_none() => Err(Errno::ENODEV),
            TYPE1_IOMMU | TYPE1V2_IOMMU => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl IommufdState {
    fn object(&self, id: u32) -> Option<&IommufdObject> {
        self.objects.get((id as usize).checked_sub(1)?)?.as_ref()
    }

    fn object_mut(&mut self, id: u32) -> Option<&mut Option<IommufdObject>> {
        self.objects.get_mut((id as usize).checked_sub(1)?)
    }

    /// Adds an object with the lowest free id.
    fn add(&mut self, object: IommufdObject) -> Result<u32, Errno> {
        let free = self.objects.iter().position(Option::is_none);
        let at = match free {
            Some(at) => at,
            None => {
                if self.objects.len() == OBJECTS_MAX || self.objects.try_reserve(1).is_err() {
                    return Err(Errno::ENOMEM);
                }
                self.objects.push(None);
                self.objects.len() - 1
            }
        };
        self.objects[at] = Some(object);
        Ok(at as u32 + 1)
    }
}

/// An open file of `/dev/iommu`.
pub struct IommufdFile(Arc<Iommufd>);

impl IommufdFile {
    /// # Errors
    /// `ENOMEM`
    pub fn open() -> Result<Box<dyn File>, Errno> {
        let state = IommufdState { objects: Vec::new(), compatible: None };
        let iommufd = heap::try_arc(Iommufd { state: Mutex::new(state) }).ok_or(Errno::ENOMEM)?;
        crate::fs::boxed(Self(iommufd))
    }

    pub fn iommufd(&self) -> &Arc<Iommufd> {
        &self.0
    }

    fn alloc_space(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read_extensible::<IoasAlloc>(memory, at)?;
        if argument.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let space = Ioas::new(usize::MAX)?;
        argument.out_ioas_id = self.0.state.lock().add(IommufdObject::Ioas(space))?;
        argument::write(memory, at, &argument, size).inspect_err(|_| self.0.remove(argument.out_ioas_id))
    }

    fn iova_ranges(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read_extensible::<IoasIovaRanges>(memory, at)?;
        if argument.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (space, _) = self.0.space(argument.ioas_id)?;
        let usable = space.usable()?;
        let room = argument.num_iovas as usize;
        argument.num_iovas = usable.len() as u32;
        argument.out_iova_alignment = if space.is_attached()? { PAGE_SIZE } else { 1 };
        for (index, &(start, last)) in usable.iter().take(room).enumerate() {
            let to = argument.allowed_iovas.checked_add(16 * index as u64).ok_or(Errno::EFAULT)?;
            memory.write_bytes(UserVa::new(to), IovaRange { start, last }.as_bytes())?;
        }
        argument::write(memory, at, &argument, size)?;
        if room < usable.len() { Err(Errno::EMSGSIZE) } else { Ok(()) }
    }

    fn map(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read_extensible::<IoasMap>(memory, at)?;
        let flags = map_flags(argument.flags)?;
        if argument.reserved != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let request = self.request(argument.ioas_id, flags, argument.iova, argument.length)?;
        request.check()?;
        let pages = container::pin(caller, argument.user_va, argument.length, request.is_written)?;
        argument.iova = request.map(pages)?;
        argument::write(memory, at, &argument, size)
    }

    /// Maps a part of a dma-buf: scattered buffers too, without a mapping of the kernel.
    fn map_file(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read_extensible::<IoasMapFile>(memory, at)?;
        let flags = map_flags(argument.flags)?;
        let file = caller.files.lock().get(argument.fd)?.file.clone();
        let buffer = file.file().dma_buf().ok_or(Errno::EINVAL)?.buffer().clone();
        let end = argument.start.checked_add(argument.length).ok_or(Errno::EOVERFLOW)?;
        if !argument.start.is_multiple_of(PAGE_SIZE) || end > buffer.len() {
            return Err(Errno::EINVAL);
        }
        let request = self.request(argument.ioas_id, flags, argument.iova, argument.length)?;
        argument.iova = request.map(MappedMemory::Buffer(buffer, argument.start..end))?;
        argument::write(memory, at, &argument, size)
    }

    fn request(&self, space: u32, flags: IoasMapFlags, iova: u64, len: u64) -> Result<IoasRequest, Errno> {
        let (space, _) = self.0.space(space)?;
        let at = if flags.contains(IoasMapFlags::FIXED_IOVA) { iova } else { 0 };
        let range = container::pages(at, len)?;
        let is_fixed = flags.contains(IoasMapFlags::FIXED_IOVA);
        Ok(IoasRequest { space, range, is_fixed, is_written: flags.contains(IoasMapFlags::WRITEABLE) })
    }

    fn unmap(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read_extensible::<IoasUnmap>(memory, at)?;
        let (space, _) = self.0.space(argument.ioas_id)?;
        argument.length = if (argument.iova, argument.length) == (0, u64::MAX) {
            space.unmap_all()?
        } else {
            unmap_range(&space, argument.iova, argument.length)?
        };
        argument::write(memory, at, &argument, size)
    }
}

/// A request for a mapping.
struct IoasRequest {
    space: Arc<Ioas>,
    /// From IOVA 0 if it is not fixed.
    range: AddrRange<Iova>,
    is_fixed: bool,
    is_written: bool,
}

impl IoasRequest {
    fn check(&self) -> Result<(), Errno> {
        if self.is_fixed { self.space.check(self.range) } else { Ok(()) }
    }

    /// Maps the memory, and returns its IOVA.
    fn map(&self, memory: MappedMemory) -> Result<u64, Errno> {
        let at = if self.is_fixed {
            self.space.map(self.range, memory, self.is_written).map(|()| self.range.start())
        } else {
            self.space.map_anywhere(self.range.len(), memory, self.is_written)
        };
        at.map(Iova::raw)
    }
}

fn map_flags(flags: u32) -> Result<IoasMapFlags, Errno> {
    let flags = IoasMapFlags::from_bits(flags).ok_or(Errno::EOPNOTSUPP)?;
    if !flags.intersects(IoasMapFlags::READABLE | IoasMapFlags::WRITEABLE) {
        return Err(Errno::EINVAL);
    }
    Ok(flags)
}

/// # Errors
/// `ENOENT` if there is no mapping, or a part of one.
fn unmap_range(space: &Ioas, iova: u64, len: u64) -> Result<u64, Errno> {
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let range = AddrRange::from_len(Iova::new(iova), len).ok_or(Errno::EOVERFLOW)?;
    match space.unmap(range, UnmapRule::Whole) {
        Ok(0) | Err(Errno::EINVAL) => Err(Errno::ENOENT),
        result => result,
    }
}

impl File for IommufdFile {
    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        const DESTROY: u32 = IOMMU_DESTROY.raw();
        const ALLOC: u32 = IOMMU_IOAS_ALLOC.raw();
        const RANGES: u32 = IOMMU_IOAS_IOVA_RANGES.raw();
        const MAP: u32 = IOMMU_IOAS_MAP.raw();
        const MAP_FILE: u32 = IOMMU_IOAS_MAP_FILE.raw();
        const UNMAP: u32 = IOMMU_IOAS_UNMAP.raw();
        const API: u32 = VFIO_GET_API_VERSION.raw();
        const EXTENSION: u32 = VFIO_CHECK_EXTENSION.raw();
        const SET_TYPE: u32 = VFIO_SET_IOMMU.raw();
        let at = UserVa::new(argument);
        match request {
            DESTROY => {
                let (argument, _) = argument::read_extensible::<Destroy>(UserMemory::new(caller.space), at)?;
                self.0.destroy(argument.id)?;
            }
            ALLOC => self.alloc_space(caller, at)?,
            RANGES => self.iova_ranges(caller, at)?,
            MAP => self.map(caller, at)?,
            MAP_FILE => self.map_file(caller, at)?,
            UNMAP => self.unmap(caller, at)?,
            API => return Ok(API_VERSION),
            EXTENSION => return self.0.supports(argument),
            SET_TYPE => self.0.set_type(argument)?,
            _ if is_call_of_linux(request) => return Err(Errno::EOPNOTSUPP),
            _ => {
                let space = self.0.state.lock().compatible.clone();
                return match space {
                    Some(space) => container::mappings_ioctl(caller, &space, Type1::Compatible, request, at),
                    None if is_call_of_container(request) => Err(Errno::ENODEV),
                    None => Err(Errno::ENOTTY),
                };
            }
        }
        Ok(0)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"/dev/iommu")
    }
}

fn is_call_of_linux(request: u32) -> bool {
    let number = request as u8;
    request >> 8 == IOMMU_DESTROY.raw() >> 8 && NUMBERS.contains(&number)
}

fn is_call_of_container(request: u32) -> bool {
    let (first, last) = (abi::vfio::VFIO_IOMMU_GET_INFO.raw(), abi::vfio::VFIO_IOMMU_UNMAP_DMA.raw());
    (first..=last).contains(&request)
}
