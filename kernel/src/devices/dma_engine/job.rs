//! Jobs that own the memory that they access.

use super::imports::ImportedRange;
use crate::dma::Attachment;
use crate::fs::dma_buf::DmaBuf;
use abi::Errno;
use addr::{AddrRange, Iova};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use dma_api::{DeviceOwned, Stream};
use drivers::dma_engine::{CopyError, DmaEngine, Transfer, TransferDirection};
use program::PendingFence;

/// An imported buffer. References exist in the [`Imports`](super::imports::Imports) of an open file and in
/// jobs, so that their number shows whether a job uses the buffer.
pub struct Import {
    pub attachment: Arc<Attachment>,
    pub dma_buf: Arc<DmaBuf>,
}

/// An import that a job accesses, and the fence of the access.
pub struct AccessedImport<T = Import> {
    /// Before the import: the access has ended when the buffer is detached.
    pub fence: PendingFence,
    pub import: Arc<T>,
}

/// Transfers, and the memory that they access. The memory stays mapped for the device as long as the job
/// owns it, and is returned only when the engine no longer accesses it.
pub struct TransferJob<M> {
    pub(super) transfers: Vec<Transfer>,
    pub(super) memory: M,
}

impl TransferJob<AccessedImport> {
    /// Copies between imported memory and the device's buffer from `offset` on; scattered memory is one
    /// transfer per piece. `start_access` returns the fence.
    ///
    /// # Errors
    /// `EINVAL` if an offset overflows, `ENOMEM`.
    pub fn of_import(
        range: ImportedRange<Import>,
        direction: TransferDirection,
        offset: u64,
        start_access: impl FnOnce(&DmaBuf) -> Result<PendingFence, Errno>,
    ) -> Result<Self, Errno> {
        let (import, bytes) = range.into_parts();
        let pieces = gather(offset, import.attachment.bus_ranges(bytes.start, bytes.end));
        let pieces = pieces.ok_or(Errno::EINVAL)?;
        let memory = AccessedImport { fence: start_access(&import.dma_buf)?, import };
        // SAFETY: device addresses of the attachment, which the job keeps mapped.
        let transfer = |(piece, offset)| unsafe { Transfer::new(direction, piece, offset) };
        Ok(Self { transfers: pieces.into_iter().map(transfer).collect(), memory })
    }
}

impl TransferJob<Attachment> {
    /// Copies between the first `len` bytes of a buffer, which has contiguous device addresses, and the
    /// device's buffer.
    pub fn of_buffer(buffer: Attachment, direction: TransferDirection, len: u64) -> Self {
        let start = buffer.range().start();
        // SAFETY: device addresses of the attachment, which the job keeps mapped.
        let transfer = unsafe { Transfer::new(direction, AddrRange::new(start, start + len), 0) };
        Self { transfers: Vec::from([transfer]), memory: buffer }
    }
}

impl TransferJob<Stream<DeviceOwned>> {
    /// Copies between all of `stream` and the device's buffer from `offset` on.
    pub fn of_stream(stream: Stream<DeviceOwned>, offset: u64) -> Self {
        let direction = match stream.direction() {
            dma_api::Direction::ToDevice => TransferDirection::FromMemory,
            dma_api::Direction::FromDevice | dma_api::Direction::Bidirectional => TransferDirection::ToMemory,
        };
        let range = AddrRange::new(stream.iova(), stream.iova() + stream.len() as u64);
        // SAFETY: the addresses of the stream, which the device owns and the job keeps mapped.
        let transfer = unsafe { Transfer::new(direction, range, offset) };
        Self { transfers: Vec::from([transfer]), memory: stream }
    }
}

/// Returns for each piece of memory its offset in the device's buffer: consecutive from `offset` on.
fn gather(offset: u64, pieces: Vec<AddrRange<Iova>>) -> Option<Vec<(AddrRange<Iova>, u64)>> {
    let mut next = Some(offset);
    let place = |piece: AddrRange<Iova>| {
        let offset = next?;
        next = offset.checked_add(piece.len());
        Some((piece, offset))
    };
    pieces.into_iter().map(place).collect()
}

