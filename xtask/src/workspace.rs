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

/// The console logs, one per case.
pub fn logs() -> PathBuf {
    target().join("test-logs")
}
