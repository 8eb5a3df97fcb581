//! A program's half of the address space: the plan ([`Areas`]), the tables that follow it, and the lock around both.
//!
//! Anonymous memory gets its frames on first touch ([`AddressSpace::resolve`]); buffers are mapped whole, at once. The
//! lock is held, and so interrupts are masked, for one such step, never while a program's memory is copied.
//!
//! A frame leaves a program in three steps: its entry is cleared, the TLBs forget it, then it is free - or, when a
//! device has it pinned, its last pin frees it ([`super::pages`]).

use super::asid::OwnedAsid;
use super::pages::{self, PinnedPages};
use crate::dma::Buffer;
use crate::memory::{kmap, tables};
use crate::sync::SpinLock;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, Address, Asid, Chunk, KernelVa, MemoryType, PAGE_SIZE, PhysAddr, UserVa};
use alloc::sync::Arc;
use arch::tlb::Level;
use core::ops::ControlFlow;
use pagetable::{Access, Leaf, MapError, Mapping, PageTable, Stage1};
use program::{Alignment, Area, Areas, AreasError, Backing, USER_END, USER_START, clip};

/// Bits of a program's address that are translated.
const INPUT_BITS: u8 = 48;
/// What a first touch brings in: this many bytes around it, as far as they are in the same area and not there yet.
const AROUND: u64 = 64 << 10;
/// How much `MAP_POPULATE` fills in one go.
const STEP: u64 = 2 << 20;
/// Linux allows 65530; but here one program must not fill the kernel's heap.
const AREAS_MAX: usize = 4096;
/// The heap (`brk`) grows from below, up to here; `mmap` places things from the top down.
const HEAP_END: u64 = USER_END - (1 << 30);

/// What is behind an area.
#[derive(Clone)]
pub enum Behind {
    /// Zeroes at first, the program's own frames after.
    Zeroes,
    /// A buffer, and what its descriptor allows at most.
    Shared(Arc<Buffer>, Prot),
}

impl Backing for Behind {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Zeroes, Self::Zeroes) => true,
            (Self::Shared(one, may), Self::Shared(two, might)) => Arc::ptr_eq(one, two) && may == might,
            _ => false,
        }
    }
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Anywhere; there if it is free.
    Anywhere(Option<UserVa>),
    /// Exactly there, instead of what is there.
    Replace(UserVa),
    /// Exactly there, if it is free.
    Exactly(UserVa),
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
    areas: Areas<Behind>,
    /// `None` after [`AddressSpace::clear`].
    table: Option<Table>,
    asid: Asid,
    /// Where the heap starts and ends (`brk`).
    heap: AddrRange<UserVa>,
}

impl AddressSpace {
    /// An empty one. `None`: no frame for a table, or no ASID.
    pub fn new() -> Option<Self> {
        let asid = OwnedAsid::take()?;
        let table = Table::new(&mut tables::user(asid.get()), INPUT_BITS).ok()?;
        let areas = Areas::new(AddrRange::new(UserVa::new(USER_START), UserVa::new(USER_END)), AREAS_MAX);
        let (root, heap) = (table.root(), AddrRange::EMPTY);
        let inner = SpinLock::new(Inner { areas, table: Some(table), asid: asid.get(), heap });
        Some(Self { asid, root, inner })
    }

    /// Makes this CPU see it.
    pub fn install(&self) {
        if arch::mmu::user_root() == Some((self.root, self.asid.get())) {
            return;
        }
        // SAFETY: the table lives until `clear`, which runs when no thread of the program can come back here and each
        // has uninstalled it on its CPU; the ASID is ours until drop, and no TLB knows it from before (`OwnedAsid`).
        unsafe { arch::mmu::install_user(self.root, self.asid.get()) };
    }

    /// Maps zeroes.
    pub fn map_zeroes(&self, len: u64, place: Place, prot: Prot) -> Result<UserVa, Errno> {
        let mut inner = self.inner.lock();
        let range = inner.make_room(len, place, Alignment::PAGE)?;
        inner.add_zeroes(range, prot)?;
        Ok(range.start())
    }

