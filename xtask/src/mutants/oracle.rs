//! An oracle: a test program, built in the copy of the work tree and run with a time limit, or a boot
//! ([`super::boot`]).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::boot::{self, BootTest};
use crate::command::{capture, shown};
use crate::error::{Error, Result};
use crate::loom;

/// The time limit of an oracle: several times its duration on the unmodified source.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// The number of random programs, for the oracles that run them.
const PROGRAMS: &str = "400";

/// The test that must detect a mutant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Oracle {
    /// Random programs against the SMMU driver.
    Smmu,
    /// Failed steps of the SMMU driver.
    Failures,
    /// The ITS driver on its model.
    Its,
    /// The DMA core on a machine with caches.
    Caches,
    /// The allocator of address ranges against its model.
    Ranges,
    /// Address spaces and kernel mappings on the TLB model.
    Translations,
    /// loom: concurrent CPUs on the slots of a table.
    Slots,
    /// loom: a device's faults, its driver and the quarantine.
    Quarantine,
    /// loom: concurrent CPUs on the command queue.
    Queue,
    /// A test of the SMMU driver on the model, by its name.
    SmmuTest(&'static str),
    /// A unit test: the argument of cargo that selects its package, and its name.
    UnitTest(&'static str, &'static str),
    /// Memory objects against a model of their bytes.
    SharedMemory,
    /// A test of processes on host memory, by its name.
    ProcessTest(&'static str),
    /// The allocator of frames against its model.
    Zones,
    /// The unit tests of the DMA engines' device nodes.
    DmaEngine,
    /// The unit tests of the host bridges' descriptions.
    HostBridges,
    /// The unit tests of the device tree's host bridges.
    Board,
    /// A boot of the kernel.
    BootTest(BootTest),
}

/// The result of an oracle on a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MutantOutcome {
    /// The oracle failed.
    Killed,
    /// The time limit passed.
    TimedOut,
    /// The oracle passed.
    Survived,
    /// The oracle did not reach its test, or failed for another reason.
    Inconclusive(String),
}

impl MutantOutcome {
    /// Whether the mutant was detected.
    pub fn is_killed(&self) -> bool {
        matches!(self, Self::Killed | Self::TimedOut)
    }
}

impl fmt::Display for MutantOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => f.write_str("killed"),
            Self::TimedOut => f.write_str("killed (time limit)"),
            Self::Survived => f.write_str("SURVIVED"),
            Self::Inconclusive(why) => write!(f, "INCONCLUSIVE ({why})"),
        }
    }
}

impl Oracle {
    /// A name for the report; that of the self-test or of the case for a boot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smmu => "smmu",
            Self::Failures => "failures",
            Self::Caches => "caches",
            Self::Ranges => "ranges",
            Self::Translations => "translations",
            Self::Slots => "slots",
            Self::Quarantine => "quarantine",
            Self::Queue => "queue",
            Self::SmmuTest(name) | Self::UnitTest(_, name) | Self::ProcessTest(name) => name,
            Self::Its => "its",
            Self::SharedMemory => "shared-memory",
            Self::Zones => "zones",
            Self::DmaEngine => "dma-engine",
            Self::HostBridges => "host-bridges",
            Self::Board => "board",
            Self::BootTest(boot) => boot.name(),
        }
    }

    /// Oracles of one group run the same test program, boot self-tests of one subject, or boot cases.
    pub fn group(self) -> String {
        match self {
            Self::BootTest(BootTest::SelfTest { name, .. }) => {
                let (subject, _) = name.split_once('.').unwrap_or((name, ""));
                format!("boot {subject}")
            }
            Self::BootTest(BootTest::Case { .. }) => "boot".into(),
            _ => self.program().join(" "),
        }
    }

    /// Whether it is a boot.
    pub fn is_boot(self) -> bool {
        self.boot().is_some()
    }

    /// The boot, if it is one.
    pub fn boot(self) -> Option<BootTest> {
        match self {
            Self::BootTest(boot) => Some(boot),
            _ => None,
        }
    }

    /// cargo's arguments for the test program.
    fn program(self) -> Vec<&'static str> {
        match self {
            Self::Smmu | Self::Failures | Self::SmmuTest(_) => vec!["--package=drivers", "--test=smmu"],
            Self::Its => vec!["--package=drivers", "--test=its"],
            Self::UnitTest(package, _) => vec![package, "--lib"],
            Self::Caches => vec!["--package=kernel", "--test=caches"],
            Self::Ranges => vec!["--package=memory", "--lib"],
            Self::Translations => vec!["--package=kernel", "--test=translations"],
            Self::Slots => vec!["--package=memory", "--test=loom", "--features=loom"],
            Self::Quarantine => vec!["--package=kernel", "--lib", "--features=loom"],
            Self::Queue => vec!["--package=drivers", "--test=smmu", "--features=loom"],
            Self::SharedMemory => vec!["--package=kernel", "--test=shared_memory"],
            Self::ProcessTest(_) => vec!["--package=kernel", "--test=programs"],
            Self::Zones => vec!["--package=memory", "--test=zones"],
            Self::DmaEngine | Self::Board => vec!["--package=kernel", "--lib"],
            Self::HostBridges => vec!["--package=drivers", "--lib"],
            Self::BootTest(_) => vec![],
        }
    }

    /// The filter for the program's tests.
    fn tests(self) -> &'static str {
        match self {
            Self::Smmu => "judge::accesses_reach_only_attached_memory",
            Self::Failures => "failures::",
            Self::Caches => "cpu_and_noncoherent_device_see_each_others_data",
            Self::Ranges => "range::",
            Self::Its | Self::Translations | Self::Slots | Self::SharedMemory | Self::Zones => "",
            Self::BootTest(_) => "",
            Self::Quarantine | Self::Queue => "loom_",
            Self::SmmuTest(name) | Self::UnitTest(_, name) | Self::ProcessTest(name) => name,
            Self::DmaEngine => "devices::dma_engine::",
            Self::HostBridges => "pcie::description::",
            Self::Board => "board::pci::",
        }
    }
}

