//! The file of a device: regions, interrupts and reset.
//!
//! It comes from the file of a group, or is `/dev/vfio/devices/vfioN`, which is bound to an iommufd first.

use super::argument;
use super::function::{BoundFunction, OpenFunction};
use super::group::AttachedGroup;
use super::group_file::OpenGroup;
use super::interrupts::{self, IrqData};
use super::iommufd::{Iommufd, IommufdFile};
use crate::fs::eventfd::EventFd;
use crate::fs::generated::Text;
use crate::fs::{Caller, File, OpenFile};
use crate::memory::vmalloc;
use crate::sched::Mutex;
use crate::vm::access::UserMemory;
use crate::vm::registers::RegisterRegion;
use abi::Errno;
use abi::vfio::*;
use addr::{AddrRange, MemoryType, PhysAddr, UserVa};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use drivers::mmio::MmioWindow;
use drivers::pcie::{BarKind, Width};

/// An open file of a device.
pub struct DeviceFile {
    function: Arc<BoundFunction>,
    state: Mutex<DeviceState>,
}

/// The owner of the device.
enum DeviceState {
    /// `/dev/vfio/devices/vfioN` before it is bound.
    Unbound,
    Group {
        group: Arc<OpenGroup>,
        open: OpenFunction,
    },
    Iommufd(IommufdDevice),
    /// The file is being closed.
    Closed,
}

/// A device that is bound to an iommufd.
struct IommufdDevice {
    iommufd: Arc<Iommufd>,
    id: u32,
    open: OpenFunction,
    attached: Option<DeviceAttachment>,
}

/// The attachment to an I/O address space.
struct DeviceAttachment {
    group: Arc<AttachedGroup>,
    /// The id of its page table.
    page_table: u32,
}

impl DeviceFile {
    /// The file of a device of an open group, which counts it.
    pub fn of_group(group: Arc<OpenGroup>, open: OpenFunction) -> Self {
        Self { function: open.function().clone(), state: Mutex::new(DeviceState::Group { group, open }) }
    }

