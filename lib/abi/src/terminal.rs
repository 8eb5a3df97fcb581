//! Terminals: the ioctls, the modes and the control characters (Linux `asm-generic/termbits.h`, `ioctls.h`).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gets the [`Termios`]; used by glibc's `isatty`.
pub const TCGETS: u32 = 0x5401;
/// Sets the [`Termios`].
pub const TCSETS: u32 = 0x5402;
/// Sets the [`Termios`] after the output is sent.
pub const TCSETSW: u32 = 0x5403;
/// Sets the [`Termios`] after the output is sent, and discards the input.
pub const TCSETSF: u32 = 0x5404;
/// Waits until the output is sent (`tcdrain`); sends a break for the argument 0.
pub const TCSBRK: u32 = 0x5409;
/// Suspends or resumes output or input ([`TCOOFF`]).
pub const TCXONC: u32 = 0x540a;
/// Discards input or output ([`TCIFLUSH`]).
pub const TCFLSH: u32 = 0x540b;
/// Gets the foreground process group.
pub const TIOCGPGRP: u32 = 0x540f;
/// Sets the foreground process group.
pub const TIOCSPGRP: u32 = 0x5410;
/// Gets the number of bytes of output that are not sent yet.
pub const TIOCOUTQ: u32 = 0x5411;
/// Gets the [`WinSize`]; used by musl's `isatty`.
pub const TIOCGWINSZ: u32 = 0x5413;
/// Sets the [`WinSize`].
pub const TIOCSWINSZ: u32 = 0x5414;
/// Gets the number of bytes that can be read without blocking.
pub const FIONREAD: u32 = 0x541b;
/// Gets the session.
pub const TIOCGSID: u32 = 0x5429;
/// Gets the [`Termios2`].
pub const TCGETS2: u32 = 0x802c_542a;
/// As [`TCSETS`], with a [`Termios2`].
pub const TCSETS2: u32 = 0x402c_542b;
/// As [`TCSETSW`], with a [`Termios2`].
pub const TCSETSW2: u32 = 0x402c_542c;
/// As [`TCSETSF`], with a [`Termios2`].
pub const TCSETSF2: u32 = 0x402c_542d;

/// `TCXONC`: suspend output.
pub const TCOOFF: u64 = 0;
/// `TCXONC`: resume output.
pub const TCOON: u64 = 1;
/// `TCXONC`: send [`VSTOP`].
pub const TCIOFF: u64 = 2;
/// `TCXONC`: send [`VSTART`].
pub const TCION: u64 = 3;
/// `TCFLSH`: discard the input.
pub const TCIFLUSH: u64 = 0;
/// `TCFLSH`: discard the output.
pub const TCOFLUSH: u64 = 1;
/// `TCFLSH`: discard both.
pub const TCIOFLUSH: u64 = 2;

bitflags! {
    /// Input modes (`c_iflag`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct InputModes: u32 {
        /// Bit 7 is cleared.
        const ISTRIP = 0o40;
        /// A newline becomes a carriage return.
        const INLCR = 0o100;
        /// Carriage returns are ignored.
        const IGNCR = 0o200;
        /// A carriage return becomes a newline.
        const ICRNL = 0o400;
        /// [`VSTOP`] suspends output, and [`VSTART`] resumes it.
        const IXON = 0o2000;
        /// Any character resumes output.
        const IXANY = 0o4000;
        /// The bell rings when the input is full.
        const IMAXBEL = 0o20000;
        /// Characters are UTF-8 when they are erased.
        const IUTF8 = 0o40000;
    }

    /// Output modes (`c_oflag`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct OutputModes: u32 {
        /// Output is processed.
        const OPOST = 0o1;
        /// A newline becomes a carriage return and a newline.
        const ONLCR = 0o4;
        /// A carriage return becomes a newline.
        const OCRNL = 0o10;
        /// No carriage return at column 0.
        const ONOCR = 0o20;
        /// A newline returns to column 0.
        const ONLRET = 0o40;
        /// Tabs become spaces.
        const XTABS = 0o14000;
    }

    /// Local modes (`c_lflag`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct LocalModes: u32 {
        /// [`VINTR`], [`VQUIT`] and [`VSUSP`] send signals.
        const ISIG = 0o1;
        /// Canonical mode: input is read in lines that can be edited.
        const ICANON = 0o2;
        /// Input is echoed.
        const ECHO = 0o10;
        /// [`VERASE`] and [`VWERASE`] erase the echo.
        const ECHOE = 0o20;
        /// A newline is echoed after [`VKILL`].
        const ECHOK = 0o40;
        /// A newline is echoed without [`LocalModes::ECHO`].
        const ECHONL = 0o100;
        /// A signal does not discard input.
        const NOFLSH = 0o200;
        /// Control characters are echoed as `^X`.
        const ECHOCTL = 0o1000;
        /// [`VKILL`] erases the echo.
        const ECHOKE = 0o4000;
        /// [`VLNEXT`], [`VREPRINT`], [`VWERASE`] and [`VEOL2`] have their functions.
        const IEXTEN = 0o100000;
    }
}

