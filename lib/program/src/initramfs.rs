//! The read-only root file system: the files of the initramfs and device nodes, in one tree.

use crate::{CpioArchive, CpioError};
use abi::Errno;
use abi::file::{NAME_MAX, PATH_MAX, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// The maximum number of symbolic links in a path resolution, as in Linux.
const LINKS_MAX: usize = 40;

/// A node of an [`Initramfs`]; the root is [`Initramfs::ROOT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(usize);

impl NodeId {
    /// The inode number, starting at 1.
    pub fn inode(self) -> u64 {
        self.0 as u64 + 1
    }
}

/// The file type and content of a node.
#[derive(Clone, Debug)]
pub enum NodeKind<'a, D> {
    /// A directory: nodes by name.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file: its content.
    File(&'a [u8]),
    /// A symbolic link: its target.
    Link(&'a [u8]),
    /// A device node.
    Device(D),
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Node<'a, D> {
    /// File type and content.
    pub kind: NodeKind<'a, D>,
    /// The parent directory; the root's parent is the root.
    pub parent: NodeId,
    /// `st_mode`.
    pub mode: u32,
    /// Modification time in seconds since 1970.
    pub mtime: u32,
    /// The number of names of a file.
    pub links: u32,
}

/// The file tree. `D` identifies a device.
#[derive(Clone, Debug)]
pub struct Initramfs<'a, D> {
    nodes: Vec<Node<'a, D>>,
}

/// An error in the content of an archive, with the byte offset of the entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitramfsError {
    /// The archive is malformed.
    Cpio(CpioError),
    /// The entry's path contains `..` or a name that is too long.
    Path(usize),
    /// The entry's parent is not a directory, or the entry would replace a directory.
    Conflict(usize),
    /// The entry's mode has an unknown file type.
    Mode(usize, u32),
}

impl fmt::Display for InitramfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpio(error) => write!(f, "{error}"),
            Self::Path(at) => write!(f, "the entry at offset {at:#x} has an invalid path"),
            Self::Conflict(at) => write!(f, "the entry at offset {at:#x} conflicts with an earlier one"),
            Self::Mode(at, mode) => write!(f, "the entry at offset {at:#x} has the unknown mode {mode:#o}"),
        }
    }
}

impl<'a, D> Initramfs<'a, D> {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// An empty root directory.
    pub fn new() -> Self {
        Self { nodes: Vec::from([directory(Self::ROOT)]) }
    }

    /// Builds the tree from an archive. Missing parent directories are created. Device nodes, FIFOs and
    /// sockets are skipped, since the kernel provides its own.
    pub fn from_archive(archive: CpioArchive<'a>) -> Result<Self, InitramfsError> {
        let mut tree = Self::new();
        let mut linked = BTreeMap::new();
        for entry in archive {
            let entry = entry.map_err(InitramfsError::Cpio)?;
            let kind = match entry.mode & S_IFMT {
                S_IFDIR => NodeKind::Directory(BTreeMap::new()),
                S_IFREG => NodeKind::File(entry.data),
                S_IFLNK => NodeKind::Link(entry.data),
                0o010000 | 0o140000 | 0o060000 | S_IFCHR => continue,
                _ => return Err(InitramfsError::Mode(entry.offset, entry.mode)),
            };
            let node =
                Node { kind, parent: Self::ROOT, mode: entry.mode & 0o177777, mtime: entry.mtime, links: 0 };
            let inode = entry.inode.filter(|_| matches!(node.kind, NodeKind::File(_)));
            let known = inode.and_then(|inode| linked.get(&inode).copied());
            let id = match known {
                Some(id) => tree.link(entry.name, id, entry.data).map(|()| id),
                None => tree.insert(entry.name, node),
            };
            let id = id.map_err(|error| match error {
                Errno::EINVAL | Errno::ENAMETOOLONG => InitramfsError::Path(entry.offset),
                _ => InitramfsError::Conflict(entry.offset),
            })?;
            inode.and_then(|inode| linked.insert(inode, id));
        }
        Ok(tree)
    }

    /// Adds a device node at `path`, relative to the root; replaces an existing file.
    ///
    /// # Errors
    /// `ENOTDIR` if a parent is not a directory, `EISDIR` if `path` is a directory.
    pub fn add_device(&mut self, path: &[u8], device: D) -> Result<(), Errno> {
        let node = Node {
            kind: NodeKind::Device(device),
            parent: Self::ROOT,
            mode: S_IFCHR | 0o666,
            mtime: 0,
            links: 0,
        };
        self.insert(path, node).map(drop)
    }

