//! Changes to the plan, and what they do to the tables.

use super::backing::{VmaBacking, check_write_xor_execute};
use super::{Inner, MmapPlacement};
use crate::memory::table_frames;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use arch::tlb::Level;
use program::{Alignment, USER_END, USER_START, Vma, VmaError};

impl Inner {
    /// A free range of at least `len` bytes.
    pub(super) fn reserve_range(
        &mut self,
        len: u64,
        placement: MmapPlacement,
        alignment: Alignment,
    ) -> Result<AddrRange<UserVa>, Errno> {
        let len =
            len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len <= USER_END).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let fixed_range = |at: UserVa| {
            AddrRange::from_len(at, len).filter(|_| at.is_aligned(PAGE_SIZE)).ok_or(Errno::EINVAL)
        };
        match placement {
            MmapPlacement::Hint(hint) => {
                let hint = hint.filter(|at| at.raw() >= USER_START);
                self.vmas.find_unmapped(len, alignment, hint).ok_or(Errno::ENOMEM)
            }
            MmapPlacement::FixedNoReplace(at) => match self.vmas.parts(fixed_range(at)?).next() {
                None => fixed_range(at),
                Some(_) => Err(Errno::EEXIST),
            },
            MmapPlacement::Fixed(at) => {
                let range = fixed_range(at)?;
                self.unmap_all(range)?;
                Ok(range)
            }
        }
    }

    pub(super) fn add_anonymous(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        check_write_xor_execute(prot)?;
        let vma = Vma { range, prot, backing: VmaBacking::Anonymous, offset: range.start().raw() };
        self.vmas.insert(vma).map_err(vma_errno)
    }

    /// Takes whatever is in `range` out of plan, tables and TLBs.
    pub(super) fn unmap_all(&mut self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        while self.unmap_first(range)?.is_some() {}
        Ok(())
    }

    /// The same for the first area that has a part in `range`; returns that part.
    pub(super) fn unmap_first(&mut self, range: AddrRange<UserVa>) -> Result<Option<Vma<VmaBacking>>, Errno> {
        let Some(part) = self.vmas.remove_first(range).map_err(vma_errno)? else { return Ok(None) };
        match part.backing {
            // Cutting a block needs a table, and can fail.
            VmaBacking::Shared(..) if self.clear_entries(part.range).is_err() => {
                self.vmas.reinsert(part);
                return Err(Errno::ENOMEM);
            }
            VmaBacking::Shared(..) => {}
            VmaBacking::Anonymous => self.unmap_anonymous(part.range),
        }
        Ok(Some(part))
    }

    pub(super) fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        let before = self.vmas.try_parts(range).map_err(vma_errno)?;
        let denied = |part: &Vma<VmaBacking>| matches!(part.backing, VmaBacking::Shared(_, max_prot) if !max_prot.contains(prot));
        if before.iter().any(denied) {
            return Err(Errno::EACCES);
        }
        self.vmas.protect(range, prot).map_err(vma_errno)?;
        if prot.contains(Prot::EXEC) {
            self.sync_instructions(range);
        }
        if before.iter().all(|part| self.update_entries(part, prot).is_ok()) {
            return Ok(());
        }
        // A table was missing. What was changed goes back; the same cuts need no table twice.
        for part in &before {
            let _ = self.vmas.protect(part.range, part.prot);
            let _ = self.update_entries(part, part.prot);
        }
        Err(Errno::ENOMEM)
    }

    /// Gives the entries of `part` other rights.
    fn update_entries(&mut self, part: &Vma<VmaBacking>, prot: Prot) -> Result<(), Errno> {
        let asid = self.asid;
        let Some(table) = &mut self.table else { return Ok(()) };
        let done = table.protect(&mut table_frames::user(asid), part.range, part.backing.mapping(prot));
        arch::tlb::user(asid, part.range, Level::Last);
        done.map_err(|_| Errno::ENOMEM)
    }
}

/// What a program is told when its plan cannot be changed.
pub(super) fn vma_errno(error: VmaError) -> Errno {
    match error {
        VmaError::Range => Errno::EINVAL,
        VmaError::Overlap(_) => Errno::EEXIST,
        VmaError::Hole(_) | VmaError::TooMany | VmaError::OutOfMemory => Errno::ENOMEM,
    }
}
