//! dma-buf files, exported by a heap and imported by a device node. A buffer lives while it is open, mapped
//! or attached.

use super::generated::Text;
use super::sync_file::{self, SyncFile};
use super::{Caller, File};
use crate::debug::{self, FailPoint};
use crate::dma::counters::{self, Reading};
use crate::dma::{Attachment, ChunkedBuffer, SyncFor};
use crate::memory::heap;
use crate::sched;
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use crate::vm::address_space::VmaBacking;
use abi::Errno;
use abi::dma::*;
use abi::file::{PollEvents, S_IFREG, SEEK_END, SEEK_SET, Stat};
use addr::{Iova, Order, PAGE_SIZE, UserVa};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};
use dma_api::{Direction, DmaError};
use pagetable::Leaf;
use program::{BufferAccess, BufferFences, FenceSet, PendingFence};

/// `st_dev` of dma-bufs.
const DMA_BUF_DEVICE: u64 = 3;
/// The inode number of the next dma-buf.
static NEXT_INODE: AtomicU64 = AtomicU64::new(1);
/// The context of the next fence; 0 is that of Linux's fence that is signalled from the start.
static NEXT_CONTEXT: AtomicU64 = AtomicU64::new(1);

/// A buffer, its attachments, and the device accesses to it.
pub struct DmaBuf {
    buffer: Arc<ChunkedBuffer>,
    /// Programs compare inode numbers to find out whether two file descriptors are the same buffer.
    inode: u64,
    attachments: SpinLock<Vec<Weak<Attachment>>>,
    fences: SpinLock<BufferFences>,
    /// The name that the program gave, for reports of faults.
    name: SpinLock<ArrayVec<u8, DMA_BUF_NAME_LEN>>,
    /// The name of the heap.
    exporter: &'static str,
}

impl DmaBuf {
    pub fn buffer(&self) -> &Arc<ChunkedBuffer> {
        &self.buffer
    }

    fn name(&self) -> ArrayVec<u8, DMA_BUF_NAME_LEN> {
        self.name.lock().clone()
    }

