//! `/dev/vfio/vfio`: containers of groups with a type1 IOMMU, and the same calls for an iommufd.

use super::argument;
use super::group::{AttachedGroup, IommuGroup};
use super::ioas::{Ioas, MappedMemory, UnmapRule};
use crate::fs::generated::Text;
use crate::fs::{Caller, File};
use crate::memory::heap;
use crate::sched::Mutex;
use crate::vm::access::UserMemory;
use crate::vm::registers::DeviceMapping;
use abi::Errno;
use abi::vfio::*;
use addr::{AddrRange, Address, Iova, PAGE_SIZE, UserVa};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// The maximum number of mappings of a container, as in Linux.
const MAPPINGS_MAX: usize = 65535;
/// The page sizes that a mapping can use: 4 KiB, 2 MiB and 1 GiB.
const PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;

/// The rules of the calls on mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type1 {
    /// `VFIO_TYPE1_IOMMU`
    Version1,
    /// `VFIO_TYPE1v2_IOMMU`
    Version2,
    /// An iommufd.
    Compatible,
}

/// Groups in one I/O address space.
pub struct Container {
    state: Mutex<ContainerState>,
}

struct ContainerState {
    /// Exists once the type is set, until the last group leaves.
    space: Option<(Arc<Ioas>, Type1)>,
    groups: Vec<MemberGroup>,
}

struct MemberGroup {
    group: Arc<IommuGroup>,
    /// Exists once the type is set.
    attached: Option<Arc<AttachedGroup>>,
}

impl Container {
    /// Adds a group, and attaches it if the type is set.
    ///
    /// # Errors
    /// `ENOMEM`, those of [`IommuGroup::attach`].
    pub fn add(&self, group: &Arc<IommuGroup>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.groups.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let attached = match &state.space {
            Some((space, _)) => Some(group.attach(space)?),
            None => None,
        };
        state.groups.push(MemberGroup { group: group.clone(), attached });
        Ok(())
    }

    /// Removes a group; the last one ends the I/O address space.
    pub fn remove(&self, group: &Arc<IommuGroup>) {
        let mut state = self.state.lock();
        let at = state.groups.iter().position(|member| Arc::ptr_eq(&member.group, group));
        let removed = at.map(|at| state.groups.swap_remove(at));
        let space = if state.groups.is_empty() { state.space.take() } else { None };
        drop(state);
        drop(removed);
        drop(space);
    }

    /// Returns the attachment of a group, once the type is set.
    pub fn attached(&self, group: &Arc<IommuGroup>) -> Option<Arc<AttachedGroup>> {
        let state = self.state.lock();
        let member = state.groups.iter().find(|member| Arc::ptr_eq(&member.group, group))?;
        member.attached.clone()
    }

    fn space(&self) -> Option<(Arc<Ioas>, Type1)> {
        self.state.lock().space.clone()
    }

    fn set_type(&self, kind: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.space.is_some() || state.groups.is_empty() {
            return Err(Errno::EINVAL);
        }
        let rules = match kind {
            TYPE1_IOMMU => Type1::Version1,
            TYPE1V2_IOMMU => Type1::Version2,
            _ => return Err(Errno::ENODEV),
        };
        let space = Ioas::new(MAPPINGS_MAX)?;
        for at in 0..state.groups.len() {
            match state.groups[at].group.attach(&space) {
                Ok(attached) => state.groups[at].attached = Some(attached),
                Err(error) => {
                    state.groups.iter_mut().for_each(|member| member.attached = None);
                    return Err(error);
                }
            }
        }
        state.space = Some((space, rules));
        Ok(())
    }

    fn supports(&self, extension: u64) -> u64 {
        let has_type = self.state.lock().space.is_some();
        match extension {
            TYPE1_IOMMU | TYPE1V2_IOMMU | UNMAP_ALL => 1,
            UPDATE_VADDR if has_type => 1,
            _ => 0,
        }
    }
}

/// An open file of `/dev/vfio/vfio`.
pub struct ContainerFile(Arc<Container>);

impl ContainerFile {
    /// # Errors
    /// `ENOMEM`
    pub fn open() -> Result<Box<dyn File>, Errno> {
        let state = ContainerState { space: None, groups: Vec::new() };
        let container = heap::try_arc(Container { state: Mutex::new(state) }).ok_or(Errno::ENOMEM)?;
        crate::fs::boxed(Self(container))
    }

