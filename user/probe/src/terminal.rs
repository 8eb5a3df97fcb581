//! The console as a terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use abi::terminal::*;

use crate::raw;
use crate::result::{ProbeResult, ensure};

const EFAULT: i64 = -(libc::EFAULT as i64);
const EINVAL: i64 = -(libc::EINVAL as i64);

/// A terminal that nothing else uses, and the file that keeps it open: a pseudo-terminal, or the console on
/// Tessera.
fn open() -> io::Result<(File, Option<File>)> {
    let options = |path: &str| {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(path)
    };
    let Ok(master) = options("/dev/ptmx") else { return Ok((options("/dev/console")?, None)) };
    // SAFETY: plain calls on an open descriptor; the name is in `name`, with its length.
    let slave = unsafe {
        let mut name = [0; 64];
        libc::grantpt(master.as_raw_fd());
        libc::unlockpt(master.as_raw_fd());
        libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len());
        std::ffi::CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    Ok((options(&slave)?, Some(master)))
}

fn ioctl<T>(file: &File, request: u32, argument: &mut T) -> i64 {
    ioctl_at(file, request, std::ptr::from_mut(argument).expose_provenance() as u64)
}

fn ioctl_at(file: &File, request: u32, argument: u64) -> i64 {
    let fd = file.as_raw_fd() as u64;
    // SAFETY: the argument is a number, an invalid address, or that of a structure of the request's size.
    unsafe { raw::call(libc::SYS_ioctl, [fd, request.into(), argument, 0, 0, 0]) }
}

fn expect(what: &str, result: i64, expected: i64) -> ProbeResult {
    ensure(result == expected, || format!("{what}: {result}, not {expected}"))
}

/// Modes and window size are kept, and each ioctl checks its argument.
pub fn modes(_: &[String]) -> ProbeResult {
    let (file, _master) = open()?;
    let mut original = Termios::SERIAL;
    expect("TCGETS", ioctl(&file, TCGETS, &mut original), 0)?;
    let result = check_modes(&file, original);
    expect("restored", ioctl(&file, TCSETSF, &mut original), 0)?;
    result
}

fn check_modes(mut file: &File, original: Termios) -> ProbeResult {
    for (step, request) in [TCSETS, TCSETSW, TCSETSF].into_iter().enumerate() {
        let mut changed = original;
        changed.local ^= LocalModes::ECHO.bits();
        changed.input ^= InputModes::ICRNL.bits();
        changed.characters[VKILL] = step as u8 + 1;
        let wanted = changed;
        expect("set", ioctl(file, request, &mut changed), 0)?;
        let mut now = Termios2 { termios: original, input_speed: 0, output_speed: 0 };
        expect("TCGETS2", ioctl(file, TCGETS2, &mut now), 0)?;
        ensure(now.termios == wanted, || format!("{:?} after {wanted:?}", now.termios))?;
        ensure(now.output_speed > 0, || format!("{now:?}"))?;
        now.termios = original;
        expect("set with speeds", ioctl(file, request - TCSETS + TCSETS2, &mut now), 0)?;
        let mut again = wanted;
        expect("TCGETS", ioctl(file, TCGETS, &mut again), 0)?;
        ensure(again == original, || format!("{again:?} after {original:?}"))?;
    }
    let mut size = WinSize { rows: 7, columns: 70, width: 1, height: 2 };
    expect("TIOCSWINSZ", ioctl(file, TIOCSWINSZ, &mut size), 0)?;
    let mut seen = WinSize::SERIAL;
    expect("TIOCGWINSZ", ioctl(file, TIOCGWINSZ, &mut seen), 0)?;
    ensure(seen == size, || format!("{seen:?} after {size:?}"))?;
    size = WinSize::SERIAL;
    expect("TIOCSWINSZ", ioctl(file, TIOCSWINSZ, &mut size), 0)?;
    for request in [
        TCGETS, TCSETS, TCSETSW, TCSETSF, TCGETS2, TCSETS2, TCSETSW2, TCSETSF2, TIOCGWINSZ, TIOCSWINSZ,
        FIONREAD, TIOCOUTQ,
    ] {
        expect(&format!("{request:#x} without an argument"), ioctl_at(file, request, 16), EFAULT)?;
    }
    for (request, good) in [(TCFLSH, TCIFLUSH), (TCFLSH, TCIOFLUSH), (TCXONC, TCOON), (TCSBRK, 1)] {
        expect(&format!("{request:#x} {good}"), ioctl_at(file, request, good), 0)?;
    }
    for request in [TCFLSH, TCXONC] {
        expect(&format!("{request:#x} 9"), ioctl_at(file, request, 9), EINVAL)?;
    }
    let mut count = -1i32;
    expect("FIONREAD", ioctl(file, FIONREAD, &mut count), 0)?;
    ensure(count == 0, || format!("{count} bytes of input"))?;
    let mut byte = [0];
    let empty = file.read(&mut byte).map_err(|error| error.raw_os_error());
    ensure(empty == Err(Some(libc::EAGAIN)), || format!("a read without input: {empty:?}"))?;
    expect("TCOOFF", ioctl_at(file, TCXONC, TCOOFF), 0)?;
    let stopped = file.write(b" ").map_err(|error| error.raw_os_error());
    expect("TCOON", ioctl_at(file, TCXONC, TCOON), 0)?;
    ensure(stopped == Err(Some(libc::EAGAIN)), || format!("a write to stopped output: {stopped:?}"))
}

/// Reads typed input: a line, the end of the file, raw bytes, nothing; then waits to be interrupted.
pub fn input(_: &[String]) -> ProbeResult {
    let mut stdin = File::options().read(true).open("/dev/console")?;
    println!("type a line");
    show(&mut stdin)?;
    println!("type the end of the file");
    show(&mut stdin)?;
    let saved = set_raw(3, 0)?;
    println!("type three bytes");
    show(&mut stdin)?;
    set_raw(0, 2)?;
    println!("type nothing");
    let count = stdin.read(&mut [0])?;
    ensure(count == 0, || format!("read {count} bytes"))?;
    println!("read nothing in time");
    // SAFETY: valid modes.
    unsafe { libc::tcsetattr(0, libc::TCSANOW, &raw const saved) };
    println!("type the interrupt character");
    loop {
        show(&mut stdin)?;
    }
}

fn show(file: &mut File) -> io::Result<()> {
    let mut bytes = [0; 64];
    let count = file.read(&mut bytes)?;
    println!("read {:?}", String::from_utf8_lossy(&bytes[..count]));
    Ok(())
}

/// Sets raw input with this minimum and time limit; returns the modes before.
fn set_raw(minimum: u8, time: u8) -> io::Result<libc::termios> {
    let mut modes = MaybeUninit::uninit();
    // SAFETY: `tcgetattr` fills the structure or fails.
    let saved: libc::termios = unsafe {
        if libc::tcgetattr(0, modes.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        modes.assume_init()
    };
    let mut raw = saved;
    raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
    raw.c_iflag &= !(libc::ICRNL | libc::IXON);
    raw.c_cc[libc::VMIN] = minimum;
    raw.c_cc[libc::VTIME] = time;
    // SAFETY: valid modes.
    match unsafe { libc::tcsetattr(0, libc::TCSAFLUSH, &raw const raw) } {
        0 => Ok(saved),
        _ => Err(io::Error::last_os_error()),
    }
}
