//! `cargo xtask loom`: the tests that run under loom, which explores thread interleavings and memory
//! orderings.
//!
//! They need a separate build: the feature `loom` replaces the atomics of `core` by loom's.

use crate::command::cargo;
use crate::counts::TestCounts;
use crate::error::Result;
use crate::host;

/// The maximum number of preemptions per execution, unless `LOOM_MAX_PREEMPTIONS` is set.
pub const PREEMPTIONS: &str = "2";

/// The packages and the filters of their tests.
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
