//! The file system: an archive, which is read-only, and mounts over it whose directories can change, in one
//! tree of nodes.

mod archive;
mod directory;
mod path;

use abi::Errno;
use abi::clock::Timespec;
use abi::file::{NAME_MAX, S_IFDIR, S_IFLNK, S_IFMT};
use alloc::vec::Vec;

pub use archive::ArchiveError;
pub use directory::{Directory, DirectoryEntry};
pub use path::{LinkTarget, Namespace, PathEnd, resolve};

/// The maximum number of nodes and names that programs create. A symbolic link counts once more per
/// [`LINK_BYTES`] of its target.
pub const NODES_MAX: usize = 1 << 16;
const LINK_BYTES: usize = 256;

/// A node of a [`FileTree`]. It is valid while the node has a name or is open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(usize);

/// A mount: 0 is the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountId(u8);

impl MountId {
    /// The read-only archive.
    pub const ARCHIVE: Self = Self(0);

    /// The number.
    pub fn number(self) -> u64 {
        self.0.into()
    }
}

/// The file type and content of a node.
#[derive(Clone, Debug)]
pub enum NodeKind<C, D> {
    /// A directory.
    Directory(Directory),
    /// A regular file: its content.
    File(C),
    /// A symbolic link: its target.
    Link(Vec<u8>),
    /// A device node.
    Device(D),
}

/// The times of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileTimes {
    /// Of the last access; set by `utimensat` only.
    pub accessed: Timespec,
    /// Of the last change of the content.
    pub modified: Timespec,
    /// Of the last change of the attributes.
    pub changed: Timespec,
}

impl FileTimes {
    /// All times at once.
    pub fn at(time: Timespec) -> Self {
        Self { accessed: time, modified: time, changed: time }
    }
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Node<C, D> {
    /// File type and content.
    pub kind: NodeKind<C, D>,
    /// The directory of a name of the node, the last that was given; the root's is the root.
    parent: NodeId,
    /// The mount to which it belongs.
    pub mount: MountId,
    /// The inode number, starting at 1; not used again.
    pub inode: u64,
    /// `st_mode`.
    pub mode: u32,
    /// The user and the group.
    pub owner: (u32, u32),
    /// The times.
    pub times: FileTimes,
    /// The number of names; of a directory 2, and one for each directory in it, or 0 after its removal.
    pub links: u32,
    /// The number of references ([`FileTree::open`]).
    opens: u32,
}

impl<C, D> Node<C, D> {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory(_))
    }

    fn cost(&self) -> usize {
        match &self.kind {
            NodeKind::Link(target) => 1 + target.len() / LINK_BYTES,
            _ => 1,
        }
    }
}

/// The effect of a rename on an existing new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// `RENAME_NOREPLACE`: `EEXIST`.
    NoReplace,
}

/// The file tree. `C` is the content of a file, `D` a device.
///
/// An operation that fails changes nothing. The nodes that an operation frees are returned, so that the
/// caller drops their content, which can take long, without the lock of the tree.
#[derive(Clone, Debug)]
pub struct FileTree<C, D> {
    /// `None` is free.
    nodes: Vec<Option<Node<C, D>>>,
    free: Vec<NodeId>,
    /// The root of each mount.
    mounts: Vec<NodeId>,
    next_inode: u64,
    /// The cost of all nodes and additional names, and its limit.
    used: usize,
    limit: usize,
}

impl<C, D> FileTree<C, D> {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// The node.
    ///
    /// Panics if it does not exist any more.
    pub fn node(&self, id: NodeId) -> &Node<C, D> {
        let Some(node) = &self.nodes[id.0] else { panic!("{id:?} is free") };
        node
    }