    /// Opens `/dev/vfio/devices/vfioN`.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn open(function: &Arc<BoundFunction>) -> Result<Box<dyn File>, Errno> {
        let state = Mutex::new(DeviceState::Unbound);
        crate::fs::boxed(Self { function: function.clone(), state })
    }

    /// Calls `operation` with the open function and its attachment.
    ///
    /// # Errors
    /// `EINVAL` before the device is bound.
    fn with_open<R>(
        &self,
        operation: impl FnOnce(&OpenFunction, Option<&AttachedGroup>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        match &*self.state.lock() {
            DeviceState::Group { group, open } => operation(open, group.attached().as_deref()),
            DeviceState::Iommufd(bound) => {
                operation(&bound.open, bound.attached.as_ref().map(|attached| &*attached.group))
            }
            DeviceState::Unbound | DeviceState::Closed => Err(Errno::EINVAL),
        }
    }

    fn bind(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read::<BindIommufd>(memory, at, BIND_MIN)?;
        if argument.flags & !BIND_TOKEN != 0 || argument.iommufd < 0 {
            return Err(Errno::EINVAL);
        }
        if argument.flags & BIND_TOKEN != 0 {
            // Only a virtual function, or a physical one with virtual functions, has a token.
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        let DeviceState::Unbound = *state else { return Err(Errno::EINVAL) };
        let file = caller.files.lock().get(argument.iommufd)?.file.clone();
        let iommufd = file.downcast::<IommufdFile>().ok_or(Errno::EBADFD)?.iommufd().clone();
        let group = &self.function.group;
        group.claim_for_iommufd(iommufd.key())?;
        if self.function.is_open() {
            // By another file of the same owner.
            group.release_iommufd();
            return Err(Errno::EINVAL);
        }
        let bound = self.open_bound(iommufd);
        let bound = bound.inspect_err(|_| self.function.group.release_iommufd())?;
        argument.out_devid = bound.id;
        *state = DeviceState::Iommufd(bound);
        argument::write(memory, at, &argument, size)
    }

    fn open_bound(&self, iommufd: Arc<Iommufd>) -> Result<IommufdDevice, Errno> {
        let id = iommufd.add_device()?;
        let open = self.function.open().inspect_err(|_| iommufd.remove(id))?;
        Ok(IommufdDevice { iommufd, id, open, attached: None })
    }

    fn attach(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut argument, size) = argument::read::<AttachIommufd>(memory, at, size_of::<AttachIommufd>())?;
        if argument.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        let DeviceState::Iommufd(bound) = &mut *state else { return Err(Errno::EINVAL) };
        let (space, id) = bound.iommufd.space(argument.pt_id)?;
        if let Some(attached) = &bound.attached {
            if Arc::ptr_eq(attached.group.ioas(), &space) {
                argument.pt_id = attached.page_table;
                return argument::write(memory, at, &argument, size);
            }
            bound.open.disable_messages();
            detach(&bound.iommufd, &mut bound.attached);
        }
        let group = self.function.group.attach(&space)?;
        bound.open.unblock(Some(&group));
        let page_table = bound.iommufd.add_page_table(id)?;
        bound.attached = Some(DeviceAttachment { group, page_table });
        argument.pt_id = page_table;
        argument::write(memory, at, &argument, size)
    }

    fn detach(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (argument, _) = argument::read::<DetachIommufd>(memory, at, size_of::<DetachIommufd>())?;
        let mut state = self.state.lock();
        match &mut *state {
            DeviceState::Iommufd(bound) if argument.flags == 0 => {
                bound.open.disable_messages();
                detach(&bound.iommufd, &mut bound.attached);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn info(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        /// `argsz` up to and including `num_irqs`.
        const MIN: usize = 16;
        let memory = UserMemory::new(caller.space);
        let (argument, size) = argument::read::<DeviceInfo>(memory, at, MIN)?;
        let reset = if self.with_open(|open, _| Ok(open.function().can_reset()))? { DEVICE_RESET } else { 0 };
        let info = DeviceInfo {
            argsz: size.min(size_of::<DeviceInfo>()) as u32,
            flags: DEVICE_PCI | reset,
            num_regions: NUM_REGIONS,
            num_irqs: NUM_IRQS,
            cap_offset: 0,
            ..argument
        };
        argument::write(memory, at, &info, size)
    }

    fn region_info(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut info, size) = argument::read::<RegionInfo>(memory, at, size_of::<RegionInfo>())?;
        let (len, flags) = self.with_open(|open, _| region(open, info.index))?;
        let head = size_of::<RegionInfo>();
        let has_capability = flags.contains(RegionFlags::CAPS);
        let capability = CapabilityHeader { id: REGION_CAP_MSIX_MAPPABLE, version: 1, next: 0 };
        let fits = has_capability && size >= head + size_of::<CapabilityHeader>();
        info.flags = flags.bits();
        info.cap_offset = if fits { head as u32 } else { 0 };
        if has_capability && !fits {
            info.argsz = (head + size_of::<CapabilityHeader>()) as u32;
        }
        info.size = len;
        info.offset = u64::from(info.index) << REGION_SHIFT;
        argument::write(memory, at, &info, size)?;
        if fits { memory.write(at + head as u64, &capability) } else { Ok(()) }
    }

    fn irq_info(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (mut info, size) = argument::read::<IrqInfo>(memory, at, size_of::<IrqInfo>())?;
        let (count, flags) = self.with_open(|open, _| interrupts::count(open.function(), info.index))?;
        info.flags = flags.bits();
        info.count = count;
        argument::write(memory, at, &info, size)
    }

    fn set_interrupts(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let (request, size) = argument::read::<IrqSet>(memory, at, size_of::<IrqSet>())?;
        let flags = IrqSetFlags::from_bits(request.flags).ok_or(Errno::EINVAL)?;
        let actions = flags & (IrqSetFlags::MASK | IrqSetFlags::UNMASK | IrqSetFlags::TRIGGER);
        let (vectors, _) = self.with_open(|open, _| interrupts::count(open.function(), request.index))?;
        let end = request.start.checked_add(request.count).ok_or(Errno::EINVAL)?;
        if request.start >= vectors || end > vectors || actions.bits().count_ones() != 1 {
            return Err(Errno::EINVAL);
        }
        let data = read_data(caller, &request, flags.difference(actions), at, size)?;
        self.with_open(|open, attached| open.set_interrupts(attached, &request, data))
    }

    /// Reads or writes a region in aligned pieces.
    fn access(
        &self,
        offset: u64,
        len: usize,
        mut transfer: impl FnMut(
            usize,
            Width,
            &mut dyn FnMut(Option<u32>) -> Result<u32, Errno>,
        ) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        let (index, start) = ((offset >> REGION_SHIFT) as u32, offset & ((1 << REGION_SHIFT) - 1));
        self.with_open(|open, attached| {
            let window = RegionWindow::new(open, attached, index, start, len)?;
            let len = window.len;
            let mut done = 0;
            while done < len {
                let at = start + done as u64;
                let width = width(at, len - done);
                transfer(done, width, &mut |value| window.access(at, width, value))?;
                done += width as usize;
            }
            Ok(len)
        })
    }
}

/// Reads the data that follows `request`, of `size` bytes in all.
///
/// # Errors
/// `EINVAL` for a smaller size or another kind of data, also for a descriptor that is no eventfd; `EBADF`.
fn read_data(
    caller: &Caller<'_>,
    request: &IrqSet,
    kind: IrqSetFlags,
    at: UserVa,
    size: usize,
) -> Result<IrqData, Errno> {
    let (memory, count) = (UserMemory::new(caller.space), request.count as usize);
    let start = at + size_of::<IrqSet>() as u64;
    let has = |bytes: usize| if size - size_of::<IrqSet>() < bytes { Err(Errno::EINVAL) } else { Ok(()) };
    match kind {
        IrqSetFlags::DATA_NONE => Ok(IrqData::None),
        IrqSetFlags::DATA_BOOL => {
            has(count)?;
            let mut bools = Vec::new();
            bools.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
            bools.resize(count, 0);
            memory.read_bytes(start, &mut bools)?;
            Ok(IrqData::Bools(bools))
        }
        IrqSetFlags::DATA_EVENTFD => {
            has(4 * count)?;
            let mut triggers = Vec::new();
            triggers.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
            for vector in 0..count as u64 {
                let fd: i32 = memory.read(start + 4 * vector)?;
                triggers.push(if fd < 0 { None } else { Some(eventfd(caller, fd)?) });
            }
            Ok(IrqData::Eventfds(triggers))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn eventfd(caller: &Caller<'_>, fd: i32) -> Result<Arc<OpenFile>, Errno> {
    let file = caller.files.lock().get(fd)?.file.clone();
    if file.downcast::<EventFd>().is_some() { Ok(file) } else { Err(Errno::EINVAL) }
}

/// The maximum number of bytes of a BAR per call: the kernel is not preemptible.
const ACCESS_MAX: usize = 64 << 10;

/// The widest access at `at` of up to `left` bytes.
fn width(at: u64, left: usize) -> Width {
    match () {
        () if at.is_multiple_of(4) && left >= 4 => Width::Word,
        () if at.is_multiple_of(2) && left >= 2 => Width::Half,
        () => Width::Byte,
    }
}

/// A region during a `pread` or `pwrite`.
enum RegionTarget<'a> {
    Config(&'a OpenFunction, Option<&'a AttachedGroup>),
    /// The pages of a BAR, and the offset in the region of their first byte.
    Bar(&'a OpenFunction, vmalloc::KernelMapping, u64),
}

struct RegionWindow<'a> {
    target: RegionTarget<'a>,
    len: usize,
}

impl<'a> RegionWindow<'a> {
    /// # Errors
    /// `EFAULT` beyond configuration space, `EINVAL` beyond another region, `EIO` if its memory is disabled.
    fn new(
        open: &'a OpenFunction,
        attached: Option<&'a AttachedGroup>,
        index: u32,
        start: u64,
        len: usize,
    ) -> Result<Self, Errno> {
        let (size, _) = region(open, index)?;
        if index == REGION_CONFIG {
            let fits = start.checked_add(len as u64).is_some_and(|end| end <= size);
            let target = RegionTarget::Config(open, attached);
            return if fits { Ok(Self { target, len }) } else { Err(Errno::EFAULT) };
        }
        if start >= size {
            return Err(Errno::EINVAL);
        }
        let len = len.min((size - start) as usize).min(ACCESS_MAX);
        let registers = bar(open, index)?.ok_or(Errno::EIO)?;
        let part = AddrRange::new(registers.start() + start, registers.start() + start + len as u64);
        let memory = open.region(index).map_or(MemoryType::Device, |region| region.memory());
        let mapping = vmalloc::map_registers_for_access(part, memory).map_err(|_| Errno::ENOMEM)?;
        let first = start - (registers.start() + start).raw() % addr::PAGE_SIZE;
        Ok(Self { target: RegionTarget::Bar(open, mapping, first), len })
    }

    /// Reads a register, or writes `value`.
    fn access(&self, at: u64, width: Width, value: Option<u32>) -> Result<u32, Errno> {
        match (&self.target, value) {
            (RegionTarget::Config(open, _), None) => Ok(open.read_config(at as u16, width)),
            (RegionTarget::Config(open, attached), Some(value)) => {
                open.write_config(at as u16, width, value, *attached).map(|()| value)
            }
            (RegionTarget::Bar(open, mapping, first), value) => open.access_registers(|| {
                // SAFETY: mapped as Device memory while `mapping` exists; the registers are those of a
                // function whose user accesses them as it likes.
                let mut window = unsafe { MmioWindow::new(mapping.range().start(), mapping.range().len()) };
                let at = at - first;
                match (width, value) {
                    (Width::Byte, None) => return window.read8(at).into(),
                    (Width::Half, None) => return window.read16(at).into(),
                    (Width::Word, None) => return window.read32(at),
                    (Width::Byte, Some(value)) => window.write8(at, value as u8),
                    (Width::Half, Some(value)) => window.write16(at, value as u16),
                    (Width::Word, Some(value)) => window.write32(at, value),
                }
                0
            }),
        }
    }
}

/// Returns the size and the flags of a region.
///
/// # Errors
/// `EINVAL` for a region that no function has.
fn region(open: &OpenFunction, index: u32) -> Result<(u64, RegionFlags), Errno> {
    let access = RegionFlags::READ | RegionFlags::WRITE;
    match index {
        REGION_CONFIG => Ok((open.config_size().into(), access)),
        REGION_ROM => Ok((0, RegionFlags::empty())),
        0..6 => {
            let bar = open.function().with(|_, function| function.bars[index as usize])?;
            let mut flags = access;
            flags.set(RegionFlags::MMAP, open.region(index).is_some());
            flags.set(RegionFlags::CAPS, open.region(index).is_some() && open.message_table() == Some(index));
            Ok(bar.map_or((0, RegionFlags::empty()), |bar| (bar.size, flags)))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Returns the registers of a memory BAR.
fn bar(open: &OpenFunction, index: u32) -> Result<Option<AddrRange<PhysAddr>>, Errno> {
    open.function().with(|_, function| {
        let bar = function.bars[index as usize].filter(|bar| bar.kind != BarKind::Io)?;
        bar.registers
    })
}

/// Detaches the group if no other device of it is attached, and removes the page table.
fn detach(iommufd: &Iommufd, attached: &mut Option<DeviceAttachment>) {
    if let Some(DeviceAttachment { group, page_table }) = attached.take() {
        drop(group);
        iommufd.remove(page_table);
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        match core::mem::replace(self.state.get_mut(), DeviceState::Closed) {
            DeviceState::Group { group, open } => {
                open.close(group.attached().as_deref());
                group.device_closed();
            }
            DeviceState::Iommufd(IommufdDevice { iommufd, id, open, mut attached }) => {
                open.close(attached.as_ref().map(|attached| &*attached.group));
                detach(&iommufd, &mut attached);
                iommufd.remove(id);
                self.function.group.release_iommufd();
            }
            DeviceState::Unbound | DeviceState::Closed => {}
        }
    }
}

impl File for DeviceFile {
    fn read_at(&self, memory: UserMemory<'_>, to: UserVa, len: usize, offset: u64) -> Result<usize, Errno> {
        self.access(offset, len, |done, width, access| {
            let value = access(None)?.to_le_bytes();
            memory.write_bytes(to + done as u64, &value[..width as usize])
        })
    }

    fn write_at(
        &self,
        memory: UserMemory<'_>,
        from: UserVa,
        len: usize,
        offset: u64,
    ) -> Result<usize, Errno> {
        self.access(offset, len, |done, width, access| {
            let mut value = [0; 4];
            memory.read_bytes(from + done as u64, &mut value[..width as usize])?;
            access(Some(u32::from_le_bytes(value))).map(drop)
        })
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        const INFO: u32 = VFIO_DEVICE_GET_INFO.raw();
        const REGION: u32 = VFIO_DEVICE_GET_REGION_INFO.raw();
        const IRQ: u32 = VFIO_DEVICE_GET_IRQ_INFO.raw();
        const SET_IRQS: u32 = VFIO_DEVICE_SET_IRQS.raw();
        const RESET: u32 = VFIO_DEVICE_RESET.raw();
        const BIND: u32 = VFIO_DEVICE_BIND_IOMMUFD.raw();
        const ATTACH: u32 = VFIO_DEVICE_ATTACH_IOMMUFD_PT.raw();
        const DETACH: u32 = VFIO_DEVICE_DETACH_IOMMUFD_PT.raw();
        let at = UserVa::new(argument);
        match request {
            INFO => self.info(caller, at)?,
            REGION => self.region_info(caller, at)?,
            IRQ => self.irq_info(caller, at)?,
            SET_IRQS => self.set_interrupts(caller, at)?,
            RESET => self.with_open(OpenFunction::reset)?,
            BIND => self.bind(caller, at)?,
            ATTACH => self.attach(caller, at)?,
            DETACH => self.detach(caller, at)?,
            _ => {
                self.with_open(|_, _| Ok(()))?;
                return Err(Errno::ENOTTY);
            }
        }
        Ok(0)
    }

    fn registers(&self, offset: u64, len: u64) -> Option<Result<(Arc<RegisterRegion>, u64), Errno>> {
        let (index, start) = ((offset >> REGION_SHIFT) as u32, offset & ((1 << REGION_SHIFT) - 1));
        Some(self.with_open(|open, _| {
            let region = open.region(index).ok_or(Errno::EINVAL)?;
            region.part(start, len).ok_or(Errno::EINVAL)?;
            Ok((region, start))
        }))
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        Ok(write!(out, "anon_inode:[vfio-device]:{}", self.function.name)?)
    }
}
