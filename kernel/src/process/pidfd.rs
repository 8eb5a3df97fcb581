//! `pidfd_open`: a process as a file, which is readable once the process has exited.

use super::tree;
use crate::fs::File;
use crate::fs::generated::Text;
use crate::fs::readiness::Watchable;
use abi::Errno;
use abi::file::PollEvents;
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
