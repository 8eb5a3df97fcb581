//! The user half of an address space: the VMAs ([`VmaMap`]), the page tables derived from them, and the lock
//! for both.
//!
//! Anonymous memory is populated by page faults ([`AddressSpace::handle_fault`], demand paging); buffers are
//! mapped completely by `mmap`. The lock is a [`Mutex`]: an operation on a large range is atomic towards
//! other threads and runs with interrupts enabled. It is held during a user copy only to repeat an access
//! that faulted ([`AddressSpace::handle_fault_then`]).
//!
//! A frame is freed in three steps: its entry is cleared, the TLBs are invalidated, and it returns to the
//! allocator. If it is pinned for a device, its last unpin frees it ([`super::pages`]).

mod backing;
mod entries;
mod fork;
mod inspect;
mod locked;
mod page_fault;
mod vma;

pub use backing::{FileContent, VmaBacking};
pub use inspect::PageCounts;

use super::asid::OwnedAsid;
use super::huge_pages::HugePages;
use super::pages::PinnedPages;
use super::registers::RegisterRegion;
use super::shared_memory::{MemoryMapping, SharedMemory};
use crate::dma::ChunkedBuffer;
use crate::memory::{table_frames, window};
use crate::sched::{self, Mutex, MutexGuard};
use abi::Errno;
use abi::memory::{Advice, Prot};
use addr::{AddrRange, Address, Asid, KernelVa, PAGE_SIZE, PhysAddr, UserVa};
use alloc::sync::Arc;
use alloc::vec::Vec;
use backing::{BLOCK, check_write_xor_execute, with_implied_read};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use pagetable::{Leaf, PageTable, Stage1};
use program::{Alignment, HugePageSize, MemoryLock, USER_END, USER_START, Vma, VmaMap};
use vma::{anonymous, register_alignment, vma_errno};

/// The input address bits of the user half.
const INPUT_BITS: u8 = 48;
/// The user half.
fn user_range() -> AddrRange<UserVa> {
    AddrRange::new(UserVa::new(USER_START), UserVa::new(USER_END))
}
/// The bytes that `MAP_POPULATE` fills per acquisition of the lock.
const POPULATE_STEP: u64 = 2 << 20;
/// The bytes that are pinned per acquisition of the lock.
const PIN_STEP: u64 = 64 << 20;
/// The maximum number of VMAs. Linux permits 65530; here a program must not exhaust the kernel's heap.
pub const VMAS_MAX: usize = 4096;
/// The maximum end of the heap (`brk`), which grows upwards; `mmap` allocates from the top down.
const HEAP_END: u64 = USER_END - (1 << 30);

/// The placement of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmapPlacement {
    /// Any free range, preferably at this address.
    Hint(Option<UserVa>),
    /// At this address; replaces existing mappings (`MAP_FIXED`).
    Fixed(UserVa),
    /// At this address, which must be free (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(UserVa),
}

/// A page fault that cannot be resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// The address is in no VMA.
    Unmapped,
    /// The VMA's protection does not permit the access.
    Denied,
    /// The VMA maps a file, which ends below the page, or no huge page is free (`SIGBUS`).
    BeyondFile,
    /// No frame or page table can be allocated.
    OutOfMemory,
    /// The process is being terminated.
    Interrupted,
}

type Table = PageTable<Stage1, UserVa>;

/// The address space of a process; see the module's documentation.
pub struct AddressSpace {
    asid: OwnedAsid,
    root: PhysAddr,
    /// The processes whose threads run in it: two during `vfork`.
    users: AtomicU32,
    /// The lock of new mappings (`MCL_FUTURE`): a [`MemoryLock`].
    new_lock: AtomicU8,
    inner: Mutex<Inner>,
}

struct Inner {
    vmas: VmaMap<VmaBacking>,
    /// `None` after the last [`AddressSpace::leave`].
    table: Option<Table>,
    asid: Asid,
    /// The heap (`brk`).
    heap: AddrRange<UserVa>,
    /// Whether a fork has shared frames, which must not become writable before the write to each.
    has_shared_frames: bool,
    /// Whether blocks of anonymous memory may be mapped.
    has_blocks: bool,
    /// Whether huge pages may be mapped.
    has_huge_pages: bool,
}

