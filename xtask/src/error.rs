//! The errors of the tool, with a hint for the user.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::verbs;

/// The result of the tool's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason why a verb stopped. Failed tests are counted in a [`crate::counts::TestCounts`] instead.
#[derive(Debug)]
pub enum Error {
    /// A command line of the wrong form.
    Usage(String),
    /// An argument that is none of the accepted ones.
    Argument { kind: &'static str, value: String, accepted: String },
    /// A knob with an invalid value.
    Knob { name: &'static str, value: String, requirement: String },
    /// A file operation failed.
    File { doing: &'static str, path: PathBuf, cause: io::Error },
    /// A program could not be started.
    Start { program: String, cause: io::Error },
    /// A program returned a failure status.
    Program { command: String, status: String },
    /// The linked kernel cannot be turned into an image.
    Image { path: PathBuf, reason: String },
    /// A boot did not print its measurements.
    Measurement { session: String, why: String, log: PathBuf },
    /// Something is missing that the tool cannot install.
    Missing(String),
}

impl Error {
    /// An argument that is none of the `accepted` ones.
    pub fn argument(kind: &'static str, value: &str, accepted: &[String]) -> Self {
        Self::Argument { kind, value: value.to_owned(), accepted: verbs::columns(accepted) }
    }

    /// For `map_err` on a file operation.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::File { doing, path: path.to_owned(), cause }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Argument { kind, value, accepted } => {
                write!(f, "{value}: unknown {kind}; known:\n{accepted}")
            }
            Self::Knob { name, value, requirement } => write!(f, "{name}={value}: {requirement}"),
            Self::File { doing, path, cause } => write!(f, "cannot {doing} {}: {cause}", path.display()),
            Self::Start { program, cause } => write!(f, "cannot start {program}: {cause}"),
            Self::Program { command, status } => write!(f, "`{command}` ended with {status}"),
            Self::Image { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Measurement { session, why, log } => {
                write!(f, "measuring {session}: {why}; the console is in {}", log.display())
            }
            Self::Missing(what) => f.write_str(what),
        }
    }
}
