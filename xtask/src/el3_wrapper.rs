//! Starts that QEMU's own boot protocol never produces: at EL3, without a device tree, with a damaged one.
//!
//! QEMU enters an ELF file at the highest exception level, on all CPUs at once where no firmware is, with x0 = 0. So the
//! image is wrapped into an ELF together with a few instructions that set x0 and jump to it, a device tree, and the
//! initramfs, which QEMU does not load for an ELF file.

use std::path::Path;

use crate::dtb;
use crate::elf_file::{AARCH64, Segment, executable};
use crate::error::{Error, Result};
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::malformed_trees::TreeChange;

/// Which device tree the image gets to see.
#[derive(Clone, Copy, Debug)]
pub enum TreeSource {
    /// QEMU's own, with the boot arguments and the initramfs.
    Qemu,
    /// The same, with something changed.
    Modified(TreeChange),
    /// The same, whose second half is missing.
    Truncated,
    /// None: x0 = 0.
    None,
    /// A right magic number and size, then nonsense.
    Damaged,
}

/// Where everything goes, from the start of RAM. The low 16 bits are zero.
const IMAGE: u64 = 0x20_0000;
const TRAMPOLINE: u64 = 0x600_0000;
const TREE: u64 = 0x700_0000;
const INITRAMFS: u64 = 0x800_0000;

/// Wraps the image into an ELF file that starts it with this tree; `whole` is what would be booted without.
pub fn wrap(machine: &QemuMachine, whole: &BootInput, tree: TreeSource, elf: &Path) -> Result<BootImage> {
    wrap_after(machine, whole, tree, elf, &|_| Vec::new())
}

/// The same, after an earlier stage: instructions that get the initramfs's address, and leave to the image what it needs.
pub fn wrap_after(
    machine: &QemuMachine,
    whole: &BootInput,
    tree: TreeSource,
    elf: &Path,
    earlier: &dyn Fn(u64) -> Vec<u32>,
) -> Result<BootImage> {
    let read = |path: &Path| std::fs::read(path).map_err(Error::file("read", path));
    let ram = machine.ram();
    let image = read(whole.entry.kernel())?;
    let initramfs = whole.initramfs.as_deref().map(read).transpose()?;
    let qemus = |change: TreeChange| {
        let end = initramfs.as_ref().map(|bytes| bytes.len() as u64);
        let range = end.map(|len| ram + INITRAMFS..ram + INITRAMFS + len);
        // Where an ELF file is entered at EL3 there is no PSCI, and the tree says so: it is that of the bare machine.
        let at = elf.with_added_extension("dtb");
        dtb::of_bare_machine(machine, &whole.append, range, change, &at)
    };
    let tree = match tree {
        TreeSource::Qemu => Some(qemus(|_| Some(()))?),
        TreeSource::Modified(change) => Some(qemus(change)?),
        TreeSource::Truncated => Some(cut(qemus(|_| Some(()))?)),
        TreeSource::None => None,
        TreeSource::Damaged => Some(dtb::damaged()),
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

/// The first half, and nothing where the rest was.
fn cut(mut tree: Vec<u8>) -> Vec<u8> {
    let half = tree.len() / 2;
    tree[half..].fill(0);
    tree
}

/// `mov x0, tree; mov x16, image; br x16`, for addresses of 48 bits whose low 16 bits are zero.
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
    fn the_trampoline_is_what_an_assembler_makes_of_it() {
        let code = trampoline(0x4700_0000, 0x100_0020_0000);
        // movz x0, #0x4700, lsl #16; movk x0, #0, lsl #32;
        // movz x16, #0x20, lsl #16; movk x16, #0x100, lsl #32; br x16
        let expected = [0xd2a8_e000_u32, 0xf2c0_0000, 0xd2a0_0410, 0xf2c0_2010, 0xd61f_0200];
        assert_eq!(code, expected.map(u32::to_le_bytes).concat());
    }
}
