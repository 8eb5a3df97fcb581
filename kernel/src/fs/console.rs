//! `/dev/console`: the UART, shared by all processes.

use super::char_device::{self, DeviceNumber, RegisterError};
use super::{Caller, File};
use crate::console;
use crate::sched::{self, WaitError};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::PollEvents;
use abi::terminal::{FIONREAD, TCGETS, TCSETS, TIOCGWINSZ, Termios, WinSize};
use addr::UserVa;
use alloc::boxed::Box;

const NUMBER: DeviceNumber = DeviceNumber { major: 5, minor: 1 };

/// The interval at which a reader polls the UART, whose interrupt is not used.
const POLL_INTERVAL_NS: u64 = 10_000_000;
/// The bytes that are written atomically with respect to other writers.
const ATOMIC_BYTES: usize = 512;
/// The end-of-file character (Ctrl-D).
const EOF: u8 = 4;

/// A byte that `poll` has received and that is not read yet.
static LOOKAHEAD: SpinLock<Option<u8>> = SpinLock::new(None);

pub(super) fn register() -> Result<(), RegisterError> {
    char_device::register(&["/dev/console", "/dev/tty"], NUMBER, || Ok(Box::new(ConsoleFile)))
}

struct ConsoleFile;

impl File for ConsoleFile {
    /// Waits for the first byte, then reads the received bytes up to the end of a line.
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
            if byte == EOF {
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
            sched::yield_if_slice_ended();
            if sched::is_interrupted() {
                return if done == 0 { Err(Errno::EINTR) } else { Ok(done) };
            }
            let mut buffer = [0; ATOMIC_BYTES];
            let bytes = &mut buffer[..ATOMIC_BYTES.min(len - done)];
            match memory.read_bytes(from + done as u64, bytes) {
                Ok(()) => console::write_bytes(bytes),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += bytes.len();
        }
        Ok(done)
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
    LOOKAHEAD.lock().take().or_else(console::read_byte)
}

fn has_byte() -> bool {
    let mut lookahead = LOOKAHEAD.lock();
    if lookahead.is_none() {
        *lookahead = console::read_byte();
    }
    lookahead.is_some()
}

/// Waits for input without a time limit, as a read of a terminal does; the polls are sleeps.
fn wait_for_byte() -> Result<u8, Errno> {
    loop {
        if let Some(byte) = next_byte() {
            return Ok(byte);
        }
        match sched::sleep_until_signal(sched::time::now() + POLL_INTERVAL_NS) {
            Ok(()) | Err(WaitError::TimedOut) => {}
            Err(WaitError::Interrupted) => return Err(Errno::EINTR),
        }
    }
}
