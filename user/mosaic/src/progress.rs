//! Progress output: one line per step with its duration, updated in place on a terminal.

use std::io::{self, Write};
use std::ops::Range;
use std::time::Instant;

/// The number of segments of a progress bar.
const PARTS: usize = 32;

/// The progress output.
pub struct Progress {
    live: bool,
}

impl Progress {
    /// `live`: the output is a terminal, so lines are updated in place.
    pub fn new(live: bool) -> Self {
        Self { live }
    }

    /// Runs `work` as one step.
    pub fn step<T>(&self, label: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.begin(label);
        let started = Instant::now();
        let done = work()?;
        self.end(label, started);
        Ok(done)
    }

    /// Runs `part` over all subranges of `0..count`, with a progress bar.
    pub fn over(
        &self,
        label: &str,
        count: usize,
        mut part: impl FnMut(Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let started = Instant::now();
        for n in 0..PARTS {
            self.bar(label, n);
            part(count * n / PARTS..count * (n + 1) / PARTS)?;
        }
        self.end(label, started);
        Ok(())
    }

    /// Updates the bar to `done` segments; without a terminal, prints a line for each quarter.
    pub fn bar(&self, label: &str, done: usize) {
        if self.live {
            let (full, empty) = ("#".repeat(done), ".".repeat(PARTS - done));
            self.rewrite(&format!("  [{full}{empty}] {label}"));
        } else if done.is_multiple_of(PARTS / 4) {
            println!("  {:3} % {label}", done * 100 / PARTS);
        }
    }

    fn begin(&self, label: &str) {
        if self.live {
            self.rewrite(&format!("  ... {label}"));
        }
    }

    fn end(&self, label: &str, started: Instant) {
        let line = format!("  {:5.2} s  {label}", started.elapsed().as_secs_f64());
        if self.live {
            self.rewrite(&line);
        } else {
            print!("{line}");
        }
        println!();
    }

    /// Rewrites the current line. Output errors are ignored.
    fn rewrite(&self, line: &str) {
        print!("\r\x1b[K{line}");
        let _ = io::stdout().flush();
    }
}
