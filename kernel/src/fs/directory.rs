//! Directories.

use super::File;
use crate::debug::{self, FailPoint};
use crate::fs::generated::Text;
use crate::fs::root::{self, FsNode};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::DirentHead;
use addr::UserVa;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// The positions of `.` and `..`; those of the entries follow.
const DOTS: u64 = 2;

pub struct DirectoryFile {
    /// The node, to which the open file has a reference.
    node: FsNode,
    position: SpinLock<u64>,
}

/// A piece of a directory in the format of `getdents64`.
struct Listing {
    bytes: Vec<u8>,
    /// The position after it.
    next: u64,
    /// An entry did not fit.
    is_full: bool,
}

impl Listing {
    /// Adds the entry at `position` if it fits.
    fn add(&mut self, position: u64, name: &[u8], (inode, mode): (u64, u32)) {
        let len = (size_of::<DirentHead>() + name.len() + 1).next_multiple_of(8);
        let end = self.bytes.len() + len;
        self.is_full = end > self.bytes.capacity();
        if self.is_full {
            return;
        }
        self.next = position + 1;
        let kind = (mode >> 12) as u8;
        let head = DirentHead { ino: inode, off: self.next as i64, reclen: len as u16, kind };
        self.bytes.extend(head.as_bytes());
        self.bytes.extend(name);
        self.bytes.resize(end, 0);
    }
}

impl DirectoryFile {
    pub fn new(node: FsNode) -> Self {
        Self { node, position: SpinLock::new(0) }
    }

    /// Returns the entries from `position` on that fit into `room` bytes.
    fn list(&self, position: u64, room: usize) -> Result<Listing, Errno> {
        let mut listing = Listing { bytes: Vec::new(), next: position, is_full: false };
        if debug::fail_point(FailPoint::Heap) || listing.bytes.try_reserve_exact(room).is_err() {
            return Err(Errno::ENOMEM);
        }
        match &self.node {
            FsNode::Tree(id) => {
                let tree = root::lock()?;
                let dots = [(&b"."[..], *id), (&b".."[..], tree.parent(*id)?)].into_iter().zip(0..DOTS);
                let entries = tree.entries(*id)?.entries_from(position.saturating_sub(DOTS));
                let named =
                    entries.iter().map(|entry| ((entry.name.as_slice(), entry.node), DOTS + entry.position));
                for ((name, id), at) in dots.filter(|(_, at)| *at >= position).chain(named) {
                    let node = tree.node(id);
                    listing.add(at, name, (node.inode, node.mode));
                    if listing.is_full {
                        break;
                    }
                }
            }
            FsNode::Generated(directory) => {
                let parent = directory.parent();
                let dots = [(&b"."[..], directory), (&b".."[..], parent.as_ref().unwrap_or(directory))];
                for ((name, node), at) in dots.into_iter().zip(0..DOTS).filter(|(_, at)| *at >= position) {
                    listing.add(at, name, (node.inode(), node.mode()));
                }
                while !listing.is_full
                    && let Some((at, node)) = directory.next_entry(listing.next.saturating_sub(DOTS))?
                {
                    let mut name = Text::default();
                    node.write_name(&mut name)?;
                    listing.add(DOTS + at, &name.0, (node.inode(), node.mode()));
                }
            }
            FsNode::Open(_) => return Err(Errno::ENOTDIR),
        }
        Ok(listing)
    }
}

impl File for DirectoryFile {
    fn read(&self, _: UserMemory<'_>, _: UserVa, _: usize) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn entries(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        // Limits the heap memory that a program can request.
        let position = *self.position.lock();
        let listing = self.list(position, len.min(32 << 10))?;
        if listing.bytes.is_empty() && listing.is_full {
            return Err(Errno::EINVAL);
        }
        memory.write_bytes(to, &listing.bytes)?;
        *self.position.lock() = listing.next;
        Ok(listing.bytes.len())
    }

    fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        let mut position = self.position.lock();
        *position = super::seek_to(offset, whence, *position, 0)?;
        Ok(*position)
    }
}
