//! Builds the artifacts of `make`: the flat image, the kernel with its symbols, and the initramfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{cargo, run};
use crate::error::{Error, Result};
use crate::initramfs::{self, PackedProgram};
use crate::workspace::{self, KERNEL_TARGET, USER_TARGET};
use crate::{image, tools};

/// The packages of the programs in the initramfs, under `user/`.
pub const PACKAGES: [&str; 4] = ["mosaic", "probe", "bench", "edu-driver"];
/// The programs in the initramfs.
const PROGRAMS: [&str; 6] = ["mosaic", "probe", "bench", "process", "exit", "edu-driver"];

/// The paths of the finished files.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// The flat arm64 `Image`.
    pub image: PathBuf,
    pub initramfs: PathBuf,
}

/// Builds all artifacts, and prints their sizes.
pub fn build() -> Result<Artifacts> {
    tools::rust_targets()?;
    run(&mut cargo(&["build", "--package=image", "--release", "--target", KERNEL_TARGET]))?;
    let initramfs = programs()?;
    let (symbols, image) = (workspace::images().join("kernel.elf"), workspace::images().join("kernel8.img"));
    copy(&release(KERNEL_TARGET, "tessera"), &symbols)?;
    announce(&image, image::write(&symbols, &image)?);
    Ok(Artifacts { image, initramfs })
}

/// Builds only the programs, and returns the initramfs.
pub fn programs() -> Result<PathBuf> {
    run(&mut static_program("mosaic", "mosaic"))?;
    run(&mut static_program("edu-driver", "edu-driver"))?;
    run(&mut static_pie_program("probe"))?;
    run(&mut static_program("bench", "bench"))?;
    run(&mut static_program("bench", "process"))?;
    // Without start code.
    run(static_program("bench", "exit").args(["--", "-Clink-self-contained=no"]))?;
    let directory = workspace::images();
    std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    let initramfs = directory.join("initramfs.cpio");
    announce(&initramfs, initramfs::write(&read_programs()?, &initramfs)?);
    Ok(initramfs)
}

/// A static program, linked for fixed addresses: rustc's default for this target.
fn static_program(package: &str, name: &str) -> Command {
    let mut command =
        cargo(&["rustc", "--release", "--target", USER_TARGET, "--package", package, "--bin", name]);
    // Debug information is three quarters of a program, and the initramfs is in lowmem.
    command.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    command
}

/// A static-PIE program, so that the tests load both kinds. rustc does not link them for this target, but its
/// sysroot contains the relocating start code (`rcrt1.o`) and the linker.
fn static_pie_program(name: &str) -> Command {
    let objects = tools::sysroot().join("lib/rustlib").join(USER_TARGET).join("lib/self-contained");
    let object = |file: &str| format!("-Clink-arg={}", objects.join(file).display());
    let mut command = static_program(name, name);
    command.args(["--", "-Crelocation-model=pie", "-Clink-self-contained=no"]);
    command.arg(format!("-Lnative={}", objects.display()));
    command.args(["rcrt1.o", "crti.o", "crtbeginS.o"].map(object));
    command.args(["-pie", "--no-dynamic-linker", "-ztext"].map(|flag| format!("-Clink-arg={flag}")));
    command.args(["crtendS.o", "crtn.o"].map(object));
    command
}

fn read_programs() -> Result<Vec<PackedProgram>> {
    let read = |name| {
        let path = release(USER_TARGET, name);
        Ok(PackedProgram::new(name, std::fs::read(&path).map_err(Error::file("read", &path))?))
    };
    PROGRAMS.into_iter().map(read).collect()
}

fn release(target: &str, name: &str) -> PathBuf {
    workspace::target().join(target).join("release").join(name)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(Error::file("copy", from))
}

/// Builds the kernel with event counters, to run with the same programs.
pub fn counting(product: &Artifacts) -> Result<Artifacts> {
    variant(product, "counting", "counters")
}

/// Builds the kernel with fault injection and debug checks, to run with the same programs.
pub fn checking(product: &Artifacts) -> Result<Artifacts> {
    variant(product, "checking", "checking")
}

/// A kernel built with the profile `name` and one feature.
fn variant(product: &Artifacts, name: &str, feature: &str) -> Result<Artifacts> {
    let words = ["build", "--package=image", "--profile", name, "--features", feature];
    run(cargo(&words).args(["--target", KERNEL_TARGET]))?;
    let image = workspace::images().join(name).with_extension("img");
    image::write(&workspace::target().join(KERNEL_TARGET).join(name).join("tessera"), &image)?;
    Ok(Artifacts { image, ..product.clone() })
}

fn announce(path: &Path, bytes: u64) {
    let shown = path.strip_prefix(workspace::root()).unwrap_or(path);
    println!("{} ({} KiB)", shown.display(), bytes.div_ceil(1024));
}
