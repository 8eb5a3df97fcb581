//! Open files: the `File` trait and its implementations, the root file system, and the character devices.

pub mod char_device;
pub mod console;
pub mod context;
mod directory;
pub mod dma_buf;
pub mod epoll;
pub mod eventfd;
pub mod generated;
mod heap;
mod initramfs;
pub mod memory_devices;
mod path_only;
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
use crate::vm::registers::RegisterRegion;
use crate::vm::shared_memory::{self, SharedMemory};
use abi::Errno;
use abi::file::{
    ANON_INODE_MAGIC, AllocateMode, IoVec, MemfdFlags, NAME_MAX, OpenFlags, PollEvents, S_IFREG, ST_NOATIME,
    ST_RDONLY, ST_VALID, Seals, Stat, StatFs, TMPFS_MAGIC,
};
use addr::{PAGE_SIZE, UserVa};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};
use dma_buf::DmaBuf;
use generated::{GeneratedNode, Text};
use program::{FdTable, FenceSet, MountId, NodeId, NodeKind, PathEnd};
use readiness::Watchable;
use root::{FileBody, FsNode, NodeRef, Tree};

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
    /// Writes at `offset` instead of the file position (`pwrite64`).
    fn write_at(
        &self,
        _memory: UserMemory<'_>,
        _from: UserVa,
        _len: usize,
        _offset: u64,
    ) -> Result<usize, Errno> {
        Err(Errno::ESPIPE)
    }
    /// Sets the size (`ftruncate`).
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// Allocates or removes bytes (`fallocate`).
    fn allocate(&self, _mode: AllocateMode, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::ENODEV)
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
    /// Opens the object again, by its link in `/proc/PID/fd`.
    fn reopen(&self, _flags: OpenFlags) -> Result<Box<dyn File>, Errno> {
        Err(Errno::ENXIO)
    }
    /// Appends the text of the link in `/proc/PID/fd` if the file was not opened by a path.
    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"anon_inode:[file]")
    }
    /// Appends the lines of `/proc/PID/fdinfo` that only this kind of file has. `references` is the number of
    /// references to the open file.
    fn describe_state(&self, _references: usize, _out: &mut Text) -> Result<(), Errno> {
        Ok(())
    }
    /// Records the changeable flags, which [`OpenFile`] has, for a file that they affect.
    fn set_flags(&self, _flags: OpenFlags) {}
    /// Returns the content if the file is a regular file in memory.
    fn shared_memory(&self) -> Option<&Arc<SharedMemory>> {
        None
    }
    /// Returns the content if the file is a regular file of the archive, for `mmap`.
    fn content(&self) -> Option<FileContent> {
        None
    }
    /// Returns the buffer if the file is a dma-buf.
    fn dma_buf(&self) -> Option<&Arc<DmaBuf>> {
        None
    }
    /// Returns registers of a device for `mmap` of `len` bytes at `offset` in the file, and the offset in the
    /// region; `None` if the file has none.
    fn registers(&self, _offset: u64, _len: u64) -> Option<Result<(Arc<RegisterRegion>, u64), Errno>> {
        None
    }
    /// Returns the fences if the file is a sync file.
    fn fences(&self) -> Option<&FenceSet> {
        None
    }
}

