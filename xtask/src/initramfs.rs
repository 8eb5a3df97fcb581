//! Packs the programs into an initramfs (cpio `newc`), reproducibly.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use cpio::NewcBuilder;

use crate::error::{Error, Result};

/// `st_mode` of a directory.
pub const DIRECTORY: u32 = 0o040_755;
/// `st_mode` of an executable file.
pub const EXECUTABLE: u32 = 0o100_755;
/// `st_mode` of a symbolic link; its target is the content.
pub const LINK: u32 = 0o120_777;

/// A program of the initramfs.
pub struct PackedProgram {
    /// The name in `/bin`.
    pub name: &'static str,
    /// An ELF file.
    pub bytes: Vec<u8>,
    /// `st_mode`.
    pub mode: u32,
}

impl PackedProgram {
    /// An executable file.
    pub fn new(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes, mode: EXECUTABLE }
    }
}

/// The archive: `/bin` and the programs in it, no time stamps, owned by root, padded to whole 4 KiB pages.
pub fn pack(programs: &[PackedProgram]) -> Vec<u8> {
    let directory = (entry("bin", DIRECTORY, 2), Cursor::new(&[][..]));
    let files = programs.iter().map(|program| {
        (entry(&format!("bin/{}", program.name), program.mode, 1), Cursor::new(&program.bytes[..]))
    });
    whole_pages(std::iter::once(directory).chain(files))
}

/// An entry of an archive.
pub struct ArchiveEntry {
    /// `st_mode`.
    pub mode: u32,
    /// The content of a file, or the target of a link.
    pub bytes: Vec<u8>,
}

/// The archive of these entries by path, without a leading slash. The directories above an entry must be
/// among them.
pub fn pack_tree(entries: &BTreeMap<String, ArchiveEntry>) -> Vec<u8> {
    whole_pages(entries.iter().map(|(path, file)| (entry(path, file.mode, 1), Cursor::new(&file.bytes[..]))))
}

fn whole_pages<'a>(entries: impl Iterator<Item = (NewcBuilder, Cursor<&'a [u8]>)>) -> Vec<u8> {
    let mut archive = cpio::write_cpio(entries, Vec::new()).expect("writing to memory does not fail");
    archive.resize(archive.len().next_multiple_of(4096), 0);
    archive
}

fn entry(name: &str, mode: u32, links: u32) -> NewcBuilder {
    NewcBuilder::new(name).mode(mode).nlink(links).mtime(0).uid(0).gid(0)
}

/// Packs the programs into a file.
pub fn write(programs: &[PackedProgram], archive: &Path) -> Result<u64> {
    let bytes = pack(programs);
    std::fs::write(archive, &bytes).map_err(Error::file("write", archive))?;
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<PackedProgram> {
        vec![
            PackedProgram::new("mosaic", b"\x7fELF one".to_vec()),
            PackedProgram::new("probe", vec![7; 5001]),
        ]
    }

    #[test]
    fn the_same_programs_give_the_same_bytes() {
        assert_eq!(pack(&sample()), pack(&sample()));
        assert_eq!(pack(&sample()).len() % 4096, 0);
    }

    #[test]
    fn a_cpio_reader_finds_the_directory_and_every_program() {
        let archive = pack(&sample());
        let mut rest = &archive[..];
        let mut seen = Vec::new();
        loop {
            let reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            rest = reader.to_writer(&mut content).unwrap();
            seen.push((name, mode, content));
        }
        let expected = [
            ("bin".to_owned(), DIRECTORY, Vec::new()),
            ("bin/mosaic".to_owned(), EXECUTABLE, b"\x7fELF one".to_vec()),
            ("bin/probe".to_owned(), EXECUTABLE, vec![7; 5001]),
        ];
        assert_eq!(seen, expected);
    }
}
