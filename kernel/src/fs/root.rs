//! The files that programs see: the initramfs, and the device nodes in `/dev`.

use super::char_device::{self, CharDevice};
use abi::Errno;
use alloc::sync::Arc;
use program::{CpioArchive, Initramfs, InitramfsError};
use spin::Once;

/// The tree of files.
pub type Root = Initramfs<'static, Arc<CharDevice>>;

static ROOT: Once<Root> = Once::new();

/// Mounts the initramfs, which stays where it is, and adds the device nodes.
///
/// # Errors
/// What is wrong with the archive, and where.
pub fn mount(archive: &'static [u8]) -> Result<(), InitramfsError> {
    let mut tree = Initramfs::from_archive(CpioArchive::new(archive))?;
    for device in char_device::all() {
        for path in device.paths() {
            if let Err(error) = tree.add_device(path.as_bytes(), device.clone()) {
                log::warn!("initramfs: no {path}: {error}");
            }
        }
    }
    ROOT.call_once(|| tree);
    Ok(())
}

/// The tree, if there is one.
pub fn tree() -> Option<&'static Root> {
    ROOT.get()
}

/// The tree for a program, which came from it.
pub fn mounted() -> Result<&'static Root, Errno> {
    tree().ok_or(Errno::ENOENT)
}
