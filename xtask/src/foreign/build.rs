//! Programs of this project, in `xtask/foreign/`, that use foreign compilers and libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::{self, Root};
use crate::command::{run, stdout_of};
use crate::error::{Error, Result};
use crate::workspace::{self, USER_TARGET};
use crate::{apt, tools};

/// The programs that use crates of crates.io.
const RUST_PROGRAMS: [&str; 3] = ["with-tokio", "with-mio", "with-rayon"];

/// Builds all programs but that of DMA heaps, and adds them to the root.
///
/// # Errors
/// A compiler or a crate cannot be fetched, or a program does not build.
pub fn add_all(root: &mut Root) -> Result<()> {
    let directory = rust()?;
    for name in RUST_PROGRAMS {
        add_static(root, name, &directory.join(name))?;
    }
    add_static(root, "with-go", &go()?)?;
    let libraries = programs::packages(&["busybox-static", "libstdc++6", "memtester"])?;
    root.add_program(&libraries, "bin/with-c++", &cpp()?)
}

/// Builds the program that uses a DMA heap, and adds it to the root.
///
/// # Errors
/// As [`add_all`].
pub fn add_dma_heap(root: &mut Root) -> Result<()> {
    add_static(root, "with-dma-heap", &rust()?.join("with-dma-heap"))
}

fn add_static(root: &mut Root, name: &str, file: &Path) -> Result<()> {
    root.add_file(&format!("bin/{name}"), fs::read(file).map_err(Error::file("read", file))?);
    Ok(())
}

fn source(name: &str) -> PathBuf {
    workspace::root().join("xtask/foreign").join(name)
}

fn output(name: &str) -> PathBuf {
    workspace::target().join("foreign").join(name)
}

/// Returns the directory of the Rust programs.
fn rust() -> Result<PathBuf> {
    tools::rust_targets()?;
    let target = output("rust");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(source("rust")).args(["build", "--release", "--locked", "--target", USER_TARGET]);
    run(command.arg("--target-dir").arg(&target))?;
    Ok(target.join(USER_TARGET).join("release"))
}

fn go() -> Result<PathBuf> {
    install("go", "version", "golang-go")?;
    let program = output("with-go");
    let mut command = Command::new("go");
    command.env("GOOS", "linux").env("GOARCH", "arm64").env("CGO_ENABLED", "0").env("GO111MODULE", "off");
    command.env("GOCACHE", output("go-cache")).args(["build", "-ldflags=-s -w", "-o"]).arg(&program);
    run(command.arg(source("go/main.go")))?;
    Ok(program)
}

fn cpp() -> Result<PathBuf> {
    const COMPILER: &str = "aarch64-linux-gnu-g++";
    install(COMPILER, "--version", "g++-aarch64-linux-gnu")?;
    let program = output("with-c++");
    let mut command = Command::new(COMPILER);
    command.args(["-std=c++20", "-O2", "-pthread", "-s", "-o"]).arg(&program);
    run(command.arg(source("cpp/main.cc")))?;
    Ok(program)
}

/// Installs the Debian package of `program` if it does not run.
fn install(program: &str, version: &str, package: &str) -> Result<()> {
    if stdout_of(program, &[version]).is_some() {
        return Ok(());
    }
    if !apt::is_here() {
        return Err(Error::Missing(format!("{program} is needed, and there is no apt-get here")));
    }
    println!("installing {package} for {program}");
    apt::update()?;
    apt::install(&[package], None)
}
