//! One QEMU run: the console captured line by line, with a time limit.
//!
//! Only the child that was started here is ever killed, through its own handle.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{shown, stdout_of};
use crate::error::{Error, Result};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-aarch64";
/// The limit of a console's output.
const OUTPUT_LIMIT: usize = 64 << 20;

/// The names of QEMU's machines.
pub fn machines() -> Vec<String> {
    let text = stdout_of(PROGRAM, &["-M", "help"]).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The end of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QemuExit {
    /// QEMU exited with status 0: the guest powered off.
    PoweredOff,
    /// QEMU exited with another status, or was killed by a signal.
    Failed(Option<i32>),
    /// The time limit passed.
    TimedOut(Duration),
    /// The expected last line came, so the guest was stopped.
    Stopped,
    /// The console exceeded its limit.
    OutputLimit,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct QemuRun {
    /// The output of the guest and of QEMU, without carriage returns.
    pub console: String,
    /// The end of the run.
    pub exit: QemuExit,
    /// The duration.
    pub took: Duration,
}

/// Runs QEMU, and captures its console into the log as well.
///
/// `typed` are texts of lines, in order, and the keys that are typed after each. `stop` checks each line: if
/// it returns true the guest is stopped immediately, for guests that halt.
pub fn capture(
    arguments: &[String],
    limit: Duration,
    log: &Path,
    typed: &'static [(&'static str, &'static str)],
    stop: impl FnMut(&str) -> bool,
) -> Result<QemuRun> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
    let mut file = File::create(log).map_err(Error::file("create", log))?;
    writeln!(file, "$ {}", shown(&command)).map_err(Error::file("write", log))?;
    let errors = file.try_clone().map_err(Error::file("write", log))?;
    let keyboard = if typed.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(keyboard).stdout(Stdio::piped()).stderr(errors);
    let started = Instant::now();
    let child = command.spawn().map_err(|cause| Error::Start { program: PROGRAM.into(), cause })?;
    let (console, exit) = Monitor { child, log: file, typed, stop, deadline: started + limit, limit }.run();
    Ok(QemuRun { console, exit, took: started.elapsed() })
}

struct Monitor<F> {
    child: Child,
    log: File,
    /// The texts and keys that are left.
    typed: &'static [(&'static str, &'static str)],
    stop: F,
    deadline: Instant,
    limit: Duration,
}

impl<F: FnMut(&str) -> bool> Monitor<F> {
    fn run(mut self) -> (String, QemuExit) {
        let lines = lines_of(&mut self.child);
        let mut console = String::new();
        let end = self.follow(&lines, &mut console);
        // QEMU may have exited already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        (console, end)
    }

    fn follow(&mut self, lines: &Receiver<String>, console: &mut String) -> QemuExit {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    console.push_str(&line);
                    console.push('\n');
                    // The result does not depend on the log.
                    let _ = writeln!(self.log, "{line}");
                    self.type_after(&line);
                    if (self.stop)(&line) {
                        return QemuExit::Stopped;
                    }
                    if console.len() > OUTPUT_LIMIT {
                        return QemuExit::OutputLimit;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return QemuExit::TimedOut(self.limit),
                Err(RecvTimeoutError::Disconnected) => return self.ended(),
            }
        }
    }

    /// Types the next keys if `line` is the one before them.
    fn type_after(&mut self, line: &str) {
        if let (Some(((text, keys), left)), Some(keyboard)) =
            (self.typed.split_first(), &mut self.child.stdin)
            && line.contains(text)
        {
            self.typed = left;
            // A guest that has ended fails by its console.
            let _ = keyboard.write_all(keys.as_bytes());
        }
    }

    /// The console is closed; waits for QEMU's exit until the time limit.
    fn ended(&mut self) -> QemuExit {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return end_of(status),
                Ok(None) if Instant::now() < self.deadline => thread::sleep(Duration::from_millis(10)),
                _ => return QemuExit::TimedOut(self.limit),
            }
        }
    }
}

fn end_of(status: ExitStatus) -> QemuExit {
    if status.success() { QemuExit::PoweredOff } else { QemuExit::Failed(status.code()) }
}

/// The console's lines, read on a separate thread so that the receiver can time out.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let output = child.stdout.take().expect("the output is piped");
    let (send, receive) = channel();
    thread::spawn(move || {
        for bytes in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}
