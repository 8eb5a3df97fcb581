//! Demand paging: frames of anonymous memory are allocated by the page fault of the first access.

use super::backing::{BLOCK, VmaBacking, access_mapping, leaf_size, with_implied_read};
use super::{AccessError, Inner};
use crate::memory::{table_frames, window};
use crate::vm::huge_pages::HugePages;
use crate::vm::pages::{self, PinnedPages, RecordKind};
use crate::vm::registers::RegisterRegion;
use crate::vm::shared_memory::SharedMemory;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, Chunk, MemoryType, PAGE_SIZE, Pfn, PhysAddr, UserVa};
use arch::tlb::Level;
use core::ops::ControlFlow;
use pagetable::{Access, Leaf};
use program::{CowWrite, Vma};

/// Fault-around: a page fault populates the aligned block of this size around it, limited to the VMA and to
/// pages that are not mapped.
const FAULT_AROUND: u64 = 64 << 10;
/// The same for registers: a block.
pub(super) const REGISTERS_AROUND: u64 = 2 << 20;

impl Inner {
    pub(super) fn handle_fault(&mut self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        let vma = self.vmas.find(at).ok_or(AccessError::Unmapped)?.clone();
        if !with_implied_read(vma.prot).contains(access) || vma.prot.is_empty() {
            return Err(AccessError::Denied);
        }
        let mut leaf = self.translate(at);
        if leaf.is_none() {
            self.fault_in(at, &vma)?;
            // All others are mapped with the rights of the VMA.
            if !matches!(&vma.backing, VmaBacking::Memory(mapping) if !mapping.is_shared()) {
                return Ok(());
            }
            leaf = self.translate(at);
        }
        match leaf {
            Some(leaf) if access.contains(Prot::WRITE) && !leaf.access.contains(Access::WRITE) => {
                self.break_cow(at, &leaf, &vma)
            }
            // Another thread has handled the fault, or break-before-make made the entry invalid for a moment.
            _ => Ok(()),
        }
    }

    /// Gives the process a frame of its own for the page at `at` in `leaf`, or frames for the whole leaf
    /// (copy-on-write), with the protection of its VMA.
    fn break_cow(
        &mut self,
        at: UserVa,
        leaf: &Leaf<UserVa>,
        vma: &Vma<VmaBacking>,
    ) -> Result<(), AccessError> {
        let mapping = vma.backing.mapping(vma.prot);
        match pages::write(leaf.output()) {
            CowWrite::Reuse => {
                let range = AddrRange::new(leaf.at, leaf.at + leaf.bytes);
                self.change_rights(range, mapping);
                arch::tlb::user(self.asid, range, Level::Last);
            }
            CowWrite::Copy if leaf.bytes > PAGE_SIZE && vma.backing.is_anonymous() => {
                // As in Linux, one page is copied.
                self.split_block(leaf).map_err(|_| AccessError::OutOfMemory)?;
                if let Some(page) = self.translate(at) {
                    self.break_cow(at, &page, vma)?;
                }
            }
            CowWrite::Copy if leaf.bytes > PAGE_SIZE => {
                let size = vma.backing.huge_page_size();
                // SAFETY: the process owns the page, which the locked address space maps.
                let copy = unsafe { pages::alloc_block_copy(leaf.output(), size) };
                let copy = copy.map_err(|_| AccessError::BeyondFile)?;
                // SAFETY: `alloc_block_copy` has allocated the frames for this entry.
                unsafe { self.replace_leaf(leaf.at, copy.start(), mapping) };
            }
            CowWrite::Copy => {
                // SAFETY: the process owns the frame, which the locked address space maps.
                let copy = unsafe { pages::alloc_copy(leaf.to) }.map_err(|_| AccessError::OutOfMemory)?;
                if vma.prot.contains(Prot::EXEC) {
                    // SAFETY: the new frame has no other user.
                    unsafe { window::with_frame(copy, arch::cache::sync_instructions) };
                }
                // SAFETY: `alloc_copy` has allocated the frame for this entry.
                unsafe { self.replace_leaf(leaf.at, copy, mapping) };
            }
        }
        Ok(())
    }

