//! A oracle: a test program, built in the copy of the work tree and run for a bounded time, or a boot ([`super::boot`]).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::boot::{self, BootTest};
use crate::command::{capture, shown};
use crate::error::{Error, Result};
use crate::loom;

/// So long a oracle may take: several times what it takes when there is nothing to notice.
const PATIENCE: Duration = Duration::from_secs(600);
/// Random programs that have to do, for the oracles that count them.
const PROGRAMS: &str = "400";

/// Who has to notice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Oracle {
    /// Random programs against the SMMU driver.
    Smmu,
    /// The DMA core on a machine with caches.
    Caches,
    /// loom, of what CPUs do to the slots of a table at a time.
    Slots,
    /// loom, of a device's faults, its driver and the quarantine.
    Quarantine,
    /// loom, of several CPUs at the command queue.
    Queue,
    /// The target.
    BootTest(BootTest),
}

/// What it said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It failed.
    Killed,
    /// It did not end in its time.
    TimedOut,
    /// It passed.
    Survived,
    /// It did not come to what it is asked about, or failed for another reason.
    Inconclusive(String),
}

impl Outcome {
    /// Whether the mistake was noticed.
    pub fn is_killed(&self) -> bool {
        matches!(self, Self::Killed | Self::TimedOut)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => f.write_str("caught"),
            Self::TimedOut => f.write_str("caught (it hangs)"),
            Self::Survived => f.write_str("MISSED"),
            Self::Inconclusive(why) => write!(f, "NO VERDICT ({why})"),
        }
    }
}

impl Oracle {
    /// Whether it is a boot.
    pub fn is_boot(self) -> bool {
        self.boot().is_some()
    }

    /// What is booted, if it is that.
    fn boot(self) -> Option<BootTest> {
        match self {
            Self::BootTest(boot) => Some(boot),
            _ => None,
        }
    }

    /// The arguments that make cargo build its test program.
    fn program(self) -> &'static [&'static str] {
        match self {
            Self::Smmu => &["--package=drivers", "--test=smmu"],
            Self::Caches => &["--package=kernel", "--test=caches"],
            Self::Slots => &["--package=memory", "--test=loom", "--features=loom"],
            Self::Quarantine => &["--package=kernel", "--lib", "--features=loom"],
            Self::Queue => &["--package=drivers", "--test=smmu", "--features=loom"],
            Self::BootTest(_) => &[],
        }
    }

    /// What all tests of it have in their names that oracle.
    fn tests(self) -> &'static str {
        match self {
            Self::Smmu => "judge::no_access_reaches_what_is_not_the_attachments",
            Self::Caches => "cpu_and_noncoherent_device_see_each_others_data",
            Self::Slots | Self::BootTest(_) => "",
            Self::Quarantine | Self::Queue => "loom_",
        }
    }
}

/// Makes sure that `oracles` find nothing in `tree` as it is.
///
/// # Errors
/// One does, or it does not build.
pub fn check(tree: &Path, oracles: impl Iterator<Item = Oracle> + Clone) -> Result<()> {
    let boots: Vec<BootTest> = oracles.clone().filter_map(Oracle::boot).collect();
    boot::check(tree, &boots)?;
    for oracle in oracles.filter(|oracle| !oracle.is_boot()).collect::<BTreeSet<_>>() {
        let start = Instant::now();
        if run(tree, oracle)? != Outcome::Survived {
            return Err(Error::Missing(format!("{oracle:?} fails without any mutant")));
        }
        println!("no mutant, no failure of {oracle:?} in {} s", start.elapsed().as_secs());
    }
    Ok(())
}

/// What `oracle` says of the sources in `tree`.
pub fn run(tree: &Path, oracle: Oracle) -> Result<Outcome> {
    match oracle {
        Oracle::BootTest(boot) => boot.run(tree),
        _ => run_program(tree, oracle),
    }
}

fn run_program(tree: &Path, oracle: Oracle) -> Result<Outcome> {
    let program = build(tree, oracle)?;
    let mut command = Command::new(program);
    command.arg(oracle.tests()).current_dir(tree);
    // The first program that fails is enough: nobody reads a smaller one.
    command.envs([("RUST_BACKTRACE", "0"), ("JUDGE_SHRINKS", "0"), ("JUDGE_PROGRAMS", PROGRAMS)]);
    command.env("LOOM_MAX_PREEMPTIONS", loom::PREEMPTIONS);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let failed = |cause| Error::Start { program: "the oracle".into(), cause };
    let mut child = command.spawn().map_err(failed)?;
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(if status.success() { Outcome::Survived } else { Outcome::Killed });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().and_then(|()| child.wait()).map_err(failed)?;
    Ok(Outcome::TimedOut)
}

/// Builds the test program, and says where it is.
fn build(tree: &Path, oracle: Oracle) -> Result<PathBuf> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree).args(["test", "--quiet", "--offline", "--no-run", "--message-format=json"]);
    command.args(oracle.program()).arg("--target-dir").arg(tree.with_file_name("build"));
    let output = capture(&mut command)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = said.lines().find_map(executable).filter(|_| output.status.success());
    built.map(PathBuf::from).ok_or_else(|| {
        let (command, status) = (shown(&command), output.status.to_string());
        Error::Program { command, status }
    })
}

/// The test program in a line of cargo's messages, if there is one. (A package's other programs are built with it.)
fn executable(line: &str) -> Option<&str> {
    if !line.contains(r#""test":true},"features""#) {
        return None;
    }
    line.split_once("\"executable\":\"")?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let cases = [
            (r#"{"profile":{"test":false},"features":[],"executable":null}"#, None),
            (r#"{"profile":{"test":false},"features":[],"executable":"/t/kernel","fresh":true}"#, None),
            (
                r#"{"profile":{"test":true},"features":[],"executable":"/t/smmu-5","fresh":false}"#,
                Some("/t/smmu-5"),
            ),
        ];
        cases.iter().for_each(|(line, program)| assert_eq!(executable(line), *program, "{line}"));
    }
}
