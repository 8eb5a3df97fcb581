//! Foreign programs: Debian's, unmodified, judged by the answers that Linux gave to the same command lines in
//! the same emulator.
//!
//! The programs are fetched on first use and kept under `target/foreign`. The answers are in
//! `xtask/foreign/`; `cargo xtask foreign --record` boots Debian's kernel and records them again.

mod build;
mod programs;
mod transcript;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::{self, Architecture};
use crate::artifacts::{self, Artifacts};
use crate::counts::TestCounts;
use crate::error::{Error, Result};
use crate::machine::{BootImage, BootInput, QemuMachine};
use crate::qemu::{self, QemuRun};
use crate::{initramfs, tools, verbs, workspace};
use programs::Root;
use transcript::{Answer, Transcript};

/// The option that records Linux's answers.
const RECORD: &str = "--record";
/// The comment of a transcript with the versions that answered.
const RECORDED: &str = "# Recorded";
/// The time limit of a boot. A suite takes a fifth of it.
const LIMIT: Duration = Duration::from_secs(600);

/// Command lines for some programs.
struct Suite {
    name: &'static str,
    /// Debian's packages.
    packages: &'static [&'static str],
    /// The programs of the packages.
    programs: &'static [&'static str],
    /// The program that runs a file of command lines.
    shell: &'static str,
    /// Whether Debian's kernel can answer.
    is_recorded: bool,
    /// Adds programs of this project that use foreign libraries.
    add_built: fn(&mut Root) -> Result<()>,
}

const SUITES: [Suite; 4] = [
    Suite {
        name: "busybox",
        packages: &["busybox-static"],
        programs: &["busybox"],
        shell: "busybox sh",
        is_recorded: true,
        add_built: |_| Ok(()),
    },
    Suite {
        name: "libraries",
        packages: &["busybox-static", "libstdc++6", "memtester"],
        programs: &["busybox", "memtester"],
        shell: "busybox sh",
        is_recorded: true,
        add_built: build::add_all,
    },
    Suite {
        name: "dma-buf",
        packages: &["busybox-static"],
        programs: &["busybox"],
        shell: "busybox sh",
        is_recorded: false,
        add_built: build::add_dma_heap,
    },
    Suite {
        name: "bash",
        packages: &["busybox-static", "bash", "coreutils"],
        programs: &[
            "busybox",
            "bash",
            "basename",
            "cat",
            "chmod",
            "comm",
            "cp",
            "cut",
            "date",
            "dd",
            "df",
            "dirname",
            "du",
            "env",
            "expr",
            "false",
            "factor",
            "fold",
            "head",
            "id",
            "join",
            "ln",
            "ls",
            "md5sum",
            "mkdir",
            "mkfifo",
            "mktemp",
            "mv",
            "nl",
            "nohup",
            "nproc",
            "od",
            "paste",
            "printenv",
            "printf",
            "pwd",
            "readlink",
            "realpath",
            "rm",
            "rmdir",
            "seq",
            "sha256sum",
            "shuf",
            "sleep",
            "sort",
            "split",
            "stat",
            "stdbuf",
            "stty",
            "sync",
            "tac",
            "tail",
            "tee",
            "test",
            "timeout",
            "touch",
            "tr",
            "true",
            "truncate",
            "tsort",
            "tty",
            "uname",
            "uniq",
            "wc",
            "whoami",
            "yes",
        ],
        shell: "bash",
        is_recorded: true,
        add_built: |_| Ok(()),
    },
];

/// The names of the suites.
pub fn names() -> Vec<String> {
    SUITES.map(|suite| suite.name.to_owned()).into()
}

/// Runs the suites whose names contain one of `words`; with `--record`, records Linux's answers instead.
///
/// # Errors
/// A word that is no suite, or the kernel cannot be built. A suite whose programs cannot be fetched is
/// skipped.
pub fn foreign(words: &[String]) -> Result<TestCounts> {
    let (options, words): (Vec<_>, Vec<_>) = words.iter().cloned().partition(|word| word.starts_with('-'));
    if let Some(option) = options.iter().find(|option| *option != RECORD) {
        return Err(Error::Usage(format!("{option}: unknown option of foreign; known: {RECORD}")));
    }
    verbs::check_names("suite", &words, &names())?;
    tools::qemu()?;
    let selected = SUITES.iter().filter(|suite| verbs::is_selected(suite.name, &words));
    let mut counts = TestCounts::default();
    if options.is_empty() {
        let built = artifacts::build()?;
        for suite in selected {
            counts += suite.run(&built)?;
        }
    } else {
        for suite in selected.filter(|suite| suite.is_recorded) {
            suite.record()?;
            counts += TestCounts::one(true);
        }
    }
    Ok(counts)
}

/// Runs the suites of the shells, which need no compiler, for `make check`.
///
/// # Errors
/// The kernel cannot be built.
pub fn shells() -> Result<TestCounts> {
    foreign(&["busybox".into(), "bash".into()])
}

impl Suite {
    fn path(&self) -> PathBuf {
        workspace::root().join("xtask/foreign").join(self.name).with_extension("txt")
    }

