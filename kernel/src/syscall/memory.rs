//! System calls on memory.

use super::{SyscallContext, SyscallResult};
use crate::fs::memory_devices::Zero;
use crate::memory;
use crate::vm::address_space::MmapPlacement;
use crate::vm::huge_pages::HugePages;
use crate::vm::shared_memory::MemoryMapping;
use abi::Errno;
use abi::file::OpenFlags;
use abi::memory::{Advice, MREMAP_FIXED, MREMAP_MAYMOVE, MapFlags, PROT_SEM, Prot, SyncFlags};
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use program::{HugePageSize, MemoryLock, USER_END};

pub fn brk(call: &SyscallContext<'_>) -> SyscallResult {
    Ok(call.space().set_break(call.address(0)).raw())
}

/// `munmap`
pub fn unmap(call: &SyscallContext<'_>) -> SyscallResult {
    call.space().unmap(pages(call)?.ok_or(Errno::EINVAL)?).map(|()| 0)
}

/// `msync`: all files are in memory.
pub fn sync(call: &SyscallContext<'_>) -> SyscallResult {
    let flags = SyncFlags::from_bits(call.value(2)).ok_or(Errno::EINVAL)?;
    let start = call.address(0);
    if !start.is_aligned(PAGE_SIZE) || flags.contains(SyncFlags::ASYNC | SyncFlags::SYNC) {
        return Err(Errno::EINVAL);
    }
    let len = call.value(1).wrapping_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    let range = AddrRange::from_len(start, len).filter(|range| range.end().raw() <= USER_END);
    let range = range.ok_or(Errno::ENOMEM)?;
    if range.is_empty() {
        return Ok(0);
    }
    call.space().check_mapped(range, flags.contains(SyncFlags::INVALIDATE)).map(|()| 0)
}

/// `mremap`. `MREMAP_DONTUNMAP` is not implemented (`EINVAL`).
pub fn remap(call: &SyscallContext<'_>) -> SyscallResult {
    let (at, flags) = (call.address(0), call.value(3));
    // Huge pages are moved and unmapped as a whole.
    let size = call.space().huge_page_size(at)?.map_or(PAGE_SIZE, HugePageSize::bytes);
    let pages = |len: u64| len.checked_next_multiple_of(size).filter(|&len| len > 0).ok_or(Errno::EINVAL);
    let (old, new) = (pages(call.value(1))?, pages(call.value(2))?);
    let is_fixed = flags & MREMAP_FIXED != 0;
    if !at.is_aligned(size)
        || flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0
        || is_fixed && flags & MREMAP_MAYMOVE == 0
    {
        return Err(Errno::EINVAL);
    }
    let space = call.space();
    let range = |from: u64, to: u64| {
        let start = at.checked_add(from).ok_or(Errno::EFAULT)?;
        AddrRange::from_len(start, to - from)
            .filter(|range| range.end().raw() <= USER_END)
            .ok_or(Errno::EFAULT)
    };
    let fixed = if is_fixed { Some(fixed_target(call.address(4), range(0, old)?, new)?) } else { None };
    if !space.is_mapped(at)? {
        return Err(Errno::EFAULT);
    }
    if new < old {
        space.unmap(range(new, old)?)?;
    }
    if new > old && new - old > memory::layout().total {
        return Err(Errno::ENOMEM);
    }
    let kept = range(0, old.min(new))?;
    let moved = match fixed {
        Some(target) => space.move_to(kept, new, MmapPlacement::Fixed(target)).map(UserVa::raw),
        None if new <= old => Ok(at.raw()),
        None => match range(old, new).map_err(|_| Errno::ENOMEM).and_then(|more| space.grow(kept, more)) {
            Err(Errno::ENOMEM) if flags & MREMAP_MAYMOVE != 0 => {
                space.move_to(kept, new, MmapPlacement::Hint(None)).map(UserVa::raw)
            }
            grown => grown.map(|()| at.raw()),
        },
    }?;
    if new > old {
        // Ignored, as in Linux: the mapping has grown.
        let added = AddrRange::from_len(UserVa::new(moved + old), new - old);
        let _ = added.map(|added| space.populate_locked(added));
    }
    Ok(moved)
}

