//! Programs of Debian, with the libraries that they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::endian::LittleEndian;

use crate::apt::{self, Architecture};
use crate::error::{Error, Result};
use crate::initramfs::{ArchiveEntry, DIRECTORY, EXECUTABLE, LINK};
use crate::workspace;

/// The directories that are mounts, or in which the kernel has files of its own.
const EMPTY: [&str; 7] = ["dev", "proc", "run", "sys", "tmp", "var", "etc"];

/// The files of an initramfs.
pub struct Root {
    entries: BTreeMap<String, ArchiveEntry>,
}

impl Root {
    /// A root with empty directories.
    pub fn new() -> Self {
        let mut root = Self { entries: BTreeMap::new() };
        EMPTY.iter().for_each(|name| root.add_directory(name));
        root
    }

    /// The entries by path.
    pub fn entries(&self) -> &BTreeMap<String, ArchiveEntry> {
        &self.entries
    }

    /// Adds a file, and the directories above it.
    pub fn add_file(&mut self, path: &str, bytes: Vec<u8>) {
        self.add(path, ArchiveEntry { mode: EXECUTABLE, bytes });
    }

    /// Adds a symbolic link, and the directories above it.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.add(path, ArchiveEntry { mode: LINK, bytes: target.into() });
    }

    fn add(&mut self, path: &str, node: ArchiveEntry) {
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.add_directory(directory);
        }
        self.entries.insert(path.to_owned(), node);
    }

    fn add_directory(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let parent = path[..end].to_owned();
            self.entries.entry(parent).or_insert(ArchiveEntry { mode: DIRECTORY, bytes: Vec::new() });
        }
    }

    /// Adds `programs` of the unpacked `packages`, with their interpreter and libraries. `programs` are names
    /// in the directories for programs.
    pub fn add_programs(&mut self, packages: &Path, programs: &[&str]) -> Result<()> {
        for directory in ["bin", "usr/bin", "sbin", "usr/sbin"] {
            for file in files(&packages.join(directory))? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if programs.contains(&name.as_str()) {
                    self.add_program(packages, &format!("bin/{name}"), &file)?;
                }
            }
        }
        match programs.iter().find(|name| !self.entries.contains_key(&format!("bin/{name}"))) {
            Some(name) => Err(Error::Missing(format!("{} has no program {name}", packages.display()))),
            None => Ok(()),
        }
    }

    /// Adds the program `file`, with the interpreter and the libraries of `packages` that it needs.
    pub fn add_program(&mut self, packages: &Path, path: &str, file: &Path) -> Result<()> {
        let bytes = fs::read(file).map_err(Error::file("read", file))?;
        let needed = needed(&bytes);
        self.add_file(path, bytes);
        for name in needed {
            // An interpreter has a path, a library a name.
            let name = name.rsplit('/').next().unwrap_or_default();
            let target = if name.starts_with("ld-linux") {
                format!("lib/{name}")
            } else {
                format!("lib/aarch64-linux-gnu/{name}")
            };
            if !self.entries.contains_key(&target) {
                let library = find_library(packages, name)?;
                self.add_program(packages, &target, &library)?;
            }
        }
        Ok(())
    }
}

/// The interpreter and the libraries that an ELF file names; none for another file.
fn needed(bytes: &[u8]) -> Vec<String> {
    let Ok(file) = ElfBytes::<LittleEndian>::minimal_parse(bytes) else { return Vec::new() };
    let interpreter = file.segments().and_then(|headers| {
        let header = headers.iter().find(|header| header.p_type == elf::abi::PT_INTERP)?;
        let text = file.segment_data(&header).ok()?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    });
    let libraries = || {
        let strings = file.section_headers_with_strtab().ok()?.0?;
        let header = strings.iter().find(|header| header.sh_type == elf::abi::SHT_DYNAMIC)?;
        let names = file.section_data_as_strtab(&strings.get(header.sh_link as usize).ok()?).ok()?;
        let entries = file.dynamic().ok()??;
        let needed = entries.iter().filter(|entry| entry.d_tag == elf::abi::DT_NEEDED);
        Some(
            needed
                .filter_map(|entry| names.get(entry.d_val() as usize).ok())
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    interpreter.into_iter().chain(libraries().unwrap_or_default()).collect()
}

fn find_library(packages: &Path, name: &str) -> Result<PathBuf> {
    let directories = ["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib", "usr/lib"];
    let found =
        directories.iter().map(|directory| packages.join(directory).join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing(format!("{} has no library {name}", packages.display())))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).map_err(Error::file("read", directory))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect())
}

/// The directory of these Debian packages and their dependencies, unpacked on first use.
///
/// # Errors
/// The packages cannot be downloaded.
pub fn packages(names: &[&str]) -> Result<PathBuf> {
    let directory = workspace::target().join("foreign").join(names.join("+"));
    let complete = directory.with_added_extension("complete");
    if !complete.is_file() {
        apt::unpack_with_dependencies(names, Architecture::Arm64, &directory)?;
        fs::write(&complete, "").map_err(Error::file("write", &complete))?;
    }
    Ok(directory)
}
