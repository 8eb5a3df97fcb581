//! The file tree: the initramfs, the device nodes, the mounts of tmpfs, and those of generated file systems.
//!
//! # Locks
//!
//! The tree is behind one mutex. The memory of a program is not accessed with it held, and the content of a
//! freed node is dropped without it. It precedes the locks of a process's files and current directory.

use super::OpenFile;
use super::char_device::{self, CharDevice};
use super::generated::{GeneratedFs, GeneratedNode};
use crate::sched::{self, Mutex, MutexGuard};
use crate::sync::SpinLock;
use crate::vm::address_space::FileContent;
use crate::vm::shared_memory::SharedMemory;
use abi::Errno;
use abi::clock::Timespec;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use arrayvec::ArrayVec;
use core::ops::{Deref, DerefMut};
use program::{ArchiveError, CpioArchive, FileTree, LinkTarget, Namespace, Node, NodeId, PathEnd};

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

/// A node of the tree or of a generated file system, or an open file without either. It is valid while the
/// tree is locked, or while there is a [`NodeRef`].
#[derive(Clone)]
pub enum FsNode {
    Tree(NodeId),
    Generated(GeneratedNode),
    /// Weak, since the tree must not be locked when the last reference is dropped.
    Open(Weak<OpenFile>),
}

impl FsNode {
    pub const ROOT: Self = Self::Tree(Tree::ROOT);

    /// Returns the node of the tree.
    ///
    /// # Errors
    /// `EPERM` for another node, which cannot be changed.
    pub fn in_tree(&self) -> Result<NodeId, Errno> {
        if let Self::Tree(id) = self { Ok(*id) } else { Err(Errno::EPERM) }
    }
}

/// The tree, and the generated file systems with the directories that they are mounted on.
struct Mounted {
    tree: Tree,
    generated: ArrayVec<(NodeId, &'static GeneratedFs), GENERATED_MAX>,
}

const GENERATED_MAX: usize = 2;

static TREE: Mutex<Option<Mounted>> = Mutex::new(None);

/// The generated file systems, in the order of their registration.
static GENERATED: SpinLock<ArrayVec<&'static GeneratedFs, GENERATED_MAX>> =
    SpinLock::new(ArrayVec::new_const());

/// Registers a generated file system, which is mounted with the initramfs.
pub fn register(fs: &'static GeneratedFs) {
    GENERATED.lock().push(fs);
}

/// Symbolic links in the tree, unless the archive has these names.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

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
    for (path, target) in LINKS {
        if let Err(error) = tree.add_link(path.as_bytes(), target.as_bytes()) {
            log::warn!("initramfs: no {path}: {error}");
        }
    }
    let mut generated = ArrayVec::new();
    for &fs in GENERATED.lock().iter() {
        match tree.add_mount(fs.path.as_bytes(), 0o555) {
            Ok(root) => generated.push((root, fs)),
            Err(error) => log::warn!("{}: {} is not mounted: {error}", fs.name, fs.path),
        }
    }
    let replaced = TREE.lock().replace(Mounted { tree, generated });
    drop(replaced);
    Ok(())
}

/// Whether a file system is mounted.
pub fn is_mounted() -> bool {
    TREE.lock().is_some()
}

/// The locked tree.
pub struct TreeGuard(MutexGuard<'static, Option<Mounted>>);

/// Locks the tree for a process, which was loaded from it.
///
/// # Errors
/// `ENOENT` if none is mounted.
pub fn lock() -> Result<TreeGuard, Errno> {
    let guard = TREE.lock();
    if guard.is_some() { Ok(TreeGuard(guard)) } else { Err(Errno::ENOENT) }
}

const MOUNTED: &str = "`lock` has checked it";

impl TreeGuard {
    fn mounted(&self) -> &Mounted {
        self.0.as_ref().expect(MOUNTED)
    }

    /// Resolves a path in all file systems, as [`program::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(&self, start: &FsNode, path: &[u8], follow: bool) -> Result<PathEnd<FsNode>, Errno> {
        program::resolve(self.mounted(), start, path, follow)
    }

    /// Whether the node is a directory.
    pub fn is_directory(&self, node: &FsNode) -> bool {
        self.mounted().is_directory(node)
    }

    /// Returns the target of a symbolic link; `None` for another node.
    ///
    /// # Errors
    /// `ENOMEM`; `ENOENT` if its object is gone.
    pub fn target(&self, node: &FsNode) -> Result<Option<LinkTarget<FsNode>>, Errno> {
        self.mounted().target(node)
    }

    /// Returns the generated file systems.
    pub fn generated(&self) -> impl Iterator<Item = &'static GeneratedFs> {
        self.mounted().generated.iter().map(|&(_, fs)| fs)
    }
}

