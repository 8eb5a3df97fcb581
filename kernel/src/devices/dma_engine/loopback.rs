//! Whether what a device writes arrives where its IOMMU would put it. The device tree says which devices are behind one,
//! and it may be wrong: a bus can be wired, or a machine configured, past an IOMMU that the tree puts in front of it.
//! Then device addresses reach memory as they are, and whatever is there is overwritten.

use super::DmaEngineDevice;
use crate::dma;
use addr::{KernelVa, PAGE_SIZE};
use core::fmt;
use dma_api::{Attrs, DmaError};
use drivers::dma_engine::{CopyError, Transfer, TransferDirection};

/// What the memory holds before the device writes to it.
const MARK: u32 = 0x7e55_e4a5;

/// Why a device is not used.
pub(super) enum LoopbackError {
    /// There is no buffer for it.
    NoBuffer(DmaError),
    /// It does not copy.
    Copy(CopyError),
    /// What it wrote went elsewhere, and its IOMMU has not seen it.
    BypassesIommu,
}

impl fmt::Display for LoopbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBuffer(error) => error.fmt(f),
            Self::Copy(error) => error.fmt(f),
            Self::BypassesIommu => write!(
                f,
                "what it writes does not pass the IOMMU that the device tree puts in front of it; a bypassed bus?"
            ),
        }
    }
}

/// Lets a device behind an IOMMU write four bytes, and looks whether they arrive. Only in a thread.
pub(super) fn check(engine: &DmaEngineDevice) -> Result<(), LoopbackError> {
    if !engine.device().domain().is_translated() {
        return Ok(());
    }
    let buffer = dma::alloc(engine.device(), PAGE_SIZE, Attrs::empty()).map_err(LoopbackError::NoBuffer)?;
    let view = buffer.buffer().make_kernel_view().map_err(LoopbackError::NoBuffer)?;
    let word = Word(view.start());
    word.write(MARK);
    let len = size_of::<u32>() as u64;
    let transfer =
        Transfer { direction: TransferDirection::ToMemory, memory: buffer.range().start(), offset: 0, len };
    let done = engine.transfer(transfer).map_err(LoopbackError::Copy)?;
    // What an IOMMU aborts has at least come by it.
    if word.read() == MARK && done.aborted == 0 { Err(LoopbackError::BypassesIommu) } else { Ok(()) }
}

/// The first word of a mapped buffer, which a device may write.
struct Word(KernelVa);

impl Word {
    fn write(&self, value: u32) {
        // SAFETY: made above alone, of the start of a page that is mapped writable as long as the buffer lives.
        unsafe { (self.0.raw() as *mut u32).write_volatile(value) };
    }

    fn read(&self) -> u32 {
        // SAFETY: as for writing; volatile, since the device writes it.
        unsafe { (self.0.raw() as *const u32).read_volatile() }
    }
}
