//! Generated file systems, as `/proc` and `/sys`: trees of entries whose content is made when a program reads
//! it.
//!
//! The entries are static. Those of objects that come and go, as processes, have numbers: a node is the path
//! of positions and numbers from the root, and has no reference to an object. An operation on a node whose
//! object is gone fails.

use super::root::FsNode;
use super::{File, seek_to};
use crate::debug::{self, FailPoint};
use crate::memory::heap as kernel_heap;
use crate::sched::Mutex;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::{
    NAME_MAX, OpenFlags, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SEEK_CUR, SEEK_END, ST_NOATIME, ST_VALID, Stat,
    StatFs,
};
use addr::{PAGE_SIZE, UserVa};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use program::LinkTarget;

/// A generated file system.
pub struct GeneratedFs {
    pub path: &'static str,
    /// The type in the list of mounts.
    pub name: &'static str,
    /// `f_type`
    pub magic: u64,
    /// `st_dev`
    pub device: u64,
    /// `st_size` of its files.
    pub file_bytes: i64,
    pub root: FsEntry,
}

/// A file, directory or symbolic link. The functions of its kind get the numbers on the path to it.
pub struct FsEntry {
    /// Unused for an entry that has a number.
    pub name: &'static str,
    /// The permissions.
    pub mode: u32,
    pub kind: EntryKind,
    /// Whether the entry exists, for these numbers before it.
    pub exists: fn(&[u32]) -> bool,
}

/// Reads bytes from an offset.
type ReadAt = fn(&[u32], u64, &mut [u8]) -> Result<usize, Errno>;

pub enum EntryKind {
    /// Entries, and others with numbers.
    Directory(&'static [FsEntry], Option<&'static Numbered>),
    /// A text, made at the first read and at each read of its start.
    Text(fn(&[u32], &mut Text) -> Result<(), Errno>),
    /// A text that can be written.
    Setting(fn(&[u32], &mut Text) -> Result<(), Errno>, fn(&[u32], &[u8]) -> Result<(), Errno>),
    /// Bytes, read from an offset.
    Bytes(ReadAt),
    /// A symbolic link. Called with the tree locked.
    Link(fn(&[u32]) -> Result<LinkTarget<FsNode>, Errno>),
    /// A symbolic link with permissions of its own.
    LinkWithMode(fn(&[u32]) -> Result<LinkTarget<FsNode>, Errno>, fn(&[u32]) -> u32),
}

/// Entries with numbers. The functions get the numbers before theirs.
pub struct Numbered {
    pub entry: FsEntry,
    /// Returns the first number from this one on that exists.
    pub next: fn(&[u32], u32) -> Option<u32>,
    /// Appends the name of a number.
    pub name: fn(&[u32], u32, &mut Text) -> Result<(), Errno>,
    /// Returns the number with a name, which need not exist.
    pub find: fn(&[u32], &[u8]) -> Option<u32>,
}

impl FsEntry {
    pub const fn new(name: &'static str, mode: u32, kind: EntryKind) -> Self {
        Self { name, mode, kind, exists: |_| true }
    }

    /// An entry that exists only while `exists` returns true.
    pub const fn only_if(self, exists: fn(&[u32]) -> bool) -> Self {
        Self { exists, ..self }
    }

    pub const fn text(name: &'static str, make: fn(&[u32], &mut Text) -> Result<(), Errno>) -> Self {
        Self::new(name, 0o444, EntryKind::Text(make))
    }

    pub const fn link(name: &'static str, target: fn(&[u32]) -> Result<LinkTarget<FsNode>, Errno>) -> Self {
        Self::new(name, 0o777, EntryKind::Link(target))
    }

    pub const fn directory(name: &'static str, entries: &'static [Self]) -> Self {
        Self::new(name, 0o555, EntryKind::Directory(entries, None))
    }

    /// A directory of entries with numbers.
    pub const fn numbered(name: &'static str, numbered: &'static Numbered) -> Self {
        Self::new(name, 0o555, EntryKind::Directory(&[], Some(numbered)))
    }

    pub const fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }
}

