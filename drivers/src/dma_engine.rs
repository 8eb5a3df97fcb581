//! DMA engines that copy between memory and a buffer of [`BUFFER_LEN`] bytes: QEMU's `edu` with its internal
//! buffer, and the DMA engine of a Raspberry Pi with a buffer in memory, which its driver allocates.
//!
//! A job is started, then waited for by polling or by interrupt, as the caller decides.

use addr::{AddrRange, Iova};
use core::fmt;

/// Size of the device's buffer in bytes.
pub const BUFFER_LEN: u64 = 4096;

/// Direction of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferDirection {
    /// From memory into the device's buffer.
    FromMemory,
    /// From the device's buffer to memory.
    ToMemory,
}

/// Notification of the end of a job. Polling works in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// None.
    Poll,
    /// An interrupt, which stays asserted until it is acknowledged.
    Interrupt,
}

/// A copy between memory and the device's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Its direction.
    pub(crate) direction: TransferDirection,
    /// Device address of the memory.
    pub(crate) memory: Iova,
    /// Offset of the first byte in the device's buffer.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) len: u64,
}

impl Transfer {
    /// A copy between `memory`, by its device addresses, and the device's buffer from `offset` on.
    ///
    /// # Safety
    /// The device owns the memory that it reaches at these addresses, for reading or, with
    /// [`TransferDirection::ToMemory`], for writing, until each job with the transfer has ended, or the
    /// engine was stopped. Behind an IOMMU the addresses may be unmapped: it aborts the access.
    pub unsafe fn new(direction: TransferDirection, memory: AddrRange<Iova>, offset: u64) -> Self {
        Self { direction, memory: memory.start(), offset, len: memory.len() }
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no engine starts an empty transfer")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Checks that the transfer is inside the device's buffer, and its memory within the device's mask.
    pub(crate) fn check(&self, mask: u64) -> Result<(), CopyError> {
        let Self { memory, offset, len, .. } = *self;
        check_buffer_range(offset, len)?;
        match memory.raw().checked_add(len - 1) {
            Some(last) if last <= mask => Ok(()),
            _ => Err(CopyError::PastMask { memory, len, mask }),
        }
    }
}

/// Checks that a range is inside the device's buffer and not empty.
///
/// # Errors
/// [`CopyError::OutsideBuffer`].
pub const fn check_buffer_range(offset: u64, len: u64) -> Result<(), CopyError> {
    match offset.checked_add(len) {
        Some(end) if len != 0 && end <= BUFFER_LEN => Ok(()),
        _ => Err(CopyError::OutsideBuffer { offset, len }),
    }
}

/// The device's registers read as all ones: it was removed from the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

impl From<Gone> for CopyError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// The engine may still access the memory of its job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotStopped;

/// A copy failed or was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// A job is still running.
    Busy,
    /// The bytes are not inside the device's buffer, or the length is zero.
    OutsideBuffer {
        /// Offset of the first byte in the buffer.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The memory exceeds the device's mask.
    PastMask {
        /// Device address of the memory.
        memory: Iova,
        /// Length in bytes.
        len: u64,
        /// The device's highest address.
        mask: u64,
    },
    /// The device copies whole words: this address, offset or length is not a multiple of the word size.
    Unaligned {
        /// The address, offset or length.
        value: u64,
        /// Bytes in a word.
        word: u64,
    },
    /// The job has more transfers than the device supports.
    TooMany {
        /// Transfers of the job.
        transfers: usize,
        /// Maximum.
        most: usize,
    },
    /// The device reported an error; the value of its error register.
    Failed(u32),
    /// The job did not finish in time, and was stopped.
    TimedOut,
    /// The job did not finish in time, and the engine did not stop: it may still access the memory.
    NotStopped,
    /// The device was removed.
    Gone,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => write!(f, "a transfer is still running"),
            Self::OutsideBuffer { offset, len } => {
                write!(f, "{len:#x} bytes at {offset:#x} are not inside the buffer of {BUFFER_LEN:#x}")
            }
            Self::PastMask { memory, len, mask } => {
                write!(f, "{len:#x} bytes at {memory:#x} pass the highest address {mask:#x}")
            }
            Self::Unaligned { value, word } => write!(f, "{value:#x} is not a multiple of {word}"),
            Self::TooMany { transfers, most } => {
                write!(f, "{transfers} transfers in a job, the maximum is {most}")
            }
            Self::Failed(errors) => write!(f, "device error {errors:#x}"),
            Self::TimedOut => write!(f, "the transfer timed out"),
            Self::NotStopped => write!(f, "the transfer timed out, and the engine did not stop"),
            Self::Gone => write!(f, "the device was removed"),
        }
    }
}

impl core::error::Error for CopyError {}

/// A DMA engine.
pub trait DmaEngine: Send {
    /// Maximum number of transfers of a job; above 1 the engine supports scatter-gather lists.
    fn max_transfers(&self) -> usize;

    /// Starts a job of `transfers`, in this order. The device observes all earlier stores to the memory,
    /// which it owns until [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// [`CopyError`], except [`CopyError::Failed`], [`CopyError::TimedOut`] and [`CopyError::NotStopped`];
    /// nothing was started.
    fn start(&mut self, transfers: &[Transfer], notify: Notify) -> Result<(), CopyError>;

    /// Whether no job is running. If true, later reads observe the stores of the job.
    ///
    /// # Errors
    /// [`Gone`].
    fn is_done(&self) -> Result<bool, Gone>;

    /// Ends the job without completing it. After this the engine does not access its memory.
    ///
    /// # Errors
    /// [`NotStopped`] if it may still do so: the memory must stay mapped and allocated until
    /// [`is_done`](Self::is_done).
    fn stop(&mut self) -> Result<(), NotStopped>;

    /// The result of the last job, if the device reports one.
    ///
    /// # Errors
    /// [`CopyError::Failed`].
    fn outcome(&mut self) -> Result<(), CopyError>;

    /// Deasserts the device's interrupt, and returns whether it signalled the end of a job. For an interrupt
    /// handler: does not wait or allocate.
    fn acknowledge(&mut self) -> bool;
}
