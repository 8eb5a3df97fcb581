//! Terminal ioctls used by `isatty` and window size queries.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gets the [`Termios`]; used by glibc's `isatty`.
pub const TCGETS: u32 = 0x5401;
/// Sets the [`Termios`].
pub const TCSETS: u32 = 0x5402;
/// Gets the [`WinSize`]; used by musl's `isatty`.
pub const TIOCGWINSZ: u32 = 0x5413;
/// Gets the number of bytes that can be read without blocking.
pub const FIONREAD: u32 = 0x541b;

/// `struct termios` of the kernel interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    /// Input modes.
    pub input: u32,
    /// Output modes.
    pub output: u32,
    /// Control modes.
    pub control: u32,
    /// Local modes.
    pub local: u32,
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub characters: [u8; 19],
}

impl Termios {
    /// A serial line: 115200 baud, 8 bits, non-canonical input, carriage returns added on output.
    pub const SERIAL: Self = Self {
        input: 0,
        output: 0o5,            // OPOST | ONLCR
        control: 0o2 | 0o14260, // B115200 | CS8 | CREAD | CLOCAL
        local: 0,
        line: 0,
        characters: [0; 19],
    };
}

/// `struct winsize`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WinSize {
    /// Rows of text.
    pub rows: u16,
    /// Columns of text.
    pub columns: u16,
    /// Width in pixels, or 0.
    pub width: u16,
    /// Height in pixels, or 0.
    pub height: u16,
}

impl WinSize {
    /// The assumed size of a serial terminal.
    pub const SERIAL: Self = Self { rows: 24, columns: 80, width: 0, height: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_match_linux() {
        assert_eq!((size_of::<Termios>(), size_of::<WinSize>()), (36, 8));
    }
}
