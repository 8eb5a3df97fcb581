//! Builds what `make` promises: the flat image, the kernel with its symbols, and the initramfs.

use std::path::{Path, PathBuf};

use crate::command::{cargo, run};
use crate::error::{Error, Result};
use crate::initramfs::{self, Program};
use crate::workspace::{self, KERNEL_TARGET, USER_TARGET};
use crate::{image, tools};

/// The programs that go into the initramfs, each a package under `user/`.
pub const PROGRAMS: [&str; 2] = ["mosaic", "probe"];

/// Where the finished files lie.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The flat arm64 `Image`.
    pub image: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// Builds everything, and says how large it became.
pub fn build() -> Result<Artifacts> {
    tools::rust_targets()?;
    run(&mut cargo(&["build", "--package=kernel", "--release", "--target", KERNEL_TARGET]))?;
    run(&mut programs())?;
    let directory = workspace::images();
    std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    let done =
        Artifacts { image: directory.join("kernel8.img"), initramfs: directory.join("initramfs.cpio") };
    let symbols = directory.join("kernel.elf");
    copy(&release(KERNEL_TARGET, "kernel"), &symbols)?;
    announce(&done.image, image::write(&symbols, &done.image)?);
    announce(&done.initramfs, initramfs::write(&read_programs()?, &done.initramfs)?);
    Ok(done)
}

fn programs() -> std::process::Command {
    let mut command = cargo(&["build", "--release", "--target", USER_TARGET]);
    command.args(PROGRAMS.map(|name| format!("--package={name}")));
    // Debug information is three quarters of a program, and the kernel would have to keep it in lowmem.
    command.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    command
}

fn read_programs() -> Result<Vec<Program>> {
    let read = |name| {
        let path = release(USER_TARGET, name);
        Ok(Program { name, bytes: std::fs::read(&path).map_err(Error::file("read", &path))? })
    };
    PROGRAMS.into_iter().map(read).collect()
}

fn release(target: &str, name: &str) -> PathBuf {
    workspace::target().join(target).join("release").join(name)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(Error::file("copy", from))
}

fn announce(path: &Path, bytes: u64) {
    let shown = path.strip_prefix(workspace::root()).unwrap_or(path);
    println!("{} ({} KiB)", shown.display(), bytes.div_ceil(1024));
}
