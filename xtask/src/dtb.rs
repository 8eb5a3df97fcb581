//! Starts that QEMU's own boot protocol never produces: at EL3, without a device tree, with a damaged or odd one.
//!
//! QEMU enters an ELF file at the highest exception level, with x0 = 0 and its device tree at the start of RAM. So
//! the image is wrapped into an ELF together with three instructions that set x0 and jump to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::machine::{Boot, Entry, Machine};
use crate::{command, qemu};

/// Which device tree the image gets to see.
#[derive(Clone, Copy, Debug)]
pub enum Tree {
    /// QEMU's own, which lies at the start of RAM.
    Qemus,
    /// None: x0 = 0.
    None,
    /// A right magic number and size, then nonsense.
    Damaged,
}

/// Where QEMU's `virt` puts its device tree when it boots an ELF file: the start of RAM.
const QEMUS_TREE_AT: u64 = 0x4000_0000;
const IMAGE_AT: u64 = 0x4020_0000;
const TRAMPOLINE_AT: u64 = 0x4600_0000;
const TREE_AT: u64 = 0x4700_0000;

/// Wraps the image into an ELF file that starts it with this tree.
pub fn wrap(image: &Path, tree: Tree, elf: &Path) -> Result<Entry> {
    let image = std::fs::read(image).map_err(Error::file("read", image))?;
    let (at, damaged) = match tree {
        Tree::Qemus => (QEMUS_TREE_AT, None),
        Tree::None => (0, None),
        Tree::Damaged => (TREE_AT, Some(damaged())),
    };
    let trampoline = trampoline(at);
    let mut segments = vec![(IMAGE_AT, &image[..]), (TRAMPOLINE_AT, &trampoline[..])];
    segments.extend(damaged.as_deref().map(|bytes| (TREE_AT, bytes)));
    std::fs::write(elf, elf_of(AARCH64, TRAMPOLINE_AT, &segments)).map_err(Error::file("write", elf))?;
    Ok(Entry::Kernel(elf.to_owned()))
}

/// `mov x0, tree; mov x16, image; br x16`, for addresses whose low 16 bits are zero and that fit into 32.
fn trampoline(tree: u64) -> Vec<u8> {
    let movz_upper = |register: u32, address: u64| 0xd2a0_0000 | ((address >> 16) as u32) << 5 | register;
    let code = [movz_upper(0, tree), movz_upper(16, IMAGE_AT), 0xd61f_0200];
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A header that looks right and offsets that point far outside.
fn damaged() -> Vec<u8> {
    let mut tree: Vec<u8> = [0xd00d_feed_u32, 0x1000, 0xffff_fff0, 0x7fff_ffff]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect();
    tree.resize(0x1000, 0xa5);
    tree
}

/// ELF's number for 64-bit Arm.
pub const AARCH64: u16 = 183;

/// A little-endian 64-bit executable with one loaded segment for each piece, entered at `entry`.
pub fn elf_of(machine: u16, entry: u64, segments: &[(u64, &[u8])]) -> Vec<u8> {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    halves(&mut file, &[2, machine, 1, 0]);
    words(&mut file, &[entry, HEADER as u64, 0]);
    halves(&mut file, &[0, 0, HEADER as u16, SEGMENT as u16, segments.len() as u16, HEADER as u16, 0, 0]);
    let mut offset = (HEADER + SEGMENT * segments.len()) as u64;
    for (address, bytes) in segments {
        let size = bytes.len() as u64;
        halves(&mut file, &[1, 0, 7, 0]);
        words(&mut file, &[offset, *address, *address, size, size, 8]);
        offset += size;
    }
    segments.iter().for_each(|(_, bytes)| file.extend_from_slice(bytes));
    file
}

fn halves(file: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}

fn words(file: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| file.extend(value.to_le_bytes()));
}

