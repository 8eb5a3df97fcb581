//! A program's half of the address space: the plan ([`VmaMap`]), the tables that follow it, and the lock around both.
//!
//! Anonymous memory gets its frames on first touch ([`AddressSpace::handle_fault`]); buffers are mapped whole, at once. The
//! lock is held, and so interrupts are masked, for one such step, never while a program's memory is copied.
//!
//! A frame leaves a program in three steps: its entry is cleared, the TLBs forget it, then it is free - or, when a
//! device has it pinned, its last pin frees it ([`super::pages`]).

mod backing;
mod entries;
mod page_fault;
mod vma;

pub use backing::VmaBacking;

use super::asid::OwnedAsid;
use super::pages::PinnedPages;
use crate::dma::Buffer;
use crate::memory::{table_frames, window};
use crate::sync::SpinLock;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, Asid, KernelVa, PAGE_SIZE, PhysAddr, UserVa};
use alloc::sync::Arc;
use backing::check_write_xor_execute;
use pagetable::{Leaf, PageTable, Stage1};
use program::{Alignment, USER_END, USER_START, Vma, VmaMap};
use vma::vma_errno;

/// Bits of a program's address that are translated.
const INPUT_BITS: u8 = 48;
/// How much `MAP_POPULATE` fills in one go.
const POPULATE_STEP: u64 = 2 << 20;
/// Linux allows 65530; but here one program must not fill the kernel's heap.
const VMAS_MAX: usize = 4096;
/// The heap (`brk`) grows from below, up to here; `mmap` places things from the top down.
const HEAP_END: u64 = USER_END - (1 << 30);

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmapPlacement {
    /// Anywhere; there if it is free.
    Hint(Option<UserVa>),
    /// Exactly there, instead of what is there.
    Fixed(UserVa),
    /// Exactly there, if it is free.
    FixedNoReplace(UserVa),
}

/// Why an access cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// Nothing is mapped there.
    Unmapped,
    /// What is mapped there does not allow it.
    Denied,
    /// There is no frame for it.
    OutOfMemory,
}

type Table = PageTable<Stage1, UserVa>;

/// See the module.
pub struct AddressSpace {
    asid: OwnedAsid,
    root: PhysAddr,
    inner: SpinLock<Inner>,
}

struct Inner {
    vmas: VmaMap<VmaBacking>,
    /// `None` after [`AddressSpace::clear`].
    table: Option<Table>,
    asid: Asid,
    /// Where the heap starts and ends (`brk`).
    heap: AddrRange<UserVa>,
}

impl AddressSpace {
    /// An empty one. `None`: no frame for a table, or no ASID.
    pub fn new() -> Option<Self> {
        let asid = OwnedAsid::allocate()?;
        let table = Table::new(&mut table_frames::user(asid.get()), INPUT_BITS).ok()?;
        let vmas = VmaMap::new(AddrRange::new(UserVa::new(USER_START), UserVa::new(USER_END)), VMAS_MAX);
        let (root, heap) = (table.root(), AddrRange::EMPTY);
        let inner = SpinLock::new(Inner { vmas, table: Some(table), asid: asid.get(), heap });
        Some(Self { asid, root, inner })
    }

    /// Installs it on this CPU.
    ///
    /// # Safety
    /// This CPU uninstalls it before [`clear`](Self::clear) or the drop.
    pub unsafe fn install(&self) {
        if arch::mmu::user_root() == Some((self.root, self.asid.get())) {
            return;
        }
        // SAFETY: the table lives until `clear`, before which the caller uninstalls it; the ASID is owned until drop, and
        // no TLB holds entries of an earlier owner (`OwnedAsid`).
        unsafe { arch::mmu::install_user(self.root, self.asid.get()) };
    }

    /// Maps zeroes.
    pub fn map_anonymous(&self, len: u64, placement: MmapPlacement, prot: Prot) -> Result<UserVa, Errno> {
        let mut inner = self.inner.lock();
        let range = inner.reserve_range(len, placement, Alignment::PAGE)?;
        inner.add_anonymous(range, prot)?;
        Ok(range.start())
    }

