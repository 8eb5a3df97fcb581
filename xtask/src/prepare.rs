//! Makes what a case boots: the built files, or worse ones.

use std::path::{Path, PathBuf};

use crate::artifacts::Artifacts;
use crate::elf_file::{self, AARCH64, Segment};
use crate::error::{Error, Result};
use crate::initramfs::{self, Program};
use crate::machine::{Boot, Entry, Machine};
use crate::matrix::{Case, Start};
use crate::{boards, disk, dtb, haunted, wrap};

/// ELF's number for the x86-64.
const X86_64: u16 = 62;

/// What this case boots; files made for it are named after `stem`.
pub fn boot(case: &Case, machine: &Machine, built: &Artifacts, stem: &Path) -> Result<Boot> {
    let append = case.append.to_owned();
    let whole =
        Boot { entry: Entry::Kernel(built.image.clone()), initramfs: Some(built.initramfs.clone()), append };
    Ok(match case.start {
        Start::Whole => whole,
        Start::PatchedTree(changes) => {
            let tree = dtb::patch_qemus(machine, &whole, changes, &stem.with_added_extension("dtb"))?;
            Boot { entry: Entry::KernelWithTree(built.image.clone(), tree), ..whole }
        }
        Start::BoardTree(changes) => {
            let tree = boards::tree(&machine.board)?;
            let tree = dtb::patch(&tree, changes, &stem.with_added_extension("dtb"))?;
            Boot { entry: Entry::KernelWithTree(built.image.clone(), tree), ..whole }
        }
        Start::Disk => {
            let disk = stem.with_added_extension("img");
            disk::write(built, case.append, &disk)?;
            let entry = Entry::Disk { firmware: boards::u_boot()?, disk };
            Boot { entry, initramfs: None, append: String::new() }
        }
        Start::Bare(tree) => {
            let entry = wrap::wrap(machine, &whole, tree, &stem.with_added_extension("elf"))?;
            Boot { entry, initramfs: None, append: String::new() }
        }
        Start::Haunted => {
            let append = format!("{} {}", whole.append, haunted::checksum(&built.initramfs)?);
            let entry = haunted::wrap(machine, &Boot { append, ..whole }, &stem.with_added_extension("elf"))?;
            Boot { entry, initramfs: None, append: String::new() }
        }
        Start::WithoutInitramfs => Boot { initramfs: None, ..whole },
        Start::CutInitramfs | Start::WrongInitramfs | Start::BrokenPrograms => {
            let archive = stem.with_added_extension("cpio");
            let bytes = bad_initramfs(case.start, &built.initramfs)?;
            std::fs::write(&archive, bytes).map_err(Error::file("write", &archive))?;
            Boot { initramfs: Some(archive), ..whole }
        }
    })
}

fn bad_initramfs(start: Start, good: &PathBuf) -> Result<Vec<u8>> {
    match start {
        Start::BrokenPrograms => Ok(initramfs::pack(&broken_programs())),
        Start::WrongInitramfs => Ok(b"this is not an archive\n".repeat(200)),
        _ => {
            let bytes = std::fs::read(good).map_err(Error::file("read", good))?;
            Ok(bytes[..bytes.len() / 2].to_vec())
        }
    }
}

/// Programs that cannot be started: a text, the start of a program, a program for another machine.
fn broken_programs() -> [Program; 3] {
    let program = |machine| elf_file::executable(machine, 0x40_0000, &[Segment::new(0x40_0000, &[0; 4096])]);
    [
        Program { name: "text", bytes: b"#!/bin/sh\necho no\n".to_vec() },
        Program { name: "cut", bytes: program(AARCH64)[..100].to_vec() },
        Program { name: "foreign", bytes: program(X86_64) },
    ]
}
