//! Changes of VMAs, and the corresponding changes of the page tables.

use super::backing::{BLOCK, VmaBacking};
use super::page_fault::REGISTERS_AROUND;
use super::{Inner, MmapPlacement, steps};
use crate::memory::table_frames;
use crate::sched;
use crate::vm::registers::RegisterRegion;
use abi::Errno;
use abi::memory::{Advice, Prot};
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use alloc::vec::Vec;
use arch::tlb::Level;
use program::{Alignment, MemoryLock, USER_END, USER_START, Vma, VmaError};

/// The bytes whose protection changes between two checks for the termination of the process: the largest
/// block, so that a step splits none.
const PROTECT_STEP: u64 = 1 << 30;

impl Inner {
    /// Adds the VMA that `new` returns for a range of `len` bytes, rounded up to pages. For
    /// [`MmapPlacement::Fixed`] unmaps the existing mappings first, as [`unmap_all`](Self::unmap_all), if
    /// there is room for the VMA.
    pub(super) fn insert_placed(
        &mut self,
        len: u64,
        placement: MmapPlacement,
        alignment: Alignment,
        removed: &mut Vec<Vma<VmaBacking>>,
        new: impl FnOnce(AddrRange<UserVa>) -> Vma<VmaBacking>,
    ) -> Result<AddrRange<UserVa>, Errno> {
        let len =
            len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len <= USER_END).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let (at, replaces) = match placement {
            MmapPlacement::Hint(hint) => {
                let hint = hint.filter(|at| at.raw() >= USER_START);
                return self.vmas.insert_unmapped(len, alignment, hint, new).map_err(vma_errno);
            }
            MmapPlacement::FixedNoReplace(at) => (at, false),
            MmapPlacement::Fixed(at) => (at, true),
        };
        let range = AddrRange::from_len(at, len).filter(|_| at.is_aligned(PAGE_SIZE)).ok_or(Errno::EINVAL)?;
        if replaces {
            self.check_huge_borders(range)?;
            if !self.vmas.has_room_without(range, 1) {
                return Err(Errno::ENOMEM);
            }
            self.unmap_all(range, removed)?;
        }
        self.vmas.insert(new(range)).map(|()| range).map_err(vma_errno)
    }

    /// Unmaps all mappings in `range`, and adds those of buffers to `removed`, which must be dropped after
    /// the lock is released: the last reference frees its buffer.
    ///
    /// # Errors
    /// `ENOMEM` without room in `removed`: nothing is unmapped. Those of [`unmap_first`](Self::unmap_first).
    pub(super) fn unmap_all(
        &mut self,
        range: AddrRange<UserVa>,
        removed: &mut Vec<Vma<VmaBacking>>,
    ) -> Result<(), Errno> {
        let is_referenced = |part: &Vma<VmaBacking>| part.backing.is_counted();
        let referenced = self.vmas.parts(range).filter(is_referenced).count();
        removed.try_reserve(referenced).map_err(|_| Errno::ENOMEM)?;
        while let Some(part) = self.unmap_first(range, sched::is_interrupted)? {
            removed.extend(Some(part).filter(is_referenced));
        }
        Ok(())
    }

    /// Unmaps the part of the first VMA that overlaps `range`, and returns it, to be dropped after the lock
    /// is released.
    ///
    /// # Errors
    /// `ENOMEM`, and `EINTR` if `must_stop` returned true. The VMA still exists; a page fault maps the part
    /// of it that is already unmapped.
    pub(super) fn unmap_first(
        &mut self,
        range: AddrRange<UserVa>,
        must_stop: impl Fn() -> bool,
    ) -> Result<Option<Vma<VmaBacking>>, Errno> {
        let Some(part) = self.vmas.remove_first(range).map_err(vma_errno)? else { return Ok(None) };
        let unmapped = match part.backing {
            // Splitting a block allocates a table, which can fail.
            VmaBacking::Shared(..) | VmaBacking::Registers(..) => self.clear_entries(part.range),
            _ => self.unmap_owned(part.range, must_stop),
        };
        match unmapped {
            Ok(()) => Ok(Some(part)),
            Err(error) => {
                self.vmas.reinsert(part);
                Err(error)
            }
        }
    }

    /// Checks that no huge page is across a border of `range`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn check_huge_borders(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        let is_inside_page = |at: UserVa| {
            let vma = self.vmas.find(at).filter(|vma| vma.range.start() < at);
            vma.and_then(|vma| vma.backing.huge_page_size()).is_some_and(|size| !at.is_aligned(size.bytes()))
        };
        let is_refused =
            self.has_huge_pages && (is_inside_page(range.start()) || is_inside_page(range.end()));
        if is_refused { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Changes the protection of `range` up to its first hole.
    ///
    /// # Errors
    /// `ENOMEM` if there is one; `EACCES` and `ENOMEM` otherwise without a change.
    pub(super) fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        let Some(hole) = self.vmas.first_hole(range) else { return self.protect_mapped(range, prot) };
        if hole > range.start() {
            self.protect_mapped(AddrRange::new(range.start(), hole), prot)?;
        }
        Err(Errno::ENOMEM)
    }

    fn protect_mapped(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        self.check_huge_borders(range)?;
        let before = self.vmas.try_parts(range).map_err(vma_errno)?;
        if before.iter().any(|part| !part.backing.max_prot().contains(prot)) {
            return Err(Errno::EACCES);
        }
        for border in [range.start(), range.end()] {
            if self.vmas.find(border).is_some_and(|vma| vma.backing.is_anonymous()) {
                self.split_block_across(border)?;
            }
        }
        self.vmas.protect(range, prot).map_err(vma_errno)?;
        if prot.contains(Prot::EXEC) {
            self.sync_instructions(range)?;
        }
        let updated = before.iter().try_for_each(|part| self.update_entries(part, prot));
        if updated == Err(Errno::ENOMEM) {
            // Out of tables. Restores the old protection: the blocks that this affects were split before, so
            // it allocates nothing.
            for part in &before {
                let _ = self.vmas.protect(part.range, part.prot);
                let _ = self.update_entries(part, part.prot);
            }
        }
        updated
    }

    /// Moves the mapping `old`, as [`AddressSpace::move_to`](super::AddressSpace::move_to).
    pub(super) fn move_mapping(
        &mut self,
        old: AddrRange<UserVa>,
        len: u64,
        placement: MmapPlacement,
        removed: &mut Vec<Vma<VmaBacking>>,
    ) -> Result<UserVa, Errno> {
        let whole = self.vmas.find(old.start()).filter(|vma| vma.range.covers(&old)).ok_or(Errno::EFAULT)?;
        let vma = whole.part(&old).ok_or(Errno::EFAULT)?;
        if let Some(size) = vma.backing.huge_page_size() {
            let is_fixed_inside =
                matches!(placement, MmapPlacement::Fixed(at) if !at.is_aligned(size.bytes()));
            // As in Linux: there is no reservation for more.
            if is_fixed_inside || len > old.len() {
                return Err(Errno::EINVAL);
            }
            self.check_huge_borders(old)?;
        }
        let alignment = match &vma.backing {
            // As a mapping of device memory in Linux (VM_DONTEXPAND).
            VmaBacking::Shared(..) | VmaBacking::Registers(..) if len > old.len() => {
                return Err(Errno::EFAULT);
            }
            VmaBacking::Shared(buffer, _) => Alignment::like_offset(buffer.alignment(), vma.offset),
            VmaBacking::Registers(region, _) => register_alignment(region, vma.offset),
            VmaBacking::Huge(pages) => Alignment::like_offset(pages.size().bytes(), 0),
            // So that blocks need not be split.
            VmaBacking::Anonymous { .. } if old.len() >= BLOCK => {
                Alignment::like_offset(BLOCK, old.start().raw())
            }
            VmaBacking::Anonymous { .. } | VmaBacking::File { .. } | VmaBacking::Memory(_) => Alignment::PAGE,
        };
        // One for the new range, which may replace others, and one if `old` is the middle of a VMA.
        let target = match placement {
            MmapPlacement::Fixed(at) => AddrRange::from_len(at, len).ok_or(Errno::EINVAL)?,
            MmapPlacement::Hint(_) | MmapPlacement::FixedNoReplace(_) => AddrRange::EMPTY,
        };
        if !self.vmas.has_room_without(target, 2) {
            return Err(Errno::ENOMEM);
        }
        let moved_to = |range: AddrRange<UserVa>| match vma.backing {
            VmaBacking::Anonymous { uses_blocks } => {
                Vma { lock: vma.lock, ..anonymous(range, vma.prot, uses_blocks) }
            }
            VmaBacking::Huge(_)
            | VmaBacking::File { .. }
            | VmaBacking::Memory(_)
            | VmaBacking::Shared(..)
            | VmaBacking::Registers(..) => Vma { range, ..vma.clone() },
        };
        let range = self.insert_placed(len, placement, alignment, removed, moved_to)?;
        let moved = moved_to(range);
        if let Err(error) = self.move_entries(&vma, &moved) {
            // Removes the VMA inserted above, also if it was merged with a neighbour.
            let _ = self.vmas.remove_first(range);
            return Err(error);
        }
        // Its entries are cleared, and the new range refers to its buffer. There is room, so it cannot fail.
        if let Err(error) = self.vmas.remove_first(old) {
            panic!("the moved mapping {old:?} stays: {error:?}");
        }
        Ok(range.start())
    }

    /// Moves the entries of `from` to `to`, which has none; on an error, no entry.
    fn move_entries(&mut self, from: &Vma<VmaBacking>, to: &Vma<VmaBacking>) -> Result<(), Errno> {
        let mapped = match &from.backing {
            VmaBacking::Shared(buffer, _) => self.map_shared_part(buffer, to.offset, to.range, to.prot),
            // Page faults map them at the new addresses.
            VmaBacking::Registers(..) => Ok(()),
            _ => self.split_for_move(from, to).and_then(|()| self.map_again(from, to)),
        };
        // Both ranges map the frames for a moment, with the same attributes. The old entries are cleared
        // last, so that an error leaves them.
        mapped.and_then(|()| self.clear_entries(from.range)).inspect_err(|_| {
            // Clears pages, or the blocks mapped above; neither needs memory.
            let _ = self.clear_entries(to.range);
        })
    }

    /// Follows `advice` for `part` of a VMA. Memory that is populated already is not populated here.
    pub(super) fn advise_part(&mut self, part: &Vma<VmaBacking>, advice: Advice) -> Result<(), Errno> {
        match (advice, &part.backing) {
            (Advice::DontNeed | Advice::Free, _) if part.lock != MemoryLock::None => Err(Errno::EINVAL),
            // The pages of the mapping go; a memory object keeps its content.
            (Advice::DontNeed | Advice::Free, VmaBacking::Anonymous { .. })
            | (Advice::DontNeed, VmaBacking::File { .. } | VmaBacking::Memory(_)) => {
                self.unmap_owned(part.range, sched::is_interrupted)
            }
            (Advice::DontNeed, VmaBacking::Huge(pages)) => {
                // As in Linux: a start inside a page is refused, and so is a page of which only a part goes.
                let (size, range) = (pages.size().bytes(), part.range);
                if !range.start().is_aligned(size) {
                    return Err(Errno::EINVAL);
                }
                let whole = AddrRange::new(range.start(), range.end().align_down(size));
                self.unmap_owned(whole, sched::is_interrupted)
            }
            (Advice::Blocks(uses_blocks), VmaBacking::Anonymous { .. }) => {
                // A block is in one VMA.
                self.split_block_across(part.range.start())?;
                self.split_block_across(part.range.end())?;
                let set = |part: &mut Vma<_>| part.backing = VmaBacking::Anonymous { uses_blocks };
                self.vmas.update(part.range, set).map(|_| ()).map_err(vma_errno)
            }
            // As in Linux for memory that is not managed by pages (VM_PFNMAP).
            (Advice::DontNeed | Advice::Free, _) => Err(Errno::EINVAL),
            (Advice::Hint | Advice::Blocks(_) | Advice::Populate(_), _) => Ok(()),
        }
    }

    /// Changes the entries of `part` to protection `prot`.
    ///
    /// # Errors
    /// `ENOMEM`, and `EINTR` if the process is being terminated. Some entries are changed.
    fn update_entries(&mut self, part: &Vma<VmaBacking>, prot: Prot) -> Result<(), Errno> {
        let (asid, mapping) = (self.asid, self.populated_mapping(&part.backing, prot));
        let Some(table) = &mut self.table else { return Ok(()) };
        let memory = &mut table_frames::user(asid);
        let done = steps(part.range, PROTECT_STEP).try_for_each(|step| {
            if step.start() > part.range.start() && sched::is_interrupted() {
                return Err(Errno::EINTR);
            }
            table.protect(memory, step, mapping).map_err(|_| Errno::ENOMEM)
        });
        arch::tlb::user(asid, part.range, Level::Last);
        done
    }
}

/// A VMA of private anonymous memory.
pub(super) fn anonymous(range: AddrRange<UserVa>, prot: Prot, uses_blocks: bool) -> Vma<VmaBacking> {
    let (lock, offset) = (MemoryLock::None, range.start().raw());
    Vma { range, prot, lock, backing: VmaBacking::Anonymous { uses_blocks }, offset }
}

/// The alignment of a mapping of registers from `offset` on, so that page faults can map blocks.
pub(super) fn register_alignment(region: &RegisterRegion, offset: u64) -> Alignment {
    Alignment::like_offset(REGISTERS_AROUND, region.range().start().raw() + offset)
}

/// The errno of a failed change of VMAs.
pub(super) fn vma_errno(error: VmaError) -> Errno {
    match error {
        VmaError::Range => Errno::EINVAL,
        VmaError::Overlap(_) => Errno::EEXIST,
        VmaError::Hole(_) | VmaError::NoGap | VmaError::TooMany | VmaError::OutOfMemory => Errno::ENOMEM,
    }
}