/// Checks that `oracles` pass on the unmodified `tree`.
///
/// # Errors
/// One fails, or does not build.
pub fn check(tree: &Path, oracles: impl Iterator<Item = Oracle> + Clone) -> Result<()> {
    let boots: Vec<BootTest> = oracles.clone().filter_map(Oracle::boot).collect();
    boot::check(tree, &boots)?;
    for oracle in oracles.filter(|oracle| !oracle.is_boot()).collect::<BTreeSet<_>>() {
        let start = Instant::now();
        if run(tree, oracle)? != MutantOutcome::Survived {
            return Err(Error::Missing(format!("{} fails on the unmodified source", oracle.name())));
        }
        println!("{} passes on the unmodified source in {} s", oracle.name(), start.elapsed().as_secs());
    }
    Ok(())
}

/// Runs `oracle` on the sources in `tree`.
pub fn run(tree: &Path, oracle: Oracle) -> Result<MutantOutcome> {
    match oracle {
        Oracle::BootTest(boot) => boot.run(tree),
        _ => run_program(tree, oracle),
    }
}

fn run_program(tree: &Path, oracle: Oracle) -> Result<MutantOutcome> {
    let program = match build(tree, oracle) {
        Err(Error::Program { .. }) => return Ok(MutantOutcome::Inconclusive("the build failed".into())),
        program => program?,
    };
    let mut command = Command::new(program);
    command.arg(oracle.tests()).current_dir(tree);
    // Without shrinking: the first failure decides.
    command.envs([("RUST_BACKTRACE", "0"), ("JUDGE_SHRINKS", "0"), ("JUDGE_PROGRAMS", PROGRAMS)]);
    command.env("LOOM_MAX_PREEMPTIONS", loom::PREEMPTIONS);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let failed = |cause| Error::Start { program: "the oracle".into(), cause };
    let mut child = command.spawn().map_err(failed)?;
    while start.elapsed() < TIME_LIMIT {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(if status.success() { MutantOutcome::Survived } else { MutantOutcome::Killed });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().and_then(|()| child.wait()).map_err(failed)?;
    Ok(MutantOutcome::TimedOut)
}

/// Builds the test program and returns its path.
fn build(tree: &Path, oracle: Oracle) -> Result<PathBuf> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree).args(["test", "--quiet", "--offline", "--no-run", "--message-format=json"]);
    command.args(oracle.program()).arg("--target-dir").arg(tree.with_file_name("build"));
    let output = capture(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let built = messages.lines().find_map(executable).filter(|_| output.status.success());
    built.map(PathBuf::from).ok_or_else(|| {
        let (command, status) = (shown(&command), output.status.to_string());
        Error::Program { command, status }
    })
}

/// The test program in a line of cargo's messages. (The package's other programs are in the messages too.)
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
