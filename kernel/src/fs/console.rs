//! `/dev/console`: the UART as a terminal, shared by all processes.
//!
//! The interrupt handler moves the received bytes to a buffer. A thread passes them to the line discipline,
//! and sends the echo and the signals. Without an interrupt the thread polls the UART while the console is
//! open.

use super::char_device::{self, DeviceNumber, RegisterError};
use super::readiness::{self, Watch, Watchable, Watched};
use super::{Caller, File};
use crate::console;
use crate::irq::{self, Handler};
use crate::sched::{self, WaitQueue};
use crate::sync::SpinLock;
use crate::vm::access::UserMemory;
use abi::Errno;
use abi::file::PollEvents;
use abi::signal::Signal;
use abi::terminal::*;
use addr::UserVa;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicUsize, Ordering};
use drivers::interrupts::Interrupt;
use drivers::uart::UartReceiver;
use program::{LineDiscipline, ReadState};

const NUMBER: DeviceNumber = DeviceNumber { major: 5, minor: 1 };

/// The interval at which a UART without an interrupt is polled.
const POLL_INTERVAL_NS: u64 = 10_000_000;
/// The bytes that are written atomically with respect to other writers.
const ATOMIC_BYTES: usize = 512;
/// The bytes that one byte can become: a tab.
const EXPANDED_TAB: usize = 8;
/// The bytes that are copied to a program at a time.
const READ_BYTES: usize = 256;
/// The received bytes that the thread has not processed yet.
const RECEIVED_MAX: usize = 256;

struct Terminal {
    discipline: LineDiscipline,
    size: WinSize,
}

static TERMINAL: Watched<Terminal> =
    Watched::new(Terminal { discipline: LineDiscipline::new(), size: WinSize::SERIAL });
static RECEIVER: SpinLock<Option<UartReceiver>> = SpinLock::new(None);
static RECEIVED: SpinLock<ArrayVec<u8, RECEIVED_MAX>> = SpinLock::new(ArrayVec::new_const());
/// The wait queue of the thread.
static RECEIVED_WAIT: WaitQueue = WaitQueue::new();
/// The number of open files of the console.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The process to which the signals of the terminal are sent. Its group and session have its id: there are no
/// others.
pub trait Foreground: Send + Sync {
    fn id(&self) -> u32;
    fn signal(&self, signal: Signal);
}

static FOREGROUND: SpinLock<Option<Weak<dyn Foreground>>> = SpinLock::new(None);

/// Sets the foreground process.
pub fn set_foreground(process: Weak<dyn Foreground>) {
    *FOREGROUND.lock() = Some(process);
}

fn foreground() -> Option<Arc<dyn Foreground>> {
    FOREGROUND.lock().as_ref()?.upgrade()
}

fn signal_foreground(signal: Signal) {
    if let Some(process) = foreground() {
        process.signal(signal);
    }
}

pub(super) fn register() -> Result<(), RegisterError> {
    char_device::register(&["/dev/console", "/dev/tty"], NUMBER, || super::boxed(ConsoleFile::new()))
}

/// Enables input, by `interrupt` if it is usable. Called once, after the interrupt controller and the
/// scheduler are initialized.
pub fn start(interrupt: Option<Interrupt>) {
    let registered = interrupt.is_some_and(|interrupt| match irq::register(interrupt, &ReceiveHandler) {
        Ok(()) => true,
        Err(error) => {
            log::warn!("console: polled: {error}");
            false
        }
    });
    if TERMINAL.with(|terminal| terminal.discipline.reserve()).is_err() {
        log::warn!("console: no memory for input");
        return;
    }
    *RECEIVER.lock() = console::receiver(registered);
    if sched::spawn("console", move || serve(!registered)).is_err() {
        log::warn!("console: no memory for the thread of the input");
    }
}

struct ReceiveHandler;

impl Handler for ReceiveHandler {
    fn handle(&self) {
        receive();
        RECEIVED_WAIT.wake_all();
    }
}

/// Moves the bytes of the UART to the buffer; those beyond its capacity are lost.
fn receive() {
    let (mut receiver, mut received) = (RECEIVER.lock(), RECEIVED.lock());
    let Some(receiver) = &mut *receiver else { return };
    // Bounded: a level-triggered interrupt is raised again for the bytes that are left.
    for byte in (0..RECEIVED_MAX).map_while(|_| receiver.read()) {
        let _ = received.try_push(byte);
    }
}

fn serve(is_polled: bool) {
    loop {
        let is_due = is_polled && OPEN.load(Ordering::Relaxed) > 0;
        let next_poll = is_due.then(|| sched::time::now() + POLL_INTERVAL_NS);
        let received = RECEIVED_WAIT.wait_until(next_poll, || {
            if is_polled {
                receive();
            }
            let bytes = core::mem::take(&mut *RECEIVED.lock());
            let opened = is_polled && !is_due && OPEN.load(Ordering::Relaxed) > 0;
            (!bytes.is_empty() || opened).then_some(bytes)
        });
        received.into_iter().flatten().for_each(process);
    }
}

