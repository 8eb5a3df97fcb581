//! Building the file tree from an archive, device nodes and mounts.

use super::{
    Directory, FileTimes, FileTree, LINK_MODE, MountId, NODES_MAX, Node, NodeId, NodeKind, directory_mode,
};
use crate::cpio::CpioInode;
use crate::{CpioArchive, CpioEntry, CpioError};
use abi::Errno;
use abi::clock::Timespec;
use abi::file::{NAME_MAX, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// An error in the content of an archive, with the byte offset of the entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveError {
    /// The archive is malformed.
    Cpio(CpioError),
    /// The entry's path contains `..` or a name that is too long.
    Path(usize),
    /// The entry's parent is not a directory, or the entry would replace a directory.
    Conflict(usize),
    /// The entry's mode has an unknown file type.
    Mode(usize, u32),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpio(error) => write!(f, "{error}"),
            Self::Path(at) => write!(f, "the entry at offset {at:#x} has an invalid path"),
            Self::Conflict(at) => write!(f, "the entry at offset {at:#x} conflicts with an earlier one"),
            Self::Mode(at, mode) => write!(f, "the entry at offset {at:#x} has the unknown mode {mode:#o}"),
        }
    }
}

impl<C, D> FileTree<C, D> {
    /// An empty root directory.
    pub fn new() -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            free: Vec::new(),
            mounts: Vec::from([Self::ROOT]),
            next_inode: 1,
            used: 0,
            limit: usize::MAX,
        };
        let root = tree.new_node(NodeKind::Directory(Directory::default()), directory_mode(0o755), 0);
        tree.nodes.push(Some(Node { links: 2, ..root }));
        tree.next_inode += 1;
        tree
    }

    /// Builds the tree from an archive, with the content that `content` makes of a file's bytes. Missing
    /// parent directories are created. Device nodes, FIFOs and sockets are skipped, since the kernel provides
    /// its own.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn from_archive<'a>(
        archive: CpioArchive<'a>,
        mut content: impl FnMut(&'a [u8]) -> C,
    ) -> Result<Self, ArchiveError> {
        let mut tree = Self::new();
        let mut linked = BTreeMap::new();
        for entry in archive {
            let entry = entry.map_err(ArchiveError::Cpio)?;
            let kind = match entry.mode & S_IFMT {
                S_IFDIR => NodeKind::Directory(Directory::default()),
                S_IFREG => NodeKind::File(content(entry.data)),
                S_IFLNK => NodeKind::Link(entry.data.to_vec()),
                0o010000 | 0o140000 | 0o060000 | S_IFCHR => continue,
                _ => return Err(ArchiveError::Mode(entry.offset, entry.mode)),
            };
            tree.add_entry(&entry, kind, &mut linked).map_err(|error| match error {
                Errno::EINVAL | Errno::ENAMETOOLONG => ArchiveError::Path(entry.offset),
                _ => ArchiveError::Conflict(entry.offset),
            })?;
        }
        Ok(tree)
    }

    /// Adds an entry. `linked` has the files by the inode numbers of the archive.
    fn add_entry(
        &mut self,
        entry: &CpioEntry<'_>,
        kind: NodeKind<C, D>,
        linked: &mut BTreeMap<CpioInode, NodeId>,
    ) -> Result<(), Errno> {
        let inode = entry.inode.filter(|_| matches!(kind, NodeKind::File(_)));
        if let Some(&id) = inode.and_then(|inode| linked.get(&inode)) {
            return self.add_hard_link(entry, id, kind);
        }
        let node = self.new_node(kind, entry.mode & 0o177777, entry.mtime);
        let id = self.insert(entry.name, node)?;
        inode.and_then(|inode| linked.insert(inode, id));
        Ok(())
    }

    /// Adds a device node at `path`, relative to the root; replaces an existing file.
    ///
    /// # Errors
    /// `ENOTDIR` if a parent is not a directory, `EISDIR` if `path` is a directory.
    pub fn add_device(&mut self, path: &[u8], device: D) -> Result<(), Errno> {
        let node = self.new_node(NodeKind::Device(device), S_IFCHR | 0o666, 0);
        self.insert(path, node).map(drop)
    }

    /// Adds a symbolic link at `path`, unless a node is there.
    ///
    /// # Errors
    /// `ENOTDIR` if a parent is not a directory.
    pub fn add_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Errno> {
        match self.parent_of(path)? {
            Some((parent, name)) if self.entries(parent)?.get(name).is_none() => {
                let node = self.new_node(NodeKind::Link(target.to_vec()), LINK_MODE, 0);
                self.name_new(parent, name, node).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory at `path`, which is created with this mode if it does not exist, and all below it
    /// a mount that can be changed. From the first mount on, the nodes of programs are limited
    /// ([`NODES_MAX`]). Returns its root.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOMEM` for too many mounts.
    pub fn add_mount(&mut self, path: &[u8], mode: u32) -> Result<NodeId, Errno> {
        let Some((parent, name)) = self.parent_of(path)? else { return Err(Errno::EBUSY) };
        let root = match self.entries(parent)?.get(name) {
            Some(id) => id,
            None => {
                let node = self.new_node(NodeKind::Directory(Directory::default()), directory_mode(mode), 0);
                self.name_new(parent, name, node)?
            }
        };
        self.entries(root)?;
        let mount = MountId(u8::try_from(self.mounts.len()).map_err(|_| Errno::ENOMEM)?);
        self.mounts.push(root);
        let mut below = Vec::from([root]);
        while let Some(id) = below.pop() {
            self.node_mut(id).mount = mount;
            if let NodeKind::Directory(entries) = &self.node(id).kind {
                below.extend(entries.entries_from(0).iter().map(|entry| entry.node));
            }
        }
        self.limit = self.used + NODES_MAX;
        Ok(root)
    }

    fn new_node(&self, kind: NodeKind<C, D>, mode: u32, mtime: u32) -> Node<C, D> {
        Node {
            kind,
            parent: Self::ROOT,
            mount: MountId::ARCHIVE,
            inode: self.next_inode,
            mode,
            owner: (0, 0),
            times: FileTimes::at(Timespec { seconds: mtime.into(), nanoseconds: 0 }),
            links: 0,
            opens: 0,
            former_path: Vec::new(),
        }
    }

    /// Adds a node at `path`. Replaces a file there; an existing directory gets the attributes of `node`.
    fn insert(&mut self, path: &[u8], node: Node<C, D>) -> Result<NodeId, Errno> {
        let Some((parent, name)) = self.parent_of(path)? else {
            return self.update_directory(Self::ROOT, node);
        };
        match self.entries(parent)?.get(name) {
            Some(old) if self.node(old).is_directory() => self.update_directory(old, node),
            _ => self.name_new(parent, name, node),
        }
    }

    /// Gives the file `id` another name. If this entry has the content, it becomes that of the file.
    fn add_hard_link(
        &mut self,
        entry: &CpioEntry<'_>,
        id: NodeId,
        kind: NodeKind<C, D>,
    ) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(entry.name)?.ok_or(Errno::EISDIR)?;
        if self.entries(parent)?.get(name).is_some_and(|old| self.node(old).is_directory()) {
            return Err(Errno::EISDIR);
        }
        if !entry.data.is_empty() {
            self.node_mut(id).kind = kind;
        }
        self.name_node(parent, name, id)
    }

    /// The directory and the name of the last component of `path`, whose missing parents are created; `None`
    /// for the root.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<Option<(NodeId, &'p [u8])>, Errno> {
        let mut names =
            path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
        let mut at = Self::ROOT;
        while let Some(name) = names.next() {
            check_name(name)?;
            if names.peek().is_none() {
                return Ok(Some((at, name)));
            }
            at = match self.entries(at)?.get(name) {
                Some(id) => id,
                None => {
                    let node =
                        self.new_node(NodeKind::Directory(Directory::default()), directory_mode(0o755), 0);
                    self.name_new(at, name, node)?
                }
            };
        }
        Ok(None)
    }

    /// Updates mode and times of an existing directory.
    fn update_directory(&mut self, id: NodeId, node: Node<C, D>) -> Result<NodeId, Errno> {
        if !node.is_directory() {
            return Err(Errno::EISDIR);
        }
        let old = self.node_mut(id);
        (old.mode, old.times) = (node.mode, node.times);
        Ok(id)
    }

    fn name_new(&mut self, parent: NodeId, name: &[u8], node: Node<C, D>) -> Result<NodeId, Errno> {
        self.entries(parent)?;
        let is_directory = node.is_directory();
        let id = self.add_node(Node { parent, ..node })?;
        self.name_node(parent, name, id)?;
        if is_directory {
            self.node_mut(id).links = 2;
            self.node_mut(parent).links += 1;
        }
        Ok(id)
    }

    /// Gives the node `id` a name, which may have been that of another file.
    fn name_node(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), Errno> {
        let replaced = self.entries_mut(parent)?.insert(name, id)?;
        self.node_mut(id).links += 1;
        // A replaced file may have other names, so that its node stays.
        if let Some(old) = replaced {
            self.node_mut(old).links -= 1;
        }
        Ok(())
    }
}

