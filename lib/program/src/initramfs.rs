//! The read-only files of a program: the members of the initramfs and the device nodes, as one tree.

use crate::{CpioArchive, CpioError};
use abi::Errno;
use abi::file::{NAME_MAX, PATH_MAX, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// How many symbolic links one path may lead through, as in Linux.
const LINKS_MAX: usize = 40;

/// A node of a [`Initramfs`]; the root is [`Initramfs::ROOT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(usize);

impl NodeId {
    /// The inode number: from 1 on.
    pub fn inode(self) -> u64 {
        self.0 as u64 + 1
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum NodeKind<'a, D> {
    /// A directory: names and nodes.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file with its content.
    File(&'a [u8]),
    /// A symbolic link with its target.
    Link(&'a [u8]),
    /// A device node.
    Device(D),
}

/// A file, directory, link or device.
#[derive(Clone, Debug)]
pub struct Node<'a, D> {
    /// What it is and what is in it.
    pub kind: NodeKind<'a, D>,
    /// The directory it is in; the root is in itself.
    pub parent: NodeId,
    /// `st_mode`.
    pub mode: u32,
    /// Seconds since 1970 of its last change.
    pub mtime: u32,
}

/// All nodes. `D` is what the kernel knows a device by.
#[derive(Clone, Debug)]
pub struct Initramfs<'a, D> {
    nodes: Vec<Node<'a, D>>,
}

/// Why an archive does not make a tree; offsets are bytes from the archive's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitramfsError {
    /// The archive itself is damaged.
    Cpio(CpioError),
    /// The entry at this offset has a path with `..` in it, or a name that is too long.
    Path(usize),
    /// The entry at this offset is in something that is no directory, or would replace a directory.
    Conflict(usize),
    /// The entry at this offset has this mode, which is no kind of file known here.
    Mode(usize, u32),
}

impl fmt::Display for InitramfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpio(error) => write!(f, "{error}"),
            Self::Path(at) => write!(f, "the entry at offset {at:#x} has a path that cannot be used"),
            Self::Conflict(at) => write!(f, "the entry at offset {at:#x} conflicts with an earlier one"),
            Self::Mode(at, mode) => write!(f, "the entry at offset {at:#x} has the unknown mode {mode:#o}"),
        }
    }
}

impl<'a, D> Initramfs<'a, D> {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// A root directory with nothing in it.
    pub fn new() -> Self {
        Self { nodes: Vec::from([directory(Self::ROOT)]) }
    }

    /// The files of an archive. Directories that it names only as parts of paths are made; device nodes, FIFOs and
    /// sockets in it are left out, since the kernel has its own.
    pub fn from_archive(archive: CpioArchive<'a>) -> Result<Self, InitramfsError> {
        let mut tree = Self::new();
        for entry in archive {
            let entry = entry.map_err(InitramfsError::Cpio)?;
            let kind = match entry.mode & S_IFMT {
                S_IFDIR => NodeKind::Directory(BTreeMap::new()),
                S_IFREG => NodeKind::File(entry.data),
                S_IFLNK => NodeKind::Link(entry.data),
                0o010000 | 0o140000 | 0o060000 | S_IFCHR => continue,
                _ => return Err(InitramfsError::Mode(entry.offset, entry.mode)),
            };
            let node = Node { kind, parent: Self::ROOT, mode: entry.mode & 0o177777, mtime: entry.mtime };
            tree.insert(entry.name, node).map_err(|error| match error {
                Errno::EINVAL | Errno::ENAMETOOLONG => InitramfsError::Path(entry.offset),
                _ => InitramfsError::Conflict(entry.offset),
            })?;
        }
        Ok(tree)
    }

    /// Puts a device node at `path` (from the root), over whatever the archive had there.
    ///
    /// # Errors
    /// Those of a path that leads through a file (`ENOTDIR`) or names a directory (`EISDIR`).
    pub fn add_device(&mut self, path: &[u8], device: D) -> Result<(), Errno> {
        let node =
            Node { kind: NodeKind::Device(device), parent: Self::ROOT, mode: S_IFCHR | 0o666, mtime: 0 };
        self.insert(path, node)
    }