    /// Maps `len` bytes of a buffer from `offset` on, all at once, with the largest blocks that its chunks allow: it
    /// goes to an address that lies to their size as `offset` does.
    pub fn map_shared(
        &self,
        shared: Arc<Buffer>,
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
        let range = {
            let mut inner = self.inner.lock();
            let range =
                inner.reserve_range(len, placement, Alignment::like_offset(shared.alignment(), offset))?;
            let backing = VmaBacking::Shared(shared.clone(), max_prot);
            inner.vmas.insert(Vma { range, prot, backing, offset }).map_err(vma_errno)?;
            inner.map_shared_part(&shared, offset, range, prot).inspect_err(|_| {
                // What was just put in comes out again, joined or not.
                let _ = inner.vmas.remove_first(range);
            })?;
            range
        };
        shared.trace_mmap();
        Ok(range.start())
    }

    /// Unmaps whatever is in `range`.
    pub fn unmap(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        // Area by area, so that the lock is not held for all of them; upwards, since what is free may be taken again.
        let mut rest = range;
        while !rest.is_empty() {
            let first = self.inner.lock().unmap_first(rest)?;
            let Some(part) = first else { break };
            rest = AddrRange::new(part.range.end(), range.end());
            // `part` goes outside of the lock: the last view of a buffer may free it.
        }
        Ok(())
    }

    /// Changes what the program may do in `range`, all of which is mapped.
    pub fn protect(&self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        check_write_xor_execute(prot)?;
        self.inner.lock().protect(range, prot)
    }

    /// Adds the zeroes of `more`, which is free, to the anonymous memory of `range` right below it.
    pub fn grow(&self, range: AddrRange<UserVa>, more: AddrRange<UserVa>) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let vma =
            inner.vmas.find(range.start()).filter(|vma| vma.range.covers(&range)).ok_or(Errno::EFAULT)?;
        if !matches!(vma.backing, VmaBacking::Anonymous) {
            return Err(Errno::EINVAL);
        }
        let prot = vma.prot;
        inner.add_anonymous(more, prot).map_err(|_| Errno::ENOMEM)
    }

    /// Anonymous memory in `range` is zero again.
    pub fn discard(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let parts = inner.vmas.try_parts(range).map_err(vma_errno)?;
        let zeroes = parts.iter().filter(|part| matches!(part.backing, VmaBacking::Anonymous));
        zeroes.for_each(|part| inner.unmap_anonymous(part.range));
        Ok(())
    }

    /// Says where the heap starts, once.
    pub fn set_heap_start(&self, at: UserVa) {
        self.inner.lock().heap = AddrRange::new(at, at);
    }

    /// Moves the end of the heap to `end` if that is possible, and says where it is (`brk`).
    pub fn set_break(&self, end: UserVa) -> UserVa {
        let mut inner = self.inner.lock();
        let (start, old) = (inner.heap.start(), inner.heap.end());
        let pages = |at: UserVa| at.align_up(PAGE_SIZE).filter(|at| at.raw() <= HEAP_END);
        let (Some(old_pages), Some(new_pages)) = (pages(old), pages(end)) else { return old };
        if end < start || end.raw() - start.raw() > crate::memory::layout().total {
            return old;
        }
        let done = if new_pages > old_pages {
            inner.add_anonymous(AddrRange::new(old_pages, new_pages), Prot::READ | Prot::WRITE).is_ok()
        } else {
            new_pages == old_pages || inner.unmap_all(AddrRange::new(new_pages, old_pages)).is_ok()
        };
        if done {
            inner.heap = AddrRange::new(start, end);
        }
        inner.heap.end()
    }

    /// Makes an access at `at` possible that has failed, if the program may do that.
    pub fn handle_fault(&self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        self.inner.lock().handle_fault(at, access)
    }

    /// Brings anonymous memory in that nobody has touched yet (`MAP_POPULATE`); stops when memory is full.
    pub fn populate(&self, range: AddrRange<UserVa>) {
        for step in populate_steps(range) {
            let mut inner = self.inner.lock();
            let Ok(parts) = inner.vmas.try_parts(step) else { return };
            for part in parts
                .iter()
                .filter(|part| matches!(part.backing, VmaBacking::Anonymous) && !part.prot.is_empty())
            {
                if inner.populate_range(part.range, part.prot).is_err() {
                    return;
                }
            }
        }
    }

    /// Pins the pages of `range` for a device that will write them if `write`.
    ///
    /// # Errors
    /// `EFAULT`: not all of it is the program's own memory with that access (a buffer's is not: it has attachments);
    /// `ENOMEM`. Nothing stays pinned then.
    pub fn pin(&self, range: AddrRange<UserVa>, write: bool) -> Result<PinnedPages, Errno> {
        let access = if write { Prot::READ | Prot::WRITE } else { Prot::READ };
        let mut pinned = PinnedPages::default();
        let mut at = range.start();
        while at < range.end() {
            let end = (at.align_down(PAGE_SIZE) + PAGE_SIZE).min(range.end());
            let inner = &mut *self.inner.lock();
            let frame = inner.anonymous_frame(at, access)?;
            // SAFETY: the frame of an anonymous page of this program, whose address space is locked.
            if !unsafe { pinned.add(frame, end.raw() - at.raw()) } {
                return Err(Errno::ENOMEM);
            }
            at = end;
        }
        Ok(pinned)
    }

    /// Fills memory of a program that does not run yet: `bytes` go to `at`, whatever the program may do there.
    pub fn load(&self, at: UserVa, bytes: &[u8]) -> Result<(), Errno> {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let room = (PAGE_SIZE - at.raw() % PAGE_SIZE) as usize;
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            let frame = self.inner.lock().anonymous_frame(at, Prot::empty())?;
            let offset = frame.raw() % PAGE_SIZE;
            // SAFETY: the frame is the program's own, write-back memory, and stays: the program does not run yet. No
            // reference to it exists, and the window is writable.
            unsafe { window::with_frame(frame, |window| copy_to_window(window, offset, here)) };
            (at, bytes) = (at + here.len() as u64, rest);
        }
        Ok(())
    }

    /// Shows what the tables have in the areas that `which` picks.
    pub fn leaves(&self, which: impl Fn(&Vma<VmaBacking>) -> bool, mut show: impl FnMut(Leaf<UserVa>)) {
        let inner = self.inner.lock();
        let Some(table) = &inner.table else { return };
        for vma in inner.vmas.iter().filter(|vma| which(vma)) {
            table.leaves(&table_frames::user(inner.asid), vma.range, &mut show);
        }
    }

    /// Shows every table of it.
    pub fn each_table(&self, show: impl FnMut(PhysAddr)) {
        let inner = self.inner.lock();
        if let Some(table) = &inner.table {
            table.each_table(&table_frames::user(inner.asid), show);
        }
    }

    /// Gives everything up. No CPU has it installed any more.
    pub fn clear(&self) {
        let all = AddrRange::new(UserVa::new(USER_START), UserVa::new(USER_END));
        if let Err(error) = self.unmap(all) {
            // Whole areas need neither tables nor lists.
            panic!("address space {:?}: {error}", self.asid);
        }
        let table = self.inner.lock().table.take();
        if let Some(table) = table {
            arch::tlb::asid(self.asid.get());
            table.destroy(&mut table_frames::user(self.asid.get()));
        }
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `range` in parts that end at multiples of [`POPULATE_STEP`].
fn populate_steps(range: AddrRange<UserVa>) -> impl Iterator<Item = AddrRange<UserVa>> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        let start = at;
        at = (start.align_down(POPULATE_STEP) + POPULATE_STEP).min(range.end());
        (start < range.end()).then(|| AddrRange::new(start, at))
    })
}

