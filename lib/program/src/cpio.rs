//! cpio archives in `newc` format (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).

use core::fmt;

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// A `newc` archive, or several concatenated ones with zero padding in between. Iterates over the entries;
/// ends after the first error. As in Linux, the last archive needs no trailer.
#[derive(Clone)]
pub struct CpioArchive<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The number of trailers before `at`.
    trailers: usize,
}

/// The identity of a file with several names: equal for all its names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CpioInode {
    /// The archive of several concatenated ones.
    archive: usize,
    device: [u32; 2],
    number: u32,
}

/// An archive entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpioEntry<'a> {
    /// The offset of the header in the archive.
    pub offset: usize,
    /// File type and permissions (`st_mode`).
    pub mode: u32,
    /// Modification time in seconds since 1970.
    pub mtime: u32,
    /// The path, without the terminating zero.
    pub name: &'a [u8],
    /// The content of a file or the target of a symbolic link. Only one name of a file with several has it.
    pub data: &'a [u8],
    /// The file if it has several names (hard links).
    pub inode: Option<CpioInode>,
}

/// An error in an archive, with its byte offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpioError {
    /// No header at this offset but these bytes.
    Magic(usize, [u8; 6]),
    /// The header at this offset has an invalid hexadecimal digit.
    Digit(usize),
    /// The entry at this offset extends past the end of the archive.
    Truncated(usize),
    /// The name of the entry at this offset is empty, unterminated or contains a zero.
    Name(usize),
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(at, [0x1f, 0x8b, ..]) => {
                write!(f, "gzip data at offset {at:#x}: compressed archives are not supported")
            }
            Self::Magic(at, found) => write!(f, "no cpio newc header at offset {at:#x}: {found:02x?}"),
            Self::Digit(at) => {
                write!(f, "invalid hexadecimal number in the header at offset {at:#x}")
            }
            Self::Truncated(at) => write!(f, "the entry at offset {at:#x} is truncated"),
            Self::Name(at) => write!(f, "the entry at offset {at:#x} has an invalid name"),
        }
    }
}

impl<'a> CpioArchive<'a> {
    /// The archive in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, trailers: 0 }
    }

    fn next_entry(&mut self) -> Result<Option<CpioEntry<'a>>, CpioError> {
        loop {
            // Zero padding may precede the first header and follow a trailer.
            let rest = self.bytes.get(self.at..).unwrap_or(&[]);
            let Some(zeroes) = rest.iter().position(|&byte| byte != 0) else { return Ok(None) };
            let (entry, end) = self.entry_at(self.at + zeroes)?;
            self.at = end;
            if entry.name != TRAILER {
                return Ok(Some(entry));
            }
            self.trailers += 1;
        }
    }

    /// The entry at `at`, and the offset of the next one.
    fn entry_at(&self, at: usize) -> Result<(CpioEntry<'a>, usize), CpioError> {
        let truncated = CpioError::Truncated(at);
        let header = self.bytes[at..].first_chunk::<HEADER>().ok_or(truncated)?;
        let magic: [u8; 6] = core::array::from_fn(|i| header[i]);
        if &magic != b"070701" && &magic != b"070702" {
            return Err(CpioError::Magic(at, magic));
        }
        let field = |n: usize| hexadecimal(&header[6 + 8 * n..][..8]).ok_or(CpioError::Digit(at));
        let (mode, mtime, size, name_size) = (field(1)?, field(5)?, field(6)?, field(11)?);
        let (number, links, device) = (field(0)?, field(4)?, [field(7)?, field(8)?]);
        let inode = (links > 1).then_some(CpioInode { archive: self.trailers, device, number });
        let name_end = at + HEADER + name_size as usize;
        let name = self.bytes.get(at + HEADER..name_end).ok_or(truncated)?;
        let name = checked_name(name).ok_or(CpioError::Name(at))?;
        let start = name_end.next_multiple_of(4);
        let end = start + size as usize;
        let data = if size == 0 { &[] } else { self.bytes.get(start..end).ok_or(truncated)? };
        Ok((CpioEntry { offset: at, mode, mtime, name, data, inode }, end.next_multiple_of(4)))
    }
}

impl<'a> Iterator for CpioArchive<'a> {
    type Item = Result<CpioEntry<'a>, CpioError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == usize::MAX {
            return None;
        }
        let next = self.next_entry().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.at = usize::MAX;
        }
        next
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | (digit as char).to_digit(16)?))
}