    pub fn container(&self) -> &Arc<Container> {
        &self.0
    }
}

impl File for ContainerFile {
    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        const API: u32 = VFIO_GET_API_VERSION.raw();
        const EXTENSION: u32 = VFIO_CHECK_EXTENSION.raw();
        const SET: u32 = VFIO_SET_IOMMU.raw();
        match request {
            API => Ok(API_VERSION),
            EXTENSION => Ok(self.0.supports(argument)),
            SET => self.0.set_type(argument).map(|()| 0),
            _ => {
                let (space, rules) = self.0.space().ok_or(Errno::EINVAL)?;
                mappings_ioctl(caller, &space, rules, request, UserVa::new(argument))
            }
        }
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"/dev/vfio/vfio")
    }
}

/// The calls on the mappings of a container, or of an iommufd as a container.
///
/// # Errors
/// `ENOTTY` for another call; those of the call.
pub fn mappings_ioctl(
    caller: &Caller<'_>,
    space: &Ioas,
    rules: Type1,
    request: u32,
    at: UserVa,
) -> Result<u64, Errno> {
    const INFO: u32 = VFIO_IOMMU_GET_INFO.raw();
    const MAP: u32 = VFIO_IOMMU_MAP_DMA.raw();
    const UNMAP: u32 = VFIO_IOMMU_UNMAP_DMA.raw();
    match request {
        INFO => info(caller, space, rules, at),
        MAP => map(caller, space, rules, at),
        UNMAP => unmap(caller, space, rules, at),
        _ => Err(Errno::ENOTTY),
    }?;
    Ok(0)
}

/// `argsz` up to and including `iova_pgsizes`.
const INFO_MIN: usize = 16;

fn info(caller: &Caller<'_>, space: &Ioas, rules: Type1, at: UserVa) -> Result<(), Errno> {
    let memory = UserMemory::new(caller.space);
    let (_, room) = argument::read::<Type1Info>(memory, at, INFO_MIN)?;
    let usable = space.usable()?;
    let available = match rules {
        Type1::Version1 | Type1::Version2 => space.available()? as u32,
        Type1::Compatible => u32::MAX,
    };
    let capabilities = capabilities(rules, available, &usable)?;
    let head = size_of::<Type1Info>();
    let fits = room >= head + capabilities.len();
    let info = Type1Info {
        // An iommufd reports the size always, a container only if there is no room.
        argsz: if fits && rules != Type1::Compatible { room } else { head + capabilities.len() } as u32,
        flags: TYPE1_INFO_PGSIZES | TYPE1_INFO_CAPS,
        iova_pgsizes: PAGE_SIZES,
        cap_offset: if fits { head as u32 } else { 0 },
        gap: 0,
    };
    argument::write(memory, at, &info, room)?;
    if fits { memory.write_bytes(at + head as u64, &capabilities) } else { Ok(()) }
}

/// Returns the capabilities that follow [`Type1Info`].
fn capabilities(rules: Type1, available: u32, usable: &[(u64, u64)]) -> Result<Vec<u8>, Errno> {
    let mut out = Text::default();
    let head = size_of::<Type1Info>() as u32;
    let header = |out: &mut Text, id, len: u32, is_last: bool| {
        let next = if is_last { 0 } else { head + out.0.len() as u32 + len };
        out.push(CapabilityHeader { id, version: 1, next }.as_bytes())
    };
    if rules != Type1::Compatible {
        // Dirty pages are not tracked: no page sizes, no bitmap.
        header(&mut out, TYPE1_CAP_MIGRATION, 32, false)?;
        out.push(&[0; 8])?;
        out.push(&PAGE_SIZE.to_le_bytes())?;
        out.push(&[0; 8])?;
    }
    header(&mut out, TYPE1_CAP_DMA_AVAIL, 16, false)?;
    out.push(&available.to_le_bytes())?;
    out.push(&[0; 4])?;
    header(&mut out, TYPE1_CAP_IOVA_RANGE, 16 + 16 * usable.len() as u32, true)?;
    out.push(&(usable.len() as u32).to_le_bytes())?;
    out.push(&[0; 4])?;
    for (start, last) in usable {
        out.push(&start.to_le_bytes())?;
        out.push(&last.to_le_bytes())?;
    }
    Ok(out.0)
}