    fn fault_in(&mut self, at: UserVa, vma: &Vma<VmaBacking>) -> Result<(), AccessError> {
        let around = AddrRange::new(at.align_down(FAULT_AROUND), at.align_down(FAULT_AROUND) + FAULT_AROUND);
        let part = vma.part(&around).ok_or(AccessError::Unmapped)?;
        match &vma.backing {
            VmaBacking::Memory(mapping) => self.map_page(at.align_down(PAGE_SIZE), vma, mapping.object()),
            VmaBacking::Huge(pages) => self.map_huge_page(at, vma, pages),
            VmaBacking::Anonymous { .. } if self.populate_block(at, vma) => Ok(()),
            VmaBacking::Anonymous { .. } | VmaBacking::File { .. } => {
                let (range, content) = initial_content(&part, at)?;
                self.populate_range(range, part.prot, content).or_else(|_| {
                    // Without memory for all of it, tries the faulting page alone.
                    let page = AddrRange::new(at.align_down(PAGE_SIZE), at.align_down(PAGE_SIZE) + PAGE_SIZE);
                    let before = (page.start().raw() - range.start().raw()) as usize;
                    self.populate_range(page, part.prot, content.get(before..).unwrap_or(&[]))
                })
            }
            // A failed `unmap` may have cleared entries of a VMA that still exists.
            VmaBacking::Shared(shared, _) => self
                .map_shared_part(shared, part.offset, part.range, part.prot)
                .map_err(|_| AccessError::OutOfMemory),
            VmaBacking::Registers(region, _) => self.map_registers(at, vma, region),
        }
    }

    /// Maps the pages of a region around `at` that are not mapped.
    fn map_registers(
        &mut self,
        at: UserVa,
        vma: &Vma<VmaBacking>,
        region: &RegisterRegion,
    ) -> Result<(), AccessError> {
        if !region.is_enabled() {
            return Err(AccessError::BeyondFile);
        }
        let start = at.align_down(REGISTERS_AROUND);
        let part = vma.part(&AddrRange::new(start, start + REGISTERS_AROUND)).ok_or(AccessError::Unmapped)?;
        let mapping = vma.backing.mapping(part.prot);
        // VMAs merge, so a part of the block may be mapped.
        let mut rest = part.range;
        while let Some(hole) = self.first_hole(rest) {
            let offset = part.offset + (hole.start().raw() - part.range.start().raw());
            let registers = region.part(offset, hole.len()).ok_or(AccessError::BeyondFile)?;
            // SAFETY: registers that the user of the region may access, as its constructor promises; the VMA
            // keeps the region, and a revocation clears the entries before the registers have another user.
            unsafe { self.map(hole.start(), Chunk::of_range(registers), mapping) }
                .map_err(|_| AccessError::OutOfMemory)?;
            rest = AddrRange::new(hole.end(), part.range.end());
        }
        Ok(())
    }

    /// Maps a block of zeroes around `at`, if the VMA permits it, nothing is mapped there, and a chunk of
    /// frames is free. Returns whether it does.
    fn populate_block(&mut self, at: UserVa, vma: &Vma<VmaBacking>) -> bool {
        let start = at.align_down(BLOCK);
        let uses_blocks = matches!(vma.backing, VmaBacking::Anonymous { uses_blocks: true });
        let range = AddrRange::new(start, start + BLOCK);
        if !uses_blocks || !vma.prot.contains(Prot::WRITE) || !vma.range.covers(&range) {
            return false;
        }
        if self.first_hole(range) != Some(range) {
            return false;
        }
        let Ok(mut block) = pages::alloc_block(None) else { return false };
        window::zero(&mut block);
        let mapping = vma.backing.mapping(vma.prot).only(leaf_size(BLOCK));
        // SAFETY: the entry becomes the owner of `block`, which has no other mapping; after an error no entry
        // maps it.
        let mapped = unsafe { self.map(start, core::iter::once(block.chunk()), mapping) };
        match mapped {
            // The page table entry owns the frames now.
            Ok(()) => {
                block.release();
                self.has_blocks = true;
            }
            Err(_) => pages::free_unmapped_block(block),
        }
        mapped.is_ok()
    }

