//! `make test`: host tests, then the core cases of the matrix, two machines at a time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::artifacts::{self, Artifacts};
use crate::counts::{self, TestCounts};
use crate::error::{Error, Result};
use crate::expectation::CaseResult;
use crate::matrix::{self, Case, KernelBuild, Tier};
use crate::progress::{self, MatrixProgress};
use crate::qemu::{self, QemuRun};
use crate::same_image::{self, BootedImages};
use crate::{bench, boards, host, prepare, screen, skips, tools, verbs, workspace};

/// Concurrent boots. More emulators on two cores exceed their time limits.
const AT_ONCE: usize = 2;
/// The printed lines of a failed console.
const TAIL: usize = 25;

/// Runs the host tests and the core cases; with words, the cases and measurements whose names contain one of
/// them.
pub fn test(words: &[String]) -> Result<TestCounts> {
    tools::qemu()?;
    if words.is_empty() {
        let mut counts = host::test()?;
        counts += matrix(&of_tier(Tier::Test), &artifacts::build()?)?;
        return Ok(counts);
    }
    let is_named = |name: &str| verbs::is_selected(name, words);
    let built = artifacts::build()?;
    let cases: Vec<_> = matrix::cases().filter(|case| is_named(case.name)).collect();
    let mut counts = matrix(&cases, &built)?;
    for (_, check) in bench::CHECKS.into_iter().filter(|(name, _)| is_named(name)) {
        counts += check(&built)?;
    }
    Ok(counts)
}

/// The names of the cases and of the checks of costs.
pub fn names() -> Vec<String> {
    let checks = bench::CHECKS.into_iter().map(|(name, _)| name);
    matrix::cases().map(|case| case.name).chain(checks).map(String::from).collect()
}

/// Runs the cases that are not in `make test`, then compares all costs with their budgets.
pub fn remaining() -> Result<TestCounts> {
    let built = artifacts::build()?;
    let mut counts = matrix(&of_tier(Tier::Check), &built)?;
    for (_, check) in bench::CHECKS {
        counts += check(&built)?;
    }
    Ok(counts)
}

fn of_tier(tier: Tier) -> Vec<&'static Case> {
    matrix::cases().filter(|case| case.tier == tier).collect()
}

/// The kernels that the cases boot, with their programs.
struct Kernels {
    product: Artifacts,
    /// Built only if a case boots it.
    checking: Option<Artifacts>,
}

impl Kernels {
    fn for_all(cases: &[&Case], product: &Artifacts) -> Result<Self> {
        let is_needed = cases.iter().any(|case| case.kernel == KernelBuild::Checking);
        let checking = is_needed.then(|| artifacts::checking(product)).transpose()?;
        Ok(Self { product: product.clone(), checking })
    }

    fn of(&self, case: &Case) -> &Artifacts {
        match case.kernel {
            KernelBuild::Product => &self.product,
            KernelBuild::Checking => self.checking.as_ref().expect("built, since a case boots it"),
        }
    }
}

/// Boots `cases`, two at a time, the longest first, and reports each.
pub fn matrix(cases: &[&Case], built: &Artifacts) -> Result<TestCounts> {
    let kernels = Kernels::for_all(cases, built)?;
    // Before the threads start: two cases may need the same file.
    cases.iter().try_for_each(|case| boards::prepare(case.board))?;
    let logs = workspace::logs();
    std::fs::create_dir_all(&logs).map_err(Error::file("create", &logs))?;
    println!("{} boots, {AT_ONCE} at a time; consoles in {}", cases.len(), logs.display());
    let mut cases = cases.to_vec();
    cases.sort_by(|a, b| progress::recorded(b.name).total_cmp(&progress::recorded(a.name)));
    let progress = MatrixProgress::start(cases.iter().map(|case| case.name));
    let next = AtomicUsize::new(0);
    let sum = Mutex::new((TestCounts::default(), BootedImages::default(), progress));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (result, image, report) = run_case(case, kernels.of(case), &logs);
                    // Printed under the lock, so that two reports do not mix.
                    let mut sum = sum.lock().expect("no reporter panics");
                    sum.0 += result.counts;
                    let image = image.filter(|_| case.kernel == KernelBuild::Product);
                    image.into_iter().for_each(|image| sum.1.add(case.name, &image));
                    println!("{} {}", report.0, sum.2.finish(case.name));
                    print!("{}", report.1);
                }
            });
        }
    });
    let (mut counts, started, _) = sum.into_inner().expect("no reporter panics");
    if cases.iter().any(|case| case.kernel == KernelBuild::Product) {
        counts += started.check();
    }
    Ok(counts)
}