/// Passes a received byte to the line discipline. Echo for which there is no memory is lost.
fn process(byte: u8) {
    let mut echo = Vec::new();
    let now = sched::time::now();
    let signal = TERMINAL.update(|terminal| {
        let signal = terminal.discipline.receive(byte, now, &mut |byte| {
            if echo.try_reserve(1).is_ok() {
                echo.push(byte);
            }
        });
        // Also after a stop or start of the output.
        (signal, Some(PollEvents::IN | PollEvents::OUT))
    });
    console::write_bytes(&echo);
    signal.into_iter().for_each(signal_foreground);
}

struct ConsoleFile;

impl ConsoleFile {
    fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        // The thread starts to poll.
        RECEIVED_WAIT.wake_all();
        Self
    }

    /// Waits for the input of a read, as far as the terminal's modes limit the time. A read that has to wait
    /// longer returns `EAGAIN`.
    fn wait_for_input(&self, len: usize) -> Result<(), Errno> {
        let start = sched::time::now();
        let state =
            || TERMINAL.with(|terminal| terminal.discipline.read_state(len, start, sched::time::now()));
        let ReadState::WaitingUntil(_) = state() else { return has_input(state()) };
        let _watch = Watch::new(&TERMINAL, &sched::current())?;
        loop {
            match state() {
                ReadState::WaitingUntil(deadline) => readiness::sleep(Some(deadline))?,
                state => return has_input(state),
            }
        }
    }
}

fn has_input(state: ReadState) -> Result<(), Errno> {
    if state == ReadState::Ready { Ok(()) } else { Err(Errno::EAGAIN) }
}

impl Drop for ConsoleFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl File for ConsoleFile {
    fn read(&self, memory: UserMemory<'_>, to: UserVa, len: usize) -> Result<usize, Errno> {
        self.wait_for_input(len)?;
        let mut done = 0;
        loop {
            let mut bytes = [0; READ_BYTES];
            let room = READ_BYTES.min(len - done);
            let (count, continues) = TERMINAL.with(|terminal| terminal.discipline.read(&mut bytes[..room]));
            memory.write_bytes(to + done as u64, &bytes[..count])?;
            done += count;
            if !continues || done == len {
                return Ok(done);
            }
        }
    }