/// Checks the target of `MREMAP_FIXED`.
///
/// # Errors
/// `EINVAL` if it is not page-aligned, above the user half, or overlaps `old`.
fn fixed_target(at: UserVa, old: AddrRange<UserVa>, len: u64) -> Result<UserVa, Errno> {
    AddrRange::from_len(at, len)
        .filter(|new| at.is_aligned(PAGE_SIZE) && new.end().raw() <= USER_END)
        .filter(|new| new.intersection(&old).is_none())
        .map(|new| new.start())
        .ok_or(Errno::EINVAL)
}

/// `mprotect`
pub fn protect(call: &SyscallContext<'_>) -> SyscallResult {
    let prot = Prot::from_bits(call.value(2) as u32 & !PROT_SEM).ok_or(Errno::EINVAL)?;
    match pages(call)? {
        Some(range) => call.space().protect(range, prot).map(|()| 0),
        None => Ok(0),
    }
}

/// `madvise`
pub fn advise(call: &SyscallContext<'_>) -> SyscallResult {
    let advice = Advice::from_number(call.int(2) as u32).ok_or(Errno::EINVAL)?;
    match pages(call)? {
        Some(range) => call.space().advise(range, advice).map(|()| 0),
        None => Ok(0),
    }
}

/// Returns the pages of arguments 0 (address) and 1 (length); `None` if the length is 0.
fn pages(call: &SyscallContext<'_>) -> Result<Option<AddrRange<UserVa>>, Errno> {
    let start = call.address(0);
    if !start.is_aligned(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = call.value(1).checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
    let range =
        AddrRange::from_len(start, len).filter(|range| range.end().raw() <= USER_END).ok_or(Errno::EINVAL)?;
    Ok((!range.is_empty()).then_some(range))
}

/// `mmap`
pub fn map(call: &SyscallContext<'_>) -> SyscallResult {
    // Other bits of the protection are ignored, as in Linux: `PROT_BTI` without the feature, for one.
    let (len, prot) = (call.value(1), Prot::from_bits_truncate(call.value(2) as u32));
    let flags = MapFlags::from_bits_retain(call.value(3) as u32);
    if !call.value(5).is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let has_one_type = flags.contains(MapFlags::SHARED) != flags.contains(MapFlags::PRIVATE);
    // Both bits are MAP_SHARED_VALIDATE, which is equivalent to MAP_SHARED here.
    if !has_one_type && !flags.contains(MapFlags::SHARED | MapFlags::PRIVATE) {
        return Err(Errno::EINVAL);
    }
    let placement = placement(call.address(0), flags);
    let at = if flags.contains(MapFlags::ANONYMOUS) {
        map_zeroes(call, len, prot, flags, placement)?
    } else {
        map_file(call, len, prot, flags, placement)?
    };
    let lock = if flags.contains(MapFlags::LOCKED) { MemoryLock::Populated } else { MemoryLock::None };
    lock_new(call, at, len, lock);
    Ok(at.raw())
}

/// Applies `lock`, and the lock of future mappings, to the mapping of `len` bytes at `at`.
fn lock_new(call: &SyscallContext<'_>, at: UserVa, len: u64, lock: MemoryLock) {
    if let Some(range) = AddrRange::from_len(at, len).and_then(|range| range.align_outward(PAGE_SIZE)) {
        call.space().lock_new(range, lock);
    }
}

/// Maps anonymous memory.
fn map_zeroes(
    call: &SyscallContext<'_>,
    len: u64,
    prot: Prot,
    flags: MapFlags,
    placement: MmapPlacement,
) -> Result<UserVa, Errno> {
    let (space, is_shared) = (call.space(), flags.contains(MapFlags::SHARED));
    let at = if flags.contains(MapFlags::HUGETLB) {
        map_huge_pages(call, len, prot, flags, placement)?
    } else {
        check_commitment(len, prot, flags)?;
        match flags.contains(MapFlags::STACK) {
            _ if is_shared => space.map_shared_anonymous(len, placement, prot)?,
            true => space.map_stack(len, placement, prot)?,
            false => space.map_anonymous(len, placement, prot)?,
        }
    };
    if flags.contains(MapFlags::POPULATE) {
        populate(call, at, len, prot);
    }
    Ok(at)
}

/// Maps huge pages; the length is rounded up to whole pages.
fn map_huge_pages(
    call: &SyscallContext<'_>,
    len: u64,
    prot: Prot,
    flags: MapFlags,
    placement: MmapPlacement,
) -> Result<UserVa, Errno> {
    let size = match flags.huge_page_shift() {
        0 | 21 => HugePageSize::Size2M,
        30 => HugePageSize::Size1G,
        _ => return Err(Errno::EINVAL),
    };
    let len = len.checked_next_multiple_of(size.bytes()).filter(|&len| len <= USER_END);
    let len = len.ok_or(Errno::ENOMEM)?;
    let reserved = if flags.contains(MapFlags::NORESERVE) { 0 } else { len / size.bytes() };
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let pages = HugePages::new(size, reserved, flags.contains(MapFlags::SHARED))?;
    call.space().map_huge(pages, len, placement, prot)
}

/// Rejects a writable mapping larger than RAM without `MAP_NORESERVE`. The sum of all mappings can still
/// exceed RAM: a process whose page fault finds no memory is killed.
fn check_commitment(len: u64, prot: Prot, flags: MapFlags) -> Result<(), Errno> {
    let counts = prot.contains(Prot::WRITE) && !flags.contains(MapFlags::NORESERVE);
    if counts && len > memory::layout().total { Err(Errno::ENOMEM) } else { Ok(()) }
}

fn placement(at: UserVa, flags: MapFlags) -> MmapPlacement {
    if flags.contains(MapFlags::FIXED_NOREPLACE) {
        MmapPlacement::FixedNoReplace(at)
    } else if flags.contains(MapFlags::FIXED) {
        MmapPlacement::Fixed(at)
    } else {
        MmapPlacement::Hint((at.raw() != 0).then_some(at))
    }
}

fn populate(call: &SyscallContext<'_>, at: UserVa, len: u64, prot: Prot) {
    if let Some(range) = AddrRange::from_len(at, len).and_then(|range| range.align_outward(PAGE_SIZE)) {
        // Ignored, as in Linux: the mapping exists, and page faults populate the rest.
        let _ = call.space().populate(range, prot);
    }
}

/// Maps a regular file, or a dma-buf, which must be `MAP_SHARED`.
fn map_file(
    call: &SyscallContext<'_>,
    len: u64,
    prot: Prot,
    flags: MapFlags,
    placement: MmapPlacement,
) -> Result<UserVa, Errno> {
    let (file, offset) = (call.file(4)?, call.value(5));
    let readable = file.readable().map_err(|_| Errno::EACCES)?;
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    offset.checked_add(len).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EOVERFLOW)?;
    let (space, is_shared) = (call.space(), flags.contains(MapFlags::SHARED));
    let writable = file.flags().contains(OpenFlags::READ_WRITE);
    if flags.contains(MapFlags::HUGETLB) {
        return Err(Errno::EINVAL);
    }
    if file.downcast::<Zero>().is_some() {
        return map_zeroes(call, len, prot, flags, placement);
    }
    if let Some(object) = readable.shared_memory() {
        let max_prot = if is_shared && !writable { Prot::READ | Prot::EXEC } else { Prot::all() };
        let mapping = MemoryMapping::new(object.clone(), is_shared, (prot, max_prot))?;
        return space.map_memory(mapping, (offset, len), placement, prot);
    }
    if let Some(registers) = readable.registers(offset, len) {
        if !is_shared {
            return Err(Errno::EINVAL);
        }
        let (region, offset) = registers?;
        let max_prot = if writable { Prot::READ | Prot::WRITE } else { Prot::READ };
        return space.map_registers(region, (offset, len), placement, (prot, max_prot));
    }
    let Some(dma_buf) = readable.dma_buf() else {
        let content = readable.content().ok_or(Errno::ENODEV)?;
        return space.map_file(content, (offset, len), placement, (prot, is_shared));
    };
    if !is_shared {
        return Err(Errno::EINVAL);
    }
    let shared = dma_buf.buffer().clone();
    let max_prot = if writable { Prot::READ | Prot::WRITE } else { Prot::READ };
    space.map_shared(shared, (offset, len), placement, (prot, max_prot))
}
