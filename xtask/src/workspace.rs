//! Paths in the work tree.

use std::path::{Path, PathBuf};

pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
/// The programs' target.
pub const USER_TARGET: &str = "aarch64-unknown-linux-musl";

/// The root of the work tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the work tree")
}

/// Cargo's target directory; passed to every cargo started here, so that the artifacts are found.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The finished image, symbols and initramfs.
pub fn images() -> PathBuf {
    target().join("image")
}

/// The names of all self-tests, read from their source.
#[cfg(test)]
pub fn self_tests() -> Vec<String> {
    let cases = root().join("selftest/src/cases");
    let files = std::fs::read_dir(cases).expect("the self-tests").map(|file| file.expect("a file").path());
    let text: String = files.map(|path| std::fs::read_to_string(path).expect("a source file")).collect();
    let named = text.split(" name: \"").skip(1).filter_map(|rest| rest.split('"').next());
    // The tests of a program are lines `"NAME" by passes "PROBE"`.
    let probe = |line: &str| {
        let (name, _) = line.trim().strip_prefix('"')?.split_once("\" by ")?;
        Some(format!("programs.{name}"))
    };
    named.map(str::to_owned).chain(text.lines().filter_map(probe)).collect()
}

/// The console logs, one per case.
pub fn logs() -> PathBuf {
    target().join("test-logs")
}
