//! Modified and malformed device trees.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use dtoolkit::error::ModelError;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use crate::elf_file::{AARCH64, Segment, executable};
use crate::error::{Error, Result};
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::malformed_trees::TreeChange;
use crate::{command, qemu};

/// A valid magic number and size with offsets outside of the tree.
pub fn invalid() -> Vec<u8> {
    let mut tree: Vec<u8> = [0xd00d_feed_u32, 0x1000, 0xffff_fff0, 0x7fff_ffff]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect();
    tree.resize(0x1000, 0xa5);
    tree
}

/// QEMU's tree for a machine without firmware (an ELF file: no PSCI), with the boot arguments and an
/// initramfs at `initramfs`, then modified by `change`. `at` is the file of the dump.
pub fn of_bare_machine(
    machine: &QemuMachine,
    append: &str,
    initramfs: Option<Range<u64>>,
    change: TreeChange,
    at: &Path,
) -> Result<Vec<u8>> {
    // `b .`; never executed.
    let code = 0x1400_0000_u32.to_le_bytes();
    let halt = [Segment::new(machine.ram() + 0x20_0000, &code)];
    let stub = at.with_added_extension("elf");
    std::fs::write(&stub, executable(AARCH64, halt[0].address, &halt))
        .map_err(Error::file("write", &stub))?;
    let boot = BootInput { entry: BootImage::Kernel(stub), initramfs: None, append: String::new() };
    dump(machine, &boot, at)?;
    modified(at, |tree| {
        write_chosen(tree, append, initramfs).ok()?;
        change(tree)
    })
}

/// Writes the tree in the file `from`, modified by `change`, to the file `at`.
pub fn modify(from: &Path, change: TreeChange, at: &Path) -> Result<PathBuf> {
    std::fs::write(at, modified(from, change)?).map_err(Error::file("write", at))?;
    Ok(at.to_owned())
}

/// The tree in the file `from`, modified by `change`.
fn modified(from: &Path, change: impl FnOnce(&mut DeviceTree) -> Option<()>) -> Result<Vec<u8>> {
    let bytes = std::fs::read(from).map_err(Error::file("read", from))?;
    let reason = |reason: String| Error::Image { path: from.to_owned(), reason };
    let tree = Fdt::new(&bytes).map_err(|error| reason(error.to_string()))?;
    let mut tree = DeviceTree::from_fdt(&tree);
    change(&mut tree).ok_or_else(|| reason("the node or property to change is missing".into()))?;
    Ok(tree.to_dtb())
}

/// Writes `/chosen`.
fn write_chosen(
    tree: &mut DeviceTree,
    append: &str,
    initramfs: Option<Range<u64>>,
) -> std::result::Result<(), ModelError> {
    if tree.root.child_mut("chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new("chosen")?);
    }
    let Some(chosen) = tree.root.child_mut("chosen") else { unreachable!("it was just added") };
    chosen.add_property(DeviceTreeProperty::new("bootargs", append)?);
    if let Some(range) = initramfs {
        chosen.add_property(DeviceTreeProperty::new("linux,initrd-start", range.start)?);
        chosen.add_property(DeviceTreeProperty::new("linux,initrd-end", range.end)?);
    }
    Ok(())
}

/// QEMU's tree for this machine with strings replaced by others of the same length.
pub fn patch_qemus(
    machine: &QemuMachine,
    boot: &BootInput,
    changes: &[(&str, &str)],
    at: &Path,
) -> Result<PathBuf> {
    dump(machine, boot, at)?;
    patch(at, changes, at)
}

/// Writes QEMU's tree for this machine to the file `at`.
fn dump(machine: &QemuMachine, boot: &BootInput, at: &Path) -> Result<()> {
    let mut dump = machine.clone();
    dump.extra.extend([
        "-machine".into(),
        format!("dumpdtb={}", at.display()),
        "-display".into(),
        "none".into(),
    ]);
    let mut command = Command::new(qemu::PROGRAM);
    command::capture(command.args(dump.arguments(boot))).map(drop)
}

/// The tree in the file `from` with strings replaced by others of the same length.
pub fn patch(from: &Path, changes: &[(&str, &str)], at: &Path) -> Result<PathBuf> {
    let mut tree = std::fs::read(from).map_err(Error::file("read", from))?;
    for (old, new) in changes {
        replace(&mut tree, old.as_bytes(), new.as_bytes())
            .map_err(|reason| Error::Image { path: at.to_owned(), reason: format!("{old}: {reason}") })?;
    }
    trim(&mut tree);
    std::fs::write(at, &tree).map_err(Error::file("write", at))?;
    Ok(at.to_owned())
}

/// Removes the free space that QEMU leaves for growth: it doubles the size of each tree that it loads.
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
        return Err("the replacement has a different length");
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
    fn a_trimmed_tree_ends_after_its_last_block() {
        let header = [0xd00d_feed_u32, 4096, 40, 60, 0, 17, 16, 0, 9, 16];
        let mut tree: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        tree.resize(4096, 7);
        trim(&mut tree);
        assert_eq!((tree.len(), &tree[4..8]), (72, &72u32.to_be_bytes()[..]));
    }

    #[test]
    fn a_patch_replaces_every_occurrence_and_nothing_else() {
        let mut tree = b"..smmu-v3..smmu-v3.".to_vec();
        replace(&mut tree, b"smmu-v3", b"smmu-vX").unwrap();
        assert_eq!(tree, b"..smmu-vX..smmu-vX.");
        assert!(replace(&mut tree, b"smmu-v3", b"smmu-vY").is_err());
        assert!(replace(&mut tree, b"smmu", b"smm").is_err());
    }
}
