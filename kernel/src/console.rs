//! The console: one UART, the `log` macros' sink, and plain lines for output that other programs read.

use crate::board::{Uart, UartKind};
use crate::memory::vmalloc;
use crate::sync::SpinLock;
use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use arch::boot::{self, IMAGE_BASE};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use drivers::mmio::Mmio;
use drivers::uart::{Console, MiniUart, Pl011};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// A UART of any kind. Not in a box: the console works before the heap does, and after it stopped working.
enum Port {
    Pl011(Pl011),
    MiniUart(MiniUart),
}

impl Port {
    fn console(&mut self) -> &mut dyn Console {
        match self {
            Self::Pl011(uart) => uart,
            Self::MiniUart(uart) => uart,
        }
    }
}

static PORT: SpinLock<Option<Port>> = SpinLock::new(None);
/// Whether boot's own tables are in use, with room for a UART.
static EARLY: AtomicBool = AtomicBool::new(true);
/// One more than the number of the CPU that prints its last words; 0 while all is well.
static SEIZED: AtomicUsize = AtomicUsize::new(0);
/// How often a panic tries for the console before it takes it by force: long enough for a line at 115200 baud.
const TRIES: usize = 1_000_000;

/// Starts on the UART that the device tree names, through boot's own mapping of it; without one, on the PL011 of a
/// machine we know. Log messages up to "info" are printed from now on. Returns which UART it is.
pub fn start_early(named: Option<Uart>) -> Option<Uart> {
    let uart = named.filter(answers).or_else(find);
    if let Some(uart) = uart {
        let at = boot::map_early_device(uart.registers.start());
        *PORT.lock() = Some(open(uart.kind, at));
    }
    start_log();
    if let Some(missing) = named.filter(|_| uart != named) {
        log::warn!("console: no UART answers at {}", missing.registers.start());
    }
    uart
}

/// Whether something is there at all.
fn answers(uart: &Uart) -> bool {
    arch::probe::read_u32(boot::map_early_device(uart.registers.start())).is_some()
}

/// A PL011 where the machines we know have one. Its identification registers say whether it is there, so that nothing
/// else is written to.
fn find() -> Option<Uart> {
    let usual = usual_places(boot::image_phys(IMAGE_BASE)).iter().map(|&at| PhysAddr::new(at));
    let found = usual.into_iter().find(|&at| {
        let registers = boot::map_early_device(at);
        Pl011::is_present(|offset| arch::probe::read_u32(registers + offset))
    });
    let registers = AddrRange::from_len(found?, PAGE_SIZE)?;
    Some(Uart { kind: UartKind::Pl011, registers, interrupt: None, baud: None })
}

/// Where to look for a PL011, told from where RAM is: from 0 on a Raspberry Pi (3 and 4), from 1 GiB on QEMU's virt,
/// from 1 TiB on its sbsa-ref.
fn usual_places(image: PhysAddr) -> &'static [u64] {
    match image.raw() {
        0..0x4000_0000 => &[0x3f20_1000, 0xfe20_1000],
        0x4000_0000..0x100_0000_0000 => &[0x0900_0000],
        _ => &[0x6000_0000],
    }
}

/// Maps the UART where it stays. Called as soon as the kernel's own tables are in use, which do not have the early
/// mapping; nothing may be printed in between.
pub fn move_to_final(uart: Option<Uart>) {
    EARLY.store(false, Ordering::Relaxed);
    let Some(uart) = uart else { return };
    let registers = vmalloc::map_known_registers(uart.registers);
    *PORT.lock() = registers.ok().map(|registers| open(uart.kind, registers.start()));
}

fn open(kind: UartKind, at: KernelVa) -> Port {
    // SAFETY: the callers have mapped the registers of a UART of this kind at `at`, as Device memory, for as long as the
    // value is in `PORT`; nothing else drives it.
    unsafe {
        match kind {
            UartKind::Pl011 => Port::Pl011(Pl011::new(Mmio::new(at))),
            UartKind::MiniUart => Port::MiniUart(MiniUart::new(Mmio::new(at))),
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
    with_port(|port| send(port, bytes));
}

/// A byte that was typed, if any.
pub fn read_byte() -> Option<u8> {
    with_port(|port| port.read())?
}

/// Waits until all that was printed is on the line.
pub fn flush() {
    with_port(|port| port.flush());
}

/// Prints the arguments and a newline as one piece. Use [`kprintln!`](crate::kprintln).
pub fn print_line(args: fmt::Arguments<'_>) {
    with_port(|port| {
        let mut out = Out(port);
        // `Out` never fails; an error could only come from a `Display` of ours.
        let _ = out.write_fmt(args);
        let _ = out.write_str("\n");
    });
}

/// Takes the console for the last words of this CPU: what others print from now on is lost. Whoever prints a line may
/// end it, within bounds: it could be this very CPU. A console that never started is looked for.
///
/// # Safety
///
/// The caller holds no reference to the port that it will use again, and never returns.
pub unsafe fn seize() {
    let started = (0..TRIES).find_map(|_| PORT.try_lock()).map(|port| port.is_some());
    if started == Some(false) && EARLY.load(Ordering::Relaxed) {
        start_early(None);
    }
    SEIZED.store(arch::cpu::index() + 1, Ordering::Relaxed);
    if started.is_none() {
        write_bytes(b"\n");
    }
}

fn with_port<R>(f: impl FnOnce(&mut dyn Console) -> R) -> Option<R> {
    match SEIZED.load(Ordering::Relaxed) {
        0 => Some(f(PORT.lock().as_mut()?.console())),
        cpu if cpu == arch::cpu::index() + 1 => {
            // SAFETY: after `seize` this CPU alone comes here. Another that was inside the lock for too long may mix its
            // text with ours, which is all that can go wrong: a port is the address of its registers, which never
            // changes.
            let port = unsafe { (*PORT.as_ptr()).as_mut() };
            port.map(|port| f(port.console()))
        }
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_we_know_has_its_usual_places() {
        for (image, uart) in [
            (0x8_0000, 0x3f20_1000),
            (0x20_0000, 0xfe20_1000),
            (0x4020_0000, 0x0900_0000),
            (0x100_0020_0000, 0x6000_0000),
        ] {
            let places = usual_places(PhysAddr::new(image));
            assert!(places.contains(&uart), "{image:#x}: {places:x?}");
        }
    }
}
