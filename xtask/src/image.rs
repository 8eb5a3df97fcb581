//! Flattens the linked kernel into the arm64 `Image` that boot loaders load.
//!
//! Segments keep their distances. Zeroes at the end (BSS) are not in the file but in the header's
//! `image_size`, which is checked here: a boot loader may put the device tree directly after it.

use std::path::Path;

use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

/// Offsets of the size (64 bits) and the magic number in Linux's `Image` header.
const IMAGE_SIZE_AT: usize = 0x10;
const MAGIC_AT: usize = 0x38;
const MAGIC: &[u8] = b"ARM\x64";
/// The limit of an image: a segment at a distant address would make a file of many gigabytes.
const MAX_SPAN: u64 = 64 << 20;

/// The `Image` of a linked kernel, or the reason of a failure.
pub fn flatten(file: &[u8]) -> Result<Vec<u8>, String> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|error| error.to_string())?;
    let headers = elf.segments().ok_or("no program headers")?;
    let loaded: Vec<ProgramHeader> =
        headers.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0).collect();
    let base = loaded.iter().map(|segment| segment.p_vaddr).min().ok_or("no loaded segment")?;
    let span = loaded.iter().map(|segment| segment.p_vaddr + segment.p_memsz - base).max().unwrap_or(0);
    if span > MAX_SPAN {
        return Err(format!("segments span {span:#x} bytes, more than {MAX_SPAN:#x}"));
    }
    let mut image = Vec::new();
    for segment in &loaded {
        let data = elf.segment_data(segment).map_err(|error| error.to_string())?;
        place(&mut image, (segment.p_vaddr - base) as usize, data);
    }
    check_header(&image, span)?;
    Ok(image)
}

fn place(image: &mut Vec<u8>, at: usize, data: &[u8]) {
    if image.len() < at + data.len() {
        image.resize(at + data.len(), 0);
    }
    image[at..at + data.len()].copy_from_slice(data);
}

fn check_header(image: &[u8], span: u64) -> Result<(), String> {
    if image.get(MAGIC_AT..MAGIC_AT + 4) != Some(MAGIC) {
        return Err("the first segment does not start with an arm64 Image header".into());
    }
    let size = image[IMAGE_SIZE_AT..IMAGE_SIZE_AT + 8].try_into().map(u64::from_le_bytes).unwrap_or(0);
    if size < span {
        return Err(format!(
            "the header's image_size {size:#x} does not cover the {span:#x} bytes of all segments"
        ));
    }
    Ok(())
}

/// Reads the linked kernel and writes the `Image`.
pub fn write(elf: &Path, image: &Path) -> crate::error::Result<u64> {
    use crate::error::Error;
    let file = std::fs::read(elf).map_err(Error::file("read", elf))?;
    let bytes = flatten(&file).map_err(|reason| Error::Image { path: elf.to_owned(), reason })?;
    std::fs::write(image, &bytes).map_err(Error::file("write", image))?;
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf_file::{AARCH64, Segment, executable};

    /// An ELF file of loaded segments: (virtual address, content, size in memory).
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let segments: Vec<_> =
            segments.iter().map(|&(address, bytes, memory)| Segment { address, bytes, memory }).collect();
        executable(AARCH64, 0, &segments)
    }

    fn head(image_size: u64) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[IMAGE_SIZE_AT..IMAGE_SIZE_AT + 8].copy_from_slice(&image_size.to_le_bytes());
        head[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        head
    }

    const BASE: u64 = 0xffff_8000_0000_0000;

    #[test]
    fn segments_keep_their_distance_and_bss_is_left_out() {
        let image = flatten(&elf(&[(BASE, &head(0x3000), 64), (BASE + 0x1000, b"data", 0x2000)])).unwrap();
        assert_eq!(image.len(), 0x1004);
        assert_eq!(image[..64], head(0x3000));
        assert_eq!(image[64..0x1000], [0; 0x1000 - 64]);
        assert_eq!(&image[0x1000..], b"data");
    }

    #[test]
    fn an_image_size_without_the_bss_is_rejected() {
        let short = flatten(&elf(&[(BASE, &head(0x2fff), 64), (BASE + 0x1000, b"data", 0x2000)]));
        assert!(short.unwrap_err().contains("image_size 0x2fff"));
    }

    #[test]
    fn a_file_without_the_header_is_rejected() {
        assert!(flatten(&elf(&[(BASE, b"no header here", 64)])).unwrap_err().contains("Image header"));
        assert!(flatten(&elf(&[])).is_err());
        assert!(flatten(b"not an ELF").is_err());
    }

    #[test]
    fn a_distant_segment_is_rejected() {
        let distant = elf(&[(0x1000, &head(0), 64), (BASE, b"x", 1)]);
        assert!(flatten(&distant).unwrap_err().contains("span"));
    }
}
