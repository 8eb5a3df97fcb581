//! `make test`: host tests, then the matrix, two machines at a time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::artifacts::{self, Artifacts};
use crate::error::{Error, Result};
use crate::initramfs::Program;
use crate::judge::Verdict;
use crate::machine::{Boot, Entry};
use crate::matrix::{CASES, Case, Start};
use crate::qemu::{self, Run};
use crate::tally::Tally;
use crate::{dtb, host, initramfs, tools, workspace};

/// More emulators than this on two cores only make each other time out.
const AT_ONCE: usize = 2;
/// How much of a failed console is shown.
const TAIL: usize = 25;

/// Runs everything, or only the cases whose names contain one of the given words.
pub fn test(only: &[String]) -> Result<Tally> {
    tools::qemu()?;
    let mut tally = Tally::default();
    if only.is_empty() {
        tally += host::test()?;
    }
    let built = artifacts::build()?;
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|word| case.name.contains(word.as_str()));
    tally += matrix(&CASES.iter().filter(wanted).collect::<Vec<_>>(), &built)?;
    Ok(tally)
}

fn matrix(cases: &[&Case], built: &Artifacts) -> Result<Tally> {
    let logs = workspace::logs();
    std::fs::create_dir_all(&logs).map_err(Error::file("create", &logs))?;
    println!("{} boots, {AT_ONCE} at a time; consoles in {}", cases.len(), logs.display());
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (verdict, report) = one(case, built, &logs);
                    // Printed under the lock, so that two reports do not mix.
                    let mut sum = sum.lock().expect("no reporter panics");
                    *sum += verdict.tally;
                    print!("{report}");
                }
            });
        }
    });
    Ok(sum.into_inner().expect("no reporter panics"))
}

/// Runs one case; an error of the tool itself is a failure of the case.
fn one(case: &Case, built: &Artifacts, logs: &Path) -> (Verdict, String) {
    let (verdict, took) = match boot(case, built, logs) {
        Ok(run) => (case.expect.judge(&run).and((case.inspect)(&run.console)), run.took),
        Err(error) => {
            (Verdict { tally: Tally::one(false), complaints: vec![error.to_string()] }, Duration::ZERO)
        }
    };
    let report = report(case, &verdict, took, &log(case, logs));
    (verdict, report)
}

fn log(case: &Case, logs: &Path) -> PathBuf {
    logs.join(format!("{}.log", case.name))
}

fn boot(case: &Case, built: &Artifacts, logs: &Path) -> Result<Run> {
    let machine = case.machine();
    let beside = |extension: &str| logs.join(format!("{}.{extension}", case.name));
    let mut boot = Boot {
        entry: Entry::Kernel(built.image.clone()),
        initramfs: Some(built.initramfs.clone()),
        append: case.append.into(),
    };
    match case.start {
        Start::Whole => {}
        Start::WithoutInitramfs => boot.initramfs = None,
        Start::CutInitramfs => boot.initramfs = Some(cut(&built.initramfs, &beside("cpio"))?),
        Start::WrongInitramfs => boot.initramfs = Some(nonsense(&beside("cpio"))?),
        Start::BrokenPrograms => boot.initramfs = Some(broken_programs(&beside("cpio"))?),
        Start::PatchedTree(changes) => {
            let tree = dtb::patch(&machine, &boot, changes, &beside("dtb"))?;
            boot.entry = Entry::KernelWithTree(built.image.clone(), tree);
        }
        Start::Bare(tree) => {
            boot.entry = dtb::wrap(&built.image, tree, &beside("elf"))?;
            boot.initramfs = None;
        }
    }
    let limit = Duration::from_secs(case.limit);
    qemu::capture(&machine.arguments(&boot), limit, &log(case, logs), |line| case.expect.is_last(line))
}

/// An archive of programs that cannot be started: a text, the start of a program, a program for another machine.
fn broken_programs(archive: &Path) -> Result<PathBuf> {
    let program = |machine| dtb::elf_of(machine, 0x40_0000, &[(0x40_0000, &[0; 4096])]);
    let mut cut = program(dtb::AARCH64);
    cut.truncate(100);
    let programs = [
        Program { name: "text", bytes: b"#!/bin/sh\necho no\n".to_vec() },
        Program { name: "cut", bytes: cut },
        Program { name: "foreign", bytes: program(62) },
    ];
    initramfs::write(&programs, archive)?;
    Ok(archive.to_owned())
}

/// The first half of an archive.
fn cut(whole: &Path, part: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(whole).map_err(Error::file("read", whole))?;
    std::fs::write(part, &bytes[..bytes.len() / 2]).map_err(Error::file("write", part))?;
    Ok(part.to_owned())
}

fn nonsense(path: &Path) -> Result<PathBuf> {
    std::fs::write(path, b"this is not an archive\n".repeat(200)).map_err(Error::file("write", path))?;
    Ok(path.to_owned())
}

/// One line; for a failure also why, and the end of the log: the console, and what QEMU said itself.
fn report(case: &Case, verdict: &Verdict, took: Duration, log: &Path) -> String {
    let good = verdict.complaints.is_empty();
    let word = if good { "ok  " } else { "FAIL" };
    let mut report = format!("{word} {:28} {:6.1} s  {}\n", case.name, took.as_secs_f64(), verdict.tally);
    if !good {
        verdict.complaints.iter().for_each(|line| report += &format!("     {line}\n"));
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        tail(&text).for_each(|line| report += &format!("     | {line}\n"));
    }
    report
}

fn tail(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().count();
    text.lines().skip(lines.saturating_sub(TAIL))
}
