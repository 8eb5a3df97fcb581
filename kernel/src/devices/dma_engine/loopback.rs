//! A check of the IOMMU in front of a device, by one write of the device. The device tree states which
//! devices are behind an IOMMU. It can be wrong: the bus can be wired, or the machine configured, to bypass
//! the IOMMU. Device addresses are then physical addresses, and the device overwrites unrelated memory.

use super::DmaEngineDevice;
use crate::dma;
use addr::{AddrRange, KernelVa, PAGE_SIZE};
use core::fmt;
use dma_api::{Attrs, DmaError};
use drivers::dma_engine::{CopyError, Transfer, TransferDirection};

/// The content of the memory before the device writes to it.
const PATTERN: u32 = 0x7e55_e4a5;

/// Why a device is not used.
pub(super) enum LoopbackError {
    /// No buffer can be allocated for it.
    NoBuffer(DmaError),
    /// The transfer failed.
    Copy(CopyError),
    /// Its write neither arrived nor was aborted.
    BypassesIommu,
}

impl fmt::Display for LoopbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBuffer(error) => error.fmt(f),
            Self::Copy(error) => error.fmt(f),
            Self::BypassesIommu => {
                write!(f, "DMA bypasses the IOMMU given in the device tree")
            }
        }
    }
}

/// Makes a device behind an IOMMU write four bytes, and checks that they arrive. Called in a thread.
pub(super) fn check(engine: &DmaEngineDevice) -> Result<(), LoopbackError> {
    if !engine.device().domain().is_translated() {
        return Ok(());
    }
    let buffer = dma::alloc(engine.device(), PAGE_SIZE, Attrs::empty()).map_err(LoopbackError::NoBuffer)?;
    let view = buffer.buffer().make_kernel_view().map_err(LoopbackError::NoBuffer)?;
    let word = Word(view.start());
    word.write(PATTERN);
    let start = buffer.range().start();
    let target = AddrRange::new(start, start + size_of::<u32>() as u64);
    // SAFETY: the start of a buffer of the device. If the IOMMU is bypassed, these are addresses that the
    // device tree gives to no other device, and the device is not used any further.
    let transfer = unsafe { Transfer::new(TransferDirection::ToMemory, target, 0) };
    let done = engine.transfer(transfer).map_err(LoopbackError::Copy)?;
    // An aborted access has reached the IOMMU.
    if word.read() == PATTERN && done.aborted == 0 { Err(LoopbackError::BypassesIommu) } else { Ok(()) }
}

/// The first word of a mapped buffer, which the device may write.
struct Word(KernelVa);

impl Word {
    fn write(&self, value: u32) {
        // SAFETY: constructed only above, from the start of a page that is mapped writable until the buffer
        // is dropped.
        unsafe { (self.0.raw() as *mut u32).write_volatile(value) };
    }

    fn read(&self) -> u32 {
        // SAFETY: as in `write`; volatile, since the device writes it.
        unsafe { (self.0.raw() as *const u32).read_volatile() }
    }
}