    /// Records an attachment.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn add_attachment(&self, attachment: &Arc<Attachment>) -> Result<(), Errno> {
        add_live(&mut self.attachments.lock(), attachment)?;
        debug::buffer_named(self.buffer.tag(), &self.name.lock());
        Ok(())
    }

    /// Starts an access by `device` of the driver `driver`: its fence is pending until the returned value is
    /// signalled. An access does not wait for the fences of others, which is left to the program, as for
    /// Linux's drivers with explicit synchronisation.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn start_access(
        &self,
        driver: &'static str,
        device: &str,
        access: BufferAccess,
    ) -> Result<PendingFence, Errno> {
        let context = NEXT_CONTEXT.fetch_add(1, Ordering::Relaxed);
        let pending = PendingFence::new(context, driver, device, sched::time::now, heap::try_arc)?;
        self.fences.lock().add(pending.fence(), access)?;
        Ok(pending)
    }

    /// Returns whether an access conflicts with one that a device has not ended.
    fn is_busy(&self, access: BufferAccess) -> bool {
        self.fences.lock().conflicts(access).next().is_some()
    }

    /// Returns the live attachments. They must not be dropped under a lock: the last reference detaches the
    /// buffer, which waits for the IOMMU.
    ///
    /// # Errors
    /// `ENOMEM`
    fn attachments(&self) -> Result<Vec<Arc<Attachment>>, Errno> {
        let (mut live, all) = (Vec::new(), self.attachments.lock());
        live.try_reserve_exact(all.len()).map_err(|_| Errno::ENOMEM)?;
        live.extend(all.iter().filter_map(Weak::upgrade));
        Ok(live)
    }

    /// Whether an attached device is quarantined, so that its writes may be missing.
    ///
    /// # Errors
    /// `ENOMEM`
    fn has_quarantined_device(&self) -> Result<bool, Errno> {
        Ok(self.attachments()?.iter().any(|attachment| attachment.device().is_quarantined()))
    }

    /// Transfers ownership of the data between the program and the devices, if an attached one does not snoop
    /// the caches.
    fn sync(&self, to: SyncFor, direction: Direction) -> Result<(), Errno> {
        if self.attachments()?.iter().any(|attachment| !attachment.device().is_coherent()) {
            self.buffer.sync(to, direction);
        }
        if self.has_quarantined_device()? { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Returns the chunks from number `first` on, with their device addresses in the first live attachment of
    /// all of the chunk.
    ///
    /// # Errors
    /// `ENOMEM`
    fn chunks(&self, first: usize) -> Result<impl Iterator<Item = BufferChunk>, Errno> {
        let attachments = self.attachments()?;
        let mut offset = 0;
        let all = self.buffer.chunks().map(move |chunk| {
            let (start, len) = (offset, chunk.bytes());
            offset += len;
            let iova = attachments.iter().find_map(|attachment| attachment.address_at(start, chunk));
            BufferChunk { iova: iova.map_or(NOT_ATTACHED, Iova::raw), pa: chunk.start().raw(), len }
        });
        Ok(all.skip(first))
    }
}

/// Adds `new` to `list`, and removes those that were dropped.
///
/// # Errors
/// `ENOMEM`
fn add_live<T>(list: &mut Vec<Weak<T>>, new: &Arc<T>) -> Result<(), Errno> {
    list.retain(|old| old.strong_count() > 0);
    if debug::fail_point(FailPoint::Heap) || list.try_reserve(1).is_err() {
        return Err(Errno::ENOMEM);
    }
    list.push(Arc::downgrade(new));
    Ok(())
}

pub struct DmaBufFile(Arc<DmaBuf>);

/// The chunks that are copied to the program at a time.
const BATCH: usize = 64;

impl DmaBufFile {
    /// A file of a buffer that the heap `exporter` has allocated.
    ///
    /// # Errors
    /// `ENOMEM`
    pub fn new(buffer: Arc<ChunkedBuffer>, exporter: &'static str) -> Result<Self, Errno> {
        let dma_buf = DmaBuf {
            buffer,
            inode: NEXT_INODE.fetch_add(1, Ordering::Relaxed),
            attachments: SpinLock::new(Vec::new()),
            fences: SpinLock::new(BufferFences::new()),
            name: SpinLock::new(ArrayVec::new()),
            exporter,
        };
        heap::try_arc(dma_buf).map(Self).ok_or(Errno::ENOMEM)
    }

    fn set_name(&self, memory: UserMemory<'_>, at: UserVa) -> Result<(), Errno> {
        let name = memory.read_string(at, DMA_BUF_NAME_LEN).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::EINVAL,
            other => other,
        })?;
        let mut current = self.0.name.lock();
        *current = name.iter().copied().collect();
        debug::buffer_named(self.0.buffer.tag(), &current);
        Ok(())
    }

    fn export_fences(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let memory = UserMemory::new(caller.space);
        let mut argument: BufferSyncFile = memory.read(at)?;
        let access = decode_access(argument.flags)?;
        let fences = FenceSet::of_conflicts(&self.0.fences.lock(), access, sched::time::now())?;
        SyncFile::new(fences).open(caller, |fd| {
            argument.fd = fd as i32;
            memory.write(at, &argument)
        })
    }

    fn import_fences(&self, caller: &Caller<'_>, at: UserVa) -> Result<(), Errno> {
        let argument: BufferSyncFile = UserMemory::new(caller.space).read(at)?;
        let access = decode_access(argument.flags)?;
        sync_file::with_fences(caller, argument.fd, |imported| {
            let mut fences = self.0.fences.lock();
            imported.fences().iter().try_for_each(|fence| fences.add(fence, access))
        })?
    }

    fn copy_chunks(&self, memory: UserMemory<'_>, at: UserVa) -> Result<(), Errno> {
        let mut query: ChunkQuery = memory.read(at)?;
        let (total, first) = (self.0.buffer.chunk_count() as u64, query.first);
        let left = total.saturating_sub(first).min(query.capacity);
        let mut chunks = self.0.chunks(first as usize)?.take(left as usize);
        let mut to = UserVa::new(query.chunks);
        query.written = 0;
        while query.written < left {
            let batch: ArrayVec<BufferChunk, BATCH> = chunks.by_ref().take(BATCH).collect();
            let bytes = zerocopy::IntoBytes::as_bytes(batch.as_slice());
            memory.write_bytes(to, bytes)?;
            to = to + bytes.len() as u64;
            query.written += batch.len() as u64;
        }
        memory.write(at, &ChunkQuery { total, ..query })
    }

    fn leaves(&self, caller: &Caller<'_>) -> Leaves {
        let buffer = &self.0.buffer;
        let mut leaves = Leaves::default();
        let maps_buffer = |backing: &VmaBacking| match backing {
            VmaBacking::Shared(shared, _) => Arc::ptr_eq(shared, buffer),
            _ => false,
        };
        caller.space.leaves(|area| maps_buffer(&area.backing), |leaf| count(&mut leaves, &leaf));
        leaves
    }
}

