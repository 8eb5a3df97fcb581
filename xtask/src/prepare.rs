//! The boot files of a case: the built ones, or invalid ones.

use std::path::{Path, PathBuf};

use crate::artifacts::Artifacts;
use crate::elf_file::{self, AARCH64, Segment};
use crate::error::{Error, Result};
use crate::initramfs::{self, PackedProgram};
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::matrix::{BootMethod, Case};
use crate::{boards, disk, dma_left_running, dtb, el3_wrapper};

/// ELF's machine number of x86-64.
const X86_64: u16 = 62;

/// The files of this case; generated files are named after `stem`.
pub fn boot(case: &Case, machine: &QemuMachine, built: &Artifacts, stem: &Path) -> Result<BootInput> {
    let append = case.append.to_owned();
    let input = BootInput {
        entry: BootImage::Kernel(built.image.clone()),
        initramfs: Some(built.initramfs.clone()),
        append,
    };
    Ok(match case.start {
        BootMethod::Image => input,
        BootMethod::PatchedTree(changes) => {
            let tree = dtb::patch_qemus(machine, &input, changes, &stem.with_added_extension("dtb"))?;
            BootInput { entry: BootImage::KernelWithTree(built.image.clone(), tree), ..input }
        }
        BootMethod::BoardTree(changes) => {
            let tree = boards::tree(&machine.board)?;
            let tree = dtb::patch(&tree, changes, &stem.with_added_extension("dtb"))?;
            BootInput { entry: BootImage::KernelWithTree(built.image.clone(), tree), ..input }
        }
        BootMethod::ModifiedBoardTree(change) => {
            let tree = boards::tree(&machine.board)?;
            let tree = dtb::modify(&tree, change, &stem.with_added_extension("dtb"))?;
            BootInput { entry: BootImage::KernelWithTree(built.image.clone(), tree), ..input }
        }
        BootMethod::Disk => {
            let disk = stem.with_added_extension("img");
            disk::write(built, case.append, &disk)?;
            let entry = BootImage::Disk { firmware: boards::u_boot()?, disk };
            BootInput { entry, initramfs: None, append: String::new() }
        }
        BootMethod::El3(tree) => {
            let entry = el3_wrapper::wrap(machine, &input, tree, &stem.with_added_extension("elf"))?;
            BootInput { entry, initramfs: None, append: String::new() }
        }
        BootMethod::DmaLeftRunning => {
            let append = format!("{} {}", input.append, dma_left_running::checksum(&built.initramfs)?);
            let entry = dma_left_running::wrap(
                machine,
                &BootInput { append, ..input },
                &stem.with_added_extension("elf"),
            )?;
            BootInput { entry, initramfs: None, append: String::new() }
        }
        BootMethod::WithoutInitramfs => BootInput { initramfs: None, ..input },
        BootMethod::TruncatedInitramfs | BootMethod::InvalidInitramfs | BootMethod::InvalidPrograms => {
            let archive = stem.with_added_extension("cpio");
            let bytes = invalid_initramfs(case.start, &built.initramfs)?;
            std::fs::write(&archive, bytes).map_err(Error::file("write", &archive))?;
            BootInput { initramfs: Some(archive), ..input }
        }
    })
}

fn invalid_initramfs(start: BootMethod, good: &PathBuf) -> Result<Vec<u8>> {
    match start {
        BootMethod::InvalidPrograms => Ok(initramfs::pack(&invalid_programs())),
        BootMethod::InvalidInitramfs => Ok(b"this is not an archive\n".repeat(200)),
        _ => {
            let bytes = std::fs::read(good).map_err(Error::file("read", good))?;
            Ok(bytes[..bytes.len() / 2].to_vec())
        }
    }
}

/// Invalid programs: a text, a truncated ELF file, a program for another architecture, a file without execute
/// permission.
fn invalid_programs() -> [PackedProgram; 4] {
    let program = |machine| elf_file::executable(machine, 0x40_0000, &[Segment::new(0x40_0000, &[0; 4096])]);
    [
        PackedProgram::new("text", b"#!/bin/sh\necho no\n".to_vec()),
        PackedProgram::new("truncated", program(AARCH64)[..100].to_vec()),
        PackedProgram::new("other", program(X86_64)),
        PackedProgram { mode: 0o100_644, ..PackedProgram::new("data", program(AARCH64)) },
    ]
}