    fn transcript(&self) -> Result<Transcript> {
        let path = self.path();
        Ok(Transcript::parse(&fs::read_to_string(&path).map_err(Error::file("read", &path))?))
    }

    /// Compares Tessera's answers with the recorded ones.
    fn run(&self, built: &Artifacts) -> Result<TestCounts> {
        let transcript = self.transcript()?;
        let commands: Vec<_> = transcript.commands().collect();
        let archive = match self.archive(&transcript) {
            Ok(archive) => archive,
            Err(error) => {
                println!("foreign {}: {} command lines ... skipped: {error}", self.name, commands.len());
                return Ok(TestCounts { skipped: commands.len(), ..TestCounts::default() });
            }
        };
        let append = "loglevel=2 init=/bin/busybox -- sh /run.sh";
        let run = self.boot(&built.image, &archive, append)?;
        let found = transcript::answers(&run.console, commands.len());
        let mut counts = TestCounts::default();
        for ((text, expected), found) in commands.iter().zip(&found) {
            let passed = found.as_ref() == Some(*expected);
            let first = text.lines().next().unwrap_or_default();
            counts += TestCounts::named(format!("foreign {}: $ {first}", self.name), passed);
            if !passed {
                println!("foreign {}: $ {}", self.name, text.replace('\n', "\n> "));
                match found {
                    Some(found) => print!("{}", transcript::difference(expected, found)),
                    None => println!("  did not end; the console is in {}", self.log().display()),
                }
            }
        }
        println!("foreign {}: {counts} in {} s", self.name, run.took.as_secs());
        Ok(counts)
    }

    /// Stores Linux's answers.
    fn record(&self) -> Result<()> {
        let mut transcript = self.transcript()?;
        let archive = self.archive(&transcript)?;
        let append = "console=ttyAMA0 quiet loglevel=0 rdinit=/linux-init";
        let run = self.boot(&linux()?, &archive, append)?;
        let count = transcript.commands().count();
        let answers: Option<Vec<Answer>> = transcript::answers(&run.console, count).into_iter().collect();
        let answers = answers.ok_or_else(|| {
            Error::Missing(format!("Linux did not answer all command lines; see {}", self.log().display()))
        })?;
        let release = run.console.lines().find_map(|line| line.strip_prefix("release "));
        transcript.set_answers(answers);
        transcript.set_comment(
            RECORDED,
            format!("{RECORDED} on Linux {}.", release.unwrap_or("of unknown release")),
        );
        let path = self.path();
        fs::write(&path, transcript.text()).map_err(Error::file("write", &path))?;
        println!("foreign {}: {count} answers in {}", self.name, path.display());
        Ok(())
    }

    /// The initramfs: the programs, the command lines, and the scripts that run them.
    fn archive(&self, transcript: &Transcript) -> Result<PathBuf> {
        let mut root = Root::new();
        root.add_programs(&programs::packages(self.packages)?, self.programs)?;
        (self.add_built)(&mut root)?;
        root.add_link("bin/sh", "busybox");
        root.add_file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n".to_vec());
        root.add_file("etc/group", b"root:x:0:\n".to_vec());
        for (index, (text, _)) in transcript.commands().enumerate() {
            root.add_file(&format!("cases/{}", transcript::file_name(index)), format!("{text}\n").into());
        }
        root.add_file("run.sh", transcript::driver(self.shell).into());
        root.add_file("linux-init", LINUX_INIT.into());
        let path = workspace::target().join("foreign").join(self.name).with_extension("cpio");
        fs::write(&path, initramfs::pack_tree(root.entries())).map_err(Error::file("write", &path))?;
        Ok(path)
    }

    fn boot(&self, kernel: &Path, archive: &Path, append: &str) -> Result<QemuRun> {
        let logs = workspace::logs();
        fs::create_dir_all(&logs).map_err(Error::file("create", &logs))?;
        let machine = QemuMachine { cpus: "2".into(), ..QemuMachine::default() };
        let boot = BootInput {
            entry: BootImage::Kernel(kernel.to_owned()),
            initramfs: Some(archive.to_owned()),
            append: append.into(),
        };
        qemu::capture(&machine.arguments(&boot), LIMIT, &self.log(), &[], |line| line == transcript::END)
    }

    fn log(&self) -> PathBuf {
        workspace::logs().join(format!("foreign-{}.log", self.name))
    }
}

/// The first process on Linux.
const LINUX_INIT: &str = include_str!("../../foreign/linux-init.sh");

/// Debian's kernel, fetched on first use.
fn linux() -> Result<PathBuf> {
    const PACKAGE: &str = "linux-image-arm64";
    let directory = workspace::target().join("foreign/linux");
    let find = || {
        let mut entries = fs::read_dir(&directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        entries
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
    };
    if find().is_none() {
        apt::extract(PACKAGE, Architecture::Arm64, &["./boot/vmlinuz-*"], &directory)?;
    }
    find().ok_or_else(|| Error::Missing(format!("the Debian package {PACKAGE} has no kernel")))
}
