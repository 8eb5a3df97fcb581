//! The init process; the machine runs until it ends.

use super::loader::{self, Launch};
use crate::fs;
use crate::fs::console::Foreground;
use crate::kprintln;
use abi::file::OpenFlags;
use addr::{AddrRange, PhysAddr};
use alloc::sync::Arc;

/// The environment of init.
pub const ENVIRONMENT: [&str; 3] = ["PATH=/bin", "HOME=/", "TERM=dumb"];

/// Standard input, output and error of init.
const CONSOLE: &str = "/dev/console";

/// Mounts the initramfs, starts `path` with `arguments`, and waits until the process has terminated. Errors
/// are logged. Called in a thread; the caller powers off afterwards.
///
/// # Safety
/// As for [`fs::mount`].
pub unsafe fn run_init(initramfs: Option<AddrRange<PhysAddr>>, path: &str, arguments: &[&str]) {
    let Some(initramfs) = initramfs else {
        log::error!("init: {path}: there is no initramfs");
        return;
    };
    // SAFETY: passed on to the caller.
    if let Err(error) = unsafe { fs::mount(initramfs) } {
        log::error!("initramfs: {error}");
        return;
    }
    let console = match fs::open_path(CONSOLE, OpenFlags::READ_WRITE) {
        Ok(file) => Arc::new(file),
        Err(error) => {
            log::error!("init: {CONSOLE}: {error}");
            return;
        }
    };
    let files = [console.clone(), console.clone(), console];
    match loader::start(&Launch { path, arguments, environment: &ENVIRONMENT, files: &files }) {
        Ok(process) => {
            let foreground: Arc<dyn Foreground> = process.clone();
            fs::console::set_foreground(Arc::downgrade(&foreground));
            let termination = process.wait();
            kprintln!("init: {termination}");
        }
        Err(error) => log::error!("init: {path}: {error}"),
    }
}
