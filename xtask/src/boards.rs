//! Files of other projects that a board needs, such as its device tree; fetched from Debian's packages on
//! first use.

use std::path::PathBuf;

use crate::apt::{self, Architecture};
use crate::error::{Error, Result};
use crate::workspace;

/// Debian's kernel, whose package contains the device trees of its boards.
const KERNEL: &str = "linux-image-arm64";

/// The board's device tree file in that package.
fn tree_of(board: &str) -> Option<&'static str> {
    Some(match board {
        "raspi3b" => "bcm2837-rpi-3-b.dtb",
        "raspi4b" => "bcm2711-rpi-4-b.dtb",
        _ => return None,
    })
}

/// The device tree of a QEMU board that models a real one.
pub fn tree(board: &str) -> Result<PathBuf> {
    let Some(name) = tree_of(board) else {
        return Err(Error::Missing(format!("no device tree is known for the board {board}")));
    };
    let directory = workspace::target().join("boards");
    let file = directory.join(name);
    if !file.is_file() {
        println!("fetching {name} from the Debian package {KERNEL}");
        apt::extract(KERNEL, Architecture::Arm64, &[&format!("*/broadcom/{name}")], &directory)?;
    }
    if !file.is_file() {
        return Err(Error::Missing(format!("the Debian package {KERNEL} has no {name}")));
    }
    Ok(file)
}

/// U-Boot for QEMU's virt board, Debian's build.
pub fn u_boot() -> Result<PathBuf> {
    const PACKAGE: &str = "u-boot-qemu";
    let directory = workspace::target().join("boards");
    let file = directory.join("u-boot.bin");
    if !file.is_file() {
        println!("fetching U-Boot from the Debian package {PACKAGE}");
        apt::extract(PACKAGE, Architecture::Arm64, &["*/qemu_arm64/u-boot.bin"], &directory)?;
    }
    if !file.is_file() {
        return Err(Error::Missing(format!("the Debian package {PACKAGE} has no qemu_arm64/u-boot.bin")));
    }
    Ok(file)
}

/// Fetches the files that a boot on this board needs.
pub fn prepare(board: &str) -> Result<()> {
    if tree_of(board).is_some() { tree(board).map(drop) } else { Ok(()) }
}