impl AddressSpace {
    /// An empty address space. `None` without a frame for the root table, or without a free ASID.
    pub fn new() -> Option<Self> {
        let asid = OwnedAsid::allocate()?;
        let table = Table::new(&mut table_frames::user(asid.get()), INPUT_BITS).ok()?;
        let vmas = VmaMap::new(user_range(), VMAS_MAX);
        let (root, heap) = (table.root(), AddrRange::EMPTY);
        let inner = Inner {
            vmas,
            table: Some(table),
            asid: asid.get(),
            heap,
            has_shared_frames: false,
            has_blocks: false,
            has_huge_pages: false,
        };
        let inner = Mutex::new(inner);
        Some(Self { asid, root, users: AtomicU32::new(1), new_lock: AtomicU8::new(0), inner })
    }

    /// Installs the address space in this CPU's TTBR0.
    ///
    /// # Safety
    /// This CPU uninstalls it before [`leave`](Self::leave) and before the drop.
    pub unsafe fn install(&self) {
        if arch::mmu::user_root() == Some((self.root, self.asid.get())) {
            return;
        }
        // SAFETY: the table lives until `leave`, before which the caller uninstalls it; the ASID is owned
        // until drop, and no TLB holds entries of an earlier owner (`OwnedAsid`).
        unsafe { arch::mmu::install_user(self.root, self.asid.get()) };
    }

