//! Changes to the plan, and what they do to the tables.

use super::behind::{Behind, check_access};
use super::{Inner, Place};
use crate::memory::tables;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use arch::tlb::Level;
use program::{Alignment, Area, AreasError, USER_END, USER_START};

impl Inner {
    /// A free range of at least `len` bytes.
    pub(super) fn make_room(
        &mut self,
        len: u64,
        place: Place,
        alignment: Alignment,
    ) -> Result<AddrRange<UserVa>, Errno> {
        let len =
            len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len <= USER_END).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let exactly = |at: UserVa| {
            AddrRange::from_len(at, len).filter(|_| at.is_aligned(PAGE_SIZE)).ok_or(Errno::EINVAL)
        };
        match place {
            Place::Anywhere(hint) => {
                let hint = hint.filter(|at| at.raw() >= USER_START);
                self.areas.place(len, alignment, hint).ok_or(Errno::ENOMEM)
            }
            Place::Exactly(at) => match self.areas.parts(exactly(at)?).next() {
                None => exactly(at),
                Some(_) => Err(Errno::EEXIST),
            },
            Place::Replace(at) => {
                let range = exactly(at)?;
                self.unmap_all(range)?;
                Ok(range)
            }
        }
    }

    pub(super) fn add_zeroes(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        check_access(prot)?;
        let area = Area { range, prot, backing: Behind::Zeroes, offset: range.start().raw() };
        self.areas.insert(area).map_err(areas_errno)
    }

    /// Takes whatever is in `range` out of plan, tables and TLBs.
    pub(super) fn unmap_all(&mut self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        while self.unmap_first(range)?.is_some() {}
        Ok(())
    }

    /// The same for the first area that has a part in `range`; returns that part.
    pub(super) fn unmap_first(&mut self, range: AddrRange<UserVa>) -> Result<Option<Area<Behind>>, Errno> {
        let Some(part) = self.areas.take_first(range).map_err(areas_errno)? else { return Ok(None) };
        match part.backing {
            // Cutting a block needs a table, and can fail.
            Behind::Shared(..) if self.clear_entries(part.range).is_err() => {
                self.areas.put_back(part);
                return Err(Errno::ENOMEM);
            }
            Behind::Shared(..) => {}
            Behind::Zeroes => self.drop_zeroes(part.range),
        }
        Ok(Some(part))
    }

    pub(super) fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        let before = self.areas.list(range).map_err(areas_errno)?;
        let denied =
            |part: &Area<Behind>| matches!(part.backing, Behind::Shared(_, most) if !most.contains(prot));
        if before.iter().any(denied) {
            return Err(Errno::EACCES);
        }
        self.areas.protect(range, prot).map_err(areas_errno)?;
        if prot.contains(Prot::EXEC) {
            self.sync_instructions(range);
        }
        if before.iter().all(|part| self.rewrite(part, prot).is_ok()) {
            return Ok(());
        }
        // A table was missing. What was changed goes back; the same cuts need no table twice.
        for part in &before {
            let _ = self.areas.protect(part.range, part.prot);
            let _ = self.rewrite(part, part.prot);
        }
        Err(Errno::ENOMEM)
    }

    /// Gives the entries of `part` other rights.
    fn rewrite(&mut self, part: &Area<Behind>, prot: Prot) -> Result<(), Errno> {
        let asid = self.asid;
        let Some(table) = &mut self.table else { return Ok(()) };
        let done = table.protect(&mut tables::user(asid), part.range, part.backing.mapping(prot));
        arch::tlb::user(asid, part.range, Level::Last);
        done.map_err(|_| Errno::ENOMEM)
    }
}

/// What a program is told when its plan cannot be changed.
pub(super) fn areas_errno(error: AreasError) -> Errno {
    match error {
        AreasError::Range => Errno::EINVAL,
        AreasError::Overlap(_) => Errno::EEXIST,
        AreasError::Hole(_) | AreasError::TooMany | AreasError::OutOfMemory => Errno::ENOMEM,
    }
}