    /// Maps the huge page around `at`.
    fn map_huge_page(
        &mut self,
        at: UserVa,
        vma: &Vma<VmaBacking>,
        pages: &HugePages,
    ) -> Result<(), AccessError> {
        let size = pages.size().bytes();
        let start = at.align_down(size);
        let index = (vma.offset + (start.raw() - vma.range.start().raw())) / size;
        let page = pages.page(index).map_err(|_| AccessError::BeyondFile)?;
        if vma.prot.contains(Prot::EXEC) {
            // SAFETY: the owner that `page` added; all mappings of it are write-back.
            unsafe { window::with_write_back(page, arch::cache::sync_instructions) };
        }
        let mapping = vma.backing.mapping(vma.prot);
        // SAFETY: the entry is the owner that `page` added; all mappings of the frames are write-back.
        unsafe { self.map(start, core::iter::once(page), mapping) }.map_err(|_| {
            // SAFETY: the owner that was added above; no entry maps the frames.
            unsafe { self::pages::release(page.range(), RecordKind::Block) };
            AccessError::OutOfMemory
        })
    }

    /// Maps the page of `object` at `at`; read-only in a private mapping, which copies it on write.
    fn map_page(
        &mut self,
        at: UserVa,
        vma: &Vma<VmaBacking>,
        object: &SharedMemory,
    ) -> Result<(), AccessError> {
        self.has_shared_frames |= vma.backing.is_private();
        let mapping = self.populated_mapping(&vma.backing, vma.prot);
        let index = (vma.offset + (at.raw() - vma.range.start().raw())) / PAGE_SIZE;
        let mapped = object.with_page(index, |frame| {
            // SAFETY: a page of the object, which is locked.
            unsafe { pages::share(frame) }.map_err(|_| AccessError::OutOfMemory)?;
            if vma.prot.contains(Prot::EXEC) {
                // SAFETY: as above; all mappings of it are write-back.
                unsafe { window::with_frame(frame, arch::cache::sync_instructions) };
            }
            let page = core::iter::once(Chunk::page(Pfn::containing(frame)));
            // SAFETY: the entry is the owner that was added above; all mappings of the frame are write-back.
            unsafe { self.map(at, page, mapping) }.map_err(|_| {
                // SAFETY: the owner that was added above; no entry maps the frame.
                unsafe { pages::release(AddrRange::new(frame, frame + PAGE_SIZE), RecordKind::Frame) };
                AccessError::OutOfMemory
            })
        });
        mapped.unwrap_or_else(|error| match error {
            Errno::EFAULT => Err(AccessError::BeyondFile),
            _ => Err(AccessError::OutOfMemory),
        })
    }

    /// Populates `part` of a VMA whose entries own their frames.
    ///
    /// # Errors
    /// `EFAULT` beyond the end of a file, `ENOMEM`.
    pub(super) fn populate_part(&mut self, part: &Vma<VmaBacking>) -> Result<(), Errno> {
        if let VmaBacking::Memory(mapping) = &part.backing {
            let object = mapping.object();
            return (0..part.range.len() / PAGE_SIZE).try_for_each(|page| {
                let at = part.range.start() + page * PAGE_SIZE;
                match self.translate(at) {
                    Some(_) => Ok(()),
                    None => self.map_page(at, part, object).map_err(access_errno),
                }
            });
        }
        if let VmaBacking::Huge(pages) = &part.backing {
            let size = pages.size().bytes();
            let mut at = part.range.start();
            while at < part.range.end() {
                if self.translate(at).is_none() {
                    self.map_huge_page(at, part, pages).map_err(access_errno)?;
                }
                at = at.align_down(size) + size;
            }
            return Ok(());
        }
        // A step of `populate` is at most a block.
        if part.range.len() == BLOCK && self.populate_block(part.range.start(), part) {
            return Ok(());
        }
        let (range, content) = initial_content(part, part.range.start()).map_err(|_| Errno::EFAULT)?;
        self.populate_range(range, part.prot, content).map_err(|_| Errno::ENOMEM)?;
        if range.end() < part.range.end() { Err(Errno::EFAULT) } else { Ok(()) }
    }

