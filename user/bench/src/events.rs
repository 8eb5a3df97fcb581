//! Event counters of a kernel built with feature `counters`: `/dev/events`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// The maximum size of one read.
const BUFFER_BYTES: usize = 256;

/// The counter file, if the kernel has it.
pub struct EventSource(Option<File>);

/// A snapshot of the counters as text. It is parsed only after the measurement, since parsing allocates
/// memory and would cause events.
#[derive(Clone, Copy)]
pub struct Snapshot([u8; BUFFER_BYTES]);

impl EventSource {
    /// Opens the counter file.
    pub fn open() -> Self {
        Self(File::open("/dev/events").ok())
    }

    /// Reads the counters.
    pub fn read(&mut self) -> Option<Snapshot> {
        let mut bytes = [0; BUFFER_BYTES];
        // One read returns all counters; the rest of the array stays zero.
        let len = self.0.as_mut()?.read(&mut bytes).ok()?;
        (len < BUFFER_BYTES).then_some(Snapshot(bytes))
    }
}

impl Snapshot {
    /// The number of events since `earlier`, by name.
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let before = earlier.counts();
        let now = self.counts().into_iter();
        now.map(|(name, count)| (name.to_owned(), count - before.get(name).unwrap_or(&0))).collect()
    }

    fn counts(&self) -> BTreeMap<&str, u64> {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        let words = std::str::from_utf8(text).unwrap_or_default().split_whitespace();
        words
            .filter_map(|word| word.split_once('='))
            .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
            .collect()
    }
}
