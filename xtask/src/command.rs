//! Child processes, with errors that show the command.

use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};
use crate::workspace;

/// A cargo command for this work tree, independent of the current directory and of `CARGO_TARGET_DIR`.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let (verb, rest) = arguments.split_first().expect("cargo needs a verb");
    command.current_dir(workspace::root()).arg(verb);
    if *verb != "fmt" {
        command.arg("--target-dir").arg(workspace::target());
    }
    command.args(rest);
    command
}

/// A command line as typed in a shell.
pub fn shown(command: &Command) -> String {
    let arguments = std::iter::once(command.get_program()).chain(command.get_args());
    arguments.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs it on this terminal; a status other than success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(start_error(command))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Program { command: shown(command), status: status.to_string() }),
    }
}

/// Runs it and returns its output and status; its standard error stays on this terminal.
pub fn capture(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    command.output().map_err(start_error(command))
}

/// The output of a program, or `None` if it is missing or fails.
pub fn stdout_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start_error(command: &Command) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let program = command.get_program().to_string_lossy().into_owned();
    move |cause| Error::Start { program, cause }
}
