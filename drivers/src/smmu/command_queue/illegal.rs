//! Log of illegal commands, so that each is reported to the batch that contains it and to no other.

use super::errors::CommandError;
use smmu_spec::Command;

/// Number and words of a command that the SMMU rejected.
#[derive(Clone, Copy, Debug)]
struct IllegalCommand {
    number: u64,
    words: [u64; Command::WORDS],
}

/// Capacity of the log. A batch that is checked after so many further illegal commands is taken for the owner
/// of one, so the capacity exceeds the number that can occur while a CPU is descheduled for some
/// milliseconds.
const CAPACITY: usize = 64;

/// The most recent illegal commands, oldest first.
pub(super) struct IllegalCommands {
    recent: [Option<IllegalCommand>; CAPACITY],
    total: u64,
}

impl IllegalCommands {
    pub fn new() -> Self {
        Self { recent: [None; CAPACITY], total: 0 }
    }

    /// The number of illegal commands so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Records command `number`. Numbers increase.
    pub fn record(&mut self, number: u64, words: [u64; Command::WORDS]) {
        self.total += 1;
        self.recent.rotate_left(1);
        self.recent[CAPACITY - 1] = Some(IllegalCommand { number, words });
    }

    /// Checks that no command from `first` to before `end` was illegal.
    ///
    /// # Errors
    /// [`CommandError::Illegal`].
    #[inline]
    pub fn check(&self, first: u64, end: u64) -> Result<(), CommandError> {
        match self.recent[CAPACITY - 1] {
            Some(last) if last.number >= first => self.search(first, end),
            _ => Ok(()),
        }
    }

    #[cold]
    fn search(&self, first: u64, end: u64) -> Result<(), CommandError> {
        // A record that was overwritten may have been in the range, too.
        let complete = self.recent[0].is_none_or(|oldest| oldest.number < first);
        let mut recent = self.recent.iter().flatten();
        let found = recent.find(|illegal| illegal.number >= first && (illegal.number < end || !complete));
        found.map_or(Ok(()), |illegal| Err(CommandError::Illegal { words: illegal.words }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [u64; 2] = [0xff, 1];

    #[test]
    fn illegal_command_is_reported_for_its_range_only() {
        let mut log = IllegalCommands::new();
        assert_eq!(log.check(0, 10), Ok(()));
        log.record(5, WORDS);
        let illegal = Err(CommandError::Illegal { words: WORDS });
        assert_eq!((log.check(0, 5), log.check(5, 6), log.check(6, 9)), (Ok(()), illegal, Ok(())));
        assert_eq!(log.total(), 1);
    }

    #[test]
    fn overwritten_record_counts_as_illegal() {
        let mut log = IllegalCommands::new();
        (0..=CAPACITY as u64).for_each(|number| log.record(10 + number, WORDS));
        assert_eq!(log.check(5, 8), Err(CommandError::Illegal { words: WORDS }));
        assert_eq!(log.check(12, 13), Err(CommandError::Illegal { words: WORDS }));
    }
}
