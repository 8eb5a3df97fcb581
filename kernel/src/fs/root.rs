//! The root file system: the initramfs and the device nodes.

use super::char_device::{self, CharDevice};
use abi::Errno;
use alloc::sync::Arc;
use program::{CpioArchive, Initramfs, InitramfsError};
use spin::Once;

pub type Root = Initramfs<'static, Arc<CharDevice>>;

static ROOT: Once<Root> = Once::new();

/// Mounts `archive`, whose files are used in place, and adds a node for each registered device.
///
/// # Errors
/// [`InitramfsError`].
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

/// Returns the file system if one is mounted.
pub fn tree() -> Option<&'static Root> {
    ROOT.get()
}

/// Returns the file system for a process, which was loaded from it.
pub fn mounted() -> Result<&'static Root, Errno> {
    tree().ok_or(Errno::ENOENT)
}
