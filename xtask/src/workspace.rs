//! Paths in the work tree.

use std::path::{Path, PathBuf};

/// The kernel's target.
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

/// Whether a file of the self-tests defines a test of this name.
#[cfg(test)]
pub fn has_self_test(name: &str) -> bool {
    let cases = root().join("selftest/src/cases");
    let files = std::fs::read_dir(cases).expect("the self-tests").map(|file| file.expect("a file").path());
    // A program's test is a line `"NAME" by passes "PROBE"` without the prefix.
    let program = name.strip_prefix("program.").map(|name| format!("\"{name}\" by "));
    files.filter(|path| path.is_file()).any(|path| {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        text.contains(&format!("\"{name}\"")) || program.as_ref().is_some_and(|line| text.contains(line))
    })
}

/// The console logs, one per case.
pub fn logs() -> PathBuf {
    target().join("test-logs")
}
