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

    /// The ioctl of an encoded number.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The encoded number.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The number within the type (`_IOC_NR`).
    pub const fn number(self) -> u8 {
        self.0 as u8
    }

    /// The bytes of the argument that the kernel reads.
    pub const fn input_len(self) -> usize {
        self.len_in(IoctlDirection::Write)
    }

    /// The bytes of the argument that the kernel writes.
    pub const fn output_len(self) -> usize {
        self.len_in(IoctlDirection::Read)
    }

    const fn len_in(self, direction: IoctlDirection) -> usize {
        let len = self.0 >> 16 & ((1 << Self::SIZE_BITS) - 1);
        if self.0 >> 30 & direction as u32 == 0 { 0 } else { len as usize }
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

    #[test]
    fn fields_are_decoded() {
        let fields = |raw| {
            let ioctl = Ioctl::from_raw(raw);
            (ioctl.number(), ioctl.input_len(), ioctl.output_len())
        };
        assert_eq!(fields(0xc018_4800), (0, 24, 24));
        assert_eq!(fields(0x4008_6201), (1, 8, 0));
        assert_eq!(fields(0x8008_6202), (2, 0, 8));
        assert_eq!(fields(0x0008_7807), (7, 0, 0));
    }
}
