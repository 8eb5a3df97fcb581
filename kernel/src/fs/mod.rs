//! What a descriptor can be, and what can be done with it.

pub mod char_device;
pub mod console;
mod directory;
pub mod dma_buf;
mod heap;
mod initramfs;
mod null;
mod regular;
pub mod root;

use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use crate::vm::address_space::AddressSpace;
use abi::Errno;
use abi::file::{OpenFlags, PollEvents, S_IFCHR, Stat};
use addr::UserVa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use dma_buf::DmaBuf;
use program::{FdTable, NodeId, NodeKind};

pub use initramfs::{MountError, mount};

/// The open files of a process, by descriptor.
pub type FileTable = SpinLock<FdTable<Arc<OpenFile>>>;

/// The process on whose behalf a file operation runs, as far as files know it.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The process ID.
    pub process_id: u32,
    /// The address space, which is installed on this CPU.
    pub space: &'a AddressSpace,
    /// The open files.
    pub files: &'a FileTable,
}

/// An open file. What a kind of file cannot do, it answers with Linux's error code for that.
pub trait File: Send + Sync {
    /// Puts up to `len` bytes to `to` in the program, and says how many.
    fn read(&self, _memory: UserMemory<'_>, _to: UserVa, _len: usize) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// The same from `offset` on, wherever the file's position is.
    fn read_at(
        &self,
        _memory: UserMemory<'_>,
        _to: UserVa,
        _len: usize,
        _offset: u64,
    ) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }
    /// Takes up to `len` bytes from `from` in the program, and says how many.
    fn write(&self, _memory: UserMemory<'_>, _from: UserVa, _len: usize) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Moves the position (`lseek`), and says where it is then.
    fn seek(&self, _offset: i64, _whence: u64) -> Result<u64, Errno> {
        Err(Errno::ESPIPE)
    }
    /// What is known about it.
    fn stat(&self) -> Stat;
    /// Puts directory entries to `to` in the program, and says how many bytes.
    fn entries(&self, _memory: UserMemory<'_>, _to: UserVa, _len: usize) -> Result<usize, Errno> {
        Err(Errno::ENOTDIR)
    }
    /// A request of its own kind.
    fn ioctl(&self, _caller: &Caller<'_>, _request: u32, _argument: u64) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }
    /// What could be done without waiting.
    fn poll(&self) -> PollEvents {
        PollEvents::IN | PollEvents::OUT
    }
    /// The buffer, if it is one.
    fn dma_buf(&self) -> Option<&Arc<DmaBuf>> {
        None
    }
    /// Where it is in the tree, for `openat` relative to it.
    fn node(&self) -> Option<NodeId> {
        None
    }
}

/// A file and how it was opened; duplicates of a descriptor share it.
pub struct OpenFile {
    file: Box<dyn File>,
    flags: AtomicU32,
}

/// Flags that `fcntl` may change.
const CHANGEABLE: OpenFlags = OpenFlags::NONBLOCK.union(OpenFlags::APPEND);

impl OpenFile {
    /// `file`, opened with `flags`.
    pub fn new(file: impl File + 'static, flags: OpenFlags) -> Self {
        Self { file: Box::new(file), flags: AtomicU32::new(flags.difference(OpenFlags::CLOEXEC).bits()) }
    }

    /// How it was opened.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Changes the flags that can be changed (`F_SETFL`).
    pub fn set_flags(&self, flags: OpenFlags) {
        let kept = self.flags().difference(CHANGEABLE);
        self.flags.store((kept | flags & CHANGEABLE).bits(), Ordering::Relaxed);
    }

    /// The file, whatever it was opened for.
    pub fn file(&self) -> &dyn File {
        &*self.file
    }

    /// The file, if it was opened for reading.
    pub fn readable(&self) -> Result<&dyn File, Errno> {
        if self.flags().contains(OpenFlags::WRITE_ONLY) { Err(Errno::EBADF) } else { Ok(&*self.file) }
    }

    /// The file, if it was opened for writing.
    pub fn writable(&self) -> Result<&dyn File, Errno> {
        let may = self.flags().intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE);
        if may { Ok(&*self.file) } else { Err(Errno::EBADF) }
    }
}

/// Registers the devices of the file system: console, null and DMA heaps.
pub fn init() {
    let registered = [console::register(), null::register(), heap::register()];
    for error in registered.into_iter().filter_map(Result::err) {
        log::warn!("devices: {error}");
    }
}

/// Opens what `id` is.
///
/// # Errors
/// `EROFS` for writing to the initramfs, `EISDIR`, `ENOTDIR`, `ELOOP` (a symbolic link that is not to be followed), and
/// what the device says.
pub fn open(id: NodeId, flags: OpenFlags) -> Result<OpenFile, Errno> {
    let writes = flags.intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE | OpenFlags::TRUNCATE);
    let kind = &root::mounted()?.node(id).kind;
    match kind {
        NodeKind::Directory(_) if writes => Err(Errno::EISDIR),
        NodeKind::Directory(_) => Ok(OpenFile::new(directory::Directory::new(id), flags)),
        _ if flags.contains(OpenFlags::DIRECTORY) => Err(Errno::ENOTDIR),
        NodeKind::File(_) if writes => Err(Errno::EROFS),
        NodeKind::File(data) => Ok(OpenFile::new(regular::Regular::new(id, data), flags)),
        NodeKind::Link(_) => Err(Errno::ELOOP),
        NodeKind::Device(device) => device.open(flags),
    }
}

