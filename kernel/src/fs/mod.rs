//! Open files: the `File` trait and its implementations, the root file system, and the character devices.

pub mod char_device;
pub mod console;
mod directory;
pub mod dma_buf;
pub mod epoll;
pub mod eventfd;
mod heap;
mod initramfs;
mod null;
pub mod pipe;
pub mod readiness;
mod regular;
pub mod root;
mod sync_file;
pub mod timerfd;

use crate::memory::heap as kernel_heap;
use crate::sched::Mutex;
use crate::vm::access::UserMemory;
use crate::vm::address_space::{AddressSpace, FileContent};
use abi::Errno;
use abi::file::{IoVec, OpenFlags, PollEvents, Stat};
use addr::UserVa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};
use dma_buf::DmaBuf;
use program::{FdTable, FenceSet, NodeId, NodeKind};
use readiness::Watchable;

pub use initramfs::{MountError, mount};

/// The file descriptor table of a process.
pub type FileTable = Mutex<FdTable<Arc<OpenFile>>>;

/// Adds `file` to the table at the lowest free number not below `lowest`.
///
/// # Errors
/// Those of [`FdTable::insert`]. The file is closed after the lock of the table is released: the last
/// reference can free a buffer.
pub fn insert(
    files: &FileTable,
    file: Arc<OpenFile>,
    close_on_exec: bool,
    lowest: usize,
) -> Result<u32, Errno> {
    let inserted = files.lock().insert(file, close_on_exec, lowest);
    inserted.map_err(|(error, _closed)| error)
}

/// Adds `file` to the table, and passes its number to `report`, which writes it to the program. If that
/// fails, the file is closed: the program does not know the number.
///
/// # Errors
/// Those of [`insert`] and of `report`.
pub fn insert_and_report(
    files: &FileTable,
    file: Arc<OpenFile>,
    close_on_exec: bool,
    report: impl FnOnce(u32) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let number = insert(files, file.clone(), close_on_exec, 0)?;
    report(number).inspect_err(|_| {
        let mut files = files.lock();
        // Another thread may have replaced it.
        let is_same = files.get(number as i32).is_ok_and(|open| Arc::ptr_eq(&open.file, &file));
        let removed = is_same.then(|| files.remove(number as i32));
        // Closed outside of the lock, as in `insert`.
        drop(files);
        drop(removed);
    })
}

/// The process on whose behalf a file operation runs.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub process_id: u32,
    /// The address space, which must be installed on this CPU.
    pub space: &'a AddressSpace,
    pub files: &'a FileTable,
}