    /// # Errors
    /// `EINTR` if the process is being terminated, so that no program receives it.
    fn lock(&self) -> Result<MutexGuard<'_, Inner>, Errno> {
        self.inner.lock_killable().map_err(|_| Errno::EINTR)
    }

    /// Maps private anonymous memory, in blocks where possible.
    pub fn map_anonymous(&self, len: u64, placement: MmapPlacement, prot: Prot) -> Result<UserVa, Errno> {
        // As in Linux.
        let alignment = if len >= BLOCK && len.is_multiple_of(BLOCK) { BLOCK } else { PAGE_SIZE };
        self.map_private(len, placement, prot, Alignment::like_offset(alignment, 0), true)
    }

    /// Maps private anonymous memory in pages: for the stack of a thread, most of which is never used.
    pub fn map_stack(&self, len: u64, placement: MmapPlacement, prot: Prot) -> Result<UserVa, Errno> {
        // A short one has no room for a block, and can be merged with other memory.
        self.map_private(len, placement, prot, Alignment::PAGE, len < BLOCK)
    }

    fn map_private(
        &self,
        len: u64,
        placement: MmapPlacement,
        prot: Prot,
        alignment: Alignment,
        uses_blocks: bool,
    ) -> Result<UserVa, Errno> {
        check_write_xor_execute(prot)?;
        let mut removed = Vec::new();
        let new = |range| anonymous(range, prot, uses_blocks);
        let range = self.lock()?.insert_placed(len, placement, alignment, &mut removed, new)?;
        Ok(range.start())
    }

    /// Maps `len` bytes, a multiple of their size, of huge pages.
    ///
    /// # Errors
    /// `EINVAL` for a fixed address that is not a multiple of the size.
    pub fn map_huge(
        &self,
        pages: Arc<HugePages>,
        len: u64,
        placement: MmapPlacement,
        prot: Prot,
    ) -> Result<UserVa, Errno> {
        check_write_xor_execute(prot)?;
        let size = pages.size().bytes();
        let placement = match placement {
            MmapPlacement::Hint(hint) => MmapPlacement::Hint(hint.and_then(|at| at.align_up(size))),
            MmapPlacement::Fixed(at) | MmapPlacement::FixedNoReplace(at) if !at.is_aligned(size) => {
                return Err(Errno::EINVAL);
            }
            fixed => fixed,
        };
        let mut removed = Vec::new();
        let backing = VmaBacking::Huge(pages);
        let new = |range| Vma { range, prot, lock: MemoryLock::None, backing, offset: 0 };
        let alignment = Alignment::like_offset(size, 0);
        let mut inner = self.lock()?;
        inner.has_huge_pages = true;
        let range = inner.insert_placed(len, placement, alignment, &mut removed, new)?;
        Ok(range.start())
    }

    /// Maps shared anonymous memory: a memory object of its own.
    pub fn map_shared_anonymous(
        &self,
        len: u64,
        placement: MmapPlacement,
        prot: Prot,
    ) -> Result<UserVa, Errno> {
        let object = SharedMemory::new()?;
        object.writer().truncate(len)?;
        let mapping = MemoryMapping::new(object, true, (prot, Prot::all()))?;
        self.map_memory(mapping, (0, len), placement, prot)
    }

    /// Maps `len` bytes of a memory object from `offset` on. Pages beyond its end cannot be accessed.
    ///
    /// # Errors
    /// `EACCES` for a protection above the maximum of `mapping`.
    pub fn map_memory(
        &self,
        mapping: MemoryMapping,
        (offset, len): (u64, u64),
        placement: MmapPlacement,
        prot: Prot,
    ) -> Result<UserVa, Errno> {
        self.map_demand_paged(VmaBacking::Memory(mapping), (offset, len), placement, prot)
    }

    /// Maps `len` bytes of a file from `offset` on: copies of its pages, made on demand.
    ///
    /// # Errors
    /// `EACCES` for a shared mapping that is writable, since the file is not.
    pub fn map_file(
        &self,
        content: FileContent,
        (offset, len): (u64, u64),
        placement: MmapPlacement,
        (prot, is_shared): (Prot, bool),
    ) -> Result<UserVa, Errno> {
        self.map_demand_paged(VmaBacking::File { content, is_shared }, (offset, len), placement, prot)
    }

    fn map_demand_paged(
        &self,
        backing: VmaBacking,
        (offset, len): (u64, u64),
        placement: MmapPlacement,
        prot: Prot,
    ) -> Result<UserVa, Errno> {
        check_write_xor_execute(prot)?;
        if !backing.max_prot().contains(prot) {
            return Err(Errno::EACCES);
        }
        let mut removed = Vec::new();
        let new = |range| Vma { range, prot, lock: MemoryLock::None, backing, offset };
        let range = self.lock()?.insert_placed(len, placement, Alignment::PAGE, &mut removed, new)?;
        Ok(range.start())
    }

    /// Maps `len` bytes of a buffer from `offset` on, fully populated, with the largest blocks that its
    /// chunks permit: the address is congruent with `offset` modulo the alignment of the chunks.
    pub fn map_shared(
        &self,
        shared: Arc<ChunkedBuffer>,
        (offset, len): (u64, u64),
        placement: MmapPlacement,
        (prot, max_prot): (Prot, Prot),
    ) -> Result<UserVa, Errno> {
        check_write_xor_execute(prot)?;
        if !max_prot.contains(prot) {
            return Err(Errno::EACCES);
        }
        if offset.checked_add(len).is_none_or(|end| end > shared.len()) {
            return Err(Errno::EINVAL);
        }
        let mut removed = Vec::new();
        let range = {
            let mut inner = self.lock()?;
            let alignment = Alignment::like_offset(shared.alignment(), offset);
            let backing = VmaBacking::Shared(shared.clone(), max_prot);
            let new = |range| Vma { range, prot, lock: MemoryLock::None, backing, offset };
            let range = inner.insert_placed(len, placement, alignment, &mut removed, new)?;
            inner.map_shared_part(&shared, offset, range, prot).inspect_err(|_| {
                // Removes the VMA inserted above, also if it was merged with a neighbour.
                let _ = inner.vmas.remove_first(range);
            })?;
            range
        };
        shared.trace_mmap();
        Ok(range.start())
    }

    /// Maps `len` bytes of registers from `offset` on. Page faults map the pages.
    ///
    /// # Errors
    /// `EACCES` for a protection above the maximum, `EINVAL` beyond the end of the region.
    pub fn map_registers(
        &self,
        region: Arc<RegisterRegion>,
        (offset, len): (u64, u64),
        placement: MmapPlacement,
        (prot, max_prot): (Prot, Prot),
    ) -> Result<UserVa, Errno> {
        let backing = VmaBacking::Registers(region.clone(), max_prot);
        if !max_prot.contains(prot) {
            return Err(Errno::EACCES);
        }
        region.part(offset, len).ok_or(Errno::EINVAL)?;
        let mut removed = Vec::new();
        let alignment = register_alignment(&region, offset);
        let new = |range| Vma { range, prot, lock: MemoryLock::None, backing, offset };
        let range = self.lock()?.insert_placed(len, placement, alignment, &mut removed, new)?;
        Ok(range.start())
    }

    /// Clears the entries of all mappings of a region, which is disabled: page faults fail from then on.
    pub fn revoke(&self, region: &Arc<RegisterRegion>) {
        let inner = &mut *self.inner.lock();
        let is_mapped = |vma: &Vma<VmaBacking>| matches!(&vma.backing, VmaBacking::Registers(other, _) if Arc::ptr_eq(other, region));
        let mut from = UserVa::new(USER_START);
        while let Some(range) = inner.vmas.first_from(from).map(|vma| vma.range) {
            if inner.vmas.find(range.start()).is_some_and(is_mapped) && inner.clear_entries(range).is_err() {
                // Whole VMAs: no block is split, so no table is allocated.
                panic!("registers at {range:?} are not revoked");
            }
            from = range.end();
        }
    }

    /// Returns the region that is mapped at all of `range`, and the offset there.
    ///
    /// # Errors
    /// `EINTR`
    pub fn registers_at(
        &self,
        range: AddrRange<UserVa>,
    ) -> Result<Option<(Arc<RegisterRegion>, u64)>, Errno> {
        let inner = self.lock()?;
        let vma = inner.vmas.find(range.start()).filter(|vma| vma.range.covers(&range));
        Ok(vma.and_then(|vma| match &vma.backing {
            VmaBacking::Registers(region, _) => {
                Some((region.clone(), vma.offset + (range.start().raw() - vma.range.start().raw())))
            }
            _ => None,
        }))
    }

    /// Unmaps all mappings in `range`.
    pub fn unmap(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        // VMA by VMA, so that the lock is released in between. Each step starts above the previous one:
        // another thread may map the freed addresses again.
        let mut rest = range;
        while !rest.is_empty() {
            let mut inner = self.lock()?;
            if rest == range {
                inner.check_huge_borders(range)?;
            }
            let first = inner.unmap_first(rest, sched::is_interrupted)?;
            drop(inner);
            let Some(part) = first else { break };
            rest = AddrRange::new(part.range.end(), range.end());
            // `part` is dropped without the lock: it may be the last reference to a buffer, which frees the
            // buffer.
            drop(part);
            if !rest.is_empty() && sched::is_interrupted() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }

    /// Changes the protection of `range`, up to the first hole, for which it returns `ENOMEM`.
    pub fn protect(&self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        check_write_xor_execute(prot)?;
        self.lock()?.protect(range, prot)
    }

    /// Extends the mapping `range` by `more`, the free range that follows it (`mremap`).
    ///
    /// # Errors
    /// `EFAULT` if `range` is not inside a VMA, and for a buffer; `ENOMEM` if `more` is not free.
    pub fn grow(&self, range: AddrRange<UserVa>, more: AddrRange<UserVa>) -> Result<(), Errno> {
        let mut inner = self.lock()?;
        let vma =
            inner.vmas.find(range.start()).filter(|vma| vma.range.covers(&range)).ok_or(Errno::EFAULT)?;
        let offset = vma.offset + (range.end().raw() - vma.range.start().raw());
        let more = match vma.backing {
            VmaBacking::Shared(..) | VmaBacking::Registers(..) => return Err(Errno::EFAULT),
            // As in Linux: there is no reservation for more.
            VmaBacking::Huge(_) => return Err(Errno::EINVAL),
            VmaBacking::Anonymous { .. } | VmaBacking::File { .. } | VmaBacking::Memory(_) => {
                Vma { range: more, offset, ..vma.clone() }
            }
        };
        inner.vmas.insert(more).map_err(|_| Errno::ENOMEM)
    }

    /// Returns the highest free range of `len` bytes, rounded up to pages. The program must not have started.
    pub fn find_unmapped(&self, len: u64, alignment: Alignment) -> Option<UserVa> {
        let len = len.checked_next_multiple_of(PAGE_SIZE)?;
        self.inner.lock().vmas.find_unmapped(len, alignment, None).map(|range| range.start())
    }

    /// Returns the size of the huge pages that are mapped at `at`, if any.
    ///
    /// # Errors
    /// `EINTR`.
    pub fn huge_page_size(&self, at: UserVa) -> Result<Option<HugePageSize>, Errno> {
        Ok(self.lock()?.vmas.find(at).and_then(|vma| vma.backing.huge_page_size()))
    }

    /// Returns whether `at` is in a mapping.
    ///
    /// # Errors
    /// `EINTR`.
    pub fn is_mapped(&self, at: UserVa) -> Result<bool, Errno> {
        Ok(self.lock()?.vmas.find(at).is_some())
    }

    /// Moves the mapping `old` to a range of `len` bytes (`mremap`): its pages keep their frames. The rest of
    /// a longer range is populated on demand. With [`MmapPlacement::Fixed`], mappings there are unmapped
    /// first; the ranges must not overlap.
    ///
    /// # Errors
    /// `EFAULT` if `old` is not inside a VMA, `ENOMEM`; nothing is moved.
    pub fn move_to(
        &self,
        old: AddrRange<UserVa>,
        len: u64,
        placement: MmapPlacement,
    ) -> Result<UserVa, Errno> {
        let mut removed = Vec::new();
        let mut inner = self.lock()?;
        let moved = inner.move_mapping(old, len, placement, &mut removed);
        drop(inner);
        // Dropped without the lock, as in `unmap`.
        drop(removed);
        moved
    }

    /// Follows `advice` for the mappings in `range` (`madvise`), in ascending order up to an error.
    ///
    /// # Errors
    /// `EINVAL` for advice that a mapping does not support; `ENOMEM`, also for a hole, after all mappings;
    /// `EINTR`.
    pub fn advise(&self, range: AddrRange<UserVa>, advice: Advice) -> Result<(), Errno> {
        if let Advice::Populate(access) = advice {
            self.populate(range, access)?;
        }
        let mut inner = self.lock()?;
        for part in inner.vmas.try_parts(range).map_err(vma_errno)? {
            inner.advise_part(&part, advice)?;
        }
        if inner.vmas.first_hole(range).is_some() { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Sets the start of the heap. Called once.
    pub fn set_heap_start(&self, at: UserVa) {
        self.inner.lock().heap = AddrRange::new(at, at);
    }

    /// Moves the end of the heap to `end` if possible. Returns the resulting end (`brk`).
    pub fn set_break(&self, end: UserVa) -> UserVa {
        let mut removed = Vec::new();
        let mut inner = self.inner.lock();
        let (start, old) = (inner.heap.start(), inner.heap.end());
        let pages = |at: UserVa| at.align_up(PAGE_SIZE).filter(|at| at.raw() <= HEAP_END);
        let (Some(old_pages), Some(new_pages)) = (pages(old), pages(end)) else { return old };
        if end < start || end.raw() - start.raw() > crate::memory::layout().total {
            return old;
        }
        let done = if new_pages > old_pages {
            let added = AddrRange::new(old_pages, new_pages);
            inner.vmas.insert(anonymous(added, Prot::READ | Prot::WRITE, true)).is_ok()
        } else {
            new_pages == old_pages
                || inner.unmap_all(AddrRange::new(new_pages, old_pages), &mut removed).is_ok()
        };
        if done {
            inner.heap = AddrRange::new(start, end);
        }
        let reached = inner.heap.end();
        drop(inner);
        if done && new_pages > old_pages {
            self.lock_new(AddrRange::new(old_pages, new_pages), MemoryLock::None);
        }
        reached
    }

    /// Handles a page fault at `at`: if the VMA permits `access`, maps the page.
    pub fn handle_fault(&self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        self.inner.lock_killable().map_err(|_| AccessError::Interrupted)?.handle_fault(at, access)
    }

    /// Handles a page fault at `at`, and calls `access` before another thread can change the entry: a fault
    /// of `access` is final.
    pub fn handle_fault_then<R>(
        &self,
        at: UserVa,
        prot: Prot,
        access: impl FnOnce() -> R,
    ) -> Result<R, AccessError> {
        let mut inner = self.inner.lock_killable().map_err(|_| AccessError::Interrupted)?;
        inner.handle_fault(at, prot)?;
        Ok(access())
    }

    /// Populates the memory in `range` for `access` (`MAP_POPULATE`).
    ///
    /// # Errors
    /// `EINVAL` for the mapping of a buffer and for one that does not permit the access, `EFAULT` beyond the
    /// end of a file, `ENOMEM`, `EINTR`: populated up to there.
    pub fn populate(&self, range: AddrRange<UserVa>, access: Prot) -> Result<(), Errno> {
        for step in steps(range, POPULATE_STEP) {
            let mut inner = self.lock()?;
            if sched::is_interrupted() {
                return Err(Errno::EINTR);
            }
            for part in inner.vmas.try_parts(step).map_err(vma_errno)? {
                let permits = !part.prot.is_empty() && with_implied_read(part.prot).contains(access);
                if !part.backing.owns_frames() || !permits {
                    return Err(Errno::EINVAL);
                }
                inner.populate_part(&part)?;
            }
        }
        Ok(())
    }

    /// Pins the pages of `range` for DMA; `write` if the device writes them.
    ///
    /// # Errors
    /// `EFAULT` if part of it is not memory of the program with the necessary protection (a buffer is mapped
    /// for devices through its attachments instead), `ENOMEM`. No page stays pinned after an error.
    pub fn pin(&self, range: AddrRange<UserVa>, write: bool) -> Result<PinnedPages, Errno> {
        let access = if write { Prot::READ | Prot::WRITE } else { Prot::READ };
        let mut pinned = PinnedPages::default();
        for step in steps(range, PIN_STEP) {
            self.lock()?.pin(step, access, &mut pinned)?;
        }
        Ok(pinned)
    }

    /// Writes `bytes` to anonymous memory at `at`, independent of its protection. No thread may run in the
    /// address space.
    pub fn load(&self, at: UserVa, bytes: &[u8]) -> Result<(), Errno> {
        self.copy_in(at, bytes, Prot::empty())
    }

    /// Writes `bytes` to memory at `at` that the program can write. No thread may run in the address space.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn store(&self, at: UserVa, bytes: &[u8]) -> Result<(), Errno> {
        self.copy_in(at, bytes, Prot::WRITE)
    }

    fn copy_in(&self, at: UserVa, bytes: &[u8], access: Prot) -> Result<(), Errno> {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let room = (PAGE_SIZE - at.raw() % PAGE_SIZE) as usize;
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            let frame = self.inner.lock().anonymous_frame(at, access)?;
            let offset = frame.raw() % PAGE_SIZE;
            // SAFETY: the frame is the program's own write-back memory; it stays allocated, since no thread
            // runs. No reference to it exists, and the window is writable.
            unsafe {
                window::with_frame(frame, |window| {
                    copy_to_window(window, offset, here);
                    arch::cache::sync_instructions(window);
                });
            }
            (at, bytes) = (at + here.len() as u64, rest);
        }
        Ok(())
    }

    /// Calls `visit` with the page table entries of the VMAs selected by `filter`.
    pub fn leaves(&self, filter: impl Fn(&Vma<VmaBacking>) -> bool, mut visit: impl FnMut(Leaf<UserVa>)) {
        let inner = self.inner.lock();
        let Some(table) = &inner.table else { return };
        for vma in inner.vmas.iter().filter(|vma| filter(vma)) {
            table.leaves(&table_frames::user(inner.asid), vma.range, &mut visit);
        }
    }

    /// Calls `visit` with every page table.
    pub fn each_table(&self, visit: impl FnMut(PhysAddr)) {
        let inner = self.inner.lock();
        if let Some(table) = &inner.table {
            table.each_table(&table_frames::user(inner.asid), visit);
        }
    }

    /// Adds a process whose threads run in the address space (`vfork`). The caller is a user of it.
    pub fn join(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes a process, none of whose threads runs in the address space any more. The last one unmaps all
    /// VMAs and frees the page tables.
    pub fn leave(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.clear();
        }
    }

    /// Unmaps all VMAs and frees the page tables. The address space must not be installed on any CPU.
    fn clear(&self) {
        let removed = self.inner.lock().take_all();
        // Dropped without the lock, as in `unmap`.
        drop(removed);
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // Cleared already, unless the program was never started; then in any context.
        if self.inner.get_mut().table.is_some() {
            self.clear();
        }
    }
}

