//! `pidfd_open`: a process as a file, which is readable once the process has exited.

use super::tree;
use crate::fs::generated::Text;
use crate::fs::readiness::Watchable;
use crate::fs::{Caller, File};
use crate::vm::access::UserMemory;
use abi::file::PollEvents;
use abi::process::{PIDFD_INFO_CREDS, PIDFD_INFO_PID, PidFdInfo, is_pidfd_get_info};
use abi::{Errno, Ioctl};
use addr::{Address, UserVa};
use core::fmt::Write;

/// The id stays valid, since no other process gets it.
pub struct PidFd(u32);

impl PidFd {
    /// # Errors
    /// `ESRCH` if the process does not exist, or its parent has waited for it.
    pub fn new(id: u32) -> Result<Self, Errno> {
        tree::with(|tree| tree.find(id)).map(|_| Self(id))
    }

    /// That of a child which will get `id`.
    pub fn of_child(id: u32) -> Self {
        Self(id)
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.0
    }
}

impl File for PidFd {
    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:[pidfd]")
    }

    fn describe_state(&self, _: usize, out: &mut Text) -> Result<(), Errno> {
        // -1 once the parent has waited for it.
        let id = tree::with(|tree| tree.find(self.0)).map_or(-1, |_| i64::from(self.0));
        Ok(write!(out, "Pid:\t{id}\nNSpid:\t{id}\n")?)
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let len = Ioctl::from_raw(request).output_len();
        if !is_pidfd_get_info(request) || len < size_of::<PidFdInfo>() {
            return Err(Errno::ENOTTY);
        }
        if argument == 0 {
            return Err(Errno::EINVAL);
        }
        let id = self.0;
        let parent = tree::with(|tree| tree.find(id).map(|_| tree.parent(id)))?;
        let mask = PIDFD_INFO_PID | PIDFD_INFO_CREDS;
        let info = PidFdInfo { mask, pid: id, tgid: id, ppid: parent, ..PidFdInfo::default() };
        let memory = UserMemory::new(caller.space);
        memory.write(UserVa::new(argument), &info)?;
        // The fields of later versions are not valid.
        let rest = UserVa::new(argument).checked_add(size_of::<PidFdInfo>() as u64).ok_or(Errno::EFAULT)?;
        memory.write_generated(rest, len - size_of::<PidFdInfo>(), |bytes| bytes.fill(0))?;
        Ok(0)
    }

    fn poll(&self) -> PollEvents {
        let readable = PollEvents::IN | PollEvents::RDNORM;
        match tree::with(|tree| tree.find(self.0).map(|process| process.is_some())) {
            Ok(true) => PollEvents::empty(),
            Ok(false) => readable,
            Err(_) => readable | PollEvents::HUP,
        }
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(tree::exit_watchers())
    }
}