/// The operations of an open file. An unsupported operation returns Linux's error code; one that would block
/// returns `EAGAIN` if the file is [`watched`](File::watched).
pub trait File: Any + Send + Sync {
    /// Copies up to `len` bytes to `to` in the process, and returns their number.
    fn read(&self, _memory: UserMemory<'_>, _to: UserVa, _len: usize) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Reads into each segment in order (`readv`), until one is short.
    fn read_vector(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        for_each_segment(segments, |at, len| self.read(memory, at, len))
    }
    /// Writes each segment in order (`writev`), until one is short.
    fn write_vector(&self, memory: UserMemory<'_>, segments: &[IoVec]) -> Result<usize, Errno> {
        for_each_segment(segments, |at, len| self.write(memory, at, len))
    }
    /// Reads from `offset` instead of the file position (`pread64`).
    fn read_at(
        &self,
        _memory: UserMemory<'_>,
        _to: UserVa,
        _len: usize,
        _offset: u64,
    ) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }
    /// Copies up to `len` bytes from `from` in the process, and returns their number.
    fn write(&self, _memory: UserMemory<'_>, _from: UserVa, _len: usize) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Sets the file position (`lseek`), and returns it.
    fn seek(&self, _offset: i64, _whence: u64) -> Result<u64, Errno> {
        Err(Errno::ESPIPE)
    }
    /// Returns the attributes of a file that was not opened by a path, by default those of Linux's
    /// `anon_inodefs`.
    fn stat(&self) -> Stat {
        Stat { dev: ANONYMOUS_DEVICE, ino: 1, mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() }
    }
    /// Copies directory entries to `to` in the process (`getdents64`), and returns the number of bytes.
    fn entries(&self, _memory: UserMemory<'_>, _to: UserVa, _len: usize) -> Result<usize, Errno> {
        Err(Errno::ENOTDIR)
    }
    fn ioctl(&self, _caller: &Caller<'_>, _request: u32, _argument: u64) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Returns the operations that would not block, and errors.
    fn poll(&self) -> PollEvents {
        PollEvents::IN | PollEvents::OUT
    }
    /// Returns the watchers of the readiness; `None` if it is constant, or can only be sampled.
    fn watched(&self) -> Option<&dyn Watchable> {
        None
    }
    /// Returns the content if the file is a regular file, for `mmap`.
    fn content(&self) -> Option<FileContent> {
        None
    }
    /// Returns the buffer if the file is a dma-buf.
    fn dma_buf(&self) -> Option<&Arc<DmaBuf>> {
        None
    }
    /// Returns the fences if the file is a sync file.
    fn fences(&self) -> Option<&FenceSet> {
        None
    }
}

/// Runs `step` for each segment until one is short. An error is returned if no byte was transferred before.
fn for_each_segment(
    segments: &[IoVec],
    mut step: impl FnMut(UserVa, usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut total = 0;
    for segment in segments.iter().filter(|segment| segment.len > 0) {
        let len = segment.len as usize;
        let count = match step(UserVa::new(segment.base), len) {
            Ok(count) => count,
            Err(error) if total == 0 => return Err(error),
            Err(_) => break,
        };
        total += count;
        if count < len {
            break;
        }
    }
    Ok(total)
}

/// `st_dev` of the nodes of the root file system.
const ROOT_DEVICE: u64 = 1;
/// `st_dev` of files that were not opened by a path.
const ANONYMOUS_DEVICE: u64 = 2;

/// An open file description: a file and its flags, shared by duplicates of a file descriptor.
pub struct OpenFile {
    file: Box<dyn File>,
    /// The node, if the file was opened by a path.
    node: Option<NodeId>,
    flags: AtomicU32,
}

/// The flags that `F_SETFL` can change.
const CHANGEABLE: OpenFlags = OpenFlags::NONBLOCK.union(OpenFlags::APPEND);

impl OpenFile {
    /// A file that was not opened by a path.
    pub fn new(file: impl File + 'static, flags: OpenFlags) -> Self {
        Self::of(Box::new(file), None, flags)
    }

    /// As [`new`](Self::new), for a call of a program.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn try_new<F: File>(file: F, flags: OpenFlags) -> Result<Arc<Self>, Errno> {
        let file = kernel_heap::try_box(file).ok_or(Errno::ENOMEM)?;
        kernel_heap::try_arc(Self::of(file, None, flags)).ok_or(Errno::ENOMEM)
    }

    /// Adds a new file that was not opened by a path to `files`.
    ///
    /// # Errors
    /// `ENOMEM`, `EMFILE`.
    pub fn open<F: File>(files: &FileTable, file: F, flags: OpenFlags) -> Result<u32, Errno> {
        insert(files, Self::try_new(file, flags)?, flags.contains(OpenFlags::CLOEXEC), 0)
    }

    fn of(file: Box<dyn File>, node: Option<NodeId>, flags: OpenFlags) -> Self {
        Self { file, node, flags: AtomicU32::new(flags.difference(OpenFlags::CLOEXEC).bits()) }
    }

    /// Returns the directory for `openat` relative to the file.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// Returns the attributes: those of the node, so that they are the same for the path.
    pub fn stat(&self) -> Result<Stat, Errno> {
        self.node.map_or_else(|| Ok(self.file.stat()), stat_node)
    }

    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets the flags in [`CHANGEABLE`] (`F_SETFL`).
    pub fn set_flags(&self, flags: OpenFlags) {
        let kept = self.flags().difference(CHANGEABLE);
        self.flags.store((kept | flags & CHANGEABLE).bits(), Ordering::Relaxed);
    }

    /// Returns the file, regardless of the access mode.
    pub fn file(&self) -> &dyn File {
        &*self.file
    }

    /// Returns the file if it is of type `F`.
    pub fn downcast<F: File>(&self) -> Option<&F> {
        let file: &dyn Any = &*self.file;
        file.downcast_ref()
    }

    /// Returns the file, or `EBADF` if it is not open for reading.
    pub fn readable(&self) -> Result<&dyn File, Errno> {
        if self.flags().contains(OpenFlags::WRITE_ONLY) { Err(Errno::EBADF) } else { Ok(&*self.file) }
    }

    /// Returns the file, or `EBADF` if it is not open for writing.
    pub fn writable(&self) -> Result<&dyn File, Errno> {
        let may = self.flags().intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE);
        if may { Ok(&*self.file) } else { Err(Errno::EBADF) }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(watched) = self.file.watched() {
            epoll::remove_closed(self, watched);
        }
    }
}

/// Registers the devices of the file system: console, null and DMA heaps.
pub fn init() {
    let registered = [console::register(), null::register(), heap::register()];
    for error in registered.into_iter().filter_map(Result::err) {
        log::warn!("devices: {error}");
    }
}

/// Opens `path`.
///
/// # Errors
/// Those of the look-up and of [`open`].
pub fn open_path(path: &str, flags: OpenFlags) -> Result<OpenFile, Errno> {
    open(root::mounted()?.resolve(root::Root::ROOT, path.as_bytes(), true)?, flags)
}

/// Opens the node `id`.
///
/// # Errors
/// `EROFS` for writing to the initramfs, `EISDIR`, `ENOTDIR`, `ELOOP` for a symbolic link that is not
/// followed, and those of the device.
pub fn open(id: NodeId, flags: OpenFlags) -> Result<OpenFile, Errno> {
    let writes = flags.intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE | OpenFlags::TRUNCATE);
    let kind = &root::mounted()?.node(id).kind;
    let file: Box<dyn File> = match kind {
        NodeKind::Directory(_) if writes => return Err(Errno::EISDIR),
        NodeKind::Directory(_) => Box::new(directory::Directory::new(id)),
        _ if flags.contains(OpenFlags::DIRECTORY) => return Err(Errno::ENOTDIR),
        NodeKind::File(_) if writes => return Err(Errno::EROFS),
        NodeKind::File(data) => Box::new(regular::Regular::new(data)),
        NodeKind::Link(_) => return Err(Errno::ELOOP),
        NodeKind::Device(device) => device.open()?,
    };
    Ok(OpenFile::of(file, Some(id), flags))
}