/// `range` in parts that end at multiples of `step`, a power of two.
fn steps(range: AddrRange<UserVa>, step: u64) -> impl Iterator<Item = AddrRange<UserVa>> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        let start = at;
        at = (start.align_down(step) + step).min(range.end());
        (start < range.end()).then(|| AddrRange::new(start, at))
    })
}

/// Copies `bytes` to `offset` in a window.
///
/// # Safety
/// The window is mapped writable, and its contents have no other user.
unsafe fn copy_to_window(window: AddrRange<KernelVa>, offset: u64, bytes: &[u8]) {
    assert!(offset + bytes.len() as u64 <= window.len(), "{offset:#x} + {} exceeds the window", bytes.len());
    let target = arch::pointer::to::<u8>(window.start() + offset);
    // SAFETY: as the caller promises; the bytes fit by the assertion.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_the_range_in_aligned_parts() {
        let range = AddrRange::new(
            UserVa::new(POPULATE_STEP - PAGE_SIZE),
            UserVa::new(2 * POPULATE_STEP + PAGE_SIZE),
        );
        let all: Vec<_> =
            steps(range, POPULATE_STEP).map(|step| (step.start().raw(), step.end().raw())).collect();
        assert_eq!(
            all,
            [
                (POPULATE_STEP - PAGE_SIZE, POPULATE_STEP),
                (POPULATE_STEP, 2 * POPULATE_STEP),
                (2 * POPULATE_STEP, 2 * POPULATE_STEP + PAGE_SIZE)
            ]
        );
        assert_eq!(steps(AddrRange::EMPTY, POPULATE_STEP).count(), 0);
    }
}
