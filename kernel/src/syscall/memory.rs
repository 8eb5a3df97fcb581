//! System calls on memory.

use super::{SyscallContext, SyscallResult};
use crate::memory;
use crate::vm::address_space::MmapPlacement;
use abi::Errno;
use abi::file::OpenFlags;
use abi::memory::{Advice, MREMAP_MAYMOVE, MapFlags, Prot};
use addr::{AddrRange, Address, PAGE_SIZE, UserVa};
use core::cmp::Ordering;
use program::USER_END;

/// `brk`
pub fn brk(call: &SyscallContext<'_>) -> SyscallResult {
    Ok(call.process().space.set_break(call.address(0)).raw())
}

/// `munmap`
pub fn unmap(call: &SyscallContext<'_>) -> SyscallResult {
    call.process().space.unmap(pages(call)?.ok_or(Errno::EINVAL)?).map(|()| 0)
}

/// `mremap`, in place only: if a mapping cannot grow, allocators copy it, as after any other error.
pub fn remap(call: &SyscallContext<'_>) -> SyscallResult {
    let (at, flags) = (call.address(0), call.value(3));
    let pages =
        |len: u64| len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len > 0).ok_or(Errno::EINVAL);
    let (old, new) = (pages(call.value(1))?, pages(call.value(2))?);
    if !at.is_aligned(PAGE_SIZE) || flags & !MREMAP_MAYMOVE != 0 {
        return Err(Errno::EINVAL);
    }
    let range = |from: u64, to: u64| {
        let start = at.checked_add(from).ok_or(Errno::EFAULT)?;
        AddrRange::from_len(start, to - from)
            .filter(|range| range.end().raw() <= USER_END)
            .ok_or(Errno::EFAULT)
    };
    let space = &call.process().space;
    match new.cmp(&old) {
        Ordering::Less => space.unmap(range(new, old)?)?,
        Ordering::Equal => {}
        Ordering::Greater if new - old > memory::layout().total => return Err(Errno::ENOMEM),
        Ordering::Greater => space.grow(range(0, old)?, range(old, new)?)?,
    }
    Ok(at.raw())
}

/// `mprotect`
pub fn protect(call: &SyscallContext<'_>) -> SyscallResult {
    let prot = prot(call)?;
    match pages(call)? {
        Some(range) => call.process().space.protect(range, prot).map(|()| 0),
        None => Ok(0),
    }
}

/// `madvise`
pub fn advise(call: &SyscallContext<'_>) -> SyscallResult {
    let advice = Advice::from_number(call.int(2) as u32).ok_or(Errno::EINVAL)?;
    match pages(call)? {
        Some(range) => call.process().space.advise(range, advice).map(|()| 0),
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

fn prot(call: &SyscallContext<'_>) -> Result<Prot, Errno> {
    Prot::from_bits(call.value(2) as u32).ok_or(Errno::EINVAL)
}

/// `mmap`
pub fn map(call: &SyscallContext<'_>) -> SyscallResult {
    let (len, prot) = (call.value(1), prot(call)?);
    let flags = MapFlags::from_bits_retain(call.value(3) as u32);
    let has_one_type = flags.contains(MapFlags::SHARED) != flags.contains(MapFlags::PRIVATE);
    // Both bits are MAP_SHARED_VALIDATE, which is equivalent to MAP_SHARED here.
    if !has_one_type && !flags.contains(MapFlags::SHARED | MapFlags::PRIVATE) {
        return Err(Errno::EINVAL);
    }
    let placement = placement(call.address(0), flags);
    let at = if flags.contains(MapFlags::ANONYMOUS) {
        check_commitment(len, prot, flags)?;
        let space = &call.process().space;
        let at = if flags.contains(MapFlags::SHARED) {
            space.map_shared_anonymous(len, placement, prot)?
        } else {
            space.map_anonymous(len, placement, prot)?
        };
        if flags.contains(MapFlags::POPULATE) {
            populate(call, at, len, prot);
        }
        at
    } else {
        map_file(call, len, prot, flags, placement)?
    };
    Ok(at.raw())
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
        let _ = call.process().space.populate(range, prot);
    }
}

/// Maps a dma-buf, which must be `MAP_SHARED`. Other files cannot be mapped.
fn map_file(
    call: &SyscallContext<'_>,
    len: u64,
    prot: Prot,
    flags: MapFlags,
    placement: MmapPlacement,
) -> Result<UserVa, Errno> {
    let (file, offset) = (call.file(4)?, call.value(5));
    let shared = file.readable().map_err(|_| Errno::EACCES)?.dma_buf().ok_or(Errno::ENODEV)?.buffer().clone();
    if !flags.contains(MapFlags::SHARED) || !offset.is_multiple_of(PAGE_SIZE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    let writable = file.flags().contains(OpenFlags::READ_WRITE);
    let max_prot = if writable { Prot::READ | Prot::WRITE } else { Prot::READ };
    call.process().space.map_shared(shared, (offset, len), placement, (prot, max_prot))
}