    /// Maps a frame at every page of `range` that is not mapped: with its part of `content`, which begins at
    /// the start of the range, and zeroes behind it.
    pub(super) fn populate_range(
        &mut self,
        range: AddrRange<UserVa>,
        prot: Prot,
        content: &[u8],
    ) -> Result<(), AccessError> {
        let mut rest = range;
        while let Some(hole) = self.first_hole(rest) {
            let content = content.get((hole.start().raw() - range.start().raw()) as usize..).unwrap_or(&[]);
            self.populate_hole(hole, prot, content)?;
            rest = AddrRange::new(hole.end(), range.end());
        }
        Ok(())
    }

    /// The first pages of `range` that are not mapped, up to the next that is.
    fn first_hole(&self, range: AddrRange<UserVa>) -> Option<AddrRange<UserVa>> {
        let (mut start, mut end) = (range.start(), range.end());
        if let Some(table) = &self.table {
            table.runs_until(&table_frames::user(self.asid), range, |run| {
                if run.at > start {
                    end = run.at;
                    return ControlFlow::Break(());
                }
                start = run.input().end();
                ControlFlow::Continue(())
            });
        }
        (start < end).then(|| AddrRange::new(start, end))
    }

    fn populate_hole(
        &mut self,
        hole: AddrRange<UserVa>,
        prot: Prot,
        content: &[u8],
    ) -> Result<(), AccessError> {
        let mut frames = pages::alloc_zeroed(hole.len() / PAGE_SIZE).map_err(|_| AccessError::OutOfMemory)?;
        if !content.is_empty() {
            window::fill(&mut frames, content);
        }
        if prot.contains(Prot::EXEC) {
            for chunk in frames.chunks() {
                // SAFETY: `frames` owns the chunk, and all mappings of it are write-back.
                unsafe { window::with_write_back(chunk, arch::cache::sync_instructions) };
            }
        }
        let mapping = access_mapping(MemoryType::WriteBack, prot).pages_only();
        // SAFETY: the entries become the owners of `frames`, which have no other mapping; after an error no
        // entry maps them.
        let mapped = unsafe { self.map(hole.start(), frames.chunks(), mapping) };
        if mapped.is_err() {
            pages::free_unmapped(frames);
            return Err(AccessError::OutOfMemory);
        }
        // The page table entries own the frames now.
        frames.drain().for_each(|chunk| {
            chunk.release();
        });
        Ok(())
    }

    /// Pins the pages of `range` for `access` of a device, and adds them to `pinned`.
    ///
    /// # Errors
    /// As [`AddressSpace::pin`](super::AddressSpace::pin); the pages that were added before stay pinned.
    pub(super) fn pin(
        &mut self,
        range: AddrRange<UserVa>,
        access: Prot,
        pinned: &mut PinnedPages,
    ) -> Result<(), Errno> {
        let mut at = range.start();
        while at < range.end() {
            let before = at;
            at = self.pin_mapped(AddrRange::new(at, range.end()), access, pinned)?;
            if at == before {
                // Not mapped, or possibly shared: resolved for the next run.
                self.anonymous_frame(at, access)?;
                let leaf = self.translate(at).ok_or(Errno::EFAULT)?;
                at = (leaf.at + leaf.bytes).min(range.end());
                // SAFETY: the entry of this process maps the frames, which it does not share.
                if !unsafe {
                    pinned.add(
                        leaf.translate(before),
                        at.raw() - before.raw(),
                        RecordKind::of_leaf(leaf.bytes),
                    )
                } {
                    return Err(Errno::ENOMEM);
                }
            }
        }
        Ok(())
    }

