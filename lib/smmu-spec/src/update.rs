//! Updates of live structures (IHI 0070, 3.21.3).
//!
//! The SMMU reads an entry's 64-bit words in any order and caches them until they are invalidated. Between
//! two synchronisations it may therefore use any mixture of old and new words. [`update`] orders the writes
//! such that every mixture is equivalent to the old entry, to the new entry, or, if the update cannot be
//! hitless, to an invalid entry:
//!
//! 1. write the bits that the SMMU does not use with the old configuration; sync
//! 2. write the critical word; sync
//! 3. write the bits that the SMMU does not use with the new configuration; sync
//!
//! If more than one word is critical, the entry passes through V = 0: 1. clear the valid bit; sync, 2. write
//! all other words; sync, 3. write the first word; sync.

use crate::cd::ContextDescriptor;
use crate::ste::Ste;

/// A 64-byte structure with the valid bit in its first word.
pub trait Structure: Copy {
    /// The structure with these words.
    fn new(words: [u64; 8]) -> Self;
    /// The words.
    fn words(&self) -> [u64; 8];
    /// The bits of each word that the SMMU uses with this configuration.
    fn used_bits(&self) -> [u64; 8];
    /// An invalid entry.
    const INVALID: Self;
}

impl Structure for Ste {
    fn new(words: [u64; 8]) -> Self {
        Self(words)
    }
    fn words(&self) -> [u64; 8] {
        self.0
    }
    fn used_bits(&self) -> [u64; 8] {
        Ste::used_bits(self)
    }
    const INVALID: Self = Ste::INVALID;
}

impl Structure for ContextDescriptor {
    fn new(words: [u64; 8]) -> Self {
        Self(words)
    }
    fn words(&self) -> [u64; 8] {
        self.0
    }
    fn used_bits(&self) -> [u64; 8] {
        ContextDescriptor::used_bits(self)
    }
    const INVALID: Self = ContextDescriptor::INVALID;
}

/// A step of an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A single 64-bit store.
    Write {
        /// The index of the word.
        word: usize,
        /// The new value.
        value: u64,
    },
    /// Makes the stores visible to the SMMU, invalidates its cached copy of the entry (CMD_CFGI_*, CMD_SYNC)
    /// and waits for completion.
    Sync,
}

/// The steps of an update, in order. The last step is always a [`Step::Sync`].
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    // Three phases of at most eight writes and a sync.
    steps: [Step; 3 * 9],
    len: usize,
}

impl Steps {
    const EMPTY: Self = Self { steps: [Step::Sync; 27], len: 0 };

    /// The steps.
    pub fn iter(&self) -> impl Iterator<Item = Step> {
        self.steps[..self.len].iter().copied()
    }

    fn push(&mut self, step: Step) {
        self.steps[self.len] = step;
        self.len += 1;
    }

    /// Appends writes of the words in which `to` differs from `from`, and a sync if there are any.
    fn phase(&mut self, from: &mut [u64; 8], to: [u64; 8]) {
        if *from == to {
            return;
        }
        for word in 0..8 {
            if from[word] != to[word] {
                self.push(Step::Write { word, value: to[word] });
            }
        }
        self.push(Step::Sync);
        *from = to;
    }
}

/// The steps that change `live` to `target`. Equal entries need a sync too: an earlier update may have failed
/// between the writes and the invalidation.
pub fn update<S: Structure>(live: S, target: S) -> Steps {
    let mut steps = Steps::EMPTY;
    let mut now = live.words();
    for words in phases(live, target) {
        steps.phase(&mut now, words);
    }
    if steps.len == 0 {
        steps.push(Step::Sync);
    }
    steps
}

/// The entry after each phase.
fn phases<S: Structure>(live: S, target: S) -> [[u64; 8]; 3] {
    let prepared = prepare(live, target);
    match critical_words(prepared, target) {
        CriticalWords::None => [prepared, prepared, target.words()],
        CriticalWords::One(word) => {
            let mut switched = prepared;
            switched[word] = target.words()[word];
            [prepared, switched, target.words()]
        }
        CriticalWords::Many => through_invalid(live, target),
    }
}