/// Returns the range of `len` bytes at `start`.
///
/// # Errors
/// `EINVAL` unless it is whole pages, `EOVERFLOW` if its end is beyond 2^64.
pub fn pages(start: u64, len: u64) -> Result<AddrRange<Iova>, Errno> {
    let at = Iova::new(start);
    if len == 0 || !len.is_multiple_of(PAGE_SIZE) || !at.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    AddrRange::from_len(at, len).ok_or(Errno::EOVERFLOW)
}

/// Pins the pages at `at` in the program.
///
/// # Errors
/// `EINVAL` unless `at` is page-aligned, `EOVERFLOW`, `EFAULT`, `ENOMEM`.
pub fn pin(caller: &Caller<'_>, at: u64, len: u64, is_written: bool) -> Result<MappedMemory, Errno> {
    let start = UserVa::new(at);
    if !start.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let range = AddrRange::from_len(start, len).ok_or(Errno::EOVERFLOW)?;
    Ok(MappedMemory::Pages(caller.space.pin(range, is_written)?))
}

fn map(caller: &Caller<'_>, space: &Ioas, rules: Type1, at: UserVa) -> Result<(), Errno> {
    let memory = UserMemory::new(caller.space);
    let (argument, _) = argument::read::<Type1Map>(memory, at, size_of::<Type1Map>())?;
    let flags = Type1MapFlags::from_bits(argument.flags).filter(|flags| !flags.is_empty());
    let is_written = flags.ok_or(Errno::EINVAL)?.contains(Type1MapFlags::WRITE);
    let range = pages(argument.iova, argument.size)?;
    space.check(range)?;
    let pinned = pin(caller, argument.vaddr, argument.size, is_written);
    let memory = match pinned {
        // An iommufd refuses registers.
        Err(Errno::EFAULT) if rules != Type1::Compatible => registers(caller, &argument)?,
        pinned => pinned?,
    };
    space.map(range, memory, is_written)
}

/// Returns the registers that the program has mapped there.
///
/// # Errors
/// `EFAULT` if there are none.
fn registers(caller: &Caller<'_>, argument: &Type1Map) -> Result<MappedMemory, Errno> {
    let range = AddrRange::from_len(UserVa::new(argument.vaddr), argument.size).ok_or(Errno::EFAULT)?;
    let (region, offset) = caller.space.registers_at(range)?.ok_or(Errno::EFAULT)?;
    let registers = region.part(offset, argument.size).ok_or(Errno::EFAULT)?;
    let users = DeviceMapping::new(region).ok_or(Errno::EFAULT)?;
    Ok(MappedMemory::Registers(users, registers))
}

fn unmap(caller: &Caller<'_>, space: &Ioas, rules: Type1, at: UserVa) -> Result<(), Errno> {
    let memory = UserMemory::new(caller.space);
    let (mut argument, size) = argument::read::<Type1Unmap>(memory, at, size_of::<Type1Unmap>())?;
    argument.size = match argument.flags {
        DMA_UNMAP_ALL if argument.iova == 0 && argument.size == 0 => space.unmap_all()?,
        0 => unmap_range(space, rules, argument.iova, argument.size)?,
        _ => return Err(Errno::EINVAL),
    };
    argument::write(memory, at, &argument, size)
}

fn unmap_range(space: &Ioas, rules: Type1, iova: u64, len: u64) -> Result<u64, Errno> {
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let range = match (rules, AddrRange::from_len(Iova::new(iova), len)) {
        (_, None) => return Err(Errno::EOVERFLOW),
        (Type1::Compatible, Some(range)) => range,
        (Type1::Version1 | Type1::Version2, Some(_)) => pages(iova, len)?,
    };
    match rules {
        Type1::Version1 => space.unmap(range, UnmapRule::Coerced),
        Type1::Version2 => space.unmap(range, UnmapRule::Whole),
        Type1::Compatible => space.unmap(range, UnmapRule::Whole).map_err(|error| match error {
            Errno::EINVAL => Errno::ENOENT,
            other => other,
        }),
    }
}
