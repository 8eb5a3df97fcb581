//! `cargo xtask loom`: the tests in which loom decides what threads see of one another, and who goes on.
//!
//! They are built with the feature `loom`, which puts loom's atomics in the place of the processor's, so nothing else can
//! be tested in the same build.

use crate::command::cargo;
use crate::counts::TestCounts;
use crate::error::Result;
use crate::host;

/// So often a thread is interrupted in favour of another, at most, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
pub const PREEMPTIONS: &str = "2";

/// Which tests of which package.
const TESTS: [(&str, &[&str]); 3] = [
    ("memory", &["--test", "loom"]),
    ("kernel", &["--lib", "loom_"]),
    ("drivers", &["--test", "smmu", "loom_"]),
];

/// Runs them all.
pub fn test() -> Result<TestCounts> {
    let mut counts = TestCounts::default();
    for (package, tests) in TESTS {
        let mut command = cargo(&["test", "--features", "loom", "--package", package]);
        command.args(tests);
        if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
            command.env("LOOM_MAX_PREEMPTIONS", PREEMPTIONS);
        }
        counts += host::run(command)?;
    }
    Ok(counts)
}
