//! `/dev/console`: the serial line, for all programs.

use super::char_device::{self, DeviceNumber, RegisterError};
use super::{Caller, File, OpenFile, stat_device};
use crate::console;
use crate::sched::{self, WaitError};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::{PollEvents, Stat};
use abi::terminal::{FIONREAD, TCGETS, TCSETS, TIOCGWINSZ, Termios, WinSize};
use addr::UserVa;

const NUMBER: DeviceNumber = DeviceNumber { major: 5, minor: 1 };

/// How often a reader looks whether something was typed: the UART's interrupt is not used.
const LOOK: u64 = 10_000_000;
/// Bytes that go to the console in one piece, with nobody else's between them.
const PIECE: usize = 512;
/// What ends the input (Ctrl-D).
const END: u8 = 4;

/// A byte that `poll` has seen and nobody has read yet.
static AHEAD: SpinLock<Option<u8>> = SpinLock::new(None);

pub(super) fn register() -> Result<(), RegisterError> {
    char_device::register(&["/dev/console", "/dev/tty"], NUMBER, |_, flags| Ok(OpenFile::new(Console, flags)))
}

/// The serial line.
pub struct Console;

impl File for Console {
    /// Waits for the first byte, then takes what is there, up to the end of a line.
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        let mut line = [0; 256];
        let room = len.min(line.len());
        let mut count = 0;
        while count < room {
            let byte = match next_byte() {
                Some(byte) => byte,
                None if count > 0 => break,
                None => wait_for_byte()?,
            };
            if byte == END {
                break;
            }
            line[count] = if byte == b'\r' { b'\n' } else { byte };
            count += 1;
            if line[count - 1] == b'\n' {
                break;
            }
        }
        memory.write_bytes(to, &line[..count])?;
        Ok(count)
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len {
            let mut piece = [0; PIECE];
            let here = &mut piece[..PIECE.min(len - done)];
            match memory.read_bytes(from + done as u64, here) {
                Ok(()) => console::write_bytes(here),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += here.len();
        }
        Ok(done)
    }

    fn stat(&self) -> Stat {
        stat_device(NUMBER.rdev())
    }

    fn ioctl(&self, caller: &Caller<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        let (memory, at) = (UserMemory::new(caller.space), UserVa::new(argument));
        match request {
            TCGETS => memory.write(at, &Termios::SERIAL)?,
            TCSETS => {}
            TIOCGWINSZ => memory.write(at, &WinSize::SERIAL)?,
            FIONREAD => memory.write(at, &i32::from(has_byte()))?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn poll(&self) -> PollEvents {
        if has_byte() { PollEvents::IN | PollEvents::OUT } else { PollEvents::OUT }
    }
}

fn next_byte() -> Option<u8> {
    AHEAD.lock().take().or_else(console::read_byte)
}

fn has_byte() -> bool {
    let mut ahead = AHEAD.lock();
    if ahead.is_none() {
        *ahead = console::read_byte();
    }
    ahead.is_some()
}

fn wait_for_byte() -> Result<u8, Errno> {
    loop {
        if let Some(byte) = next_byte() {
            return Ok(byte);
        }
        match sched::sleep_until(sched::time::now() + LOOK) {
            Ok(()) | Err(WaitError::TimedOut) => {}
            Err(WaitError::Interrupted) => return Err(Errno::EINTR),
        }
    }
}