/// Runs one case, and returns the image that it booted; an error of the tool is a failure of the case.
fn run_case(case: &Case, built: &Artifacts, logs: &Path) -> (CaseResult, Option<Vec<u8>>, (String, String)) {
    let (result, image, took) = match boot(case, built, logs) {
        Ok((run, image, screen)) => {
            let result = case.expect.evaluate(&run).and((case.inspect)(&run.console)).and(screen);
            (result, Some(image), run.took)
        }
        Err(error) => {
            let failures = vec![error.to_string()];
            (CaseResult { counts: TestCounts::one(false), failures }, None, Duration::ZERO)
        }
    };
    let skips = skips::failures(case.name, &result.counts);
    let result = result.and(skips);
    if let Some(reason) = result.failures.first() {
        counts::record_failure(format!("case {}: {reason}", case.name));
    }
    let report = report(case, &result, took, &log(case));
    (result, image, report)
}

/// The log file of a case.
pub fn log(case: &Case) -> PathBuf {
    workspace::logs().join(format!("{}.log", case.name))
}

/// The run, the image that it booted, and the failures of its screen.
fn boot(case: &Case, built: &Artifacts, logs: &Path) -> Result<(QemuRun, Vec<u8>, Vec<String>)> {
    let machine = case.machine();
    let boot = prepare::boot(case, &machine, built, &logs.join(case.name))?;
    let image = same_image::of(&boot.entry)?;
    let limit = Duration::from_secs(case.limit);
    let mut words = machine.arguments(&boot);
    let (socket, picture) = (logs.join("qmp"), logs.join(case.name).with_added_extension("ppm"));
    let mut screen_failures = Vec::new();
    if case.screen.is_some() {
        screen_failures.push("the screen was not captured".to_owned());
        words.extend(screen::arguments(&socket));
    }
    let run = qemu::capture(&words, limit, &log(case), case.typed, |line| {
        if case.screen.is_some_and(|text| line.contains(text)) {
            screen_failures = check_screen(&socket, &picture);
        }
        case.expect.is_last(line)
    })?;
    Ok((run, image, screen_failures))
}

/// The failures of the screen's content.
fn check_screen(socket: &Path, picture: &Path) -> Vec<String> {
    match screen::dump(socket, picture).and_then(|()| std::fs::read(picture)) {
        Ok(ppm) => screen::check_mosaic(&ppm),
        Err(error) => vec![format!("the screen cannot be captured: {error}")],
    }
}

/// One line; and for a failure the reasons, with the end of the log (the console and QEMU's own output).
fn report(case: &Case, result: &CaseResult, took: Duration, log: &Path) -> (String, String) {
    let good = result.failures.is_empty();
    let word = if good { "ok  " } else { "FAIL" };
    let line = format!("{word} {:28} {:6.1} s  {}", case.name, took.as_secs_f64(), result.counts);
    let mut details = String::new();
    if !good {
        result.failures.iter().for_each(|line| details += &format!("     {line}\n"));
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        tail(&text).for_each(|line| details += &format!("     | {line}\n"));
    }
    (line, details)
}

fn tail(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().count();
    text.lines().skip(lines.saturating_sub(TAIL))
}
