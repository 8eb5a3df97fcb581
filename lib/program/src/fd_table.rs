//! The file descriptor table of a process.

use abi::Errno;
use alloc::vec::Vec;

/// An open file descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FdEntry<F> {
    /// The open file, shared by duplicated descriptors.
    pub file: F,
    /// `FD_CLOEXEC`: closed by `execve`.
    pub close_on_exec: bool,
}

/// A table of open files by descriptor number. Allocates the lowest free number, as POSIX requires.
#[derive(Clone, Debug)]
pub struct FdTable<F> {
    slots: Vec<Option<FdEntry<F>>>,
    /// All numbers below are in use; the search for a free one starts here.
    full_below: usize,
    /// The number of descriptors that can be opened, and the maximum of that number.
    limit: usize,
    maximum: usize,
}

impl<F: Clone> FdTable<F> {
    /// An empty table with at most `limit` descriptors.
    pub const fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), full_below: 0, limit, maximum: limit }
    }

    /// The number of descriptors that can be opened, and its maximum.
    pub fn limits(&self) -> (usize, usize) {
        (self.limit, self.maximum)
    }

    /// Changes the limits. Descriptors beyond the limit stay open.
    ///
    /// # Errors
    /// `EINVAL` if the limit exceeds its maximum, `EPERM` if that exceeds the present one.
    pub fn set_limits(&mut self, limit: u64, maximum: u64) -> Result<(), Errno> {
        if limit > maximum {
            return Err(Errno::EINVAL);
        }
        if maximum > self.maximum as u64 {
            return Err(Errno::EPERM);
        }
        (self.limit, self.maximum) = (limit as usize, maximum as usize);
        Ok(())
    }

    /// Adds `file` at the lowest free number not below `lowest`.
    ///
    /// # Errors
    /// `EMFILE` if all numbers up to the limit are in use, `EINVAL` if `lowest` exceeds the limit, `ENOMEM`;
    /// and `file`, which the caller can drop without the lock of the table.
    pub fn insert(&mut self, file: F, close_on_exec: bool, lowest: usize) -> Result<u32, (Errno, F)> {
        if lowest >= self.limit {
            return Err((if lowest == 0 { Errno::EMFILE } else { Errno::EINVAL }, file));
        }
        let from = lowest.max(self.full_below);
        let Some(number) = (from..self.limit).find(|&number| self.is_free(number)) else {
            return Err((Errno::EMFILE, file));
        };
        self.put(number, FdEntry { file, close_on_exec })?;
        if from == self.full_below {
            self.full_below = number + 1;
        }
        Ok(number as u32)
    }

    /// Replaces the file at `number` (`dup3`). Returns the previous file.
    ///
    /// # Errors
    /// `EBADF` if the number exceeds the limit, `ENOMEM`; and `file`, as for [`FdTable::insert`].
    pub fn replace(&mut self, number: u32, file: F, close_on_exec: bool) -> Result<Option<F>, (Errno, F)> {
        if number as usize >= self.limit {
            return Err((Errno::EBADF, file));
        }
        let old = self.slots.get_mut(number as usize).and_then(Option::take);
        self.put(number as usize, FdEntry { file, close_on_exec })?;
        Ok(old.map(|descriptor| descriptor.file))
    }

    /// The descriptor with this number.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn get(&self, number: i32) -> Result<&FdEntry<F>, Errno> {
        let number = usize::try_from(number).map_err(|_| Errno::EBADF)?;
        self.slots.get(number).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// The first open descriptor from `number` on.
    pub fn next(&self, number: usize) -> Option<usize> {
        Some(number + self.slots.get(number..)?.iter().position(Option::is_some)?)
    }

    /// The number of descriptors for which there is memory.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Sets or clears `FD_CLOEXEC`.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn set_close_on_exec(&mut self, number: i32, close: bool) -> Result<(), Errno> {
        self.get(number)?;
        if let Some(Some(descriptor)) = self.slots.get_mut(number as usize) {
            descriptor.close_on_exec = close;
        }
        Ok(())
    }

    /// Removes a descriptor and returns its file.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn remove(&mut self, number: i32) -> Result<F, Errno> {
        self.get(number)?;
        self.full_below = self.full_below.min(number as usize);
        self.slots[number as usize].take().map(|descriptor| descriptor.file).ok_or(Errno::EBADF)
    }

    /// A table with the same descriptors and files, for a child process.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(self.slots.len()).map_err(|_| Errno::ENOMEM)?;
        slots.extend(self.slots.iter().cloned());
        Ok(Self { slots, ..*self })
    }

    /// Removes the first descriptor from number `from` on that `execve` closes. Returns its number and file.
    pub fn take_close_on_exec(&mut self, from: usize) -> Option<(usize, F)> {
        let closes = |slot: &Option<FdEntry<F>>| slot.as_ref().is_some_and(|entry| entry.close_on_exec);
        let number = from + self.slots.get(from..)?.iter().position(closes)?;
        let file = self.remove(number as i32).ok()?;
        Some((number, file))
    }

    /// Empties the table and returns its files in ascending order of their numbers.
    pub fn take_all(&mut self) -> impl Iterator<Item = F> + use<F> {
        self.full_below = 0;
        core::mem::take(&mut self.slots).into_iter().flatten().map(|descriptor| descriptor.file)
    }

    fn is_free(&self, number: usize) -> bool {
        !matches!(self.slots.get(number), Some(Some(_)))
    }

    fn put(&mut self, number: usize, descriptor: FdEntry<F>) -> Result<(), (Errno, F)> {
        if self.slots.len() <= number {
            let more = number + 1 - self.slots.len();
            if self.slots.try_reserve(more).is_err() {
                return Err((Errno::ENOMEM, descriptor.file));
            }
            self.slots.resize(number + 1, None);
        }
        self.slots[number] = Some(descriptor);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_closes_marked_descriptors_only() {
        let mut parent = FdTable::new(16);
        for (file, close_on_exec) in [(10, false), (11, true), (12, false), (13, true)] {
            parent.insert(file, close_on_exec, 0).unwrap();
        }
        let mut child = parent.try_clone().unwrap();
        let mut from = 0;
        let mut closed = Vec::new();
        while let Some((number, file)) = child.take_close_on_exec(from) {
            from = number;
            closed.push((number, file));
        }
        assert_eq!(closed, [(1, 11), (3, 13)]);
        assert_eq!(child.get(1), Err(Errno::EBADF));
        assert_eq!(child.insert(14, false, 0), Ok(1));
        assert_eq!(parent.get(1).map(|entry| entry.file), Ok(11));
    }
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn limits_are_lowered_but_not_raised_above_their_maximum() {
        let mut table = FdTable::new(4);
        assert_eq!([5, 2, 2].map(|limit| table.set_limits(limit, 4)), [Err(Errno::EINVAL), Ok(()), Ok(())]);
        assert_eq!([table.insert('a', false, 0), table.insert('b', false, 0)], [Ok(0), Ok(1)]);
        assert_eq!(table.insert('c', false, 0), Err((Errno::EMFILE, 'c')));
        assert_eq!(table.set_limits(1, 3), Ok(()));
        assert_eq!((table.set_limits(4, 4), table.limits()), (Err(Errno::EPERM), (1, 3)));
        assert!(table.get(1).is_ok());
    }

    #[test]
    fn lowest_free_number_is_allocated() {
        let mut table = FdTable::new(4);
        assert_eq!([table.insert('a', false, 0), table.insert('b', false, 0)], [Ok(0), Ok(1)]);
        assert_eq!(table.insert('c', true, 3), Ok(3));
        assert_eq!(table.remove(0), Ok('a'));
        assert_eq!([table.insert('d', false, 0), table.insert('e', false, 0)], [Ok(0), Ok(2)]);
        assert_eq!(table.insert('f', false, 0), Err((Errno::EMFILE, 'f')));
        assert_eq!(table.insert('f', false, 4), Err((Errno::EINVAL, 'f')));
        assert_eq!(table.take_all().collect::<String>(), "dbec");
    }

    proptest! {
        #[test]
        fn lowest_free_number_is_allocated_after_any_history(
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
    fn closed_numbers_return_ebadf() {
        let mut table = FdTable::new(4);
        assert_eq!(table.insert('a', false, 0), Ok(0));
        for number in [-1, 1, 4, i32::MAX, i32::MIN] {
            assert_eq!(table.get(number), Err(Errno::EBADF), "{number}");
            assert_eq!(table.remove(number), Err(Errno::EBADF), "{number}");
            assert_eq!(table.set_close_on_exec(number, true), Err(Errno::EBADF), "{number}");
        }
        assert_eq!(table.replace(4, 'b', false), Err((Errno::EBADF, 'b')));
    }

    #[test]
    fn replace_returns_the_previous_file() {
        let mut table = FdTable::new(4);
        assert_eq!(table.replace(2, 'a', false), Ok(None));
        assert_eq!(table.replace(2, 'b', true), Ok(Some('a')));
        assert_eq!(table.get(2), Ok(&FdEntry { file: 'b', close_on_exec: true }));
        assert_eq!(table.insert('c', false, 0), Ok(0));
    }
}
