//! Events that the kernel counts, if it was built to: `/dev/events`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// Room for all words of one read.
const BUFFER_BYTES: usize = 256;

/// Where counts come from; nowhere on a kernel that does not count.
pub struct EventSource(Option<File>);

/// The counts at one moment, as they were read. Looking into them takes memory and so causes events, which would be counted
/// if it were done between two reads.
#[derive(Clone, Copy)]
pub struct Snapshot([u8; BUFFER_BYTES]);

impl EventSource {
    /// Opens it.
    pub fn open() -> Self {
        Self(File::open("/dev/events").ok())
    }

    /// The counts now.
    pub fn read(&mut self) -> Option<Snapshot> {
        let mut bytes = [0; BUFFER_BYTES];
        // All words come with one read; what is not filled stays zero.
        let len = self.0.as_mut()?.read(&mut bytes).ok()?;
        (len < BUFFER_BYTES).then_some(Snapshot(bytes))
    }
}

impl Snapshot {
    /// What happened between `earlier` and this, by name.
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
