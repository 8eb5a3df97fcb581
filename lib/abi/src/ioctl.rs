//! ioctl numbers (Linux `include/uapi/asm-generic/ioctl.h`).

/// The transfer direction of the argument structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum IoctlDirection {
    /// No argument.
    None = 0,
    /// From the program to the kernel.
    Write = 1,
    /// From the kernel to the program.
    Read = 2,
    /// Both directions.
    ReadWrite = 3,
}

/// An ioctl number: direction, argument size, type letter and number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Ioctl(u32);

impl Ioctl {
    const SIZE_BITS: u32 = 14;

    /// The ioctl `number` of type `family` with an argument of type `T`.
    pub const fn new<T>(direction: IoctlDirection, family: u8, number: u8) -> Self {
        let size = if matches!(direction, IoctlDirection::None) { 0 } else { size_of::<T>() as u32 };
        assert!(size < 1 << Self::SIZE_BITS);
        Self((direction as u32) << 30 | size << 16 | (family as u32) << 8 | number as u32)
    }

    /// The encoded number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_matches_linux() {
        // DMA_HEAP_IOCTL_ALLOC and DMA_BUF_IOCTL_SYNC as printed by a C program on Linux.
        assert_eq!(Ioctl::new::<[u8; 24]>(IoctlDirection::ReadWrite, b'H', 0).raw(), 0xc018_4800);
        assert_eq!(Ioctl::new::<u64>(IoctlDirection::Write, b'b', 0).raw(), 0x4008_6200);
        assert_eq!(Ioctl::new::<u64>(IoctlDirection::None, b'x', 7).raw(), 0x7807);
    }
}
