//! Path resolution, as in `path_resolution(7)`.

use abi::Errno;
use abi::file::PATH_MAX;
use alloc::vec::Vec;
use core::ops::Range;

/// The maximum number of symbolic links in a path resolution, as in Linux.
pub(super) const LINKS_MAX: usize = 40;

/// Named nodes.
pub trait Namespace {
    /// A node.
    type Node: Clone;

    /// The root directory.
    fn root(&self) -> Self::Node;

    /// The node with this name in a directory; also `.` and `..`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, and those of the node.
    fn lookup(&self, directory: &Self::Node, name: &[u8]) -> Result<Self::Node, Errno>;

    /// Whether the node is a directory.
    fn is_directory(&self, node: &Self::Node) -> bool;

    /// The target of a symbolic link; `None` for another node.
    ///
    /// # Errors
    /// Those of the node.
    fn target(&self, node: &Self::Node) -> Result<Option<LinkTarget<Self::Node>>, Errno>;
}

/// The target of a symbolic link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkTarget<N> {
    /// A path, relative to the directory of the link.
    Path(Vec<u8>),
    /// A node, which need not have a path.
    Node(N),
}

/// The end of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathEnd<N> {
    /// The directory of the last component.
    pub directory: N,
    /// The last component; empty for the root, and may be `.` or `..`.
    pub name: Vec<u8>,
    /// The node, if it exists.
    pub node: Option<N>,
    /// A `/` follows the last component, so that it must be a directory.
    pub has_slash: bool,
}

/// Resolves `path` relative to `start`, or to the root if it starts with `/`. A trailing symbolic link is
/// followed if `follow` is set or a `/` follows it.
///
/// # Errors
/// `ENOENT` if a component except the last does not exist, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`.
pub fn resolve<N: Namespace>(
    space: &N,
    start: &N::Node,
    path: &[u8],
    follow: bool,
) -> Result<PathEnd<N::Node>, Errno> {
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut at = if path.starts_with(b"/") { space.root() } else { start.clone() };
    // The path, in which the target of a link replaces its name: without recursion, since stacks are small.
    let (mut path, mut position) = (copied(&[path])?, 0);
    let mut links_left = LINKS_MAX;
    while let Some((name, after)) = next_name(&path, position) {
        let is_last = path[after..].iter().all(|&byte| byte == b'/');
        let has_slash = is_last && after < path.len();
        let mut node = match space.lookup(&at, &path[name.clone()]) {
            Ok(node) => Some(node),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(found) = node.as_ref().filter(|_| follow || has_slash || !is_last)
            && let Some(target) = space.target(found)?
        {
            links_left = links_left.checked_sub(1).ok_or(Errno::ELOOP)?;
            match target {
                LinkTarget::Path(target) => {
                    if target.is_empty() {
                        return Err(Errno::ENOENT);
                    }
                    if target.starts_with(b"/") {
                        at = space.root();
                    }
                    (path, position) = (copied(&[&target, &path[after..]])?, 0);
                    continue;
                }
                LinkTarget::Node(target) => node = Some(target),
            }
        }
        if is_last {
            let name = copied(&[&path[name]])?;
            return check_slash(space, PathEnd { directory: at, name, node, has_slash });
        }
        (at, position) = (node.ok_or(Errno::ENOENT)?, after);
    }
    let has_slash = path.ends_with(b"/");
    Ok(PathEnd { directory: at.clone(), name: Vec::new(), node: Some(at), has_slash })
}

/// The next name in `path` from `position` on, and the position after it.
fn next_name(path: &[u8], position: usize) -> Option<(Range<usize>, usize)> {
    let start = position + path[position..].iter().position(|&byte| byte != b'/')?;
    let end = path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |len| start + len);
    Some((start..end, end))
}

/// `parts` in one list.
///
/// # Errors
/// `ENOMEM`.
fn copied(parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    all.try_reserve_exact(parts.iter().map(|part| part.len()).sum()).map_err(|_| Errno::ENOMEM)?;
    parts.iter().for_each(|part| all.extend_from_slice(part));
    Ok(all)
}

/// # Errors
/// `ENOTDIR` if a `/` follows the name of a file.
fn check_slash<N: Namespace>(space: &N, end: PathEnd<N::Node>) -> Result<PathEnd<N::Node>, Errno> {
    match &end.node {
        Some(node) if end.has_slash && !space.is_directory(node) => Err(Errno::ENOTDIR),
        _ => Ok(end),
    }
}
