//! System calls on paths.

use super::{SyscallContext, SyscallResult};
use crate::fs::generated::Text;
use crate::fs::root::{self, FsNode, NodeRef, Tree, TreeGuard};
use crate::fs::{self, OpenFile};
use crate::memory::heap;
use abi::Errno;
use abi::clock::{NANOSECONDS, Timespec};
use abi::file::*;
use addr::UserVa;
use alloc::vec::Vec;
use program::{Directory, LINK_MODE, LinkTarget, NodeKind, PathEnd, RenameMode};

/// The bits of a mode that `chmod` sets.
const MODE_BITS: u32 = 0o7777;

/// A path argument, and the directory that it is relative to.
struct PathArgument {
    start: NodeRef,
    path: Vec<u8>,
}

impl PathArgument {
    /// Reads the path at `path`, relative to the descriptor in argument `directory`.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`, `EBADF`, `ENOTDIR`.
    fn read(call: &SyscallContext<'_>, directory: usize, path: UserVa) -> Result<Self, Errno> {
        let path = call.memory().read_string(path, PATH_MAX)?;
        let is_current = call.int(directory) == AT_FDCWD;
        let start = if path.starts_with(b"/") {
            NodeRef::new(&mut *root::lock()?, FsNode::ROOT)
        } else if is_current {
            call.process().fs.directory()?
        } else {
            node_of(&*call.any_file(directory)?)?
        };
        Ok(Self { start, path })
    }

    /// Resolves the path, and calls `visit` with the tree and the result.
    fn with<R>(
        &self,
        follow: bool,
        visit: impl FnOnce(&mut TreeGuard, PathEnd<FsNode>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let mut tree = root::lock()?;
        let end = tree.resolve(self.start.node(), &self.path, follow)?;
        visit(&mut tree, end)
    }

    /// As [`with`](Self::with), for a node that exists. `flags` may have `AT_SYMLINK_NOFOLLOW`, and
    /// `AT_EMPTY_PATH`: an empty path is that of the descriptor.
    fn with_node<R>(
        &self,
        flags: u64,
        visit: impl FnOnce(&mut TreeGuard, FsNode) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        if self.path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            return visit(&mut root::lock()?, self.start.node().clone());
        }
        self.with(flags & AT_SYMLINK_NOFOLLOW == 0, |tree, end| visit(tree, end.node.ok_or(Errno::ENOENT)?))
    }

    /// Returns a reference to the node, as [`with_node`](Self::with_node) finds it.
    fn node(&self, flags: u64) -> Result<NodeRef, Errno> {
        self.with_node(flags, |tree, node| Ok(NodeRef::new(tree, node)))
    }
}

/// Returns a reference to the node of an open file.
///
/// # Errors
/// `ENOTDIR` without one.
fn node_of(file: &OpenFile) -> Result<NodeRef, Errno> {
    let node = file.node().ok_or(Errno::ENOTDIR)?.clone();
    Ok(NodeRef::new(&mut *root::lock()?, node))
}

/// # Errors
/// `EINVAL` for flags that are not `known`.
fn check_flags(flags: u64, known: u64) -> Result<u64, Errno> {
    let flags = flags & u64::from(u32::MAX);
    if flags & !known == 0 { Ok(flags) } else { Err(Errno::EINVAL) }
}

/// `openat`
pub fn open_at(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = OpenFlags::from_bits_retain(call.value(2) as u32);
    let path = PathArgument::read(call, 0, call.address(1))?;
    let mode = call.process().fs.masked(call.value(3) as u32);
    let file =
        heap::try_arc(fs::open_at(path.start.node(), &path.path, flags, mode)?).ok_or(Errno::ENOMEM)?;
    fs::insert(&call.process().files, file, flags.contains(OpenFlags::CLOEXEC), 0).map(u64::from)
}