impl<C, D> Default for FileTree<C, D> {
    fn default() -> Self {
        Self::new()
    }
}

fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b".." => Err(Errno::EINVAL),
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::tests::{archive, linked, member};
    use crate::file_tree::path::LINKS_MAX;
    use crate::file_tree::resolve;

    type ArchiveTree<'a> = FileTree<&'a [u8], &'static str>;

    fn tree(archive: &[u8]) -> ArchiveTree<'_> {
        try_tree(archive).unwrap()
    }

    fn try_tree(archive: &[u8]) -> Result<ArchiveTree<'_>, ArchiveError> {
        FileTree::from_archive(CpioArchive::new(archive), |data| data)
    }

    fn find(tree: &ArchiveTree<'_>, path: &str, follow: bool) -> Result<NodeId, Errno> {
        resolve(tree, &ArchiveTree::ROOT, path.as_bytes(), follow)?.node.ok_or(Errno::ENOENT)
    }

    fn sample() -> Vec<u8> {
        archive(&[
            (".", 0o40700, b""),
            ("bin/mosaic", 0o100755, b"ELF"),
            ("./lib", 0o40755, b""),
            ("lib/up", 0o120777, b"../bin/mosaic"),
            ("lib/here", 0o120777, b"up"),
            ("abs", 0o120777, b"/lib/up"),
            ("a", 0o120777, b"b"),
            ("b", 0o120777, b"a"),
            ("dir", 0o120777, b"lib"),
            ("fifo", 0o010644, b""),
        ])
    }

    fn content<'a>(tree: &ArchiveTree<'a>, path: &str) -> Result<&'a [u8], Errno> {
        match tree.node(find(tree, path, true)?).kind {
            NodeKind::File(data) => Ok(data),
            _ => Err(Errno::EISDIR),
        }
    }

    #[test]
    fn path_resolution_follows_directories_and_links() {
        let bytes = sample();
        let tree = tree(&bytes);
        for path in [
            "/bin/mosaic",
            "bin//mosaic",
            "/bin/./../bin/mosaic",
            "/../bin/mosaic",
            "/abs",
            "/dir/up",
            "lib/up",
            "/lib/here",
        ] {
            assert_eq!(content(&tree, path), Ok(&b"ELF"[..]), "{path}");
        }
        let errors = [
            ("", Errno::ENOENT),
            ("/nothing", Errno::ENOENT),
            ("/fifo", Errno::ENOENT),
            ("/bin/mosaic/x", Errno::ENOTDIR),
            ("/bin/mosaic/", Errno::ENOTDIR),
            ("/bin/mosaic/..", Errno::ENOTDIR),
            ("/a", Errno::ELOOP),
            ("/bin/", Errno::EISDIR),
        ];
        for (path, error) in errors {
            assert_eq!(content(&tree, path), Err(error), "{path}");
        }
        assert_eq!(content(&tree, &"x".repeat(256)), Err(Errno::ENAMETOOLONG));
        assert_eq!(content(&tree, &"/x".repeat(2048)), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn path_resolution_follows_at_most_forty_links() {
        let link = |n: usize| member(&format!("l{n}"), 0o120777, format!("l{}", n + 1).as_bytes());
        let mut bytes: Vec<u8> = (0..=LINKS_MAX).flat_map(link).collect();
        bytes.extend(archive(&[("l41", 0o100644, b"end")]));
        let tree = tree(&bytes);
        assert_eq!((content(&tree, "/l1"), content(&tree, "/l0")), (Ok(&b"end"[..]), Err(Errno::ELOOP)));
    }

    #[test]
    fn trailing_link_is_followed_only_if_requested() {
        let bytes = sample();
        let tree = tree(&bytes);
        let kind = |path: &str| tree.node(find(&tree, path, false).unwrap()).kind.clone();
        assert!(matches!(kind("/dir"), NodeKind::Link(target) if target == b"lib"));
        assert!(matches!(kind("/dir/"), NodeKind::Directory(_)));
    }

    #[test]
    fn device_nodes_replace_files_but_not_directories() {
        let bytes = archive(&[("dev/null", 0o100644, b"a file"), ("file", 0o100644, b"")]);
        let mut tree = tree(&bytes);
        tree.add_device(b"/dev/null", "null").unwrap();
        tree.add_device(b"/dev/dma_heap/system", "heap").unwrap();
        let device = |path: &str| match tree.node(find(&tree, path, true).unwrap()).kind {
            NodeKind::Device(device) => device,
            _ => "none",
        };
        assert_eq!((device("/dev/null"), device("/dev/dma_heap/system")), ("null", "heap"));
        assert_eq!(tree.add_device(b"/dev", "x"), Err(Errno::EISDIR));
        assert_eq!(tree.add_device(b"/file/x", "x"), Err(Errno::ENOTDIR));
    }

    /// `newc` stores the content with one of the names only, the last one usually.
    #[test]
    fn hard_links_share_one_file() {
        for with_content in 0..3 {
            let data = |n| if n == with_content { &b"ELF"[..] } else { b"" };
            let names = ["bin/a", "bin/b", "bin/c"];
            let mut bytes: Vec<u8> = (0..3).flat_map(|n| linked(names[n], 5, data(n))).collect();
            bytes.extend(archive(&[("bin/a", 0o100644, b"replaced")]));
            let tree = tree(&bytes);
            let inode = |path: &str| find(&tree, path, true).unwrap();
            assert_eq!(
                (content(&tree, "/bin/b"), content(&tree, "/bin/c")),
                (Ok(&b"ELF"[..]), Ok(&b"ELF"[..]))
            );
            assert_eq!(inode("/bin/b"), inode("/bin/c"));
            assert_eq!(content(&tree, "/bin/a"), Ok(&b"replaced"[..]), "only this name is replaced");
            assert_eq!(["/bin/a", "/bin/b"].map(|path| tree.node(inode(path)).links), [1, 2]);
        }
    }

    #[test]
    fn hard_link_does_not_replace_a_directory() {
        let bytes = [member("bin/x", 0o100644, b""), linked("a", 5, b""), linked("bin", 5, b"ELF")].concat();
        let offset = bytes.len() - linked("bin", 5, b"ELF").len();
        let error = try_tree(&bytes).unwrap_err();
        assert_eq!(error, ArchiveError::Conflict(offset));
    }

    #[test]
    fn archive_sets_the_mode_of_the_root() {
        let bytes = sample();
        let tree = tree(&bytes);
        assert_eq!(tree.node(ArchiveTree::ROOT).mode, 0o40700);
    }

    #[test]
    fn invalid_entries_are_reported_with_their_offset() {
        // After `bin` and `ok`.
        let offset = 116 + 120;
        let cases = [
            ("../etc", 0o100644, ArchiveError::Path(offset)),
            ("ok/file", 0o100644, ArchiveError::Conflict(offset)),
            ("bin", 0o100644, ArchiveError::Conflict(offset)),
            ("odd", 0o200644, ArchiveError::Mode(offset, 0o200644)),
        ];
        for (name, mode, error) in cases {
            let mut bytes = member("bin", 0o40755, b"");
            bytes.extend(member("ok", 0o100644, b"x"));
            assert_eq!(bytes.len(), offset);
            bytes.extend(archive(&[(name, mode, b"")]));
            let found = try_tree(&bytes).unwrap_err();
            assert_eq!(found, error, "{name}");
            assert!(found.to_string().contains(&format!("{offset:#x}")), "{found}");
        }
    }
}