/// QEMU's tree for this machine with pieces of text replaced by others of the same length.
pub fn patch(machine: &Machine, boot: &Boot, changes: &[(&str, &str)], at: &Path) -> Result<PathBuf> {
    let mut dump = machine.clone();
    dump.extra.extend([
        "-machine".into(),
        format!("dumpdtb={}", at.display()),
        "-display".into(),
        "none".into(),
    ]);
    let mut command = Command::new(qemu::PROGRAM);
    command::capture(command.args(dump.arguments(boot)))?;
    let mut tree = std::fs::read(at).map_err(Error::file("read", at))?;
    for (from, to) in changes {
        replace(&mut tree, from.as_bytes(), to.as_bytes())
            .map_err(|reason| Error::Image { path: at.to_owned(), reason: format!("{from}: {reason}") })?;
    }
    trim(&mut tree);
    std::fs::write(at, &tree).map_err(Error::file("write", at))?;
    Ok(at.to_owned())
}

/// Cuts off the room that QEMU leaves for growth: it doubles whatever tree it is given.
fn trim(tree: &mut Vec<u8>) {
    let word = |at: usize| {
        tree.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap_or_default()))
    };
    let (structure, strings) = (word(8) + word(36), word(12) + word(32));
    let used = structure.max(strings).next_multiple_of(8);
    tree.truncate(used as usize);
    tree.splice(4..8, used.to_be_bytes());
}

fn replace(tree: &mut [u8], from: &[u8], to: &[u8]) -> std::result::Result<(), &'static str> {
    if from.len() != to.len() || from.is_empty() {
        return Err("the replacement has another length");
    }
    let starts: Vec<usize> =
        tree.windows(from.len()).enumerate().filter(|(_, bytes)| *bytes == from).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return Err("not in the device tree");
    }
    starts.iter().for_each(|&at| tree[at..at + to.len()].copy_from_slice(to));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trampoline_is_what_an_assembler_makes_of_it() {
        let code = trampoline(QEMUS_TREE_AT);
        // movz x0, #0x4000, lsl #16; movz x16, #0x4020, lsl #16; br x16
        let expected = [0xd2a8_0000_u32, 0xd2a8_0410, 0xd61f_0200].map(u32::to_le_bytes).concat();
        assert_eq!(code, expected);
    }

    #[test]
    fn a_wrapped_image_is_an_elf_file_with_its_pieces_in_place() {
        let file = elf_of(AARCH64, 0x1000, &[(0x1000, b"code"), (0x9000, b"more data")]);
        let elf = elf::ElfBytes::<elf::endian::LittleEndian>::minimal_parse(&file).unwrap();
        assert_eq!((elf.ehdr.e_entry, elf.ehdr.e_machine), (0x1000, 183));
        let pieces: Vec<_> = elf
            .segments()
            .unwrap()
            .iter()
            .map(|s| (s.p_paddr, elf.segment_data(&s).unwrap().to_vec()))
            .collect();
        assert_eq!(pieces, [(0x1000, b"code".to_vec()), (0x9000, b"more data".to_vec())]);
    }

    #[test]
    fn a_trimmed_tree_ends_behind_its_last_block() {
        let header = [0xd00d_feed_u32, 4096, 40, 60, 0, 17, 16, 0, 9, 16];
        let mut tree: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        tree.resize(4096, 7);
        trim(&mut tree);
        assert_eq!((tree.len(), &tree[4..8]), (72, &72u32.to_be_bytes()[..]));
    }

    #[test]
    fn a_patch_changes_every_place_and_nothing_else() {
        let mut tree = b"..smmu-v3..smmu-v3.".to_vec();
        replace(&mut tree, b"smmu-v3", b"smmu-vX").unwrap();
        assert_eq!(tree, b"..smmu-vX..smmu-vX.");
        assert!(replace(&mut tree, b"smmu-v3", b"smmu-vY").is_err());
        assert!(replace(&mut tree, b"smmu", b"smm").is_err());
    }
}