/// Returns the `stat` of a node.
pub fn stat_node(id: NodeId) -> Result<Stat, Errno> {
    let node = root::mounted()?.node(id);
    let (size, rdev, links) = match &node.kind {
        NodeKind::Directory(_) => (0, 0, 2),
        NodeKind::File(data) | NodeKind::Link(data) => (data.len(), 0, node.links),
        NodeKind::Device(device) => (0, device.number().rdev(), 1),
    };
    let time = i64::from(node.mtime);
    Ok(Stat {
        dev: ROOT_DEVICE,
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

/// Returns the file position that `lseek(offset, whence)` sets. The current position is `position`, the
/// end of the file `end`.
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
    fn seek_to_rejects_positions_out_of_range() {
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
    fn short_step_ends_a_vector() {
        let segments = [(100, 4), (200, 0), (300, 4), (400, 4)].map(|(base, len)| IoVec { base, len });
        let run = |results: &[Result<usize, Errno>]| {
            let mut results = results.iter().copied();
            let result = for_each_segment(&segments, |_, _| results.next().unwrap_or(Ok(0)));
            (result, results.len())
        };
        assert_eq!(run(&[Ok(4), Ok(4), Ok(4)]), (Ok(12), 0));
        assert_eq!(run(&[Ok(4), Ok(2), Ok(4)]), (Ok(6), 1));
        assert_eq!(run(&[Ok(4), Err(Errno::EFAULT), Ok(4)]), (Ok(4), 1));
        assert_eq!(run(&[Err(Errno::EFAULT)]), (Err(Errno::EFAULT), 0));
    }

    #[test]
    fn access_mode_limits_reads_and_writes() {
        let open = |flags| OpenFile::new(null::Null, flags);
        let (read, write, both) = (OpenFlags::empty(), OpenFlags::WRITE_ONLY, OpenFlags::READ_WRITE);
        let allows = |flags| (open(flags).readable().is_ok(), open(flags).writable().is_ok());
        assert_eq!([allows(read), allows(write), allows(both)], [(true, false), (false, true), (true, true)]);
    }

    #[test]
    fn only_changeable_flags_are_set() {
        let file = OpenFile::new(null::Null, OpenFlags::READ_WRITE | OpenFlags::CLOEXEC);
        file.set_flags(OpenFlags::NONBLOCK | OpenFlags::WRITE_ONLY);
        assert_eq!(file.flags(), OpenFlags::READ_WRITE | OpenFlags::NONBLOCK);
    }
}
