//! One image on every board: the image of each run is read back from QEMU's input (a file, a segment of an
//! ELF file, a file in a disk's file system), and must have the same bytes everywhere.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;

use crate::counts::TestCounts;
use crate::disk;
use crate::error::{Error, Result};
use crate::machine::BootImage;

/// The images that were booted: the hash of each, and its cases.
#[derive(Debug, Default)]
pub struct BootedImages(BTreeMap<u64, Vec<&'static str>>);

impl BootedImages {
    /// Adds the image that `case` boots.
    pub fn add(&mut self, case: &'static str, image: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(image);
        self.0.entry(hasher.finish()).or_default().push(case);
    }

    /// Prints the images; more than one is a failure.
    pub fn check(&self) -> TestCounts {
        for (hash, cases) in &self.0 {
            let named = if self.0.len() == 1 { String::new() } else { format!(": {}", cases.join(" ")) };
            println!("image {hash:016x} in {} runs{named}", cases.len());
        }
        if self.0.is_empty() {
            TestCounts::default()
        } else {
            TestCounts::named("the cases boot one image", self.0.len() == 1)
        }
    }
}

/// The kernel's image in QEMU's input.
pub fn of(entry: &BootImage) -> Result<Vec<u8>> {
    match entry {
        BootImage::Kernel(path) | BootImage::KernelWithTree(path, _) => {
            let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
            if bytes.starts_with(b"\x7fELF") { segment(&bytes, path) } else { Ok(bytes) }
        }
        BootImage::Disk { disk, .. } => disk::kernel_of(disk),
    }
}

/// The first loaded segment, which holds the image ([`crate::el3_wrapper`]).
fn segment(file: &[u8], path: &Path) -> Result<Vec<u8>> {
    let found = || {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).ok()?;
        let first = elf.segments()?.iter().find(|segment| segment.p_type == PT_LOAD)?;
        Some(elf.segment_data(&first).ok()?.to_vec())
    };
    found().ok_or_else(|| Error::Image { path: path.to_owned(), reason: "no loaded segment".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf_file::{AARCH64, Segment, executable};

    #[test]
    fn two_images_are_a_failure() {
        let mut started = BootedImages::default();
        assert_eq!(started.check(), TestCounts::default(), "no image was booted");
        started.add("virt", b"image");
        started.add("raspi3b", b"image");
        assert_eq!(started.check(), TestCounts::one(true));
        started.add("raspi4b", b"imagf");
        assert_eq!(started.check(), TestCounts::one(false));
    }

    #[test]
    fn the_image_is_found_in_a_wrapper() {
        let segments = [Segment::new(0x4020_0000, b"image"), Segment::new(0x4600_0000, b"code")];
        let file = executable(AARCH64, 0, &segments);
        assert_eq!(segment(&file, Path::new("x")).unwrap(), b"image");
    }
}
