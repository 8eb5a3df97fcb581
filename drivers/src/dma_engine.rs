//! DMA engines that copy between memory and a buffer of [`BUFFER_LEN`] bytes: QEMU's `edu` with its internal
//! buffer, and the DMA engine of a Raspberry Pi with a buffer in memory, which its driver allocates.
//!
//! A job is started, then waited for by polling or by interrupt, as the caller decides.

use addr::Iova;
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
    pub direction: TransferDirection,
    /// Device address of the memory.
    pub memory: Iova,
    /// Offset of the first byte in the device's buffer.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Transfer {
    /// Checks that the transfer is inside the device's buffer, and its memory within the device's mask.
    pub(crate) fn check(&self, mask: u64) -> Result<(), CopyError> {
        let Self { memory, offset, len, .. } = *self;
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > BUFFER_LEN) {
            return Err(CopyError::OutsideBuffer { offset, len });
        }
        match memory.raw().checked_add(len - 1) {
            Some(last) if last <= mask => Ok(()),
            _ => Err(CopyError::PastMask { memory, len, mask }),
        }
    }
}

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
    /// The job did not finish in time.
    TimedOut,
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
    /// [`CopyError`], except [`CopyError::Failed`] and [`CopyError::TimedOut`]; nothing was started.
    fn start(&mut self, transfers: &[Transfer], notify: Notify) -> Result<(), CopyError>;

    /// Whether no job is running. If true, later reads observe the stores of the job.
    fn is_done(&self) -> bool;

    /// The result of the last job, if the device reports one.
    ///
    /// # Errors
    /// [`CopyError::Failed`].
    fn outcome(&mut self) -> Result<(), CopyError>;

    /// Deasserts the device's interrupt, and returns whether it signalled the end of a job. For an interrupt
    /// handler: does not wait or allocate.
    fn acknowledge(&mut self) -> bool;
}
