//! What devices have in common that copy between memory and a buffer of [`BUFFER_LEN`] bytes of their own: QEMU's
//! `edu`, and the DMA engine of a Raspberry Pi with a buffer that its driver gives it.
//!
//! A job is started, then waited for by polling or by interrupt; which, the caller decides.

use addr::Iova;
use core::fmt;

/// Bytes in the device's own buffer.
pub const BUFFER_LEN: u64 = 4096;

/// Which way a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferDirection {
    /// From memory into the device's buffer.
    FromMemory,
    /// From the device's buffer to memory.
    ToMemory,
}

/// How the end of a job is announced. The device can be polled in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// Not at all.
    Poll,
    /// By an interrupt, which stays raised until it is acknowledged.
    Interrupt,
}

/// A copy between memory and the device's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Which way.
    pub direction: TransferDirection,
    /// The memory, at the device's address for it.
    pub memory: Iova,
    /// The first byte in the device's buffer.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

impl Transfer {
    /// Refuses what is not inside the device's buffer, or not all within a device's reach.
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

/// Why bytes were not copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// A job is still running.
    Busy,
    /// The bytes are not inside the device's buffer, or there are none.
    OutsideBuffer {
        /// The first byte's offset in the buffer.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The device does not reach all of the memory.
    PastMask {
        /// Where the memory starts.
        memory: Iova,
        /// How many bytes.
        len: u64,
        /// The highest address it reaches.
        mask: u64,
    },
    /// The device copies whole words: this address, offset or length is no multiple of one.
    Ragged {
        /// What it is.
        value: u64,
        /// Bytes in a word.
        word: u64,
    },
    /// The job has this many transfers, and the device does `most` at a time.
    TooMany {
        /// How many there are.
        transfers: usize,
        /// How many there may be.
        most: usize,
    },
    /// The device gave up, with this in its error register.
    Failed(u32),
    /// The job was not over in time.
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
            Self::Ragged { value, word } => write!(f, "{value:#x} is no multiple of {word}"),
            Self::TooMany { transfers, most } => {
                write!(f, "{transfers} transfers at once, {most} are the most")
            }
            Self::Failed(errors) => write!(f, "the device gave up: {errors:#x}"),
            Self::TimedOut => write!(f, "the transfer is not over in time"),
        }
    }
}

impl core::error::Error for CopyError {}

/// A device of this kind.
pub trait DmaEngine: Send {
    /// How many transfers it does in one go: above 1, memory in several pieces is no obstacle.
    fn most_transfers(&self) -> usize;

    /// Starts a job: `transfers`, in this order. What the CPU wrote to the memory before is in it; the memory belongs
    /// to the device until [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// [`CopyError`], but for [`CopyError::Failed`] and [`CopyError::TimedOut`]; nothing was started.
    fn start(&mut self, transfers: &[Transfer], notify: Notify) -> Result<(), CopyError>;

    /// Whether no job is running. If so, what it wrote is seen by what the CPU reads next.
    fn is_done(&self) -> bool;

    /// How the last job ended, as far as the device says anything about that.
    ///
    /// # Errors
    /// [`CopyError::Failed`].
    fn outcome(&mut self) -> Result<(), CopyError>;

    /// Takes back the device's interrupt; whether it was raised because a job is over. For an interrupt handler: it
    /// neither waits nor allocates.
    fn acknowledge(&mut self) -> bool;
}
