//! An earlier boot stage that leaves a device's DMA running: it programs `edu` to overwrite a file in the
//! initramfs after a tenth of a second, and enters the image immediately.

use std::path::Path;

use crate::el3_wrapper::{self, TreeSource};
use crate::error::{Error, Result};
use crate::machine::{BootImage, BootInput, QemuMachine};

/// The overwritten file.
pub const FILE: &str = "bin/mosaic";
/// Configuration space of bus 0 with `highmem=off`, and of the device that `-device edu` adds.
const ECAM: u64 = 0x3f00_0000;
const EDU: u64 = ECAM + (1 << 15);
/// The address of its registers, in PCI memory space.
const BAR: u64 = 0x1000_0000;

/// Writes an ELF file that leaves the device running and enters the image of `input`.
pub fn wrap(machine: &QemuMachine, input: &BootInput, elf: &Path) -> Result<BootImage> {
    let archive = input.initramfs.as_deref().unwrap_or(Path::new(""));
    let bytes = std::fs::read(archive).map_err(Error::file("read", archive))?;
    let file = find(&bytes, FILE).ok_or_else(|| Error::Missing(format!("{FILE} in the initramfs")))?;
    // In the middle of the file.
    let target = (file.start + file.len() / 2) as u64;
    el3_wrapper::wrap_after(machine, input, TreeSource::Qemu, elf, &|initramfs| {
        leave_running(initramfs + target)
    })
}

/// Programs the device to write its 4 KiB of zeroes to `target`.
fn leave_running(target: u64) -> Vec<u32> {
    let memory_and_master = 6;
    let (run, to_memory) = (1, 2);
    let config = [(EDU + 0x10, BAR), (EDU + 4, memory_and_master)];
    let device = [(0x80, 0x4_0000), (0x88, target), (0x90, 4096), (0x98, run | to_memory)];
    let words = config.into_iter().flat_map(|(at, value)| store(at, value, STR_W));
    words.chain(device.into_iter().flat_map(|(at, value)| store(BAR + at, value, STR_X))).collect()
}

/// `str w2, [x1]` and `str x2, [x1]`.
const STR_W: u32 = 0xb900_0022;
const STR_X: u32 = 0xf900_0022;

/// `mov x1, at; mov x2, value; str`, for 48-bit values.
fn store(at: u64, value: u64, str: u32) -> Vec<u32> {
    [&mov(1, at)[..], &mov(2, value), &[str]].concat()
}

/// `movz; movk; movk`.
fn mov(register: u32, value: u64) -> [u32; 3] {
    let part = |shift: u32| (((value >> (16 * shift)) & 0xffff) as u32) << 5 | shift << 21 | register;
    [0xd280_0000 | part(0), 0xf280_0000 | part(1), 0xf280_0000 | part(2)]
}

/// The range of a file's content in a `newc` archive.
fn find(archive: &[u8], name: &str) -> Option<std::ops::Range<usize>> {
    const HEADER: usize = 110;
    let number = |header: &[u8], field: usize| {
        let digits = header.get(6 + 8 * field..14 + 8 * field)?;
        usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    loop {
        let header = archive.get(at..at + HEADER)?;
        let (size, name_size) = (number(header, 6)?, number(header, 11)?);
        let found = archive.get(at + HEADER..at + HEADER + name_size - 1)?;
        let start = (at + HEADER + name_size).next_multiple_of(4);
        if found == name.as_bytes() {
            return Some(start..start + size);
        }
        at = (start + size).next_multiple_of(4);
    }
}

/// The checksum of a file as `probe checksum` computes it.
pub fn checksum(archive: &Path) -> Result<u64> {
    let bytes = std::fs::read(archive).map_err(Error::file("read", archive))?;
    let file = find(&bytes, FILE).ok_or_else(|| Error::Missing(format!("{FILE} in the initramfs")))?;
    Ok(bytes[file].iter().fold(0, |sum: u64, byte| sum.rotate_left(5) ^ u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::{PackedProgram, pack};

    #[test]
    fn the_range_of_a_file_is_its_content() {
        let program = |name, byte| PackedProgram::new(name, vec![byte; 5001]);
        let archive = pack(&[program("bench", 1), program("mosaic", 7), program("probe", 3)]);
        let file = find(&archive, FILE).unwrap();
        assert_eq!(archive[file], [7; 5001]);
        assert_eq!(find(&archive, "bin/nothing"), None);
    }

    #[test]
    fn instructions_match_the_assembler() {
        // movz x1, #0x8010; movk x1, #0x3f00, lsl #16; movk x1, #0, lsl #32; movz x2, #6; ...; str w2, [x1]
        let expected =
            [0xd290_0201, 0xf2a7_e001, 0xf2c0_0001, 0xd280_00c2, 0xf2a0_0002, 0xf2c0_0002, 0xb900_0022];
        assert_eq!(store(0x3f00_8010, 6, STR_W), expected);
    }
}