    /// The node, for a change of its attributes or its content.
    ///
    /// Panics if it does not exist any more.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node<C, D> {
        let Some(node) = &mut self.nodes[id.0] else { panic!("{id:?} is free") };
        node
    }

    /// The parent of a directory.
    ///
    /// # Errors
    /// `ENOENT` if the directory was removed.
    pub fn parent(&self, id: NodeId) -> Result<NodeId, Errno> {
        let node = self.node(id);
        if node.links == 0 { Err(Errno::ENOENT) } else { Ok(node.parent) }
    }

    /// Whether the node can be changed.
    ///
    /// # Errors
    /// `EROFS` in the archive.
    pub fn check_writable(&self, id: NodeId) -> Result<(), Errno> {
        if self.node(id).mount == MountId::ARCHIVE { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The absolute path of a node; `None` without a name.
    pub fn path_of(&self, id: NodeId) -> Option<Vec<u8>> {
        let (mut names, mut at) = (Vec::new(), id);
        while at != Self::ROOT {
            let parent = self.node(at).parent;
            let NodeKind::Directory(directory) = &self.nodes[parent.0].as_ref()?.kind else { return None };
            names.push(directory.name_of(at)?);
            at = parent;
        }
        let parts = names.iter().rev().flat_map(|name| [b"/".as_slice(), name]);
        Some(if names.is_empty() { b"/".to_vec() } else { parts.flatten().copied().collect() })
    }

    /// Adds a reference, which keeps a node without names.
    pub fn open(&mut self, id: NodeId) {
        self.node_mut(id).opens += 1;
    }

    /// Removes a reference. Returns the node if it was the last one, and the node has no name.
    #[must_use]
    pub fn close(&mut self, id: NodeId) -> Option<Node<C, D>> {
        self.node_mut(id).opens -= 1;
        self.free_unused(id)
    }

    /// Adds a node without a name to the last mount, and one reference.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn create_unnamed(
        &mut self,
        kind: NodeKind<C, D>,
        mode: u32,
        now: Timespec,
    ) -> Result<NodeId, Errno> {
        let mount = self.mounts.last().copied().unwrap_or(Self::ROOT);
        let id = self.add(kind, mode, now, mount)?;
        self.open(id);
        Ok(id)
    }

    /// Adds a node with a name.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `ENOSPC`, `ENOMEM`, `ENOENT` in a removed directory.
    pub fn create(
        &mut self,
        directory: NodeId,
        name: &[u8],
        kind: NodeKind<C, D>,
        mode: u32,
        now: Timespec,
    ) -> Result<NodeId, Errno> {
        self.check_new_name(directory, name)?;
        let id = self.add(kind, mode, now, directory)?;
        if let Err(error) = self.entries_mut(directory)?.insert(name, id) {
            self.remove_node(id);
            return Err(error);
        }
        let is_directory = self.node(id).is_directory();
        self.node_mut(id).links = if is_directory { 2 } else { 1 };
        self.node_mut(directory).links += u32::from(is_directory);
        self.set_modified(directory, now);
        Ok(id)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As for [`create`](Self::create); `EPERM` for a directory, `EXDEV` for another mount, `ENOENT` for a
    /// file without names.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId, now: Timespec) -> Result<(), Errno> {
        self.check_new_name(directory, name)?;
        let node = self.node(id);
        match node {
            _ if node.mount != self.node(directory).mount => return Err(Errno::EXDEV),
            _ if node.is_directory() => return Err(Errno::EPERM),
            _ if node.links == 0 => return Err(Errno::ENOENT),
            _ => {}
        }
        self.check_limit(1)?;
        self.entries_mut(directory)?.insert(name, id)?;
        self.used += 1;
        let node = self.node_mut(id);
        (node.parent, node.links, node.times.changed) = (directory, node.links + 1, now);
        self.set_modified(directory, now);
        Ok(())
    }

    /// Removes a name of a file. Returns the node if it is freed.
    ///
    /// # Errors
    /// `EROFS`, `ENOENT`, `EISDIR`.
    pub fn unlink(
        &mut self,
        directory: NodeId,
        name: &[u8],
        now: Timespec,
    ) -> Result<Option<Node<C, D>>, Errno> {
        self.check_writable(directory)?;
        let id = self.entries(directory)?.get(name).ok_or(Errno::ENOENT)?;
        if self.node(id).is_directory() {
            return Err(Errno::EISDIR);
        }
        self.entries_mut(directory)?.remove(name);
        self.set_modified(directory, now);
        Ok(self.remove_link(id, now))
    }

    /// Removes an empty directory. Returns the node if it is freed.
    ///
    /// # Errors
    /// `EROFS`, `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY` for the root of a mount.
    pub fn remove_directory(
        &mut self,
        directory: NodeId,
        name: &[u8],
        now: Timespec,
    ) -> Result<Option<Node<C, D>>, Errno> {
        if self.entries(directory)?.get(name).is_some_and(|id| self.mounts.contains(&id)) {
            return Err(Errno::EBUSY);
        }
        self.check_writable(directory)?;
        let id = self.entries(directory)?.get(name).ok_or(Errno::ENOENT)?;
        if !self.entries(id)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.entries_mut(directory)?.remove(name);
        self.node_mut(directory).links -= 1;
        self.set_modified(directory, now);
        Ok(self.remove_link(id, now))
    }

    /// Renames `old` to `new`, both a directory and a name in it. Returns the replaced node if it is freed.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    pub fn rename(
        &mut self,
        old: (NodeId, &[u8]),
        new: (NodeId, &[u8]),
        mode: RenameMode,
        now: Timespec,
    ) -> Result<Option<Node<C, D>>, Errno> {
        if self.node(old.0).mount != self.node(new.0).mount {
            return Err(Errno::EXDEV);
        }
        self.check_writable(old.0)?;
        let id = self.entries(old.0)?.get(old.1).ok_or(Errno::ENOENT)?;
        let replaced = self.entries(new.0)?.get(new.1);
        if replaced.is_some() && mode == RenameMode::NoReplace {
            return Err(Errno::EEXIST);
        }
        if self.node(new.0).links == 0 {
            return Err(Errno::ENOENT);
        }
        if self.mounts.contains(&id) || replaced.is_some_and(|other| self.mounts.contains(&other)) {
            return Err(Errno::EBUSY);
        }
        let is_directory = self.node(id).is_directory();
        if is_directory && self.is_ancestor(id, new.0) {
            return Err(Errno::EINVAL);
        }
        match replaced {
            Some(other) if other == id => return Ok(None),
            Some(other) if self.is_ancestor(other, old.0) => return Err(Errno::ENOTEMPTY),
            Some(other) => match (&self.node(other).kind, is_directory) {
                (NodeKind::Directory(_), false) => return Err(Errno::EISDIR),
                (NodeKind::Directory(entries), true) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
                (NodeKind::Directory(_), true) | (_, false) => {}
                (_, true) => return Err(Errno::ENOTDIR),
            },
            None => {}
        }
        self.entries_mut(new.0)?.insert(new.1, id)?;
        self.entries_mut(old.0)?.remove(old.1);
        if is_directory {
            self.node_mut(old.0).links -= 1;
            self.node_mut(new.0).links += u32::from(replaced.is_none());
        }
        let node = self.node_mut(id);
        (node.parent, node.times.changed) = (new.0, now);
        self.set_modified(old.0, now);
        self.set_modified(new.0, now);
        Ok(replaced.and_then(|other| self.remove_link(other, now)))
    }

    /// Records a change of the content.
    pub fn set_modified(&mut self, id: NodeId, now: Timespec) {
        let times = &mut self.node_mut(id).times;
        (times.modified, times.changed) = (now, now);
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn entries(&self, id: NodeId) -> Result<&Directory, Errno> {
        match &self.node(id).kind {
            NodeKind::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The cost of all nodes and names that exist, and its limit (`statfs`).
    pub fn usage(&self) -> (usize, usize) {
        (self.used, self.limit)
    }

    fn entries_mut(&mut self, id: NodeId) -> Result<&mut Directory, Errno> {
        match &mut self.node_mut(id).kind {
            NodeKind::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn check_new_name(&self, directory: NodeId, name: &[u8]) -> Result<(), Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.entries(directory)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.check_writable(directory)?;
        if self.node(directory).links == 0 { Err(Errno::ENOENT) } else { Ok(()) }
    }

    fn check_limit(&self, cost: usize) -> Result<(), Errno> {
        if self.used + cost > self.limit { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Adds a node without a name, in the mount of `parent`.
    fn add(
        &mut self,
        kind: NodeKind<C, D>,
        mode: u32,
        now: Timespec,
        parent: NodeId,
    ) -> Result<NodeId, Errno> {
        let node = Node {
            kind,
            parent,
            mount: self.node(parent).mount,
            inode: self.next_inode,
            mode,
            owner: (0, 0),
            times: FileTimes::at(now),
            links: 0,
            opens: 0,
        };
        self.add_node(node)
    }

    fn add_node(&mut self, node: Node<C, D>) -> Result<NodeId, Errno> {
        self.check_limit(node.cost())?;
        // The list of free nodes must have room for all, so that `remove_node` does not allocate.
        let capacity = self.nodes.len() + 1 - self.free.len();
        self.nodes
            .try_reserve(1)
            .and_then(|()| self.free.try_reserve(capacity))
            .map_err(|_| Errno::ENOMEM)?;
        self.used += node.cost();
        self.next_inode += 1;
        match self.free.pop() {
            Some(id) => {
                self.nodes[id.0] = Some(node);
                Ok(id)
            }
            None => {
                self.nodes.push(Some(node));
                Ok(NodeId(self.nodes.len() - 1))
            }
        }
    }

    /// Removes a name from the node's count, the last one of a directory. Returns the node if it is freed.
    fn remove_link(&mut self, id: NodeId, now: Timespec) -> Option<Node<C, D>> {
        let node = self.node_mut(id);
        node.times.changed = now;
        node.links = if node.is_directory() { 0 } else { node.links - 1 };
        if node.links > 0 {
            self.used -= 1;
        }
        self.free_unused(id)
    }

    fn free_unused(&mut self, id: NodeId) -> Option<Node<C, D>> {
        let node = self.node(id);
        if node.links == 0 && node.opens == 0 { self.remove_node(id) } else { None }
    }

    fn remove_node(&mut self, id: NodeId) -> Option<Node<C, D>> {
        let node = self.nodes[id.0].take()?;
        self.used -= node.cost();
        self.free.push(id);
        Some(node)
    }

    /// Whether `directory` is `ancestor` or below it.
    fn is_ancestor(&self, ancestor: NodeId, directory: NodeId) -> bool {
        let mut at = directory;
        while at != ancestor {
            if at == Self::ROOT {
                return false;
            }
            at = self.node(at).parent;
        }
        true
    }
}

impl<C, D> Namespace for FileTree<C, D> {
    type Node = NodeId;

    fn root(&self) -> NodeId {
        Self::ROOT
    }

    fn lookup(&self, &directory: &NodeId, name: &[u8]) -> Result<NodeId, Errno> {
        let entries = self.entries(directory)?;
        match name {
            _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
            b"." => Ok(directory),
            b".." => self.parent(directory),
            _ => entries.get(name).ok_or(Errno::ENOENT),
        }
    }

    fn is_directory(&self, &node: &NodeId) -> bool {
        self.node(node).is_directory()
    }

    fn target(&self, &node: &NodeId) -> Result<Option<LinkTarget<NodeId>>, Errno> {
        match &self.node(node).kind {
            NodeKind::Link(target) => {
                let mut path = Vec::new();
                path.try_reserve_exact(target.len()).map_err(|_| Errno::ENOMEM)?;
                path.extend(target);
                Ok(Some(LinkTarget::Path(path)))
            }
            _ => Ok(None),
        }
    }
}

/// The default mode of a symbolic link.
pub const LINK_MODE: u32 = S_IFLNK | 0o777;

/// `mode` with the type of a directory.
fn directory_mode(mode: u32) -> u32 {
    S_IFDIR | mode & !S_IFMT
}

#[cfg(test)]
mod tests;