    /// Maps `len` bytes of a buffer from `offset` on, all at once, with the largest blocks that its chunks allow: it
    /// goes to an address that lies to their size as `offset` does.
    pub fn map_shared(
        &self,
        shared: Arc<Buffer>,
        (offset, len): (u64, u64),
        place: Place,
        (prot, most): (Prot, Prot),
    ) -> Result<UserVa, Errno> {
        check_access(prot)?;
        if !most.contains(prot) {
            return Err(Errno::EACCES);
        }
        if offset.checked_add(len).is_none_or(|end| end > shared.len()) {
            return Err(Errno::EINVAL);
        }
        let range = {
            let mut inner = self.inner.lock();
            let range = inner.make_room(len, place, Alignment::like_offset(shared.alignment(), offset))?;
            let backing = Behind::Shared(shared.clone(), most);
            inner.areas.insert(Area { range, prot, backing, offset }).map_err(areas_errno)?;
            inner.map_shared_part(&shared, offset, range, prot).inspect_err(|_| {
                // What was just put in comes out again, joined or not.
                let _ = inner.areas.take_first(range);
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
        check_access(prot)?;
        self.inner.lock().protect(range, prot)
    }

    /// Adds the zeroes of `more`, which is free, to the anonymous memory of `range` right below it.
    pub fn grow(&self, range: AddrRange<UserVa>, more: AddrRange<UserVa>) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let area =
            inner.areas.find(range.start()).filter(|area| area.range.covers(&range)).ok_or(Errno::EFAULT)?;
        if !matches!(area.backing, Behind::Zeroes) {
            return Err(Errno::EINVAL);
        }
        let prot = area.prot;
        inner.add_zeroes(more, prot).map_err(|_| Errno::ENOMEM)
    }

    /// Anonymous memory in `range` is zero again.
    pub fn discard(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let parts = inner.areas.list(range).map_err(areas_errno)?;
        let zeroes = parts.iter().filter(|part| matches!(part.backing, Behind::Zeroes));
        zeroes.for_each(|part| inner.drop_zeroes(part.range));
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
            inner.add_zeroes(AddrRange::new(old_pages, new_pages), Prot::READ | Prot::WRITE).is_ok()
        } else {
            new_pages == old_pages || inner.unmap_all(AddrRange::new(new_pages, old_pages)).is_ok()
        };
        if done {
            inner.heap = AddrRange::new(start, end);
        }
        inner.heap.end()
    }

    /// Makes an access at `at` possible that has failed, if the program may do that.
    pub fn resolve(&self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        self.inner.lock().resolve(at, access)
    }

    /// Brings anonymous memory in that nobody has touched yet (`MAP_POPULATE`); stops when memory is full.
    pub fn populate(&self, range: AddrRange<UserVa>) {
        for step in steps(range) {
            let mut inner = self.inner.lock();
            let Ok(parts) = inner.areas.list(step) else { return };
            for part in
                parts.iter().filter(|part| matches!(part.backing, Behind::Zeroes) && !part.prot.is_empty())
            {
                if inner.fill(part.range, part.prot).is_err() {
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
            let frame = inner.own_frame(at, access)?;
            if !pinned.add(frame, end.raw() - at.raw()) {
                return Err(Errno::ENOMEM);
            }
            at = end;
        }
        Ok(pinned)
    }

    /// Fills memory of a program that does not run yet: `bytes` go to `at`, whatever the program may do there.
    pub fn store(&self, at: UserVa, bytes: &[u8]) -> Result<(), Errno> {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let room = (PAGE_SIZE - at.raw() % PAGE_SIZE) as usize;
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            let frame = self.inner.lock().own_frame(at, Prot::empty())?;
            kmap::with_frame(frame, |window| copy_to(window, frame.raw() % PAGE_SIZE, here));
            (at, bytes) = (at + here.len() as u64, rest);
        }
        Ok(())
    }

    /// Shows what the tables have in the areas that `which` picks.
    pub fn leaves(&self, which: impl Fn(&Area<Behind>) -> bool, mut show: impl FnMut(Leaf<UserVa>)) {
        let inner = self.inner.lock();
        let Some(table) = &inner.table else { return };
        for area in inner.areas.iter().filter(|area| which(area)) {
            table.leaves(&tables::user(inner.asid), area.range, &mut show);
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
            table.destroy(&mut tables::user(self.asid.get()));
        }
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Inner {
    /// A free range of at least `len` bytes.
    fn make_room(
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

    fn add_zeroes(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
        check_access(prot)?;
        let area = Area { range, prot, backing: Behind::Zeroes, offset: range.start().raw() };
        self.areas.insert(area).map_err(areas_errno)
    }

    /// Takes whatever is in `range` out of plan, tables and TLBs.
    fn unmap_all(&mut self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        while self.unmap_first(range)?.is_some() {}
        Ok(())
    }

    /// The same for the first area that has a part in `range`; returns that part.
    fn unmap_first(&mut self, range: AddrRange<UserVa>) -> Result<Option<Area<Behind>>, Errno> {
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

    fn clear_entries(&mut self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        let asid = self.asid;
        let memory = &mut tables::user(asid);
        let Some(table) = &mut self.table else { return Ok(()) };
        let stale = table.unmap(memory, range).map_err(|_| Errno::ENOMEM)?;
        let level = if stale.is_empty() { Level::Last } else { Level::Any };
        arch::tlb::user(asid, range, level);
        stale.release(memory);
        Ok(())
    }

    /// Frees the frames of anonymous memory. Its pages are single entries, so nothing has to be cut and nothing fails.
    fn drop_zeroes(&mut self, range: AddrRange<UserVa>) {
        let mut rest = range;
        while let Some((part, frames)) = self.first_frames(rest) {
            if self.clear_entries(part).is_err() {
                panic!("anonymous pages at {part:?} are not single entries");
            }
            pages::give_up(frames.as_slice().iter().copied());
            rest = AddrRange::new(part.end(), range.end());
        }
    }

    /// The first frames in `range`, not more than a batch, and where they are mapped; `None` when there are none.
    fn first_frames(&self, range: AddrRange<UserVa>) -> Option<(AddrRange<UserVa>, Batch)> {
        let mut batch = Batch::default();
        let mut found: Option<AddrRange<UserVa>> = None;
        self.table.as_ref()?.leaves_until(&tables::user(self.asid), range, |leaf| {
            found = Some(AddrRange::new(found.map_or(leaf.at, |found| found.start()), leaf.at + leaf.bytes));
            batch.push(leaf.to)
        });
        Some((found?, batch))
    }

    fn protect(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), Errno> {
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

    fn resolve(&mut self, at: UserVa, access: Prot) -> Result<(), AccessError> {
        let area = self.areas.find(at).ok_or(AccessError::Unmapped)?.clone();
        if !with_implied(area.prot).contains(access) || area.prot.is_empty() {
            return Err(AccessError::Denied);
        }
        if self.translate(at).is_some() {
            // Another thread was here first, or an entry was being changed.
            return Ok(());
        }
        self.bring_in(at, &area)
    }

    fn bring_in(&mut self, at: UserVa, area: &Area<Behind>) -> Result<(), AccessError> {
        let around = AddrRange::new(at.align_down(AROUND), at.align_down(AROUND) + AROUND);
        let part = area.part(&around).ok_or(AccessError::Unmapped)?;
        match &area.backing {
            Behind::Zeroes => self.fill(part.range, part.prot).or_else(|_| {
                // Not as much as that, but one page?
                let page = AddrRange::new(at.align_down(PAGE_SIZE), at.align_down(PAGE_SIZE) + PAGE_SIZE);
                self.fill(page, part.prot)
            }),
            // A part that a failed `unmap` has left without entries.
            Behind::Shared(shared, _) => self
                .map_shared_part(shared, part.offset, part.range, part.prot)
                .map_err(|_| AccessError::OutOfMemory),
        }
    }

    /// Gives every page of `range` that has no frame one: zeroes.
    fn fill(&mut self, range: AddrRange<UserVa>, prot: Prot) -> Result<(), AccessError> {
        let mut at = range.start();
        while at < range.end() {
            if self.translate(at).is_some() {
                at = at + PAGE_SIZE;
                continue;
            }
            let mut end = at + PAGE_SIZE;
            while end < range.end() && self.translate(end).is_none() {
                end = end + PAGE_SIZE;
            }
            self.fill_hole(AddrRange::new(at, end), prot)?;
            at = end;
        }
        Ok(())
    }

    fn fill_hole(&mut self, hole: AddrRange<UserVa>, prot: Prot) -> Result<(), AccessError> {
        let mut frames = pages::take_zeroed(hole.len() / PAGE_SIZE).map_err(|_| AccessError::OutOfMemory)?;
        if prot.contains(Prot::EXEC) {
            frames.chunks().for_each(|chunk| kmap::with_write_back(chunk, arch::cache::sync_instructions));
        }
        let mapping = Behind::Zeroes.mapping(prot);
        let mapped = self.map(hole.start(), frames.chunks(), mapping);
        if mapped.is_err() {
            crate::memory::zones::give_all(frames);
            return Err(AccessError::OutOfMemory);
        }
        // From here on the tables say whose they are.
        frames.drain().for_each(|chunk| {
            chunk.release();
        });
        Ok(())
    }

    fn map_shared_part(
        &mut self,
        shared: &Buffer,
        offset: u64,
        range: AddrRange<UserVa>,
        prot: Prot,
    ) -> Result<(), Errno> {
        let mapping = access_mapping(shared.memory(), prot);
        self.map(range.start(), clip(shared.chunks(), offset, range.len()), mapping)
            .map_err(|_| Errno::ENOMEM)
    }

    fn map(
        &mut self,
        at: UserVa,
        chunks: impl Iterator<Item = Chunk> + Clone,
        mapping: Mapping,
    ) -> Result<(), MapError<UserVa>> {
        let Some(table) = &mut self.table else { return Err(MapError::OutOfTables) };
        table.map(&mut tables::user(self.asid), at, chunks, mapping)?;
        arch::barrier::dsb_ishst();
        arch::barrier::isb();
        Ok(())
    }

    fn translate(&self, at: UserVa) -> Option<Leaf<UserVa>> {
        self.table.as_ref()?.translate(&tables::user(self.asid), at)
    }

    /// Where the byte at `at` of the program's own memory is in RAM.
    fn own_frame(&mut self, at: UserVa, access: Prot) -> Result<PhysAddr, Errno> {
        let area = self.areas.find(at).ok_or(Errno::EFAULT)?.clone();
        if !matches!(area.backing, Behind::Zeroes) || !with_implied(area.prot).contains(access) {
            return Err(Errno::EFAULT);
        }
        if self.translate(at).is_none() {
            self.bring_in(at, &area).map_err(|_| Errno::ENOMEM)?;
        }
        self.translate(at).map(|leaf| leaf.translate(at)).ok_or(Errno::EFAULT)
    }

    /// What was written as data in `range` can be executed now.
    fn sync_instructions(&self, range: AddrRange<UserVa>) {
        let Some(table) = &self.table else { return };
        table.leaves(&tables::user(self.asid), range, |leaf| {
            kmap::with_frame(leaf.to, arch::cache::sync_instructions);
        });
    }
}

impl Behind {
    fn mapping(&self, prot: Prot) -> Mapping {
        match self {
            // Single pages: any of them can go or change without its neighbours' faulting for a moment.
            Self::Zeroes => access_mapping(MemoryType::WriteBack, prot).pages_only(),
            Self::Shared(shared, _) => access_mapping(shared.memory(), prot),
        }
    }
}

/// Frames that leave a program together; on the stack, since giving back must not need memory.
struct Batch {
    frames: [PhysAddr; 256],
    count: usize,
}

impl Batch {
    /// Adds a frame, and says whether there is room for another.
    fn push(&mut self, frame: PhysAddr) -> ControlFlow<()> {
        self.frames[self.count] = frame;
        self.count += 1;
        if self.count == self.frames.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn as_slice(&self) -> &[PhysAddr] {
        &self.frames[..self.count]
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { frames: [PhysAddr::new(0); 256], count: 0 }
    }
}

/// What Arm's entries can say of `prot`: writing and executing bring reading with them.
fn access_mapping(memory: MemoryType, prot: Prot) -> Mapping {
    if prot.contains(Prot::WRITE) {
        Mapping::read_write(memory)
    } else if prot.contains(Prot::EXEC) {
        Mapping::new(memory, Access::READ | Access::EXECUTE).unwrap_or(Mapping::read_only(memory))
    } else if prot.contains(Prot::READ) {
        Mapping::read_only(memory)
    } else {
        Mapping::read_only(memory).privileged()
    }
}

fn with_implied(prot: Prot) -> Prot {
    if prot.is_empty() { prot } else { prot | Prot::READ }
}

/// Nothing is writable and executable.
fn check_access(prot: Prot) -> Result<(), Errno> {
    if prot.contains(Prot::WRITE | Prot::EXEC) { Err(Errno::EACCES) } else { Ok(()) }
}

fn areas_errno(error: AreasError) -> Errno {
    match error {
        AreasError::Range => Errno::EINVAL,
        AreasError::Overlap(_) => Errno::EEXIST,
        AreasError::Hole(_) | AreasError::TooMany | AreasError::OutOfMemory => Errno::ENOMEM,
    }
}

/// `range` in parts that end at multiples of [`STEP`].
fn steps(range: AddrRange<UserVa>) -> impl Iterator<Item = AddrRange<UserVa>> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        let start = at;
        at = (start.align_down(STEP) + STEP).min(range.end());
        (start < range.end()).then(|| AddrRange::new(start, at))
    })
}

/// Copies `bytes` to `offset` in a window, and makes them fit to be executed.
fn copy_to(window: AddrRange<KernelVa>, offset: u64, bytes: &[u8]) {
    assert!(offset + bytes.len() as u64 <= window.len(), "{offset:#x} + {} past the window", bytes.len());
    let target = (window.start().raw() + offset) as *mut u8;
    // SAFETY: the window is mapped, writable and nobody else's until we return; the bytes fit by the assertion.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    arch::cache::sync_instructions(window);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_the_range_and_end_at_multiples() {
        let range = AddrRange::new(UserVa::new(STEP - PAGE_SIZE), UserVa::new(2 * STEP + PAGE_SIZE));
        let all: Vec<_> = steps(range).map(|step| (step.start().raw(), step.end().raw())).collect();
        assert_eq!(all, [(STEP - PAGE_SIZE, STEP), (STEP, 2 * STEP), (2 * STEP, 2 * STEP + PAGE_SIZE)]);
        assert_eq!(steps(AddrRange::EMPTY).count(), 0);
    }

    #[test]
    fn rights_are_what_entries_can_say() {
        let of = |prot| access_mapping(MemoryType::WriteBack, prot).access();
        assert_eq!(of(Prot::empty()), Access::READ | Access::PRIVILEGED);
        assert_eq!(of(Prot::WRITE), Access::READ | Access::WRITE);
        assert_eq!(of(Prot::EXEC), Access::READ | Access::EXECUTE);
        assert_eq!(check_access(Prot::all()), Err(Errno::EACCES));
    }
}
