//! Locked memory (`mlock`), and the residency of pages. There is no swap space: a lock populates the memory,
//! and is recorded.

use super::vma::vma_errno;
use super::{AddressSpace, Inner, POPULATE_STEP, VmaBacking, steps, user_range};
use crate::sched;
use abi::Errno;
use abi::memory::Prot;
use addr::{AddrRange, PAGE_SIZE, UserVa};
use core::sync::atomic::Ordering;
use program::{MemoryLock, Vma};

impl AddressSpace {
    /// Sets the lock of the mappings in `range`, up to its first hole, and populates them if it requires so.
    ///
    /// # Errors
    /// `ENOMEM` for a hole, and for a page that cannot be accessed; `EAGAIN` without memory; `EINTR`.
    pub fn lock_range(&self, range: AddrRange<UserVa>, lock: MemoryLock) -> Result<(), Errno> {
        {
            let mut inner = self.lock()?;
            let hole = inner.vmas.first_hole(range);
            inner.set_lock(AddrRange::new(range.start(), hole.unwrap_or(range.end())), lock)?;
            if hole.is_some() {
                return Err(Errno::ENOMEM);
            }
        }
        self.populate_locked(range)
    }

    /// Sets the lock of all mappings, and populates them where that is possible.
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`.
    pub fn lock_all(&self, lock: MemoryLock) -> Result<(), Errno> {
        self.lock()?.set_lock(user_range(), lock)?;
        let mut at = user_range().start();
        while let Some(range) = self.with_vma_from(at, |vma, _| vma.range) {
            match self.populate_locked(range) {
                Err(Errno::EINTR) => return Err(Errno::EINTR),
                // As in Linux: the rest is locked nevertheless.
                _ => at = range.end(),
            }
        }
        Ok(())
    }

    /// Sets the lock of future mappings (`MCL_FUTURE`).
    pub fn set_new_lock(&self, lock: MemoryLock) {
        self.new_lock.store(lock as u8, Ordering::Relaxed);
    }

    /// Applies the lock of future mappings, and at least `lock`, to the new mapping `range`.
    pub fn lock_new(&self, range: AddrRange<UserVa>, lock: MemoryLock) {
        let lock = match self.new_lock.load(Ordering::Relaxed) {
            0 => lock,
            value if value == MemoryLock::OnFault as u8 && lock == MemoryLock::None => MemoryLock::OnFault,
            _ => MemoryLock::Populated,
        };
        // Errors are ignored, as in Linux: the mapping exists.
        let _ = match lock {
            MemoryLock::None => Ok(()),
            lock => self.lock_range(range, lock),
        };
    }

    /// Populates the mappings in `range` that are locked with [`MemoryLock::Populated`], as a write would
    /// where they are private and writable.
    ///
    /// # Errors
    /// As for [`lock_range`](Self::lock_range).
    pub fn populate_locked(&self, range: AddrRange<UserVa>) -> Result<(), Errno> {
        for step in steps(range, POPULATE_STEP) {
            let mut inner = self.lock()?;
            if sched::is_interrupted() {
                return Err(Errno::EINTR);
            }
            for part in inner.vmas.try_parts(step).map_err(vma_errno)? {
                if part.lock == MemoryLock::Populated && part.backing.owns_frames() {
                    inner.populate_locked_part(&part).map_err(lock_errno)?;
                }
            }
        }
        Ok(())
    }

    /// Calls `visit` for each page of `range`, which are few, with whether it is resident (`mincore`).
    ///
    /// # Errors
    /// `ENOMEM` for a hole, `EINTR`.
    pub fn residency(&self, range: AddrRange<UserVa>, mut visit: impl FnMut(bool)) -> Result<(), Errno> {
        let inner = self.lock()?;
        for page in steps(range, PAGE_SIZE) {
            let at = page.start();
            let vma = inner.vmas.find(at).ok_or(Errno::ENOMEM)?;
            let in_object = || {
                let VmaBacking::Memory(mapping) = &vma.backing else { return false };
                let offset = vma.offset + (at.raw() - vma.range.start().raw());
                mapping.object().next_data(offset) == Ok(offset)
            };
            visit(inner.translate(at).is_some() || in_object());
        }
        Ok(())
    }

    /// Checks that `range` is mapped completely, and if `unlocked` also that none of it is locked (`msync`).
    ///
    /// # Errors
    /// `ENOMEM` for a hole, `EBUSY`, `EINTR`.
    pub fn check_mapped(&self, range: AddrRange<UserVa>, unlocked: bool) -> Result<(), Errno> {
        let inner = self.lock()?;
        if unlocked && inner.vmas.parts(range).any(|part| part.lock != MemoryLock::None) {
            return Err(Errno::EBUSY);
        }
        if inner.vmas.first_hole(range).is_some() { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}

impl Inner {
    /// Sets the lock of the mappings in `range`, except for buffers and huge pages, which are always
    /// resident.
    fn set_lock(&mut self, range: AddrRange<UserVa>, lock: MemoryLock) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        for part in self.vmas.try_parts(range).map_err(vma_errno)? {
            let is_paged = part.backing.owns_frames() && part.backing.huge_page_size().is_none();
            if part.lock != lock && is_paged {
                // A block is in one VMA.
                self.split_block_across(part.range.start())?;
                self.split_block_across(part.range.end())?;
                self.vmas.set_lock(part.range, lock).map_err(vma_errno)?;
            }
        }
        Ok(())
    }

    fn populate_locked_part(&mut self, part: &Vma<VmaBacking>) -> Result<(), Errno> {
        if part.prot.is_empty() {
            return Err(Errno::EFAULT);
        }
        self.populate_part(part)?;
        if !part.prot.contains(Prot::WRITE) || !part.backing.is_private() || !self.has_shared_frames {
            return Ok(());
        }
        steps(part.range, PAGE_SIZE)
            .try_for_each(|page| self.anonymous_frame(page.start(), Prot::WRITE).map(|_| ()))
    }
}

/// The errno of `mlock` for a failed page fault.
fn lock_errno(error: Errno) -> Errno {
    match error {
        Errno::EFAULT => Errno::ENOMEM,
        Errno::ENOMEM => Errno::EAGAIN,
        other => other,
    }
}
