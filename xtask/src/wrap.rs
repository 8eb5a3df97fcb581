//! Starts that QEMU's own boot protocol never produces: at EL3, without a device tree, with a damaged one.
//!
//! QEMU enters an ELF file at the highest exception level, with x0 = 0 and its device tree at the start of RAM. So
//! the image is wrapped into an ELF together with three instructions that set x0 and jump to it.

use std::path::Path;

use crate::dtb;
use crate::elf_file::{AARCH64, Segment, executable};
use crate::error::{Error, Result};
use crate::machine::Entry;

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
        Tree::Damaged => (TREE_AT, Some(dtb::damaged())),
    };
    let trampoline = trampoline(at);
    let mut segments = vec![Segment::new(IMAGE_AT, &image), Segment::new(TRAMPOLINE_AT, &trampoline)];
    segments.extend(damaged.as_deref().map(|bytes| Segment::new(TREE_AT, bytes)));
    std::fs::write(elf, executable(AARCH64, TRAMPOLINE_AT, &segments)).map_err(Error::file("write", elf))?;
    Ok(Entry::Kernel(elf.to_owned()))
}

/// `mov x0, tree; mov x16, image; br x16`, for addresses whose low 16 bits are zero and that fit into 32.
fn trampoline(tree: u64) -> Vec<u8> {
    let movz_upper = |register: u32, address: u64| 0xd2a0_0000 | ((address >> 16) as u32) << 5 | register;
    let code = [movz_upper(0, tree), movz_upper(16, IMAGE_AT), 0xd61f_0200];
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
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
}