fn through_invalid<S: Structure>(live: S, target: S) -> [[u64; 8]; 3] {
    let mut invalid = live.words();
    invalid[0] = S::INVALID.words()[0];
    let mut filled = target.words();
    filled[0] = invalid[0];
    [invalid, filled, target.words()]
}

/// The live entry with all bits that it does not use set to the target's.
fn prepare<S: Structure>(live: S, target: S) -> [u64; 8] {
    let (now, then, used) = (live.words(), target.words(), live.used_bits());
    core::array::from_fn(|word| (now[word] & used[word]) | (then[word] & !used[word]))
}

/// The words that differ from the target in bits that the target uses.
enum CriticalWords {
    None,
    One(usize),
    Many,
}

fn critical_words<S: Structure>(prepared: [u64; 8], target: S) -> CriticalWords {
    let (then, used) = (target.words(), target.used_bits());
    let mut differing = (0..8).filter(|&word| (prepared[word] ^ then[word]) & used[word] != 0);
    match (differing.next(), differing.next()) {
        (None, _) => CriticalWords::None,
        (Some(word), None) => CriticalWords::One(word),
        _ => CriticalWords::Many,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cd::Stage1Config;
    use crate::coherency::WalkCoherency;
    use crate::ste::{Stage2Config, StreamConfig};
    use addr::{Asid, PhysAddr, Vmid};

    /// The bits of an entry that determine the SMMU's behaviour.
    fn effective_bits<S: Structure>(words: [u64; 8]) -> [u64; 8] {
        let used = S::new(words).used_bits();
        core::array::from_fn(|word| words[word] & used[word])
    }

    /// Every mixture of the values that each word had since the last sync; only three with Miri.
    fn mixtures(seen: &[Vec<u64>; 8]) -> Vec<[u64; 8]> {
        let mut mixtures = vec![[0; 8]];
        for word in 0..8 {
            let each = |mixture: [u64; 8], value: u64| {
                let mut mixture = mixture;
                mixture[word] = value;
                mixture
            };
            mixtures = mixtures
                .into_iter()
                .flat_map(|mixture| seen[word].iter().map(move |&value| each(mixture, value)))
                .take(if cfg!(miri) { 3 } else { usize::MAX })
                .collect();
        }
        mixtures
    }

    /// Replays the steps. Panics if the SMMU could observe anything but the old, the new or an invalid entry.
    /// Returns whether it could observe an invalid one.
    fn replay<S: Structure>(live: S, target: S) -> bool {
        let invalid = effective_bits::<S>(S::INVALID.words());
        let (old, new) = (effective_bits::<S>(live.words()), effective_bits::<S>(target.words()));
        let mut now = live.words();
        let mut seen = now.map(|value| vec![value]);
        let mut interrupted = false;
        let mut last = None;
        for step in update(live, target).iter() {
            match step {
                Step::Write { word, value } => {
                    now[word] = value;
                    seen[word].push(value);
                }
                Step::Sync => seen = now.map(|value| vec![value]),
            }
            for mixture in mixtures(&seen) {
                let acts = effective_bits::<S>(mixture);
                interrupted |= acts == invalid && acts != old && acts != new;
                assert!(acts == old || acts == new || acts == invalid, "{mixture:x?} after {step:?}");
            }
            last = Some(step);
        }
        assert_eq!((now, last), (target.words(), Some(Step::Sync)));
        interrupted
    }

    fn stage1(context: u64) -> Ste {
        Ste::new(StreamConfig::Stage1 { context: PhysAddr::new(context), coherency: WalkCoherency::Coherent })
    }

    fn stage2(vmid: u16, tables: u64) -> Ste {
        Ste::new(StreamConfig::Stage2(Stage2Config {
            vmid: Vmid::new(vmid),
            tables: PhysAddr::new(tables),
            input_bits: 44,
            output_size: 4,
            coherency: WalkCoherency::NonCoherent,
            records_faults: true,
        }))
    }

    /// A nested entry. The driver builds none, but the rules for updates are the same.
    fn nested(stage1: Ste, stage2: Ste) -> Ste {
        let mut words = stage2.0;
        words[0] = stage1.0[0] | stage2.0[0];
        words[1] |= stage1.0[1];
        Ste(words)
    }

    fn entries() -> Vec<Ste> {
        vec![
            Ste::INVALID,
            Ste::new(StreamConfig::Abort),
            Ste::new(StreamConfig::Bypass),
            stage1(0x1000),
            stage1(0x2040),
            stage2(1, 0x5000),
            stage2(2, 0x5000),
            stage2(3, 0x6000),
            nested(stage1(0x1000), stage2(0, 0x5000)),
            nested(stage1(0x2040), stage2(0, 0x5000)),
            nested(stage1(0x2040), stage2(1, 0x6000)),
            // Possible leftovers of firmware: reserved Config, nested, stray bits.
            Ste([0b0111, 5, 0, 0, 9, 0, 0, 0]),
            Ste([0b1111 | 0x7000, 0xd4, 0x1234, 0x8000, 0, 1, 0, 0]),
            Ste([0, u64::MAX, 3, 4, 5, 6, 7, 8]),
        ]
    }

    #[test]
    fn every_mixture_is_the_old_the_new_or_an_invalid_entry() {
        let step = if cfg!(miri) { 5 } else { 1 };
        for live in entries().into_iter().step_by(step) {
            for target in entries().into_iter().step_by(step) {
                replay(live, target);
            }
        }
    }

    #[test]
    fn update_of_one_critical_word_is_hitless() {
        let abort = Ste::new(StreamConfig::Abort);
        let pairs = [
            (abort, stage1(0x1000)),
            (stage1(0x1000), abort),
            (abort, stage2(1, 0x5000)),
            (stage2(1, 0x5000), abort),
        ];
        for (live, target) in pairs {
            assert!(!replay(live, target), "{live:x?} -> {target:x?}");
        }
        assert!(!replay(stage1(0x1000), stage1(0x2040)));
        assert!(!replay(stage2(1, 0x5000), stage2(1, 0x6000)));
    }

    #[test]
    fn update_of_several_critical_words_passes_through_invalid() {
        assert!(replay(stage2(1, 0x5000), stage2(2, 0x6000)));
        assert!(replay(stage1(0x1000), stage2(1, 0x5000)));
    }

    const SPACE: Stage1Config = Stage1Config {
        tables: PhysAddr::new(0x1000),
        input_bits: 39,
        output_size: 2,
        asid: Asid::new(1),
        coherency: WalkCoherency::Coherent,
    };

    #[test]
    fn context_descriptor_asid_changes_hitlessly_but_not_with_its_tables() {
        let with = |space| ContextDescriptor::new(space);
        assert!(!replay(with(SPACE), with(Stage1Config { asid: Asid::new(2), ..SPACE })));
        assert!(!replay(ContextDescriptor::INVALID, with(SPACE)));
        assert!(replay(
            with(SPACE),
            with(Stage1Config { asid: Asid::new(2), tables: PhysAddr::new(0x2000), ..SPACE })
        ));
        replay(with(SPACE), ContextDescriptor::INVALID);
    }

    /// The number of syncs, and whether the update is hitless.
    fn cost<S: Structure>(live: S, target: S) -> (usize, bool) {
        let syncs = update(live, target).iter().filter(|step| *step == Step::Sync).count();
        (syncs, !replay(live, target))
    }

    /// Every transition of context descriptors, with its number of syncs and whether it is hitless.
    #[test]
    fn context_descriptor_transitions_have_the_expected_cost() {
        let (invalid, live) = (ContextDescriptor::INVALID, ContextDescriptor::new(SPACE));
        let other_tag = ContextDescriptor::new(Stage1Config { asid: Asid::new(2), ..SPACE });
        let other_tables = ContextDescriptor::new(Stage1Config { tables: PhysAddr::new(0x2000), ..SPACE });
        let both = ContextDescriptor::new(Stage1Config {
            asid: Asid::new(2),
            tables: PhysAddr::new(0x2000),
            ..SPACE
        });
        let cases = [
            (invalid, live, 2, true),
            (live, invalid, 2, true),
            (live, live, 1, true),
            (live, other_tag, 1, true),
            (live, other_tables, 1, true),
            (live, both, 3, false),
        ];
        for (live, target, syncs, hitless) in cases {
            assert_eq!(cost(live, target), (syncs, hitless), "{live:x?} -> {target:x?}");
        }
    }

    /// Every transition of stream table entries, with its number of syncs and whether it is hitless (no
    /// transaction observes an invalid entry).
    #[test]
    fn stream_table_entry_transitions_have_the_expected_cost() {
        let (invalid, abort, bypass) =
            (Ste::INVALID, Ste::new(StreamConfig::Abort), Ste::new(StreamConfig::Bypass));
        let (first, second) = (stage1(0x1000), stage2(1, 0x5000));
        // With the VMID of stage 1 entries.
        let both = nested(first, stage2(0, 0x5000));
        let cases = [
            (invalid, abort, 1, true),
            (invalid, bypass, 2, true),
            (invalid, first, 2, true),
            (invalid, second, 2, true),
            (abort, invalid, 1, true),
            (abort, bypass, 2, true),
            (abort, first, 2, true),
            (abort, second, 2, true),
            (bypass, invalid, 2, true),
            (bypass, abort, 2, true),
            (bypass, first, 2, true),
            (bypass, second, 2, true),
            (first, invalid, 2, true),
            (first, abort, 2, true),
            (first, bypass, 2, true),
            (first, stage1(0x2040), 1, true),
            (first, second, 3, false),
            (second, invalid, 2, true),
            (second, abort, 2, true),
            (second, bypass, 2, true),
            (second, first, 3, false),
            (second, stage2(1, 0x6000), 1, true),
            (second, stage2(2, 0x6000), 3, false),
            (invalid, both, 2, true),
            (abort, both, 2, true),
            (bypass, both, 2, true),
            (first, both, 2, true),
            (second, both, 3, false),
            (both, invalid, 2, true),
            (both, abort, 2, true),
            (both, bypass, 2, true),
            (both, first, 2, true),
            (both, second, 3, false),
            (both, nested(stage1(0x2040), stage2(0, 0x5000)), 1, true),
            (both, nested(stage1(0x1000), stage2(0, 0x6000)), 1, true),
            (both, nested(stage1(0x2040), stage2(0, 0x6000)), 3, false),
        ];
        for (live, target, syncs, hitless) in cases {
            assert_eq!(cost(live, target), (syncs, hitless), "{live:x?} -> {target:x?}");
        }
    }

    #[test]
    fn equal_entries_are_still_synchronised() {
        let abort = Ste::new(StreamConfig::Abort);
        assert_eq!(update(abort, abort).iter().collect::<Vec<_>>(), [Step::Sync]);
    }

    #[test]
    fn abort_to_stage1_takes_three_writes_and_two_syncs() {
        let steps: Vec<_> = update(Ste::new(StreamConfig::Abort), stage1(0x1000)).iter().collect();
        let target = stage1(0x1000).0;
        let expected = [
            Step::Write { word: 0, value: target[0] & !0b1111 | 1 },
            Step::Write { word: 1, value: target[1] },
            Step::Sync,
            Step::Write { word: 0, value: target[0] },
            Step::Sync,
        ];
        assert_eq!(steps, expected);
    }
}
