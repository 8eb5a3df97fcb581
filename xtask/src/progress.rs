//! The progress of the matrix, and an estimate of the remaining time.

use std::time::{Duration, Instant};

use crate::skips;

/// Seconds of each case on two cores. The absolute values do not matter: the estimate scales them by the
/// elapsed time.
const DURATIONS: &str = include_str!("../durations.tsv");

/// The progress of a run of the matrix.
#[derive(Debug)]
pub struct MatrixProgress {
    total: usize,
    finished: usize,
    /// Recorded seconds of all cases, and of those that have finished.
    recorded: (f64, f64),
    start: Instant,
}

impl MatrixProgress {
    /// Starts the clock for these cases.
    pub fn start<'a>(cases: impl Iterator<Item = &'a str>) -> Self {
        let mut progress = Self { total: 0, finished: 0, recorded: (0.0, 0.0), start: Instant::now() };
        for case in cases {
            progress.total += 1;
            progress.recorded.0 += recorded(case);
        }
        progress
    }

    /// Counts a finished case: `[12/58, about 4 min left]`.
    pub fn finish(&mut self, case: &str) -> String {
        self.finished += 1;
        self.recorded.1 += recorded(case);
        let counted = format!("{}/{}", self.finished, self.total);
        match self.left(self.start.elapsed()) {
            Some(left) => format!("[{counted}, {}]", shown(left)),
            None => format!("[{counted}]"),
        }
    }

    /// The time left, if any case is.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let (all, done) = self.recorded;
        (self.finished < self.total && done > 0.0).then(|| elapsed.mul_f64((all - done).max(0.0) / done))
    }
}

/// The recorded seconds of a case; for a new case, those of a typical one.
pub fn recorded(case: &str) -> f64 {
    const TYPICAL: f64 = 10.0;
    skips::number(DURATIONS, case).map_or(TYPICAL, |seconds| (seconds as f64).max(0.5))
}

fn shown(left: Duration) -> String {
    match left.as_secs() {
        0..50 => "less than a minute left".into(),
        seconds => format!("about {} min left", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::cases;

    #[test]
    fn every_recorded_duration_names_a_case() {
        for line in DURATIONS.lines().filter(|line| !line.starts_with('#')) {
            let (name, seconds) = line.split_once('\t').expect(line);
            assert!(cases().any(|case| case.name == name), "{name}");
            assert!(seconds.parse::<usize>().is_ok(), "{line}");
        }
    }

    #[test]
    fn the_estimate_scales_with_the_elapsed_time() {
        let progress =
            MatrixProgress { total: 3, finished: 1, recorded: (90.0, 30.0), start: Instant::now() };
        assert_eq!(progress.left(Duration::from_secs(60)), Some(Duration::from_secs(120)));
        let finished = MatrixProgress { finished: 3, recorded: (90.0, 90.0), ..progress };
        assert_eq!(finished.left(Duration::from_secs(60)), None);
    }

    #[test]
    fn the_last_case_has_no_estimate() {
        let mut progress = MatrixProgress::start(["mosaic", "no-such-case"].into_iter());
        assert!(progress.finish("mosaic").starts_with("[1/2, "));
        assert_eq!(progress.finish("no-such-case"), "[2/2]");
        assert_eq!(
            [49, 50, 89, 91].map(|s| shown(Duration::from_secs(s))),
            ["less than a minute left", "about 1 min left", "about 1 min left", "about 2 min left"]
        );
    }
}
