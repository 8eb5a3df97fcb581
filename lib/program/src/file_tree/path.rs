//! Path resolution, as in `path_resolution(7)`.

use abi::Errno;
use abi::file::PATH_MAX;
use alloc::vec::Vec;

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
    PathResolver { space, links_left: LINKS_MAX }.run(start, path, follow)
}

/// A path resolution. Recurses for each symbolic link, at most [`LINKS_MAX`] times.
struct PathResolver<'t, N> {
    space: &'t N,
    links_left: usize,
}

impl<N: Namespace> PathResolver<'_, N> {
    fn run(&mut self, start: &N::Node, path: &[u8], follow: bool) -> Result<PathEnd<N::Node>, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut at = if path.starts_with(b"/") { self.space.root() } else { start.clone() };
        let has_slash = path.ends_with(b"/");
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return self.end(at, name, follow || has_slash, has_slash);
            }
            at = self.end(at, name, true, false)?.node.ok_or(Errno::ENOENT)?;
        }
        Ok(PathEnd { directory: at.clone(), name: Vec::new(), node: Some(at), has_slash })
    }

    /// Looks up the component `name`.
    fn end(
        &mut self,
        directory: N::Node,
        name: &[u8],
        follow: bool,
        has_slash: bool,
    ) -> Result<PathEnd<N::Node>, Errno> {
        let mut node = match self.space.lookup(&directory, name) {
            Ok(node) => Some(node),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(found) = node.as_ref().filter(|_| follow)
            && let Some(target) = self.space.target(found)?
        {
            self.links_left = self.links_left.checked_sub(1).ok_or(Errno::ELOOP)?;
            match target {
                LinkTarget::Path(target) => {
                    let mut end = self.run(&directory, &target, true)?;
                    end.has_slash |= has_slash;
                    return check_slash(self.space, end);
                }
                LinkTarget::Node(target) => node = Some(target),
            }
        }
        let mut owned = Vec::new();
        owned.try_reserve_exact(name.len()).map_err(|_| Errno::ENOMEM)?;
        owned.extend(name);
        check_slash(self.space, PathEnd { directory, name: owned, node, has_slash })
    }
}

/// # Errors
/// `ENOTDIR` if a `/` follows the name of a file.
fn check_slash<N: Namespace>(space: &N, end: PathEnd<N::Node>) -> Result<PathEnd<N::Node>, Errno> {
    match &end.node {
        Some(node) if end.has_slash && !space.is_directory(node) => Err(Errno::ENOTDIR),
        _ => Ok(end),
    }
}
