//! The console: one UART, the `log` macros' sink, and plain lines for output that other programs read.

use crate::board::{Uart, UartKind};
use crate::memory::vmalloc;
use crate::sync::{SpinLock, SpinLockGuard};
use addr::{KernelVa, PhysAddr};
use alloc::boxed::Box;
use arch::boot::{self, BootInfo};
use core::fmt::{self, Write};
use drivers::mmio::Mmio;
use drivers::uart::{Console, MiniUart, Pl011};
use log::{Level, LevelFilter, Log, Metadata, Record};

type Slot = Option<Box<dyn Console>>;

static PORT: SpinLock<Slot> = SpinLock::new(None);

/// Starts on the UART that the device tree names, through boot's own mapping of it. Log messages up to "info" are
/// printed from now on.
pub fn start_early(uart: Option<&Uart>) {
    if let Some(uart) = uart {
        let at = boot::map_early_device(uart.registers.start());
        *PORT.lock() = Some(open(uart.kind, at));
    }
    start_log();
}

/// Starts where a PL011 is on the machines we know, guessed from where RAM is, for one last line.
pub fn start_without_tree(boot: &BootInfo) {
    const GIB: u64 = 1 << 30;
    let guess = match boot.image.start().raw() {
        GIB..0x100_0000_0000 => 0x0900_0000,
        0x100_0000_0000.. => 0x6000_0000,
        _ => return,
    };
    let at = boot::map_early_device(PhysAddr::new(guess));
    *PORT.lock() = Some(open(UartKind::Pl011, at));
    start_log();
}

/// Maps the UART where it stays, and prints through that mapping once the early one is gone.
pub fn move_to_final(uart: Option<&Uart>) {
    let Some(uart) = uart else { return };
    match vmalloc::map_registers(uart.registers) {
        Ok(registers) => *PORT.lock() = Some(open(uart.kind, registers.start())),
        Err(error) => log::warn!("console: {error:?}"),
    }
}

fn open(kind: UartKind, at: KernelVa) -> Box<dyn Console> {
    // SAFETY: the callers have mapped the registers of a UART of this kind at `at`, as Device memory, for as long as the
    // value is in `PORT`; nothing else drives it.
    unsafe {
        match kind {
            UartKind::Pl011 => Box::new(Pl011::new(Mmio::new(at))),
            UartKind::MiniUart => Box::new(MiniUart::new(Mmio::new(at))),
        }
    }
}

fn start_log() {
    // Fails only when a logger is set already, which is then this one.
    let _ = log::set_logger(&ConsoleLog);
    log::set_max_level(LevelFilter::Info);
}

/// Bytes to the console, as they are (but `\n` becomes `\r\n`). One call's bytes stay together.
pub fn write_bytes(bytes: &[u8]) {
    if let Some(port) = PORT.lock().as_deref_mut() {
        send(port, bytes);
    }
}

/// A byte that was typed, if any.
pub fn read_byte() -> Option<u8> {
    PORT.lock().as_deref_mut()?.read()
}

/// Waits until all that was printed is on the line.
pub fn flush() {
    if let Some(port) = PORT.lock().as_deref_mut() {
        port.flush();
    }
}

/// Prints the arguments and a newline as one piece. Use [`kprintln!`](crate::kprintln).
pub fn print_line(args: fmt::Arguments<'_>) {
    print_with(PORT.lock(), args);
}

/// Takes the console from whoever holds it, for the panic handler: its own CPU may have been printing.
///
/// # Safety
///
/// The caller never returns, and no other CPU prints any more.
pub unsafe fn seize() {
    // SAFETY: passed on; a holder on another CPU is stopped, one on this CPU never runs again.
    unsafe { PORT.force_unlock() }
}

/// Whether the console can be had without waiting.
pub fn is_free() -> bool {
    PORT.try_lock().is_some()
}

fn print_with(mut slot: SpinLockGuard<'_, Slot>, args: fmt::Arguments<'_>) {
    if let Some(port) = slot.as_deref_mut() {
        let mut out = Out(port);
        // `Out` never fails; an error could only come from a `Display` of ours.
        let _ = out.write_fmt(args);
        let _ = out.write_str("\n");
    }
}

fn send(port: &mut dyn Console, bytes: &[u8]) {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.split_last() {
            Some((b'\n', text)) => {
                port.write(text);
                port.write(b"\r\n");
            }
            _ => port.write(line),
        }
    }
}

struct Out<'a>(&'a mut dyn Console);

impl Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        send(self.0, text.as_bytes());
        Ok(())
    }
}

struct ConsoleLog;

impl Log for ConsoleLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let kind = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        print_line(format_args!("{kind}{}", record.args()));
    }

    fn flush(&self) {}
}

/// Prints a line that belongs to the output contract (KTAP, `dma:`, `init:`), whatever the log level.
#[macro_export]
macro_rules! kprintln {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}
