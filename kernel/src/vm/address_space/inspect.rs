//! Inspection by other processes, for `/proc`.

use super::{AddressSpace, VmaBacking};
use crate::memory::{table_frames, window};
use addr::{AddrRange, PAGE_SIZE, PhysAddr, UserVa};
use program::{MemoryLock, USER_END, Vma};

/// The pages of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageCounts {
    /// In VMAs.
    pub total: u64,
    /// Mapped, without those of buffers.
    pub resident: u64,
    /// Of these, pages of files and memory objects.
    pub shared: u64,
    /// In locked VMAs.
    pub locked: u64,
    /// In executable VMAs.
    pub text: u64,
    /// In private writable VMAs.
    pub data: u64,
}

impl AddressSpace {
    /// Calls `visit` with the first VMA that ends above `at`, and the heap. The lock is held.
    pub fn with_vma_from<R>(
        &self,
        at: UserVa,
        visit: impl FnOnce(&Vma<VmaBacking>, AddrRange<UserVa>) -> R,
    ) -> Option<R> {
        let inner = self.inner.lock();
        inner.vmas.first_from(at).map(|vma| visit(vma, inner.heap))
    }

    /// Adds the pages of the first VMA that ends above `at` to `counts`. Returns its end.
    pub fn count_pages(&self, at: UserVa, counts: &mut PageCounts) -> Option<UserVa> {
        use abi::memory::Prot;
        let inner = self.inner.lock();
        let vma = inner.vmas.first_from(at)?;
        let pages = vma.range.len() / PAGE_SIZE;
        counts.total += pages;
        counts.locked += if vma.lock == MemoryLock::None { 0 } else { pages };
        counts.text += if vma.prot.contains(Prot::EXEC) { pages } else { 0 };
        counts.data += if vma.prot.contains(Prot::WRITE) && vma.backing.is_private() { pages } else { 0 };
        if let Some(table) = inner.table.as_ref().filter(|_| vma.backing.owns_frames()) {
            let mut resident = 0;
            let count = |leaf: pagetable::Leaf<UserVa>| resident += leaf.bytes / PAGE_SIZE;
            table.leaves(&table_frames::user(inner.asid), vma.range, count);
            counts.resident += resident;
            counts.shared += if vma.backing.is_anonymous() { 0 } else { resident };
        }
        Some(vma.range.end())
    }

    /// Returns the frame that is mapped at `at`, and whether it is that of a file or a memory object.
    pub fn frame_at(&self, at: UserVa) -> Option<(PhysAddr, bool)> {
        if at.raw() >= USER_END {
            return None;
        }
        let inner = self.inner.lock();
        let leaf = inner.translate(at)?;
        let is_file = inner.vmas.find(at).is_some_and(|vma| !vma.backing.is_anonymous());
        Some((leaf.to + (at.raw() - leaf.at.raw()), is_file))
    }

    /// Copies memory of the program from `at` on, up to a page that is not mapped, or is that of a buffer.
    /// Returns the number of bytes.
    pub fn inspect(&self, at: UserVa, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let at = UserVa::new(at.raw() + done as u64);
            let room = (PAGE_SIZE - at.raw() % PAGE_SIZE) as usize;
            let count = room.min(to.len() - done);
            let inner = self.inner.lock();
            let owned = inner.vmas.find(at).is_some_and(|vma| vma.backing.owns_frames());
            let Some(leaf) = inner.translate(at).filter(|_| owned) else { break };
            let offset = at.raw() % PAGE_SIZE;
            // SAFETY: the entry owns the frame, of write-back memory, and is locked. The bytes are inside the
            // page; a program may write them meanwhile, then they are any mix.
            unsafe {
                window::with_frame(leaf.translate(at), |page| {
                    let from = arch::pointer::to::<u8>(page.start() + offset);
                    core::ptr::copy_nonoverlapping(from, to[done..].as_mut_ptr(), count);
                });
            }
            done += count;
        }
        done
    }
}