/// Index of the character that sends `SIGINT`.
pub const VINTR: usize = 0;
/// Index of the character that sends `SIGQUIT`.
pub const VQUIT: usize = 1;
/// Index of the character that erases one.
pub const VERASE: usize = 2;
/// Index of the character that erases the line.
pub const VKILL: usize = 3;
/// Index of the character that ends the file.
pub const VEOF: usize = 4;
/// Index of the time limit of a read in tenths of a second, in non-canonical mode.
pub const VTIME: usize = 5;
/// Index of the minimum length of a read in non-canonical mode.
pub const VMIN: usize = 6;
/// Index of the character that resumes output.
pub const VSTART: usize = 8;
/// Index of the character that suspends output.
pub const VSTOP: usize = 9;
/// Index of the character that sends `SIGTSTP`.
pub const VSUSP: usize = 10;
/// Index of an additional end of a line.
pub const VEOL: usize = 11;
/// Index of the character that prints the line again.
pub const VREPRINT: usize = 12;
/// Index of the character that erases a word.
pub const VWERASE: usize = 14;
/// Index of the character that quotes the next one.
pub const VLNEXT: usize = 15;
/// Index of another end of a line.
pub const VEOL2: usize = 16;

/// `struct termios` of the kernel interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    /// [`InputModes`].
    pub input: u32,
    /// [`OutputModes`].
    pub output: u32,
    /// Control modes.
    pub control: u32,
    /// [`LocalModes`].
    pub local: u32,
    /// Line discipline.
    pub line: u8,
    /// Control characters; 0 disables the function.
    pub characters: [u8; 19],
}

impl Termios {
    /// A serial line of 115200 baud, 8 bits, with Linux's default modes and characters.
    pub const SERIAL: Self = Self {
        input: InputModes::ICRNL.bits() | InputModes::IXON.bits(),
        output: OutputModes::OPOST.bits() | OutputModes::ONLCR.bits(),
        control: 0o10002 | 0o60 | 0o200 | 0o4000, // B115200 | CS8 | CREAD | CLOCAL
        local: LocalModes::ISIG
            .union(LocalModes::ICANON)
            .union(LocalModes::ECHO)
            .union(LocalModes::ECHOE)
            .union(LocalModes::ECHOK)
            .union(LocalModes::ECHOCTL)
            .union(LocalModes::ECHOKE)
            .union(LocalModes::IEXTEN)
            .bits(),
        line: 0,
        characters: [3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0xf, 0x17, 0x16, 0, 0, 0],
    };
}

/// `struct termios2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios2 {
    /// The modes and characters.
    pub termios: Termios,
    /// Input speed in baud.
    pub input_speed: u32,
    /// Output speed in baud.
    pub output_speed: u32,
}

impl Termios2 {
    /// The speed of [`Termios::SERIAL`].
    pub const SERIAL_SPEED: u32 = 115_200;
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
        assert_eq!((size_of::<Termios>(), size_of::<Termios2>(), size_of::<WinSize>()), (36, 44, 8));
    }

    /// Those of `stty -a` on a serial line of Linux.
    #[test]
    fn defaults_match_linux() {
        let Termios { input, output, control, local, .. } = Termios::SERIAL;
        assert_eq!((input, output, control, local), (0x500, 0x5, 0x18b2, 0x8a3b));
    }
}
