//! `/dev/vfio/N`: a group, owned by the file that has it open.

use super::container::{Container, ContainerFile};
use super::device::DeviceFile;
use super::function::BoundFunction;
use super::group::{AttachedGroup, IommuGroup};
use super::iommufd::{Iommufd, IommufdFile};
use super::{argument, registry};
use crate::fs::generated::Text;
use crate::fs::{Caller, File, OpenFile};
use crate::memory::heap;
use crate::sched::Mutex;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::OpenFlags;
use abi::vfio::*;
use addr::UserVa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Write;

/// The longest name of a device, with the token of its physical function.
const NAME_MAX: usize = 128;

/// A group while its file or the file of one of its devices is open.
pub struct OpenGroup {
    group: Arc<IommuGroup>,
    state: Mutex<OpenGroupState>,
}

struct OpenGroupState {
    container: Option<GroupContainer>,
    /// Open files of devices.
    devices: u32,
}

/// The container of a group.
enum GroupContainer {
    Type1(Arc<Container>),
    /// An iommufd; attached with the first device.
    Iommufd(Arc<Iommufd>, Option<Arc<AttachedGroup>>),
}

impl OpenGroup {
    /// Returns the attachment.
    pub fn attached(&self) -> Option<Arc<AttachedGroup>> {
        match &self.state.lock().container {
            Some(GroupContainer::Type1(container)) => container.attached(&self.group),
            Some(GroupContainer::Iommufd(_, attached)) => attached.clone(),
            None => None,
        }
    }

    /// Ends the use by a device.
    pub fn device_closed(&self) {
        self.state.lock().devices -= 1;
    }

    fn set_container(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let fd: i32 = UserMemory::new(caller.space).read(at)?;
        let file = caller.files.lock().get(fd)?.file.clone();
        if !self.group.is_viable() {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        if state.container.is_some() {
            return Err(Errno::EINVAL);
        }
        state.container = Some(if let Some(container) = file.downcast::<ContainerFile>() {
            let container = container.container();
            container.add(&self.group)?;
            GroupContainer::Type1(container.clone())
        } else if let Some(iommufd) = file.downcast::<IommufdFile>() {
            iommufd.iommufd().compatible_space()?;
            GroupContainer::Iommufd(iommufd.iommufd().clone(), None)
        } else {
            return Err(Errno::EINVAL);
        });
        Ok(())
    }

    fn unset_container(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.devices > 0 {
            return Err(Errno::EBUSY);
        }
        let container = state.container.take().ok_or(Errno::EINVAL)?;
        drop(state);
        self.leave(container);
        Ok(())
    }

    fn leave(&self, container: GroupContainer) {
        match container {
            GroupContainer::Type1(container) => container.remove(&self.group),
            GroupContainer::Iommufd(_, attached) => drop(attached),
        }
    }

    /// Attaches the group, if the container does so with the first device, and counts a device.
    fn start_device(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        match &mut state.container {
            Some(GroupContainer::Type1(container)) => {
                container.attached(&self.group).ok_or(Errno::EINVAL)?;
            }
            Some(GroupContainer::Iommufd(iommufd, attached)) => {
                if attached.is_none() {
                    *attached = Some(self.group.attach(&iommufd.compatible_space()?)?);
                }
            }
            None => return Err(Errno::EINVAL),
        }
        state.devices += 1;
        Ok(())
    }

    fn open_device(self: &Arc<Self>, caller: &Caller<'_>, at: UserVa) -> Result<u64, Errno> {
        let name = UserMemory::new(caller.space).read_string(at, NAME_MAX)?;
        // A function of a group whose container has no type is not found before either.
        self.start_device()?;
        let opened = self.find(&name).and_then(|function| Ok((function.open()?, function)));
        let (open, _) = opened.inspect_err(|_| self.device_closed())?;
        open.unblock(self.attached().as_deref());
        let file = DeviceFile::of_group(self.clone(), open);
        OpenFile::open(caller.files, file, OpenFlags::READ_WRITE | OpenFlags::CLOEXEC).map(u64::from)
    }

    /// Returns the function with a name.
    ///
    /// # Errors
    /// `ENODEV` for another name, `EINVAL` for a token, which no function needs.
    fn find(&self, name: &[u8]) -> Result<Arc<BoundFunction>, Errno> {
        let (name, token) = match name.iter().position(|&byte| byte == b' ') {
            Some(at) => (&name[..at], Some(&name[at + 1..])),
            None => (name, None),
        };
        let found = registry::bound_in(&self.group, |function| function.name.as_bytes() == name);
        let found = found.ok_or(Errno::ENODEV)?;
        if token.is_some() { Err(Errno::EINVAL) } else { Ok(found) }
    }

    fn status(&self) -> u32 {
        let viable = if self.group.is_viable() { GROUP_VIABLE } else { 0 };
        let container = if self.state.lock().container.is_some() { GROUP_CONTAINER_SET } else { 0 };
        viable | container
    }
}

impl Drop for OpenGroup {
    fn drop(&mut self) {
        if let Some(container) = self.state.get_mut().container.take() {
            self.leave(container);
        }
        self.group.release_file();
    }
}

/// An open file of a group.
pub struct GroupFile(Arc<OpenGroup>);

impl GroupFile {
    /// # Errors
    /// `EBUSY` if the group has an owner, `ENOMEM`.
    pub fn open(group: &Arc<IommuGroup>) -> Result<Box<dyn File>, Errno> {
        group.claim_for_file()?;
        let state = Mutex::new(OpenGroupState { container: None, devices: 0 });
        // Released by the drop of the value, also if it is dropped here.
        let open = heap::try_arc(OpenGroup { group: group.clone(), state }).ok_or(Errno::ENOMEM)?;
        crate::fs::boxed(Self(open))
    }
}

impl File for GroupFile {
    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        const STATUS: u32 = VFIO_GROUP_GET_STATUS.raw();
        const SET: u32 = VFIO_GROUP_SET_CONTAINER.raw();
        const UNSET: u32 = VFIO_GROUP_UNSET_CONTAINER.raw();
        const DEVICE: u32 = VFIO_GROUP_GET_DEVICE_FD.raw();
        let at = UserVa::new(argument);
        match request {
            STATUS => {
                let memory = UserMemory::new(caller.space);
                let (status, size) = argument::read::<GroupStatus>(memory, at, size_of::<GroupStatus>())?;
                argument::write(memory, at, &GroupStatus { flags: self.0.status(), ..status }, size)?;
            }
            SET => self.0.set_container(caller, at)?,
            UNSET => self.0.unset_container()?,
            DEVICE => return self.0.open_device(caller, at),
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        Ok(write!(out, "/dev/vfio/{}", self.0.group.number)?)
    }
}
