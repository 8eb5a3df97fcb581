//! What can go wrong in the tool, with the words a person needs to put it right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand used throughout the tool.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a verb stopped. Failed tests are not errors: they are counted in a [`crate::counts::TestCounts`].
#[derive(Debug)]
pub enum Error {
    /// The verb is not known.
    Usage(&'static str),
    /// A knob has a value that means nothing.
    Knob { name: &'static str, value: String, wanted: &'static str },
    /// A file operation failed.
    File { doing: &'static str, path: PathBuf, cause: io::Error },
    /// A program could not be started.
    Start { program: String, cause: io::Error },
    /// A program ran and said no.
    Program { command: String, status: String },
    /// The linked kernel cannot be turned into an image.
    Image { path: PathBuf, reason: String },
    /// A boot that should measure did not.
    Measurement { session: String, why: String, log: PathBuf },
    /// Something is missing that only a person can provide.
    Missing(String),
}

impl Error {
    /// For `map_err` on a file operation.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::File { doing, path: path.to_owned(), cause }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Knob { name, value, wanted } => write!(f, "{name}={value}: {wanted}"),
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