/// What is known about a node of the tree.
pub fn stat_node(id: NodeId) -> Result<Stat, Errno> {
    let node = root::mounted()?.node(id);
    let (size, rdev, links) = match &node.kind {
        NodeKind::Directory(_) => (0, 0, 2),
        NodeKind::File(data) | NodeKind::Link(data) => (data.len(), 0, 1),
        NodeKind::Device(device) => (0, device.number().rdev(), 1),
    };
    let time = i64::from(node.mtime);
    Ok(Stat {
        dev: 1,
        ino: id.inode(),
        mode: node.mode,
        nlink: links,
        rdev,
        size: size as i64,
        blksize: 4096,
        blocks: size.div_ceil(512) as i64,
        atime: time,
        mtime: time,
        ctime: time,
        ..Stat::default()
    })
}

/// What is known about a character device that has no node, or does not know it.
pub fn stat_device(rdev: u64) -> Stat {
    Stat { dev: 1, ino: rdev, mode: S_IFCHR | 0o666, nlink: 1, rdev, blksize: 4096, ..Stat::default() }
}

/// Where a position that is `offset` from `whence` is.
pub fn seek_to(offset: i64, whence: u64, position: u64, end: u64) -> Result<u64, Errno> {
    use abi::file::{SEEK_CUR, SEEK_END, SEEK_SET};
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => position,
        SEEK_END => end,
        _ => return Err(Errno::EINVAL),
    };
    base.checked_add_signed(offset).filter(|&at| at <= i64::MAX as u64).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_stay_in_range() {
        let cases = [
            ((5, 0), Ok(5)),
            ((-5, 1), Ok(5)),
            ((-100, 2), Ok(0)),
            ((-101, 2), Err(Errno::EINVAL)),
            ((i64::MAX, 2), Err(Errno::EINVAL)),
            ((0, 3), Err(Errno::EINVAL)),
        ];
        for ((offset, whence), expected) in cases {
            assert_eq!(seek_to(offset, whence, 10, 100), expected, "{offset} {whence}");
        }
    }

    #[test]
    fn a_file_allows_what_it_was_opened_for() {
        let open = |flags| OpenFile::new(null::Null, flags);
        let (read, write, both) = (OpenFlags::empty(), OpenFlags::WRITE_ONLY, OpenFlags::READ_WRITE);
        let allows = |flags| (open(flags).readable().is_ok(), open(flags).writable().is_ok());
        assert_eq!([allows(read), allows(write), allows(both)], [(true, false), (false, true), (true, true)]);
    }

    #[test]
    fn only_some_flags_can_be_changed() {
        let file = OpenFile::new(null::Null, OpenFlags::READ_WRITE | OpenFlags::CLOEXEC);
        file.set_flags(OpenFlags::NONBLOCK | OpenFlags::WRITE_ONLY);
        assert_eq!(file.flags(), OpenFlags::READ_WRITE | OpenFlags::NONBLOCK);
    }
}