/// `mknodat`: regular files.
pub fn make_node_at(call: &SyscallContext<'_>) -> SyscallResult {
    let mode = call.value(2) as u32;
    match mode & S_IFMT {
        0 | S_IFREG => {}
        // As for a file system that does not support the type.
        S_IFIFO | S_IFCHR | S_IFBLK | S_IFSOCK | S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    let mode = call.process().fs.masked(mode);
    PathArgument::read(call, 0, call.address(1))?.with(false, |tree, end| {
        check_new(&end)?;
        fs::create_file(tree, &end, mode).map(|_| 0)
    })
}

/// # Errors
/// `EEXIST`, or `ENOENT` if a `/` follows the name of the new file.
fn check_new(end: &PathEnd<FsNode>) -> Result<(), Errno> {
    match end.node {
        Some(_) => Err(Errno::EEXIST),
        None if end.has_slash => Err(Errno::ENOENT),
        None => Ok(()),
    }
}

/// `mkdirat`
pub fn make_directory_at(call: &SyscallContext<'_>) -> SyscallResult {
    let mode = S_IFDIR | call.process().fs.masked(call.value(2) as u32) & 0o1777;
    PathArgument::read(call, 0, call.address(1))?.with(false, |tree, end| {
        if end.node.is_some() {
            return Err(Errno::EEXIST);
        }
        let kind = NodeKind::Directory(Directory::default());
        tree.create(fs::parent_of_new(&end)?, &end.name, kind, mode, root::now()).map(|_| 0)
    })
}

/// `symlinkat`
pub fn symlink_at(call: &SyscallContext<'_>) -> SyscallResult {
    let target = call.memory().read_string(call.address(0), PATH_MAX)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    PathArgument::read(call, 1, call.address(2))?.with(false, |tree, end| {
        check_new(&end)?;
        let directory = fs::parent_of_new(&end)?;
        tree.create(directory, &end.name, NodeKind::Link(target), LINK_MODE, root::now()).map(|_| 0)
    })
}

/// `linkat`
pub fn link_at(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = check_flags(call.value(4), AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let old = PathArgument::read(call, 0, call.address(1))?;
    let new = PathArgument::read(call, 2, call.address(3))?;
    let follow = if flags & AT_SYMLINK_FOLLOW == 0 { AT_SYMLINK_NOFOLLOW } else { 0 };
    // The reference keeps the node until it has the new name.
    let old = old.node(flags & AT_EMPTY_PATH | follow)?;
    new.with(false, |tree, end| {
        check_new(&end)?;
        let (directory, id) = (fs::parent_of_new(&end)?, old.node().in_tree().map_err(|_| Errno::EXDEV)?);
        tree.link(directory, &end.name, id, root::now()).map(|()| 0)
    })
}

/// `unlinkat`
pub fn unlink_at(call: &SyscallContext<'_>) -> SyscallResult {
    let is_directory = check_flags(call.value(2), AT_REMOVEDIR)? != 0;
    // The node is dropped after the lock of the tree is released.
    let freed = PathArgument::read(call, 0, call.address(1))?.with(false, |tree, end| {
        match (&*end.name, is_directory) {
            (b"" | b"." | b"..", false) => return Err(Errno::EISDIR),
            (b"", true) => return Err(Errno::EBUSY),
            (b".", true) => return Err(Errno::EINVAL),
            (b"..", true) => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let directory = match &end.node {
            Some(_) => end.directory.in_tree()?,
            None => fs::parent_of_new(&end)?,
        };
        if is_directory {
            tree.remove_directory(directory, &end.name, root::now())
        } else if end.has_slash {
            Err(end.node.map_or(Errno::ENOENT, |_| Errno::EISDIR))
        } else {
            tree.unlink(directory, &end.name, root::now())
        }
    })?;
    drop(freed);
    Ok(0)
}

/// `renameat` and `renameat2`
pub fn rename_at(call: &SyscallContext<'_>, flags: u64) -> SyscallResult {
    let mode = match check_flags(flags, RENAME_NOREPLACE)? {
        0 => RenameMode::Replace,
        _ => RenameMode::NoReplace,
    };
    let old = PathArgument::read(call, 0, call.address(1))?;
    let new = PathArgument::read(call, 2, call.address(3))?;
    let freed = old.with(false, |tree, old| {
        let new = tree.resolve(new.start.node(), &new.path, false)?;
        let is_special = |name: &[u8]| matches!(name, b"" | b"." | b"..");
        if is_special(&old.name) || is_special(&new.name) {
            return Err(if mode == RenameMode::NoReplace && is_special(&new.name) {
                Errno::EEXIST
            } else {
                Errno::EBUSY
            });
        }
        let is_directory = old.node.as_ref().is_some_and(|node| tree.is_directory(node));
        if new.has_slash && old.node.is_some() && !is_directory {
            return Err(Errno::ENOTDIR);
        }
        let directories = [&old, &new].map(|end| end.directory.in_tree().map_err(|_| Errno::EXDEV));
        tree.rename((directories[0]?, &old.name), (directories[1]?, &new.name), mode, root::now())
    })?;
    drop(freed);
    Ok(0)
}

/// `readlinkat`
pub fn read_link_at(call: &SyscallContext<'_>) -> SyscallResult {
    let path = PathArgument::read(call, 0, call.address(1))?;
    // An empty path is that of a descriptor of a symbolic link.
    let error = if path.path.is_empty() { Errno::ENOENT } else { Errno::EINVAL };
    let flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    let target = path.with_node(flags, |tree, node| match tree.target(&node)?.ok_or(error)? {
        LinkTarget::Path(target) => Ok(Ok(target)),
        LinkTarget::Node(node) => Ok(Err(NodeRef::new(tree, node))),
    })?;
    let target = target.or_else(|node| {
        let mut text = Text::default();
        fs::write_path(node.node(), &mut text).map(|()| text.0)
    })?;
    let bytes = truncated(&target, call.int(3))?;
    call.memory().write_bytes(call.address(2), bytes)?;
    Ok(bytes.len() as u64)
}

/// Returns the bytes of a link's target that fit into a buffer of `len` bytes.
///
/// # Errors
/// `EINVAL` for an empty buffer.
fn truncated(target: &[u8], len: i32) -> Result<&[u8], Errno> {
    let room = usize::try_from(len).ok().filter(|&room| room > 0).ok_or(Errno::EINVAL)?;
    Ok(target.get(..room).unwrap_or(target))
}

/// `faccessat`, without flags, and `faccessat2`
pub fn access_at(call: &SyscallContext<'_>, flags: u64) -> SyscallResult {
    const X_OK: u64 = 1;
    const W_OK: u64 = 2;
    const ALL: u64 = 7;
    // `AT_REMOVEDIR` has the value of `AT_EACCESS`.
    let flags = check_flags(flags, AT_REMOVEDIR | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let mode = check_flags(call.value(2), ALL)?;
    let node = PathArgument::read(call, 0, call.address(1))?.node(flags)?;
    if let FsNode::Tree(id) = *node.node() {
        let tree = root::lock()?;
        match tree.node(id).kind {
            NodeKind::Device(_) => {}
            _ if mode & W_OK != 0 => tree.check_writable(id)?,
            _ => {}
        }
    }
    // The other bits do not limit root.
    let found = fs::stat(node.node())?.mode;
    let is_executable = found & S_IFMT == S_IFDIR || found & 0o111 != 0;
    if mode & X_OK != 0 && !is_executable { Err(Errno::EACCES) } else { Ok(0) }
}

/// Returns the attributes of the path in arguments 0 and 1.
fn attributes(call: &SyscallContext<'_>, flags: u64) -> Result<Stat, Errno> {
    let is_empty = |path: UserVa| Ok::<_, Errno>(call.memory().read_string(path, PATH_MAX)?.is_empty());
    if flags & AT_EMPTY_PATH != 0 && call.int(0) != AT_FDCWD && is_empty(call.address(1))? {
        // The file need not have a node.
        return call.any_file(0)?.stat();
    }
    fs::stat(PathArgument::read(call, 0, call.address(1))?.node(flags)?.node())
}

/// `newfstatat`
pub fn stat_at(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = check_flags(call.value(3), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)?;
    let stat = attributes(call, flags)?;
    call.memory().write(call.address(2), &stat).map(|()| 0)
}

pub fn statx(call: &SyscallContext<'_>) -> SyscallResult {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    let flags = call.value(2) & u64::from(u32::MAX);
    if call.value(3) as u32 & STATX_RESERVED != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let stat = attributes(call, check_flags(flags, known)?)?;
    call.memory().write(call.address(4), &Statx::from(stat)).map(|()| 0)
}

/// `getxattr`, `lgetxattr`: no file has extended attributes.
pub fn get_attribute(call: &SyscallContext<'_>, flags: u64) -> SyscallResult {
    list_attributes(call, flags)?;
    Err(Errno::EOPNOTSUPP)
}

/// `listxattr`, `llistxattr`
pub fn list_attributes(call: &SyscallContext<'_>, flags: u64) -> SyscallResult {
    PathArgument::of_current(call, call.address(0))?.with_node(flags, |_, _| Ok(0))
}

/// `statfs`
pub fn stat_fs(call: &SyscallContext<'_>) -> SyscallResult {
    let path = PathArgument::of_current(call, call.address(0))?;
    let stat = fs::stat_fs(Some(path.node(0)?.node()))?;
    call.memory().write(call.address(1), &stat).map(|()| 0)
}

impl PathArgument {
    /// Reads a path that is relative to the current directory.
    fn of_current(call: &SyscallContext<'_>, path: UserVa) -> Result<Self, Errno> {
        let current = SyscallContext { task: call.task, arguments: [AT_FDCWD as u64, 0, 0, 0, 0, 0] };
        Self::read(&current, 0, path)
    }
}

pub fn truncate(call: &SyscallContext<'_>) -> SyscallResult {
    let size = u64::try_from(call.value(1) as i64).map_err(|_| Errno::EINVAL)?;
    let path = PathArgument::of_current(call, call.address(0))?;
    fs::truncate_at(path.start.node(), &path.path, size).map(|()| 0)
}

/// `chdir`
pub fn change_directory(call: &SyscallContext<'_>) -> SyscallResult {
    let path = PathArgument::of_current(call, call.address(0))?;
    let directory = path.with_node(0, |tree, node| match tree.is_directory(&node) {
        true => Ok(NodeRef::new(tree, node)),
        false => Err(Errno::ENOTDIR),
    })?;
    call.process().fs.set_directory(directory);
    Ok(0)
}

/// `fchdir`
pub fn change_directory_to_file(call: &SyscallContext<'_>) -> SyscallResult {
    let directory = node_of(&*call.any_file(0)?)?;
    if !root::lock()?.is_directory(directory.node()) {
        return Err(Errno::ENOTDIR);
    }
    call.process().fs.set_directory(directory);
    Ok(0)
}

/// `getcwd`
pub fn get_cwd(call: &SyscallContext<'_>) -> SyscallResult {
    let directory = call.process().fs.directory()?;
    let mut path = Text::default();
    match directory.node() {
        FsNode::Tree(id) => path.0 = root::lock()?.path_of(*id)?,
        node => fs::write_path(node, &mut path)?,
    }
    path.push(&[0])?;
    if call.length(1) < path.0.len() {
        return Err(Errno::ERANGE);
    }
    call.memory().write_bytes(call.address(0), &path.0)?;
    Ok(path.0.len() as u64)
}

/// `umask`
pub fn set_mode_mask(call: &SyscallContext<'_>) -> SyscallResult {
    Ok(call.process().fs.set_mode_mask(call.value(0) as u32).into())
}

/// Changes the attributes of a node.
fn change(tree: &mut Tree, node: &FsNode, change: impl FnOnce(&mut fs::root::FileNode)) -> SyscallResult {
    let id = node.in_tree()?;
    tree.check_writable(id)?;
    let node = tree.node_mut(id);
    change(node);
    node.times.changed = root::now();
    Ok(0)
}

/// Changes the node of the open file in argument 0.
fn change_file(
    call: &SyscallContext<'_>,
    change_node: impl FnOnce(&mut fs::root::FileNode),
) -> SyscallResult {
    let file = call.file(0)?;
    match file.node() {
        Some(node) => change(&mut *root::lock()?, node, change_node),
        // Linux changes the node of a pipe or an anonymous file, whose attributes are fixed here.
        None => Err(Errno::EOPNOTSUPP),
    }
}

fn set_mode(mode: u64) -> impl FnOnce(&mut fs::root::FileNode) {
    move |node| node.mode = node.mode & !MODE_BITS | mode as u32 & MODE_BITS
}

fn set_owner(user: u64, group: u64) -> impl FnOnce(&mut fs::root::FileNode) {
    let chosen = |new: u64, old: u32| if new as u32 == u32::MAX { old } else { new as u32 };
    move |node| node.owner = (chosen(user, node.owner.0), chosen(group, node.owner.1))
}

/// `fchmod`
pub fn change_mode(call: &SyscallContext<'_>) -> SyscallResult {
    change_file(call, set_mode(call.value(1)))
}

/// `fchmodat`
pub fn change_mode_at(call: &SyscallContext<'_>) -> SyscallResult {
    let path = PathArgument::read(call, 0, call.address(1))?;
    path.with_node(0, |tree, node| change(tree, &node, set_mode(call.value(2))))
}

/// `fchown`
pub fn change_owner(call: &SyscallContext<'_>) -> SyscallResult {
    change_file(call, set_owner(call.value(1), call.value(2)))
}

/// `fchownat`
pub fn change_owner_at(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = check_flags(call.value(4), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let path = PathArgument::read(call, 0, call.address(1))?;
    path.with_node(flags, |tree, node| change(tree, &node, set_owner(call.value(2), call.value(3))))
}

/// `utimensat`
pub fn set_times_at(call: &SyscallContext<'_>) -> SyscallResult {
    let now = Timespec { seconds: 0, nanoseconds: UTIME_NOW };
    let times: [Timespec; 2] =
        if call.value(2) == 0 { [now; 2] } else { call.memory().read(call.address(2))? };
    if times.iter().all(|time| time.nanoseconds == UTIME_OMIT) {
        return Ok(0);
    }
    let is_valid = |time: &Timespec| {
        matches!(time.nanoseconds, UTIME_NOW | UTIME_OMIT)
            || (0..NANOSECONDS as i64).contains(&time.nanoseconds)
    };
    if !times.iter().all(is_valid) {
        return Err(Errno::EINVAL);
    }
    let set = move |node: &mut fs::root::FileNode| {
        let chosen = |new: Timespec, old| match new.nanoseconds {
            UTIME_NOW => root::now(),
            UTIME_OMIT => old,
            _ => new,
        };
        node.times.accessed = chosen(times[0], node.times.accessed);
        node.times.modified = chosen(times[1], node.times.modified);
    };
    let flags = check_flags(call.value(3), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    if call.value(1) == 0 && call.int(0) != AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        return change_file(call, set);
    }
    PathArgument::read(call, 0, call.address(1))?.with_node(flags, |tree, node| change(tree, &node, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_target_is_truncated_to_the_buffer() {
        let read = |len| truncated(b"bin/a", len);
        assert_eq!([read(4), read(5), read(6)], [Ok(&b"bin/"[..]), Ok(b"bin/a"), Ok(b"bin/a")]);
        assert_eq!([read(0), read(-1)], [Err(Errno::EINVAL); 2]);
    }
}
