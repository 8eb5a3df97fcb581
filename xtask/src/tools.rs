//! The tools that the verbs need, installed if missing.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{run, stdout_of};
use crate::error::{Error, Result};
use crate::workspace::{KERNEL_TARGET, USER_TARGET};
use crate::{apt, miri, qemu};

/// The oldest QEMU with the SMMU, device tree and machine versions that the tests rely on.
const OLDEST_QEMU: u32 = 10;

/// The kernel's and the programs' Rust targets.
pub fn rust_targets() -> Result<()> {
    for target in [KERNEL_TARGET, USER_TARGET] {
        let library = sysroot().join("lib/rustlib").join(target).join("lib");
        if !library.is_dir() {
            println!("installing the Rust target {target}");
            rustup(&["target", "add", target])?;
        }
    }
    Ok(())
}

/// The directory of the Rust toolchain in use.
pub fn sysroot() -> PathBuf {
    PathBuf::from(stdout_of("rustc", &["--print", "sysroot"]).unwrap_or_default().trim())
}

/// `cargo fmt` and `cargo clippy`.
pub fn rust_components() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if stdout_of(program, &["--version"]).is_none() {
            println!("installing the Rust component {component}");
            rustup(&["component", "add", component])?;
        }
    }
    Ok(())
}

/// A nightly toolchain with Miri and the standard library's source, from which Miri builds its own.
///
/// # Errors
/// The toolchain cannot be installed.
pub fn miri(toolchain: &str) -> Result<()> {
    if !miri::is_installed(toolchain) {
        println!("installing the Rust toolchain {toolchain} for Miri");
        let components = ["--component", "miri", "--component", "rust-src"];
        let words = ["toolchain", "install", toolchain, "--no-self-update", "--profile", "minimal"];
        rustup(&[&words[..], &components].concat())?;
    }
    // Downloads the standard library's dependencies on first use.
    rustup(&["run", toolchain, "cargo", "miri", "setup"])
}

fn rustup(words: &[&str]) -> Result<()> {
    run(Command::new("rustup").args(words))
        .map_err(|error| Error::Missing(format!("`rustup {}` is needed, but: {error}", words.join(" "))))
}

/// QEMU for 64-bit Arm, [`OLDEST_QEMU`] or newer.
pub fn qemu() -> Result<()> {
    let found = installed_qemu();
    if found.is_some_and(|major| major >= OLDEST_QEMU) {
        return Ok(());
    }
    let have = found.map_or("none is installed".to_owned(), |major| format!("version {major} is installed"));
    let need = format!("{} {OLDEST_QEMU}.0 or newer is needed and {have}", qemu::PROGRAM);
    if !apt::is_here() {
        return Err(Error::Missing(format!("{need}; there is no apt-get here to install it with")));
    }
    println!("{need}");
    install_qemu().map_err(|error| Error::Missing(format!("{need}; installing it failed: {error}")))?;
    match installed_qemu() {
        Some(major) if major >= OLDEST_QEMU => Ok(()),
        _ => Err(Error::Missing(format!("{need}; the packages of this system do not have it"))),
    }
}

fn install_qemu() -> Result<()> {
    const PACKAGE: &str = "qemu-system-arm";
    apt::update()?;
    let offered = apt::candidate(PACKAGE).and_then(|version| package_major(&version));
    let suite =
        if offered.is_some_and(|major| major >= OLDEST_QEMU) { None } else { Some(apt::enable_backports()?) };
    println!("installing the Debian package {PACKAGE}{}", from(suite.as_deref()));
    apt::install(&[PACKAGE], suite.as_deref())
}

fn from(suite: Option<&str>) -> String {
    suite.map(|suite| format!(" from {suite}")).unwrap_or_default()
}

/// A debugger for AArch64.
pub fn gdb() -> Result<()> {
    if stdout_of("gdb-multiarch", &["--version"]).is_some() {
        return Ok(());
    }
    if !apt::is_here() {
        println!("gdb-multiarch is not installed; any gdb with AArch64 support can be used");
        return Ok(());
    }
    println!("installing the Debian package gdb-multiarch");
    apt::update()?;
    apt::install(&["gdb-multiarch"], None)
}

fn installed_qemu() -> Option<u32> {
    qemu_major(&stdout_of(qemu::PROGRAM, &["--version"])?)
}

/// From `QEMU emulator version 10.0.2 (...)`.
fn qemu_major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

/// From a Debian version such as `1:10.0.2+ds-2`.
fn package_major(version: &str) -> Option<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        assert_eq!(qemu_major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"), Some(10));
        assert_eq!(qemu_major("QEMU emulator version 7.2.17\n"), Some(7));
        assert_eq!(qemu_major("something else"), None);
        assert_eq!(package_major("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some(10));
        assert_eq!(package_major("1:7.2+dfsg-7+deb12u18+b3"), Some(7));
    }
}