fn count(leaves: &mut Leaves, leaf: &Leaf<UserVa>) {
    let kind = match leaf.bytes {
        PAGE_SIZE if leaf.contiguous => &mut leaves.contiguous_pages,
        PAGE_SIZE => &mut leaves.pages,
        bytes if bytes == Order::BLOCK_2M.bytes() => &mut leaves.blocks_2m,
        _ => &mut leaves.blocks_1g,
    };
    *kind += 1;
}

impl File for DmaBufFile {
    /// Supports the end and the start only, for the size of the buffer, as in Linux.
    fn seek(&self, offset: i64, whence: u64) -> Result<u64, Errno> {
        match (whence, offset) {
            (SEEK_END, 0) => Ok(self.0.buffer.len()),
            (SEEK_SET, 0) => Ok(0),
            _ => Err(Errno::EINVAL),
        }
    }

    fn stat(&self) -> Stat {
        let len = self.0.buffer.len() as i64;
        Stat {
            dev: DMA_BUF_DEVICE,
            ino: self.0.inode,
            mode: S_IFREG | 0o600,
            nlink: 1,
            size: len,
            blksize: PAGE_SIZE as i32,
            blocks: len / 512,
            ..Stat::default()
        }
    }

    fn describe(&self, out: &mut Text) -> Result<(), Errno> {
        out.push(b"/dmabuf:")?;
        out.push(&self.0.name())
    }

    fn describe_state(&self, references: usize, out: &mut Text) -> Result<(), Errno> {
        let name = self.0.name();
        writeln!(
            out,
            "size:\t{}\ncount:\t{references}\nexp_name:\t{}",
            self.0.buffer.len(),
            self.0.exporter
        )?;
        if !name.is_empty() {
            out.push(b"name:\t")?;
            out.push(&name)?;
            out.push(b"\n")?;
        }
        Ok(())
    }

    /// By the whole number, as in Linux (`dma_buf_ioctl`): both sizes of a name's pointer are listed.
    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let (memory, at) = (UserMemory::new(caller.space), UserVa::new(argument));
        if request == DMA_BUF_IOCTL_SYNC.raw() {
            let sync: BufferSync = memory.read(at)?;
            let (side, direction) = decode_sync(sync.flags)?;
            self.0.sync(side, direction)?;
        } else if [DMA_BUF_SET_NAME_A.raw(), DMA_BUF_SET_NAME_B.raw()].contains(&request) {
            self.set_name(memory, at)?;
        } else if request == DMA_BUF_IOCTL_EXPORT_SYNC_FILE.raw() {
            self.export_fences(caller, at)?;
        } else if request == DMA_BUF_IOCTL_IMPORT_SYNC_FILE.raw() {
            self.import_fences(caller, at)?;
        } else if request == DMA_BUF_CHUNKS.raw() {
            self.copy_chunks(memory, at)?;
        } else if request == DMA_BUF_LEAVES.raw() {
            memory.write(at, &self.leaves(caller))?;
        } else if request == DMA_STATISTICS.raw() {
            memory.write(at, &statistics())?;
        } else {
            return Err(Errno::ENOTTY);
        }
        Ok(0)
    }

    /// Readable without a pending write of a device, writable without any pending access.
    fn poll(&self) -> PollEvents {
        let mut ready = PollEvents::empty();
        ready.set(PollEvents::IN, !self.0.is_busy(BufferAccess::Read));
        ready.set(PollEvents::OUT, !self.0.is_busy(BufferAccess::Write));
        // Without memory for the answer, too: the data may be missing.
        ready.set(PollEvents::ERR, self.0.has_quarantined_device() != Ok(false));
        ready
    }

    fn dma_buf(&self) -> Option<&Arc<DmaBuf>> {
        Some(&self.0)
    }
}