fn checked_name(with_zero: &[u8]) -> Option<&[u8]> {
    let (zero, name) = with_zero.split_last()?;
    (*zero == 0 && !name.is_empty() && !name.contains(&0)).then_some(name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An encoded archive entry.
    pub(crate) fn member(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
        let mut out = b"070701".to_vec();
        let fields = [1, mode, 0, 0, 1, 7, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        out.extend(fields.iter().flat_map(|f| format!("{f:08X}").into_bytes()));
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    /// An encoded regular file with three names, of this inode.
    pub(crate) fn linked(name: &str, inode: u32, data: &[u8]) -> Vec<u8> {
        let mut out = member(name, 0o100755, data);
        out[6..14].copy_from_slice(format!("{inode:08X}").as_bytes());
        out[38..46].copy_from_slice(b"00000003");
        out
    }

    pub(crate) fn archive(members: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut out: Vec<u8> =
            members.iter().flat_map(|(name, mode, data)| member(name, *mode, data)).collect();
        out.extend(member("TRAILER!!!", 0, b""));
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn names(bytes: &[u8]) -> Result<Vec<&[u8]>, CpioError> {
        CpioArchive::new(bytes).map(|entry| entry.map(|e| e.name)).collect()
    }

    #[test]
    fn iterates_over_entries_with_content() {
        let bytes =
            archive(&[("bin", 0o40755, b""), ("bin/a", 0o100755, b"hello"), ("l", 0o120777, b"bin/a")]);
        let entries: Vec<_> = CpioArchive::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(entries.len(), 3);
        assert_eq!((entries[1].name, entries[1].data, entries[1].mtime), (&b"bin/a"[..], &b"hello"[..], 7));
        assert_eq!((entries[2].mode, entries[2].data), (0o120777, &b"bin/a"[..]));
    }

    #[test]
    fn concatenated_archives_are_supported() {
        let two = [archive(&[("a", 0o100644, b"1")]), archive(&[("b", 0o100644, b"2")])].concat();
        assert_eq!(names(&two).unwrap(), [b"a", b"b"]);
    }

    /// As in Linux, which takes the end of the initramfs for that of the archive.
    #[test]
    fn trailer_is_optional_and_may_be_preceded_by_zeroes() {
        assert_eq!(names(&archive(&[])), Ok(vec![]));
        assert_eq!(names(&[]), Ok(vec![]));
        let mut without = member("a", 0o100644, b"1");
        assert_eq!(names(&without), Ok(vec![&b"a"[..]]));
        without.resize(512, 0);
        assert_eq!(names(&without), Ok(vec![&b"a"[..]]));
    }

    #[test]
    fn inode_identifies_hard_links_within_one_archive() {
        let links = |name: &str| linked(name, 3, b"");
        let bytes = [links("a"), links("b"), member("TRAILER!!!", 0, b""), links("c")].concat();
        let inodes: Vec<_> = CpioArchive::new(&bytes).map(|entry| entry.unwrap().inode).collect();
        assert_eq!(inodes[0], inodes[1]);
        assert_ne!(inodes[1], inodes[2], "another archive");
        for field in [7, 8] {
            let mut other = links("b");
            other[6 + 8 * field + 7] = b'1';
            let bytes = [links("a"), other].concat();
            let [one, other] = [0, 1].map(|n| CpioArchive::new(&bytes).nth(n).unwrap().unwrap().inode);
            assert_ne!(one, other, "another device, by field {field}");
        }
        let single = member("a", 0o100644, b"1");
        assert_eq!(CpioArchive::new(&single).next().unwrap().unwrap().inode, None, "one name");
    }

    #[test]
    fn padding_of_the_content_is_skipped() {
        let mut bytes = member("a", 0o100644, b"1");
        let data = bytes.iter().rposition(|&byte| byte == b'1').unwrap();
        bytes.truncate(data + 1);
        bytes.resize(bytes.len().next_multiple_of(4), b'x');
        bytes.extend(archive(&[("b", 0o100644, b"2")]));
        assert_eq!(
            CpioArchive::new(&bytes).map(|entry| entry.unwrap().name).collect::<Vec<_>>(),
            [b"a", b"b"]
        );
    }

    #[test]
    fn errors_carry_the_offset() {
        let good = archive(&[("a", 0o100644, b"1"), ("b", 0o100644, b"2")]);
        let cases: [(usize, u8, CpioError); 4] = [
            (0, 0x1f, CpioError::Magic(0, *b"\x1f70701")),
            (116, b'x', CpioError::Magic(116, *b"x70701")),
            (116 + 14, b'g', CpioError::Digit(116)),
            (116 + 111, b'c', CpioError::Name(116)),
        ];
        for (at, byte, error) in cases {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(names(&bad), Err(error), "byte {at}");
        }
        assert_eq!(names(&good[..200]), Err(CpioError::Truncated(116)));
        let mut huge = good.clone();
        huge[54..62].copy_from_slice(b"FFFFFFFF");
        assert_eq!(names(&huge), Err(CpioError::Truncated(0)));
    }

    #[test]
    fn gzip_data_is_reported_as_compressed() {
        let error = names(&[0x1f; 200]).unwrap_err();
        assert!(matches!(error, CpioError::Magic(0, _)));
        let mut gzip = vec![0x1f, 0x8b];
        gzip.resize(200, 0);
        assert!(names(&gzip).unwrap_err().to_string().contains("compressed"));
    }

    proptest! {
        #[test]
        fn corrupt_archives_never_panic(at in 0usize..512, byte: u8, len in 0usize..600) {
            let mut bytes = archive(&[("bin/a", 0o100755, b"hello"), ("b", 0o120777, b"bin/a")]);
            bytes[at] = byte;
            bytes.truncate(len);
            let _ = names(&bytes);
        }
    }
}
