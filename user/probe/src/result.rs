//! Probe results.

use std::fmt;
use std::io;

pub type ProbeResult = Result<(), Failure>;

/// A description of the observed deviation.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Fails with the description `seen` unless `holds`.
pub fn ensure(holds: bool, seen: impl FnOnce() -> String) -> ProbeResult {
    if holds { Ok(()) } else { Err(Failure(seen())) }
}

/// Fails unless `result` is the error `errno`.
pub fn expect_error<T: fmt::Debug>(case: &str, result: io::Result<T>, errno: i32) -> ProbeResult {
    let seen = result.as_ref().err().and_then(io::Error::raw_os_error);
    ensure(seen == Some(errno), || format!("{case}: errno {errno} expected, but: {result:?}"))
}
