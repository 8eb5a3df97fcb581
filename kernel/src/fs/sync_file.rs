//! Sync files: the fences of buffers that were pending at one time, as a file that becomes readable when all
//! are signalled.

use super::generated::Text;
use super::{Caller, File, OpenFile};
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::{OpenFlags, PollEvents};
use abi::sync_file::*;
use addr::{Address, UserVa};
use core::fmt::{self, Display, Write};
use program::{FenceSet, FenceSignal};

/// The bytes of a name, with its terminating zero.
type Name = [u8; SYNC_NAME_LEN];

pub struct SyncFile {
    fences: FenceSet,
    /// The name that the program gave to a merged file; empty otherwise.
    name: Name,
}

impl SyncFile {
    pub fn new(fences: FenceSet) -> Self {
        Self { fences, name: [0; SYNC_NAME_LEN] }
    }

    /// Adds the file to the table of the caller, and passes its number to `report`.
    pub fn open(
        self,
        caller: &Caller<'_>,
        report: impl FnOnce(u32) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let file = OpenFile::try_new(self, OpenFlags::empty())?;
        super::insert_and_report(caller.files, file, true, report)
    }

    fn merge(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut merge: SyncMerge = memory.read(at)?;
        if merge.flags != 0 || merge.pad != 0 {
            return Err(Errno::EINVAL);
        }
        let other = caller.files.lock().get(merge.fd2).map(|open| open.file.clone());
        let other = other.map_err(|_| Errno::ENOENT)?;
        let fences = self.fences.merged(other.file().fences().ok_or(Errno::ENOENT)?)?;
        // Before the name is returned to the program, too.
        merge.name[SYNC_NAME_LEN - 1] = 0;
        Self { fences, name: terminated(&merge.name) }.open(caller, |fd| {
            merge.fence = fd as i32;
            memory.write(at, &merge)
        })
    }

    /// Returns the number of fences, and describes them if the program has room for any.
    fn info(&self, memory: UserMemory<'_>, at: UserVa) -> Result<(), Errno> {
        let mut info: SyncFileInfo = memory.read(at)?;
        if info.flags != 0 || info.pad != 0 {
            return Err(Errno::EINVAL);
        }
        // Without a fence, the one that was signalled from the start.
        let count = self.fences.fences().len().max(1) as u32;
        info.status = status(self.fences.signal());
        if info.num_fences > 0 {
            if info.num_fences < count {
                return Err(Errno::EINVAL);
            }
            info.status = self.copy_fences(memory, UserVa::new(info.sync_fence_info))?;
        }
        info.num_fences = count;
        info.name = if self.name[0] != 0 { self.name } else { name_of(&self.fences) };
        memory.write(at, &info)
    }

    /// Copies a description of each fence to the program, and returns the first status that is not success.
    fn copy_fences(&self, memory: UserMemory<'_>, mut to: UserVa) -> Result<i32, Errno> {
        let mut all = 1;
        let stub = self.fences.fences().is_empty().then(|| describe("stub", "stub", self.fences.signal()));
        let fences = self.fences.fences().iter();
        let fences = fences.map(|fence| describe(fence.driver(), fence.timeline(), fence.signal()));
        for fence in stub.into_iter().chain(fences) {
            memory.write(to, &fence)?;
            to = to.checked_add(size_of::<SyncFenceInfo>() as u64).ok_or(Errno::EFAULT)?;
            all = if all <= 0 { all } else { fence.status };
        }
        Ok(all)
    }
}

fn describe(driver: &str, timeline: &str, signal: Option<FenceSignal>) -> SyncFenceInfo {
    SyncFenceInfo {
        obj_name: name_of(timeline),
        driver_name: name_of(driver),
        status: status(signal),
        flags: 0,
        timestamp_ns: signal.map_or(0, |signal| signal.at),
    }
}

fn status(signal: Option<FenceSignal>) -> i32 {
    match signal {
        None => 0,
        Some(FenceSignal { error: 0, .. }) => 1,
        Some(FenceSignal { error, .. }) => -error,
    }
}

/// Returns the text as the zero-terminated bytes of a name, truncated if necessary.
fn name_of(text: impl Display) -> Name {
    let mut writer = NameWriter { name: [0; SYNC_NAME_LEN], len: 0 };
    // Never fails.
    let _ = write!(writer, "{text}");
    writer.name
}

struct NameWriter {
    name: Name,
    len: usize,
}

impl Write for NameWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let len = text.len().min(SYNC_NAME_LEN - 1 - self.len);
        self.name[self.len..][..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Returns a zero-terminated name with zeroes after its end.
fn terminated(name: &Name) -> Name {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(SYNC_NAME_LEN - 1);
    let mut copy = [0; SYNC_NAME_LEN];
    copy[..len].copy_from_slice(&name[..len]);
    copy
}

impl File for SyncFile {
    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let (memory, at) = (UserMemory::new(caller.space), UserVa::new(argument));
        if request == SYNC_IOC_MERGE.raw() {
            self.merge(caller, at)?;
        } else if request == SYNC_IOC_FILE_INFO.raw() {
            self.info(memory, at)?;
        } else if request == SYNC_IOC_SET_DEADLINE.raw() {
            // A hint. A copy runs at its device's speed, so there is nothing to change.
            if memory.read::<SyncDeadline>(at)?.pad != 0 {
                return Err(Errno::EINVAL);
            }
        } else {
            return Err(Errno::ENOTTY);
        }
        Ok(0)
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:sync_file")
    }

    fn poll(&self) -> PollEvents {
        if self.fences.signal().is_some() { PollEvents::IN } else { PollEvents::empty() }
    }

    fn fences(&self) -> Option<&FenceSet> {
        Some(&self.fences)
    }
}

/// Returns the fences of the sync file with descriptor `fd`, or `EINVAL` if it is none.
pub fn with_fences<R>(caller: &Caller<'_>, fd: i32, f: impl FnOnce(&FenceSet) -> R) -> Result<R, Errno> {
    let open = caller.files.lock().get(fd).map(|open| open.file.clone()).map_err(|_| Errno::EINVAL)?;
    open.file().fences().map(f).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_truncated_and_zero_terminated() {
        assert_eq!(name_of("edu-1").split(|&byte| byte == 0).next(), Some(&b"edu-1"[..]));
        let long = name_of(format_args!("{}{}", "a".repeat(30), "bcd"));
        assert_eq!(long.last_chunk(), Some(&[b'a', b'b', 0]));
        assert_eq!(terminated(&long), long);
    }
}
