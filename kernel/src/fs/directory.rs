//! Directories of the initramfs.

use super::File;
use crate::fs::root;
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::DirentHead;
use addr::UserVa;
use alloc::vec::Vec;
use program::{NodeId, NodeKind};
use zerocopy::IntoBytes;

pub struct Directory {
    id: NodeId,
    /// The number of entries read.
    position: SpinLock<usize>,
}

impl Directory {
    pub fn new(id: NodeId) -> Self {
        Self { id, position: SpinLock::new(0) }
    }

    /// Returns the entries from number `first` on that fit into `room` bytes, in the format of `getdents64`,
    /// and their number.
    fn list(&self, first: usize, room: usize) -> Result<(Vec<u8>, usize), Errno> {
        let tree = root::mounted()?;
        let node = tree.node(self.id);
        let NodeKind::Directory(names) = &node.kind else { return Err(Errno::ENOTDIR) };
        let dots = [(&b"."[..], self.id), (&b".."[..], node.parent)].into_iter();
        let all = dots.chain(names.iter().map(|(name, &id)| (name.as_slice(), id)));
        let (mut out, mut count) = (Vec::new(), 0);
        for (number, (name, id)) in all.enumerate().skip(first) {
            let len = (size_of::<DirentHead>() + name.len() + 1).next_multiple_of(8);
            if out.len() + len > room {
                break;
            }
            push(&mut out, name, id, (number + 1) as i64, len, (tree.node(id).mode >> 12) as u8);
            count += 1;
        }
        Ok((out, count))
    }
}

fn push(out: &mut Vec<u8>, name: &[u8], id: NodeId, next: i64, len: usize, kind: u8) {
    let end = out.len() + len;
    let head = DirentHead { ino: id.inode(), off: next, reclen: len as u16, kind };
    out.extend(head.as_bytes());
    out.extend(name);
    out.resize(end, 0);
}

impl File for Directory {
    fn read(&self, _: UserMemory<'_>, _: UserVa, _: usize) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn entries(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let first = *self.position.lock();
        // Limits the heap memory that a program can request; no directory is larger.
        let (bytes, count) = self.list(first, len.min(32 << 10))?;
        let at_end = bytes.is_empty() && self.list(first, usize::MAX)?.1 == 0;
        if bytes.is_empty() && !at_end {
            return Err(Errno::EINVAL);
        }
        memory.write_bytes(to, &bytes)?;
        *self.position.lock() = first + count;
        Ok(bytes.len())
    }

    fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        let mut position = self.position.lock();
        *position = super::seek_to(offset, whence, *position as u64, 0)? as usize;
        Ok(*position as u64)
    }
}
