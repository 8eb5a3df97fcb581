//! Boot states that QEMU's boot protocol does not produce: EL3, no device tree, a malformed one.
//!
//! QEMU enters an ELF file at the highest exception level with x0 = 0, on all CPUs at once if there is no
//! firmware. So the ELF file holds the image, a trampoline that sets x0 and jumps to it, a device tree, and
//! the initramfs, which QEMU does not load for an ELF file.

use std::path::Path;

use crate::dtb;
use crate::elf_file::{AARCH64, Segment, executable};
use crate::error::{Error, Result};
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::malformed_trees::TreeChange;

/// The device tree that the image gets.
#[derive(Clone, Copy, Debug)]
pub enum TreeSource {
    /// QEMU's own, with the boot arguments and the initramfs.
    Qemu,
    /// QEMU's, modified.
    Modified(TreeChange),
    /// QEMU's, with its second half zeroed.
    Truncated,
    /// None: x0 = 0.
    None,
    /// A valid magic number and size, then invalid content.
    Invalid,
}

/// Offsets from the start of RAM. The low 16 bits are zero.
const IMAGE: u64 = 0x20_0000;
const TRAMPOLINE: u64 = 0x600_0000;
const TREE: u64 = 0x700_0000;
const INITRAMFS: u64 = 0x800_0000;

/// Writes an ELF file that enters the image of `input` with this tree.
pub fn wrap(machine: &QemuMachine, input: &BootInput, tree: TreeSource, elf: &Path) -> Result<BootImage> {
    wrap_after(machine, input, tree, elf, &|_| Vec::new())
}

/// As [`wrap`], after an earlier stage: code that gets the initramfs's address and preserves the image's
/// segments.
pub fn wrap_after(
    machine: &QemuMachine,
    input: &BootInput,
    tree: TreeSource,
    elf: &Path,
    earlier: &dyn Fn(u64) -> Vec<u32>,
) -> Result<BootImage> {
    let read = |path: &Path| std::fs::read(path).map_err(Error::file("read", path));
    let ram = machine.ram();
    let image = read(input.entry.kernel())?;
    let initramfs = input.initramfs.as_deref().map(read).transpose()?;
    let qemus = |change: TreeChange| {
        let end = initramfs.as_ref().map(|bytes| bytes.len() as u64);
        let range = end.map(|len| ram + INITRAMFS..ram + INITRAMFS + len);
        // QEMU provides no PSCI for an ELF file that is entered at EL3, so this tree has none.
        let at = elf.with_added_extension("dtb");
        dtb::of_bare_machine(machine, &input.append, range, change, &at)
    };
    let tree = match tree {
        TreeSource::Qemu => Some(qemus(|_| Some(()))?),
        TreeSource::Modified(change) => Some(qemus(change)?),
        TreeSource::Truncated => Some(truncate(qemus(|_| Some(()))?)),
        TreeSource::None => None,
        TreeSource::Invalid => Some(dtb::invalid()),
    };
    let mut code: Vec<u8> = earlier(ram + INITRAMFS).iter().flat_map(|word| word.to_le_bytes()).collect();
    code.extend(trampoline(tree.as_ref().map_or(0, |_| ram + TREE), ram + IMAGE));
    let mut segments = vec![Segment::new(ram + IMAGE, &image), Segment::new(ram + TRAMPOLINE, &code)];
    segments.extend(tree.as_deref().map(|bytes| Segment::new(ram + TREE, bytes)));
    segments.extend(initramfs.as_deref().map(|bytes| Segment::new(ram + INITRAMFS, bytes)));
    let file = executable(AARCH64, ram + TRAMPOLINE, &segments);
    std::fs::write(elf, file).map_err(Error::file("write", elf))?;
    Ok(BootImage::Kernel(elf.to_owned()))
}

/// Zeroes the second half.
fn truncate(mut tree: Vec<u8>) -> Vec<u8> {
    let half = tree.len() / 2;
    tree[half..].fill(0);
    tree
}

/// `mov x0, tree; mov x16, image; br x16`, for 48-bit addresses whose low 16 bits are zero.
fn trampoline(tree: u64, image: u64) -> Vec<u8> {
    let upper = |register: u32, address: u64| {
        let part = |lsb: u32| ((address >> lsb & 0xffff) as u32) << 5;
        let (movz, movk) = (0xd2a0_0000 | part(16) | register, 0xf2c0_0000 | part(32) | register);
        [movz, movk]
    };
    let code = [&upper(0, tree)[..], &upper(16, image), &[0xd61f_0200]].concat();
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trampoline_matches_the_assembler() {
        let code = trampoline(0x4700_0000, 0x100_0020_0000);
        // movz x0, #0x4700, lsl #16; movk x0, #0, lsl #32;
        // movz x16, #0x20, lsl #16; movk x16, #0x100, lsl #32; br x16
        let expected = [0xd2a8_e000_u32, 0xf2c0_0000, 0xd2a0_0410, 0xf2c0_2010, 0xd61f_0200];
        assert_eq!(code, expected.map(u32::to_le_bytes).concat());
    }
}
