//! Shows that something happens, and how long it took: one line a step, rewritten in place where that is seen.

use std::io::{self, Write};
use std::ops::Range;
use std::time::Instant;

/// A bar of this many parts.
const PARTS: usize = 32;

/// Where progress goes.
pub struct Progress {
    live: bool,
}

impl Progress {
    /// `live`: somebody watches, so a line may be rewritten.
    pub fn new(live: bool) -> Self {
        Self { live }
    }

    /// One thing that takes a while.
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.begin(what);
        let started = Instant::now();
        let done = work()?;
        self.end(what, started);
        Ok(done)
    }

    /// `count` things done in parts, with a bar.
    pub fn over(
        &self,
        what: &str,
        count: usize,
        mut part: impl FnMut(Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let started = Instant::now();
        for n in 0..PARTS {
            self.bar(what, n);
            part(count * n / PARTS..count * (n + 1) / PARTS)?;
        }
        self.end(what, started);
        Ok(())
    }

    /// Part `done` of the bar is reached; a plain console gets a line at each quarter only.
    pub fn bar(&self, what: &str, done: usize) {
        if self.live {
            let (full, empty) = ("#".repeat(done), ".".repeat(PARTS - done));
            self.rewrite(&format!("  [{full}{empty}] {what}"));
        } else if done.is_multiple_of(PARTS / 4) {
            println!("  {:3} % {what}", done * 100 / PARTS);
        }
    }

    fn begin(&self, what: &str) {
        if self.live {
            self.rewrite(&format!("  ... {what}"));
        }
    }

    fn end(&self, what: &str, started: Instant) {
        let line = format!("  {:5.2} s  {what}", started.elapsed().as_secs_f64());
        if self.live {
            self.rewrite(&line);
        } else {
            print!("{line}");
        }
        println!();
    }

    /// Back to the start, clear to the end of the line. What cannot be shown is no reason to stop.
    fn rewrite(&self, line: &str) {
        print!("\r\x1b[K{line}");
        let _ = io::stdout().flush();
    }
}