impl Namespace for Mounted {
    type Node = FsNode;

    fn root(&self) -> FsNode {
        FsNode::ROOT
    }

    fn lookup(&self, directory: &FsNode, name: &[u8]) -> Result<FsNode, Errno> {
        match (directory, name) {
            (FsNode::Open(_), _) => Err(Errno::ENOTDIR),
            (FsNode::Generated(node), b"." | b"..") if !node.is_directory() => Err(Errno::ENOTDIR),
            (FsNode::Generated(_), b".") => Ok(directory.clone()),
            (FsNode::Generated(node), b"..") => match node.parent() {
                Some(parent) => Ok(FsNode::Generated(parent)),
                None => {
                    let mount = self.generated.iter().find(|(_, fs)| core::ptr::eq(*fs, node.fs()));
                    self.tree.parent(mount.ok_or(Errno::ENOENT)?.0).map(FsNode::Tree)
                }
            },
            (FsNode::Generated(node), _) => node.lookup(name).map(FsNode::Generated),
            (FsNode::Tree(id), _) => {
                let found = self.tree.lookup(id, name)?;
                let mount = self.generated.iter().find(|&&(root, _)| root == found);
                Ok(mount.map_or(FsNode::Tree(found), |(_, fs)| FsNode::Generated(GeneratedNode::root_of(fs))))
            }
        }
    }

    fn is_directory(&self, node: &FsNode) -> bool {
        match node {
            FsNode::Tree(id) => self.tree.is_directory(id),
            FsNode::Generated(node) => node.is_directory(),
            FsNode::Open(_) => false,
        }
    }

    fn target(&self, node: &FsNode) -> Result<Option<LinkTarget<FsNode>>, Errno> {
        match node {
            FsNode::Tree(id) => Ok(match self.tree.target(id)? {
                Some(LinkTarget::Path(path)) => Some(LinkTarget::Path(path)),
                Some(LinkTarget::Node(id)) => Some(LinkTarget::Node(FsNode::Tree(id))),
                None => None,
            }),
            FsNode::Generated(node) => node.target(),
            FsNode::Open(_) => Ok(None),
        }
    }
}

impl Deref for TreeGuard {
    type Target = Tree;
    fn deref(&self) -> &Tree {
        &self.mounted().tree
    }
}

impl DerefMut for TreeGuard {
    fn deref_mut(&mut self) -> &mut Tree {
        &mut self.0.as_mut().expect(MOUNTED).tree
    }
}

/// A reference to a node, which exists at least as long. Must be dropped without the lock of the tree.
pub struct NodeRef(FsNode);

impl NodeRef {
    /// Adds a reference.
    pub fn new(tree: &mut Tree, node: FsNode) -> Self {
        if let FsNode::Tree(id) = node {
            tree.open(id);
        }
        Self(node)
    }

    /// Takes the first reference to a node without a name.
    pub fn of_unnamed(id: NodeId) -> Self {
        Self(FsNode::Tree(id))
    }

    pub fn node(&self) -> &FsNode {
        &self.0
    }
}

impl Drop for NodeRef {
    fn drop(&mut self) {
        let FsNode::Tree(id) = self.0 else { return };
        let freed = TREE.lock().as_mut().and_then(|mounted| mounted.tree.close(id));
        // Without the lock: it can be large.
        drop(freed);
    }
}

/// Returns the time for a change.
pub fn now() -> Timespec {
    Timespec::from_nanoseconds(sched::time::realtime_now())
}