    fn write(&self, memory: UserMemory<'_>, from: UserVa, len: usize) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len {
            sched::yield_if_slice_ended();
            if sched::is_interrupted() {
                return if done == 0 { Err(Errno::EINTR) } else { Ok(done) };
            }
            let (is_stopped, termios) =
                TERMINAL.with(|terminal| (terminal.discipline.is_stopped(), terminal.discipline.termios()));
            if is_stopped {
                return if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) };
            }
            let mut buffer = [0; ATOMIC_BYTES];
            let bytes = &mut buffer[..atomic_bytes(&termios).min(len - done)];
            match memory.read_bytes(from + done as u64, bytes) {
                Ok(()) => console::write_bytes(&processed(bytes)),
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
            TCGETS => memory.write(at, &termios())?,
            TCGETS2 => {
                let speed = Termios2::SERIAL_SPEED;
                let new = Termios2 { termios: termios(), input_speed: speed, output_speed: speed };
                memory.write(at, &new)?;
            }
            TCSETS | TCSETSW | TCSETSF => set_termios(memory.read(at)?, request - TCSETS),
            TCSETS2 | TCSETSW2 | TCSETSF2 => {
                set_termios(memory.read::<Termios2>(at)?.termios, request - TCSETS2);
            }
            // A break cannot be sent.
            TCSBRK if argument == 0 => return Err(Errno::EINVAL),
            TCSBRK => console::flush(),
            TCXONC => control_flow(argument)?,
            TCFLSH => discard(argument)?,
            TIOCGWINSZ => memory.write(at, &TERMINAL.with(|terminal| terminal.size))?,
            TIOCSWINSZ => {
                let size = memory.read(at)?;
                if TERMINAL.with(|terminal| core::mem::replace(&mut terminal.size, size)) != size {
                    signal_foreground(Signal::SIGWINCH);
                }
            }
            FIONREAD => {
                let available = TERMINAL.with(|terminal| terminal.discipline.available());
                memory.write(at, &(available as i32))?;
            }
            TIOCOUTQ => memory.write(at, &0i32)?,
            TIOCGPGRP | TIOCGSID => memory.write(at, &foreground_id()?)?,
            TIOCSPGRP => {
                let (group, current): (i32, i32) = (memory.read(at)?, foreground_id()?);
                if group != current {
                    return Err(if group < 0 { Errno::EINVAL } else { Errno::EPERM });
                }
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn poll(&self) -> PollEvents {
        TERMINAL.with(|terminal| {
            let mut ready = PollEvents::empty();
            ready.set(PollEvents::IN, terminal.discipline.is_readable());
            ready.set(PollEvents::OUT, !terminal.discipline.is_stopped());
            ready
        })
    }

    fn watched(&self) -> Option<&dyn Watchable> {
        Some(&TERMINAL)
    }
}

/// Returns the number of bytes that are processed at a time, so that their result fits [`processed`].
fn atomic_bytes(termios: &Termios) -> usize {
    // A newline becomes two bytes.
    let expands_tabs = OutputModes::from_bits_retain(termios.output).contains(OutputModes::XTABS);
    if expands_tabs { 2 * ATOMIC_BYTES / EXPANDED_TAB } else { ATOMIC_BYTES }
}

/// Returns the output for at most [`atomic_bytes`] bytes.
fn processed(bytes: &[u8]) -> ArrayVec<u8, { 2 * ATOMIC_BYTES }> {
    let mut processed = ArrayVec::new();
    TERMINAL.with(|terminal| {
        let mut send = |byte| _ = processed.try_push(byte);
        bytes.iter().for_each(|&byte| terminal.discipline.put(byte, &mut send));
    });
    processed
}

fn termios() -> Termios {
    TERMINAL.with(|terminal| terminal.discipline.termios())
}

/// Sets the modes, for `when` > 0 after the output is sent, and for 2 after the input is discarded.
fn set_termios(termios: Termios, when: u32) {
    if when > 0 {
        console::flush();
    }
    TERMINAL.update(|terminal| {
        if when == 2 {
            terminal.discipline.discard_input();
        }
        terminal.discipline.set_termios(termios);
        ((), Some(PollEvents::IN | PollEvents::OUT))
    });
}

/// `TCFLSH`
fn discard(queue: u64) -> Result<(), Errno> {
    match queue {
        TCIFLUSH | TCIOFLUSH => TERMINAL.with(|terminal| terminal.discipline.discard_input()),
        // Output is not queued.
        TCOFLUSH => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// `TCXONC`
fn control_flow(action: u64) -> Result<(), Errno> {
    match action {
        TCOOFF | TCOON => TERMINAL.update(|terminal| {
            terminal.discipline.set_stopped(action == TCOOFF);
            ((), Some(PollEvents::OUT))
        }),
        TCIOFF | TCION => console::write_bytes(flow_character(&termios(), action).as_slice()),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Returns the character that stops or starts the sender of the input; `None` if it is disabled.
fn flow_character(termios: &Termios, action: u64) -> Option<u8> {
    let character = if action == TCIOFF { VSTOP } else { VSTART };
    Some(termios.characters[character]).filter(|&byte| byte != 0)
}

/// The id of the foreground process, its group and its session.
///
/// # Errors
/// `ENOTTY` if there is none.
fn foreground_id() -> Result<i32, Errno> {
    foreground().map(|process| process.id() as i32).ok_or(Errno::ENOTTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests share the terminal.
    static TURN: SpinLock<()> = SpinLock::new(());

    fn available() -> usize {
        TERMINAL.with(|terminal| terminal.discipline.available())
    }

    #[test]
    fn input_is_discarded_by_its_operations_only() {
        let _turn = TURN.lock();
        let cases: [(fn(), bool); 6] = [
            (|| set_termios(termios(), 0), false),
            (|| set_termios(termios(), 1), false),
            (|| set_termios(termios(), 2), true),
            (|| discard(TCOFLUSH).unwrap(), false),
            (|| discard(TCIFLUSH).unwrap(), true),
            (|| discard(TCIOFLUSH).unwrap(), true),
        ];
        for (n, (operate, discards)) in cases.into_iter().enumerate() {
            b"ab\n".iter().for_each(|&byte| process(byte));
            operate();
            assert_eq!(available(), if discards { 0 } else { 3 }, "operation {n}");
            discard(TCIFLUSH).unwrap();
        }
        assert_eq!(discard(3), Err(Errno::EINVAL));
    }

    #[test]
    fn processed_output_fits_for_every_byte() {
        let _turn = TURN.lock();
        let before = termios();
        for (modes, byte, len) in [
            (OutputModes::OPOST | OutputModes::ONLCR, b'\n', 2),
            (OutputModes::OPOST | OutputModes::XTABS, b'\t', EXPANDED_TAB),
            (OutputModes::empty(), b'\n', 1),
        ] {
            let changed = Termios { output: modes.bits(), ..before };
            set_termios(changed, 0);
            let bytes = atomic_bytes(&changed);
            assert_eq!(processed(&[byte].repeat(bytes)).len(), len * bytes, "{modes:?}");
        }
        set_termios(before, 0);
    }

    #[test]
    fn flow_control_of_the_input_sends_its_character_unless_disabled() {
        let mut termios = Termios::SERIAL;
        (termios.characters[VSTOP], termios.characters[VSTART]) = (1, 2);
        assert_eq!([TCIOFF, TCION].map(|action| flow_character(&termios, action)), [Some(1), Some(2)]);
        (termios.characters[VSTOP], termios.characters[VSTART]) = (0, 0);
        assert_eq!([TCIOFF, TCION].map(|action| flow_character(&termios, action)), [None, None]);
    }
}