/// Returns the next owner, and the direction in terms of the device: the program reads the device's writes.
fn decode_sync(flags: u64) -> Result<(SyncFor, Direction), Errno> {
    let flags = SyncFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let target = if flags.contains(SyncFlags::END) { SyncFor::Device } else { SyncFor::Cpu };
    match (flags.contains(SyncFlags::READ), flags.contains(SyncFlags::WRITE)) {
        (true, true) => Ok((target, Direction::Bidirectional)),
        (true, false) => Ok((target, Direction::FromDevice)),
        (false, true) => Ok((target, Direction::ToDevice)),
        (false, false) => Err(Errno::EINVAL),
    }
}

/// Returns the access of an export or import of a sync file.
fn decode_access(flags: u32) -> Result<BufferAccess, Errno> {
    let flags = SyncFlags::from_bits(flags.into()).ok_or(Errno::EINVAL)?;
    match flags {
        SyncFlags::READ => Ok(BufferAccess::Read),
        _ if flags.is_empty() || flags.contains(SyncFlags::END) => Err(Errno::EINVAL),
        _ => Ok(BufferAccess::Write),
    }
}

/// Returns the resources of all buffers.
pub fn statistics() -> Statistics {
    let all = counters::read();
    let counter = |reading: Reading| Counter { now: reading.now, peak: reading.peak };
    let total = |count: u64| Counter { now: count, peak: count };
    Statistics {
        low_bytes: counter(all.low_bytes),
        high_bytes: counter(all.high_bytes),
        vmalloc_bytes: counter(all.vmalloc_bytes),
        table_pages: counter(all.table_pages),
        iova_ranges: counter(all.iova_ranges),
        commands: total(all.commands),
        syncs: total(all.syncs),
    }
}

/// Returns Linux's error code for an error of the DMA core.
pub fn errno(error: DmaError) -> Errno {
    match error {
        DmaError::ZeroLength | DmaError::UnalignedSegment { .. } | DmaError::SharedLine { .. } => {
            Errno::EINVAL
        }
        DmaError::PastMask { .. } | DmaError::OutsideDmaRanges { .. } | DmaError::AboveIommu { .. } => {
            Errno::ERANGE
        }
        DmaError::Scattered { .. } => Errno::EINVAL,
        DmaError::IommuTimeout | DmaError::IommuRefused => Errno::EIO,
        _ => Errno::ENOMEM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::{MemoryType, PhysAddr};
    use pagetable::Access;

    #[test]
    fn dropped_attachments_do_not_accumulate() {
        let (mut list, kept) = (Vec::new(), Arc::new(0));
        add_live(&mut list, &kept).unwrap();
        for n in 1..100 {
            add_live(&mut list, &Arc::new(n)).unwrap();
        }
        assert_eq!(list.iter().filter_map(Weak::upgrade).collect::<Vec<_>>(), [kept]);
        assert_eq!(list.len(), 2, "the first and the last");
    }

    #[test]
    fn leaves_are_counted_by_size() {
        let mut leaves = Leaves::default();
        for (bytes, contiguous) in [(PAGE_SIZE, false), (PAGE_SIZE, true), (2 << 20, false), (1 << 30, true)]
        {
            let (at, to) = (UserVa::new(0), PhysAddr::new(0));
            let (memory, access) = (MemoryType::WriteBack, Access::READ);
            let leaf = Leaf { at, to, bytes, memory, access, contiguous, regular: true };
            count(&mut leaves, &leaf);
        }
        assert_eq!(leaves, Leaves { blocks_1g: 1, blocks_2m: 1, contiguous_pages: 1, pages: 1 });
    }

    #[test]
    fn flags_of_sync_files_are_read_and_write() {
        let access = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x8000_0001].map(|flags| decode_access(flags).ok());
        let (read, write) = (Some(BufferAccess::Read), Some(BufferAccess::Write));
        assert_eq!(access, [None, read, write, write, None, None, None, None, None, None]);
    }

    #[test]
    fn sync_flags_select_owner_and_direction() {
        let cases = [
            (1, Some((SyncFor::Cpu, Direction::FromDevice))),
            (2, Some((SyncFor::Cpu, Direction::ToDevice))),
            (3, Some((SyncFor::Cpu, Direction::Bidirectional))),
            (5, Some((SyncFor::Device, Direction::FromDevice))),
            (7, Some((SyncFor::Device, Direction::Bidirectional))),
            (0, None),
            (4, None),
            (8, None),
            (9, None),
        ];
        for (flags, expected) in cases {
            assert_eq!(decode_sync(flags).ok(), expected, "{flags}");
        }
    }
}
