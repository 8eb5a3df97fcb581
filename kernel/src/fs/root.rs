//! The file tree: the initramfs, the device nodes, and the mounts of tmpfs.
//!
//! # Locks
//!
//! The tree is behind one mutex. The memory of a program is not accessed with it held, and the content of a
//! freed node is dropped without it.

use super::char_device::{self, CharDevice};
use crate::sched::{self, Mutex, MutexGuard};
use crate::vm::address_space::FileContent;
use crate::vm::shared_memory::SharedMemory;
use abi::Errno;
use abi::clock::Timespec;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use program::{ArchiveError, CpioArchive, FileTree, Node, NodeId};

pub type Tree = FileTree<FileBody, Arc<CharDevice>>;
pub type FileNode = Node<FileBody, Arc<CharDevice>>;

/// The content of a regular file.
#[derive(Clone)]
pub enum FileBody {
    /// A file of the archive, used in place.
    Archive(FileContent),
    /// A file of a tmpfs.
    Memory(Arc<SharedMemory>),
}

impl FileBody {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Archive(data) => data.len() as u64,
            Self::Memory(memory) => memory.size(),
        }
    }
}

static TREE: Mutex<Option<Tree>> = Mutex::new(None);

/// The mounts of tmpfs, and the modes of their roots.
const MOUNTS: [(&str, u32); 4] = [("/tmp", 0o1777), ("/run", 0o755), ("/dev/shm", 0o1777), ("/var", 0o755)];

/// Mounts `archive`, whose files are used in place, in the place of an earlier one. Adds a node for each
/// registered device and the mounts of tmpfs.
///
/// # Errors
/// [`ArchiveError`].
pub fn mount(archive: &'static [u8]) -> Result<(), ArchiveError> {
    // A thin pointer to the content: see `FileContent`. It stays, as the archive does.
    let content = |data: &'static [u8]| FileBody::Archive(Box::leak(Box::new(data)));
    let mut tree = Tree::from_archive(CpioArchive::new(archive), content)?;
    for device in char_device::all() {
        for path in device.paths() {
            if let Err(error) = tree.add_device(path.as_bytes(), device.clone()) {
                log::warn!("initramfs: no {path}: {error}");
            }
        }
    }
    for (path, mode) in MOUNTS {
        if let Err(error) = tree.add_mount(path.as_bytes(), mode) {
            log::warn!("tmpfs: {path} is not mounted: {error}");
        }
    }
    let replaced = TREE.lock().replace(tree);
    drop(replaced);
    Ok(())
}

/// Whether a file system is mounted.
pub fn is_mounted() -> bool {
    TREE.lock().is_some()
}

/// The locked tree.
pub struct TreeGuard(MutexGuard<'static, Option<Tree>>);

/// Locks the tree for a process, which was loaded from it.
///
/// # Errors
/// `ENOENT` if none is mounted.
pub fn lock() -> Result<TreeGuard, Errno> {
    let guard = TREE.lock();
    if guard.is_some() { Ok(TreeGuard(guard)) } else { Err(Errno::ENOENT) }
}

const MOUNTED: &str = "`lock` has checked it";

impl Deref for TreeGuard {
    type Target = Tree;
    fn deref(&self) -> &Tree {
        self.0.as_ref().expect(MOUNTED)
    }
}

impl DerefMut for TreeGuard {
    fn deref_mut(&mut self) -> &mut Tree {
        self.0.as_mut().expect(MOUNTED)
    }
}

/// A reference to a node, which exists at least as long. Must be dropped without the lock of the tree.
#[derive(Debug)]
pub struct NodeRef(NodeId);

impl NodeRef {
    /// Adds a reference.
    pub fn new(tree: &mut Tree, id: NodeId) -> Self {
        tree.open(id);
        Self(id)
    }

    /// Takes the first reference to a node without a name.
    pub fn of_unnamed(id: NodeId) -> Self {
        Self(id)
    }

    pub fn id(&self) -> NodeId {
        self.0
    }
}

impl Drop for NodeRef {
    fn drop(&mut self) {
        let freed = TREE.lock().as_mut().and_then(|tree| tree.close(self.0));
        // Without the lock: it can be large.
        drop(freed);
    }
}

/// Returns the time for a change.
pub fn now() -> Timespec {
    Timespec::from_nanoseconds(sched::time::realtime_now())
}
