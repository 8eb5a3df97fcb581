//! The init process; the machine runs until it ends.

use super::loader::{self, Launch};
use crate::board::BootArgument;
use crate::fs;
use crate::fs::console::Foreground;
use crate::kprintln;
use abi::file::OpenFlags;
use addr::{AddrRange, PhysAddr};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The environment of init, without that of the boot arguments.
pub const ENVIRONMENT: [&str; 3] = ["PATH=/bin", "HOME=/", "TERM=dumb"];

/// Standard input, output and error of init.
const CONSOLE: &str = "/dev/console";

/// Returns the environment of init with the variables that boot arguments set.
pub fn environment<'a>(set: impl Iterator<Item = BootArgument<'a>>) -> Vec<String> {
    let mut variables = Vec::from(ENVIRONMENT.map(String::from));
    for argument in set {
        variables.retain(|variable| variable.split('=').next() != Some(argument.name));
        variables.push(argument.to_string());
    }
    variables
}

/// Mounts the initramfs, starts `path` with `arguments` and `environment`, and waits until the process has
/// terminated. Errors are logged. Called in a thread; the caller powers off afterwards.
///
/// # Safety
/// As for [`fs::mount`].
pub unsafe fn run_init(
    initramfs: Option<AddrRange<PhysAddr>>,
    path: &str,
    arguments: &[String],
    environment: &[String],
) {
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
    let (arguments, environment) = (texts(arguments), texts(environment));
    match loader::start(&Launch { path, arguments: &arguments, environment: &environment, files: &files }) {
        Ok(process) => {
            let foreground: Arc<dyn Foreground> = process.clone();
            fs::console::set_foreground(Arc::downgrade(&foreground));
            let termination = process.wait();
            kprintln!("init: {termination}");
        }
        Err(error) => log::error!("init: {path}: {error}"),
    }
}

fn texts(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_arguments_replace_variables_of_the_default_environment() {
        let set = [("A", "1"), ("HOME", "/root"), ("A", "2")];
        let set = set.map(|(name, value)| BootArgument { name, value: Some(value) });
        assert_eq!(environment(set.into_iter()), ["PATH=/bin", "TERM=dumb", "HOME=/root", "A=2"]);
    }
}