    /// Pins the first pages of `range` that are in one VMA, mapped, and not possibly shared for
    /// copy-on-write. Returns the address of the first other page.
    fn pin_mapped(
        &self,
        range: AddrRange<UserVa>,
        access: Prot,
        pinned: &mut PinnedPages,
    ) -> Result<UserVa, Errno> {
        let vma = self.vmas.find(range.start()).ok_or(Errno::EFAULT)?;
        if !vma.backing.owns_frames() || !with_implied_read(vma.prot).contains(access) {
            return Err(Errno::EFAULT);
        }
        let (mut at, end) = (range.start(), range.end().min(vma.range.end()));
        let may_share = self.has_shared_frames && vma.backing.is_private();
        let whole = AddrRange::new(at.align_down(PAGE_SIZE), end).align_outward(PAGE_SIZE);
        let (Some(table), Some(whole)) = (&self.table, whole) else { return Ok(at) };
        let mut result = Ok(());
        table.runs_until(&table_frames::user(self.asid), whole, |run| {
            let is_shared = may_share && !run.access.contains(Access::WRITE);
            if run.at > at || is_shared {
                return ControlFlow::Break(());
            }
            let run_end = run.input().end().min(end);
            let (start, len) = (run.to + (at.raw() - run.at.raw()), run_end.raw() - at.raw());
            // SAFETY: the entries of this process map the frames, which it does not share.
            if !unsafe { pinned.add(start, len, RecordKind::of_leaf(run.leaf_bytes())) } {
                result = Err(Errno::ENOMEM);
                return ControlFlow::Break(());
            }
            at = run_end;
            ControlFlow::Continue(())
        });
        result.map(|()| at)
    }

    /// Returns the physical address of `at`, which must be anonymous memory that permits `access`. Populates
    /// it if necessary, in a frame that is not shared for copy-on-write: the process keeps the frame when it
    /// writes to the page.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub(super) fn anonymous_frame(&mut self, at: UserVa, access: Prot) -> Result<PhysAddr, Errno> {
        let vma = self.vmas.find(at).ok_or(Errno::EFAULT)?.clone();
        if !vma.backing.owns_frames() || !with_implied_read(vma.prot).contains(access) {
            return Err(Errno::EFAULT);
        }
        if self.translate(at).is_none() {
            self.fault_in(at, &vma).map_err(access_errno)?;
        }
        // A writable entry is the only owner.
        let is_read_only = |leaf: &Leaf<UserVa>| !leaf.access.contains(Access::WRITE);
        let may_share = self.has_shared_frames && vma.backing.is_private();
        if let Some(leaf) = self.translate(at).filter(|leaf| may_share && is_read_only(leaf)) {
            self.break_cow(at, &leaf, &vma).map_err(|_| Errno::ENOMEM)?;
        }
        self.translate(at).map(|leaf| leaf.translate(at)).ok_or(Errno::EFAULT)
    }
}

/// The errno of an access by a system call.
fn access_errno(error: AccessError) -> Errno {
    match error {
        AccessError::BeyondFile => Errno::EFAULT,
        _ => Errno::ENOMEM,
    }
}

/// The pages of `part` that can be accessed, and the part of a file that they contain; empty for anonymous
/// memory.
///
/// # Errors
/// [`AccessError::BeyondFile`] if the page of `at` is not one of them.
fn initial_content(
    part: &Vma<VmaBacking>,
    at: UserVa,
) -> Result<(AddrRange<UserVa>, &'static [u8]), AccessError> {
    let VmaBacking::File { content, .. } = part.backing else { return Ok((part.range, &[])) };
    let content = usize::try_from(part.offset).ok().and_then(|offset| content.get(offset..)).unwrap_or(&[]);
    let len = (content.len() as u64).next_multiple_of(PAGE_SIZE).min(part.range.len());
    let range = AddrRange::new(part.range.start(), part.range.start() + len);
    if range.contains(at) { Ok((range, content)) } else { Err(AccessError::BeyondFile) }
}
