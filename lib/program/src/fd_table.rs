//! The table of open files of a process.

use abi::Errno;
use alloc::vec::Vec;

/// One used place in the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FdEntry<F> {
    /// What is open there; shared with its duplicates.
    pub file: F,
    /// Whether `execve` closes it.
    pub close_on_exec: bool,
}

/// FdEntry numbers and what is open on them; the lowest free number is always given first.
#[derive(Clone, Debug)]
pub struct FdTable<F> {
    slots: Vec<Option<FdEntry<F>>>,
    /// Below it no number is free, so nobody has to look there.
    full_below: usize,
    limit: usize,
}

impl<F: Clone> FdTable<F> {
    /// An empty table for at most `limit` files.
    pub const fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), full_below: 0, limit }
    }

    /// How many files it holds at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Opens `file` on the lowest free number that is at least `lowest`.
    ///
    /// # Errors
    /// `EMFILE`: all numbers up to the limit are in use; `EINVAL`: `lowest` is past the limit; `ENOMEM`.
    pub fn insert(&mut self, file: F, close_on_exec: bool, lowest: usize) -> Result<u32, Errno> {
        if lowest >= self.limit {
            return Err(if lowest == 0 { Errno::EMFILE } else { Errno::EINVAL });
        }
        let from = lowest.max(self.full_below);
        let number = (from..self.limit).find(|&number| self.is_free(number)).ok_or(Errno::EMFILE)?;
        self.put(number, FdEntry { file, close_on_exec })?;
        if from == self.full_below {
            self.full_below = number + 1;
        }
        Ok(number as u32)
    }

    /// Opens `file` on exactly this number, and gives back what was there.
    ///
    /// # Errors
    /// `EBADF`: the number is past the limit; `ENOMEM`.
    pub fn replace(&mut self, number: u32, file: F, close_on_exec: bool) -> Result<Option<F>, Errno> {
        if number as usize >= self.limit {
            return Err(Errno::EBADF);
        }
        let old = self.slots.get_mut(number as usize).and_then(Option::take);
        self.put(number as usize, FdEntry { file, close_on_exec })?;
        Ok(old.map(|descriptor| descriptor.file))
    }

    /// What is open on this number.
    ///
    /// # Errors
    /// `EBADF`: nothing.
    pub fn get(&self, number: i32) -> Result<&FdEntry<F>, Errno> {
        let number = usize::try_from(number).map_err(|_| Errno::EBADF)?;
        self.slots.get(number).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// Sets or clears the flag that closes it at `execve`.
    ///
    /// # Errors
    /// `EBADF`: nothing is open there.
    pub fn set_close_on_exec(&mut self, number: i32, close: bool) -> Result<(), Errno> {
        self.get(number)?;
        if let Some(Some(descriptor)) = self.slots.get_mut(number as usize) {
            descriptor.close_on_exec = close;
        }
        Ok(())
    }

    /// Takes what is open on this number out of the table; the file lives on in its duplicates.
    ///
    /// # Errors
    /// `EBADF`: nothing.
    pub fn remove(&mut self, number: i32) -> Result<F, Errno> {
        self.get(number)?;
        self.full_below = self.full_below.min(number as usize);
        self.slots[number as usize].take().map(|descriptor| descriptor.file).ok_or(Errno::EBADF)
    }

    /// Empties the table: every file in it, in the order of the numbers.
    pub fn take_all(&mut self) -> impl Iterator<Item = F> + use<F> {
        self.full_below = 0;
        core::mem::take(&mut self.slots).into_iter().flatten().map(|descriptor| descriptor.file)
    }

    fn is_free(&self, number: usize) -> bool {
        !matches!(self.slots.get(number), Some(Some(_)))
    }

    fn put(&mut self, number: usize, descriptor: FdEntry<F>) -> Result<(), Errno> {
        if self.slots.len() <= number {
            let more = number + 1 - self.slots.len();
            self.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize(number + 1, None);
        }
        self.slots[number] = Some(descriptor);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_lowest_free_number_comes_first() {
        let mut table = FdTable::new(4);
        assert_eq!([table.insert('a', false, 0), table.insert('b', false, 0)], [Ok(0), Ok(1)]);
        assert_eq!(table.insert('c', true, 3), Ok(3));
        assert_eq!(table.remove(0), Ok('a'));
        assert_eq!([table.insert('d', false, 0), table.insert('e', false, 0)], [Ok(0), Ok(2)]);
        assert_eq!(table.insert('f', false, 0), Err(Errno::EMFILE));
        assert_eq!(table.insert('f', false, 4), Err(Errno::EINVAL));
        assert_eq!(table.take_all().collect::<String>(), "dbec");
    }

    proptest! {
        #[test]
        fn the_lowest_free_number_comes_first_whatever_happened(
            steps in prop::collection::vec((any::<bool>(), 0usize..12), 1..60),
        ) {
            let (mut table, mut model) = (FdTable::new(10), BTreeSet::new());
            for (insert, number) in steps {
                if insert {
                    let free = (number..10).find(|n| !model.contains(n));
                    prop_assert_eq!(table.insert((), false, number).ok(), free.map(|n| n as u32));
                    model.extend(free);
                } else {
                    prop_assert_eq!(table.remove(number as i32).is_ok(), model.remove(&number));
                }
            }
        }
    }

    #[test]
    fn numbers_nobody_opened_are_bad() {
        let mut table = FdTable::new(4);
        assert_eq!(table.insert('a', false, 0), Ok(0));
        for number in [-1, 1, 4, i32::MAX, i32::MIN] {
            assert_eq!(table.get(number), Err(Errno::EBADF), "{number}");
            assert_eq!(table.remove(number), Err(Errno::EBADF), "{number}");
            assert_eq!(table.set_close_on_exec(number, true), Err(Errno::EBADF), "{number}");
        }
        assert_eq!(table.replace(4, 'b', false), Err(Errno::EBADF));
    }

    #[test]
    fn a_replaced_file_comes_back() {
        let mut table = FdTable::new(4);
        assert_eq!(table.replace(2, 'a', false), Ok(None));
        assert_eq!(table.replace(2, 'b', true), Ok(Some('a')));
        assert_eq!(table.get(2), Ok(&FdEntry { file: 'b', close_on_exec: true }));
        assert_eq!(table.insert('c', false, 0), Ok(0));
    }
}
