//! One image on every board: what each run started is read back from what QEMU got (a file, a segment of an ELF file, a
//! file in a file system on a disk), and has to be the same bytes everywhere.

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

/// The images that were started: a hash of each, and the cases that started it.
#[derive(Debug, Default)]
pub struct Started(BTreeMap<u64, Vec<&'static str>>);

impl Started {
    /// Notes what `case` starts.
    pub fn note(&mut self, case: &'static str, image: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(image);
        self.0.entry(hasher.finish()).or_default().push(case);
    }

    /// Says what was found; anything but one image is a failure.
    pub fn conclude(&self) -> TestCounts {
        for (hash, cases) in &self.0 {
            let named = if self.0.len() == 1 { String::new() } else { format!(": {}", cases.join(" ")) };
            println!("image {hash:016x} in {} runs{named}", cases.len());
        }
        if self.0.is_empty() { TestCounts::default() } else { TestCounts::one(self.0.len() == 1) }
    }
}

/// The kernel's image in what QEMU is given.
pub fn of(entry: &BootImage) -> Result<Vec<u8>> {
    match entry {
        BootImage::Kernel(path) | BootImage::KernelWithTree(path, _) => {
            let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
            if bytes.starts_with(b"\x7fELF") { segment(&bytes, path) } else { Ok(bytes) }
        }
        BootImage::Disk { disk, .. } => disk::kernel_of(disk),
    }
}

/// The first loaded segment, which is where [`crate::el3_wrapper`] puts the image.
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
        let mut started = Started::default();
        assert_eq!(started.conclude(), TestCounts::default(), "nothing was started, nothing is wrong");
        started.note("virt", b"image");
        started.note("raspi3b", b"image");
        assert_eq!(started.conclude(), TestCounts::one(true));
        started.note("raspi4b", b"imagf");
        assert_eq!(started.conclude(), TestCounts::one(false));
    }

    #[test]
    fn the_image_is_found_in_a_wrapper() {
        let segments = [Segment::new(0x4020_0000, b"image"), Segment::new(0x4600_0000, b"code")];
        let file = executable(AARCH64, 0, &segments);
        assert_eq!(segment(&file, Path::new("x")).unwrap(), b"image");
    }
}
