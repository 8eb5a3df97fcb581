//! Device trees with something wrong in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::machine::{Boot, Machine};
use crate::{command, qemu};

/// A header that looks right and offsets that point far outside.
pub fn damaged() -> Vec<u8> {
    let mut tree: Vec<u8> = [0xd00d_feed_u32, 0x1000, 0xffff_fff0, 0x7fff_ffff]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect();
    tree.resize(0x1000, 0xa5);
    tree
}

/// QEMU's tree for this machine with pieces of text replaced by others of the same length.
pub fn patch_qemus(machine: &Machine, boot: &Boot, changes: &[(&str, &str)], at: &Path) -> Result<PathBuf> {
    let mut dump = machine.clone();
    dump.extra.extend([
        "-machine".into(),
        format!("dumpdtb={}", at.display()),
        "-display".into(),
        "none".into(),
    ]);
    let mut command = Command::new(qemu::PROGRAM);
    command::capture(command.args(dump.arguments(boot)))?;
    patch(at, changes, at)
}

/// The tree in the file `from` with pieces of text replaced by others of the same length.
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