/// The memory of a job that the engine did not end and that could not be stopped: the engine may still access
/// it, so it stays mapped and allocated until the engine is done.
pub struct UnfinishedJob(Option<Box<dyn Send>>);

impl UnfinishedJob {
    pub const fn none() -> Self {
        Self(None)
    }

    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps `memory`. There must be none: no job is started before [`take_if_done`](Self::take_if_done)
    /// succeeds.
    pub fn keep(&mut self, memory: impl Send + 'static) {
        debug_assert!(self.0.is_none(), "the memory of the earlier job would be freed");
        self.0 = Some(Box::new(memory));
    }

    /// Returns the memory, if any, which the engine must no longer access. It must be dropped without a lock.
    pub fn take(&mut self) -> Option<Box<dyn Send>> {
        self.0.take()
    }

    /// Returns the memory, if any, once the engine is done. It must be dropped without a lock.
    ///
    /// # Errors
    /// [`CopyError::Busy`] while the engine is not done, [`CopyError::Gone`]; the memory is kept.
    pub fn take_if_done(&mut self, engine: &dyn DmaEngine) -> Result<Option<Box<dyn Send>>, CopyError> {
        match self.0 {
            Some(_) if !engine.is_done()? => Err(CopyError::Busy),
            _ => Ok(self.0.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivers::dma_engine::{Gone, NotStopped, Notify};

    #[test]
    fn pieces_are_consecutive_in_the_device_buffer() {
        let piece = |at, len| AddrRange::from_len(Iova::new(at), len).unwrap();
        let (first, second) = (piece(0xc000_0ff0, 16), piece(0xd000_0000, 4));
        assert_eq!(gather(8, vec![first, second]), Some(vec![(first, 8), (second, 24)]));
        assert_eq!(gather(u64::MAX, vec![piece(0, 4), piece(8, 4)]), None, "the offset overflows");
    }

    #[test]
    fn access_has_ended_when_its_import_is_dropped() {
        struct DetachedImport(Arc<program::Fence>);
        impl Drop for DetachedImport {
            fn drop(&mut self) {
                assert!(self.0.signal().is_some(), "the buffer is detached during the access");
            }
        }
        let fence = PendingFence::new(1, "fake", "", || 1, crate::memory::heap::try_arc).unwrap();
        let import = Arc::new(DetachedImport(fence.fence().clone()));
        let mut job = UnfinishedJob::none();
        job.keep(AccessedImport { fence, import });
        drop(job.take());
    }

    /// An engine whose job ends when the test says so.
    struct LateEngine(Result<bool, Gone>);

    impl DmaEngine for LateEngine {
        fn max_transfers(&self) -> usize {
            1
        }
        fn start(&mut self, _: &[Transfer], _: Notify) -> Result<(), CopyError> {
            unreachable!("nothing is started before the unfinished job has ended")
        }
        fn is_done(&self) -> Result<bool, Gone> {
            self.0
        }
        fn stop(&mut self) -> Result<(), NotStopped> {
            Err(NotStopped)
        }
        fn outcome(&mut self) -> Result<(), CopyError> {
            Ok(())
        }
        fn acknowledge(&mut self) -> bool {
            false
        }
    }

    #[test]
    fn memory_of_an_unfinished_job_is_kept_until_the_engine_is_done() {
        let memory = Arc::new(());
        let (mut job, mut engine) = (UnfinishedJob::none(), LateEngine(Ok(false)));
        assert!(job.take_if_done(&engine).is_ok_and(|none| none.is_none()), "no unfinished job");
        job.keep(memory.clone());
        for not_done in [Ok(false), Err(Gone), Ok(false)] {
            engine.0 = not_done;
            let expected = if not_done.is_err() { CopyError::Gone } else { CopyError::Busy };
            assert_eq!(job.take_if_done(&engine).err(), Some(expected));
            assert!(job.is_some() && Arc::strong_count(&memory) == 2, "freed under a running engine");
        }
        engine.0 = Ok(true);
        drop(job.take_if_done(&engine).ok());
        assert!(!job.is_some() && Arc::strong_count(&memory) == 1);
    }
}