/// Runs `step` for each segment until one is short. An error is returned if no byte was transferred before.
pub fn for_each_segment(
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

/// `st_dev` of the first mount, the archive; those of the others follow from [`MOUNT_DEVICE`] on.
pub const ROOT_DEVICE: u64 = 1;
pub const MOUNT_DEVICE: u64 = 16;
/// `st_dev` of files that were not opened by a path.
const ANONYMOUS_DEVICE: u64 = 2;

/// An open file description: a file and its flags, shared by duplicates of a file descriptor.
pub struct OpenFile {
    file: Box<dyn File>,
    /// The node, if the file was opened by a path.
    node: Option<NodeRef>,
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

    fn of(file: Box<dyn File>, node: Option<NodeRef>, flags: OpenFlags) -> Self {
        Self { file, node, flags: AtomicU32::new(flags.difference(OpenFlags::CLOEXEC).bits()) }
    }

    /// Returns the node, if the file was opened by a path or is in memory.
    pub fn node(&self) -> Option<&FsNode> {
        self.node.as_ref().map(NodeRef::node)
    }

    /// Returns the attributes: those of the node, so that they are the same for the path.
    pub fn stat(&self) -> Result<Stat, Errno> {
        match self.node() {
            Some(node) => stat(node),
            None => Ok(self.file.stat()),
        }
    }

    /// Appends the text of the link in `/proc/PID/fd`.
    pub fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        match self.node() {
            Some(node) => write_path(node, out),
            None => self.file.describe(out),
        }
    }

    /// Returns the attributes of the file system.
    pub fn stat_fs(&self) -> Result<StatFs, Errno> {
        stat_fs(self.node())
    }

    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets the flags in [`CHANGEABLE`] (`F_SETFL`).
    pub fn set_flags(&self, flags: OpenFlags) {
        let kept = self.flags().difference(CHANGEABLE);
        self.flags.store((kept | flags & CHANGEABLE).bits(), Ordering::Relaxed);
        self.file.set_flags(flags);
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
    let registered = [console::register(), memory_devices::register(), heap::register()];
    for error in registered.into_iter().filter_map(Result::err) {
        log::warn!("devices: {error}");
    }
}

/// Opens `path`.
///
/// # Errors
/// Those of [`open_at`].
pub fn open_path(path: &str, flags: OpenFlags) -> Result<OpenFile, Errno> {
    open_at(&FsNode::ROOT, path.as_bytes(), flags, 0)
}

/// Opens `path`, relative to the directory `start`, to which the caller has a reference. A new file gets
/// `mode`.
///
/// # Errors
/// Those of `open(2)`; `EOPNOTSUPP` for `O_TMPFILE`.
pub fn open_at(start: &FsNode, path: &[u8], flags: OpenFlags, mode: u32) -> Result<OpenFile, Errno> {
    // Other flags have no effect with O_PATH.
    let flags = if flags.contains(OpenFlags::PATH) { flags & PATH_FLAGS } else { flags };
    if flags.contains(OpenFlags::CREATE | OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(OpenFlags::TEMPORARY) {
        return Err(Errno::EOPNOTSUPP);
    }
    let is_exclusive = flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
    let follow = !flags.contains(OpenFlags::NOFOLLOW) && !is_exclusive;
    let mut tree = root::lock()?;
    let end = tree.resolve(start, path, follow)?;
    let (node, is_new) = match &end.node {
        Some(_) if is_exclusive => return Err(Errno::EEXIST),
        Some(node) if flags.contains(OpenFlags::CREATE) && tree.is_directory(node) => {
            return Err(Errno::EISDIR);
        }
        Some(node) => (node.clone(), false),
        None if !flags.contains(OpenFlags::CREATE) => return Err(Errno::ENOENT),
        None if end.has_slash => return Err(Errno::EISDIR),
        None => (FsNode::Tree(create_file(&mut tree, &end, mode)?), true),
    };
    let target = OpenTarget::of(&mut tree, &node, flags)?;
    let node = NodeRef::new(&mut tree, node);
    drop(tree);
    let file: Box<dyn File> = match target {
        OpenTarget::PathOnly => boxed(path_only::PathOnly)?,
        OpenTarget::Directory => boxed(directory::DirectoryFile::new(node.node().clone()))?,
        OpenTarget::Device(device) => device.open()?,
        OpenTarget::Generated(generated) => generated.open(flags)?,
        OpenTarget::Open(file) => {
            let file = file.upgrade().ok_or(Errno::ENOENT)?;
            return Ok(OpenFile::of(file.file().reopen(flags)?, None, flags));
        }
        OpenTarget::File(id, body) => {
            let file = regular::Regular::new(id, body, flags);
            if flags.contains(OpenFlags::TRUNCATE) && !is_new {
                file.truncate(0)?;
            }
            boxed(file)?
        }
    };
    Ok(OpenFile::of(file, Some(node), flags))
}

/// Allocates an open file.
///
/// # Errors
/// `ENOMEM`
pub fn boxed(file: impl File) -> Result<Box<dyn File>, Errno> {
    let file: Box<dyn File> = kernel_heap::try_box(file).ok_or(Errno::ENOMEM)?;
    Ok(file)
}

/// The flags that `O_PATH` does not exclude.
const PATH_FLAGS: OpenFlags =
    OpenFlags::PATH.union(OpenFlags::DIRECTORY).union(OpenFlags::NOFOLLOW).union(OpenFlags::CLOEXEC);

/// Creates an empty regular file.
///
/// # Errors
/// Those of [`FileTree::create`](program::FileTree::create), and of [`parent_of_new`].
pub fn create_file(tree: &mut Tree, end: &PathEnd<FsNode>, mode: u32) -> Result<NodeId, Errno> {
    let directory = parent_of_new(end)?;
    let kind = NodeKind::File(FileBody::Memory(SharedMemory::new()?));
    tree.create(directory, &end.name, kind, S_IFREG | mode & 0o7777, root::now())
}

/// Returns the directory of a path whose last name does not exist.
///
/// # Errors
/// `ENOENT` in a generated file system, in which programs create nothing.
pub fn parent_of_new(end: &PathEnd<FsNode>) -> Result<NodeId, Errno> {
    end.directory.in_tree().map_err(|_| Errno::ENOENT)
}

/// The object behind a node that is opened.
enum OpenTarget {
    PathOnly,
    Directory,
    File(NodeId, FileBody),
    Device(Arc<char_device::CharDevice>),
    Generated(GeneratedNode),
    Open(Weak<OpenFile>),
}

impl OpenTarget {
    /// # Errors
    /// `EISDIR`, `ENOTDIR`, `ELOOP` for a symbolic link that is not followed, `EROFS` for writing to the
    /// archive, `ENOSPC` and `ENOMEM` for the copy of a file of the archive.
    fn of(tree: &mut root::TreeGuard, node: &FsNode, flags: OpenFlags) -> Result<Self, Errno> {
        let writes = flags.intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE | OpenFlags::TRUNCATE);
        match tree.is_directory(node) {
            true if writes => return Err(Errno::EISDIR),
            false if flags.contains(OpenFlags::DIRECTORY) => return Err(Errno::ENOTDIR),
            _ if flags.contains(OpenFlags::PATH) => return Ok(Self::PathOnly),
            true => return Ok(Self::Directory),
            false => {}
        }
        let id = match node {
            FsNode::Tree(id) => *id,
            FsNode::Generated(generated) => return Ok(Self::Generated(generated.clone())),
            FsNode::Open(file) => return Ok(Self::Open(file.clone())),
        };
        let body = match &tree.node(id).kind {
            NodeKind::Directory(_) => return Ok(Self::Directory),
            NodeKind::Link(_) => return Err(Errno::ELOOP),
            NodeKind::Device(device) => return Ok(Self::Device(device.clone())),
            NodeKind::File(body) => body.clone(),
        };
        let body = if writes { writable_body(tree, id, body)? } else { body };
        Ok(Self::File(id, body))
    }
}

/// Returns the content of the file `id` for writing: a file of the archive below a mount is copied first.
fn writable_body(tree: &mut Tree, id: NodeId, body: FileBody) -> Result<FileBody, Errno> {
    tree.check_writable(id)?;
    let FileBody::Archive(data) = body else { return Ok(body) };
    let memory = SharedMemory::new()?;
    let writer = memory.writer();
    let mut done = 0;
    while done < data.len() {
        done += writer.write(done as u64, &data[done..data.len().min(done + PAGE_SIZE as usize)])?;
    }
    drop(writer);
    let body = FileBody::Memory(memory);
    tree.node_mut(id).kind = NodeKind::File(body.clone());
    Ok(body)
}

/// Sets the size of a file (`truncate`).
///
/// # Errors
/// `EISDIR`, `EINVAL` for another kind of file, `EROFS`, and those of the file.
pub fn truncate_at(start: &FsNode, path: &[u8], size: u64) -> Result<(), Errno> {
    {
        let tree = root::lock()?;
        let node = tree.resolve(start, path, true)?.node.ok_or(Errno::ENOENT)?;
        if tree.is_directory(&node) {
            return Err(Errno::EISDIR);
        }
        match &tree.node(node.in_tree().map_err(|_| Errno::EINVAL)?).kind {
            NodeKind::Directory(_) => return Err(Errno::EISDIR),
            NodeKind::File(_) => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    open_at(start, path, OpenFlags::WRITE_ONLY, 0)?.file().truncate(size)
}

/// Returns an empty file in memory without a name (`memfd_create`); links to it have the text `name`.
///
/// # Errors
/// `ENOSPC`, `ENOMEM`.
pub fn memory_file(flags: MemfdFlags, name: &[u8]) -> Result<OpenFile, Errno> {
    let mut path = Text::default();
    path.push(b"/memfd:")?;
    path.push(name)?;
    let is_sealable = flags.contains(MemfdFlags::ALLOW_SEALING);
    let memory = SharedMemory::with_seals(if is_sealable { Seals::empty() } else { Seals::SEAL })?;
    let body = FileBody::Memory(memory);
    let kind = NodeKind::File(body.clone());
    let id = root::lock()?.create_unnamed(kind, S_IFREG | 0o777, root::now(), path.0)?;
    let node = NodeRef::of_unnamed(id);
    let open = OpenFlags::READ_WRITE;
    let file = boxed(regular::Regular::new(id, body, open))?;
    Ok(OpenFile::of(file, Some(node), open))
}

/// Returns the attributes of a node, to which the caller has a reference. Called without the tree's lock.
///
/// # Errors
/// `ENOENT` if an open file was closed.
pub fn stat(node: &FsNode) -> Result<Stat, Errno> {
    match node {
        FsNode::Tree(id) => Ok(stat_node(&*root::lock()?, *id)),
        FsNode::Generated(node) => Ok(node.stat()),
        FsNode::Open(file) => file.upgrade().ok_or(Errno::ENOENT)?.stat(),
    }
}

/// Appends the path of a node, to which the caller has a reference, as `/proc` reports it. Called without the
/// lock of the tree.
///
/// # Errors
/// `ENOENT` if an open file was closed, `ENOMEM`.
pub fn write_path(node: &FsNode, out: &mut Text) -> Result<(), Errno> {
    match node {
        FsNode::Tree(id) => {
            let tree = root::lock()?;
            match tree.path_of(*id) {
                Err(Errno::ENOENT) => {
                    out.push(&tree.node(*id).former_path)?;
                    out.push(b" (deleted)")
                }
                path => out.push(&path?),
            }
        }
        FsNode::Generated(node) => node.write_path(out),
        FsNode::Open(file) => file.upgrade().ok_or(Errno::ENOENT)?.describe(out),
    }
}

/// Returns the `stat` of a node of the tree.
fn stat_node(tree: &Tree, id: NodeId) -> Stat {
    let node = tree.node(id);
    let (size, blocks, rdev) = match &node.kind {
        NodeKind::Directory(_) => (0, 0, 0),
        NodeKind::File(FileBody::Archive(data)) => (data.len() as u64, data.len().div_ceil(512) as u64, 0),
        NodeKind::File(FileBody::Memory(memory)) => (memory.size(), memory.pages() * (PAGE_SIZE / 512), 0),
        NodeKind::Link(target) => (target.len() as u64, 0, 0),
        NodeKind::Device(device) => (0, 0, device.number().rdev()),
    };
    let times = node.times;
    Stat {
        dev: if node.mount == MountId::ARCHIVE { ROOT_DEVICE } else { MOUNT_DEVICE + node.mount.number() },
        ino: node.inode,
        mode: node.mode,
        nlink: node.links,
        uid: node.owner.0,
        gid: node.owner.1,
        rdev,
        size: size as i64,
        blksize: PAGE_SIZE as i32,
        blocks: blocks as i64,
        atime: times.accessed.seconds,
        atime_nsec: times.accessed.nanoseconds as u64,
        mtime: times.modified.seconds,
        mtime_nsec: times.modified.nanoseconds as u64,
        ctime: times.changed.seconds,
        ctime_nsec: times.changed.nanoseconds as u64,
        ..Stat::default()
    }
}

/// Returns the `statfs` of the mount of a node, to which the caller has a reference; without a node, that of
/// anonymous files. The mounts of tmpfs share the limits.
///
/// # Errors
/// Those of [`root::lock`].
pub fn stat_fs(node: Option<&FsNode>) -> Result<StatFs, Errno> {
    let id = match node {
        Some(FsNode::Tree(id)) => *id,
        Some(FsNode::Generated(node)) => return Ok(node.stat_fs()),
        Some(FsNode::Open(_)) | None => {
            return Ok(StatFs {
                kind: ANON_INODE_MAGIC,
                bsize: PAGE_SIZE,
                frsize: PAGE_SIZE,
                namelen: NAME_MAX as u64,
                flags: ST_VALID,
                ..StatFs::default()
            });
        }
    };
    let tree = root::lock()?;
    let mount = tree.node(id).mount;
    let (limit, pages) = (shared_memory::page_limit(), shared_memory::page_count());
    let free = limit.saturating_sub(pages);
    let (used, nodes) = tree.usage();
    let is_read_only = mount == MountId::ARCHIVE;
    Ok(StatFs {
        kind: TMPFS_MAGIC,
        bsize: PAGE_SIZE,
        blocks: limit,
        bfree: free,
        bavail: free,
        files: nodes as u64,
        ffree: nodes.saturating_sub(used) as u64,
        fsid: [mount.number() as u32, 0],
        namelen: NAME_MAX as u64,
        frsize: PAGE_SIZE,
        flags: ST_VALID | ST_NOATIME | if is_read_only { ST_RDONLY } else { 0 },
        ..StatFs::default()
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
        let open = |flags| OpenFile::new(memory_devices::Null, flags);
        let (read, write, both) = (OpenFlags::empty(), OpenFlags::WRITE_ONLY, OpenFlags::READ_WRITE);
        let allows = |flags| (open(flags).readable().is_ok(), open(flags).writable().is_ok());
        assert_eq!([allows(read), allows(write), allows(both)], [(true, false), (false, true), (true, true)]);
    }

    #[test]
    fn only_changeable_flags_are_set() {
        let file = OpenFile::new(memory_devices::Null, OpenFlags::READ_WRITE | OpenFlags::CLOEXEC);
        file.set_flags(OpenFlags::NONBLOCK | OpenFlags::WRITE_ONLY);
        assert_eq!(file.flags(), OpenFlags::READ_WRITE | OpenFlags::NONBLOCK);
    }
}
