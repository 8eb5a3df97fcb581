//! `/dev/events`: what has been counted since boot, for a program that measures what it causes.

use super::{Device, File, stat_device};
use crate::dma::events;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::Stat;
use addr::UserVa;
use alloc::string::ToString;

/// The counts at the moment of each read, as words `name=count`.
pub struct EventsFile;

impl File for EventsFile {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let text = events::read().to_string();
        let here = &text.as_bytes()[..text.len().min(len)];
        memory.write_bytes(to, here)?;
        Ok(here.len())
    }

    fn stat(&self) -> Stat {
        stat_device(Device::Events.number())
    }
}