/// Copies `bytes` to `offset` in a window, and makes them fit to be executed.
///
/// # Safety
/// The window is mapped, writable, and nothing else uses its contents.
unsafe fn copy_to_window(window: AddrRange<KernelVa>, offset: u64, bytes: &[u8]) {
    assert!(offset + bytes.len() as u64 <= window.len(), "{offset:#x} + {} past the window", bytes.len());
    let target = (window.start().raw() + offset) as *mut u8;
    // SAFETY: the caller's promise; the bytes fit by the assertion.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    arch::cache::sync_instructions(window);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populate_steps_cover_the_range_in_aligned_parts() {
        let range = AddrRange::new(
            UserVa::new(POPULATE_STEP - PAGE_SIZE),
            UserVa::new(2 * POPULATE_STEP + PAGE_SIZE),
        );
        let all: Vec<_> = populate_steps(range).map(|step| (step.start().raw(), step.end().raw())).collect();
        assert_eq!(
            all,
            [
                (POPULATE_STEP - PAGE_SIZE, POPULATE_STEP),
                (POPULATE_STEP, 2 * POPULATE_STEP),
                (2 * POPULATE_STEP, 2 * POPULATE_STEP + PAGE_SIZE)
            ]
        );
        assert_eq!(populate_steps(AddrRange::EMPTY).count(), 0);
    }
}