    /// The node itself.
    pub fn node(&self, id: NodeId) -> &Node<'a, D> {
        &self.nodes[id.0]
    }

    /// The node that `path` leads to, from `start` or, when it starts with `/`, from the root. A symbolic link at
    /// its end is followed only if `follow` says so or a `/` comes behind it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` and `ENAMETOOLONG` as `path_resolution(7)` has them.
    pub fn resolve(&self, start: NodeId, path: &[u8], follow: bool) -> Result<NodeId, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        PathResolver { tree: self, links_left: LINKS_MAX }.run(start, path, follow)
    }

    fn insert(&mut self, path: &[u8], node: Node<'a, D>) -> Result<(), Errno> {
        let mut names =
            path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
        let mut at = Self::ROOT;
        while let Some(name) = names.next() {
            check_new_name(name)?;
            if names.peek().is_none() {
                return self.put(at, name, node);
            }
            at = self.subdirectory(at, name)?;
        }
        // The path names the root itself.
        self.become_directory(Self::ROOT, node)
    }

    fn put(&mut self, parent: NodeId, name: &[u8], node: Node<'a, D>) -> Result<(), Errno> {
        let node = Node { parent, ..node };
        match self.entries(parent)?.get(name).copied() {
            None => self.add(parent, name, node).map(drop),
            Some(old) if matches!(self.node(old).kind, NodeKind::Directory(_)) => {
                self.become_directory(old, node)
            }
            Some(old) => {
                self.nodes[old.0] = node;
                Ok(())
            }
        }
    }

    /// A directory named once more only gets its mode and time.
    fn become_directory(&mut self, id: NodeId, node: Node<'a, D>) -> Result<(), Errno> {
        if !matches!(node.kind, NodeKind::Directory(_)) {
            return Err(Errno::EISDIR);
        }
        (self.nodes[id.0].mode, self.nodes[id.0].mtime) = (node.mode, node.mtime);
        Ok(())
    }

    fn subdirectory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Errno> {
        match self.entries(parent)?.get(name) {
            Some(&id) => Ok(id),
            None => self.add(parent, name, directory(parent)),
        }
    }

    fn add(&mut self, parent: NodeId, name: &[u8], node: Node<'a, D>) -> Result<NodeId, Errno> {
        let id = NodeId(self.nodes.len());
        let NodeKind::Directory(entries) = &mut self.nodes[parent.0].kind else { return Err(Errno::ENOTDIR) };
        entries.insert(name.to_owned(), id);
        self.nodes.push(node);
        Ok(id)
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

/// One path resolution. It recurs once for each symbolic link, at most [`LINKS_MAX`] times.
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
    Node { kind: NodeKind::Directory(BTreeMap::new()), parent, mode: S_IFDIR | 0o755, mtime: 0 }
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
    use crate::cpio::tests::{archive, member};

    fn sample() -> Vec<u8> {
        archive(&[
            (".", 0o40700, b""),
            ("bin/mosaic", 0o100755, b"ELF"),
            ("./lib", 0o40755, b""),
            ("lib/up", 0o120777, b"../bin/mosaic"),
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
    fn paths_lead_to_files() {
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
    fn a_link_at_the_end_is_followed_on_request() {
        let bytes = sample();
        let tree: Initramfs<&str> = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
        let kind = |path: &str| {
            tree.node(tree.resolve(Initramfs::<&str>::ROOT, path.as_bytes(), false).unwrap()).kind.clone()
        };
        assert!(matches!(kind("/dir"), NodeKind::Link(b"lib")));
        assert!(matches!(kind("/dir/"), NodeKind::Directory(_)));
    }

    #[test]
    fn devices_stand_where_they_are_put() {
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

    #[test]
    fn the_roots_mode_can_be_set() {
        let bytes = sample();
        let tree: Initramfs<&str> = Initramfs::from_archive(CpioArchive::new(&bytes)).unwrap();
        assert_eq!(tree.node(Initramfs::<&str>::ROOT).mode, 0o40700);
    }

    #[test]
    fn bad_members_are_named() {
        // Behind `bin` and `ok`.
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
