//! `make check`: what CI runs. Format and lints first, each counted as one test, then everything of `make test`.

use std::process::Command;

use crate::command::{self, cargo, shown};
use crate::counts::TestCounts;
use crate::error::Result;
use crate::workspace::{KERNEL_TARGET, USER_TARGET};
use crate::{artifacts, suite, tools};

/// Runs every check, also after one failed.
pub fn check() -> Result<TestCounts> {
    tools::rust_components()?;
    tools::rust_targets()?;
    tools::qemu()?;
    let mut counts = TestCounts::default();
    for mut step in steps() {
        println!("$ {}", shown(&step));
        counts += TestCounts::one(command::run(&mut step).is_ok());
    }
    counts += suite::test(&[])?;
    Ok(counts)
}

fn steps() -> [Command; 7] {
    let host = cargo(&["clippy", "--workspace", "--all-targets"]);
    let mut kernel = cargo(&["clippy", "--target", KERNEL_TARGET]);
    kernel.args(["arch", "drivers", "kernel"].map(|name| format!("--package={name}")));
    let variant =
        |feature| cargo(&["clippy", "--target", KERNEL_TARGET, "--package=kernel", "--features", feature]);
    let mut user = cargo(&["clippy", "--target", USER_TARGET]);
    user.args(artifacts::PROGRAMS.map(|name| format!("--package={name}")));
    let [host, kernel, counting, checking, user] =
        [host, kernel, variant("counters"), variant("checking"), user].map(|mut lint| {
            lint.args(["--", "-D", "warnings"]);
            lint
        });
    let mut documents = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    // Links that lead nowhere; that public text names private items is no fault in a program.
    documents.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    [cargo(&["fmt", "--all", "--check"]), host, kernel, counting, checking, user, documents]
}
