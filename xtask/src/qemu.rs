//! One QEMU run: the console captured line by line, a time limit, and an end in every case.
//!
//! Only the child that was started here is ever killed, through its own handle.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::shown;
use crate::error::{Error, Result};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-aarch64";
/// A console that prints more than this has run away.
const MOST_OUTPUT: usize = 64 << 20;

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QemuExit {
    /// QEMU ended by itself with status 0: the guest powered off.
    PoweredOff,
    /// QEMU ended by itself with another status, or by a signal.
    Died(Option<i32>),
    /// The time limit passed.
    TimedOut(Duration),
    /// The line that was waited for came, so the guest was stopped.
    Stopped,
    /// The console printed more than any honest run does.
    RanAway,
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct QemuRun {
    /// Everything the guest and QEMU printed, line by line, without carriage returns.
    pub console: String,
    /// How it ended.
    pub end: QemuExit,
    /// How long it took.
    pub took: Duration,
}

/// Runs QEMU with its console captured into the log as well.
///
/// `stop` looks at each line: when it says yes the guest is ended at once, for guests that halt on purpose.
pub fn capture(
    words: &[String],
    limit: Duration,
    log: &Path,
    stop: impl FnMut(&str) -> bool,
) -> Result<QemuRun> {
    let mut command = Command::new(PROGRAM);
    command.args(words).args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
    let mut file = File::create(log).map_err(Error::file("create", log))?;
    writeln!(file, "$ {}", shown(&command)).map_err(Error::file("write", log))?;
    let errors = file.try_clone().map_err(Error::file("write", log))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let started = Instant::now();
    let child = command.spawn().map_err(|cause| Error::Start { program: PROGRAM.into(), cause })?;
    let (console, end) = Monitor { child, log: file, stop, deadline: started + limit, limit }.run();
    Ok(QemuRun { console, end, took: started.elapsed() })
}

struct Monitor<F> {
    child: Child,
    log: File,
    stop: F,
    deadline: Instant,
    limit: Duration,
}

impl<F: FnMut(&str) -> bool> Monitor<F> {
    fn run(mut self) -> (String, QemuExit) {
        let lines = lines_of(&mut self.child);
        let mut console = String::new();
        let end = self.follow(&lines, &mut console);
        // It may have ended by itself; then there is nothing to kill.
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
                    // The log is for people; a full disk shows in other ways.
                    let _ = writeln!(self.log, "{line}");
                    if (self.stop)(&line) {
                        return QemuExit::Stopped;
                    }
                    if console.len() > MOST_OUTPUT {
                        return QemuExit::RanAway;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return QemuExit::TimedOut(self.limit),
                Err(RecvTimeoutError::Disconnected) => return self.ended(),
            }
        }
    }

    /// The console closed: QEMU ends now, or within what is left of the time.
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
    if status.success() { QemuExit::PoweredOff } else { QemuExit::Died(status.code()) }
}

/// The console's lines, read on a thread of their own so that waiting for one can time out.
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
