//! `make test`: host tests, then the matrix, two machines at a time, then what operations cost.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::artifacts::{self, Artifacts};
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::expectation::CaseResult;
use crate::matrix::{self, Case, KernelBuild};
use crate::qemu::{self, QemuRun};
use crate::same_image::{self, Started};
use crate::{bench, boards, host, prepare, screen, skips, tools, workspace};

/// More emulators than this on two cores only make each other time out.
const AT_ONCE: usize = 2;
/// How much of a failed console is shown.
const TAIL: usize = 25;

/// Runs everything, or only the cases whose names contain one of the given words.
pub fn test(only: &[String]) -> Result<TestCounts> {
    tools::qemu()?;
    let mut counts = TestCounts::default();
    if only.is_empty() {
        counts += host::test()?;
    }
    let built = artifacts::build()?;
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|word| case.name.contains(word.as_str()));
    counts += matrix(&matrix::cases().filter(wanted).collect::<Vec<_>>(), &built)?;
    for (name, check) in bench::CHECKS {
        if only.is_empty() || only.iter().any(|word| name.contains(word.as_str())) {
            counts += check(&built)?;
        }
    }
    Ok(counts)
}

/// The kernels that cases start, with the programs that go with them.
struct Kernels {
    product: Artifacts,
    /// Only if somebody wants it.
    checking: Option<Artifacts>,
}

impl Kernels {
    fn for_all(cases: &[&Case], product: &Artifacts) -> Result<Self> {
        let wanted = cases.iter().any(|case| case.kernel == KernelBuild::Checking);
        let checking = wanted.then(|| artifacts::checking(product)).transpose()?;
        Ok(Self { product: product.clone(), checking })
    }

    fn of(&self, case: &Case) -> &Artifacts {
        match case.kernel {
            KernelBuild::Product => &self.product,
            KernelBuild::Checking => self.checking.as_ref().expect("built, since a case wants it"),
        }
    }
}

/// Boots `cases`, two at a time, and says what came of each.
pub fn matrix(cases: &[&Case], built: &Artifacts) -> Result<TestCounts> {
    let kernels = Kernels::for_all(cases, built)?;
    // One after the other, before two cases want the same.
    cases.iter().try_for_each(|case| boards::prepare(case.board))?;
    let logs = workspace::logs();
    std::fs::create_dir_all(&logs).map_err(Error::file("create", &logs))?;
    println!("{} boots, {AT_ONCE} at a time; consoles in {}", cases.len(), logs.display());
    let next = AtomicUsize::new(0);
    let sum = Mutex::new((TestCounts::default(), Started::default()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (verdict, image, report) = one(case, kernels.of(case), &logs);
                    // Printed under the lock, so that two reports do not mix.
                    let mut sum = sum.lock().expect("no reporter panics");
                    sum.0 += verdict.counts;
                    let image = image.filter(|_| case.kernel == KernelBuild::Product);
                    image.into_iter().for_each(|image| sum.1.note(case.name, &image));
                    print!("{report}");
                }
            });
        }
    });
    let (mut counts, started) = sum.into_inner().expect("no reporter panics");
    if cases.iter().any(|case| case.kernel == KernelBuild::Product) {
        counts += started.conclude();
    }
    Ok(counts)
}

/// Runs one case, and returns the image that it started; an error of the tool itself is a failure of the case.
fn one(case: &Case, built: &Artifacts, logs: &Path) -> (CaseResult, Option<Vec<u8>>, String) {
    let (verdict, image, took) = match boot(case, built, logs) {
        Ok((run, image, seen)) => {
            let verdict = case.expect.evaluate(&run).and((case.inspect)(&run.console)).and(seen);
            (verdict, Some(image), run.took)
        }
        Err(error) => {
            let failures = vec![error.to_string()];
            (CaseResult { counts: TestCounts::one(false), failures }, None, Duration::ZERO)
        }
    };
    let odd = skips::failures(case.name, &verdict.counts);
    let verdict = verdict.and(odd);
    let report = report(case, &verdict, took, &log(case));
    (verdict, image, report)
}

/// Where the console of a case goes.
pub fn log(case: &Case) -> PathBuf {
    workspace::logs().join(format!("{}.log", case.name))
}

/// The run, the image that it started, and what is wrong with its screen.
fn boot(case: &Case, built: &Artifacts, logs: &Path) -> Result<(QemuRun, Vec<u8>, Vec<String>)> {
    let machine = case.machine();
    let boot = prepare::boot(case, &machine, built, &logs.join(case.name))?;
    let image = same_image::of(&boot.entry)?;
    let limit = Duration::from_secs(case.limit);
    let mut words = machine.arguments(&boot);
    let (socket, picture) = (logs.join("qmp"), logs.join(case.name).with_added_extension("ppm"));
    let mut seen = Vec::new();
    if case.screen.is_some() {
        seen.push("the screen was never shown".to_owned());
        words.extend(screen::arguments(&socket));
    }
    let run = qemu::capture(&words, limit, &log(case), |line| {
        if case.screen.is_some_and(|text| line.contains(text)) {
            seen = look(&socket, &picture);
        }
        case.expect.is_last(line)
    })?;
    Ok((run, image, seen))
}

/// What is wrong with the screen.
fn look(socket: &Path, picture: &Path) -> Vec<String> {
    match screen::dump(socket, picture).and_then(|()| std::fs::read(picture)) {
        Ok(ppm) => screen::tesserae(&ppm),
        Err(error) => vec![format!("the screen cannot be seen: {error}")],
    }
}

/// One line; for a failure also why, and the end of the log: the console, and what QEMU said itself.
fn report(case: &Case, verdict: &CaseResult, took: Duration, log: &Path) -> String {
    let good = verdict.failures.is_empty();
    let word = if good { "ok  " } else { "FAIL" };
    let mut report = format!("{word} {:28} {:6.1} s  {}\n", case.name, took.as_secs_f64(), verdict.counts);
    if !good {
        verdict.failures.iter().for_each(|line| report += &format!("     {line}\n"));
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        tail(&text).for_each(|line| report += &format!("     | {line}\n"));
    }
    report
}

fn tail(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().count();
    text.lines().skip(lines.saturating_sub(TAIL))
}
