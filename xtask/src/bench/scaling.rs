//! Wall time with one CPU and with two: only ratios within a run, since wall time is not comparable between
//! runs.

use super::figures::Figure;

/// The command at the end of each operation.
const SYNC: &str = "sync";

/// The speedup by a second CPU, and the comparison with Linux.
pub struct Scaling {
    /// The repeated operation.
    pub work: String,
    /// The throughput of two CPUs relative to one.
    pub tessera: f64,
    /// Linux's, if it was measured.
    pub linux: Option<f64>,
    /// Linux's time for an operation against Tessera's, on two CPUs of the same host in the same run.
    pub faster: Option<f64>,
    /// The emulator's limit: the speedup of a single CMD_SYNC, with which each of Tessera's operations ends.
    pub floor: Option<Floor>,
}

/// A single CMD_SYNC: each access to an SMMU register takes the emulator's global lock, on any CPU.
pub struct Floor {
    /// As for the operation.
    pub tessera: f64,
    /// Its share of an operation's time, on one CPU.
    pub share: f64,
}

/// The operations that both the boots and the peer measured in mode `b`. `same_run`: the peer's times are of
/// this run.
pub fn of(own: &[Figure], linux: &[Figure], same_run: bool) -> Vec<Scaling> {
    ["alloc_64K_nkm", "map_single_4K"]
        .into_iter()
        .filter_map(|work| one(own, linux, same_run, work))
        .collect()
}

fn one(own: &[Figure], linux: &[Figure], same_run: bool, work: &str) -> Option<Scaling> {
    let faster = || Some(time(linux, work, 2)? / time(own, work, 2)?);
    Some(Scaling {
        work: work.into(),
        tessera: speedup_of(own, work)?,
        linux: speedup_of(linux, work),
        faster: same_run.then(faster).flatten(),
        floor: speedup_of(own, SYNC)
            .and_then(|tessera| Some(Floor { tessera, share: time(own, SYNC, 1)? / time(own, work, 1)? })),
    })
}

fn speedup_of(figures: &[Figure], work: &str) -> Option<f64> {
    Some(time(figures, work, 1)? / time(figures, work, 2)?)
}

/// The minimum over the boots: interference by the host only adds time.
fn time(figures: &[Figure], work: &str, threads: u64) -> Option<f64> {
    let is = |figure: &&Figure| {
        let key = &figure.key;
        (key.mode.as_str(), key.name.as_str(), key.attrs.as_str(), key.count)
            == ("b", "contention", work, threads)
    };
    figures.iter().filter(is).map(|figure| figure.alloc as f64).reduce(f64::min)
}

impl std::fmt::Display for Scaling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: speedup {:.2} with two CPUs", self.work, self.tessera)?;
        self.linux.map_or(Ok(()), |linux| write!(f, " (Linux {linux:.2})"))?;
        self.faster.map_or(Ok(()), |faster| write!(f, "; Linux takes {faster:.1} times as long"))?;
        self.floor.as_ref().map_or(Ok(()), |Floor { tessera, share }| {
            let share = share * 100.0;
            write!(f, "; a single CMD_SYNC, {share:.0} % of the time on one CPU, has speedup {tessera:.2}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::from_console;
    use super::*;

    fn figures(times: &[(u64, u64)]) -> Vec<Figure> {
        figures_of("alloc_64K_nkm", times)
    }

    fn figures_of(work: &str, times: &[(u64, u64)]) -> Vec<Figure> {
        let line = |(threads, time): &(u64, u64)| {
            format!(
                "BENCH contention size=0 attrs={work} alloc_ticks={time} free_ticks=0 chunks=1 threads={threads}\n"
            )
        };
        from_console(&times.iter().map(line).collect::<String>(), "b")
    }

    #[test]
    fn ratios_use_the_fastest_boots() {
        let own = figures(&[(1, 9000), (1, 1100), (1, 5000), (2, 550)]);
        let scaling = &of(&own, &figures(&[(1, 6000), (2, 3000)]), true)[0];
        assert_eq!((scaling.tessera, scaling.linux, scaling.faster), (2.0, Some(2.0), Some(3000.0 / 550.0)));
        assert_eq!(of(&own, &figures(&[(1, 6000), (2, 3000)]), false)[0].faster, None);
        assert!(of(&[], &[], true).is_empty());
    }

    #[test]
    fn a_single_sync_is_the_floor() {
        let mut own = figures(&[(1, 2000), (2, 1600)]);
        assert!(of(&own, &[], false)[0].floor.is_none());
        own.extend(figures_of("sync", &[(1, 1000), (2, 1250), (2, 1300)]));
        assert_eq!(
            of(&own, &[], false)[0].to_string(),
            "alloc_64K_nkm: speedup 1.25 with two CPUs; a single CMD_SYNC, 50 % of the time on one CPU, has speedup 0.80"
        );
    }
}
