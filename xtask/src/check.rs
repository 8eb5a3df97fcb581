//! `make check`, CI's command: format, lints and documentation, the module graph, everything of `make test`,
//! then the rest of the matrix, the budgets and the long tests.

use std::process::Command;
use std::time::Instant;

use crate::command::{self, cargo, shown};
use crate::counts::TestCounts;
use crate::error::Result;
use crate::workspace::{KERNEL_TARGET, USER_TARGET};
use crate::{artifacts, foreign, host, mutants, suite, tools};

/// Runs every step, also after a failure. Each of the first steps counts as one test.
///
/// # Errors
/// A tool is missing and cannot be installed.
pub fn check() -> Result<TestCounts> {
    tools::rust_components()?;
    tools::rust_targets()?;
    tools::qemu()?;
    let start = Instant::now();
    let mut counts = TestCounts::default();
    for mut step in steps() {
        println!("$ {}", shown(&step));
        let passed = command::run(&mut step).is_ok();
        counts += TestCounts::named(shown(&step), passed);
    }
    let rest: [(&str, &dyn Fn() -> Result<TestCounts>); 5] = [
        ("make test", &|| suite::test(&[])),
        ("the remaining cases, and the budgets", &suite::remaining),
        ("Debian's shells", &foreign::shells),
        ("long host tests", &host::long),
        ("one mutant of each test program", &mutants::sample),
    ];
    for (name, step) in rest {
        println!("{name}, after {} s", start.elapsed().as_secs());
        counts += step()?;
    }
    println!("the end, after {} s", start.elapsed().as_secs());
    Ok(counts)
}

fn steps() -> [Command; 7] {
    let host = cargo(&["clippy", "--workspace", "--all-targets"]);
    let mut kernel = cargo(&["clippy", "--target", KERNEL_TARGET]);
    kernel.args(["arch", "drivers", "kernel", "selftest", "image"].map(|name| format!("--package={name}")));
    let variant =
        |feature| cargo(&["clippy", "--target", KERNEL_TARGET, "--package=image", "--features", feature]);
    let mut user = cargo(&["clippy", "--target", USER_TARGET]);
    user.args(artifacts::PACKAGES.map(|name| format!("--package={name}")));
    let [host, kernel, counting, checking, user] =
        [host, kernel, variant("counters"), variant("checking"), user].map(|mut lint| {
            lint.args(["--", "-D", "warnings"]);
            lint
        });
    let mut documents = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    // Broken links. A program's public documentation may name private items.
    documents.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    [cargo(&["fmt", "--all", "--check"]), host, kernel, counting, checking, user, documents]
}