    /// The node with this number.
    pub fn node(&self, id: NodeId) -> &Node<'a, D> {
        &self.nodes[id.0]
    }

    /// Resolves `path` relative to `start`, or to the root if it starts with `/`. A trailing symbolic link is
    /// followed if `follow` is set or a `/` follows it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` and `ENAMETOOLONG` as in `path_resolution(7)`.
    pub fn resolve(&self, start: NodeId, path: &[u8], follow: bool) -> Result<NodeId, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        PathResolver { tree: self, links_left: LINKS_MAX }.run(start, path, follow)
    }

    /// Adds a node at `path`. Replaces a file there; an existing directory gets the attributes of `node`.
    fn insert(&mut self, path: &[u8], node: Node<'a, D>) -> Result<NodeId, Errno> {
        let Some((parent, name)) = self.parent_of(path)? else {
            return self.update_directory(Self::ROOT, node);
        };
        match self.entries(parent)?.get(name).copied() {
            Some(old) if matches!(self.node(old).kind, NodeKind::Directory(_)) => {
                self.update_directory(old, node)
            }
            // A replaced file may have other names, so that its node stays.
            _ => self.add(parent, name, Node { parent, ..node }),
        }
    }

    /// Adds a hard link to the file `id` at `path`. If this name has the content, it becomes that of the
    /// file.
    fn link(&mut self, path: &[u8], id: NodeId, data: &'a [u8]) -> Result<(), Errno> {
        let (parent, name) = self.parent_of(path)?.ok_or(Errno::EISDIR)?;
        let entries = self.entries(parent)?;
        if entries.get(name).is_some_and(|&old| matches!(self.node(old).kind, NodeKind::Directory(_))) {
            return Err(Errno::EISDIR);
        }
        if !data.is_empty() {
            self.nodes[id.0].kind = NodeKind::File(data);
        }
        self.name(parent, name, id)
    }

    /// The directory and the name of the last component of `path`, whose missing parents are created; `None`
    /// for the root.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<Option<(NodeId, &'p [u8])>, Errno> {
        let mut names =
            path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
        let mut at = Self::ROOT;
        while let Some(name) = names.next() {
            check_new_name(name)?;
            if names.peek().is_none() {
                return Ok(Some((at, name)));
            }
            at = self.subdirectory(at, name)?;
        }
        Ok(None)
    }

    /// Updates mode and modification time of an existing directory.
    fn update_directory(&mut self, id: NodeId, node: Node<'a, D>) -> Result<NodeId, Errno> {
        if !matches!(node.kind, NodeKind::Directory(_)) {
            return Err(Errno::EISDIR);
        }
        (self.nodes[id.0].mode, self.nodes[id.0].mtime) = (node.mode, node.mtime);
        Ok(id)
    }

    fn subdirectory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Errno> {
        match self.entries(parent)?.get(name) {
            Some(&id) => Ok(id),
            None => self.add(parent, name, directory(parent)),
        }
    }

    fn add(&mut self, parent: NodeId, name: &[u8], node: Node<'a, D>) -> Result<NodeId, Errno> {
        self.entries(parent)?;
        let id = NodeId(self.nodes.len());
        self.nodes.push(node);
        self.name(parent, name, id)?;
        Ok(id)
    }

    /// Gives the node `id` another name, which may have been that of another file.
    fn name(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), Errno> {
        let NodeKind::Directory(entries) = &mut self.nodes[parent.0].kind else { return Err(Errno::ENOTDIR) };
        let replaced = entries.insert(name.to_owned(), id);
        self.nodes[id.0].links += 1;
        replaced.into_iter().for_each(|old| self.nodes[old.0].links -= 1);
        Ok(())
    }

    fn entries(&self, id: NodeId) -> Result<&BTreeMap<Vec<u8>, NodeId>, Errno> {
        match &self.node(id).kind {
            NodeKind::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

impl<D> Default for Initramfs<'_, D> {
    fn default() -> Self {
        Self::new()
    }
}

/// A path resolution. Recurses for each symbolic link, at most [`LINKS_MAX`] times.
struct PathResolver<'t, 'a, D> {
    tree: &'t Initramfs<'a, D>,
    links_left: usize,
}

impl<D> PathResolver<'_, '_, D> {
    fn run(&mut self, start: NodeId, path: &[u8], follow: bool) -> Result<NodeId, Errno> {
        let mut at = if path.starts_with(b"/") { Initramfs::<D>::ROOT } else { start };
        let must_be_directory = path.ends_with(b"/");
        let mut names = path.split(|&b| b == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let last = names.peek().is_none();
            at = self.step(at, name, !last || follow || must_be_directory)?;
        }
        if must_be_directory {
            self.tree.entries(at)?;
        }
        Ok(at)
    }

    fn step(&mut self, at: NodeId, name: &[u8], follow: bool) -> Result<NodeId, Errno> {
        let entries = self.tree.entries(at)?;
        let next = match name {
            _ if name.len() > NAME_MAX => return Err(Errno::ENAMETOOLONG),
            b"." => at,
            b".." => self.tree.node(at).parent,
            _ => *entries.get(name).ok_or(Errno::ENOENT)?,
        };
        match self.tree.node(next).kind {
            NodeKind::Link(target) if follow => {
                self.links_left = self.links_left.checked_sub(1).ok_or(Errno::ELOOP)?;
                self.run(at, target, true)
            }
            _ => Ok(next),
        }
    }
}

fn directory<'a, D>(parent: NodeId) -> Node<'a, D> {
    Node { kind: NodeKind::Directory(BTreeMap::new()), parent, mode: S_IFDIR | 0o755, mtime: 0, links: 0 }
}

fn check_new_name(name: &[u8]) -> Result<(), Errno> {
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

    fn content<'a>(tree: &Initramfs<'a, &str>, path: &str) -> Result<&'a [u8], Errno> {
        match tree.node(tree.resolve(Initramfs::<&str>::ROOT, path.as_bytes(), true)?).kind {
            NodeKind::File(data) => Ok(data),
            _ => Err(Errno::EISDIR),
        }
    }

    #[test]
    fn path_resolution_follows_directories_and_links() {
        let bytes = sample();
        let tree = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
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
        let tree = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
        assert_eq!((content(&tree, "/l1"), content(&tree, "/l0")), (Ok(&b"end"[..]), Err(Errno::ELOOP)));
    }

    #[test]
    fn trailing_link_is_followed_only_if_requested() {
        let bytes = sample();
        let tree: Initramfs<&str> = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
        let kind = |path: &str| {
            tree.node(tree.resolve(Initramfs::<&str>::ROOT, path.as_bytes(), false).unwrap()).kind.clone()
        };
        assert!(matches!(kind("/dir"), NodeKind::Link(b"lib")));
        assert!(matches!(kind("/dir/"), NodeKind::Directory(_)));
    }

    #[test]
    fn device_nodes_replace_files_but_not_directories() {
        let bytes = archive(&[("dev/null", 0o100644, b"a file"), ("file", 0o100644, b"")]);
        let mut tree = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
        tree.add_device(b"/dev/null", "null").unwrap();
        tree.add_device(b"/dev/dma_heap/system", "heap").unwrap();
        let device = |path: &str| match tree
            .node(tree.resolve(Initramfs::<&str>::ROOT, path.as_bytes(), true).unwrap())
            .kind
        {
            NodeKind::Device(device) => device,
            _ => "none",
        };
        assert_eq!((device("/dev/null"), device("/dev/dma_heap/system")), ("null", "heap"));
        let mut tree = tree.clone();
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
            let tree: Initramfs<&str> = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
            let inode = |path: &str| tree.resolve(Initramfs::<&str>::ROOT, path.as_bytes(), true).unwrap();
            assert_eq!(
                (content(&tree, "/bin/b"), content(&tree, "/bin/c")),
                (Ok(&b"ELF"[..]), Ok(&b"ELF"[..]))
            );
            assert_eq!(inode("/bin/b").inode(), inode("/bin/c").inode());
            assert_eq!(content(&tree, "/bin/a"), Ok(&b"replaced"[..]), "only this name is replaced");
            assert_eq!(["/bin/a", "/bin/b"].map(|path| tree.node(inode(path)).links), [1, 2]);
        }
    }

    #[test]
    fn hard_link_does_not_replace_a_directory() {
        let bytes = [member("bin/x", 0o100644, b""), linked("a", 5, b""), linked("bin", 5, b"ELF")].concat();
        let offset = bytes.len() - linked("bin", 5, b"ELF").len();
        let error = Initramfs::<()>::from_archive(CpioArchive::new(&bytes)).unwrap_err();
        assert_eq!(error, InitramfsError::Conflict(offset));
    }

    #[test]
    fn archive_sets_the_mode_of_the_root() {
        let bytes = sample();
        let tree: Initramfs<&str> = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
        assert_eq!(tree.node(Initramfs::<&str>::ROOT).mode, 0o40700);
    }

    #[test]
    fn invalid_entries_are_reported_with_their_offset() {
        // After `bin` and `ok`.
        let offset = 116 + 120;
        let cases = [
            ("../etc", 0o100644, InitramfsError::Path(offset)),
            ("ok/file", 0o100644, InitramfsError::Conflict(offset)),
            ("bin", 0o100644, InitramfsError::Conflict(offset)),
            ("odd", 0o200644, InitramfsError::Mode(offset, 0o200644)),
        ];
        for (name, mode, error) in cases {
            let mut bytes = member("bin", 0o40755, b"");
            bytes.extend(member("ok", 0o100644, b"x"));
            assert_eq!(bytes.len(), offset);
            bytes.extend(archive(&[(name, mode, b"")]));
            let found = Initramfs::<()>::from_archive(CpioArchive::new(&bytes)).unwrap_err();
            assert_eq!(found, error, "{name}");
            assert!(found.to_string().contains(&format!("{offset:#x}")), "{found}");
        }
    }
}