/// Appends a decimal number, the name of a numbered entry.
pub fn decimal_name(_: &[u32], number: u32, out: &mut Text) -> Result<(), Errno> {
    Ok(fmt::write(out, format_args!("{number}"))?)
}

/// Returns the number that `name` is in decimal.
pub fn find_decimal(_: &[u32], name: &[u8]) -> Option<u32> {
    let number = core::str::from_utf8(name).ok().filter(|_| name != b"0" && !name.starts_with(b"+"));
    let number = number.map_or(Some(0).filter(|_| name == b"0"), |digits| digits.parse().ok())?;
    (name == b"0" || !name.starts_with(b"0")).then_some(number)
}

/// The heap memory that is left for other work.
const HEAP_RESERVE: usize = 256 << 10;

/// A text that is being made; a write without memory is an error.
#[derive(Default, Debug)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// Appends bytes. A text of more than a page leaves [`HEAP_RESERVE`] free, since a program can have many.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let (len, capacity) = (self.0.len() + bytes.len(), self.0.capacity());
        let has_room = || len <= PAGE_SIZE as usize || kernel_heap::has_room(HEAP_RESERVE + 2 * len);
        let is_refused = len > capacity && (debug::fail_point(FailPoint::Heap) || !has_room());
        if is_refused || self.0.try_reserve(bytes.len()).is_err() {
            return Err(Errno::ENOMEM);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// The longest path, in names.
const DEPTH: usize = 12;

type Numbers = ArrayVec<u32, DEPTH>;

/// A node of a generated file system.
#[derive(Clone)]
pub struct GeneratedNode {
    fs: &'static GeneratedFs,
    /// The position of each entry in its directory; numbers follow the other entries.
    steps: ArrayVec<u32, DEPTH>,
}

impl GeneratedNode {
    pub fn root_of(fs: &'static GeneratedFs) -> Self {
        Self { fs, steps: ArrayVec::new() }
    }

    pub fn fs(&self) -> &'static GeneratedFs {
        self.fs
    }

    /// Calls `visit` with each numbered entry on the path, the numbers before it and its number. Returns the
    /// entry at the end, and all numbers.
    fn walk(&self, mut visit: impl FnMut(&'static Numbered, &[u32], u32)) -> (&'static FsEntry, Numbers) {
        let (mut entry, mut numbers) = (&self.fs.root, Numbers::new());
        for &step in &self.steps {
            let EntryKind::Directory(entries, numbered) = &entry.kind else {
                panic!("{} has entries", entry.name)
            };
            entry = match (entries.get(step as usize), numbered) {
                (Some(entry), _) => entry,
                (None, Some(numbered)) => {
                    let number = step - entries.len() as u32;
                    visit(numbered, &numbers, number);
                    numbers.push(number);
                    &numbered.entry
                }
                (None, None) => panic!("{} has no entry {step}", entry.name),
            };
        }
        (entry, numbers)
    }

    fn entry(&self) -> (&'static FsEntry, Numbers) {
        self.walk(|_, _, _| {})
    }

    /// # Errors
    /// `ENOENT` if the object of a number is gone.
    fn check(&self) -> Result<(), Errno> {
        let mut exists = true;
        self.walk(|numbered, before, number| exists &= (numbered.next)(before, number) == Some(number));
        if exists { Ok(()) } else { Err(Errno::ENOENT) }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.entry().0.kind, EntryKind::Directory(..))
    }

    /// Returns the directory; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let mut parent = self.clone();
        parent.steps.pop().map(|_| parent)
    }

    fn child(&self, step: u32) -> Result<Self, Errno> {
        let mut child = self.clone();
        child.steps.try_push(step).map_err(|_| Errno::ENAMETOOLONG)?;
        Ok(child)
    }

    /// Returns the entry of a directory with this name.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, name: &[u8]) -> Result<Self, Errno> {
        let (entry, numbers) = self.entry();
        let EntryKind::Directory(entries, numbered) = &entry.kind else { return Err(Errno::ENOTDIR) };
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.check()?;
        if let Some(index) = entries.iter().position(|entry| entry.name.as_bytes() == name) {
            let exists = (entries[index].exists)(&numbers);
            return if exists { self.child(index as u32) } else { Err(Errno::ENOENT) };
        }
        let numbered = numbered.as_ref().ok_or(Errno::ENOENT)?;
        let number = (numbered.find)(&numbers, name).ok_or(Errno::ENOENT)?;
        if (numbered.next)(&numbers, number) != Some(number) {
            return Err(Errno::ENOENT);
        }
        self.child((entries.len() as u32).checked_add(number).ok_or(Errno::ENOENT)?)
    }

    /// Returns the first entry of the directory from `position` on, and its position.
    ///
    /// # Errors
    /// `ENOENT` if the directory is gone, `ENOTDIR`.
    pub fn next_entry(&self, position: u64) -> Result<Option<(u64, Self)>, Errno> {
        let (entry, numbers) = self.entry();
        let EntryKind::Directory(entries, numbered) = &entry.kind else { return Err(Errno::ENOTDIR) };
        self.check()?;
        let Ok(position) = u32::try_from(position) else { return Ok(None) };
        let fixed = entries.len() as u32;
        let existing = (position..fixed).find(|&index| (entries[index as usize].exists)(&numbers));
        let step = match (existing, numbered) {
            (Some(index), _) => Some(index),
            (None, None) => None,
            (None, Some(numbered)) => (numbered.next)(&numbers, position.saturating_sub(fixed))
                .and_then(|number| fixed.checked_add(number)),
        };
        step.map(|step| Ok((step.into(), self.child(step)?))).transpose()
    }

    /// Appends the name.
    pub fn write_name(&self, out: &mut Text) -> Result<(), Errno> {
        let mut named = Ok(false);
        let mut last = None;
        let (entry, numbers) = self.walk(|numbered, _, _| last = Some(numbered));
        if let (Some(numbered), Some((&number, before))) = (last, numbers.split_last())
            && core::ptr::eq(&numbered.entry, entry)
        {
            named = (numbered.name)(before, number, out).map(|()| true);
        }
        if named? { Ok(()) } else { out.push(entry.name.as_bytes()) }
    }

    /// Appends the path.
    pub fn write_path(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(self.fs.path.as_bytes())?;
        let mut node = Self::root_of(self.fs);
        for &step in &self.steps {
            node.steps.push(step);
            out.push(b"/")?;
            node.write_name(out)?;
        }
        Ok(())
    }

    /// Returns the inode number: a hash of the path (FNV-1a).
    pub fn inode(&self) -> u64 {
        let bytes = self.steps.iter().flat_map(|step| step.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        if self.steps.is_empty() { 1 } else { hash >> 1 }
    }

    /// Returns `st_mode`.
    pub fn mode(&self) -> u32 {
        let (entry, numbers) = self.entry();
        let kind = match entry.kind {
            EntryKind::LinkWithMode(_, mode) => return S_IFLNK | mode(&numbers),
            EntryKind::Directory(..) => S_IFDIR,
            EntryKind::Link(_) => S_IFLNK,
            EntryKind::Text(_) | EntryKind::Setting(..) | EntryKind::Bytes(_) => S_IFREG,
        };
        kind | entry.mode
    }

    pub fn stat(&self) -> Stat {
        let now = super::root::now();
        let links = match self.entry().0.kind {
            EntryKind::Directory(entries, _) => {
                2 + entries.iter().filter(|entry| matches!(entry.kind, EntryKind::Directory(..))).count()
            }
            _ => 1,
        };
        let mode = self.mode();
        Stat {
            dev: self.fs.device,
            ino: self.inode(),
            mode,
            nlink: links as u32,
            size: if mode & S_IFMT == S_IFREG { self.fs.file_bytes } else { 0 },
            blksize: PAGE_SIZE as i32,
            atime: now.seconds,
            atime_nsec: now.nanoseconds as u64,
            mtime: now.seconds,
            mtime_nsec: now.nanoseconds as u64,
            ctime: now.seconds,
            ctime_nsec: now.nanoseconds as u64,
            ..Stat::default()
        }
    }

    pub fn stat_fs(&self) -> StatFs {
        StatFs {
            kind: self.fs.magic,
            bsize: PAGE_SIZE,
            frsize: PAGE_SIZE,
            namelen: NAME_MAX as u64,
            flags: ST_VALID | ST_NOATIME,
            ..StatFs::default()
        }
    }

    /// Returns the target of a symbolic link; `None` for another node. Called with the tree locked.
    ///
    /// # Errors
    /// `ENOENT` if its object is gone, and those of the entry.
    pub fn target(&self) -> Result<Option<LinkTarget<FsNode>>, Errno> {
        let (entry, numbers) = self.entry();
        match entry.kind {
            EntryKind::Link(target) | EntryKind::LinkWithMode(target, _) => target(&numbers).map(Some),
            _ => Ok(None),
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `EACCES` for writing, `ELOOP` for a symbolic link, `ENOENT`, `ENOMEM`.
    pub fn open(&self, flags: OpenFlags) -> Result<Box<dyn File>, Errno> {
        let (entry, _) = self.entry();
        let writes = flags.intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE);
        match entry.kind {
            EntryKind::Link(_) | EntryKind::LinkWithMode(..) => return Err(Errno::ELOOP),
            EntryKind::Setting(..) => {}
            _ if writes => return Err(Errno::EACCES),
            _ => {}
        }
        self.check()?;
        let file = GeneratedFile { node: self.clone(), text: Mutex::new(None), position: AtomicU64::new(0) };
        let file: Box<dyn File> = kernel_heap::try_box(file).ok_or(Errno::ENOMEM)?;
        Ok(file)
    }
}

/// An open file. Its state is locked while the text is copied to the program, and precedes the locks of the
/// tree and of address spaces.
struct GeneratedFile {
    node: GeneratedNode,
    text: Mutex<Option<Text>>,
    /// Changed with the text locked.
    position: AtomicU64,
}

/// The maximum number of bytes that a write changes a setting with.
const SETTING_MAX: usize = 128;

impl GeneratedFile {
    fn copy_out(
        &self,
        text: &mut Option<Text>,
        memory: UserMemory<'_>,
        to: UserVa,
        len: usize,
        offset: u64,
    ) -> Result<usize, Errno> {
        let (entry, numbers) = self.node.entry();
        let make = match entry.kind {
            EntryKind::Text(make) | EntryKind::Setting(make, _) => make,
            EntryKind::Bytes(read) => {
                return super::regular::for_each_piece(to, len, |at, piece, done| {
                    let count = read(&numbers, offset.saturating_add(done as u64), piece)?;
                    memory.write_bytes(at, &piece[..count])?;
                    Ok(count)
                });
            }
            EntryKind::Directory(..) | EntryKind::Link(_) | EntryKind::LinkWithMode(..) => {
                return Err(Errno::EISDIR);
            }
        };
        if offset == 0 {
            *text = None;
        }
        let text = match text {
            Some(text) => text,
            none => {
                let mut text = Text::default();
                make(&numbers, &mut text)?;
                none.insert(text)
            }
        };
        let rest = usize::try_from(offset).ok().and_then(|offset| text.0.get(offset..)).unwrap_or(&[]);
        let bytes = &rest[..rest.len().min(len)];
        memory.write_bytes(to, bytes)?;
        Ok(bytes.len())
    }

    fn set(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let (entry, numbers) = self.node.entry();
        let EntryKind::Setting(_, set) = entry.kind else { return Err(Errno::EINVAL) };
        let mut buffer = [0; SETTING_MAX];
        let bytes = &mut buffer[..len.min(SETTING_MAX)];
        memory.read_bytes(from, bytes)?;
        set(&numbers, bytes)?;
        Ok(len)
    }
}

impl File for GeneratedFile {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let mut text = self.text.lock();
        let position = self.position.load(Ordering::Relaxed);
        let count = self.copy_out(&mut text, memory, to, len, position)?;
        self.position.store(position + count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn read_at(&self, memory: UserMemory<'_>, to: UserVa, len: usize, offset: u64) -> Result<usize, Errno> {
        self.copy_out(&mut self.text.lock(), memory, to, len, offset)
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        self.set(memory, from, len)
    }

    fn write_at(&self, memory: UserMemory<'_>, from: UserVa, len: usize, _: u64) -> Result<usize, Errno> {
        self.set(memory, from, len)
    }

    fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        if whence == SEEK_END {
            return Err(Errno::EINVAL);
        }
        // Without the lock: `/proc/PID/fdinfo` reports the position, also that of the file that is being
        // read.
        if (offset, whence) == (0, SEEK_CUR) {
            return Ok(self.position.load(Ordering::Relaxed));
        }
        let _text = self.text.lock();
        let position = seek_to(offset, whence, self.position.load(Ordering::Relaxed), 0)?;
        self.position.store(position, Ordering::Relaxed);
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NUMBERED: Numbered = Numbered {
        entry: FsEntry::new("", 0o555, EntryKind::Directory(&[FILE], Some(&INNER))),
        next: |_, from| [3, 7].into_iter().find(|&number| number >= from),
        name: decimal_name,
        find: find_decimal,
    };
    static INNER: Numbered = Numbered {
        entry: FILE,
        next: |before, from| (from <= before[0]).then_some(from),
        name: decimal_name,
        find: find_decimal,
    };
    const FILE: FsEntry = FsEntry::text("file", |numbers, out| decimal_name(&[], numbers.len() as u32, out));
    static FS: GeneratedFs = GeneratedFs {
        path: "/test",
        name: "test",
        magic: 0,
        device: 9,
        file_bytes: 0,
        root: FsEntry::new("", 0o555, EntryKind::Directory(&[FILE], Some(&NUMBERED))),
    };

    fn find(path: &str) -> Result<GeneratedNode, Errno> {
        path.split('/').try_fold(GeneratedNode::root_of(&FS), |node, name| node.lookup(name.as_bytes()))
    }

    fn path(node: &GeneratedNode) -> String {
        let mut text = Text::default();
        node.write_path(&mut text).unwrap();
        String::from_utf8(text.0).unwrap()
    }

    #[test]
    fn entries_are_found_by_name_and_number() {
        for name in ["file", "3", "7", "3/file", "7/0", "7/7"] {
            assert_eq!(path(&find(name).unwrap()), format!("/test/{name}"));
        }
        for (name, error) in [
            ("other", Errno::ENOENT),
            ("4", Errno::ENOENT),
            ("03", Errno::ENOENT),
            ("+3", Errno::ENOENT),
            ("4294967295", Errno::ENOENT),
            ("3/4", Errno::ENOENT),
            ("file/x", Errno::ENOTDIR),
        ] {
            assert_eq!(find(name).err(), Some(error), "{name}");
        }
    }

    #[test]
    fn listing_has_each_entry_once() {
        let list = |node: &GeneratedNode| {
            let (mut position, mut names) = (0, Vec::new());
            while let Some((at, entry)) = node.next_entry(position).unwrap() {
                names.push(path(&entry));
                position = at + 1;
            }
            names
        };
        assert_eq!(list(&GeneratedNode::root_of(&FS)), ["/test/file", "/test/3", "/test/7"]);
        let inner = ["/test/3/file", "/test/3/0", "/test/3/1", "/test/3/2", "/test/3/3"];
        assert_eq!(list(&find("3").unwrap()), inner);
    }

    #[test]
    fn inode_numbers_differ() {
        let nodes =
            ["file", "3", "7", "3/file", "7/file", "3/0", "7/0"].map(|name| find(name).unwrap().inode());
        let all: std::collections::BTreeSet<_> = nodes.iter().collect();
        assert_eq!(all.len(), nodes.len());
    }

    #[test]
    fn attributes_follow_the_kind() {
        let (file, directory) = (find("file").unwrap().stat(), find("3").unwrap().stat());
        assert_eq!((file.mode, file.nlink), (S_IFREG | 0o444, 1));
        assert_eq!((directory.mode & S_IFMT, directory.nlink), (S_IFDIR, 2));
        assert!(find("file").unwrap().open(OpenFlags::WRITE_ONLY).is_err());
    }
}
